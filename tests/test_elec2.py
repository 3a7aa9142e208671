"""Real data through a real Kafka: the service's windows equal a backtest's, value for value."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from kafka import KafkaProducer

from tests.kafka_broker import KafkaBroker, create_topic
from tests.service import Service

START = datetime(1996, 5, 7, tzinfo=UTC)
REFERENCE_ROWS = 17_424
TOPIC = "elec2"


@pytest.fixture(scope="module")
def world(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reference, events as Parquet, and the configuration in one folder."""
    folder = tmp_path_factory.mktemp("elec2")
    table = pa.parquet.read_table(shared_data / "real_elec2_full.parquet")
    times = [START + timedelta(minutes=30) * i for i in range(table.num_rows)]
    table = table.append_column("ts", pa.array(times, pa.timestamp("us", "UTC")))
    pa.parquet.write_table(table.slice(0, REFERENCE_ROWS), folder / "reference.parquet")
    pa.parquet.write_table(table.slice(REFERENCE_ROWS), folder / "events.parquet")
    return folder


def config(**sections: Any) -> dict[str, Any]:
    return {
        "models": [{"name": "elec2", "reference": "elec2.ref"}],
        "mapping": {"features": ".", "prediction": "class", "arrival": "event_time"},
        "windows": [
            {"name": "week", "size": "7d"},
            {"name": "sliding", "size": "7d", "every": "1d"},
        ],
    } | sections


def command(folder: Path, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "stream_monitor", *arguments], cwd=folder, check=True, timeout=300
    )


def produce(folder: Path, broker: KafkaBroker) -> int:
    """The events to four partitions in turn, unkeyed; partition 3 gets none of the second half."""
    create_topic(broker, TOPIC, partitions=4)
    rows = pa.parquet.read_table(folder / "events.parquet").to_pylist()
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers, linger_ms=20)
    for i, row in enumerate(rows):
        partition = i % 4 if i < len(rows) // 2 else i % 3
        value = orjson.dumps(row | {"ts": row["ts"].isoformat()})
        producer.send(TOPIC, value, partition=partition)
    producer.flush()
    producer.close()
    return len(rows)


def test_four_partitions_give_the_backtests_windows(world: Path, kafka_broker: KafkaBroker) -> None:
    (world / "monitor.yaml").write_text(yaml.safe_dump(config()))
    command(
        world, "reference", "build", "reference.parquet", "--config", "monitor.yaml",
        "--output", "elec2.ref",
    )  # fmt: skip
    command(
        world, "backtest", "--config", "monitor.yaml", "--events", "events.parquet",
        "--output", "table.jsonl",
    )  # fmt: skip
    expected = [json.loads(x) for x in (world / "table.jsonl").read_text().splitlines()]
    count = produce(world, kafka_broker)
    source = {
        "type": "kafka",
        "bootstrap_servers": kafka_broker.bootstrap_servers,
        "topics": [TOPIC],
    }
    live = config(source=source, store={"path": "live.db"})
    with Service(world, live) as service:
        service.wait_for("all events", lambda: service.accepted() == count)

        def agree() -> bool:
            found = service.get("/api/v1/windows")["windows"]
            return sorted(map(str, found)) == sorted(map(str, expected))

        service.wait_for("the backtest's windows", agree)
        assert service.metric("stream_monitor_events_late_total") == 0
        assert service.stop() == 0
    drifted = {r["feature"] for r in expected if r["alert"] and r["family"] == "drift"}
    assert {"vicprice", "vicdemand", "transfer"} <= drifted
