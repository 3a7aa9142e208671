"""A column's counts as the few bars that a picture has room for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from stream_monitor.cells import Cells, Summary
from stream_monitor.methods.binning import sorted_quantiles
from stream_monitor.schema import FloatArray, IntArray

BARS = 40
_CATEGORIES = 12

Regroup = Callable[[IntArray], FloatArray]


def bars(cells: Cells, windows: Mapping[str, IntArray]) -> dict[str, Any]:
    """Shares of the values a bar, of the reference and of windows over the same bars.

    Continuous: a bar for each of at most 38 distinct reference values, else up to 38 bars of equal
    width between the reference's 0.1 % and 99.9 % quantile; a cell that lies in several bars is
    split evenly over its width. One bar more on each side holds everything beyond.
    Categorical: the 12 categories with the greatest share in the reference or a window, all
    others, unseen ones.

    Parameters
    ----------
    windows
        int64[slots] by name; windows without counts are left out.

    Returns
    -------
    ``labels``, a name for each bar, and ``shares``: for ``reference`` and each window float[bars]
    between 0 and 1, rounded to five digits; all 0 where there are no values.
    """
    if cells.column.continuous:
        labels, regroup = _continuous(cells)
    else:
        labels, regroup = _categorical(cells, windows)
    counts = {"reference": cells.counts, **windows}
    return {
        "labels": labels,
        "shares": {name: _shares(regroup(c[: cells.size])) for name, c in counts.items()},
    }


def _shares(counts: FloatArray) -> list[float]:
    total = counts.sum()
    shares: list[float] = np.round(counts / total if total else counts, 5).tolist()
    return shares


def _continuous(cells: Cells) -> tuple[list[str], Regroup]:
    summary = cells.summary
    if summary is None or not summary.n or not len(cells.edges):
        return ["all values"], lambda counts: np.array([float(counts.sum())])
    bounds, labels = _bounds(cells, summary)

    def regroup(counts: IntArray) -> FloatArray:
        below = np.interp(bounds, cells.edges, np.cumsum(counts)[:-1])
        total = np.array([float(counts.sum())])
        shares: FloatArray = np.diff(np.concatenate([[0.0], below, total]))
        return shares

    return labels, regroup


def _bounds(cells: Cells, summary: Summary) -> tuple[FloatArray, list[str]]:
    """Where one bar ends and the next begins, and the bars' names."""
    distinct = summary.distinct
    if 0 < len(distinct) <= BARS - 2 and np.isin(distinct, cells.edges).all():
        middle = distinct[:-1] / 2 + distinct[1:] / 2
        # each value has a cell of its own there, which must not be split
        bounds = np.concatenate([distinct[:1], middle, np.nextafter(distinct[-1:], np.inf)])
        names = [_text(value) for value in distinct]
        return bounds, [f"< {names[0]}", *names, f"> {names[-1]}"]
    low, high = sorted_quantiles(summary.sample, np.array([0.001, 0.999]))
    if low == high:
        low, high = summary.minimum, summary.maximum
    if low == high:
        low, high = low - 0.5, high + 0.5
    bounds = np.linspace(low, high, BARS - 1)
    if unit := _unit(distinct):
        # whole units a bar, or bars would hold now two values, now three
        width = unit * math.ceil((high - low + unit) / unit / (BARS - 2))
        bounds = np.arange(low - unit / 2, high + width, width)
    names = [_text(bound) for bound in bounds]
    inner = [f"{a} … {b}" for a, b in pairwise(names)]
    return bounds, [f"< {names[0]}", *inner, f"≥ {names[-1]}"]


def _unit(distinct: FloatArray) -> float:
    """The distance that all others between the values are multiples of, 0.0 if there is none."""
    steps = np.diff(distinct)
    if not len(steps):
        return 0.0
    number = steps / steps.min()
    return float(steps.min()) if np.allclose(number, np.rint(number), atol=1e-6) else 0.0


def _text(value: float) -> str:
    """Four significant digits, without an exponent where it is readable without."""
    return f"{float(f'{value:.4g}'):,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def _categorical(cells: Cells, windows: Mapping[str, IntArray]) -> tuple[list[str], Regroup]:
    number = len(cells.categories)
    weight = np.zeros(number)
    for counts in (cells.counts, *windows.values()):
        total = max(int(counts[: cells.size].sum()), 1)
        weight = np.maximum(weight, counts[:number] / total)
    order = np.argsort(-weight, kind="stable")
    # twelve and "others" instead of thirteen; one category alone is not "others"
    kept = np.sort(order if number <= _CATEGORIES + 1 else order[:_CATEGORIES])
    labels = [cells.categories[i] for i in kept]
    group = np.full(cells.size, len(kept), dtype=np.int64)
    group[kept] = np.arange(len(kept))
    if number > len(kept):
        labels.append("others")
    group[cells.unseen] = len(labels)
    labels.append("unseen")
    return labels, lambda counts: np.bincount(group, counts, len(labels)).astype(np.float64)
