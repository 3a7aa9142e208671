"""The domain classifier and its sample of rows: NannyML's table, scikit-learn, and the laws."""

from __future__ import annotations

import math
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from stream_monitor.batch import ColumnBatch
from stream_monitor.errors import StoreError
from stream_monitor.methods.base import Chunks, Measured, Sketcher, Study
from stream_monitor.methods.domain_classifier import (
    FOLDS,
    NAME,
    DomainClassifier,
    auroc,
    stratified,
)
from stream_monitor.methods.gradient_boosting import Model, trained
from stream_monitor.panes.layout import Counted, Layout
from stream_monitor.panes.sample import RowSample
from stream_monitor.schema import FloatArray, IntArray, Role, Schema
from tests.blocks import Columns, batch_of, cells_from, data_set, nannyml_table, parts

METHOD = DomainClassifier()
CAR_LOAN = [
    *("car_value", "debt_to_income_ratio", "loan_length", "driver_tenure"),
    *("salary_range", "repaid_loan_on_prev_car", "size_of_downpayment"),
]


class Comparison:
    """The method learned from a reference."""

    def __init__(self, reference: Columns, *, compat: bool = False) -> None:
        self.cells = cells_from(reference)
        self.schema = Schema(tuple(c.column for c in self.cells.values()))
        learner = METHOD.learner(Study(self.schema, self.cells, compat))
        assert learner is not None
        batch = self.batch(reference)
        learner.update(batch)
        self.arrays = learner.finish(batch)
        self.sketcher: Sketcher = METHOD.load(self.schema, self.cells, self.arrays)

    def batch(self, columns: Columns) -> ColumnBatch:
        return batch_of(self.schema, self.cells, columns)

    def measured(self, batch: ColumnBatch | None) -> Measured:
        layout = Layout.of(self.cells, {})
        nothing = np.zeros(layout.size, dtype=np.int64)
        sketches = {} if batch is None else {NAME: self.sketcher.sketch(batch)}
        measure = self.sketcher.bind(Counted(layout, nothing))
        (found,) = measure.measure(Counted(layout, nothing, sketches))
        return found


def mixed(rows: int, seed: int, *, shift: float = 0.0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows) + shift
    x[rng.random(rows) < 0.05] = np.nan
    names = np.array(["a", "b", "c"], dtype=object)
    return {"x": x, "y": rng.normal(size=rows), "color": list(names[rng.integers(0, 3, rows)])}


def test_equals_nannyml(shared_data: Path) -> None:
    reference, analysis = (
        data_set(shared_data, "nannyml_car_loan", period, CAR_LOAN)
        for period in ("reference", "analysis")
    )
    comparison = Comparison(reference, compat=True)
    batch = comparison.batch(analysis)
    chunks = list(parts(len(batch), 5_000))
    worst = 0.0
    for row in nannyml_table(shared_data, "nannyml_car_loan_domain_classifier.csv"):
        if row["period"] == "analysis" and row["chunk_index"] % 2:
            own = comparison.measured(batch.take(chunks[row["chunk_index"]]))
            worst = max(worst, abs(own.value - row["value"]))
            assert own.definition.chunks is Chunks.SEPARABLE
            assert (own.value < 0.45 or own.value > 0.65) is row["alert"]
            assert own.rows == 5_000
    print(f"domain_classifier_auroc {worst:.1e}")
    assert worst < 0.02


@given(first=st.integers(FOLDS, 90), second=st.integers(FOLDS, 90))
@settings(deadline=None)
def test_folds_are_those_of_scikit_learn(first: int, second: int) -> None:
    label = np.repeat([0, 1], [first, second])
    expected = np.empty(len(label), dtype=np.int64)
    for fold, (_, test) in enumerate(StratifiedKFold(FOLDS).split(label, label)):
        expected[test] = fold
    np.testing.assert_array_equal(stratified(first, second), expected)


def test_the_auroc_is_that_of_the_scores_outside_of_the_folds() -> None:
    rng = np.random.default_rng(1)
    reference, window = rng.normal(size=(400, 3)), rng.normal(0.3, 1, size=(150, 3))
    # a few levels, so that scores tie
    reference, window = np.round(reference), np.round(window)
    rows = np.concatenate([reference, window])
    label = np.repeat([0.0, 1.0], [400, 150])
    categorical = np.zeros(3, dtype=np.bool_)
    scores = np.empty(550)
    for train, test in StratifiedKFold(FOLDS).split(rows, label):
        model = Model(trained("binary", rows[train], label[train], categorical))
        scores[test] = model.predict(rows[test])
    found = auroc(reference, window, categorical)
    assert found == pytest.approx(roc_auc_score(label, scores), abs=1e-12)


