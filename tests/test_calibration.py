"""Calibration's parts: null distributions, their tails, joint levels, shares, means.

That the whole keeps its stated rate on common data is in ``test_false_alarms.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from stream_monitor.alerts.calibration import (
    LEVELS,
    Calibration,
    Null,
    effective_tests,
    null_quantiles,
    sidak,
)
from stream_monitor.alerts.null import (
    generalised_pareto,
    null_counts,
    pareto_survival,
    samplers,
    weights,
)
from stream_monitor.alerts.rates import (
    count_above,
    greatest_count,
    mean_limit,
    pearson3,
    spread_limit,
)
from stream_monitor.cells import Cells
from stream_monitor.methods import REGISTRY
from stream_monitor.methods.base import Definition, Measured
from stream_monitor.schema import FloatArray, Kind, Role
from tests.building import cells_of, counts_of

Draw = Callable[[np.random.Generator, int], Any]


def calibration_of(
    *columns: Cells, false_alarms: float = 0.01, replicates: int = 4_000
) -> Calibration:
    drift = {
        (cells.column.name, metric): method.bind(cells)
        for cells in columns
        for metric, method in REGISTRY.drift.items()
        if cells.column.kind in method.kinds
    }
    return Calibration(
        {cells.column.name: cells for cells in columns},
        drift,
        {metric: method.tail_power for metric, method in REGISTRY.drift.items()},
        false_alarms=false_alarms,
        replicates=replicates,
    )


def windows_of(
    cells: Cells, draw: Draw, rng: np.random.Generator, rows: int, number: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.stack([counts_of(cells, draw(rng, rows))[: cells.size] for _ in range(number)])


# --- what a reference says about new data


@pytest.mark.parametrize("size", [20, 300, 5_000])
def test_weights_put_one_spacing_beyond_each_single_extreme(size: int) -> None:
    values = np.random.default_rng(size).normal(size=size)
    cells = cells_of(values)
    found = weights(cells)
    lower = np.concatenate([[-math.inf], cells.edges])
    assert found.sum() == pytest.approx(size + 1)
    assert found[lower > values.max()].sum() == pytest.approx(1)
    assert found[lower < values.min()].sum() == pytest.approx(1)


def test_weights_put_nothing_beyond_a_repeated_extreme_or_between_counts() -> None:
    cells = cells_of(np.repeat([0.0, 1.0, 2.0, 5.0], [400, 300, 200, 100]))
    np.testing.assert_array_equal(weights(cells), cells.values)


def test_a_tail_reaches_as_far_as_new_extremes_do() -> None:
    """Mean excess over the reference's maximum, against fresh samples' own."""
    for draw in (stats.norm(), stats.expon(), stats.genpareto(0.3)):
        told, true = [], []
        for seed in range(60):
            rng = np.random.default_rng(seed)
            values = draw.rvs(size=2_000, random_state=rng)
            cells, top = cells_of(values), values.max()
            beyond = np.concatenate([[-math.inf], cells.edges]) > top
            told.append(weights(cells)[beyond] @ (cells.points[beyond] - top))
            # the weight beyond is 1, so that both are means of one excess
            excess, _ = integrate.quad(draw.sf, top, math.inf)
            true.append(excess / draw.sf(top))
        assert np.median(told) == pytest.approx(np.median(true), rel=0.35)


def test_unseen_categories_weigh_as_good_and_turing_say() -> None:
    rng = np.random.default_rng(1)
    shares = 1 / np.arange(1, 501)
    shares /= shares.sum()
    told, true = [], []
    for _ in range(100):
        values = rng.choice(500, 1_000, p=shares)
        cells = cells_of(values.tolist(), Kind.CATEGORICAL)
        found = weights(cells)
        assert found.sum() == pytest.approx(1_000)
        told.append(found[cells.unseen] / 1_000)
        true.append(1 - shares[np.unique(values)].sum())
    assert np.mean(told) == pytest.approx(np.mean(true), rel=0.05)


@given(
    st.lists(st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, 7.0]), min_size=1, max_size=80),
    st.integers(1, 500),
)
@example([0.0, 1.0, 2.2250738585072014e-308], 1)  # rounding left a weight of -1e-16
@settings(max_examples=60, deadline=None)
def test_windows_of_any_numbers_have_their_rows(values: list[float], rows: int) -> None:
    cells = cells_of(np.array(values))
    weight = weights(cells)
    assert (weight >= 0).all()
    assert weight.sum() > 0
    counts = null_counts(weight, rows, 20, np.random.default_rng(0))
    assert (counts.sum(axis=1) == rows).all()
    assert not counts[:, weight == 0].any()


@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_pairs_of_any_categories_have_their_rows(values: list[int], rows: int) -> None:
    cells = cells_of(values, Kind.CATEGORICAL)
    for sampler in samplers(cells, rows):
        reference, windows = sampler(20, np.random.default_rng(0))
        assert windows.shape == (20, cells.size)
        assert (reference.sum(axis=-1) == len(values)).all()
        assert (windows.sum(axis=1) == rows).all()
        assert not reference[..., cells.unseen].any()
        # what the new reference lacks is unseen in the new window
        known = np.broadcast_to(reference, windows.shape)[:, : cells.unseen] > 0
        if len(samplers(cells, rows)) == 1 and reference.ndim == 2:
            assert not windows[:, : cells.unseen][~known].any()


# --- tails


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.25, 0.5])
def test_pareto_fit_finds_scipys_parameters(shape: float) -> None:
    sample = stats.genpareto(shape, scale=3.0).rvs(size=40_000, random_state=2)
    found, scale = generalised_pareto(sample)
    assert found == pytest.approx(shape, abs=0.03)
    assert scale == pytest.approx(3.0, rel=0.04)


@given(
    st.floats(-1.0, 0.9), st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(0, 1e300)
)
def test_survival_is_scipys(shape: float, excesses: list[float], far: float) -> None:
    x = np.array([0.0, *excesses, far, abs(1 / shape) if shape else 1.0])
    with np.errstate(over="ignore"):  # SciPy's
        assert pareto_survival(x, shape).tolist() == stats.genpareto.sf(x, shape).tolist()


@pytest.mark.parametrize(
    ("law", "power"),
    [(stats.chi2(14), 1), (stats.chi(14), 2), (stats.kstwobign(), 2), (stats.expon(), 1)],
)
def test_fitted_quantiles_are_near_scipys_far_in_the_tail(law: Any, power: int) -> None:
    """A sample of 4,000 gives the 1e-6 quantile rather too high than too low."""
    ratios = []
    for seed in range(30):
        null = Null(null_quantiles(law.rvs(size=4_000, random_state=seed), power), power)
        assert null.upper(0.01) == pytest.approx(law.isf(0.01), rel=0.1)
        ratios.append(null.upper(1e-6) / law.isf(1e-6))
    assert 1.0 < np.mean(ratios) < 1.3
    assert 0.95 < np.median(ratios) < 1.2
    assert np.quantile(ratios, 0.1) > 0.85


def test_fitted_tail_agrees_with_brute_force() -> None:
    """The threshold for 1e-4 from 4,000 windows, on 200,000 others."""
    cells = cells_of(np.random.default_rng(3).normal(size=1_000), name="x")
    sampler = samplers(cells, 1_000)[0]
    metrics = [m for m, d in REGISTRY.drift.items() if Kind.CONTINUOUS in d.kinds]
    _, nulls = calibration_of(cells).nulls("x", 1_000)
    rng = np.random.default_rng(4)
    above = dict.fromkeys(metrics, 0)
    for _ in range(50):
        reference, windows = sampler(4_000, rng)
        for metric in metrics:
            values = REGISTRY.drift[metric].bind(cells).distance(reference, windows)
            above[metric] += int((values > nulls[metric].upper(1e-4)).sum())
    # 20 are expected; the fit's own error is a factor of two each way
    assert all(2 <= n <= 55 for n in above.values()), above


def test_a_constant_statistic_gives_itself() -> None:
    assert (null_quantiles(np.full(100, 0.25), 2) == 0.25).all()
    assert np.isnan(null_quantiles(np.array([0.1, np.nan]), 2)).all()


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3]) | st.floats(0, 10), min_size=40, max_size=200),
    st.floats(1e-9, 0.9),
    st.floats(0, 12),
)
@settings(max_examples=150, deadline=None)
def test_p_value_and_threshold_agree(sample: list[float], level: float, value: float) -> None:
    null = Null(null_quantiles(np.array(sample), 2), 2)
    upper = null.upper(level)
    if value > upper * (1 + 1e-9) + 1e-12:
        assert null.p_value(value) <= level * (1 + 1e-9)
    elif value < upper * (1 - 1e-9) - 1e-12:
        assert null.p_value(value) >= level * (1 - 1e-9)
    assert 1e-12 <= null.p_value(value) <= 1


# --- levels


def test_effective_tests_of_equal_and_of_independent_methods() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=20_000)
    assert effective_tests(np.stack([values, values * 2, np.exp(values)])) == 1.0
    assert effective_tests(rng.normal(size=(3, 20_000))) == pytest.approx(3, abs=0.3)


def test_sidak_joins_independent_levels() -> None:
    level = sidak(1e-4, 20)
    assert 1 - (1 - Fraction(level)) ** 20 == pytest.approx(1e-4, rel=1e-9)


def test_a_family_of_independent_columns_alarms_at_the_stated_rate() -> None:
    rng = np.random.default_rng(6)
    alarms, number = 0, 300
    draws: list[Draw] = [
        lambda rng, n: rng.normal(size=n),
        lambda rng, n: rng.lognormal(size=n),
        lambda rng, n: rng.poisson(3, n).astype(float),
    ]
    for i in range(number // 5):
        columns = [cells_of(d(rng, 1_000), name=f"{i}-{j}") for j, d in enumerate(draws)]
        labels = rng.choice(list("abcd"), 1_000, p=[0.5, 0.3, 0.15, 0.05])
        columns.append(cells_of(labels, Kind.CATEGORICAL, name=f"{i}-labels"))
        everything = [
            *draws,
            lambda rng, n: rng.choice(list("abcd"), n, p=[0.5, 0.3, 0.15, 0.05]),
        ]
        calibration = calibration_of(*columns, false_alarms=0.1, replicates=600)
        fired = np.zeros(5, dtype=bool)
        for cells, draw in zip(columns, everything, strict=True):
            level, nulls = calibration.nulls(cells.column.name, 178)
            windows = windows_of(cells, draw, rng, 178, 5)
            for metric, null in nulls.items():
                values = REGISTRY.drift[metric].bind(cells).distance(cells.values, windows)
                fired |= values > null.upper(level)
        alarms += int(fired.sum())
    low, high = stats.binom.interval(0.9998, number, 0.1)
    assert low <= alarms <= high


@pytest.mark.parametrize("shares", [np.ones(200), 1 / np.arange(1, 301)])
def test_many_rare_categories_alarm_at_most_at_the_stated_rate(shares: FloatArray) -> None:
    """Five rows a category and fewer, where a bootstrap of the reference alone alarms always."""
    rng = np.random.default_rng(len(shares))
    shares = shares / shares.sum()
    metrics = [m for m, d in REGISTRY.drift.items() if Kind.CATEGORICAL in d.kinds]
    alarms, number = dict.fromkeys(metrics, 0), 0
    for i in range(25):
        cells = cells_of(rng.choice(len(shares), 1_000, p=shares), Kind.CATEGORICAL, name=str(i))
        _, nulls = calibration_of(cells, replicates=600).nulls(str(i), 100)
        draw: Draw = lambda rng, n: rng.choice(len(shares), n, p=shares)  # noqa: E731
        windows = windows_of(cells, draw, rng, 100, 40)
        number += len(windows)
        for metric in metrics:
            values = REGISTRY.drift[metric].bind(cells).distance(cells.values, windows)
            alarms[metric] += int((values > nulls[metric].upper(0.01)).sum())
    assert all(n <= 2.5 * 0.01 * number for n in alarms.values()), alarms


# --- between grid points, restarts, replicas


@pytest.mark.parametrize("rows", [130, 750, 4_321])
def test_thresholds_between_grid_points_are_those_of_their_own_rows(rows: int) -> None:
    cells = cells_of(np.random.default_rng(7).lognormal(size=3_000), name="x")
    _, nulls = calibration_of(cells).nulls("x", rows)
    reference, windows = samplers(cells, rows)[0](8_000, np.random.default_rng(8))
    for metric, null in nulls.items():
        values = REGISTRY.drift[metric].bind(cells).distance(reference, windows)
        low, high = stats.binom.interval(0.9999, 8_000, 0.05)
        assert 0.8 * low <= int((values > null.upper(0.05)).sum()) <= 1.2 * high, metric


def test_replicas_agree_and_a_restart_computes_nothing_anew() -> None:
    cells = cells_of(np.random.default_rng(9).normal(size=500), name="x")
    one, other = calibration_of(cells, replicates=500), calibration_of(cells, replicates=500)
    other.nulls("x", 2_000)
    level, nulls = one.nulls("x", 130)
    again_level, again = other.nulls("x", 130)
    assert level == again_level
    for metric, null in nulls.items():
        np.testing.assert_array_equal(null.quantiles, again[metric].quantiles)
    restarted = calibration_of(cells, replicates=1)  # one replicate could not give the same
    restarted.recall(one.arrays())
    assert restarted.nulls("x", 130)[1]["psi"].upper(1e-5) == nulls["psi"].upper(1e-5)


@pytest.mark.parametrize("steps", [1, 5, None])
def test_thresholds_in_steps_and_at_once_are_the_same(steps: int | None) -> None:
    """A step is short, whatever else is prepared or asked for in between."""
    cells = cells_of(np.random.default_rng(9).normal(size=500), name="x")
    other = cells_of(np.random.default_rng(10).normal(size=500), name="y")
    _, expected = calibration_of(cells, other).nulls("x", 2_000)
    calibration = calibration_of(cells, other)
    done = 0
    while calibration.prepare("x", 2_000) and done != steps:
        done += 1
    assert bool(calibration.arrays()) == (steps is None)
    assert done > 20 or done == steps
    calibration.prepare("y", 2_000)
    _, found = calibration.nulls("x", 2_000)
    for metric, null in expected.items():
        np.testing.assert_array_equal(found[metric].quantiles, null.quantiles)
    assert calibration.prepare("x", 2_000) is False


def test_a_reference_without_values_has_no_threshold() -> None:
    cells = cells_of(np.array([np.nan, np.nan]), name="x")
    calibration = calibration_of(cells)
    level, nulls = calibration.nulls("x", 100)
    assert math.isnan(level)
    assert all(math.isnan(n.upper(0.01)) and math.isnan(n.p_value(0.3)) for n in nulls.values())
    assert not calibration.arrays()


def test_one_odd_row_is_no_drift_of_a_constant_column() -> None:
    cells = cells_of(np.zeros(1_000), name="x")
    _, nulls = calibration_of(cells).nulls("x", 1_000)
    windows = np.stack([counts_of(cells, np.r_[np.zeros(1_000 - n), np.ones(n)]) for n in (1, 50)])
    few, many = (
        float(v)
        for v in REGISTRY.drift["kolmogorov_smirnov"]
        .bind(cells)
        .distance(cells.values, windows[:, : cells.size])
    )
    assert few < nulls["kolmogorov_smirnov"].upper(1e-4) < many


def test_levels_reach_from_one_to_1e_12() -> None:
    assert LEVELS[0] == 1
    assert LEVELS[-1] == pytest.approx(1e-12)


# --- shares and means


@pytest.mark.parametrize(
    ("n", "a", "b"),
    [(100, 0.5, 1_000.5), (1_000, 2, 999), (5_000, 300.5, 700.5), (20_000, 50, 10), (60_000, 9, 9)],
)
@pytest.mark.parametrize("level", [0.3, 1e-3, 1e-6])
def test_greatest_count_is_the_beta_binomial_quantile(
    n: int, a: float, b: float, level: float
) -> None:
    law = stats.betabinom(n, a, b)
    found = greatest_count(n, a, b, level)
    above = law.pmf(np.arange(found, n + 1))
    assert above[1:].sum() <= level * (1 + 1e-6)
    assert above.sum() > level * (1 - 1e-6) or found == 0
    assert count_above(found, n, a, b) == pytest.approx(above[1:].sum(), rel=1e-6)


@pytest.mark.parametrize("n", [10**6, 10**7])
def test_ten_million_rows_agree_with_the_limit_laws(n: int) -> None:
    """Far more rows than the reference: the share is Beta(a, b); far fewer: it is binomial."""
    k = greatest_count(n, 40, 60, 1e-5)
    assert k / n == pytest.approx(stats.beta(40, 60).isf(1e-5), rel=1e-3)
    k = greatest_count(n, 0.3e14, 0.7e14, 1e-5)
    assert k == pytest.approx(stats.binom(n, 0.3).isf(1e-5), abs=2)


@given(
    st.floats(1e-9, 0.9), st.floats(-50, 50), st.floats(-8, 8) | st.sampled_from([0.0, 1e-6, -1e-6])
)
def test_the_skew_laws_quantile_and_tail_are_scipys(
    level: float, z: float, skewness: float
) -> None:
    law = stats.pearson3(skewness)
    assert pearson3(level, z, skewness) == (law.isf(level), law.sf(z))


@pytest.mark.parametrize("rows", [100, 1_000])
def test_means_of_skew_scores_alarm_at_the_stated_rate(rows: int) -> None:
    rng = np.random.default_rng(rows)
    law = stats.beta(0.5, 6)  # skewness 1.7
    edges = np.linspace(0, 1, 201)[1:-1]
    column = cells_of([0.0], role=Role.DERIVED).column
    alarms, references, windows, level = 0, 500, 25, 0.01
    for _ in range(references):
        values = law.rvs(size=2_000, random_state=rng)
        codes = np.searchsorted(edges, values, "right")
        counts = np.bincount(codes, minlength=203)
        points = np.bincount(codes, values, 200) / np.maximum(counts[:200], 1)
        cells = Cells(column, edges, points, (), counts, None)
        means = law.rvs(size=(windows, rows), random_state=rng).mean(axis=1)
        m = Measured(REGISTRY.row["outlier_score"].definition, "s", "", "s", float(means[0]), rows)
        limit = mean_limit(cells, m, level)
        alarms += int((means > limit.upper).sum())
        assert (limit.p_value < level) == (means[0] > limit.upper)
    # windows of one reference alarm together: more than the binomial's spread
    expected = references * windows * level
    assert expected - 50 < alarms < expected + 50


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97, 0.995])
@pytest.mark.parametrize("rows", [100, 1_000, 10_000])
def test_a_share_that_states_its_spread_alarms_at_most_at_the_stated_rate(
    share: float, rows: int
) -> None:
    accuracy = Definition("accuracy", "realized_performance", 0.0, 1.0, "")
    spread = math.sqrt(share * (1 - share) / rows)
    for level in (1e-2, 1e-4, 1e-6):
        m = Measured(accuracy, "accuracy", "", "", share, rows, expected=share, spread=spread)
        limit = spread_limit(m, level)
        below = stats.binom.cdf(math.ceil(limit.lower * rows) - 1, rows, share)
        above = 0.0
        if not math.isnan(limit.upper):
            above = stats.binom.sf(math.floor(limit.upper * rows), rows, share)
        assert below + above <= 1.25 * level  # a bound falls on whole counts
        at = msgspec.structs.replace(m, value=limit.lower)
        assert spread_limit(at, level).p_value == pytest.approx(level, rel=1e-6)
