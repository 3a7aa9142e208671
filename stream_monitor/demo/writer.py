"""Sends the demo's traffic in accelerated event time: to a log that rotates, or to Kafka."""

from __future__ import annotations

import heapq
import threading
import time
from pathlib import Path
from typing import Any, Protocol

import orjson
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

from stream_monitor.demo.traffic import HOUR, START, Events, Traffic
from stream_monitor.errors import SourceError

TOPIC = "payments"
_PARTITIONS = 4
_SETTINGS = {"message.timestamp.type": "LogAppendTime"}
_ROTATE_BYTES = 64 * 2**20


class Sink(Protocol):
    """Where events and labels go."""

    def events(self, events: Events) -> None: ...

    def labels(self, lines: list[bytes]) -> None: ...

    def close(self) -> None: ...


class LogSink:
    """JSONL logs as a model server writes them; the last rotated one is kept."""

    def __init__(self, folder: Path) -> None:
        self._events, self._labels = folder / "events.jsonl", folder / "labels.jsonl"
        for path in (self._events, self._labels):
            path.touch()

    def events(self, events: Events) -> None:
        _append(self._events, events.lines())

    def labels(self, lines: list[bytes]) -> None:
        _append(self._labels, lines)

    def close(self) -> None:
        """Nothing is open between two writes."""


def _append(path: Path, lines: list[bytes]) -> None:
    if lines:
        with path.open("ab") as file:
            file.write(b"\n".join(lines) + b"\n")
            full = file.tell() > _ROTATE_BYTES
        if full:
            path.replace(path.with_name(path.name + ".1"))
            path.touch()


class KafkaSink:
    """Two topics on LogAppendTime: accelerated event time runs ahead of the broker's clock."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self._topic, self._labels_topic = topic, f"{topic}-labels"
        try:
            admin = KafkaAdminClient(bootstrap_servers=bootstrap_servers)
            for name in (self._topic, self._labels_topic):
                try:
                    admin.create_topics([NewTopic(name, _PARTITIONS, -1, topic_configs=_SETTINGS)])
                except TopicAlreadyExistsError:
                    continue
            admin.close()
            self._producer: Any = KafkaProducer(bootstrap_servers=bootstrap_servers, linger_ms=50)
        except KafkaError as error:
            raise SourceError(
                f"--bootstrap-servers {bootstrap_servers}: {type(error).__name__}: {error}; "
                f"is a broker running there?"
            ) from None

    def events(self, events: Events) -> None:
        for line in events.lines():
            self._producer.send(self._topic, line)
        self._producer.flush()

    def labels(self, lines: list[bytes]) -> None:
        for line in lines:
            self._producer.send(self._labels_topic, line)

    def close(self) -> None:
        self._producer.close()


class Writer:
    """Sends hour after hour from :data:`START`, ``speed`` seconds of event time a second."""

    def __init__(self, traffic: Traffic, sink: Sink, speed: float, hours: int | None) -> None:
        self._traffic = traffic
        self._sink = sink
        self._speed = speed
        self._hours = hours
        self._late: list[tuple[float, bytes]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.run, name="traffic", daemon=True)
        self.sent = 0
        self.now = float(START)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10.0)

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def run(self) -> None:
        """Send until stopped, or until ``hours`` are over."""
        begin = time.monotonic()
        for number, events in enumerate(self._traffic.hours(0)):
            if number == self._hours:
                break
            due = begin + (number + 1) * HOUR / self._speed
            if self._stop.wait(max(0.0, due - time.monotonic())):
                break
            self._sink.events(events)
            self.sent += len(events)
            self.now = START + (number + 1) * HOUR
            self._send_labels(events)
        self._sink.close()

    def _send_labels(self, events: Events) -> None:
        """Labels come when they are known, which is late."""
        for event_id, label, at in zip(
            events.ids, events.label.tolist(), events.label_time.tolist(), strict=True
        ):
            line = orjson.dumps({"id": event_id, "ts": round(at, 3), "label": label})
            heapq.heappush(self._late, (at, line))
        due = []
        while self._late and self._late[0][0] <= self.now:
            due.append(heapq.heappop(self._late)[1])
        self._sink.labels(due)