def test_classifier_scores_equal_lightgbm_itself() -> None:
    from lightgbm import LGBMClassifier

    rng = np.random.default_rng(2)
    rows = np.column_stack([rng.normal(size=600), rng.integers(0, 9, 600)])
    label = (rows[:, 0] + (rows[:, 1] % 3) + rng.normal(size=600) > 1).astype(float)
    peer = LGBMClassifier(n_jobs=1, random_state=13, verbosity=-1)
    peer.fit(rows, label, categorical_feature=[1])
    model = Model(trained("binary", rows, label, np.array([False, True])))
    expected = peer.predict(rows, raw_score=True)
    np.testing.assert_allclose(model.predict(rows), expected, rtol=1e-9)


def test_drift_is_told_and_its_absence() -> None:
    comparison = Comparison(mixed(6_000, 3))
    same = comparison.measured(comparison.batch(mixed(3_000, 4)))
    assert same.rows == 2_000
    assert same.expected == 0.5
    assert abs(same.value - same.expected) < 4 * same.spread
    moved = comparison.measured(comparison.batch(mixed(3_000, 5, shift=1.0)))
    assert moved.value > 0.65
    assert moved.value > moved.expected + 15 * moved.spread


def test_a_change_of_relation_alone_is_told() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(2, 4_000))
    related = {"x": x[0], "y": 0.8 * x[0] + 0.6 * x[1]}
    unrelated = {"x": rng.normal(size=2_000), "y": rng.normal(size=2_000)}
    comparison = Comparison(related)
    assert comparison.measured(comparison.batch(unrelated)).value > 0.6


def test_values_without_drift_stay_within_the_stated_spread() -> None:
    rows = mixed(45_000, 7)

    def cut(part: IntArray) -> dict[str, Any]:
        return {
            name: np.array(values, dtype=object)[part].tolist() for name, values in rows.items()
        }

    found = []
    for places in parts(45_000, 1_500):
        comparison = Comparison({n: _typed(v) for n, v in cut(places[:1_000]).items()})
        window = {n: _typed(v) for n, v in cut(places[1_000:]).items()}
        found.append(comparison.measured(comparison.batch(window)))
    z = [(m.value - m.expected) / m.spread for m in found]
    assert np.std(z) == pytest.approx(0.8, abs=0.3)  # not above 1 but by chance
    assert np.mean(z) == pytest.approx(0, abs=0.5)
    assert max(map(abs, z)) < 3


def _typed(values: list[Any]) -> Any:
    return values if isinstance(values[0], str) else np.array(values, dtype=np.float64)


def test_without_rows_there_is_no_value() -> None:
    comparison = Comparison(mixed(200, 8))
    few = comparison.measured(comparison.batch(mixed(FOLDS - 1, 9)))
    for found in (few, comparison.measured(None)):
        assert math.isnan(found.value)
    assert math.isnan(comparison.measured(None).spread)
    assert few.rows == FOLDS - 1


def test_equal_rows_cannot_be_told_apart() -> None:
    rows: dict[str, Any] = {"x": np.ones(100), "color": ["a"] * 100}
    comparison = Comparison(rows)
    assert comparison.measured(comparison.batch(rows)).value == pytest.approx(0.5, abs=0.01)


def test_only_features_are_compared_and_there_must_be_one() -> None:
    cells = cells_from({"score": np.arange(9.0)}, {"score": Role.SCORE})
    assert METHOD.learner(Study(Schema((cells["score"].column,)), cells)) is None


def test_the_value_does_not_depend_on_batches_and_order() -> None:
    comparison = Comparison(mixed(1_000, 10))
    batch = comparison.batch(mixed(800, 11))
    order = np.random.default_rng(12).permutation(800)
    assert comparison.measured(batch.take(order)) == comparison.measured(batch)


# --- the sample ---------------------------------------------------------------------------------


