"""Replayed dead letters are what they were, once, and count as if they had never failed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource

from stream_monitor.decode.rejects import REASONS
from stream_monitor.sources.kafka_runs import TIMESTAMP
from stream_monitor.store.base import DeadLetter
from stream_monitor.store.kafka.letters import (
    REPLAYS,
    letter_of,
    letter_record,
    replayed,
)
from tests import worlds
from tests.distributed import Distributed, table
from tests.kafka_broker import ExternalBroker, KafkaBroker, create_topic
from tests.service import Service

Broker = KafkaBroker | ExternalBroker
COMMAND = [sys.executable, "-m", "stream_monitor", "replay", "--config", "monitor.yaml"]
MILLISECONDS = worlds.START * 1_000
Header = tuple[str, bytes]


def letter(topic: str, i: int = 0, **parts: Any) -> DeadLetter:
    """One of a record with a key and a header."""
    given: dict[str, Any] = {
        "partition": f"{topic}:{i % 2}",
        "place": f"{topic}[{i % 2}]@{i}",
        "reason": "not_json",
        "detail": f"number {i}",
        "payload": f"{{payload {i}".encode(),
        "key": f"key {i}".encode(),
        "headers": (("trace", b"%d" % i),),
        "timestamp": (MILLISECONDS + i) * 1_000,
    }
    return DeadLetter(**given | parts)


class Bench:
    """A topic of two partitions, its dead letters, and the command."""

    def __init__(self, broker: Broker, folder: Path, **settings: str) -> None:
        self.servers, self.folder = broker.bootstrap_servers, folder
        self.topic = f"replay-{time.time_ns()}"
        # the records are of 2023
        create_topic(broker, self.topic, partitions=2, retention_ms="-1", **settings)
        create_topic(
            broker, f"{self.topic}-dead-letters", partitions=1, retention_ms="-1",
            max_message_bytes=str(2**25),
        )  # fmt: skip
        self.configure()

    def configure(self, **sections: Any) -> None:
        config = worlds.raw_config(
            source={
                "type": "kafka",
                "bootstrap_servers": self.servers,
                "topics": [self.topic],
                "group_id": self.topic,
            },
            store={"type": "kafka", "transaction_timeout": "5s"},
        )
        (self.folder / "monitor.yaml").write_text(yaml.safe_dump(config | sections))

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        producer = KafkaProducer(
            bootstrap_servers=self.servers, linger_ms=20, max_request_size=2**26
        )
        for one in letters:
            r = letter_record(f"{self.topic}-dead-letters", one)
            producer.send(
                r.topic, r.value, key=r.key, headers=list(r.headers), timestamp_ms=r.timestamp
            )
        producer.flush()
        producer.close()

    def run(self, *options: str, status: int = 0) -> str:
        """The command's answer."""
        return run(self.folder, *options, status=status)

    def records(self, topic: str | None = None) -> list[Any]:
        return records(self.servers, topic or self.topic)

    def numbers(self) -> list[int]:
        """Those of the letters that were replayed, sorted."""
        return sorted(int(dict(r.headers)["trace"]) for r in self.records())


def run(folder: Path, *options: str, status: int = 0) -> str:
    done = subprocess.run(
        [*COMMAND, *options], cwd=folder, capture_output=True, text=True, timeout=300,
        env=os.environ | {"COLUMNS": "200"}, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stderr if status else done.stdout


def records(servers: str, topic: str) -> list[Any]:
    """All that was committed."""
    consumer = KafkaConsumer(
        bootstrap_servers=servers, group_id=None, isolation_level="read_committed",
        auto_offset_reset="earliest",
    )  # fmt: skip
    places = [TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)]
    consumer.assign(places)
    found: list[Any] = []
    ends = consumer.end_offsets(places)
    while any(consumer.position(p) < ends[p] for p in places):
        for some in consumer.poll(200).values():
            found += some
    consumer.close()
    return found


@pytest.fixture
def bench(kafka_broker: Broker, tmp_path: Path) -> Bench:
    return Bench(kafka_broker, tmp_path)


# --- records ------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    ["trace", "", "__connect.errors.topic", "stream_monitor.reason", "stream_monitor.events",
     "stream_monitor.record_headers", "stream_monitor.original_bytes", TIMESTAMP, REPLAYS]
)  # fmt: skip
VALUES = st.sampled_from([b"", b"0", b"7", b"x", b"\xff\x00"])


