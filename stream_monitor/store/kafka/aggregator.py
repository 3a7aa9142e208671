"""What the aggregator reads and keeps in Kafka: everybody's state, and its own conclusions.

Replicas that may aggregate are a consumer group of their own over the control topic, which has one
partition: its owner is the active one. It ends what its predecessor left open, reads the control
topic (what was published), the results and everybody's state, and follows the state from there.
Every commit says in one transaction what was published and up to which records of the state that
takes account; so a successor knows which panes have changed since.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
from kafka import ConsumerRebalanceListener, KafkaConsumer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError

from stream_monitor.errors import StoreError
from stream_monitor.sources.kafka import polled, settled
from stream_monitor.sources.kafka_client import ANSWER, connected, partitions_of
from stream_monitor.sources.kafka_errors import errors
from stream_monitor.sources.kafka_group import partition_of
from stream_monitor.store.base import Checkpoint, ChunkKey, PaneKey, PartitionState
from stream_monitor.store.kafka.pieces import Key, Pieces, cut, ours
from stream_monitor.store.kafka.progress import PROGRESS, Progress
from stream_monitor.store.kafka.reading import Ends, Reader
from stream_monitor.store.kafka.topics import Topics
from stream_monitor.store.kafka.transactions import Outgoing, Transactions
from stream_monitor.store.kafka.worker import CHUNK, chunk_of, head_of
from stream_monitor.values import WindowResult

_SERVICE, _OUTCOMES, _FOLLOWED, _CACHE = "service", "outcomes", "followed", "cache"
_POLL_SECONDS = 0.1
_CLOSE = 2_000  # milliseconds to leave the group
_MICROSECONDS = 1_000  # a record timestamp's millisecond


@dataclass(slots=True)
class Update:
    """What a partition became with a commit; ``touched`` are the panes that it changed.

    Panes whose change an earlier aggregator has taken account of are not among them. ``committed``
    is when, by the broker's clock, microseconds.
    """

    name: str
    state: PartitionState
    touched: set[PaneKey]
    committed: int


@dataclass(slots=True)
class Conclusions:
    """What was published before; the results are read as they are asked for."""

    service: bytes | None = None
    outcomes: bytes | None = None
    caches: dict[str, bytes] = field(default_factory=dict)
    results: Iterator[WindowResult] = field(default_factory=lambda: iter(()))


class _Owner(ConsumerRebalanceListener):  # type: ignore[misc]
    """Notes whether the control topic's partition is ours, and whether it was lost meanwhile."""

    def __init__(self) -> None:
        self.owned = False
        self.terms = 0

    def on_partitions_assigned(self, assigned: Any) -> None:
        if assigned:
            self.owned = True
            self.terms += 1

    def on_partitions_revoked(self, revoked: Any) -> None:
        if revoked:
            self.owned = False

    def on_partitions_lost(self, lost: Any) -> None:
        self.on_partitions_revoked(lost)