def some_rows(n: int, seed: int) -> tuple[IntArray, FloatArray]:
    """Times and rows of which many are equal."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 3, (n, 2)).astype(np.float64)
    rows[rng.random((n, 2)) < 0.1] = np.nan
    return rng.integers(0, 4, n), rows


def equal(one: RowSample, other: RowSample) -> bool:
    return one.to_bytes() == other.to_bytes()


@given(
    n=st.integers(0, 80),
    limit=st.integers(1, 40),
    pieces=st.integers(1, 6),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None)
def test_any_parts_in_any_order_merge_to_the_sample_of_all(
    n: int, limit: int, pieces: int, seed: int
) -> None:
    times, rows = some_rows(n, seed)
    rng = np.random.default_rng(seed)
    part = rng.integers(0, pieces, n)
    samples = [RowSample.of(times[part == i], rows[part == i], limit) for i in range(pieces)]
    whole = RowSample.of(times, rows, limit)
    assert equal(reduce(RowSample.merged, samples), whole)
    assert equal(reduce(RowSample.merged, samples[::-1]), whole)
    assert equal(reduce(lambda right, left: left.merged(right), samples), whole)


@given(n=st.integers(0, 60), limit=st.integers(1, 40), seed=st.integers(0, 10_000))
@settings(deadline=None)
def test_a_sample_is_the_same_after_bytes_and_holds_what_it_says(
    n: int, limit: int, seed: int
) -> None:
    times, rows = some_rows(n, seed)
    before = times.copy(), rows.copy()
    sample = RowSample.of(times, rows, limit)
    np.testing.assert_array_equal((times, rows)[0], before[0])
    np.testing.assert_array_equal((times, rows)[1], before[1])
    data = sample.to_bytes()
    assert equal(RowSample.from_bytes(data), sample)
    assert len(data) <= RowSample.most_bytes(limit, 2)
    contents = {(t, *np.nan_to_num(r, nan=-1)) for t, r in zip(times.tolist(), rows, strict=True)}
    assert len(sample.keys) == min(len(contents), limit)
    if len(contents) <= limit:
        assert sample.counts.sum() == n
    assert len(sample.drawn()) == min(int(sample.counts.sum()), limit)


def test_rows_that_fit_are_drawn_as_they_are_in_time_order() -> None:
    rows = np.array([[3.0], [1.0], [2.0], [1.0]])
    sample = RowSample.of(np.array([30, 10, 20, 10]), rows, 9)
    assert sample.drawn().ravel().tolist() == [1.0, 1.0, 2.0, 3.0]


def test_shares_of_equal_rows_are_kept() -> None:
    rows = np.repeat([[1.0], [2.0]], [9_000, 1_000], axis=0)
    drawn = RowSample.of(np.zeros(10_000, dtype=np.int64), rows, 100).drawn()
    assert len(drawn) == 100
    assert (drawn == 2.0).sum() == 10


def test_every_row_has_the_same_chance() -> None:
    n, limit = 20_000, 2_000
    rows = np.arange(n, dtype=np.float64)[:, None]
    drawn = RowSample.of(np.arange(n), rows, limit).drawn().ravel()
    counts = np.bincount((drawn * 20 / n).astype(np.int64), minlength=20)
    assert ((counts - 100) ** 2 / 100).sum() < 45.3  # chi-squared, 19 degrees, p = 0.0006


def test_zero_has_no_sign_and_nan_is_one_value() -> None:
    other = np.frombuffer(np.uint64(0xFFF8_0000_0000_0001).tobytes())[0]
    rows = np.array([[0.0, np.nan], [-0.0, other]])
    sample = RowSample.of(np.zeros(2, dtype=np.int64), rows, 5)
    assert sample.counts.tolist() == [2]


def test_samples_of_other_shapes_do_not_merge() -> None:
    one = RowSample.of(*some_rows(5, 1), 3)
    with pytest.raises(ValueError, match="do not merge"):
        one.merged(RowSample.of(*some_rows(5, 1), 4))
    with pytest.raises(ValueError, match="holds nothing"):
        RowSample.of(*some_rows(5, 1), 0)


@pytest.mark.parametrize("length", [0, 23, 30])
def test_damaged_bytes_are_an_error(length: int) -> None:
    data = RowSample.of(*some_rows(5, 2), 3).to_bytes()
    with pytest.raises(StoreError, match="damaged"):
        RowSample.from_bytes(data[:length])