class Stored:
    """A record as kafka-python returns it."""

    def __init__(self, outgoing: Any) -> None:
        self.key, self.value, self.headers = outgoing.key, outgoing.value, list(outgoing.headers)


LETTERS = st.builds(
    DeadLetter,
    partition=st.sampled_from(["events:3", "a.b_c-d:0"]),
    place=st.just("events[3]@7"),
    reason=st.sampled_from(sorted(REASONS)),
    detail=st.text().filter(lambda text: text.isprintable()),
    payload=st.binary(),
    key=st.none() | st.binary(),
    headers=st.lists(st.tuples(NAMES, VALUES)).map(tuple),
    timestamp=st.none() | st.integers(-1, 2**45).map(lambda stamp: stamp * 1_000),
    count=st.integers(1, 10**6),
)


@given(LETTERS)
def test_a_letter_is_had_back_from_its_record_whatever_its_headers_are(made: DeadLetter) -> None:
    assert letter_of(Stored(letter_record("letters", made))) == (made, False)


@given(st.lists(st.tuples(NAMES, VALUES)))
def test_replays_are_counted_and_other_headers_stay(headers: list[Header]) -> None:
    record = replayed(letter("events", headers=tuple(headers)))
    before = [int(value) for name, value in headers if name == REPLAYS and value.isdigit()]
    counts = [int(v) for n, v in record.headers if n == REPLAYS and v.isdigit()]
    assert counts == [before[-1] + 1 if before else 1]
    counted = {(REPLAYS, b"0"), (REPLAYS, b"7")}
    kept = [header for header in headers if header not in counted]
    assert list(record.headers[: len(kept)]) == kept
    stamps = [v for n, v in record.headers if n == TIMESTAMP and v.isdigit()]
    assert stamps == [v for n, v in headers if n == TIMESTAMP and v.isdigit()] or stamps == [
        str(MILLISECONDS).encode()
    ]


@pytest.mark.parametrize("headers", [[], [("stream_monitor.record_headers", b"9" * 5_000)]])
def test_a_record_of_others_is_no_letter(headers: list[Header]) -> None:
    class Other:
        key, value = None, b"?"

    Other.headers = headers  # type: ignore[attr-defined]
    assert letter_of(Other()) is None


# --- with a Kafka store -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["CreateTime", "LogAppendTime"])
def test_records_are_what_they_were(kafka_broker: Broker, tmp_path: Path, kind: str) -> None:
    bench = Bench(kafka_broker, tmp_path, message_timestamp_type=kind)
    headers = (
        ("trace", b"a"), ("trace", b"b"), ("", b"\xff"), ("__connect.errors.topic", b"elsewhere"),
        ("__connect.errors.partition", b"9"), ("stream_monitor.reason", b"mine"),
        ("stream_monitor.record_headers", b"1"), (TIMESTAMP, b"never"), (REPLAYS, b"once"),
    )  # fmt: skip
    given = [
        letter(bench.topic, 0, headers=headers, key=None, payload=b"\x00\xff{"),
        letter(bench.topic, 1, headers=(), key=b"\xfe", payload=b""),
        letter(bench.topic, 2, headers=((TIMESTAMP, b"1700000000000"),),
               timestamp=1_700_000_000_000_000),
    ]  # fmt: skip
    bench.bury(given)
    assert bench.run().startswith("3 dead letters replayed: 3 not_json")
    found = sorted(bench.records(), key=lambda r: (r.partition, r.offset))
    first, again, second = found
    once = (REPLAYS, b"1")
    assert (first.partition, first.key, first.value) == (0, None, b"\x00\xff{")
    assert tuple(first.headers) == (*headers, once, (TIMESTAMP, str(MILLISECONDS).encode()))
    assert (second.partition, second.key, second.value) == (1, b"\xfe", b"")
    assert second.headers == [once, (TIMESTAMP, str(MILLISECONDS + 1).encode())]
    assert again.headers == [(TIMESTAMP, b"1700000000000"), once]
    if kind == "CreateTime":
        assert [r.timestamp for r in found] == [MILLISECONDS, 1_700_000_000_000, MILLISECONDS + 1]


def test_a_second_replay_begins_where_the_first_ended(bench: Bench) -> None:
    bench.bury([letter(bench.topic, i) for i in range(10)])
    assert "4 dead letters replayed" in bench.run("--limit", "4")
    assert bench.numbers() == [0, 1, 2, 3]
    assert "stopped at --limit" in bench.run("--limit", "0")
    assert "6 dead letters replayed" in bench.run()
    assert bench.numbers() == list(range(10))
    assert bench.run().startswith("0 dead letters replayed")
    assert "10 dead letters replayed" in bench.run("--from-beginning")
    assert bench.numbers() == sorted([*range(10), *range(10)])
    bench.bury([letter(bench.topic, 10)])
    assert "1 dead letters replayed" in bench.run()


