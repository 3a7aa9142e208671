"""The panes of all partitions, as if they were one partition's."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from stream_monitor.panes.layout import Counted, Layout, Sketch
from stream_monitor.panes.partition import Partition
from stream_monitor.store.base import PaneKey


class Summed(NamedTuple):
    """Some panes as one; ``first`` and ``last`` are the event times of the earliest and latest."""

    counted: Counted
    first: int
    last: int


class Across:
    """Looks at partitions that others fill. Models and parts are named by their keys."""

    def __init__(self, partitions: Mapping[str, Partition]) -> None:
        self._partitions = partitions

    def rows(self, model: str) -> int:
        """Events counted so far."""
        return sum(p.rows[model] for p in self._partitions.values())

    def first_event(self, model: str) -> int | None:
        """The time of the first event."""
        every = self._partitions.values()
        return min((p.origins[model] for p in every if model in p.origins), default=None)

    @property
    def newest(self) -> int:
        """The greatest record timestamp read, 0 before the first."""
        return max((p.progress or 0 for p in self._partitions.values()), default=0)

    def numbers(self) -> dict[tuple[str, str], set[int]]:
        """The numbers of all panes by part and clock."""
        found: dict[tuple[str, str], set[int]] = {}
        for partition in self._partitions.values():
            for key in partition.panes:
                found.setdefault((key.model, key.clock), set()).add(key.number)
        return found

    def sum(
        self, part: str, clock: str, numbers: range, layout: Layout, *, sketches: bool = False
    ) -> Summed | None:
        """Some panes, with or without their sketches; None if there is none."""
        panes = []
        for number in numbers:
            key = PaneKey(part, clock, number)
            found = (p.panes.get(key) for p in self._partitions.values())
            panes += [pane for pane in found if pane is not None]
        if not panes:
            return None
        vector = panes[0].counts.copy()
        for pane in panes[1:]:
            vector += pane.counts
        merged: dict[str, Sketch] = {}
        for pane in panes if sketches else ():
            for name, sketch in pane.sketches.items():
                merged[name] = merged[name].merged(sketch) if name in merged else sketch
        first, last = min(p.first for p in panes), max(p.last for p in panes)
        return Summed(Counted(layout, vector, merged), first, last)

    def drop(self, parts: Collection[str], clock: str, floor: int) -> bool:
        """End the life of panes below a floor; whether there were any."""
        ended = False
        for partition in self._partitions.values():
            over = [k for k in partition.panes if k.number < floor and k.clock == clock]
            over = [k for k in over if k.model in parts]
            partition.drop(over)
            ended |= bool(over)
        return ended
