"""Events and labels on a real Kafka, what must follow from them, and replicas to read them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet
import yaml
from kafka import KafkaProducer

from tests import worlds
from tests.kafka_broker import create_topic
from tests.late import Stream, stream
from tests.service import Service

A_RECORD = 1_000  # events in each
NAMES = ("segment", "window", "window_index", "maturity", "feature", "family", "metric")
SEGMENTS = [{"by": ["channel"], "most": 2}]
Table = dict[tuple[Any, ...], dict[str, Any]]


def table(rows: list[dict[str, Any]], last: int) -> Table:
    """Rows by name, but for the last windows: there is no end of a topic that would close them."""
    return {
        tuple(row[n] for n in NAMES): {k: v for k, v in row.items() if k != "revision"}
        for row in rows
        if row["window_index"] < last
    }


class Distributed:
    """Unkeyed events, many a record, over some partitions; labels over others.

    ``expected`` are the windows of a backtest of the same, ``last`` the index of the last one.
    """

    def __init__(
        self,
        folder: Path,
        broker: Any,
        name: str,
        *,
        rows: int = 12_000,
        partitions: int = 3,
        a_record: int = A_RECORD,
        seconds: float = 5.0,
    ) -> None:
        self.folder, self.name, self._servers = folder, name, broker.bootstrap_servers
        self.client = "kafka-python"
        self.partitions = partitions
        worlds.build(folder, segments=SEGMENTS)
        self.found: Stream = stream(rows, 4, seconds=seconds)
        # what comes last says that everything has come
        end = {"id": "nobody's", "model": "loans", "ts": worlds.START + 400 * 86_400, "label": 1}
        # in the order in which they came, as a topic has them; delays mix those of all predictions
        self.labels = [*sorted(self.found.labels, key=lambda label: label["ts"]), end]
        create_topic(broker, name, partitions=partitions)
        create_topic(broker, f"{name}-labels", partitions=4)
        self._a_record = a_record
        self._serves = 0

    def produce(self) -> None:
        """Write all of it."""
        producer = KafkaProducer(bootstrap_servers=self._servers, linger_ms=20)
        events, n = self.found.events, self._a_record
        for i, start in enumerate(range(0, len(events), n)):
            payload = orjson.dumps(events[start : start + n])
            producer.send(self.name, payload, partition=i % self.partitions)
        for i, label in enumerate(self.labels):
            producer.send(f"{self.name}-labels", orjson.dumps(label), partition=i % 4)
        producer.flush()
        producer.close()

    def config(self, **sections: Any) -> dict[str, Any]:
        """Of one replica over a Kafka store."""
        return (
            worlds.raw_config(
                models=[
                    {"name": "loans", "version": "1", "reference": str(self.folder / "loans.ref")}
                ],
                source={
                    "type": "kafka",
                    "bootstrap_servers": self._servers,
                    "topics": [self.name],
                    "group_id": self.name,
                    # so that the group forgets a killed member soon
                    "client": self.client,
                    "options": {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 500},
                },
                store={
                    "type": "kafka",
                    "partitions": 3,
                    "transaction_timeout": "5s",
                    "commit_interval": "300ms",
                },
                mapping={"arrival": "event_time"},
                labels={
                    "source": {"type": "kafka", "topics": [f"{self.name}-labels"]},
                    "mapping": {"arrival": "label_time"},
                    "maturities": ["30m", "2h", "30d"],
                    "allowed_lateness": "390d",
                },
                time={"max_ahead": "1000d"},
                segments=SEGMENTS,
                limits={"memory": "256GiB"},
            )
            | sections
        )

    def expect(self) -> Table:
        """The closed windows of a backtest of all that was produced."""
        folder = self.folder
        config = self.config() | {"source": None, "store": {"type": "sqlite"}}
        config["labels"] = config["labels"] | {"source": None}
        (folder / "backtest.yaml").write_text(yaml.safe_dump(config))
        for path, rows in (("events.jsonl", self.found.events), ("labels.jsonl", self.labels)):
            (folder / path).write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        subprocess.run(
            [sys.executable, "-m", "stream_monitor", "backtest", "--config", "backtest.yaml",
             "--events", "events.jsonl", "--labels", "labels.jsonl", "--output", "out.parquet"],
            cwd=folder, check=True, timeout=600,
        )  # fmt: skip
        rows = pyarrow.parquet.read_table(folder / "out.parquet").to_pylist()
        self.last = max(row["window_index"] for row in rows)
        expected = table(rows, self.last)
        assert {key[3] for key in expected} == {None, "30m", "2h", "30d"}
        return expected

    def replica(self, *, group: str | None = None, **sections: Any) -> Service:
        """A replica with a folder of its own, of the group that has the world's name or another."""
        self._serves += 1
        folder = self.folder / f"replica-{self._serves}"
        folder.mkdir()
        config = self.config(**sections)
        if group is not None:
            config["source"]["group_id"] = group
        return Service(folder, config)

    def live(self, service: Service) -> Table:
        """The closed windows that a replica serves."""
        return table(service.get("/api/v1/windows?state=closed")["windows"], self.last)
