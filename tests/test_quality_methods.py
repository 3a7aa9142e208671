"""Quality shares against counts of the raw values, and what is expected of new data."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from stream_monitor.cells import Cells
from stream_monitor.methods import REGISTRY
from stream_monitor.schema import FloatArray, Kind, Role
from stream_monitor.values import QUALITY
from tests.building import cells_of, counts_of

METRICS = ["missing_values", "wrong_type", "unseen_values", "numerical_range"]


def share(metric: str, cells: Cells, window: Any) -> float:
    mask = REGISTRY.share[metric].mask(cells)
    assert mask is not None
    return float(counts_of(cells, window)[mask].sum()) / len(window)


def expected(metric: str, cells: Cells) -> Any:
    """The share in new data, as SciPy's distribution."""
    return stats.beta(*REGISTRY.share[metric].expected(cells))


def test_the_quality_methods_are_registered() -> None:
    found = {m: s for m, s in REGISTRY.share.items() if s.definition.family == QUALITY}
    assert sorted(found) == sorted(METRICS)
    assert [m for m, s in found.items() if s.two_sided] == ["missing_values"]


FLOATS = st.lists(
    st.floats(-128, 128, width=32)
    | st.sampled_from([0.0, 1.0, np.nan, np.inf, -np.inf, 1e90, -1e90]),
    min_size=2,
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(FLOATS, FLOATS)
def test_numbers_are_counted_as_they_are(reference: list[float], window: list[float]) -> None:
    cells = cells_of(reference)
    assert share("missing_values", cells, window) == np.isnan(window).mean()
    finite = np.array(reference)[np.isfinite(reference)]
    if len(finite) < 2:
        assert REGISTRY.share["numerical_range"].mask(cells) is None
        return
    out = (np.array(window) < finite.min()) | (np.array(window) > finite.max())
    assert share("numerical_range", cells, window) == out.mean()
    assert share("numerical_range", cells, reference) == np.isinf(reference).mean()


CATEGORIES = st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=1, max_size=40)


@given(CATEGORIES, CATEGORIES)
def test_categories_are_counted_as_they_are(
    reference: list[str | None], window: list[str | None]
) -> None:
    cells = cells_of(reference, Kind.CATEGORICAL)
    unseen = [v is not None and v not in reference for v in window]
    assert share("unseen_values", cells, window) == np.mean(unseen)
    assert share("missing_values", cells, window) == np.mean([v is None for v in window])
    assert share("unseen_values", cells, reference) == 0


@pytest.mark.parametrize("kind", list(Kind))
def test_wrong_types_have_a_slot_of_their_own(kind: Kind) -> None:
    cells = cells_of([True, False, True], kind)
    mask = REGISTRY.share["wrong_type"].mask(cells)
    assert mask is not None
    assert np.flatnonzero(mask).tolist() == [cells.wrong_type]
    counts = np.zeros(cells.slots, np.int64)
    counts[cells.wrong_type] = 3
    others = [m for m in METRICS if m != "wrong_type"]
    masks = [REGISTRY.share[m].mask(cells) for m in others]
    assert all(counts[m].sum() == 0 for m in masks if m is not None)


def test_methods_apply_where_they_mean_something() -> None:
    applies = {
        name: [m for m in METRICS if REGISTRY.share[m].mask(cells) is not None]
        for name, cells in {
            "number": cells_of([1.0, 2.0]),
            "category": cells_of(["a", "b"], Kind.CATEGORICAL),
            "boolean": cells_of([True, False], Kind.BOOLEAN),
            "nothing": cells_of([np.nan, np.nan]),
            "one number": cells_of([np.nan, 1.0]),
            "computed": cells_of([1.0, 2.0], role=Role.DERIVED),
        }.items()
    }
    assert applies == {
        "number": ["missing_values", "wrong_type", "numerical_range"],
        "category": ["missing_values", "wrong_type", "unseen_values"],
        "boolean": ["missing_values", "wrong_type", "unseen_values"],
        "nothing": ["missing_values", "wrong_type"],
        "one number": ["missing_values", "wrong_type"],
        "computed": [],
    }


# --- what the reference says about new data -------------------------------------------------------


def outside(values: FloatArray, distribution: Any) -> float:
    """The true probability of a new value outside the range of these."""
    return float(distribution.cdf(values.min()) + distribution.sf(values.max()))


@pytest.mark.parametrize("distribution", [stats.norm(), stats.lognorm(1.5), stats.cauchy()])
def test_the_share_out_of_range_of_continuous_data_is_distributed_as_expected(
    distribution: Any,
) -> None:
    rng = np.random.default_rng(1)
    samples = distribution.rvs((3_000, 60), random_state=rng)
    true = [outside(sample, distribution) for sample in samples]
    found = expected("numerical_range", cells_of(samples[0]))
    assert found.args == (2, 59)
    assert stats.kstest(true, found.cdf).pvalue > 1e-3


