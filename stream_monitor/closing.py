"""Which windows are closed, over all partitions that are known here, and what they say.

Nothing here reads a clock or knows who counted the panes: this process, or others whose state it
follows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from stream_monitor.config.model import Config
from stream_monitor.detectors.config import of_labels
from stream_monitor.labels.beside import Joined
from stream_monitor.labels.packing import Mark, Marks
from stream_monitor.mature import Matured
from stream_monitor.panes.partition import Partition
from stream_monitor.panes.windows import Window
from stream_monitor.publish import Publisher
from stream_monitor.store.base import PaneKey
from stream_monitor.values import WindowResult
from stream_monitor.watch import Watched
from stream_monitor.watch_outcome import Outcomes


@dataclass(frozen=True, slots=True)
class Awaited:
    """Partitions that there are, whoever reads them; empty where nobody knows.

    No window is closed before each of them has been heard of.
    """

    events: frozenset[str] = frozenset()
    labels: frozenset[str] = frozenset()
    joins: frozenset[str] = frozenset()


class Closing:
    """Closes windows over partitions and joins, which others fill.

    ``sharded`` says that rows go to joins by a topic, whose marks tell how far they go.
    """

    def __init__(
        self,
        watched: list[Watched],
        windows: tuple[Window, ...],
        config: Config,
        outcomes: Outcomes | None,
        *,
        partitions: Mapping[str, Partition],
        label_partitions: Mapping[str, Partition],
        joins: Mapping[str, Joined],
        sharded: bool,
        explained: bool = True,
    ) -> None:
        self._lateness = config.time.allowed_lateness
        self._partitions = partitions
        self._label_partitions = label_partitions
        self._joins = joins
        self._sharded = sharded
        self.awaited = Awaited()
        # counters of partitions that were let go, so that no counter falls while the process lives
        self.departed: dict[str, Mapping[str, Counter[str]]] = {}
        at_once = [d for d in config.detectors if outcomes is None or not of_labels(d)]
        self.publisher = Publisher(watched, windows, partitions, at_once, explained=explained)
        self.matured: Matured | None = None
        if outcomes is not None:
            self.matured = Matured(outcomes.models, windows, self.publisher, joins, outcomes.config)

    def close(self, at_end: Iterable[str], touched: Iterable[PaneKey]) -> list[WindowResult]:
        """Windows that are closed now and were not, and closed ones that changed since.

        Those of outcomes wait for the labels' partitions, too.
        """
        ended = set(at_end)
        found = self.publisher.close(self.watermark(ended), touched)
        if self.matured is not None:
            found += self.matured.close(self.joined(ended))
        return found

    def watermark(self, at_end: Iterable[str] = ()) -> int | None:
        """Windows that end at or before it are closed; None while a partition is yet unread.

        The least progress of all partitions less the allowed lateness. A partition read to its
        end counts as far as the furthest.
        """
        return self._least(_marks(self._partitions, set(at_end)), self.awaited.events)

    def slowest(self, at_end: Iterable[str]) -> int | None:
        """How far the slowest of all partitions with unread records is, else the furthest."""
        marks = [mark for mark in self.marks(at_end).values() if mark.progress is not None]
        behind = [mark.progress or 0 for mark in marks if not mark.ended]
        return min(behind, default=max((mark.progress or 0 for mark in marks), default=None))

    def marks(self, at_end: Iterable[str]) -> Marks:
        """How far every partition has been read."""
        return _marks({**self._partitions, **self._label_partitions}, set(at_end))

    def joined(self, at_end: Iterable[str]) -> int | None:
        """The watermark of outcomes: all rows of records before it have been joined."""
        awaited = self.awaited.events | self.awaited.labels
        if not self._sharded:
            return self._least(self.marks(at_end), awaited)
        if self.awaited.joins - self._joins.keys():
            return None
        known = self.marks(at_end)
        every = [self._least(_still(join.marks, known), awaited) for join in self._joins.values()]
        return None if None in every else min((w for w in every if w is not None), default=None)

    def _least(self, marks: Marks, awaited: frozenset[str]) -> int | None:
        if awaited:
            if awaited - marks.keys():
                return None
            # a topic that is read no more must not hold up the others
            marks = {name: mark for name, mark in marks.items() if name in awaited}
        known = [mark.progress for mark in marks.values() if mark.progress is not None]
        behind = [mark.progress for mark in marks.values() if not mark.ended]
        if not known or None in behind:
            return None
        slowest = min((p for p in behind if p is not None), default=max(known))
        return slowest - self._lateness

    @property
    def joins(self) -> Collection[Joined]:
        """All that are known."""
        return self._joins.values()

    @property
    def last_record(self) -> int:
        """The newest record timestamp of all, 0 before the first."""
        every = (*self._partitions.values(), *self._label_partitions.values())
        return max((p.progress for p in every if p.progress is not None), default=0)

    def tally(self, what: str) -> Counter[str]:
        """A counter over all partitions, those that were let go included."""
        total: Counter[str] = Counter()
        joined = (join.partition for join in self._joins.values())
        every = (*self._partitions.values(), *self._label_partitions.values(), *joined)
        for counters in (*(p.counters for p in every), *self.departed.values()):
            total.update(counters.get(what, {}))
        return total


def _still(marks: Marks, known: Marks) -> Marks:
    """Marks as a join has them; one that tells of an end tells it of a partition as it was then.

    What came since may be on its way to the join, so it is still at its end only if the partition
    is, and has not gone on.
    """
    return {
        name: Mark(mark.progress, mark.ended and known.get(name, mark) == mark)
        for name, mark in marks.items()
    }


def _marks(partitions: Mapping[str, Partition], ended: set[str]) -> dict[str, Mark]:
    return {name: Mark(p.progress, name in ended) for name, p in partitions.items()}
