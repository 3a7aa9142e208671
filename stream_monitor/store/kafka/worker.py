"""What a worker keeps in Kafka: the state of the partitions that it owns.

A partition's state is its chunks of panes, each under its own key, and a *head* (position,
progress, counters, which panes live) that is written last. Who reads them in order therefore knows
with each head what the partition was at that commit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from stream_monitor.errors import StoreError, UnusableError
from stream_monitor.sources.kafka_errors import errors
from stream_monitor.sources.kafka_group import partition_of
from stream_monitor.sources.several import INSTANCE
from stream_monitor.store.base import Checkpoint, ChunkKey, PaneKey, PartitionState
from stream_monitor.store.kafka.confluent_transactions import ConfluentTransactions
from stream_monitor.store.kafka.letters import letter_record
from stream_monitor.store.kafka.pieces import Pieces, cut, ours
from stream_monitor.store.kafka.progress import PROGRESS, Progress
from stream_monitor.store.kafka.reading import Ends, Reader
from stream_monitor.store.kafka.topics import Topics, place_of
from stream_monitor.store.kafka.transactions import Outgoing, Transactions

FORMAT_VERSION = 1
HEAD, CHUNK = "head", "chunk"
_POLL_SECONDS = 0.1


class Head(msgspec.Struct):
    """The last record of a partition's commit."""

    position: str | None
    meta: msgspec.Raw
    format: int = FORMAT_VERSION


class Group(Protocol):
    """The consumer group that reads the inputs; see :class:`stream_monitor.sources.kafka`."""

    def settled(self) -> bool:
        """Whether no rebalance is under way."""

    def membership(self) -> Any:
        """The replica's place in it, by which a transaction is refused once it has lost it."""

    def committed(self, partitions: Collection[str]) -> dict[str, int]:
        """The offsets that were committed, once no transaction over them is open."""


