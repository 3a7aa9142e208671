"""The worst case in bytes of what a configuration and its references can make the service hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stream_monitor.panes.windows import Window, pane_count

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
