"""The worst case in bytes of what a configuration and its references can make the service hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stream_monitor.panes.windows import ROWS, Window, pane_count

_INT64 = 8


@dataclass(frozen=True, slots=True)
class ModelBudget:
    """Bytes of one model.

    ``pane`` is one pane, of the whole and of all segments; ``panes`` how many of them live at
    once, over all partitions; ``memory`` and ``disk`` all of them; ``commit`` what one commit
    writes at most while every partition fills one pane of each clock.
    """

    model: str
    slots: int
    pane: int
    panes: int
    memory: int
    disk: int
    commit: int


@dataclass(frozen=True, slots=True)
class OutcomeBudget:
    """Bytes of one model's outcome side.

    ``memory`` holds the outcome panes and the filters of the stored rows, ``disk`` panes and rows,
    of ``predictions`` and as many labels.
    """

    model: str
    panes: int
    predictions: int
    memory: int
    disk: int


_FILTER = 2  # bytes a row in memory, at most
_MERGING = 1.5  # files that a merge replaces lie beside those it writes


def outcome_budget(
    model: str,
    *,
    slots: int,
    windows: Sequence[Window],
    life: int,
    kinds: int,
    predictions: int,
    row: int,
    label: int,
) -> OutcomeBudget:
    """The worst case of outcome panes that live for ``life`` microseconds after their window.

    ``slots`` are those of one pane of the whole and of all segments, ``kinds`` how many panes lie
    at one place (all predictions, and each delay class), ``row`` and ``label`` the bytes of a
    stored prediction and label. Windows of rows: as many panes as hold ``predictions``.
    """
    panes = 0
    for clock in {w.clock for w in windows}:
        some = [w for w in windows if w.clock == clock]
        span = life + 2 * max(w.length for w in some)
        if clock == ROWS:
            span = predictions + 2 * max(w.length for w in some)
        panes += (span // some[0].grain + 2) * kinds
    size = panes * slots * _INT64
    rows = int(predictions * (row + label) * _MERGING)
    return OutcomeBudget(model, panes, predictions, size + 2 * _FILTER * predictions, size + rows)


def budget(
    model: str,
    slots: int,
    windows: Sequence[Window],
    *,
    sketches: int,
    partitions: int,
    lateness: int,
    ahead: int,
) -> ModelBudget:
    """The worst case of a model whose panes have ``slots`` counts and so many bytes of sketches.

    ``lateness`` and ``ahead`` are microseconds of event time in front of the watermark that stay
    open: the allowed lateness and how far partitions may run ahead.
    """
    pane = slots * _INT64 + sketches
    panes = pane_count(windows, ahead=lateness + ahead) * partitions
    clocks = len({w.clock for w in windows})
    return ModelBudget(
        model, slots, pane, panes, panes * pane, panes * pane, clocks * partitions * pane
    )
