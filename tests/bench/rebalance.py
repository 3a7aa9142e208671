"""How long a partition rests when the group changes: ours beside bare members of a group.

Records come at a steady rate. Two members read them; a third joins, one is told to leave, one is
killed with -9. For each, the longest time in which some partition got nowhere: ours between two
commits of it (as the state's topic has them, restoring included), a bare member's between two
polls that brought records of it.
"""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from tests.bench import world
from tests.bench.lines import Line, Section, Tell
from tests.kafka_broker import KafkaBroker, create_topic
from tests.service import Service

PARTITIONS = 4
REPEATS = 5
RATE = 200  # records a second
AFTER = 15.0  # seconds in which a change shows
CLIENT = {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 500}
Beats = dict[int, list[float]]  # by partition, when it went on
FACT = (
    "Session timeout 6 s, heartbeat 0.5 s. Ours commits every 0.2 s, which is part of its rest; "
    "who is killed is missed only after the session timeout."
)
CHANGES = "a third joins", "one ends (SIGTERM)", "one is killed (-9)"


def measure(tell: Tell) -> Section:
    settings: dict[str, Any] = {"group.min.session.timeout.ms": "1000"}
    broker = KafkaBroker(**settings)
    broker.start()
    pauses: dict[tuple[str, str], list[float]] = defaultdict(list)
    stuck: dict[str, int] = {"ours": 0, "theirs": 0}
    try:
        with tempfile.TemporaryDirectory() as folder:
            world.build(Path(folder))
            for i in range(REPEATS):
                for kind, group in (("ours", Ours), ("theirs", Bare)):
                    tell(f"{kind}, {i + 1} of {REPEATS}")
                    while True:
                        try:
                            found = _changed(group(Path(folder), broker), broker)
                            break
                        except _StuckError:
                            stuck[kind] += 1
                            if stuck[kind] == REPEATS:
                                raise
                    for change, pause in found.items():
                        pauses[change, kind].append(pause)
    finally:
        broker.stop()
    return Section(
        title="Rebalancing",
        command="python -m tests.bench rebalance",
        lines=[
            Line(
                what=f"longest rest of a partition when {change}",
                baseline="bare kafka-python members",
                unit="s",
                ours=pauses[change, "ours"],
                theirs=pauses[change, "theirs"],
            )
            for change in CHANGES
        ],
        facts=[
            FACT,
            f"Groups that were stuck and begun anew: ours {stuck['ours']}, bare {stuck['theirs']}.",
        ],
    )


class _StuckError(Exception):
    """A member of a group is given nothing."""


class Traffic(threading.Thread):
    """Records at a steady rate, over all partitions in turns."""

    def __init__(self, broker: KafkaBroker, topic: str) -> None:
        super().__init__(daemon=True)
        self._topic = topic
        self._producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
        self._ended = threading.Event()

    def run(self) -> None:
        payloads = itertools.cycle(world.events(2_000, 3, start=time.time(), rate=RATE))
        began = time.monotonic()
        for i in itertools.count():
            if self._ended.is_set():
                break
            time.sleep(max(0.0, began + i / RATE - time.monotonic()))
            self._producer.send(self._topic, next(payloads), partition=i % PARTITIONS)
        self._producer.close()

    def end(self) -> None:
        self._ended.set()
        self.join()


class Ours:
    """Workers of the service."""

    def __init__(self, folder: Path, broker: KafkaBroker) -> None:
        self._folder, self._servers = folder, broker.bootstrap_servers
        self.topic = f"ours-{time.time_ns()}"
        self._members: list[Service] = []

    def add(self) -> Callable[[], bool]:
        """One more member; what it gives tells whether it has a share."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        source = {
            "type": "kafka",
            "bootstrap_servers": self._servers,
            "topics": [self.topic],
            "group_id": self.topic,
            "options": CLIENT,
        }
        store = {"type": "kafka", "commit_interval": "200ms", "partitions": PARTITIONS}
        config = world.raw_config(self._folder, source=source, store=store, role="worker")
        service = Service(folder, config)
        service.start()
        self._members.append(service)
        return lambda: service.metric("stream_monitor_assigned_partitions") > 0

    def end(self, number: int) -> None:
        service = self._members.pop(0)
        if number == signal.SIGKILL:
            service.kill()
        else:
            service.stop()

    def beats(self) -> Beats:
        """When each partition's head was committed."""
        name = f"{self.topic}-state"
        consumer = KafkaConsumer(
            bootstrap_servers=self._servers, group_id=None, isolation_level="read_committed"
        )
        places = [TopicPartition(name, p) for p in consumer.partitions_for_topic(name)]
        consumer.assign(places)
        ends = consumer.end_offsets(places)
        consumer.seek_to_beginning(*places)
        found: Beats = defaultdict(list)
        while any(consumer.position(p) < end for p, end in ends.items()):
            for records in consumer.poll(200).values():
                for record in records:
                    partition, kind, *_ = msgspec.json.decode(record.key)
                    if kind == "head":
                        number = int(partition.rpartition(":")[2])
                        found[number].append(record.timestamp / 1e3)
        consumer.close()
        return found

    def close(self) -> None:
        for service in self._members:
            service.end()


class Bare:
    """Members that only poll, each in a process of its own."""

    def __init__(self, folder: Path, broker: KafkaBroker) -> None:
        self._folder, self._servers = folder, broker.bootstrap_servers
        self.topic = f"bare-{time.time_ns()}"
        self._members: list[tuple[subprocess.Popen[bytes], Path]] = []
        self._told: list[Path] = []

    def add(self) -> Callable[[], bool]:
        told = Path(tempfile.mkdtemp(dir=self._folder)) / "beats"
        with told.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.bench.bare_member", self._servers, self.topic],
                stdout=out,
            )
        self._members.append((process, told))
        self._told.append(told)
        return lambda: told.stat().st_size > 0

    def end(self, number: int) -> None:
        process, _ = self._members.pop(0)
        process.send_signal(number)
        process.wait(30)

    def beats(self) -> Beats:
        found: Beats = defaultdict(list)
        for told in self._told:
            for line in told.read_text(encoding="ascii").splitlines():
                partition, moment = line.split()
                found[int(partition)].append(float(moment))
        return found

    def close(self) -> None:
        for process, _ in self._members:
            process.kill()
            process.wait(30)


def _changed(group: Any, broker: KafkaBroker) -> dict[str, float]:
    """The longest rest at each change of a group."""
    create_topic(broker, group.topic, partitions=PARTITIONS)
    traffic = Traffic(broker, group.topic)
    moments: dict[str, float] = {}
    try:
        traffic.start()
        for _ in range(2):
            _wait(group.add())
        time.sleep(AFTER)
        for change, act in (
            (CHANGES[0], group.add),
            (CHANGES[1], lambda: group.end(signal.SIGTERM)),
            (CHANGES[2], lambda: group.end(signal.SIGKILL)),
        ):
            moments[change] = time.time()
            act()
            time.sleep(AFTER)
        beats = group.beats()
    finally:
        traffic.end()
        group.close()
    return {
        change: max(
            later - earlier
            for found in beats.values()
            for earlier, later in itertools.pairwise(sorted(found))
            if earlier < began + AFTER and later > began
        )
        for change, began in moments.items()
    }


def _wait(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        if time.monotonic() > deadline:
            raise _StuckError("a member of the group was given nothing within a minute")
        time.sleep(0.2)
