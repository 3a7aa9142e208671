"""What a member of a consumer group makes of its partitions, whichever client reads them.

A partition's records are held back until :meth:`GroupSource.seek` said where to begin, for
positions live in our checkpoint and not in the group's offsets.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from kafka import TopicPartition

from stream_monitor.config import model
from stream_monitor.sources.base import Poll, Records
from stream_monitor.sources.kafka_client import ANSWER
from stream_monitor.sources.kafka_errors import errors

_PAUSE = 0.05

log = structlog.get_logger()


class Place(NamedTuple):
    """A member's place in its group; ``metadata`` is what a transaction is told of it."""

    metadata: Any
    stable: bool
    joined: bool


class GroupSource(ABC):
    """All partitions of some topics that the group gives us.

    ``more_topics`` are those of labels, ``joins`` is the join's own, read from its beginning.
    """

    def __init__(
        self,
        config: model.KafkaSource,
        more_topics: Sequence[str] = (),
        joins: str | None = None,
    ) -> None:
        self._config = config
        self._joins = joins
        own = [] if joins is None else [joins]
        self._topics = list(dict.fromkeys([*config.topics, *more_topics, *own]))
        # what became ours and what no more, in the order in which the client heard of it
        self._heard: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._held: dict[Any, int | None] = {}
        self._assigned: set[Any] = set()
        # of partitions that are ours: their ends when reading began, and where it began first
        self._ends: dict[Any, int] = {}
        self._starts: dict[Any, int] = {}
        self._lost: dict[str, int] = {}  # since the last poll
        self._membership: Any = None  # as of what was told last

    # --- what a client does ---------------------------------------------------------------------

    @abstractmethod
    def _connected(self, timeout_seconds: float) -> bool:
        """Whether it is a member that can be asked; else it has waited and said why."""

    @abstractmethod
    def _fetched(self, timeout_seconds: float) -> Mapping[Any, Records]:
        """What has come of each partition; ``_heard`` has what happened to them meanwhile."""

    @abstractmethod
    def _place(self) -> Place:
        """Our place in the group now."""

    @abstractmethod
    def _asked(self) -> Any:
        """A client of kafka-python's that answers questions about topics."""

    @abstractmethod
    def _go_to(self, which: Any, offset: int) -> None:
        """Read a partition from an offset on."""

    @abstractmethod
    def _begins(self, which: Any) -> int:
        """Where the group or the configuration says that a partition begins."""

    @abstractmethod
    def _position(self, which: Any) -> int | None:
        """The next offset of a partition; None where nobody knows now."""

    @abstractmethod
    def _highwater(self, which: Any) -> int | None:
        """Where a partition ends as far as it is known."""

    @abstractmethod
    def _paused(self) -> Iterable[Any]:
        """Partitions that are held back."""

    @abstractmethod
    def _hold(self, partitions: Sequence[Any]) -> None: ...

    @abstractmethod
    def _release(self, partitions: Sequence[Any]) -> None: ...

    @abstractmethod
    def committed(self, partitions: Collection[str]) -> dict[str, int]:
        """The group's offsets, once no transaction over them is open.

        Raises
        ------
        StoreError
            The brokers do not tell in time.
        """

    @abstractmethod
    def close(self) -> None:
        """Leave the group."""

    # --- what follows from it -------------------------------------------------------------------

    def poll(self, timeout_seconds: float) -> Poll:
        poll = Poll()
        if not self._connected(timeout_seconds):
            return poll
        started = time.monotonic()
        fetched = self._fetched(timeout_seconds)
        self._tell(poll)
        place = self._place()
        if place.stable:
            self._membership = place.metadata
        if not fetched and not poll.assigned and time.monotonic() - started < timeout_seconds / 2:
            # a client comes back at once while it has no partition or no broker
            time.sleep(min(timeout_seconds / 2, _PAUSE))
        for partition, records in fetched.items():
            if partition in self._held:
                if self._held[partition] is None:
                    self._held[partition] = int(records.offsets[0])
            elif partition in self._assigned:
                poll.records.append(records)
        self._progress(poll)
        poll.lost, self._lost = self._lost, {}
        poll.joined = place.joined
        return poll

    def _go_on(self, which: Any, position: int) -> None:
        """Read on, though the next record was deleted or the topic made anew."""
        with errors(name_of(which)):
            if which not in self._assigned:  # where it begins is said later
                self._go_to(which, self._first(which))
                return
            self._ends[which] = self._end(which)
            self._go_to(which, self._retained(which, position))

    def _tell(self, poll: Poll) -> None:
        assigned: dict[Any, None] = {}
        revoked: dict[Any, None] = {}
        while self._heard:
            what, partitions = self._heard.popleft()
            for partition in partitions:
                if what == "assigned":
                    assigned[partition] = None
                else:
                    # revoked and assigned again meanwhile: its state must be restored anew
                    assigned.pop(partition, None)
                    if partition in self._assigned or partition in self._held:
                        revoked[partition] = None
        for partition in revoked:
            self._assigned.discard(partition)
            self._held.pop(partition, None)
            self._ends.pop(partition, None)
            self._starts.pop(partition, None)
        for partition in assigned:
            self._held[partition] = None
        poll.revoked = tuple(map(name_of, revoked))
        poll.assigned = tuple(map(name_of, assigned))

    def _progress(self, poll: Poll) -> None:
        """Which partitions are read to their end, and how far the others are from it."""
        lag, ends = {}, {}
        for partition in self._assigned - self._held.keys():
            high = self._highwater(partition)
            if high is None:  # nothing fetched yet, so nobody knows
                continue
            # the client may still tell what it saw before reading began
            high = max(high, self._ends.get(partition, 0))
            position = self._position(partition)
            if position is None:  # it is being looked for
                continue
            behind = max(0, high - position)
            lag[name_of(partition)] = behind
            if not behind:
                ends[name_of(partition)] = high
        poll.lag, poll.ends, poll.at_end = lag, ends, frozenset(ends)

    def seek(self, partition: str, position: str | None) -> str | None:
        which = partition_of(partition)
        with errors(partition):
            if position is not None and which in self._assigned:
                begin = int(position)  # it was looked at when reading began
            else:
                self._ends[which] = self._end(which)
                begin = self._start(which, position)
            self._go_to(which, begin)
        # not before: where it fails, it is tried again from the same
        self._held.pop(which, None)
        self._assigned.add(which)
        return str(begin)

    def _start(self, which: Any, position: str | None) -> int:
        if position is not None:
            return self._retained(which, int(position))
        if which.topic == self._joins:
            return self._first(which)
        start = self._starts.get(which, self._held.get(which))
        if start is None:
            start = self._begins(which)
        self._starts[which] = start
        return start

    def _first(self, which: Any) -> int:
        return int(self._asked().beginning_offsets([which], timeout_ms=ANSWER)[which])

    def _end(self, which: Any) -> int:
        return int(self._asked().end_offsets([which], timeout_ms=ANSWER)[which])

    def _retained(self, which: Any, position: int) -> int:
        """The position, or the first record that is still there where retention has passed it."""
        first, last = self._first(which), self._ends[which]
        if first <= position <= last:
            return position
        if position < first:
            log.error(
                "records were deleted before they were read: raise the topic's retention",
                partition=name_of(which),
                lost_records=first - position,
            )
            self._lost[name_of(which)] = first - position
        else:
            log.error(
                "the topic is shorter than what was read of it: was it made anew?",
                partition=name_of(which),
                position=position,
                end=last,
            )
        return first

    def pause(self, partitions: frozenset[str]) -> None:
        # the client is asked, for it keeps some of these through a rebalance and forgets others
        paused = {name_of(p): p for p in self._paused()}
        ours = {name_of(p): p for p in self._assigned}
        if stop := [ours[n] for n in partitions - paused.keys() if n in ours]:
            self._hold(stop)
        if go := [paused[n] for n in paused.keys() - partitions]:
            self._release(go)

    def settled(self) -> bool:
        """Whether no rebalance is under way."""
        return self._membership is not None and self._place().stable

    def membership(self) -> Any:
        """Our place in the group, by which the broker knows whether we still have one.

        That which goes with the partitions that were told to be ours. The client may have a newer
        one already: it joins again by itself, and others may have had the partitions meanwhile.
        """
        return self._place().metadata if self._membership is None else self._membership


def name_of(partition: Any) -> str:
    return f"{partition.topic}:{partition.partition}"


def partition_of(name: str) -> Any:
    topic, _, number = name.rpartition(":")
    return TopicPartition(topic, int(number))
