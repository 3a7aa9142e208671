"""What Kafka costs: the service beside the bare client, transactions beside SQLite, a restore."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import confluent_kafka
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from stream_monitor.config.model import Config, KafkaStore
from stream_monitor.panes.partition import Partition
from stream_monitor.store.kafka.topics import Topics
from stream_monitor.store.kafka.transactions import Transactions
from stream_monitor.store.kafka.worker import WorkerStore
from stream_monitor.watch import watch
from tests.bench import running, world
from tests.bench.lines import Line, Section, Tell, microseconds, pairs, turns
from tests.kafka_broker import KafkaBroker, create_topic
from tests.kafka_reading import reading

EVENTS_TOPIC, PANES_TOPIC = "events", "panes"
EVENTS, PANES = 200_000, 60_000
PAIRS = 7
RESTORES = 15
_NUMBERS = itertools.count()


def measure(tell: Tell) -> Section:
    broker = KafkaBroker()
    broker.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            tell("building the reference")
            world.build(Path(folder))
            bench = Bench(Path(folder), broker)
            tell("writing events")
            bench.write()
            lines = [*bench.reading(tell), *bench.restoring(tell)]
    finally:
        broker.stop()
    return Section(
        title="Kafka",
        command="python -m tests.bench kafka",
        lines=lines,
        facts=[bench.state],
    )


class Bench:
    """A topic of events of one a record, half an hour of event time."""

    def __init__(self, folder: Path, broker: KafkaBroker) -> None:
        self._folder, self._broker = folder, broker
        self.state = ""

    @property
    def servers(self) -> str:
        return self._broker.bootstrap_servers

    def write(self) -> None:
        """Events at 50,000 a second, and some that fill 30 panes."""
        producer = KafkaProducer(bootstrap_servers=self.servers, linger_ms=50, batch_size=2**18)
        for topic, number, rate in (
            (EVENTS_TOPIC, EVENTS, 50_000),
            (PANES_TOPIC, PANES, PANES / 1_800),
        ):
            create_topic(self._broker, topic, partitions=1)
            for payload in world.events(number, 2, rate=rate):
                producer.send(topic, payload, partition=0)
        producer.flush()
        producer.close()

    def config(
        self, kind: str, topic: str = EVENTS_TOPIC, client: str = "kafka-python", **sections: Any
    ) -> Config:
        """One of a group of its own, so that all is read from the start."""
        name = f"bench-{next(_NUMBERS)}"
        folder = self._folder / name
        folder.mkdir()
        source = {
            "type": "kafka", "bootstrap_servers": self.servers, "topics": [topic],
            "group_id": name, "client": client,
        }  # fmt: skip
        made = {"source": source, "store": running.store(folder, kind)} | sections
        return world.config(self._folder, **made)

    def service(self, kind: str, client: str = "kafka-python") -> Callable[[], float]:
        """Seconds of the processor from the first record to the last, commits in between.

        What comes after is left out: whoever has nothing to read works out thresholds.
        """

        def run() -> float:
            with running.loop(self.config(kind, client=client)) as loop:
                loop.ready()
                began = time.process_time()
                while not loop.read():
                    loop.round()
                return time.process_time() - began

        return run

    def bare(self) -> float:
        """What any program does that reads the topic: poll, and look at the values."""
        with reading(ours=False):
            return self._bare()

    def _bare(self) -> float:
        consumer = KafkaConsumer(
            bootstrap_servers=self.servers,
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
            max_poll_records=10_000_000,
            fetch_max_bytes=8 * 2**20,
        )
        place = TopicPartition(EVENTS_TOPIC, 0)
        consumer.assign([place])
        consumer.seek_to_beginning(place)
        began = time.process_time()
        read = 0
        while read < EVENTS:
            for records in consumer.poll(200).values():
                read += len([record.value for record in records])
        spent = time.process_time() - began
        consumer.close()
        return spent

    def bare_confluent(self) -> float:
        """The same by confluent-kafka, its own threads included."""
        consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": "none",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.max.bytes": 8 * 2**20,
            }
        )
        consumer.assign([confluent_kafka.TopicPartition(EVENTS_TOPIC, 0, 0)])
        began = time.process_time()
        read = 0
        while read < EVENTS:
            found = consumer.consume(20_000, 0.2)
            read += len([m.value() for m in found if m.error() is None])
        spent = time.process_time() - began
        consumer.close()
        return spent

    def reading(self, tell: Tell) -> list[Line]:
        """All that happens to an event from the broker to the metric, in processor time."""
        lines = []
        local, bare = "Kafka source, local store", "bare kafka-python poll loop"
        confluent = self.service("sqlite", "confluent")
        for what, call, baseline, run, most in (
            (local, self.service("sqlite"), bare, self.bare, 1.6),
            (f"{local}, by confluent-kafka", confluent, bare, self.bare, None),
            ("bare confluent-kafka loop", self.bare_confluent, bare, self.bare, None),
            ("Kafka source, Kafka store (transactions, worker and aggregator)",
             self.service("kafka"), "the same with the local store", self.service("sqlite"), None),
        ):  # fmt: skip
            ours, theirs = turns(
                call, run, number=PAIRS, units=EVENTS,
                tell=lambda pair, what=what: tell(f"{what}: {pair}"),  # type: ignore[misc]
            )  # fmt: skip
            lines.append(
                Line(
                    what=what,
                    baseline=baseline,
                    unit="µs an event",
                    ours=microseconds(ours),
                    theirs=microseconds(theirs),
                    most=most,
                )
            )
        return lines

    def restoring(self, tell: Tell) -> list[Line]:
        """A new owner of a partition, until it may read on; beside reading the same bytes."""
        tell("counting what is to be restored")
        config = self.config("kafka", PANES_TOPIC, role="worker")
        with running.loop(config) as loop:
            loop.ready()
            (name,) = loop.board.newest.service.partitions
            while not loop.read():
                loop.round()
        watched, _ = watch(config, "bench")
        shapes = {key: shape for model in watched for key, shape in model.shapes.items()}
        if not isinstance(config.store, KafkaStore):
            raise SystemExit("it was asked for a Kafka store")
        topics = Topics.of(config, config.store)
        options = {"bootstrap_servers": self.servers}
        transactions = Transactions(options, "bench-restore", config.store.transaction_timeout)
        store = WorkerStore(topics, options, transactions, None, lambda: None)
        panes, size = 0, 0

        def ours() -> None:
            nonlocal panes
            state = store.restore([name])[name]
            if state is None:
                raise SystemExit("there is no state to be restored")
            panes = len(Partition.restored(name, state, shapes).panes)

        def theirs() -> None:
            nonlocal size
            with reading(ours=False):
                size = _read_all(self.servers, topics.state.name)

        found = pairs(
            ours,
            theirs,
            number=RESTORES,
            clock=time.perf_counter,
            tell=lambda pair: tell(f"restoring: {pair}"),
        )
        store.close()
        self.state = (
            f"The state that was restored: {size / 1e6:.1f} MB in its topic, of {panes} panes."
        )
        ours_ms, theirs_ms = ([second * 1e3 for second in series] for series in found)
        return [
            Line(
                what="restoring a partition, by the clock on the wall",
                baseline="bare kafka-python reading the state's topic to its end",
                unit="ms",
                ours=ours_ms,
                theirs=theirs_ms,
            )
        ]


def _read_all(servers: str, topic: str) -> int:
    """Read every partition of a topic; the bytes of the values."""
    consumer = KafkaConsumer(
        bootstrap_servers=servers, group_id=None, enable_auto_commit=False,
        isolation_level="read_committed", max_poll_records=10_000_000,
        fetch_max_bytes=16 * 2**20, max_partition_fetch_bytes=4 * 2**20,
    )  # fmt: skip
    places = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
    consumer.assign(places)
    ends = consumer.end_offsets(places)
    consumer.seek_to_beginning(*places)
    size = 0
    while any(consumer.position(p) < end for p, end in ends.items()):
        for records in consumer.poll(100).values():
            size += sum(len(record.value or b"") for record in records)
    consumer.close()
    return size
