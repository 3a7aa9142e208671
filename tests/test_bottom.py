"""The smallest hashes, and what is told from them: distinct values, constants, repeated ids."""

from __future__ import annotations

import itertools
from functools import reduce
from math import exp, inf, isnan, nan
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stream_monitor.alerts.rates import spread_limit
from stream_monitor.batch import ColumnBatch
from stream_monitor.errors import StoreError
from stream_monitor.hashing import splitmix64
from stream_monitor.methods.base import Measured, Sketcher, Study
from stream_monitor.methods.cardinality import (
    IDS,
    NAME,
    VALUES,
    Cardinality,
    CardinalityMethod,
    log_chance,
    varies,
)
from stream_monitor.methods.volume import Volume, scale
from stream_monitor.panes.bottom import NONE, Bottom, value_hashes
from stream_monitor.panes.layout import Counted, Layout
from stream_monitor.schema import FloatArray, IntArray, Kind, Schema
from tests.blocks import Columns, batch_of, cells_from, data_set
from tests.building import cells_of, counts_of

METHOD = CardinalityMethod()

NUMBERS = st.lists(
    st.tuples(*[st.sampled_from([nan, inf, -inf, -0.0, 0.0, 1.0, 2.0, 3.5, 1e300, 5e-324])] * 2),
    max_size=40,
)


def columns_of(rows: list[tuple[float, ...]]) -> FloatArray:
    return np.array(rows, dtype=np.float64).reshape(-1, 2).T


# --- the structure ------------------------------------------------------------------------------


@given(rows=NUMBERS)
def test_exact_while_not_full(rows: list[tuple[float, ...]]) -> None:
    numbers = columns_of(rows)
    bottom = Bottom.of_numbers(numbers, 16)
    for i, column in enumerate(numbers):
        values, counts = np.unique(column[np.isfinite(column)], return_counts=True)
        assert bottom.rows[i] == counts.sum()
        assert bottom.distinct()[i] == bottom.filled()[i] == len(values)
        assert sorted(bottom.counts[i][bottom.counts[i] > 0]) == sorted(counts)
        if len(values):
            expected = 1 - len(values) / counts.sum()
            assert bottom.repeated()[i] == pytest.approx(expected, abs=1e-15)
        else:
            assert isnan(bottom.repeated()[i])


@given(rows=NUMBERS, data=st.data())
def test_any_parts_in_any_order_give_the_same_bytes(
    rows: list[tuple[float, ...]], data: st.DataObject
) -> None:
    limit = data.draw(st.integers(2, 6))
    whole = Bottom.of_numbers(columns_of(rows), limit)
    shuffled = data.draw(st.permutations(rows))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    bounds = [0, *cuts, len(rows)]
    some = [
        Bottom.of_numbers(columns_of(shuffled[a:b]), limit) for a, b in itertools.pairwise(bounds)
    ]
    left = reduce(Bottom.merged, some)
    right = reduce(lambda done, part: part.merged(done), reversed(some))
    assert whole.to_bytes() == left.to_bytes() == right.to_bytes()
    back = Bottom.from_bytes(whole.to_bytes())
    assert back.to_bytes() == whole.to_bytes()
    np.testing.assert_array_equal(back.hashes, whole.hashes)
    np.testing.assert_array_equal(back.counts, whole.counts)
    assert len(whole.to_bytes()) <= Bottom.most_bytes(limit, 2)


def test_keeps_the_smallest_hashes_with_their_exact_counts() -> None:
    rng = np.random.default_rng(1)
    numbers = rng.zipf(1.3, (3, 20_000)).astype(np.float64)
    bottom = reduce(
        Bottom.merged,
        [Bottom.of_numbers(numbers[:, i : i + 700], 64) for i in range(0, 20_000, 700)],
    )
    for i, column in enumerate(numbers):
        hashes, counts = np.unique(value_hashes(column), return_counts=True)
        np.testing.assert_array_equal(bottom.hashes[i], hashes[:64])
        np.testing.assert_array_equal(bottom.counts[i], counts[:64])


