"""Where a column has changed: what gained and lost, and how much of the distance that explains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import rel_entr

from stream_monitor.cells import Cells
from stream_monitor.expose.histograms import bars
from stream_monitor.schema import IntArray

_SHOWN = 0.005  # parts that explain less are left out


@dataclass(frozen=True, slots=True)
class Change:
    """A value or range of a column, its shares in reference and window, each in [0, 1].

    ``explains`` is its part of the Jensen–Shannon divergence of the two over all such ranges:
    (p log(p/m) + q log(q/m)) / Σ, with m = (p + q) / 2; parts are at least 0 and sum to 1.
    """

    label: str
    reference: float
    window: float
    explains: float


def changes(cells: Cells, counts: IntArray, most: int = 5) -> list[Change]:
    """The ranges that explain most, greatest first.

    Ranges are the bars that the status page draws. Neighbours that changed in the same direction
    are one range of a continuous column.

    Parameters
    ----------
    counts : int64[slots] of a window

    Returns
    -------
    At most ``most`` of them; none where either side has no values or nothing has changed.
    """
    drawn = bars(cells, {"window": counts})
    p, q = (np.array(drawn["shares"][name]) for name in ("reference", "window"))
    labels = list(drawn["labels"])
    if not p.sum() or not q.sum():
        return []
    if cells.column.continuous:
        labels, p, q = _runs(labels, p, q)
    m = (p + q) / 2
    terms = rel_entr(p, m) + rel_entr(q, m)
    total = terms.sum()
    if total <= 0:
        return []
    order = np.argsort(-terms, kind="stable")[:most]
    found = [Change(labels[i], float(p[i]), float(q[i]), float(terms[i] / total)) for i in order]
    return [change for change in found if change.explains >= _SHOWN]


def _runs(
    labels: list[str],
    p: np.ndarray[tuple[int], np.dtype[np.float64]],
    q: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> tuple[
    list[str],
    np.ndarray[tuple[int], np.dtype[np.float64]],
    np.ndarray[tuple[int], np.dtype[np.float64]],
]:
    """Neighbouring bars between which the direction of the change stays, as one."""
    direction = np.sign(q - p)
    starts = np.flatnonzero(np.append(True, direction[1:] != direction[:-1]))
    ends = np.append(starts[1:], len(p))
    names = [_span(labels[a], labels[b - 1]) for a, b in zip(starts, ends, strict=True)]
    return names, np.add.reduceat(p, starts), np.add.reduceat(q, starts)


def _span(first: str, last: str) -> str:
    """The name of what lies from one bar to another."""
    if first == last:
        return first
    low, high = first.partition(" … ")[0], last.rpartition(" … ")[2]
    if first.startswith("<"):
        return "all values" if last.startswith((">", "≥")) else f"< {high}"
    if last.startswith((">", "≥")):
        return f"≥ {low}"
    return f"{low} … {high}"


def sentence(found: list[Change]) -> str:
    """The two greatest changes in words; empty without any."""
    parts = [
        f"{c.label}: {c.reference:.1%} → {c.window:.1%} ({c.explains:.0%} of the change)"
        for c in found[:2]
    ]
    return "; ".join(parts)
