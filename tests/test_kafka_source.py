"""The Kafka source on a real broker."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from typing import Any

import pytest
from kafka import KafkaProducer, TopicPartition

from stream_monitor.assembly import member
from stream_monitor.config import model
from stream_monitor.errors import SourceError
from stream_monitor.sources.base import Poll
from stream_monitor.sources.kafka import KafkaSource
from stream_monitor.sources.kafka_options import (
    client_options,
    client_problems,
    librdkafka_options,
)
from tests.kafka_broker import ExternalBroker, KafkaBroker, create_topic

Broker = KafkaBroker | ExternalBroker


@pytest.fixture(params=["kafka-python", "confluent"])
def client(request: pytest.FixtureRequest) -> str:
    """Whatever reads: what holds of one holds of the other."""
    return str(request.param)


class Reader:
    """Reads a source to its end, and remembers what came."""

    def __init__(
        self,
        broker: Broker,
        topic: str,
        client: Any,
        positions: dict[str, str] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.positions = dict(positions or {})
        self.payloads: dict[str, list[bytes]] = defaultdict(list)
        self.config = model.KafkaSource(
            type="kafka",
            bootstrap_servers=broker.bootstrap_servers,
            topics=[topic],
            group_id=f"group-{uuid.uuid4()}",
            client=client,
            options=options or {},
        )
        self.source = member(self.config)
        self.last = Poll()

    def poll(self) -> Poll:
        poll = self.last = self.source.poll(0.2)
        for name in poll.assigned:
            self.source.seek(name, self.positions.get(name))
        for records in poll.records:
            self.payloads[records.partition] += records.payloads
            self.positions[records.partition] = records.position
        return poll

    def until_end(self, partitions: int) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if len(self.poll().at_end) == partitions and not self.last.records:
                return
        raise AssertionError(f"not at the end: {self.last}")


def filled(broker: Broker, counts: list[int]) -> tuple[str, dict[str, list[bytes]]]:
    topic = f"t-{uuid.uuid4()}"
    create_topic(broker, topic, partitions=len(counts))
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    sent: dict[str, list[bytes]] = {}
    for partition, count in enumerate(counts):
        sent[f"{topic}:{partition}"] = [b"%d-%d" % (partition, i) for i in range(count)]
        for i, payload in enumerate(sent[f"{topic}:{partition}"]):
            producer.send(
                topic, payload, partition=partition, key=b"k", timestamp_ms=1_000 + i,
                headers=[("h", b"v")],
            )  # fmt: skip
    producer.flush()
    producer.close()
    return topic, sent


def test_every_record_comes_once_in_order_and_an_empty_partition_is_at_its_end(
    kafka_broker: Broker, client: str
) -> None:
    topic, sent = filled(kafka_broker, [500, 0, 300])
    reader = Reader(kafka_broker, topic, client)
    reader.until_end(3)
    assert dict(reader.payloads) == {name: lines for name, lines in sent.items() if lines}
    assert reader.last.lag == dict.fromkeys(sent, 0)
    reader.source.close()


def test_a_partition_with_unread_records_is_never_at_its_end(
    kafka_broker: Broker, client: str
) -> None:
    topic, sent = filled(kafka_broker, [200, 200])
    reader = Reader(kafka_broker, topic, client)
    while not reader.last.assigned:
        reader.poll()
    reader.source.pause(frozenset([f"{topic}:1"]))
    for _ in range(15):
        assert f"{topic}:1" not in reader.poll().at_end
    assert reader.payloads.keys() == {f"{topic}:0"}
    reader.source.pause(frozenset())
    reader.until_end(2)
    assert reader.payloads == sent
    reader.source.close()


def test_marks_of_transactions_are_read_over_and_what_was_aborted_is_left_out(
    kafka_broker: Broker, client: str
) -> None:
    topic, sent = filled(kafka_broker, [3])
    name = f"{topic}:0"
    reader = Reader(kafka_broker, topic, client)
    reader.until_end(1)
    producer = KafkaProducer(
        bootstrap_servers=kafka_broker.bootstrap_servers, transactional_id=f"t-{uuid.uuid4()}"
    )
    producer.init_transactions()
    end = 3
    for value, ending in (
        (b"a", producer.commit_transaction),
        (b"lost", producer.abort_transaction),
        (b"b", producer.commit_transaction),
        (b"lost", producer.abort_transaction),
    ):
        producer.begin_transaction()
        producer.send(topic, value, partition=0)
        producer.flush()
        for _ in range(4):  # there is more of it than can be read
            reader.poll()
        assert not reader.last.at_end
        ending()
        end += 2  # the record and its mark
        deadline = time.monotonic() + 20
        while dict(reader.poll().ends) != {name: end}:
            assert time.monotonic() < deadline, (reader.last, end)
    producer.close()
    assert reader.payloads[name] == [*sent[name], b"a", b"b"]
    reader.source.close()


@pytest.mark.parametrize("position", [0, 1, 137, 200])
def test_reading_begins_at_the_position_that_was_kept(
    kafka_broker: Broker, client: str, position: int
) -> None:
    topic, sent = filled(kafka_broker, [200])
    name = f"{topic}:0"
    reader = Reader(kafka_broker, topic, client, {name: str(position)})
    reader.until_end(1)
    assert reader.payloads[name] == sent[name][position:]
    reader.source.close()


def test_records_carry_what_a_dead_letter_needs(kafka_broker: Broker, client: str) -> None:
    topic, _ = filled(kafka_broker, [3])
    reader = Reader(kafka_broker, topic, client)
    found: list[Any] = []
    while not found:
        found += reader.poll().records
    (records,) = found
    assert list(records.keys) == [b"k"] * 3
    assert list(records.headers) == [[("h", b"v")]] * 3
    assert list(records.places) == [f"{topic}[0]@{i}" for i in range(3)]
    assert records.timestamps.tolist() == [1_000_000, 1_001_000, 1_002_000]
    assert records.position == "3"
    reader.source.close()


def test_two_readers_of_a_group_share_the_partitions(kafka_broker: Broker, client: str) -> None:
    topic, sent = filled(kafka_broker, [50, 50, 50, 50])
    one, two = Reader(kafka_broker, topic, client), Reader(kafka_broker, topic, client)
    two.source = member(one.config)
    owned: dict[int, set[str]] = {0: set(), 1: set()}
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and (not owned[1] or owned[0] & owned[1]):
        for i, reader in enumerate((one, two)):
            poll = reader.poll()
            owned[i] = (owned[i] - set(poll.revoked)) | set(poll.assigned)
    assert owned[0] | owned[1] == set(sent)
    assert not owned[0] & owned[1]
    one.source.close()
    two.source.close()


def test_who_lost_all_partitions_and_gets_them_back_knows_their_ends(
    kafka_broker: Broker, client: str
) -> None:
    topic, sent = filled(kafka_broker, [50, 0])
    patience = {
        "max.poll.interval.ms": 6_000, "session.timeout.ms": 6_000, "heartbeat.interval.ms": 500,
    }  # fmt: skip
    reader = Reader(kafka_broker, topic, client, options=patience)
    reader.until_end(2)
    time.sleep(8)  # the client leaves the group meanwhile, and fetches nothing
    revoked: set[str] = set()
    for _ in range(50):
        revoked |= set(reader.poll().revoked)
        if revoked:
            break
    assert revoked == set(sent)
    reader.until_end(2)
    reader.source.close()


def test_without_a_broker_it_waits_and_says_so(
    client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    config = model.KafkaSource(
        type="kafka", bootstrap_servers="127.0.0.1:1", topics=["t"], client=client
    )
    source = member(config)
    assert source.poll(0.01) == Poll()
    assert "no broker answers, trying again" in capsys.readouterr().out
    source.close()


def test_client_options_are_checked_and_translated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    problems = client_problems(
        {"enable_auto_commit": True, "sessoin_timeout_ms": 1, "sasl.password": "hush",
         "security.protocol": "SSL"},
    )  # fmt: skip
    assert [(key, value) for key, value, _ in problems] == [
        ("enable_auto_commit", True), ("sessoin_timeout_ms", 1),
    ]  # fmt: skip
    assert "did you mean session_timeout_ms?" in problems[1][2]
    monkeypatch.setenv("KAFKA_PASSWORD", "hush")
    (tmp_path / "key").write_text("hush too\n")
    assert client_options(
        {"sasl.username": "me", "sasl_plain_password_env": "KAFKA_PASSWORD",
         "ssl_password_file": str(tmp_path / "key"), "ssl.ca.location": "ca.pem"}
    ) == {
        "sasl_plain_username": "me", "sasl_plain_password": "hush", "ssl_password": "hush too",
        "ssl_cafile": "ca.pem",
    }  # fmt: skip
    with pytest.raises(SourceError, match="NOT_THERE is not set"):
        client_options({"sasl_plain_password_env": "NOT_THERE"})


def test_each_client_knows_its_own_options() -> None:
    options = {
        "session.timeout.ms": 6_000, "queued.min.messages": 10, "sasl_plain_username": "me",
        "security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_plain_password": "hush",
        "ssl_check_hostname": False, "queued.colour": 1, "queued.max.messages.kbytes": "many",
    }  # fmt: skip
    problems = client_problems(options, "confluent")
    assert [key for key, _, _ in problems] == ["queued.colour", "queued.max.messages.kbytes"]
    assert all(remedy.startswith("librdkafka says: ") for _, _, remedy in problems)
    del options["queued.colour"], options["queued.max.messages.kbytes"]
    assert librdkafka_options(options) == {
        "session.timeout.ms": 6_000, "queued.min.messages": 10, "sasl.username": "me",
        "security.protocol": "SASL_SSL", "sasl.mechanisms": "PLAIN", "sasl.password": "hush",
        "ssl.endpoint.identification.algorithm": "none",
    }  # fmt: skip
    assert [key for key, _, _ in client_problems(options)] == ["queued.min.messages"]


def test_secrets_are_not_shown_in_problems() -> None:
    assert all(
        "hush" not in str(p) for p in client_problems({"group_id": "g", "ssl_password": "hush"})
    )


def test_a_partition_that_was_told_and_not_begun_is_revoked_too() -> None:
    source = KafkaSource(
        model.KafkaSource(type="kafka", bootstrap_servers="127.0.0.1:1", topics=["t"])
    )
    told: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    for happened in (
        source._listener.on_partitions_assigned,
        source._listener.on_partitions_revoked,
    ):
        happened([TopicPartition("t", 0)])
        poll = Poll()
        source._tell(poll)
        told.append((poll.assigned, poll.revoked))
    # else who could not restore it yet would go on trying
    assert told == [(("t:0",), ()), ((), ("t:0",))]
