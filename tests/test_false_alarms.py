"""Calibrated thresholds keep their promise: the measured rate of false alarms is the stated one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from stream_monitor.alerts.calibration import Calibration
from stream_monitor.alerts.rates import share_limit
from stream_monitor.cells import coarsened
from stream_monitor.methods import REGISTRY
from stream_monitor.methods.base import Measured
from stream_monitor.reference.columns import coarse_edges
from stream_monitor.schema import Kind
from tests.building import cells_of, counts_of

WINDOWS = 200
LEVEL = 0.05
FLOAT = frozenset({Kind.CONTINUOUS})

Draw = Callable[[np.random.Generator, int], Any]
WORLDS: dict[str, tuple[Kind, Draw]] = {
    "normal": (Kind.CONTINUOUS, lambda rng, n: rng.normal(size=n)),
    "zero-inflated": (
        Kind.CONTINUOUS,
        lambda rng, n: np.where(rng.random(n) < 0.5, 0.0, rng.exponential(size=n)),
    ),
    "categories": (Kind.CATEGORICAL, lambda rng, n: rng.choice(list("abcdefgh"), n)),
}


def measured(kind: Kind, draw: Draw, size: int, rows: int) -> dict[str, int]:
    """Windows without drift in which a method, or any of them, lies above its threshold.

    Small references are drawn anew for every window: their own noise is part of the promise, and
    windows that share a reference would not be independent.
    """
    rng = np.random.default_rng([size, rows])
    references = WINDOWS if size <= 1_000 else 4
    alarms = dict.fromkeys([*(m for m, d in REGISTRY.drift.items() if kind in d.kinds), "any"], 0)
    for _ in range(references):
        cells = cells_of(draw(rng, size), kind)
        bound = {
            (cells.column.name, m): d.bind(cells)
            for m, d in REGISTRY.drift.items()
            if kind in d.kinds
        }
        powers = {m: d.tail_power for m, d in REGISTRY.drift.items()}
        calibration = Calibration(
            {cells.column.name: cells}, bound, powers, false_alarms=LEVEL, replicates=1_000
        )
        joint, nulls = calibration.nulls(cells.column.name, rows)
        for _ in range(WINDOWS // references):
            window = counts_of(cells, draw(rng, rows))[: cells.size]
            values = {m: float(b.distance(cells.values, window)) for (_, m), b in bound.items()}
            for metric, value in values.items():
                alarms[metric] += value > nulls[metric].upper(LEVEL)
            alarms["any"] += any(v > nulls[m].upper(joint) for m, v in values.items())
    return alarms


@pytest.mark.parametrize("rows", [100, 1_000, 10_000])
@pytest.mark.parametrize("size", [1_000, 100_000])
@pytest.mark.parametrize("world", WORLDS)
def test_false_alarms_come_at_the_stated_rate(world: str, size: int, rows: int) -> None:
    kind, draw = WORLDS[world]
    alarms = measured(kind, draw, size, rows)
    low, high = stats.binom.interval(0.9998, WINDOWS, LEVEL)
    print(world, size, rows, {m: f"{n / WINDOWS:.3f}" for m, n in alarms.items()})
    assert all(n <= high for n in alarms.values()), alarms
    # a statistic of few rows takes few values, so its rate may stay below what is allowed
    if rows >= 1_000:
        assert all(n >= low for n in alarms.values()), alarms


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5])
@pytest.mark.parametrize("rows", [100, 1_000, 10_000])
def test_shares_alarm_at_most_at_the_stated_rate(share: float, rows: int) -> None:
    rng = np.random.default_rng(rows)
    method = REGISTRY.share["missing_values"]
    alarms = 0
    for _ in range(WINDOWS):
        reference = np.where(rng.random(1_000) < share, np.nan, 1.0)
        cells = cells_of(reference, Kind.CONTINUOUS)
        value = rng.binomial(rows, share) / rows
        limit = share_limit(
            method, cells, Measured(method.definition, "m", "x", "x", value, rows), LEVEL
        )
        alarms += value > limit.upper or value < limit.lower
    assert alarms <= stats.binom.isf(1e-4, WINDOWS, LEVEL)


def test_p_values_and_thresholds_agree() -> None:
    rng = np.random.default_rng(1)
    cells = cells_of(rng.normal(size=5_000), Kind.CONTINUOUS)
    name = cells.column.name
    bound = {(name, "psi"): REGISTRY.drift["psi"].bind(cells)}
    calibration = Calibration({name: cells}, bound, {"psi": 1}, false_alarms=1e-4)
    _, nulls = calibration.nulls(name, 777)
    for level in (0.3, 1e-2, 1e-4, 1e-7):
        limit = nulls["psi"].upper(level)
        assert nulls["psi"].p_value(limit * 1.000001) < level * 1.01
        assert nulls["psi"].p_value(limit * 0.999999) > level * 0.99
    again = Calibration({name: cells}, bound, {"psi": 1}, false_alarms=1e-4)
    assert again.nulls(name, 777)[1]["psi"].upper(1e-4) == nulls["psi"].upper(1e-4)


@pytest.mark.parametrize("rows", [100, 1_000])
def test_segments_alarm_at_most_at_the_stated_rate(rows: int) -> None:
    """A segment of a tenth of the traffic, unlike the rest, in its coarse cells."""
    rng = np.random.default_rng(rows)
    alarms = 0
    for _ in range(WINDOWS):
        own = rng.normal(1.0, 0.5, 1_000)
        fine = cells_of(np.concatenate([rng.normal(size=9_000), own]), Kind.CONTINUOUS)
        whole, _ = coarsened(fine, coarse_edges(fine, REGISTRY))
        cells = replace(whole, counts=counts_of(whole, own))
        name = cells.column.name
        bound = {(name, m): d.bind(cells) for m, d in REGISTRY.drift.items() if d.kinds & FLOAT}
        powers = {m: d.tail_power for m, d in REGISTRY.drift.items()}
        calibration = Calibration(
            {name: cells}, bound, powers, false_alarms=LEVEL, replicates=1_000
        )
        joint, nulls = calibration.nulls(name, rows)
        window = counts_of(cells, rng.normal(1.0, 0.5, rows))[: cells.size]
        values = {m: float(b.distance(cells.values, window)) for (_, m), b in bound.items()}
        alarms += any(v > nulls[m].upper(joint) for m, v in values.items())
    print(rows, alarms / WINDOWS)
    assert alarms <= stats.binom.isf(1e-4, WINDOWS, LEVEL)
