"""Memory over millions of events, and the time from the broker to the metric.

Each million is written, then waited for; the topic is emptied behind the readers.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from stream_monitor.schema import FloatArray
from tests.bench import world
from tests.bench.lines import Line, Section, Tell
from tests.kafka_broker import KafkaBroker, create_topic
from tests.service import Service

MILLION = 1_000_000
MILLIONS = 10
FILLING = 2  # millions in which the windows fill for the first time
TEMPLATES = 50_000
PARTITIONS = 2
EVENT_RATE = 500  # a second of event time: each million fills the windows anew
LIVE_RATE, LIVE_SECONDS = 1_000, 120
STORES = "sqlite", "kafka"
# what, store, roles, seconds aimed at
DELAYS = (
    ("local store", "sqlite", ("all",), 1.0),
    ("Kafka store, `role: all`", "kafka", ("all",), 1.0),
    ("Kafka store, worker and aggregator", "kafka", ("worker", "aggregator"), 1.5),
)


def measure(tell: Tell) -> Section:
    broker = KafkaBroker()
    broker.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            world.build(Path(folder))
            resident = flat(Path(folder), broker, tell)
            lines = [most_line(resident["sqlite"])]
            lines += [flat_line(kind, sizes) for kind, sizes in resident.items()]
            facts = [flat_fact(kind, sizes) for kind, sizes in resident.items()]
            for what, kind, roles, limit in DELAYS:
                tell(f"delay, {what}")
                found = latency(Path(folder), broker, kind, roles)
                lines.append(delay_line(what, found, limit))
                facts.append(delay_fact(what, found))
    finally:
        broker.stop()
    return Section(
        title="Memory and delay", command="python -m tests.bench memory", lines=lines, facts=facts
    )


def most_line(sizes: Sequence[int]) -> Line:
    return Line(
        what=f"most memory in {MILLIONS} million events, sqlite store",
        baseline="what is aimed at",
        unit="MB",
        ours=[max(sizes) / 1e6],
        theirs=[250.0],
        most=1.0,
    )


def flat_line(kind: str, sizes: Sequence[int]) -> Line:
    full = [size / 1e6 for size in sizes[FILLING:]]
    half = len(full) // 2
    return Line(
        what=f"memory with full windows, the last {half} million events, {kind} store",
        baseline=f"the {half} million before",
        unit="MB",
        ours=full[half:],
        theirs=full[:half],
        most=1.05,
    )


def flat_fact(kind: str, sizes: Sequence[int]) -> str:
    told = ", ".join(f"{size / 1e6:.0f}" for size in sizes)
    return f"Resident memory after each million, {kind} store: {told} MB."


def delay_line(what: str, delays: FloatArray, limit: float) -> Line:
    return Line(
        what=f"from the append to the metric, p99, {what}",
        baseline="what is aimed at",
        unit="s",
        ours=[float(np.percentile(delays, 99))],
        theirs=[limit],
        most=1.0,
    )


def delay_fact(what: str, delays: FloatArray) -> str:
    p50, p99, most = np.percentile(delays, (50, 99, 100)).tolist()
    return (
        f"From the append to the metric at {LIVE_RATE:,} events a second, {what}: median "
        f"{p50:.2f} s, p99 {p99:.2f} s, at most {most:.2f} s."
    )


def service_of(
    folder: Path, broker: KafkaBroker, topic: str, kind: str, name: str, **sections: Any
) -> Service:
    """One that reads a topic into a store of a kind, in a folder of its own by that name."""
    own = folder / f"{topic}-{kind}-{name}"
    own.mkdir()
    source = {
        "type": "kafka",
        "bootstrap_servers": broker.bootstrap_servers,
        "topics": [topic],
        "group_id": f"{topic}-{kind}",
    }
    return Service(own, world.raw_config(folder, source=source, store={"type": kind}, **sections))


def flat(folder: Path, broker: KafkaBroker, tell: Tell) -> dict[str, list[int]]:
    """Resident bytes after each million, by store."""
    topic = "millions"
    create_topic(broker, topic, partitions=PARTITIONS)
    services = {kind: service_of(folder, broker, topic, kind, "all") for kind in STORES}
    found: dict[str, list[int]] = {kind: [] for kind in STORES}
    payloads = _payloads()
    try:
        for service in services.values():
            service.start()
        for million in range(1, MILLIONS + 1):
            tell(f"million {million} of {MILLIONS}")
            producer = KafkaProducer(
                bootstrap_servers=broker.bootstrap_servers, linger_ms=50, batch_size=2**18
            )
            for i in range(MILLION):
                producer.send(topic, next(payloads), partition=i % PARTITIONS)
            producer.flush()
            producer.close()
            for kind, service in services.items():
                while service.accepted() < million * MILLION:
                    time.sleep(0.5)
                found[kind].append(resident(service.pid))
            _emptied(broker, topic, million * MILLION // PARTITIONS)
    finally:
        for service in services.values():
            service.end()
    return found


def _payloads() -> Iterator[bytes]:
    """Events without end, as time goes on."""
    made = [re.split(rb'"ts":[\d.]+', payload) for payload in world.events(TEMPLATES, 4)]
    count = 0
    while True:
        for before, after in made:
            moment = world.START + count / EVENT_RATE
            yield b'%b"ts":%.6f%b' % (before, moment, after)
            count += 1


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    return int(found[1]) * 1_024 if found else 0


def _emptied(broker: KafkaBroker, topic: str, offset: int) -> None:
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    admin.delete_records({TopicPartition(topic, p): offset for p in range(PARTITIONS)})
    admin.close()


def latency(folder: Path, broker: KafkaBroker, kind: str, roles: Sequence[str]) -> FloatArray:
    """Seconds from the append of each event to the first scrape that counts it, float64[n].

    The last of the roles is the one that is scraped.
    """
    topic = f"live-{kind}-{len(roles)}"
    create_topic(broker, topic, partitions=1)
    number = LIVE_RATE * LIVE_SECONDS
    appended, visible = np.zeros(number), np.zeros(number)
    with ExitStack() as stack:
        services = [service_of(folder, broker, topic, kind, r, role=r) for r in roles]
        for service in services:
            stack.enter_context(service)
        for service in services:
            service.wait_for(
                "its readiness",
                lambda s=service: s.metric("stream_monitor_ready") == 1,  # type: ignore[misc]
            )
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
        payloads = world.events(number, 5, start=time.time(), rate=LIVE_RATE)

        def write() -> None:
            began = time.time()
            for i, payload in enumerate(payloads):
                time.sleep(max(0.0, began + i / LIVE_RATE - time.time()))
                appended[i] = time.time()
                producer.send(topic, payload, partition=0)
            producer.flush()
            producer.close()

        writer = threading.Thread(target=write)
        writer.start()
        seen = 0
        deadline = time.monotonic() + LIVE_SECONDS + 60
        while seen < number:
            if time.monotonic() > deadline:
                raise SystemExit(f"{seen} of {number} events were counted in time")
            total = services[-1].accepted()
            visible[seen:total] = time.time()
            seen = total
            time.sleep(0.05)
        writer.join()
    late = LIVE_RATE * 15  # the first seconds are those of a start
    return (visible - appended)[late:]