def test_hashes_are_those_of_equal_numbers() -> None:
    numbers = np.array([0.0, -0.0, 3.0, 3, nan, inf, -inf])
    found = value_hashes(numbers)
    assert found[0] == found[1] != found[2] == found[3] != NONE
    assert (found[4:] == NONE).all()


def test_does_not_touch_its_input() -> None:
    numbers = np.array([[1.0, nan, 1.0, -0.0]])
    hashes = value_hashes(numbers)
    numbers.flags.writeable = hashes.flags.writeable = False
    one = Bottom.of_numbers(numbers, 2)
    before = one.to_bytes()
    one.merged(Bottom.of(hashes, 2))
    assert one.to_bytes() == before
    assert Bottom.of(hashes, 2).to_bytes() == before


def test_distinct_values_are_estimated_without_bias() -> None:
    limit, distinct, trials = 64, 3_000, 400
    numbers = np.arange(trials * distinct, dtype=np.float64).reshape(trials, distinct)
    # each value several times, which must not matter
    ratio = Bottom.of_numbers(np.repeat(numbers, 2, axis=1), limit).distinct() / distinct
    error = 1 / np.sqrt(limit - 2)
    assert ratio.mean() == pytest.approx(1, abs=4 * error / np.sqrt(trials))
    assert ratio.std() == pytest.approx(error, rel=0.2)


def test_repeated_rows_are_estimated_without_bias() -> None:
    rng = np.random.default_rng(2)
    errors = []
    for trial in range(100):
        ids = rng.integers(0, 2_000, 2_500) + 10_000 * trial
        found = Bottom.of(splitmix64(ids.astype(np.uint64))[np.newaxis], 256).repeated()[0]
        errors.append(found - (1 - len(np.unique(ids)) / len(ids)))
    assert abs(np.mean(errors)) < 4 * np.std(errors) / 10
    assert np.std(errors) < 0.04


def test_a_frequent_value_outside_of_the_kept_ones_is_not_overlooked() -> None:
    fresh = splitmix64(np.arange(8_000, dtype=np.uint64))
    for frequent in (np.max(fresh), np.min(fresh)):
        hashes = np.concatenate([fresh, np.full(2_000, frequent)])
        found = Bottom.of(hashes[np.newaxis], 1_024)
        exact = 0.2
        assert found.rows.tolist() == [10_000]
        assert found.repeated()[0] == pytest.approx(exact, abs=4 * 0.8 / np.sqrt(1_022))


def test_no_rows_and_no_columns() -> None:
    for shape in ((3, 0), (0, 5), (0, 0)):
        empty = Bottom.of_numbers(np.empty(shape), 4)
        assert empty.merged(empty).distinct().tolist() == [0.0] * shape[0]
        assert Bottom.from_bytes(empty.to_bytes()).to_bytes() == empty.to_bytes()


def test_refuses_what_does_not_fit() -> None:
    one = Bottom.of_numbers(np.zeros((1, 1)), 4)
    with pytest.raises(ValueError, match="keep 2 or more"):
        Bottom.of_numbers(np.zeros((1, 1)), 1)
    for other in (Bottom.of_numbers(np.zeros((2, 1)), 4), Bottom.of_numbers(np.zeros((1, 1)), 5)):
        with pytest.raises(ValueError, match="do not merge"):
            one.merged(other)


@given(data=st.data())
def test_damaged_bytes_are_told(data: st.DataObject) -> None:
    good = Bottom.of_numbers(np.array([[1.0, 2.0, 2.0], [5.0, nan, 7.0]]), 8).to_bytes()
    length = data.draw(st.integers(0, len(good) - 1))
    for bad in (good[:length], good + bytes(data.draw(st.integers(1, 9)))):
        with pytest.raises(StoreError, match="damaged"):
            Bottom.from_bytes(bad)
    place = data.draw(st.integers(8, 39))  # number of columns, width of counts, filled
    changed = bytearray(good)
    changed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(StoreError, match="damaged"):
        Bottom.from_bytes(bytes(changed))


