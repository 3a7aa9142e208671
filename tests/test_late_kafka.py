"""Labels on a real Kafka: nothing is asked of the producers, and a crash changes nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet
import yaml
from kafka import KafkaProducer

from tests import worlds
from tests.kafka_broker import ExternalBroker, KafkaBroker, create_topic
from tests.late import stream
from tests.service import Service

ROWS = 12_000
A_RECORD = 1_000  # events in each
NAMES = ("segment", "window", "window_index", "maturity", "feature", "family", "metric")
Table = dict[tuple[Any, ...], dict[str, Any]]


def table(rows: list[dict[str, Any]], last: int) -> Table:
    """Rows by name, but for the last windows: there is no end of a topic that would close them."""
    return {
        tuple(row[n] for n in NAMES): {k: v for k, v in row.items() if k != "revision"}
        for row in rows
        if row["window_index"] < last
    }


def test_unkeyed_events_many_a_record_and_labels_in_other_partitions_equal_a_backtest(
    tmp_path: Path, kafka_broker: KafkaBroker | ExternalBroker
) -> None:
    worlds.build(tmp_path, segments=[{"by": ["channel"], "most": 2}])
    found = stream(ROWS, 4, seconds=5.0)
    # what comes last says that everything has come
    end = {"id": "nobody's", "model": "loans", "ts": worlds.START + 400 * 86_400, "label": 1}
    # in the order in which they came, as a topic has them; delays mix those of all predictions
    labels = [*sorted(found.labels, key=lambda label: label["ts"]), end]
    name = f"late-{time.time_ns()}"
    create_topic(kafka_broker, name, partitions=3)
    create_topic(kafka_broker, f"{name}-labels", partitions=4)
    producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap_servers)
    for i, start in enumerate(range(0, len(found.events), A_RECORD)):
        payload = orjson.dumps(found.events[start : start + A_RECORD])
        producer.send(name, payload, partition=i % 3)
    for i, label in enumerate(labels):
        producer.send(f"{name}-labels", orjson.dumps(label), partition=i % 4)
    producer.flush()
    producer.close()
    source = {
        "type": "kafka",
        "bootstrap_servers": kafka_broker.bootstrap_servers,
        "topics": [name],
        "group_id": name,
        # so that the group forgets a killed member soon
        "options": {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 500},
    }
    config = worlds.raw_config(
        source=source,
        mapping={"arrival": "event_time"},
        labels={
            "source": {"type": "kafka", "topics": [f"{name}-labels"]},
            "mapping": {"arrival": "label_time"},
            "maturities": ["30m", "2h", "30d"],
            "allowed_lateness": "390d",
        },
        time={"max_ahead": "1000d"},
        segments=[{"by": ["channel"], "most": 2}],
        limits={"memory": "256GiB"},
    )
    (tmp_path / "backtest.yaml").write_text(yaml.safe_dump(config | {"source": None}))
    for path, rows in (("events.jsonl", found.events), ("labels.jsonl", labels)):
        (tmp_path / path).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    subprocess.run(
        [sys.executable, "-m", "stream_monitor", "backtest", "--config", "backtest.yaml",
         "--events", "events.jsonl", "--labels", "labels.jsonl", "--output", "out.parquet"],
        cwd=tmp_path, check=True, timeout=300,
    )  # fmt: skip
    rows = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    last = max(row["window_index"] for row in rows)
    expected = table(rows, last)
    assert {key[3] for key in expected} == {None, "30m", "2h", "30d"}
    with Service(tmp_path, config) as service:
        # killed on the way: rows that were sent and not committed are sent again
        service.wait_for("some events", lambda: service.accepted() > 0)
        service.kill()
    with service:
        service.wait_for("all events", lambda: service.accepted() == len(found.events))

        def live() -> Table:
            return table(service.get("/api/v1/windows?state=closed")["windows"], last)

        service.wait_for("the same windows", lambda: live() == expected)
        assert service.stop() == 0
