"""What is not known of the calibration curve, because the reference has only so many labels."""

from __future__ import annotations

import numpy as np

from stream_monitor.methods.performance.calibration import pooled
from stream_monitor.methods.performance.metrics import Sums, ranking_slopes
from stream_monitor.methods.performance.panel import Panel
from stream_monitor.methods.performance.scores import ScoreCells
from stream_monitor.schema import FloatArray, IntArray

RANGES = 20  # of each score, of equal reference mass, in which a curve's errors are averaged
_DRAWS = 100
_SEED = 20_010_227


def bootstrapped(
    labels: FloatArray,
    codes: IntArray,
    used: FloatArray,
    cells: ScoreCells,
    places: IntArray,
) -> FloatArray:
    """How far calibration curves of redrawn references are from the one that is used.

    The scores stay, the labels are drawn anew from the isotonic regression of the reference's own
    on the cells: one class a row, so that the errors of several score columns belong together. That
    repeats both the noise of a curve and its overfitting, by which estimates of few rows come out
    too good (resampled rows repeat less of it). The differences are averaged over the reference's
    rows in a range; where scores are used as they are, that difference is part of them. The seed is
    fixed.

    Parameters
    ----------
    labels : float64[S, n], 0 or 1
    codes : int64[S, n]
    used : float64[S, n]
        The probability of each score's class, before those of a row are made to sum to 1.
    places : int64[cells of all columns], the range of each cell

    Returns
    -------
    float64[B, S, RANGES]
    """
    random = np.random.default_rng(_SEED)
    columns, n = labels.shape
    totals = cells.sums(codes, np.ones(codes.shape))
    curve = cells.sums(codes, used) / np.maximum(totals, 1.0)
    chances = _curves(cells, cells.sums(codes, labels), totals)[codes]
    if columns > 1:
        chances /= np.maximum(chances.sum(axis=0), np.finfo(np.float64).tiny)
    upper = np.cumsum(chances, axis=0)
    lower = upper - chances
    spots = places + RANGES * np.repeat(np.arange(columns), np.diff(cells.starts))
    size = columns * RANGES
    mass = np.bincount(spots, totals, size)
    found = np.zeros((_DRAWS, size))
    for b in range(_DRAWS):
        at = random.random(n)
        drawn = ((lower <= at) & (at < upper)).astype(np.float64)
        moved = _curves(cells, cells.sums(codes, drawn), totals) - curve
        found[b] = np.bincount(spots, moved * totals, size)
    found /= np.maximum(mass, 1.0)
    return found.reshape(_DRAWS, columns, RANGES)


def _curves(cells: ScoreCells, positives: FloatArray, totals: FloatArray) -> FloatArray:
    every = zip(cells.split(positives), cells.split(totals), strict=True)
    return np.concatenate([pooled(p, n) for p, n in every])


def standard_errors(
    panel: Panel,
    cells: ScoreCells,
    part: Sums,
    *,
    places: IntArray,
    pairs: FloatArray,
    draws: FloatArray,
) -> FloatArray:
    """Standard errors of a window's estimates because the calibration curve was learned.

    To first order: the metrics' derivatives by the probabilities, times the draws' differences,
    root mean square over draws. In shares, as a panel has its deviations.

    Parameters
    ----------
    part : the window's sums in shares
    places : int64[cells of all columns]
    pairs : float64[S, K, RANGES]
        Shares of the window's rows by column, predicted class and range.
    draws : float64[B, S, RANGES]

    Returns
    -------
    float64[M]
    """
    slopes = np.zeros((2, *draws.shape[1:]))
    columns = zip(
        ranking_slopes(part), part.totals, np.split(places, cells.starts[1:-1]), strict=True
    )
    for i, ((positive, negative), totals, own) in enumerate(columns):
        for metric, values in enumerate((positive - negative) * totals):
            slopes[metric, i] = np.bincount(own, values, RANGES)
    ranked: FloatArray = np.sqrt((np.einsum("msr,bsr->mb", slopes, draws) ** 2).mean(axis=1))
    if not panel.paired:
        return ranked
    moved = np.einsum("sjr,bsr->bsj", pairs, draws)
    if panel.binary:
        moved = np.concatenate([-moved, moved], axis=1)
    else:
        # the probabilities of a row still sum to 1
        predicted = part.matrix.sum(axis=0)
        none = np.zeros_like(part.matrix)
        of_class = np.divide(part.matrix, predicted, out=none, where=predicted > 0)
        moved = moved - of_class * moved.sum(axis=1, keepdims=True)
    return np.concatenate([ranked, panel.moved(part.matrix, moved)])
