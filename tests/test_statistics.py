"""Summary statistics against NannyML's tables, NumPy and SciPy, and their laws."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import gaussian_kde

from stream_monitor.methods import moments
from stream_monitor.methods.base import Measured, Study
from stream_monitor.methods.quantiles import density, quantiles
from stream_monitor.methods.statistics import Statistics
from stream_monitor.panes.layout import Counted
from stream_monitor.schema import FloatArray, Role, Schema
from tests.blocks import (
    Counting,
    assert_any_parts_count_the_same,
    cells_from,
    data_set,
    differences,
    learned,
    nannyml_table,
    parts,
)
from tests.building import cells_of, counts_of

METHOD = Statistics()
LEVELS = {
    "quantile_05": 0.05,
    "quantile_25": 0.25,
    "median": 0.5,
    "quantile_75": 0.75,
    "quantile_95": 0.95,
}
METRICS = ["mean", "sum", "std", *LEVELS, "extreme"]
NUMERIC = ["car_value", "debt_to_income_ratio", "loan_length", "driver_tenure"]
PREFIX = "nannyml_car_loan"

finite = st.floats(-1e6, 1e6, allow_nan=False)
levels = st.lists(st.floats(0, 1), min_size=1, max_size=5).map(np.array)


@pytest.fixture(scope="module")
def car_loan(shared_data: Path) -> tuple[Counting, dict[str, FloatArray]]:
    reference = data_set(shared_data, PREFIX, "reference", NUMERIC)
    analysis = data_set(shared_data, PREFIX, "analysis", NUMERIC)
    return learned(METHOD, reference, rows=7_000, compat=True), analysis


@pytest.mark.parametrize(("theirs", "ours"), [("avg", "mean"), ("sum", "sum"), ("std", "std")])
def test_moments_equal_nannyml(
    theirs: str,
    ours: str,
    car_loan: tuple[Counting, dict[str, FloatArray]],
    shared_data: Path,
) -> None:
    table = nannyml_table(shared_data, f"{PREFIX}_stats_{theirs}.csv")
    for field, columns in differences(*car_loan, table, ours).items():
        assert columns.keys() == set(NUMERIC)
        assert max(columns.values()) < 1e-9, field


def test_median_equals_nannyml(
    car_loan: tuple[Counting, dict[str, FloatArray]], shared_data: Path
) -> None:
    table = nannyml_table(shared_data, f"{PREFIX}_stats_median.csv")
    worst = differences(*car_loan, table, "median")
    assert max(worst["sampling_error"].values()) < 2e-4
    # exact where each of the reference's values has a cell of its own
    assert car_loan[0].cells["loan_length"].summary is not None
    assert {field: columns["loan_length"] for field, columns in worst.items()} == pytest.approx(
        dict.fromkeys(worst, 0.0), abs=1e-9
    )
    assert worst["value"]["loan_length"] == 0
    for column in NUMERIC:
        own = [r for r in table if r["column"] == column]
        summary = car_loan[0].cells[column].summary
        assert summary is not None
        span = summary.maximum - summary.minimum
        for field in ("value", "lower_threshold", "upper_threshold"):
            assert worst[field][column] * max(abs(r[field]) for r in own) < 1e-3 * span


def heavy(rows: int, seed: int) -> dict[str, FloatArray]:
    rng = np.random.default_rng(seed)
    values = {
        "normal": rng.normal(3, 2, rows),
        "heavy": rng.standard_t(3, rows) * 1e4,
        "skew": rng.lognormal(-8, 1, rows),
        "few": rng.integers(0, 6, rows).astype(float),
        "offset": 1e9 + rng.normal(size=rows),
    }
    values["normal"][rng.random(rows) < 0.1] = np.nan
    return values


@pytest.mark.parametrize("compat", [False, True])
def test_equals_numpy(compat: bool) -> None:
    reference, window = heavy(5_000, 1), heavy(800, 2)
    window["heavy"][:3] = np.inf, -np.inf, np.nan
    found = learned(METHOD, reference, compat=compat).values(window)
    for name, values in window.items():
        known = values[np.isfinite(values)]
        own = reference[name][np.isfinite(reference[name])]
        n, std = (len(values) if compat else len(known)), own.std(ddof=1)
        mean, total, spread = (found[m, name] for m in ("mean", "sum", "std"))
        assert mean.value == pytest.approx(known.mean(), rel=1e-12)
        assert total.value == pytest.approx(known.sum(), rel=1e-12)
        assert spread.value == pytest.approx(known.std(ddof=1), rel=1e-8)
        assert found["extreme", name].value == 0
        assert mean.rows == len(known)
        assert mean.sampling_error == pytest.approx(std / math.sqrt(n), rel=1e-9)
        assert total.sampling_error == pytest.approx(std * math.sqrt(n), rel=1e-9)
        fourth = ((own - own.mean()) ** 4).mean()
        error = math.sqrt((fourth - std**4 * (n - 3) / (n - 1)) / n) / (2 * std)
        assert spread.sampling_error == pytest.approx(error, rel=1e-7)
        assert mean.expected == pytest.approx(own.mean(), rel=1e-12)
        assert spread.expected == pytest.approx(std, rel=1e-8)
        assert mean.upper_confidence == pytest.approx(mean.value + 3 * mean.sampling_error)


def test_quantiles_of_few_values_equal_numpy() -> None:
    found = learned(METHOD, heavy(5_000, 3)).values(window := heavy(801, 4))
    for metric, level in LEVELS.items():
        assert found[metric, "few"].value == np.quantile(window["few"], level)


@pytest.mark.parametrize("name", ["normal", "heavy", "skew", "offset"])
def test_quantile_errors_come_from_the_density(name: str) -> None:
    reference = heavy(20_000, 5)[name]
    known = reference[np.isfinite(reference)]
    cells = cells_of(reference)
    points = np.quantile(known, list(LEVELS.values()))
    found = density(cells, cells.values, points, std=float(known.std(ddof=1)))
    np.testing.assert_allclose(found, gaussian_kde(known)(points), rtol=5e-3)
    counting = learned(METHOD, {name: reference})
    measured = counting.values({name: reference[:400]})
    n = np.isfinite(reference[:400]).sum()
    for (metric, level), f in zip(LEVELS.items(), found, strict=True):
        expected = math.sqrt(level * (1 - level) / n) / f
        assert measured[metric, name].sampling_error == pytest.approx(expected, rel=0.05)


@given(
    reference=arrays(np.float64, st.integers(2, 60), elements=finite),
    window=arrays(np.float64, st.integers(1, 60), elements=finite),
    levels=levels,
)
@settings(deadline=None)
def test_an_order_statistic_lies_in_its_cell(
    reference: FloatArray, window: FloatArray, levels: FloatArray
) -> None:
    cells = cells_of(reference)
    window = np.clip(window, reference.min(), reference.max())
    found = quantiles(cells, counts_of(cells, window), levels)
    lower = np.concatenate([cells.edges[:1], cells.edges])
    upper = np.concatenate([cells.edges, cells.edges[-1:]])
    place = np.searchsorted(cells.edges, np.sort(window), side="right")
    rank = (len(window) - 1) * levels
    below = np.floor(rank).astype(int)
    above = np.minimum(below + 1, len(window) - 1)
    slack = 1e-9 * np.abs(cells.edges[[0, -1]]).max()
    for bound, sign in ((lower, 1), (upper, -1)):
        at = bound[place]
        limit = at[below] + (rank - below) * (at[above] - at[below])
        assert np.all(sign * (found - limit) >= -slack)


@given(
    values=st.lists(st.integers(-40, 40), min_size=1, max_size=80),
    window=st.data(),
    levels=levels,
)
@settings(deadline=None)
def test_quantiles_of_the_references_own_values_are_exact(
    values: list[int], window: st.DataObject, levels: FloatArray
) -> None:
    reference = np.array(values, dtype=np.float64) / 7
    some = np.array(window.draw(st.lists(st.sampled_from(reference.tolist()), min_size=1)))
    cells = cells_of(reference)
    found = quantiles(cells, counts_of(cells, some), levels)
    np.testing.assert_allclose(found, np.quantile(some, levels), rtol=1e-12, atol=1e-12)


def test_quantiles_are_near_those_of_the_raw_values() -> None:
    rng = np.random.default_rng(6)
    for reference, window in (
        (rng.normal(size=50_000), rng.normal(0.4, 1.3, 5_000)),
        (rng.random(50_000), rng.beta(2, 2, 5_000)),
        (rng.lognormal(0, 1, 50_000), rng.lognormal(0.2, 1, 5_000)),
    ):
        cells = cells_of(reference)
        at = np.array(list(LEVELS.values()))
        found = quantiles(cells, counts_of(cells, window), at)
        span = np.ptp(reference)
        assert np.abs(found - np.quantile(window, at)).max() < 1.5e-3 * span


def test_beyond_the_reference_quantiles_stay_finite_and_ordered() -> None:
    cells = cells_of(np.random.default_rng(7).normal(size=2_000))
    window = np.array([-1e300, -50.0, 0.0, 50.0, 1e300])
    found = quantiles(cells, counts_of(cells, window), np.linspace(0, 1, 9))
    assert np.isfinite(found).all()
    assert np.all(np.diff(found) >= 0)
    assert found[2] == pytest.approx(-50, rel=0.6)


@pytest.fixture(scope="module")
def counting() -> Counting:
    return learned(METHOD, heavy(3_000, 8))


@given(
    rows=st.integers(1, 60),
    groups=st.integers(1, 5),
    size=st.integers(1, 60),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=60)
def test_any_batches_order_and_groups_count_the_same(
    counting: Counting, rows: int, groups: int, size: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    columns = heavy(rows, seed)
    columns["heavy"] *= 10.0 ** rng.integers(0, 300, rows)
    columns["skew"][rng.random(rows) < 0.2] = np.inf
    assert_any_parts_count_the_same(counting, columns, groups=groups, size=size, rng=rng)


def test_a_long_batch_counts_as_its_parts(counting: Counting) -> None:
    batch = counting.batch(heavy(10_000, 9))
    group = np.arange(10_000) % 3
    expected = counting.counts(batch, group, 3)
    found = sum(counting.counts(batch.take(p), group[p], 3) for p in parts(10_000, 777))
    np.testing.assert_array_equal(found, expected)


def test_extremes_count_at_their_limit(counting: Counting) -> None:
    columns = heavy(100, 10)
    columns["few"][:3] = 1e308, -1e308, 1e308
    found = counting.values(columns)
    limit = counting.arrays["scale"][3] * moments.LIMIT
    center = counting.arrays["center"][3]
    clipped = np.clip(columns["few"], center - limit, center + limit)
    assert found["extreme", "few"].value == 3
    assert found["mean", "few"].value == pytest.approx(clipped.mean(), rel=1e-12)
    assert found["std", "few"].value == pytest.approx(clipped.std(ddof=1), rel=1e-9)
    assert found["extreme", "normal"].value == 0


def test_the_reference_has_no_extremes() -> None:
    values = np.zeros(1_000_000)
    values[7] = 1e6  # a thousand standard deviations off
    found = learned(METHOD, {"x": values}, rows=100_000).values({"x": values})
    assert found["extreme", "x"].value == 0
    assert found["mean", "x"].value == pytest.approx(1.0, rel=1e-12)


def test_a_constant_has_no_spread() -> None:
    reference = {"x": np.full(200, 0.1)}
    counting = learned(METHOD, reference)
    same, other = counting.values({"x": np.full(9, 0.1)}), counting.values({"x": np.full(9, 0.3)})
    assert same["mean", "x"].value == 0.1
    assert same["median", "x"].value == 0.1
    assert same["std", "x"].value == 0
    assert same["mean", "x"].spread == 0
    assert same["median", "x"].sampling_error == 0
    assert other["mean", "x"].value == pytest.approx(0.3, rel=1e-12)
    assert other["std", "x"].value == 0


def test_equal_values_have_no_std(counting: Counting) -> None:
    columns = {name: np.full(50, values[3]) for name, values in heavy(5, 11).items()}
    found = counting.values(columns)
    for name, values in columns.items():
        assert found["std", name].value == 0
        assert found["mean", name].value == pytest.approx(values[0], rel=1e-12)


def test_windows_without_numbers_have_no_values(counting: Counting) -> None:
    gap = {name: np.full(5, np.nan) for name in heavy(1, 0)}
    empty = {name: np.empty(0) for name in gap}
    for columns in (gap, empty):
        found = counting.values(columns)
        assert list(found) == [(m, name) for name in gap for m in METRICS]
        for measured in found.values():
            assert math.isnan(measured.value)
            assert math.isnan(measured.sampling_error)
            assert measured.rows == 0
    one = counting.values({name: np.ones(1) for name in gap})
    assert math.isnan(one["std", "few"].value)
    assert one["mean", "few"].value == 1


def test_a_reference_of_one_number() -> None:
    found = learned(METHOD, {"x": np.array([2.5])}).values({"x": np.array([2.5, 3.5])})
    assert found["mean", "x"].value == 3
    assert found["std", "x"].value == pytest.approx(math.sqrt(0.5))
    assert math.isnan(found["mean", "x"].sampling_error)


def z_of(measured: Measured) -> float:
    return (measured.value - measured.expected) / measured.spread


def test_windows_like_the_reference_are_spread_as_stated() -> None:
    rows = heavy(60_000, 12)
    counting = learned(METHOD, {name: values[:10_000] for name, values in rows.items()})
    chunks = counting.chunks({name: values[10_000:] for name, values in rows.items()}, 200)
    measured = counting.measure(*(Counted(counting.layout, c) for c in chunks))
    for name in ("normal", "few", "offset"):
        for metric in ("mean", "sum", "std"):
            z = [z_of(values[metric, name]) for values in measured]
            assert np.mean(z) == pytest.approx(0, abs=0.35), (name, metric)
            assert np.std(z) == pytest.approx(1, abs=0.2), (name, metric)
    for metric in LEVELS:
        for name in rows:
            # never too narrow; wide on the flat side of a tail and among few values
            z = [z_of(values[metric, name]) for values in measured if values[metric, name].spread]
            assert not z or np.std(z) < 1.25, (name, metric)


def test_a_segment_speaks_for_itself() -> None:
    rng = np.random.default_rng(13)
    part, rest = rng.normal(size=4_000), rng.standard_t(3, 40_000) * 5 + 30
    counting = learned(METHOD, {"x": np.concatenate([part, rest])})
    own = counting.block.bind(counting.window({"x": part}))
    found = {m.metric: m for m in own.measure(counting.window({"x": part[:500]}))}
    assert found["mean"].expected == pytest.approx(part.mean())
    assert found["mean"].sampling_error == pytest.approx(part.std(ddof=1) / math.sqrt(500))
    # a normal distribution's std has the standard error σ / sqrt(2 n)
    assert found["std"].sampling_error == pytest.approx(1 / math.sqrt(1_000), rel=0.2)


def test_only_inputs_with_finite_moments_have_statistics() -> None:
    columns: dict[str, Any] = {
        "x": np.arange(9.0),
        "target": np.arange(9.0),
        "score": np.linspace(0, 1, 9),
        "empty": np.full(9, np.nan),
        "text": list("abcdefghi"),
    }
    roles = {"target": Role.TARGET, "score": Role.SCORE}
    counting = learned(METHOD, columns, roles=roles)
    assert {feature for _, feature in counting.values(columns)} == {"x", "score"}
    cells = cells_from({n: columns[n] for n in ("text", "target", "x")}, roles)
    schema = Schema(tuple(c.column for c in cells.values()))
    assert cells["x"].summary is not None
    vast = replace(cells["x"].summary, maximum=1e200, std=math.inf)
    cells["x"] = replace(cells["x"], summary=vast)
    assert METHOD.learner(Study(schema, cells)) is None