class WorkerStore:
    """Restores partitions, and commits what follows from their records.

    ``group`` is None where no partition comes from Kafka.
    """

    def __init__(
        self,
        topics: Topics,
        options: Mapping[str, object],
        transactions: Transactions | ConfluentTransactions,
        group: Group | None,
        beat: Callable[[], None],
    ) -> None:
        self._topics = topics
        self._beat = beat
        self._options = options
        self._transactions = transactions
        self._group = group
        self._count, self._looked = 0, False
        self._ends: Ends | None = None
        self._control: Reader | None = None
        self._progress = Progress()
        self._until: dict[int, int] = {}
        # of what was written: the heads, and the keys of each pane's chunks
        self._heads: dict[str, bytes] = {}
        self._keys: dict[str, defaultdict[PaneKey, set[bytes]]] = {}

    def open(self) -> None:
        """Make the topics, and end what an earlier run under this name has left open.

        Raises
        ------
        StoreError
            That does not work now.
        """
        self._beat()
        if not self._looked:
            with errors("the service's topics"):
                self._count = self._topics.make(self._options)
            self._looked = True
        self._transactions.open()

    # --- reading --------------------------------------------------------------------------------

    def restore(self, names: Sequence[str]) -> dict[str, PartitionState | None]:
        """What was last committed for partitions that are ours now.

        Raises
        ------
        StoreError
            It cannot be read now; or it is not what belongs to the group's offsets.
        """
        self.open()
        self._beat()
        # stable offsets first: what they belong to is in the state's topic then
        known = [n for n in names if self._group is not None and _is_kafka(n)]
        try:
            committed = self._group.committed(known) if self._group is not None else {}
            found = self._read(names)
        except StoreError:
            self._looked = False  # one of the topics may be gone
            raise
        for name in names:
            state = found.get(name)
            there = None if state is None else state.position
            if name in committed and there != str(committed[name]):
                raise UnusableError(
                    f"{name}: the group has committed offset {committed[name]}, the state in "
                    f"{self._topics.state.name} is of {there}: was that topic deleted, or its "
                    "number of partitions changed? Restore it, or choose another source.group_id "
                    "to begin anew"
                )
        return {name: found.get(name) for name in names}

    def _read(self, names: Sequence[str]) -> dict[str, PartitionState]:
        # what lies elsewhere was written when the topic had another number of partitions
        homes = {name: place_of(name, self._count) for name in names}
        places = sorted(set(homes.values()))
        pieces = Pieces()
        chunks: dict[str, dict[ChunkKey, bytes]] = defaultdict(dict)
        heads: dict[str, Head] = {}
        keys: dict[str, defaultdict[PaneKey, set[bytes]]] = {
            name: defaultdict(set) for name in names
        }
        ends = self._ended().of(self._topics.state.name, places)
        reader = Reader(self._options, self._topics.state.name, places)
        try:
            while reader.behind(ends):
                self._beat()
                for record in reader.poll(_POLL_SECONDS):
                    with ours(record):
                        whole = pieces.take(record.key, record.value)
                        name, kind, *rest = msgspec.json.decode(record.key)[:-1]
                        if homes.get(name) != record.partition:
                            continue
                        if kind == HEAD:
                            if whole is not None:
                                heads[name] = head_of(whole[1])
                            continue
                        chunk = chunk_of(rest)
                    if record.value is None:
                        keys[name][chunk.pane].discard(record.key)
                        chunks[name].pop(chunk, None)
                        continue
                    keys[name][chunk.pane].add(record.key)
                    if whole is not None:
                        chunks[name][chunk] = whole[1]
        finally:
            reader.close()
        for name in names:
            self.forget(name)
            self._keys[name] = keys[name]
        return {
            name: PartitionState(head.position, bytes(head.meta), chunks[name])
            for name, head in heads.items()
        }

    def rows(self, partition: int, until: int) -> Iterator[bytes]:
        """Join rows that are still there, up to an offset."""
        if self._topics.joins is None:
            return
        name = self._topics.joins.name
        reader = Reader(self._options, name, [partition])
        try:
            while reader.behind({partition: until}):
                self._beat()
                for record in reader.poll(_POLL_SECONDS):
                    if record.offset < until:
                        yield record.value or b""
        finally:
            reader.close()

    def progress(self) -> Progress:
        """How far the aggregator is, as far as it has said so."""
        if self._control is None:
            self._beat()
            name = self._topics.control.name
            # all that was said is heard before anything is counted
            self._until = self._ended().of(name, [0])
            self._control = Reader(self._options, name, [0])
            self._pieces = Pieces()
        while self._until and self._control.behind(self._until):
            self._beat()
            self._hear(self._control.poll(_POLL_SECONDS))
        self._until = {}
        self._hear(self._control.poll(0))
        return self._progress

    def _hear(self, records: Iterable[Any]) -> None:
        for record in records:
            with ours(record):
                whole = self._pieces.take(record.key, record.value)
                if whole is not None and whole[0] == PROGRESS:
                    self._progress = msgspec.json.decode(whole[1], type=Progress)

    # --- writing --------------------------------------------------------------------------------

    def settled(self) -> bool:
        """Whether no rebalance is under way, in which a commit would be refused."""
        return self._group is None or self._group.settled()

    def commit(self, checkpoint: Checkpoint, rows: Sequence[tuple[int, bytes]]) -> None:
        """Write the checkpoint, and rows for the joins by partition, in one transaction.

        Raises
        ------
        StoreError
            It did not work, or nobody knows: every partition must be restored.
        """
        records = [*self._state(checkpoint)]
        if self._topics.joins is not None:
            records += [Outgoing(self._topics.joins.name, p, None, row) for p, row in rows]
        records += [
            letter_record(self._topics.dead_letters.name, letter)
            for letter in checkpoint.dead_letters
        ]
        offsets, membership = {}, None
        if self._group is not None:
            offsets = {
                partition_of(name): int(state.position)
                for name, state in checkpoint.partitions.items()
                if state.position is not None and _is_kafka(name)
            }
            membership = self._group.membership()
        try:
            self._transactions.run(records, offsets, membership)
        except StoreError:
            self._looked = False  # one of the topics may be gone
            raise

    def _state(self, checkpoint: Checkpoint) -> Iterator[Outgoing]:
        topic = self._topics.state.name
        for name, state in checkpoint.partitions.items():
            place = place_of(name, self._count)
            keys = self._keys.setdefault(name, defaultdict(set))
            head = msgspec.json.encode(Head(state.position, msgspec.Raw(state.meta)))
            if self._heads.get(name) == head and not state.chunks and not state.dropped:
                continue
            for chunk, data in state.chunks.items():
                for key, value in cut((name, CHUNK, *chunk.pane, chunk.chunk), data):
                    keys[chunk.pane].add(key)
                    yield Outgoing(topic, place, key, value)
            for pane in state.dropped:
                for key in keys.pop(pane, ()):
                    yield Outgoing(topic, place, key, None)
            for key, value in cut((name, HEAD), head):
                yield Outgoing(topic, place, key, value)
            self._heads[name] = head

    def forget(self, name: str) -> None:
        """A partition is somebody else's now."""
        self._heads.pop(name, None)
        self._keys.pop(name, None)

    def _ended(self) -> Ends:
        if self._ends is None:
            self._ends = Ends(self._options)
        return self._ends

    def hurry(self) -> None:
        """The service is to end: nothing may take long any more."""
        self._transactions.hurry()

    def close(self) -> None:
        self._transactions.close()
        for reader in (self._control, self._ends):
            if reader is not None:
                with suppress(StoreError):
                    reader.close()


def head_of(data: bytes) -> Head:
    """A head, if this program can read it.

    Raises
    ------
    UnusableError
        It is of another format.
    """
    head = msgspec.json.decode(data, type=Head)
    if head.format != FORMAT_VERSION:
        raise UnusableError(
            f"state of format {head.format}, this program reads {FORMAT_VERSION}: run the version "
            "that wrote it, or choose another store.prefix and source.group_id to begin anew"
        )
    return head


def chunk_of(rest: Sequence[Any]) -> ChunkKey:
    """The end of a chunk's key."""
    model, clock, number, chunk = rest
    return ChunkKey(PaneKey(model, clock, number), chunk)


def _is_kafka(name: str) -> bool:
    """Whether a partition is one of a topic, and no file of an instance."""
    return INSTANCE not in name and name.rpartition(":")[2].isdecimal()
