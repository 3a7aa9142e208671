"""What every loop that reads does: it stops before a bad deploy empties a topic, and not sooner."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from kafka import KafkaProducer

from stream_monitor.config import model
from stream_monitor.reference.profile import load
from stream_monitor.sources.kafka import KafkaSource
from stream_monitor.sources.kafka_runs import TIMESTAMP
from stream_monitor.store.sqlite import SqliteStore
from tests import worlds
from tests.kafka_broker import ExternalBroker, KafkaBroker, create_topic
from tests.service import Service


def config(**sections: Any) -> dict[str, Any]:
    return worlds.raw_config(source={"type": "files", "path": "events"}, **sections)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    worlds.build(tmp_path)
    (tmp_path / "events").mkdir()
    return tmp_path


def write(folder: Path, lines: list[bytes]) -> None:
    (folder / "events" / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")


@pytest.mark.parametrize("events", [1, 12])
def test_it_stops_when_nearly_nothing_can_be_used_and_commits_nothing_of_it(
    folder: Path, events: int
) -> None:
    bad = b'{"model": "loans", "version": "1", "ts": "yesterday"}'
    write(folder, [bad if events == 1 else b"[" + b",".join([bad] * events) + b"]"] * 20_000)
    (folder / "monitor.yaml").write_text(yaml.safe_dump(config(http={"port": 0})))
    ended = subprocess.run(
        [sys.executable, "-m", "stream_monitor", "run", "--config", "monitor.yaml"],
        cwd=folder, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    told = ended.stderr.decode()
    assert "could not be used, more than limits.max_rejected, 95%" in told
    assert "bad_timestamp" in told
    assert "Is `mapping` right" in told
    # what was committed before it was sure is less than what makes it sure
    store = SqliteStore(
        folder / "stream-monitor.db", results_retention_windows=10, max_dead_letters=10_000
    )
    assert len({letter.place for letter in store.dead_letters(100_000)}) < 10_000
    store.close()


@pytest.mark.parametrize(
    "bad",
    [
        [b"[" + b"1," * 300_000 + b"1]"],
        # in every record one event
        [b'[{"ts":"never"},' + b",".join(worlds.events(20, i)) + b"]" for i in range(50)],
    ],
    ids=["one hostile record", "one bad event in each"],
)
def test_bad_records_among_good_ones_and_bad_events_in_good_records_stop_nothing(
    folder: Path, bad: list[bytes]
) -> None:
    good = worlds.events(12_000, 2, seconds=0.1)
    write(folder, [*good, *bad * (240 if len(bad) > 1 else 1)])
    with Service(folder, config(limits={"max_record_size": "2MiB"})) as service:
        service.wait_for(
            "rejects", lambda: service.metric("stream_monitor_events_rejected_total") > 0
        )
        service.wait_for("the end", lambda: service.get("/api/v1/status")["service"]["finished"])
        assert service.accepted() >= len(good)
        assert service.stop() == 0


class _NotUtf8(str):
    """A header's key as no client should write it."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        return b"\xff\xfe"


def test_a_header_key_that_is_not_utf8_is_a_dead_letter_of_its_own(
    kafka_broker: KafkaBroker | ExternalBroker,
) -> None:
    name = f"headers-{time.time_ns()}"
    create_topic(kafka_broker, name, partitions=1)
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap_servers, linger_ms=50)
    for i in range(5):
        headers = [(_NotUtf8("h"), b"v")] if i == 2 else [("h", b"v")]
        producer.send(name, b'{"i": %d}' % i, key=b"k", headers=headers, timestamp_ms=1_000 + i)
    producer.flush()
    producer.close()
    source = KafkaSource(
        model.KafkaSource(
            type="kafka", bootstrap_servers=kafka_broker.bootstrap_servers, topics=[name],
            group_id=name,
        )
    )  # fmt: skip
    found: list[Any] = []
    while sum(map(len, found)) < 5:
        poll = source.poll(0.2)
        for partition in poll.assigned:
            source.seek(partition, None)
        found += poll.records
    source.close()
    payloads = [payload for records in found for payload in records.payloads]
    assert [payloads[i] for i in (0, 1, 3, 4)] == [b'{"i": %d}' % i for i in (0, 1, 3, 4)]
    # all its bytes, so nothing of it is lost; and no JSON
    assert payloads[2][0] == 0
    assert b'{"i": 2}' in payloads[2]
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(payloads[2])
    stamps = [int(t) for records in found for t in records.timestamps]
    assert stamps == [1_000_000 + 1_000 * i for i in range(5)]


def test_a_replayed_record_has_the_timestamp_of_the_first_time(
    kafka_broker: KafkaBroker | ExternalBroker,
) -> None:
    name = f"replayed-{time.time_ns()}"
    create_topic(kafka_broker, name, partitions=1)
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap_servers)
    for value in (b"12345", b"no number", b"9" * 400, b""):
        producer.send(name, b"{}", headers=[(TIMESTAMP, value)], timestamp_ms=1_000)
    producer.flush()
    producer.close()
    source = KafkaSource(
        model.KafkaSource(
            type="kafka", bootstrap_servers=kafka_broker.bootstrap_servers, topics=[name],
            group_id=name,
        )
    )  # fmt: skip
    found: list[int] = []
    while len(found) < 4:
        poll = source.poll(0.2)
        for partition in poll.assigned:
            source.seek(partition, None)
        for records in poll.records:
            found += records.timestamps.tolist() if records.timestamps is not None else []
    source.close()
    # what is no number of milliseconds counts for nothing
    assert found == [12_345_000, 1_000_000, 1_000_000, 1_000_000]


def test_a_fetch_that_spans_months_opens_few_panes(
    kafka_broker: KafkaBroker | ExternalBroker, folder: Path
) -> None:
    name = f"sparse-{time.time_ns()}"
    create_topic(kafka_broker, name, partitions=1)
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap_servers, linger_ms=50)
    hours = 500
    for i, line in enumerate(worlds.events(hours, 5, seconds=3_600.0)):
        producer.send(name, line, timestamp_ms=(worlds.START + i * 3_600) * 1_000)
    producer.flush()
    producer.close()
    source = {
        "type": "kafka",
        "bootstrap_servers": kafka_broker.bootstrap_servers,
        "topics": [name],
        "group_id": name,
    }
    most = 0.0
    with Service(folder, worlds.raw_config(source=source)) as service:

        def done() -> bool:
            nonlocal most
            most = max(most, service.metric("stream_monitor_state_bytes"))
            return service.accepted() == hours

        service.wait_for("all events", done)
        assert service.stop() == 0
    # a window of an hour and those that are open around it, not one for each hour of the fetch
    assert most <= 6 * load(folder / "loans.ref").layout.size * 8