def test_a_bound_that_data_keep_to_leaves_one_side() -> None:
    rng = np.random.default_rng(2)
    # a third of the values are 0, the least possible
    samples = np.maximum(stats.expon(-0.4).rvs((3_000, 60), random_state=rng), 0)
    true = [stats.expon(-0.4).sf(sample.max()) for sample in samples]
    found = expected("numerical_range", cells_of(samples[0]))
    assert found.args == (1, 60)
    assert stats.kstest(true, found.cdf).pvalue > 1e-3


def test_repeated_extremes_leave_nearly_nothing_outside() -> None:
    cells = cells_of(np.random.default_rng(3).integers(0, 4, 2_000))
    assert expected("numerical_range", cells).args == (0.5, 2_000.5)


def test_missing_and_infinite_rows_of_the_reference_are_taken_into_account() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=1_000)
    values[:900] = np.nan
    values[900:920] = np.inf
    cells = cells_of(values)
    assert expected("numerical_range", cells).args == (22, 979)
    assert expected("missing_values", cells).args == (900.5, 100.5)
    assert expected("wrong_type", cells).args == (0.5, 1_000.5)
    # 80 numbers: a new row is one with probability 0.08 and then outside with 2 / 81
    clean = expected("numerical_range", cells_of(values[920:])).mean()
    assert expected("numerical_range", cells).mean() == pytest.approx(0.02 + 0.08 * clean, rel=0.01)


def test_new_categories_come_as_often_as_good_and_turing_say() -> None:
    law = stats.zipfian(1.3, 5_000)
    mass = law.pmf(np.arange(1, 5_001))
    rng = np.random.default_rng(5)
    true, said = [], []
    for _ in range(40):
        values = law.rvs(2_000, random_state=rng)
        seen = np.zeros(5_000, dtype=bool)
        seen[values - 1] = True
        true.append(mass[~seen].sum())
        said.append(expected("unseen_values", cells_of(values, Kind.CATEGORICAL)))
    assert np.mean([s.mean() for s in said]) == pytest.approx(np.mean(true), rel=0.02)
    inside = [s.ppf(0.001) <= t <= s.ppf(0.999) for s, t in zip(said, true, strict=True)]
    assert np.mean(inside) >= 0.98


def test_rows_of_categories_that_were_not_kept_are_expected_again() -> None:
    whole = cells_of(["a"] * 50 + ["b"] * 30 + ["c"] * 20, Kind.CATEGORICAL)
    counts = np.array([50, 30, 20, 0, 0])  # c has become "other"
    cells = Cells(whole.column, whole.edges, whole.points, ("a", "b"), counts, None)
    assert expected("unseen_values", whole).args == (0.5, 100.5)
    assert expected("unseen_values", cells).args == (20.5, 80.5)


@given(FLOATS)
def test_every_expectation_is_a_distribution(values: list[float]) -> None:
    for cells in (cells_of(values), cells_of(values, Kind.CATEGORICAL)):
        for metric in METRICS:
            if REGISTRY.share[metric].mask(cells) is not None:
                a, b = REGISTRY.share[metric].expected(cells)
                assert a > 0, metric
                assert b > 0, metric


def test_a_range_of_a_column_without_one_is_refused() -> None:
    cells = cells_of(["a"], Kind.CATEGORICAL)
    with pytest.raises(ValueError, match=r"numerical_range does not apply to the column 'x'"):
        REGISTRY.share["numerical_range"].expected(cells)


# --- NannyML's own results ------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["car_loan", "car_loan_dq"])
@pytest.mark.parametrize("metric", ["missing_values", "unseen_values", "numerical_range"])
def test_shares_are_nannymls(shared_data: Path, data: str, metric: str) -> None:
    with (shared_data / f"nannyml_{data}_{metric}.csv").open() as file:
        rows = list(csv.DictReader(file))
    raw: dict[tuple[str, str], Any] = {}
    built: dict[str, Cells] = {}
    for name in sorted({row["column"] for row in rows}):
        for period in ("reference", "analysis"):
            table = pq.read_table(shared_data / f"nannyml_{data}_{period}.parquet", columns=[name])
            array = table[name].combine_chunks()
            number = str(array.type) == "double"
            raw[name, period] = (
                array.to_numpy(zero_copy_only=False) if number else array.to_pylist()
            )
        built[name] = cells_of(
            raw[name, "reference"], Kind.CONTINUOUS if number else Kind.CATEGORICAL
        )
    values = []
    for row in rows:
        part = slice(int(row["start_index"]), int(row["end_index"]) + 1)
        window = raw[row["column"], row["period"]][part]
        values.append(float(row["value"]))
        assert share(metric, built[row["column"]], window) == pytest.approx(values[-1], abs=1e-12)
    # the comparison is worth something only where something was found
    assert any(values) == ((data, metric) not in NOTHING_FOUND)


NOTHING_FOUND = {("car_loan", "missing_values"), ("car_loan", "unseen_values")}
