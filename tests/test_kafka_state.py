"""What a Kafka store writes comes back whole, whatever its size, and after any compaction."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaConsumer, TopicPartition

from stream_monitor.errors import StoreError, UnusableError
from stream_monitor.panes.partition import Partition, Shape
from stream_monitor.store.base import Checkpoint, DeadLetter, PaneKey
from stream_monitor.store.kafka import pieces
from stream_monitor.store.kafka.aggregator import AggregatorStore, Conclusions, Update
from stream_monitor.store.kafka.confluent_transactions import ConfluentTransactions
from stream_monitor.store.kafka.letters import letter_record
from stream_monitor.store.kafka.pieces import Pieces, cut, ours
from stream_monitor.store.kafka.progress import Progress
from stream_monitor.store.kafka.topics import Topic, Topics, place_of
from stream_monitor.store.kafka.transactions import Outgoing, Transactions
from stream_monitor.store.kafka.worker import Head, WorkerStore
from tests.kafka_broker import ExternalBroker, KafkaBroker, create_topic

Broker = KafkaBroker | ExternalBroker
Log = list[tuple[bytes, bytes | None]]
SLOTS = 9_000
SHAPES = {"m": Shape(SLOTS, {})}


# --- pieces -------------------------------------------------------------------------------------


def compacted(log: Log, kept: list[bool]) -> Log:
    """What compaction may leave: of a key that comes again, any of the earlier records may go."""
    last = {key: i for i, (key, _) in enumerate(log)}
    return [
        record
        for i, (record, keep) in enumerate(zip(log, kept, strict=True))
        if keep or last[record[0]] == i
    ]


def read(log: Log) -> dict[pieces.Key, bytes]:
    reader, found = Pieces(), {}
    for key, value in log:
        if (whole := reader.take(key, value)) is not None:
            found[whole[0]] = whole[1]
    return found


@given(
    values=st.lists(st.tuples(st.sampled_from("abc"), st.binary(max_size=40)), max_size=8),
    data=st.data(),
)
def test_the_newest_value_of_each_key_comes_back_after_any_compaction(
    values: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "_MOST", 8)
        log: Log = [record for name, value in values for record in cut((name, 1), value)]
    kept = data.draw(st.lists(st.booleans(), min_size=len(log), max_size=len(log)))
    newest = {(name, 1): value for name, value in values}
    assert read(log) == newest
    assert read(compacted(log, kept)) == newest


def test_a_value_of_any_size_is_cut_into_records_that_a_broker_takes() -> None:
    value = np.random.default_rng(1).bytes(5 * 2**20 + 3)
    log: Log = list(cut(("x", "chunk", 7), value))
    assert max(len(v or b"") for _, v in log) < 2**20
    assert read(log) == {("x", "chunk", 7): value}


@pytest.mark.parametrize("key", [b"", b"{", b"7", b"{}", b"\xff\xfe"])
def test_a_record_of_somebody_else_is_refused_with_the_remedy(key: bytes) -> None:
    record = SimpleNamespace(topic="state", partition=1, offset=7, key=key)
    told = r"state:1@7 with the key .* Choose another store\.prefix"
    with pytest.raises(UnusableError, match=told), ours(record):
        Pieces().take(key, b"\x01\x00x")


# --- a worker's store ---------------------------------------------------------------------------


class Kept:
    """Topics of their own on a real broker, and stores over them."""

    def __init__(self, broker: Broker, kind: Any = Transactions) -> None:
        self._kind = kind
        self.name = f"state-{time.time_ns()}"
        self.options = {"bootstrap_servers": broker.bootstrap_servers}
        compact = {"cleanup.policy": "compact"}
        self.topics = Topics(
            Topic(f"{self.name}-state", 3, compact),
            Topic(f"{self.name}-control", 1, compact),
            Topic(f"{self.name}-results", 1, {}),
            Topic(f"{self.name}-dead-letters", 1, {"max.message.bytes": str(2**24)}),
            Topic(f"{self.name}-joins", 2, {}),
        )
        self.open: list[WorkerStore] = []

    def store(self, name: str = "one") -> WorkerStore:
        transactions = self._kind(self.options, f"{self.name}-{name}", 5_000_000)
        made = WorkerStore(self.topics, self.options, transactions, None, lambda: None)
        self.open.append(made)
        return made

    def records(self, topic: Topic, partition: int = 0) -> list[Any]:
        """All committed ones."""
        consumer = KafkaConsumer(**self.options, group_id=None, isolation_level="read_committed")
        place = TopicPartition(topic.name, partition)
        consumer.assign([place])
        consumer.seek_to_beginning(place)
        end, found = consumer.end_offsets([place])[place], []
        while consumer.position(place) < end:
            found += consumer.poll(200).get(place, [])
        consumer.close()
        return found


@pytest.fixture(params=[Transactions, ConfluentTransactions])
def kept(kafka_broker: Broker, request: pytest.FixtureRequest) -> Iterator[Kept]:
    """Whatever client writes: what holds of one holds of the other."""
    found = Kept(kafka_broker, request.param)
    yield found
    for store in found.open:
        store.close()


def counted(name: str, seed: int, panes: int = 3) -> Partition:
    """A partition with panes of several chunks."""
    rng = np.random.default_rng(seed)
    partition = Partition(name)
    partition.position, partition.ended = str(seed), seed % 2 == 0
    partition.owner = msgspec.json.encode({"seed": seed})
    partition.advance(seed)
    for number in range(panes):
        counts = rng.integers(0, 2**40, SLOTS)
        partition.add(PaneKey("m", "time", number), counts, number, number + 1)
    return partition


def same(one: Partition, other: Partition) -> bool:
    return (
        (one.position, one.progress, one.ended, one.owner)
        == (other.position, other.progress, other.ended, other.owner)
        and one.panes.keys() == other.panes.keys()
        and all((one.panes[k].counts == other.panes[k].counts).all() for k in one.panes)
    )


def committed(store: WorkerStore, *partitions: Partition, **more: Any) -> None:
    states = {p.name: p.checkpoint() for p in partitions}
    store.commit(Checkpoint(states, **more), [])


def restored(store: WorkerStore, *names: str) -> dict[str, Partition | None]:
    return {
        name: None if state is None else Partition.restored(name, state, SHAPES)
        for name, state in store.restore(names).items()
    }


def test_partitions_come_back_as_they_were_committed(kept: Kept) -> None:
    store = kept.store()
    names = [f"t:{i}" for i in range(6)]
    assert restored(store, *names) == dict.fromkeys(names)
    partitions = [counted(name, i) for i, name in enumerate(names)]
    committed(store, *partitions)
    # a pane changes, a new one comes, one ends
    for partition in partitions[:2]:
        for number in (0, 9):
            counts = np.zeros(SLOTS, dtype=np.int64)
            counts[5_000] = 7
            partition.add(PaneKey("m", "time", number), counts, 0, 1)
        partition.drop([PaneKey("m", "time", 1)])
    committed(store, *partitions[:2])
    found = restored(kept.store("two"), *names)
    for partition in partitions:
        back = found[partition.name]
        assert back is not None
        assert same(back, partition)


def test_only_what_has_changed_is_written(kept: Kept) -> None:
    store = kept.store()
    names = ["t:0", "t:1"]
    restored(store, *names)
    partitions = [counted(name, i) for i, name in enumerate(names)]
    committed(store, *partitions)

    def written() -> list[list[Any]]:
        found = [r for p in range(3) for r in kept.records(kept.topics.state, p)]
        return [msgspec.json.decode(r.key) for r in found]

    before = len(written())
    counts = np.zeros(SLOTS, dtype=np.int64)
    counts[8_500] = 1  # of the third chunk
    partitions[1].add(PaneKey("m", "time", 2), counts, 2, 3)
    committed(store, *partitions)
    new = [key for key in written() if key[0] == "t:1"][-2:]
    assert new == [["t:1", "chunk", "m", "time", 2, 2, 0], ["t:1", "head", 0]]
    assert len(written()) == before + 2


def test_who_begins_with_the_same_name_shuts_the_other_out(kept: Kept) -> None:
    first, second = kept.store(), kept.store()
    restored(first, "t:0")
    partition = counted("t:0", 1)
    committed(first, partition)
    assert restored(second, "t:0")["t:0"] is not None
    late = counted("t:0", 5)
    with pytest.raises(StoreError, match="what it held is read again"):
        committed(first, late)
    found = restored(second, "t:0")["t:0"]
    assert found is not None
    assert same(found, partition)


def test_what_was_left_open_is_ended_and_never_seen(kept: Kept) -> None:
    store = kept.store()
    restored(store, "t:0")
    producer = store._transactions._producer
    producer.begin_transaction()
    topic = kept.topics.state.name
    for key, value in cut(("t:0", "head"), b"never to be seen"):
        send = getattr(producer, "send", None) or producer.produce
        send(topic, value=value, key=key, partition=place_of("t:0", 3))
    producer.flush(10)
    # killed here: another one under its name goes on
    assert restored(kept.store(), "t:0") == {"t:0": None}


# --- the aggregator's store ---------------------------------------------------------------------


def active(kept: Kept) -> tuple[AggregatorStore, Conclusions]:
    """The next aggregator, which is the active one."""
    group = {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 500}
    transactions = Transactions(kept.options, f"{kept.name}-aggregator", 5_000_000)
    store = AggregatorStore(kept.topics, kept.options, group, transactions, lambda: None)
    deadline = time.monotonic() + 30
    while not (store.owns() and store.settled()):
        assert time.monotonic() < deadline
    return store, store.begin()


def updates(store: AggregatorStore) -> list[Update]:
    """All that there are by now."""
    found = list(store.updates(0.5))
    while not store.caught_up():
        found += store.updates(0.5)
    return found


def test_a_successor_learns_of_panes_whose_commit_was_read_in_part(kept: Kept) -> None:
    """A poll ends anywhere; what was concluded then took no account of a chunk without a head."""
    worker = kept.store()
    restored(worker, "t:0", "t:1")
    committed(worker, counted("t:1", 4))
    place, data = place_of("t:0", 3), counted("t:0", 2).checkpoint()
    pane = PaneKey("m", "time", 1)
    chunks = {key: value for key, value in data.chunks.items() if key.pane == pane}
    assert chunks

    def write(*records: tuple[bytes, bytes]) -> None:
        state = kept.topics.state.name
        worker._transactions.run([Outgoing(state, place, *r) for r in records], {}, None)

    for key, value in chunks.items():
        write(*cut(("t:0", "chunk", *key.pane, key.chunk), value))
    first, _ = active(kept)
    assert [u.name for u in updates(first)] == ["t:1"]
    assert first.commit(Checkpoint(service=b"concluded"), Progress())
    first.close()
    head = msgspec.json.encode(Head(data.position, msgspec.Raw(data.meta)))
    write(*cut(("t:0", "head"), head))
    second, known = active(kept)
    assert known.service == b"concluded"
    assert {u.name: u.touched for u in updates(second)} == {"t:0": {pane}, "t:1": set()}
    second.close()


def test_letters_keep_what_they_were_and_say_what_was_wrong(kept: Kept) -> None:
    store = kept.store()
    restored(store, "orders:3")
    letter = DeadLetter(
        "orders:3", "orders[3]@17", "not_json", "no JSON at byte 0", b"\x00\xff" * 400_000, b"key",
        (("h", b"1"), ("h", b"2"), ("__connect.errors.topic", b"of an earlier connector")), 12_000,
    )  # fmt: skip
    committed(store, dead_letters=[letter])
    (record,) = kept.records(kept.topics.dead_letters)
    assert (record.key, record.value, record.timestamp) == (b"key", letter.payload, 12)
    assert record.headers[:3] == list(letter.headers)
    own = dict(record.headers[3:])
    assert own["__connect.errors.partition"] == b"3"
    assert own["__connect.errors.offset"] == b"17"
    assert own["__connect.errors.exception.message"] == b"no JSON at byte 0"
    assert own["stream_monitor.reason"] == b"not_json"


def test_a_letter_of_a_file_names_the_file() -> None:
    record = letter_record("letters", DeadLetter("a.jsonl", "a.jsonl:7", "not_json", "", b"x"))
    assert dict(record.headers)["__connect.errors.topic"] == b"a.jsonl"
    assert record.timestamp is None


def test_a_topic_with_another_number_of_partitions_is_refused(
    kept: Kept, kafka_broker: Broker
) -> None:
    create_topic(kafka_broker, kept.topics.control.name, partitions=2)
    fixed = Topic(kept.topics.control.name, 1, {}, "delete it, it has {there}")
    topics = Topics(
        kept.topics.state, fixed, kept.topics.results, kept.topics.dead_letters, kept.topics.joins
    )
    with pytest.raises(StoreError, match="has 2 partitions, not 1; delete it, it has 2"):
        topics.make(kept.options)


def test_a_state_of_a_newer_format_is_refused_with_the_remedy(kept: Kept) -> None:
    store = kept.store()
    restored(store, "t:0")
    head = msgspec.json.encode({"position": "1", "meta": {}, "format": 99})
    records = [
        Outgoing(kept.topics.state.name, place_of("t:0", 3), key, value)
        for key, value in cut(("t:0", "head"), head)
    ]
    store._transactions.run(records, {}, None)
    with pytest.raises(UnusableError, match="state of format 99, this program reads 1: run"):
        kept.store("two").restore(["t:0"])
