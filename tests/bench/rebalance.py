"""How long a partition rests when the group changes: ours beside bare members of a group.

Records come at a steady rate. Two members read them; a third joins, one is told to leave, one is
killed with -9. For each, the longest time in which some partition got nowhere: ours between two
commits of it (as the state's topic has them, restoring included), a bare member's between two
records of it.
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
REPEATS = 3
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
    try:
        with tempfile.TemporaryDirectory() as folder:
            world.build(Path(folder))
            for i in range(REPEATS):
                for kind, group in (("ours", Ours), ("theirs", Bare)):
                    tell(f"{kind}, {i + 1} of {REPEATS}")
                    for change, pause in _changed(group(Path(folder), broker), broker).items():
                        pauses[change, kind].append(pause)
    finally:
        broker.stop()
    return Section(
        title="Rebalancing",
        command="python -m tests.bench rebalance",
        lines=[
            Line(
                what=f"longest rest of a partition when {change}",
                baseline="bare members by librdkafka",
                unit="s",
                ours=pauses[change, "ours"],
                theirs=pauses[change, "theirs"],
            )
            for change in CHANGES
        ],
        facts=[FACT],
    )


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


class Heads(threading.Thread):
    """Follows a topic of state, for what was committed is compacted soon."""

    def __init__(self, broker: KafkaBroker, topic: str) -> None:
        super().__init__(daemon=True)
        self._topic = topic
        self._consumer = KafkaConsumer(
            bootstrap_servers=broker.bootstrap_servers,
            group_id=None,
            isolation_level="read_committed",
        )
        self._found: Beats = defaultdict(list)
        self._ended = threading.Event()

    def run(self) -> None:
        while not (numbers := self._consumer.partitions_for_topic(self._topic)):
            if self._ended.wait(0.2):
                return
        places = [TopicPartition(self._topic, p) for p in numbers]
        self._consumer.assign(places)
        self._consumer.seek_to_beginning(*places)
        while not self._ended.is_set():
            for records in self._consumer.poll(200).values():
                for record in records:
                    partition, kind, *_ = msgspec.json.decode(record.key)
                    if kind == "head":
                        number = int(partition.rpartition(":")[2])
                        self._found[number].append(record.timestamp / 1e3)

    def end(self) -> Beats:
        """When each partition was committed."""
        self._ended.set()
        self.join()
        self._consumer.close()
        return self._found


class Ours:
    """Workers of the service."""

    def __init__(self, folder: Path, broker: KafkaBroker) -> None:
        self._folder, self._servers = folder, broker.bootstrap_servers
        self.topic = f"ours-{time.time_ns()}"
        self._members: list[Service] = []
        self._heads = Heads(broker, f"{self.topic}-state")
        self._heads.start()

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
        return self._heads.end()

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
    on = [p for p, found in beats.items() if max(found) > moments[CHANGES[-1]]]
    if len(on) < PARTITIONS:
        raise SystemExit(f"{group.topic}: only partitions {sorted(on)} were read to the end")
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
            raise SystemExit("a member of the group was given nothing within a minute")
        time.sleep(0.2)
