"""Windows without drift, resampled from a column's reference.

A window is compared with a *sample*, so what is normal for it has two noises: the window's own and
the reference's. There are two ways to have both, and each is right for one kind of cells.

*Predictive.* The cells of a continuous column are cut at the reference's own order statistics, so
its counts in them are no accident; the masses behind them are. So the reference stays as it is,
cell masses are drawn from a Dirichlet distribution (Rubin 1981, "The Bayesian bootstrap"), and the
window is multinomial with these masses. The bootstrap never shows what the reference has not
shown; new data do, at a rate that the reference tells: :func:`weights` moves that much mass to
where nothing was seen.

*Paired.* Categories are there before the reference is, and its counts are an accident: with many
categories of few rows, windows look nothing like a Dirichlet's around these counts. So a reference
and a window are both drawn from one estimate of the shares, and what the new reference lacks is
unseen in the new window.

Where a categorical reference has categories once, its vocabulary is not complete and neither way is
right alone: both are used and the higher threshold counts.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from scipy import special

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
    # a single value gives all of its weight away: rounding can leave less than nothing
    return np.maximum(moved, 0.0)


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
    survival = pareto_survival(lower / reach, shape) if reach > 0 else (lower <= 0) * 1.0
    survival[0] = 1.0
    view[first + 1 :] += survival - np.append(survival[1:], 0.0)


def pareto_survival(excesses: FloatArray, shape: float) -> FloatArray:
    """Of a generalised Pareto variable of scale 1, (1 + ξ x)^(−1/ξ); excesses at least 0."""
    end = -1.0 / shape if shape < 0 else np.inf
    with np.errstate(invalid="ignore"):  # beyond the end
        found = special.inv_boxcox(-excesses, -shape)
    return np.where(excesses < end, found, 0.0)


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


Sampler = Callable[[int, np.random.Generator], tuple[IntArray, IntArray]]


def samplers(cells: Cells, rows: int) -> list[Sampler]:
    """The ways to draw pairs of a reference and a window of ``rows`` values, without drift.

    Each takes a number B of pairs and a generator, and gives the references int64[K] or
    int64[B, K] and the windows int64[B, K]. Empty for a reference without values.
    """
    weight = weights(cells)
    if not weight.any():
        return []

    def predictive(number: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        return cells.values, null_counts(weight, rows, number, rng)

    seen = cells.values[: cells.unseen]
    kinds, once = np.count_nonzero(seen), np.count_nonzero(seen == 1)
    if cells.summary is not None or kinds < 2 or once == kinds:
        return [predictive]
    shares = _shares(cells)
    total = int(cells.values.sum())

    def paired(number: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        references = rng.multinomial(total, shares, size=number)
        windows = rng.multinomial(rows, shares, size=number)
        return _pooled(references, windows, cells.unseen)

    return [paired, predictive] if once else [paired]


def _shares(cells: Cells) -> FloatArray:
    """An estimate of the categories' shares, float64[K + V]: the cells', then V unseen categories.

    The seen ones are shrunk towards each other, as far as their spread may be chance (James–Stein:
    Hausser & Strimmer 2009, "Entropy inference and the James–Stein estimator", eq. 4–6). The mass
    of the unseen ones is f₁ / n and their number f₁² / 2 f₂ (Chao 1984), at most K.
    """
    found = weights(cells)
    seen = np.flatnonzero(cells.values[: cells.unseen])
    counts = cells.values[seen]
    once, twice = int(np.count_nonzero(counts == 1)), int(np.count_nonzero(counts == 2))
    part = found[seen] / found[seen].sum()
    gap = float(np.square(part - 1 / len(part)).sum())
    chance = float(1 - np.square(part).sum()) / (int(counts.sum()) - 1)
    shrink = min(1.0, chance / gap) if gap else 1.0
    found[seen] = float(found[seen].sum()) * ((1 - shrink) * part + shrink / len(part))
    if once:
        found[cells.unseen] -= once
        estimate = once**2 / (2 * twice) if twice else once * (once - 1) / 2
        number = min(max(round(estimate), 1), len(seen))
        found = np.append(found, np.full(number, once / number))
    return np.asarray(found / found.sum())


def _pooled(references: IntArray, windows: IntArray, unseen: int) -> tuple[IntArray, IntArray]:
    """Pairs of counts as if each reference's own categories were the vocabulary.

    int64[B, K + V] to int64[B, K], in another order of the categories: those that the reference
    has (should they be more than there are cells, the last cell holds the excess), then the rest
    of the window as unseen.
    """
    known = np.delete(references, unseen, axis=1)
    values = np.delete(windows, unseen, axis=1)
    lacking = known == 0
    fresh = windows[:, unseen] + np.where(lacking, values, 0).sum(axis=1)
    values[lacking] = 0
    pairs = []
    order = np.argsort(lacking, axis=1, kind="stable")
    for counts, last in ((known, references[:, unseen]), (values, fresh)):
        ordered = np.take_along_axis(counts, order, axis=1)
        ordered[:, unseen - 1] += ordered[:, unseen:].sum(axis=1)
        pairs.append(np.column_stack([ordered[:, :unseen], last]))
    return pairs[0], pairs[1]


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
