"""A column's counts as the few bars that a picture has room for."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from stream_monitor.cells import Cells
from stream_monitor.schema import FloatArray, IntArray

BARS = 40
_CATEGORIES = 12


def bars(cells: Cells, window: IntArray | None) -> dict[str, Any]:
    """Shares of the values a bar, reference and window over the same bars.

    Continuous: up to 40 bars of equal width over the central range of the reference (its 0.1 % to
    99.9 % quantile, and a tenth more on each side), everything beyond in the first and the last.
    Categorical: the 11 most frequent categories of either, all others, unseen ones.

    Returns
    -------
    ``labels`` (a bar's name), ``reference`` and ``current`` (shares of the values, 0 to 1; empty
    without a window), and ``missing`` and ``wrong_type`` as shares of the rows in the window.
    """
    group, labels = _continuous(cells) if cells.column.continuous else _categorical(cells, window)
    reference = _shares(cells.values, group, len(labels))
    current = [] if window is None else _shares(window[: cells.size], group, len(labels))
    rows = 0 if window is None else int(window.sum())
    lost = [
        0.0 if window is None or not rows else float(window[slot]) / rows
        for slot in (cells.missing, cells.wrong_type)
    ]
    return {
        "labels": labels,
        "reference": reference,
        "current": current,
        "missing": lost[0],
        "wrong_type": lost[1],
    }


def _continuous(cells: Cells) -> tuple[IntArray, list[str]]:
    summary = cells.summary
    points = cells.points
    if summary is None or not summary.n or len(points) < 2:
        return np.zeros(cells.size, dtype=np.int64), ["all values"]
    low, high = np.quantile(summary.sample, [0.001, 0.999])
    margin = (high - low) / 10 or 0.5
    edges = np.linspace(low - margin, high + margin, BARS + 1)
    if 1 < len(summary.distinct) <= BARS:
        middle = (summary.distinct[1:] + summary.distinct[:-1]) / 2
        edges = np.concatenate([[summary.minimum - 0.5], middle, [summary.maximum + 0.5]])
    group = np.clip(np.searchsorted(edges, points, side="right") - 1, 0, len(edges) - 2)
    return group.astype(np.int64), [_span(a, b) for a, b in pairwise(edges)]


def _span(low: float, high: float) -> str:
    return f"{low:.4g} … {high:.4g}"


def _categorical(cells: Cells, window: IntArray | None) -> tuple[IntArray, list[str]]:
    number = len(cells.categories)
    weight = cells.values[:number] / max(int(cells.values.sum()), 1)
    if window is not None:
        weight = weight + window[:number] / max(int(window[: cells.size].sum()), 1)
    kept = np.sort(np.argsort(-weight, kind="stable")[:_CATEGORIES])
    labels = [cells.categories[i] for i in kept]
    group = np.full(cells.size, len(kept), dtype=np.int64)
    group[kept] = np.arange(len(kept))
    if number > len(kept):
        labels.append("others")
    group[cells.unseen] = len(labels)
    return group, [*labels, "unseen"]


def _shares(values: IntArray, group: IntArray, number: int) -> list[float]:
    counted: FloatArray = np.bincount(group, values, number).astype(np.float64)
    total = counted.sum()
    shares: list[float] = (counted / total if total else counted).tolist()
    return shares
