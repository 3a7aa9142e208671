"""What holds for classification performance whatever the data, and its parts one by one."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import assume, given, settings
from hypothesis.extra import numpy as arrays
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    f1_score,
    precision_score,
    recall_score,
    roc_auc_score,
)
from sklearn.model_selection import StratifiedShuffleSplit

from stream_monitor.errors import ProfileError
from stream_monitor.methods.base import Measured, Study
from stream_monitor.methods.performance import metrics
from stream_monitor.methods.performance.calibration import (
    calibration_error,
    fitted,
    needs_calibration,
    splits,
)
from stream_monitor.methods.performance.problem import Problem
from stream_monitor.schema import FloatArray, Schema
from tests.blocks import Columns, Counting, cells_from
from tests.test_performance import CBPE, REALIZED, fit, roles, values, world, worlds

METHODS = [REALIZED, CBPE]
SEED = st.integers(0, 2**32 - 1)


def same(a: dict[str, Measured], b: dict[str, Measured]) -> None:
    assert a.keys() == b.keys()
    for metric, m in a.items():
        assert m == b[metric] or repr(m) == repr(b[metric]), metric


def dirty(random: np.random.Generator, columns: dict[str, Any], share: float) -> dict[str, Any]:
    """The columns with values that are missing, not finite or unseen here and there."""
    found: dict[str, Any] = {}
    for name, column in columns.items():
        hit = np.flatnonzero(random.random(len(column)) < share)
        if name.startswith("score"):
            found[name] = np.array(column)
            found[name][hit] = random.choice([np.nan, np.inf, -np.inf], len(hit))
        else:
            found[name] = list(column)
            for i in hit:
                found[name][i] = None if random.random() < 0.5 else "never seen"
    return found


@pytest.mark.parametrize("draw", [world, worlds])
@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None)
@given(seed=SEED, groups=st.integers(1, 4), size=st.integers(1, 60))
def test_counts_do_not_depend_on_batches_groups_or_order(
    method: Any, draw: Any, seed: int, groups: int, size: int
) -> None:
    counting = known(method, draw)
    random = np.random.default_rng(seed)
    batch = counting.batch(dirty(random, draw(random, 200), 0.1))
    before = batch.numbers.copy(), batch.codes.copy()
    group = random.integers(0, groups, len(batch))
    whole = counting.block.addends(batch).counts(group, groups)
    assert whole.dtype == np.int64
    assert whole.shape == (groups, counting.block.size)
    parts = np.zeros_like(whole)
    order = random.permutation(len(batch))
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        parts += counting.block.addends(batch.take(rows)).counts(group[rows], groups)
    np.testing.assert_array_equal(parts, whole)
    for g in range(groups):
        own = np.flatnonzero(group == g)
        alone = counting.block.addends(batch.take(own)).counts(np.zeros(len(own), np.int64), 1)
        np.testing.assert_array_equal(alone[0], whole[g])
    np.testing.assert_array_equal(batch.numbers, before[0])
    np.testing.assert_array_equal(batch.codes, before[1])


_KNOWN: dict[tuple[str, str], Counting] = {}


def known(method: Any, draw: Callable[..., dict[str, Any]]) -> Counting:
    key = method.name, draw.__name__
    if key not in _KNOWN:
        _KNOWN[key] = fit(method, draw(np.random.default_rng(11), 2_000))
    return _KNOWN[key]


@pytest.mark.parametrize("draw", [world, worlds])
def test_rows_that_cannot_be_used_are_left_out_of_what_needs_them(draw: Any) -> None:
    random = np.random.default_rng(12)
    columns = dirty(random, draw(random, 1_000), 0.1)
    scored = np.all([np.isfinite(v) for n, v in columns.items() if n.startswith("score")], axis=0)
    true, predicted = (
        np.array([v not in (None, "never seen") for v in columns[n]])
        for n in ("target", "prediction")
    )
    for method, pairs, ranked in (
        (REALIZED, true & predicted, true & scored),
        (CBPE, scored & predicted, scored),
    ):
        found = values(known(method, draw), columns)
        for chosen, names in ((ranked, ("roc_auc", "average_precision")), (pairs, ("f1",))):
            clean = {n: np.asarray(v, dtype=object)[chosen] for n, v in columns.items()}
            again = values(known(method, draw), retyped(clean))
            for name in names:
                assert found[name].rows == chosen.sum()
                assert found[name].value == again[name].value


def retyped(columns: dict[str, Any]) -> dict[str, Any]:
    return {
        n: np.asarray(v, dtype=np.float64) if n.startswith("score") else list(v)
        for n, v in columns.items()
    }


@pytest.mark.parametrize("draw", [world, worlds])
@pytest.mark.parametrize("method", METHODS)
def test_learning_twice_gives_the_same_bits(method: Any, draw: Any) -> None:
    reference = draw(np.random.default_rng(13), 1_200)
    one, other = fit(method, reference, rows=100), fit(method, reference, rows=700)
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name])
    same(values(one, reference), values(other, reference))


@settings(max_examples=40, deadline=None)
@given(seed=SEED, n=st.integers(12, 300), levels=st.sampled_from([3, 20, 10_000]))
def test_realized_values_are_scikit_learns(seed: int, n: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    window = world(random, n)
    window["score"] = np.round(window["score"] * levels) / levels
    assume(len(set(window["target"])) == 2)
    found = values(fit(REALIZED, window), window)
    y, p = (np.array([v == "1" for v in window[name]]) for name in ("target", "prediction"))
    assert found["roc_auc"].value == pytest.approx(roc_auc_score(y, window["score"]), rel=1e-12)
    average = average_precision_score(y, window["score"])
    assert found["average_precision"].value == pytest.approx(average, rel=1e-12)
    if p.any() and not p.all():
        assert found["f1"].value == pytest.approx(f1_score(y, p), rel=1e-12)
        assert found["precision"].value == pytest.approx(precision_score(y, p), rel=1e-12)
        assert found["recall"].value == pytest.approx(recall_score(y, p), rel=1e-12)
        specificity = recall_score(~y, ~p)
        assert found["specificity"].value == pytest.approx(specificity, rel=1e-12)
    own = [found[c].value for c in (
        "true_negative", "false_positive", "false_negative", "true_positive"
    )]  # fmt: skip
    assert own == confusion_matrix(y, p, labels=[False, True]).ravel().tolist()


@settings(max_examples=30, deadline=None)
@given(labels=arrays.arrays(np.bool_, st.integers(20, 400)))
def test_splits_are_scikit_learns(labels: Any) -> None:
    assume(min(labels.sum(), (~labels).sum()) >= 2)
    expected = StratifiedShuffleSplit(10, test_size=0.1, random_state=42).split(labels, labels)
    for (train, test), (own, other) in zip(expected, splits(labels), strict=True):
        np.testing.assert_array_equal(own, train)
        np.testing.assert_array_equal(other, test)


@settings(max_examples=60, deadline=None)
@given(seed=SEED, n=st.integers(1, 200), digits=st.integers(0, 4))
def test_calibrator_is_scikit_learns_isotonic_regression(seed: int, n: int, digits: int) -> None:
    random = np.random.default_rng(seed)
    scores = np.round(random.normal(0, 1, n), digits)
    labels = (random.random(n) < 1 / (1 + np.exp(-scores))).astype(np.float64)
    new = np.append(random.normal(0, 2, 50), scores)
    expected = IsotonicRegression(out_of_bounds="clip").fit(scores, labels).predict(new)
    np.testing.assert_allclose(fitted(scores, labels)(new), expected, atol=1e-12)


def test_calibrator_has_the_knots_of_nannymls(shared_data: Path) -> None:
    table = pyarrow.parquet.read_table(shared_data / "nannyml_car_loan_reference.parquet")
    scores = table["y_pred_proba"].to_numpy()
    labels = table["repaid"].to_numpy().astype(np.float64)
    assert needs_calibration(scores, labels > 0)
    found = fitted(scores, labels)
    with (shared_data / "nannyml_car_loan_cbpe_isotonic.csv").open() as file:
        knots = np.array([[float(v) for v in row.values()] for row in csv.DictReader(file)])
    np.testing.assert_allclose(np.stack([found.x, found.y], axis=1), knots, rtol=1e-11)


def test_only_scores_that_profit_are_calibrated() -> None:
    random = np.random.default_rng(14)
    p = random.random(20_000)
    labels = random.random(20_000) < p
    assert needs_calibration(p**3, labels)
    assert not needs_calibration(p, random.random(20_000) < 2)  # one class
    assert not needs_calibration(labels.astype(np.float64), labels)  # perfect
    few = np.array([True] + [False] * 50)
    assert not needs_calibration(np.linspace(0, 1, 51), few)
    assert not needs_calibration(np.empty(0), np.empty(0, dtype=np.bool_))


def test_calibration_error_is_the_mean_difference_over_bins() -> None:
    random = np.random.default_rng(15)
    p, y = random.random(1_005), (random.random(1_005) < 0.4).astype(np.float64)
    order = np.argsort(p)
    bins = np.split(order, np.arange(100, 901, 100))
    expected = sum(abs(p[b].mean() - y[b].mean()) * len(b) for b in bins) / 1_005
    assert calibration_error(p, y) == pytest.approx(expected)
    assert calibration_error(p[:7], y[:7]) < 1


def test_average_precision_of_untied_rows_in_a_cell_is_the_mean_over_their_orders() -> None:
    random = np.random.default_rng(16)
    positives, totals = np.array([2.0, 5.0, 4.0]), np.array([9.0, 8.0, 4.0])
    found = []
    for _ in range(4_000):
        cells = [
            random.permutation(np.arange(int(n)) < p)
            for p, n in zip(positives, totals, strict=True)
        ]
        found.append(average_precision_score(np.concatenate(cells), np.arange(totals.sum())))
    own = metrics.average_precision(positives, totals, tied=False)
    assert own == pytest.approx(np.mean(found), abs=4 * np.std(found) / 4_000**0.5)


def derivative(function: Callable[[FloatArray], Any], at: FloatArray) -> FloatArray:
    """By central differences, float64[values, *at.shape]."""
    steps = 1e-6 * np.eye(at.size).reshape(-1, *at.shape)
    found = [(np.asarray(function(at + s)) - function(at - s)) / 2e-6 for s in steps]
    return np.stack(found, axis=-1).reshape(-1, *at.shape)


@settings(max_examples=25, deadline=None)
@given(seed=SEED, size=st.integers(2, 4), binary=st.booleans())
def test_slopes_of_rates_are_their_derivatives(seed: int, size: int, binary: bool) -> None:
    matrix = np.random.default_rng(seed).uniform(0.1, 1, (size, size))
    slopes = metrics.rate_slopes(matrix, binary=binary)
    numeric = derivative(lambda m: metrics.rates(m, binary=binary, empty=0.0), matrix)
    np.testing.assert_allclose(slopes, numeric, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(seed=SEED, cells=st.integers(1, 8))
def test_slopes_of_ranking_metrics_are_their_derivatives(seed: int, cells: int) -> None:
    both = np.random.default_rng(seed).uniform(0.1, 1, (2, cells))
    numeric = derivative(lambda b: metrics.roc_auc(*b), both)[0]
    np.testing.assert_allclose(np.stack(metrics.roc_auc_slopes(*both)), numeric, atol=1e-7)
    numeric = derivative(lambda b: metrics.average_precision(b[0], b.sum(axis=0), tied=True), both)
    slopes = np.stack(metrics.average_precision_slopes(*both))
    np.testing.assert_allclose(slopes, numeric[0], atol=1e-7)


def without(columns: Columns, *names: str) -> dict[str, Any]:
    return {n: v for n, v in columns.items() if n not in names}


def test_without_predictions_only_ranking_metrics_are_given() -> None:
    reference = without(world(np.random.default_rng(17), 500), "prediction")
    for method in METHODS:
        assert set(values(fit(method, reference), reference)) == {"roc_auc", "average_precision"}


@pytest.mark.parametrize("labels", ["no column", "no value"])
def test_without_labels_scores_are_taken_as_they_are_and_nothing_is_judged(labels: str) -> None:
    reference = world(np.random.default_rng(18), 500)
    if labels == "no column":
        reference = without(reference, "target")
        assert learner(REALIZED, reference) is None
    else:
        reference["target"] = [None] * 500
    for compat in (False, True):
        found = values(fit(CBPE, reference, compat=compat), reference)
        predicted = np.array(reference["prediction"]) == "1"
        right = np.where(predicted, reference["score"], 1 - reference["score"]).mean()
        assert found["accuracy"].value == pytest.approx(right, rel=1e-9)
        for m in found.values():
            assert np.isnan([m.expected, m.spread, m.sampling_error, m.upper_confidence]).all()


def learner(method: Any, columns: Columns, positive: str | None = None) -> Any:
    cells = cells_from(columns, roles(columns))
    schema = Schema(tuple(c.column for c in cells.values()))
    return method.learner(Study(schema, cells, positive=positive))


def test_regressions_are_left_to_others() -> None:
    numbers = np.random.default_rng(19).normal(size=(2, 50))
    columns = {"prediction": numbers[0], "target": numbers[1]}
    assert [learner(m, columns) for m in METHODS] == [None, None]


def test_scores_that_are_no_probabilities_are_calibrated_or_left_alone() -> None:
    reference = world(np.random.default_rng(20), 2_000)
    logits = reference | {"score": np.log(reference["score"] / (1 - reference["score"]))}
    found, real = (values(fit(m, logits), logits) for m in (CBPE, REALIZED))
    assert found["accuracy"].value == pytest.approx(real["accuracy"].value, abs=0.02)
    assert learner(CBPE, without(logits, "target")) is None


def test_classes_without_scores_have_realized_rates() -> None:
    reference = without(worlds(np.random.default_rng(21), 500), "score_a", "score_b", "score_c")
    assert learner(CBPE, reference) is None
    found = values(fit(REALIZED, reference), reference)
    f1 = f1_score(reference["target"], reference["prediction"], average="macro")
    assert found["f1"].value == pytest.approx(f1)
    assert "roc_auc" not in found


@pytest.mark.parametrize("draw", [world, worlds])
@pytest.mark.parametrize("case", ["one row", "one class", "one score", "all right"])
def test_degenerate_references_are_learned_from(draw: Any, case: str) -> None:
    random = np.random.default_rng(22)
    reference, window = draw(random, 1 if case == "one row" else 200), draw(random, 50)
    if case == "one class":
        reference["target"] = reference["target"][:1] * 200
    if case == "one score":
        reference |= {n: np.full(200, 0.5) for n in reference if n.startswith("score")}
    if case == "all right":
        reference["target"] = reference["prediction"]
    for method in METHODS:
        for compat in (False, True):
            for m in values(fit(method, reference, compat=compat), window).values():
                low, high = m.definition.low, m.definition.high
                assert np.isnan(m.value) or low <= m.value <= high
                assert np.isnan(m.spread) or m.spread >= 0


def problem(columns: Columns, positive: str | None = None) -> Problem | None:
    cells = cells_from(columns, roles(columns))
    return Problem.of(Schema(tuple(c.column for c in cells.values())), cells, positive)


@pytest.mark.parametrize(
    ("score", "target", "prediction", "configured", "expected"),
    [
        ("score", ["0", "1"], ["1", "0"], None, "1"),
        ("score", [False, True], ["1", "0"], None, "1"),
        ("score", ["no", "yes"], ["no", "no"], None, "yes"),
        ("score", ["no", "yes"], ["no", "no"], "no", "no"),
        ("score_no", ["no", "yes"], ["no", "no"], None, "no"),
        ("score", ["a", "b"], ["c", "c"], None, None),
        ("score", ["a", "b"], ["c", "c"], "b", "b"),
        ("score", [None, None], ["0", "0"], None, "1"),
    ],
)
def test_positive_class(
    score: str, target: list[Any], prediction: list[Any], configured: str, expected: str
) -> None:
    columns: Columns = {score: np.array([0.2, 0.7]), "target": target, "prediction": prediction}
    found = problem(columns, configured)
    assert (found and found.classes[1]) == expected
    assert found is None or found.binary


def test_positive_class_that_nobody_knows_is_refused() -> None:
    columns: Columns = {"score": np.array([0.2, 0.7]), "target": ["no", "yes"]}
    with pytest.raises(ProfileError, match=r"reference\.positive_class is 'maybe'.*'no', 'yes'"):
        problem(columns, "maybe")


def test_business_value_of_another_shape_is_refused() -> None:
    counting = known(REALIZED, world)
    wrong = {**counting.arrays, "business_value": np.zeros((3, 3))}
    with pytest.raises(ProfileError, match=r"business_value has the shape \(3, 3\).*2"):
        REALIZED.load(counting.schema, counting.cells, wrong)