# --- the method ---------------------------------------------------------------------------------


class Watching:
    """The method learned from a reference, and windows of its columns."""

    def __init__(self, reference: Columns, ids: IntArray | None = None) -> None:
        self.cells = cells_from(reference)
        self.schema = Schema(tuple(c.column for c in self.cells.values()))
        learner = METHOD.learner(Study(self.schema, self.cells))
        assert learner is not None
        batch = self.batch(reference, ids)
        learner.update(batch.take(np.arange(len(batch) // 3)))
        learner.update(batch.take(np.arange(len(batch) // 3, len(batch))))
        arrays = learner.finish(batch)
        self.sketcher: Sketcher = METHOD.load(self.schema, self.cells, arrays)
        self.layout = Layout.of(self.cells, {})

    def batch(self, columns: Columns, ids: IntArray | None = None) -> ColumnBatch:
        batch = batch_of(self.schema, self.cells, columns)
        if ids is not None:
            hashes = np.where(ids < 0, np.uint64(0), splitmix64(ids.astype(np.uint64)))
            batch.ids = np.stack([hashes, hashes], axis=1)
        return batch

    def measured(
        self, columns: Columns, ids: IntArray | None = None, *, sketched: bool = True
    ) -> dict[tuple[str, str], Measured]:
        batch = self.batch(columns, ids)
        vector = np.zeros(self.layout.size, dtype=np.int64)
        vector[0] = len(batch)
        for name, cells in self.cells.items():
            vector[self.layout.columns[name]] = counts_of(cells, columns[name])
        sketches = {}
        if sketched:
            parts = [batch.take(np.arange(i, len(batch), 3)) for i in range(3)]
            some = [self.sketcher.sketch(part) for part in parts]
            one = some[2].merged(some[0]).merged(some[1])
            assert one.to_bytes() == self.sketcher.sketch(batch).to_bytes()
            assert len(one.to_bytes()) <= self.sketcher.most_bytes
            sketches[NAME] = self.sketcher.from_bytes(one.to_bytes())
        measure = self.sketcher.bind(Counted(self.layout, np.zeros_like(vector)))
        found = list(measure.measure(Counted(self.layout, vector, sketches)))
        return {(m.metric, m.feature): m for m in found}


def test_counts_of_real_columns(shared_data: Path) -> None:
    names = ["car_value", "loan_length", "driver_tenure", "salary_range", "size_of_downpayment"]
    table = pyarrow.parquet.read_table(
        shared_data / "nannyml_car_loan_analysis.parquet", columns=["id"]
    )
    ids = table["id"].to_numpy().astype(np.int64)
    reference = data_set(shared_data, "nannyml_car_loan", "reference", names)
    watching = Watching(reference, np.arange(50_000) + 10**7)
    analysis = data_set(shared_data, "nannyml_car_loan", "analysis", names)
    worst = 0.0
    for chunk in range(0, 50_000, 5_000):
        columns = {n: analysis[n][chunk : chunk + 5_000] for n in names}
        found = watching.measured(columns, ids[chunk : chunk + 5_000])
        for name in names:
            exact = len(set(columns[name]) - {None})
            own = found["distinct_values", name]
            assert (own.rows, isnan(own.spread)) == (5_000, True)
            if exact < VALUES:
                assert own.value == exact
            worst = max(worst, abs(own.value / exact - 1))
            assert found["constant", name].value == 0
        duplicates = found["duplicate_ids", ""]
        assert duplicates.value == 0
        assert duplicates.rows == 5_000
    print(f"distinct_values, relative {worst:.3f}")
    assert worst < 4 / np.sqrt(VALUES - 2)


def test_a_column_that_became_constant_alerts_where_that_is_improbable() -> None:
    rng = np.random.default_rng(3)
    rare = ["b"] * 20 + ["a"] * 980
    watching = Watching(
        {
            "x": rng.normal(size=1_000),
            "zeros": np.where(np.arange(1_000) < 30, 1.0, 0.0),
            "name": rare,
            "same": np.ones(1_000),
        }
    )
    columns: Columns = {
        "x": np.zeros(50),
        "zeros": np.zeros(50),
        "name": ["a"] * 50,
        "same": np.ones(50),
    }
    found = watching.measured(columns)
    assert ("constant", "same") not in found
    for name, common in (("zeros", 970), ("name", 980)):
        one = found["constant", name]
        assert (one.value, one.rows) == (1.0, 50)
        # all of 50 rows are the frequent value, or all the rare one
        shares = [(common + 0.5, 1_000.5 - common), (1_000.5 - common, common + 0.5)]
        chance = sum(stats.betabinom.pmf(50, 50, a, b) for a, b in shares)
        assert exp(log_chance(watching.cells[name], 50)) == pytest.approx(chance, rel=1e-9)
        assert spread_limit(one, 0.01).p_value == pytest.approx(chance, rel=1e-9)
        assert not spread_limit(one, chance * 0.99).alert(1.0)
        assert spread_limit(one, chance * 1.01).alert(1.0)
    assert spread_limit(found["constant", "x"], 1e-9).alert(1.0)
    mixed = watching.measured({**columns, "x": np.r_[np.zeros(49), 1.0], "name": [None] * 50})
    assert mixed["constant", "x"].value == 0
    assert spread_limit(mixed["constant", "x"], 1e-9).alert(0.0) is False
    assert isnan(mixed["constant", "name"].value)
    assert isnan(mixed["constant", "name"].spread)
    # unseen categories are another value's business
    assert watching.measured({**columns, "name": ["new"] * 50})["constant", "name"].value == 0


@settings(max_examples=30)
@given(counts=st.lists(st.integers(0, 500), min_size=1, max_size=6), rows=st.integers(1, 10**7))
def test_the_chance_of_a_constant_window_is_one(counts: list[int], rows: int) -> None:
    names = [str(i) for i, count in enumerate(counts) for _ in range(count)]
    if not names:
        return
    cells = cells_of(names, Kind.CATEGORICAL)
    assert varies(cells) is (len(set(names)) > 1)
    found = log_chance(cells, rows)
    assert found <= 0
    assert log_chance(cells, rows + 1) <= found


@pytest.mark.parametrize("repeats", [0, 40, 4_000])
def test_repeated_ids_are_judged_by_the_reference(repeats: int) -> None:
    n = 20_000
    rng = np.random.default_rng(4)
    ids = np.arange(n)
    ids[rng.permutation(np.arange(1, n))[:repeats]] = 0
    watching = Watching({"x": rng.normal(size=n)}, ids)
    window = {"x": np.zeros(3_000)}
    fresh = np.arange(3_000) + 10**6
    same = watching.measured(window, fresh)["duplicate_ids", ""]
    assert (same.value, same.rows) == (0.0, 3_000)
    if repeats == 4_000:
        assert isnan(same.spread)
        return
    kept = Bottom.of(splitmix64(ids.astype(np.uint64))[np.newaxis], IDS)
    again = int(kept.counts.sum()) - IDS
    assert same.expected == pytest.approx((again + 0.5) / (IDS + again + 1))
    assert spread_limit(same, 0.001).alert(0.0) is False
    twice = watching.measured(window, fresh % 1_500)["duplicate_ids", ""]
    assert twice.value == 0.5
    assert spread_limit(twice, 1e-9).alert(0.5)


def test_rows_without_an_id_do_not_count() -> None:
    watching = Watching({"x": np.arange(10.0)})
    window = {"x": np.zeros(5)}
    found = watching.measured(window, np.array([7, 7, -1, -1, 8]))["duplicate_ids", ""]
    assert found.value == pytest.approx(1 / 3)
    assert found.rows == 3
    assert isnan(found.spread)  # the reference had none
    for ids in (None, np.full(5, -1)):
        none = watching.measured(window, ids)["duplicate_ids", ""]
        assert (isnan(none.value), none.rows) == (True, 0)


def test_without_a_sketch_there_are_the_same_values_without_numbers() -> None:
    watching = Watching({"x": np.arange(10.0), "name": ["a", "b"] * 5}, np.arange(10))
    columns: Columns = {"x": np.zeros(5), "name": ["a"] * 5}
    known, unknown = watching.measured(columns), watching.measured(columns, sketched=False)
    assert known.keys() == unknown.keys()
    assert all(isnan(m.value) for m in unknown.values())
    empty: Columns = {"x": np.empty(0), "name": []}
    found = watching.measured(empty)
    assert found["distinct_values", "x"].value == found["distinct_values", "name"].value == 0
    assert isnan(found["constant", "x"].value)


def test_damaged_state_is_told() -> None:
    data = Cardinality(
        Bottom.of_numbers(np.ones((2, 3)), VALUES), Bottom.of_numbers(np.ones((1, 3)), IDS)
    ).to_bytes()
    for bad in (b"", data[:20], data[:-1], data + b"\0"):
        with pytest.raises(StoreError, match="damaged"):
            Cardinality.from_bytes(bad)


# --- the number of rows -------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 6, 7, 9, 10, 25, 60])
def test_the_scale_is_that_of_a_normal_sample(n: int) -> None:
    draws = np.random.default_rng(n).normal(3, 2, size=(3_000, n))
    found = [scale(row) for row in draws]
    assert np.mean(found) == pytest.approx(2, abs=5 * np.std(found) / np.sqrt(3_000))


@pytest.mark.parametrize("history", [8, 40])
@pytest.mark.parametrize("dispersion", [1, 10, 50])
def test_volume_keeps_the_stated_rate(history: int, dispersion: float) -> None:
    rng = np.random.default_rng(5)
    mean, level, trials = 2_000, 0.02, 2_000
    size = mean / max(dispersion - 1, 1e-9)
    rate = rng.gamma(size, mean / size, (trials, history + 1)) if dispersion > 1 else mean
    counts = rng.poisson(rate, (trials, history + 1))
    out = 0
    for *before, now in counts.tolist():
        volume = Volume.of(before)
        low, high = volume.limit(level)
        outside = now < low or now > high
        assert outside is (volume.p_value(now) < level)
        out += outside
    assert stats.binomtest(out, trials, level, alternative="greater").pvalue > 1e-3


def test_an_outage_in_the_history_does_not_hide_the_next() -> None:
    history = np.random.default_rng(6).poisson(1_000, 30)
    history[:6] = [0, 0, 0, 0, 9_000, 0]
    low, high = Volume.of(history).limit(0.001)
    assert 700 < low < 900
    assert 1_100 < high < 1_400
    assert Volume.of(history).p_value(0) < 1e-6


def test_too_short_a_history_has_no_limit() -> None:
    for history in ([], [5, 6, 7, 8]):
        low, high = Volume.of(history).limit(0.01)
        assert isnan(low)
        assert isnan(high)
        assert isnan(Volume.of(history).p_value(3))
    assert Volume.of([0] * 5).limit(0.01)[0] == 0
    with pytest.raises(ValueError, match="from 0 on"):
        Volume.of([1, 2, -3, 4, 5]).limit(0.01)
    with pytest.raises(ValueError, match="at least two"):
        scale(np.ones(1))


@given(
    first=st.lists(st.integers(0, 30), max_size=60),
    then=st.lists(st.integers(0, 30), min_size=1, max_size=60),
    limit=st.integers(2, 12),
)
def test_what_is_left_out_beside_another_cannot_matter(
    first: list[int], then: list[int], limit: int
) -> None:
    before, after = (np.array([some, some[::-1]], dtype=np.uint64) for some in (first, then))
    known = Bottom.of(before, limit)
    whole = Bottom.of(np.concatenate([before, after], axis=1), limit)
    assert known.merged(Bottom.of(after, limit, known)).to_bytes() == whole.to_bytes()
