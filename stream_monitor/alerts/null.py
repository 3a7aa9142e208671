"""Windows without drift, resampled from a column's reference.

A window is compared with a *sample*, so what is normal for it has two noises: the window's own and
the reference's. Both are in the posterior predictive distribution of a window's counts given the
reference's: cell masses drawn from a Dirichlet distribution (Rubin 1981, "The Bayesian bootstrap"),
then a multinomial window of these masses.

The bootstrap never shows what the reference has not shown. New data do, at a rate that the
reference tells: :func:`weights` moves that much mass to where nothing was seen.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import stats

from stream_monitor.cells import Cells, Summary
from stream_monitor.schema import FloatArray, IntArray

_TAIL_SHARE = 0.05  # of the reference's values tell how far beyond its extremes new ones lie
_TAIL_LEAST = 10


def weights(cells: Cells) -> FloatArray:
    """Parameters of the Dirichlet distribution of the value cells' masses.

    Their sum is that of the counts, up to one more for each extreme that occurs once.

    Continuous columns: n values drawn from a continuous distribution cut the line into n + 1
    spacings whose masses are jointly Dirichlet(1, …, 1) (Wilks 1962, "Mathematical Statistics",
    8.7). So the two outermost weigh 1 each, and lie in the cells beyond the range as a generalised
    Pareto tail fitted to the outer twentieth of the reference says; of an inner spacing, the part
    that lies in cells without values is taken from the two cells beside them. A single value that
    occurs repeatedly (a count, a bound) has no spacing of its own: nothing lies beyond or beside
    it.

    Categorical columns: unseen categories weigh f₁, the number of categories that the reference
    has once (Good 1953), and all seen ones f₁ / K less each: the Pitman–Yor process with the
    discount f₁ / K (Pitman & Yor 1997).

    A reference with one occupied cell says nothing about change but that it is rare: the cells
    beside it (or the unseen one) weigh 1/2, Jeffreys' prior.

    Returns
    -------
    float64[K], at least 0; all 0 for a reference without values.
    """
    counts = cells.values.astype(np.float64)
    occupied = np.flatnonzero(counts)
    if not len(occupied):
        return counts
    if cells.summary is None:
        once = np.count_nonzero(counts[: cells.unseen] == 1)
        counts[occupied] -= once / len(occupied)
        counts[cells.unseen] += once or (0.5 if len(occupied) == 1 else 0.0)
        return counts
    if len(occupied) == 1 and cells.summary.n > 1 and cells.summary.minimum_count > 1:
        beside = np.clip([occupied[0] - 1, occupied[0] + 1], 0, cells.size - 1)
        counts[beside[beside != occupied[0]]] += 0.5 / 2
        return counts
    moved = _inner(counts, occupied, cells.edges)
    if cells.summary.minimum_count == 1:
        _beyond(moved, occupied[0], -cells.edges[::-1], _mirrored(cells.summary), reverse=True)
    if cells.summary.maximum_count == 1:
        _beyond(moved, occupied[-1], cells.edges, cells.summary.sample, reverse=False)
    return moved


def _inner(counts: FloatArray, occupied: IntArray, edges: FloatArray) -> FloatArray:
    """Weights with the spacings between occupied cells shared with the empty cells in them."""
    found = counts.copy()
    width = np.concatenate([[np.inf], np.diff(edges), [np.inf]])
    value = np.concatenate([[False], edges[1:] == np.nextafter(edges[:-1], np.inf), [False]])
    for left, right in pairwise(occupied):
        if right - left == 1:
            continue
        empty = edges[right - 1] - edges[left]
        for side in (left, right):
            if not (value[side] and counts[side] > 1):
                # a cell's outermost value is expected 1 / (count + 1) of its width from its edge
                part = 0.5 * empty / (empty + width[side] / (counts[side] + 1))
                found[side] -= part
                found[left + 1 : right] += part * width[left + 1 : right] / empty
    return found


def _mirrored(summary: Summary) -> FloatArray:
    return -summary.sample[::-1]


def _beyond(
    found: FloatArray, last: int, edges: FloatArray, sample: FloatArray, *, reverse: bool
) -> None:
    """Put the outermost spacing, weight 1, into the cells above the greatest value.

    ``edges`` and ``sample`` are mirrored for the cells below the least one (``reverse``).
    """
    view = found[::-1] if reverse else found
    first = len(found) - 1 - last if reverse else last
    view[first] -= min(0.5, view[first])
    if first == len(found) - 1:
        view[first] += 1.0
        return
    number = min(max(int(_TAIL_SHARE * len(sample)), _TAIL_LEAST), len(sample) - 1)
    above = sample[len(sample) - number :] - sample[-1 - number] if number else np.zeros(1)
    shape, scale = generalised_pareto(above)
    # the excess over a higher threshold is of the same shape (Pickands 1975)
    reach = max(scale + shape * above[-1], above.mean() / len(above))
    lower = np.maximum(edges[first:] - sample[-1], 0.0)
    survival = stats.genpareto.sf(lower / reach, shape) if reach > 0 else (lower <= 0) * 1.0
    survival[0] = 1.0
    view[first + 1 :] += survival - np.append(survival[1:], 0.0)


def generalised_pareto(
    excesses: FloatArray, *, least: float = -1.0, most: float = 0.9
) -> tuple[float, float]:
    """Shape ξ and scale σ of the generalised Pareto distribution of excesses over a threshold.

    By probability-weighted moments (Hosking & Wallis 1987, "Parameter and quantile estimation for
    the generalized Pareto distribution", plotting positions (i − 0.35) / k; their shape has the
    other sign). ξ is clipped to [least, most]; σ then follows from the mean, σ = (1 − ξ) mean.
    All excesses 0 gives (0, 0).
    """
    ordered = np.sort(excesses)
    mean = float(ordered.mean())
    if mean <= 0:
        return 0.0, 0.0
    rank = (np.arange(1, len(ordered) + 1) - 0.35) / len(ordered)
    weighted = float(((1 - rank) * ordered).mean())
    spread = mean - 2 * weighted
    shape = 2 - mean / spread if spread > 0 else least
    shape = min(max(shape, least), most)
    return shape, mean * (1 - shape)


def null_counts(
    weight: FloatArray, rows: int, replicates: int, rng: np.random.Generator
) -> IntArray:
    """Counts of windows without drift.

    Parameters
    ----------
    weight : float64[K]
        From :func:`weights`, not all 0.
    rows
        Values in each window.

    Returns
    -------
    int64[replicates, K]; each row sums to ``rows``.
    """
    used = np.flatnonzero(weight)
    masses = rng.standard_gamma(weight[used], (replicates, len(used)))
    masses /= masses.sum(axis=1, keepdims=True)
    counts = np.zeros((replicates, len(weight)), dtype=np.int64)
    counts[:, used] = rng.multinomial(rows, masses)
    return counts
