"""Where to look: what in a column gained and lost, which categories are new, which scores broke."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
from scipy.special import rel_entr

from stream_monitor.cells import Cells
from stream_monitor.expose.histograms import bars
from stream_monitor.methods.outlier_features import CONTRIBUTION
from stream_monitor.methods.performance.ranges import Range
from stream_monitor.methods.performance.realized import RealizedBlock
from stream_monitor.methods.unseen_names import NAME, Names
from stream_monitor.panes.layout import Counted
from stream_monitor.reference.profile import Part
from stream_monitor.schema import FloatArray, IntArray
from stream_monitor.values import (
    CONCEPT_DRIFT,
    CONCEPT_EFFECT,
    COVARIATE_EFFECT,
    DRIFT,
    OUTLIERS,
    QUALITY,
    REALIZED,
    Value,
    note_of,
)

_SHOWN = 0.005  # parts that explain less are left out
_BROKEN = 3.0  # standard errors


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
    labels: list[str], p: FloatArray, q: FloatArray
) -> tuple[list[str], FloatArray, FloatArray]:
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


def notes(
    part: Part,
    window: Counted,
    values: Sequence[Value],
    realized: RealizedBlock | None,
) -> dict[str, str]:
    """What can be said of a window's alerts, by :func:`~stream_monitor.values.note_of`."""
    found: dict[str, str] = {}
    for value in values:
        key = note_of(value)
        if not value.alert or key in found:
            continue
        text = ""
        if value.family == DRIFT and value.feature in part.cells:
            text = sentence(changes(part.cells[value.feature], window.column(value.feature)))
        elif value.family == QUALITY and value.metric == "unseen_values":
            text = unseen(window, value.feature)
        elif value.family == OUTLIERS:
            text = isolated(values)
        elif value.family == REALIZED and realized is not None:
            text = broken(realized.ranges(part.reference, window))
        elif value.family in (COVARIATE_EFFECT, CONCEPT_EFFECT):
            text = split(values, value.metric)
        elif value.family == CONCEPT_DRIFT and realized is not None:
            text = broken(realized.ranges(part.reference, window))
        if text:
            found[key] = text
    return found


def split(values: Iterable[Value], metric: str) -> str:
    """What a change since the reference is made of, in words; empty where it is unknown."""
    parts = {v.family: v for v in values if v.metric == metric}
    if not {COVARIATE_EFFECT, CONCEPT_EFFECT} <= parts.keys():
        return ""
    inputs, world = parts[COVARIATE_EFFECT], parts[CONCEPT_EFFECT]
    if isnan(inputs.value + world.value):
        return ""
    return (
        f"{metric} {inputs.value + world.value:+.3g} since the reference: "
        f"{inputs.value:+.3g} ± {inputs.sampling_error:.2g} from the inputs, "
        f"{world.value:+.3g} ± {world.sampling_error:.2g} from what they mean"
    )


def isolated(values: Iterable[Value]) -> str:
    """The features that set a window's outliers apart; empty where that is not measured."""
    parts = {v.feature: v.value for v in values if v.metric == CONTRIBUTION and v.value > 0}
    most = sorted(parts, key=lambda name: (-parts[name], name))[:3]
    return f"set apart by {', '.join(f'{n} ({parts[n]:.0%})' for n in most)}" if most else ""


def unseen(window: Counted, column: str) -> str:
    """The most frequent unseen categories by name; empty where names are not kept."""
    names = window.sketches.get(NAME)
    if not isinstance(names, Names):
        return ""
    entries = sorted(names.columns.get(column, ()), key=lambda e: (-e.count, e.name))
    more = f" and {len(entries) - 3} more" if len(entries) > 3 else ""
    listed = ", ".join(f"{e.name!r} ({e.count:,} rows)" for e in entries[:3])
    return f"new: {listed}{more}" if listed else ""


def broken(ranges: Iterable[Range]) -> str:
    """The score range whose labels are furthest from what the reference makes expect.

    Empty where no range is three standard errors off: then it is the scores that have moved.
    """
    known = [r for r in ranges if r.error > 0]
    worst = max(known, key=lambda r: abs(r.observed - r.expected) / r.error, default=None)
    if worst is None or abs(worst.observed - worst.expected) < _BROKEN * worst.error:
        return ""
    place = f"{worst.low:.3g} … {worst.high:.3g}"
    return (
        f"scores {place} of class {worst.label}: {worst.observed:.1%} are of it, the reference "
        f"makes expect {worst.expected:.1%} (± {worst.error:.1%}, {worst.rows:,} rows)"
    )