def test_only_the_chosen_ones_are_replayed(bench: Bench) -> None:
    def reason(i: int) -> str:
        return ["not_json", "clock_skew", "unknown_model"][i % 3]

    bench.bury([letter(bench.topic, i, reason=reason(i)) for i in range(12)])
    # milliseconds after the start of the world
    until = f"{worlds.START}.009"
    options = ["--reason", "clock_skew,unknown_model", "--since", "2023-11-15T00:00:00.002Z"]
    told = bench.run(*options, "--until", until)
    assert bench.numbers() == [2, 4, 5, 7, 8]
    assert "5 dead letters replayed: 2 clock_skew, 3 unknown_model\n" in told
    assert "7 passed over, not chosen" in told
    assert "12 passed over, not chosen" in bench.run("--from-beginning", "--topic", "another")
    assert len(bench.records(f"{bench.topic}-dead-letters")) == 12


def test_a_dry_run_tells_and_writes_nothing(bench: Bench) -> None:
    bench.bury([letter(bench.topic, i, reason=["not_json", "bad_timestamp"][i % 2],
                       detail="[bold]\x1b[2J is no time") for i in range(5)])  # fmt: skip
    told = bench.run("--dry-run")
    assert "5 dead letters to be replayed: 2 bad_timestamp, 3 not_json" in told
    assert f"{bench.topic}[1]@1" in told
    assert "[bold]\ufffd[2J is no time" in told
    assert not bench.records()
    assert "5 dead letters replayed" in bench.run()


def test_what_cannot_be_replayed_is_passed_over_and_said(bench: Bench) -> None:
    topic = bench.topic
    bench.bury(
        [
            letter(topic, 0, reason="too_large"),
            letter(topic, 1, headers=((REPLAYS, b"4"), ("trace", b"1"))),
            letter(topic, 2, headers=((REPLAYS, b"3"), ("trace", b"2"))),
            # a whole record, of which one event was refused
            letter(topic, 3, reason="clock_skew", payload=b'[{"a": 1}, {"a": 2}]', count=1),
            letter(topic, 4, reason="clock_skew", payload=b'[{"a": 1}, {"a": 2}]', count=2),
            letter(topic, 5, partition=f"{topic}:9"),
            letter(topic, 6, partition="a-file.jsonl"),
            letter(topic, 7, payload=b"x" * (25 * 2**20)),
        ]
    )
    told = bench.run()
    assert bench.numbers() == [2, 4]
    assert "2 passed over, cut" in told
    assert "1 passed over, replayed too often" in told
    assert "1 passed over, whole records" in told
    assert "2 passed over, of no topic and partition" in told
    assert "3 dead letters replayed" in bench.run("--from-beginning", "--max-replays", "9")
    assert "1 dead letters replayed" in bench.run("--from-beginning", "--max-replays", "0")


def test_one_that_the_brokers_refuse_does_not_hold_up_the_others(
    kafka_broker: Broker, tmp_path: Path
) -> None:
    bench = Bench(kafka_broker, tmp_path, max_message_bytes="20000")
    large = random.Random(1).randbytes(100_000)  # noqa: S311 - not for secrets
    bench.bury([letter(bench.topic, i, payload=large if i == 7 else b"{") for i in range(20)])
    told = bench.run()
    assert "19 dead letters replayed" in told
    assert "1 passed over, refused by the brokers" in told
    assert bench.numbers() == [i for i in range(20) if i != 7]
    assert bench.run().startswith("0 dead letters replayed")


