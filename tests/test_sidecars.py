"""Instances that tail their own logs and keep their state in one Kafka store."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests import service as service_module
from tests.distributed import Distributed, Table
from tests.kafka_broker import ExternalBroker, KafkaBroker
from tests.service import Service


def counted(table: Table) -> Table:
    """What does not depend on the order in which windows mature: there is none between files."""
    return {k: v for k, v in table.items() if k[5] not in ("estimator", "detectors")}


def write(path: Path, rows: list[Any]) -> None:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


def test_sidecars_and_one_aggregator_give_the_windows_of_a_backtest_of_all_logs(
    tmp_path: Path, kafka_broker: KafkaBroker | ExternalBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # half a minute alone, more than one beside other tests
    monkeypatch.setattr(service_module, "WAIT", 180.0)
    world = Distributed(tmp_path, kafka_broker, f"sidecars-{time.time_ns()}", rows=4_000)
    expected = counted(world.expect())
    prefix = world.name
    servers = kafka_broker.bootstrap_servers
    store = world.config()["store"] | {"bootstrap_servers": servers, "prefix": prefix}
    labels = world.config()["labels"]
    sidecars: list[Service] = []
    # a pair of places for each: events of one are labelled in the log of the other
    for i in range(2):
        folder = tmp_path / f"log-{i}"
        folder.mkdir()
        write(folder / "events.jsonl", world.found.events[i::2])
        write(folder / "labels.jsonl", world.labels[i::2])
        sidecars.append(
            world.replica(
                group=None,
                role="worker",
                source={"type": "follow", "path": str(folder / "events.jsonl")},
                labels=labels
                | {"source": {"type": "follow", "path": str(folder / "labels.jsonl")}},
                store=store | {"instance": f"pod-{i}"},
            )
        )
    aggregator = world.replica(
        role="aggregator", source=None, labels=labels | {"source": None}, store=store
    )
    try:
        for service in (*sidecars, aggregator):
            service.launch()
        for service in (*sidecars, aggregator):
            service.wait_for("an answer", service.ask)
        aggregator.wait_for("all events", lambda: aggregator.accepted() == len(world.found.events))
        # killed and started again, each goes on in its own log
        sidecars[0].kill()
        sidecars[0].start()
        aggregator.wait_for("the same windows", lambda: counted(world.live(aggregator)) == expected)
        assert aggregator.accepted() == len(world.found.events)
        assert [s.stop() for s in (*sidecars, aggregator)] == [0, 0, 0]
    finally:
        for service in (*sidecars, aggregator):
            service.end()