class AggregatorStore:
    """Follows the state topic while this replica is the active aggregator."""

    def __init__(
        self,
        topics: Topics,
        options: Mapping[str, object],
        group_options: Mapping[str, object],
        transactions: Transactions,
        beat: Callable[[], None],
    ) -> None:
        self._topics = topics
        self._options = options
        self._group_options = group_options
        self._transactions = transactions
        self._beat = beat
        self._group = f"{topics.control.name}-owners"
        self._consumer: Any = None
        self._owner = _Owner()
        self._term = 0
        self._count = 0
        self._ends: Ends | None = None
        self._state: Reader | None = None
        self._reset()

    def _reset(self) -> None:
        """Nothing is known of the state any more."""
        if self._state is not None:
            with suppress(StoreError):
                self._state.close()
        self._state = None
        self._pieces = Pieces()
        self._chunks: dict[str, dict[ChunkKey, bytes]] = defaultdict(dict)
        self._touched: dict[str, set[PaneKey]] = defaultdict(set)
        self._counted: dict[int, int] = {}  # records that an earlier aggregator took account of
        self._followed: dict[int, int] = {}
        # of a partition whose head has not come yet: where what it is of begins
        self._headless: dict[str, tuple[int, int]] = {}
        self._written: dict[Key, bytes] = {}

    # --- ownership ------------------------------------------------------------------------------

    def owns(self) -> bool:
        """Whether this replica is to be the active aggregator; keeps up its membership.

        Raises
        ------
        StoreError
            No broker answers.
        """
        self._beat()
        with errors(f"group {self._group}"):
            if self._consumer is None:
                if not self._count:
                    self._count = self._topics.make(self._options)
                options = dict(self._options) | dict(self._group_options)
                consumer = connected(
                    KafkaConsumer,
                    **options
                    | {
                        "group_id": self._group,
                        "enable_auto_commit": False,
                        "auto_offset_reset": "latest",
                        "isolation_level": "read_committed",
                        "max_poll_interval_ms": 900_000,
                        # who is active stays so when another one joins
                        "partition_assignment_strategy": [CooperativeStickyAssignor],
                    },
                )
                # a group whose leader does not know a topic yet is given none of its partitions
                if not partitions_of(consumer, self._topics.control.name):
                    consumer.close(timeout_ms=1_000)
                    raise StoreError(f"topic {self._topics.control.name} is not there yet")
                consumer.subscribe([self._topics.control.name], listener=self._owner)
                self._consumer = consumer
            if owned := self._consumer.assignment():
                self._consumer.pause(*owned)  # its records are read by other means
            polled(self._consumer, 0)
        return self._owner.owned

    @property
    def owned(self) -> bool:
        """Whether it is this replica's to be active, as far as was heard."""
        return self._owner.owned

    @property
    def joined(self) -> bool:
        """Whether the group knows this replica."""
        return self._consumer is not None and self._consumer.group_metadata().generation_id >= 0

    def settled(self) -> bool:
        """Whether no rebalance is under way, so that a commit would not be refused."""
        return settled(self._consumer)

    def anew(self) -> bool:
        """Whether the ownership is another than at the last :meth:`begin`."""
        return self._term != self._owner.terms

    # --- reading --------------------------------------------------------------------------------

    def begin(self) -> Conclusions:
        """What was published, once nothing of a predecessor is open; then :meth:`updates` follow.

        Raises
        ------
        StoreError
            It cannot be read now.
        """
        self._reset()
        self._term = self._owner.terms
        self._transactions.drop()
        self._transactions.open()
        self._beat()
        with errors(f"offsets of group {self._group}"):
            place = partition_of(f"{self._topics.control.name}:0")
            self._consumer.committed(place, timeout_ms=ANSWER)
        found = Conclusions()
        for record, (key, value) in self._whole(self._topics.control.name):
            match key:
                case ("service",):
                    found.service = value
                case ("outcomes",):
                    found.outcomes = value
                case ("followed",):
                    with ours(record):
                        self._counted = msgspec.json.decode(value, type=dict[int, int])
                case ("cache", str(name)):
                    found.caches[name] = value
                case _:
                    pass
            self._written[key] = value
        found.results = self._logged()
        places = list(range(self._count))
        self._until = self._ended().of(self._topics.state.name, places)
        self._state = Reader(self._options, self._topics.state.name, places)
        return found

    def _logged(self) -> Iterator[WindowResult]:
        for record, (_, value) in self._whole(self._topics.results.name):
            with ours(record):
                result = msgspec.msgpack.decode(value, type=WindowResult)
            yield result

    def _whole(self, topic: str) -> Iterator[tuple[Any, tuple[Key, bytes]]]:
        """Every value of a topic of one partition, to its end, with its last record."""
        ends = self._ended().of(topic, [0])
        pieces = Pieces()
        reader = Reader(self._options, topic, [0])
        try:
            while reader.behind(ends):
                self._beat()
                for record in reader.poll(_POLL_SECONDS):
                    with ours(record):
                        whole = pieces.take(record.key, record.value)
                    if whole is not None:
                        yield record, whole
        finally:
            reader.close()

    def caught_up(self) -> bool:
        """Whether everything has been read that was there at :meth:`begin`."""
        if self._until and self._state is not None and not self._state.behind(self._until):
            self._until = {}
        return not self._until

    def updates(self, seconds: float) -> Iterator[Update]:
        """What the workers have committed since.

        Raises
        ------
        StoreError
            It cannot be read now, or not at all.
        """
        if self._state is None:
            return
        for record in self._state.poll(seconds):
            self._followed[record.partition] = record.offset + 1
            with ours(record):
                whole = self._pieces.take(record.key, record.value)
                name, kind, *rest = msgspec.json.decode(record.key)[:-1]
                self._headless.setdefault(name, (record.partition, record.offset))
                if whole is None:
                    continue
                value = whole[1]
                if kind == CHUNK:
                    chunk = chunk_of(rest)
                    self._chunks[name][chunk] = value
                    if record.offset >= self._counted.get(record.partition, 0):
                        self._touched[name].add(chunk.pane)
                    continue
                head = head_of(value)
            del self._headless[name]
            state = PartitionState(head.position, bytes(head.meta), self._chunks.pop(name, {}))
            yield Update(
                name, state, self._touched.pop(name, set()), record.timestamp * _MICROSECONDS
            )

    def _accounted(self) -> dict[int, int]:
        """Up to which records of the state all updates have been handed out.

        A poll may end within a commit: chunks that have come without their head are not known as
        changed yet, and a successor has to learn of them.
        """
        found = self._counted | self._followed
        for partition, offset in self._headless.values():
            found[partition] = min(found[partition], offset)
        return found

    def partitions(self, topics: list[str]) -> frozenset[str]:
        """The names of all partitions of some topics."""
        ends = self._ended()
        return frozenset(f"{topic}:{p}" for topic in topics for p in ends.partitions(topic))

    def ends(self, topics: list[str]) -> dict[str, int]:
        """Where all partitions of some topics end now."""
        ends = self._ended()
        return {
            f"{topic}:{partition}": end
            for topic in topics
            for partition, end in ends.of(topic, sorted(ends.partitions(topic))).items()
        }

    def _ended(self) -> Ends:
        if self._ends is None:
            self._ends = Ends(self._options)
        return self._ends

    # --- writing --------------------------------------------------------------------------------

    def commit(self, checkpoint: Checkpoint, progress: Progress) -> bool:
        """Write conclusions, in one transaction; False where there is nothing new.

        Raises
        ------
        StoreError
            It did not work, or nobody knows, or another replica is the aggregator now.
        """
        values: dict[Key, bytes] = {
            (_SERVICE,): checkpoint.service,
            PROGRESS: msgspec.json.encode(progress),
            (_FOLLOWED,): msgspec.json.encode(self._accounted()),
            **{(_CACHE, name): data for name, data in checkpoint.caches.items()},
        }
        if checkpoint.outcomes is not None:
            values[_OUTCOMES,] = checkpoint.outcomes
        new = {key: value for key, value in values.items() if self._written.get(key) != value}
        if not (checkpoint.results or new.keys() - {(_FOLLOWED,)}):
            return False
        self._beat()
        control, results = self._topics.control.name, self._topics.results.name
        records = [
            Outgoing(control, 0, raw, piece)
            for key, value in new.items()
            for raw, piece in cut(key, value)
        ]
        for result in checkpoint.results:
            names = (result.model, result.version, result.segment, result.window, result.maturity)
            key = (*names, result.index, result.revision)
            for raw, piece in cut(key, msgspec.msgpack.encode(result)):
                records.append(Outgoing(results, 0, raw, piece))
        place = partition_of(f"{control}:0")
        self._transactions.run(records, {place: 0}, self._consumer.group_metadata())
        self._written |= new
        return True

    def hurry(self) -> None:
        """The service is to end: nothing may take long any more."""
        self._transactions.hurry()

    def close(self) -> None:
        self._reset()
        self._transactions.close()
        if self._consumer is not None:
            with suppress(KafkaError):
                self._consumer.close(timeout_ms=_CLOSE)
        if self._ends is not None:
            self._ends.close()
