"""Where calibration broke: rows and labels by range of the score."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np

from stream_monitor.methods.performance.metrics import Sums
from stream_monitor.methods.performance.problem import Problem
from stream_monitor.methods.performance.scores import ScoreCells
from stream_monitor.schema import FloatArray

_RANGES = 10


@dataclass(frozen=True, slots=True)
class Range:
    """One range of a class's score in a window.

    Attributes
    ----------
    label
        The class.
    low, high
        low ≤ score < high; infinite at the ends.
    rows
        The window's labelled rows in it.
    expected
        The share of the class that the reference has at these scores, weighted as the window's rows
        lie: isotonic regression of the labels, the mean calibrated probability. NaN without rows.
    observed
        The share of the class among the window's rows. NaN without rows.
    error
        Standard error of ``observed − expected`` where nothing broke: binomial, with the
        reference's own rows in the range.
    """

    label: str
    low: float
    high: float
    rows: int
    expected: float
    observed: float
    error: float


def ranges(
    problem: Problem, cells: ScoreCells, rates: FloatArray, reference: Sums, window: Sums
) -> list[Range]:
    """The ranges of every score column, rising; about ten of equal reference mass each.

    Parameters
    ----------
    rates : float64[cells of all columns], the share that the reference makes expect in a cell
    """
    found = []
    places = cells.split(cells.ranges(list(reference.totals), _RANGES).astype(np.float64))
    every = zip(problem.scored, cells.edges, cells.split(rates), places, strict=True)
    for column, (label, edges, rate, place) in enumerate(every):
        bounds = np.concatenate([[-np.inf], edges, [np.inf]])
        for number in np.unique(place):
            own = np.flatnonzero(place == number)
            counts = window.totals[column][own]
            rows, n = float(counts.sum()), float(reference.totals[column][own].sum())
            expected = float(rate[own] @ counts / rows) if rows else nan
            observed = float(window.positives[column][own].sum() / rows) if rows else nan
            likely = (expected * n + 0.5) / (n + 1)  # a rate of 0 of n rows is not known to be 0
            error = sqrt(likely * (1 - likely) * (1 / rows + 1 / n)) if rows and n else nan
            found.append(
                Range(
                    problem.classes[label],
                    float(bounds[own[0]]),
                    float(bounds[own[-1] + 1]),
                    int(rows),
                    expected,
                    observed,
                    error,
                )
            )
    return found
