"""What more replicas cost: the same events, counted by one of them, by two, by four.

With a Kafka store and ``role: all``, so that one of them is the aggregator and the others stand by.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import ExitStack
from itertools import count
from pathlib import Path

from kafka import KafkaProducer

from tests.bench import world
from tests.bench.lines import Line, Section, Tell
from tests.bench.memory import resident, service_of
from tests.kafka_broker import KafkaBroker, create_topic
from tests.service import Service

EVENTS = 200_000
PARTITIONS = 4
NUMBERS = 1, 2, 4
ROUNDS = 3
RATE = 500  # a second of event time: the events fill windows of minutes
ALERTS = {"threshold": "constant"}  # others would be worked out whenever there is time
_TICKS = os.sysconf("SC_CLK_TCK")
_SETTLED = 3.0  # seconds in which nothing moves any more


def measure(tell: Tell) -> Section:
    broker = KafkaBroker()
    broker.start()
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            world.build(folder)
            payloads = world.events(EVENTS, 4, rate=RATE)
            spent: dict[int, list[float]] = {number: [] for number in NUMBERS}
            sizes: dict[int, list[int]] = {}
            names = count()
            for i in range(ROUNDS):
                for number in NUMBERS[:: -1 if i % 2 else 1]:
                    tell(f"round {i + 1} of {ROUNDS}, {number} replicas")
                    topic = f"replicas-{next(names)}"
                    found, sizes[number] = run(folder, broker, topic, number, payloads)
                    spent[number].append(found * 1e6 / EVENTS)
    finally:
        broker.stop()
    one, *more = NUMBERS
    lines = [
        Line(
            what=f"{number} replicas over {PARTITIONS} partitions, all together",
            baseline="one replica",
            unit="µs an event",
            ours=spent[number],
            theirs=spent[one],
        )
        for number in more
    ]
    told = "; ".join(
        f"{number}: " + ", ".join(f"{size / 1e6:.0f}" for size in sorted(sizes[number]))
        for number in NUMBERS
    )
    return Section(
        title="Replicas",
        command="python -m tests.bench replicas",
        lines=lines,
        facts=[f"Resident memory of each in the end, by how many there were: {told} MB."],
    )


def run(
    folder: Path, broker: KafkaBroker, topic: str, number: int, payloads: list[bytes]
) -> tuple[float, list[int]]:
    """Seconds of processor that all of them took for the events, and the bytes that each holds."""
    create_topic(broker, topic, partitions=PARTITIONS)
    with ExitStack() as stack:
        services = [
            service_of(folder, broker, topic, "kafka", str(i), alerts=ALERTS) for i in range(number)
        ]
        for service in services:
            stack.enter_context(service)
        services[0].wait_for("the partitions to be shared", lambda: _shared(services))
        time.sleep(_SETTLED)
        before = sum(_processor(service.pid) for service in services)
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, linger_ms=50)
        for i, payload in enumerate(payloads):
            producer.send(topic, payload, partition=i % PARTITIONS)
        producer.flush()
        producer.close()
        services[0].wait_for(
            "all events", lambda: sum(s.accepted() for s in services) == len(payloads)
        )
        after = sum(_processor(service.pid) for service in services)
        return after - before, [resident(service.pid) for service in services]


def _shared(services: list[Service]) -> bool:
    owned = [service.metric("stream_monitor_assigned_partitions") for service in services]
    ready = all(service.metric("stream_monitor_ready") for service in services)
    return ready and sum(owned) == PARTITIONS and min(owned) > 0


def _processor(pid: int) -> float:
    """Seconds that a process has spent by now."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