def test_killed_in_the_middle_nothing_is_replayed_twice(bench: Bench) -> None:
    count = 20_000
    bench.bury([letter(bench.topic, i, payload=b"{" * 500) for i in range(count)])
    consumer = KafkaConsumer(bootstrap_servers=bench.servers, group_id=None)
    places = [TopicPartition(bench.topic, p) for p in range(2)]

    def written() -> int:
        return sum(consumer.end_offsets(places).values())

    choose = random.Random(5)  # noqa: S311 - not for secrets
    killed = 0
    for _ in range(3):
        before = written()
        process = subprocess.Popen(
            COMMAND, cwd=bench.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait(lambda before=before: written() > before)  # type: ignore[misc]
        time.sleep(choose.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    consumer.close()
    assert killed
    bench.run()
    assert bench.numbers() == list(range(count))


def test_two_at_once_replay_one_after_another(bench: Bench) -> None:
    count = 10_000
    bench.bury([letter(bench.topic, i, payload=b"{" * 500) for i in range(count)])
    both = [
        subprocess.Popen(COMMAND, cwd=bench.folder, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(int(t.split()[0].replace(",", "")) for t in told) == count
    assert bench.numbers() == list(range(count))


def wait(ask: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not ask():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_wrong_usage_is_told(bench: Bench) -> None:
    assert "choose from" in bench.run("--reason", "nonsense", status=2)
    assert "RFC 3339" in bench.run("--since", "yesterday", status=2)
    assert "not allowed" in bench.run("--dry-run", "--output", "x.jsonl", status=2)
    bench.configure(store={"type": "kafka", "prefix": "nobodys"})
    assert "there is no topic nobodys-dead-letters" in bench.run(status=1)


# --- the whole way ------------------------------------------------------------------------------


def test_after_a_fix_windows_are_those_of_a_run_that_never_failed(
    tmp_path: Path, kafka_broker: Broker
) -> None:
    """Arrays of events and labels, all refused first, for the mappings name wrong fields."""
    world = Distributed(tmp_path, kafka_broker, f"fixed-{time.time_ns()}", rows=4_000, a_record=100)
    world.produce()
    expected = world.expect()
    right = world.config()
    labels = right["labels"]["mapping"] | {"label": "truth"}
    wrong = {
        "mapping": right["mapping"] | {"timestamp": "when"},
        "labels": right["labels"] | {"mapping": labels},
        "limits": right["limits"] | {"max_rejected": 1},
    }
    events, number = len(world.found.events), len(world.labels)
    with world.replica(**wrong) as service:
        service.wait_for(
            "everything to be refused",
            lambda: service.metric("stream_monitor_events_rejected_total") == events + number,
        )
        assert service.stop() == 0
    replica = world.replica()
    written = len(records(kafka_broker.bootstrap_servers, world.name))
    told = run(replica.folder)
    # of each record ten alone and the others as an array
    letters = sum(min(11, n) for n in [100] * (events // 100) + [events % 100])
    assert f"{letters + number:,} dead letters replayed" in told
    assert f"{number:,} bad_label" in told
    found = records(kafka_broker.bootstrap_servers, world.name)
    assert len(found) == written + letters
    payloads = [orjson.loads(r.value) for r in found if dict(r.headers).get(REPLAYS) == b"1"]
    assert sum(isinstance(p, dict) for p in payloads) == 10 * -(-events // 100)
    assert sum(len(p) if isinstance(p, list) else 1 for p in payloads) == events
    with replica:
        replica.wait_for("the expected windows", lambda: world.live(replica) == expected or None)
        replica.wait_for("all events", lambda: replica.accepted() == events)
        assert replica.stop() == 0
    assert run(replica.folder).startswith("0 dead letters replayed")


def test_what_fails_again_comes_back_with_a_count(tmp_path: Path, kafka_broker: Broker) -> None:
    world = Distributed(tmp_path, kafka_broker, f"again-{time.time_ns()}", rows=50, a_record=1)
    world.produce()
    events = len(world.found.events)
    wrong = {"timestamp": "when", "arrival": "event_time"}
    limits = {"memory": "256GiB", "max_rejected": 1}
    replica = world.replica(mapping=wrong, limits=limits)
    letters = f"{world.name}-dead-letters"

    def buried(count: int) -> bool:
        return len(records(kafka_broker.bootstrap_servers, letters)) == count

    with replica:
        for i in range(5):
            replica.wait_for("the letters", lambda i=i: buried((i + 1) * events))  # type: ignore[misc]
            told = run(replica.folder)
            assert f"{events if i < 4 else 0} dead letters replayed" in told
    assert f"{events} passed over, replayed too often" in told
    counts = Counter(
        dict(r.headers).get(REPLAYS) for r in records(kafka_broker.bootstrap_servers, letters)
    )
    assert counts == dict.fromkeys([None, b"1", b"2", b"3", b"4"], events)


# --- with a local store -------------------------------------------------------------------------


def test_letters_of_a_local_store_go_back_to_their_topics(
    tmp_path: Path, kafka_broker: Broker
) -> None:
    """Good events among some that are refused, judged by the timestamps of their records."""
    topic, servers = f"local-{time.time_ns()}", kafka_broker.bootstrap_servers
    create_topic(kafka_broker, topic, partitions=2, retention_ms="-1")
    worlds.build(tmp_path)
    lines = worlds.events(2_000, 9)
    end = orjson.dumps(orjson.loads(lines[0]) | {"id": "end", "ts": worlds.START + 5 * 86_400})
    producer = KafkaProducer(bootstrap_servers=servers)

    def send(i: int, line: bytes) -> None:
        # every third is an hour ahead of its record
        stamp = int(orjson.loads(line)["ts"] * 1_000) - (3_600_000 if i % 3 == 1 else 0)
        producer.send(topic, line, key=b"%d" % i, partition=i % 2, timestamp_ms=stamp)

    for i, line in enumerate(lines):
        send(i, line)
    producer.flush()
    config = worlds.raw_config(
        source={
            "type": "kafka",
            "bootstrap_servers": servers,
            "topics": [topic],
            "group_id": topic,
            "options": {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 500},
        },
        # nothing is closed before the end
        time={"allowed_lateness": "2d", "max_ahead": "1000d"},
        store={"path": "local.db"},
        limits={"memory": "256GiB"},
    )
    bad = len(range(1, len(lines), 3))
    with Service(tmp_path, config) as service:
        service.wait_for("the good ones", lambda: service.accepted() == len(lines) - bad)
        rejected = "stream_monitor_events_rejected_total"
        service.wait_for("the bad ones", lambda: service.metric(rejected) == bad)
        # it may be looked at while the service runs
        service.wait_for("the letters", lambda: f"{bad} clock_skew" in run(tmp_path, "--dry-run"))
        assert "another process uses this state" in run(tmp_path, status=1)
        assert service.stop() == 0
    admin = KafkaAdminClient(bootstrap_servers=servers)
    stamped = {"message.timestamp.type": "LogAppendTime"}  # what they are judged by is the header
    admin.alter_configs([ConfigResource("TOPIC", topic, stamped)])
    assert f"{bad} dead letters replayed" in run(tmp_path)
    assert run(tmp_path).startswith("0 dead letters replayed")
    admin.alter_configs([ConfigResource("TOPIC", topic, {"message.timestamp.type": "CreateTime"})])
    admin.close()
    config["time"]["allowed_skew"] = "2h"
    with Service(tmp_path, config) as service:
        service.wait_for("all", lambda: service.accepted() == len(lines))
        assert service.metric("stream_monitor_events_late_total") == 0
        send(0, end)
        producer.close()
        found = service.wait_for("closed windows", lambda: closed(service))
    (tmp_path / "events.jsonl").write_bytes(b"\n".join([*lines, end]) + b"\n")
    subprocess.run(
        [sys.executable, "-m", "stream_monitor", "backtest", "--config", "monitor.yaml",
         "--events", "events.jsonl", "--output", "out.parquet"],
        cwd=tmp_path, check=True, timeout=300,
    )  # fmt: skip
    rows = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    last = max(row["window_index"] for row in rows)
    assert table(found, last) == table(rows, last)
    keys = Counter(r.key for r in records(servers, topic))
    assert sorted(keys.values()) == [1] * (len(lines) - bad - 1) + [2] * (bad + 1)


def closed(service: Service) -> list[dict[str, Any]] | None:
    rows: list[dict[str, Any]] = service.get("/api/v1/windows?state=closed")["windows"]
    return rows or None


def test_letters_of_files_are_written_to_a_file(tmp_path: Path) -> None:
    worlds.build(tmp_path)
    bad = [b"{", b'{"model": "loans"}', b"[1,\r2"]
    (tmp_path / "events.jsonl").write_bytes(b"\n".join([*worlds.events(10, 3), *bad]) + b"\n")
    config = worlds.raw_config(source={"type": "follow", "path": "events.jsonl"})
    with Service(tmp_path, config) as service:
        service.wait_for("the bad ones", lambda: "3 dead" in run(tmp_path, "--dry-run"))
        assert "--output" in run(tmp_path, status=1)
        told = run(tmp_path, "--output", "letters.jsonl")
        assert service.stop() == 0
    assert told.startswith("3 dead letters in letters.jsonl: 1 missing_field, 2 not_json")
    assert (tmp_path / "letters.jsonl").read_bytes() == b'{\n{"model": "loans"}\n[1, 2\n'
