"""Worker, aggregator and replay need no more permissions than docs/operations.md lists."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourceType,
)

from tests.distributed import Distributed
from tests.kafka_broker import KafkaBroker
from tests.observability import ROOT
from tests.test_replicas import conclude

USERS = ("worker", "aggregator", "replay")
INPUTS, PREFIX = "inputs", "drift"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


@pytest.fixture(scope="module")
def broker() -> Iterator[KafkaBroker]:
    """One that refuses whatever it was not told to allow; to tests themselves it allows all."""
    broker = KafkaBroker(
        listeners={"PLAINTEXT": "PLAINTEXT", "SASL": "SASL_PLAINTEXT"},
        scram=[f"SCRAM-SHA-256=[name={user},password={user}-secret]" for user in USERS],
        **{
            "sasl.enabled.mechanisms": "SCRAM-SHA-256",
            "listener.name.sasl.scram-sha-256.sasl.jaas.config": SCRAM,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        },
    )
    broker.start()
    yield broker
    broker.stop()


def allowed() -> Iterator[ACL]:
    """The table of the documentation."""
    text = (ROOT / "docs" / "operations.md").read_text()
    table = text.partition("| resource | worker | aggregator | `replay` |\n|---|---|---|---|\n")[2]
    for line in table.partition("\n\n")[0].splitlines():
        resource, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for user, cell in zip(USERS, cells, strict=True):
            for operation in re.findall(r"`(Read|Write|Describe|Create)`", cell):
                for kind, name, pattern in _resources(resource, cell):
                    yield ACL(
                        f"User:{user}",
                        "*",
                        ACLOperation[operation.upper()],
                        ACLPermissionType.ALLOW,
                        ResourcePattern(kind, name, pattern),
                    )


def _resources(resource: str, cell: str) -> Iterator[tuple[ResourceType, str, Any]]:
    exact, prefixed = ACLResourcePatternType.LITERAL, ACLResourcePatternType.PREFIXED
    own = [PREFIX + name for name in re.findall(r"`P(-[\w-]+)`", f"{resource} {cell}")]
    match resource:
        case "topics of `source` and `labels`":
            yield ResourceType.TOPIC, INPUTS, exact
            yield ResourceType.TOPIC, f"{INPUTS}-labels", exact
        case "all of `P-…`, where they are not made beforehand":
            yield ResourceType.TOPIC, f"{PREFIX}-", prefixed
        case "group":
            yield ResourceType.GROUP, own[0] if own else PREFIX, exact
        case "transactional id":
            pattern = prefixed if "prefixed" in cell else exact
            yield ResourceType.TRANSACTIONAL_ID, own[0], pattern
        case _:
            yield ResourceType.TOPIC, own[0], exact


def test_what_the_documentation_asks_for_is_enough(tmp_path: Path, broker: KafkaBroker) -> None:
    world = Distributed(tmp_path, broker, INPUTS, rows=2_000, a_record=100)
    world.produce()
    expected = world.expect()
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    assert len(admin.create_acls(list(allowed()))["succeeded"]) == 29
    admin.close()

    def source(user: str) -> dict[str, Any]:
        found: dict[str, Any] = world.config()["source"]
        return found | {
            "bootstrap_servers": broker.servers("SASL"),
            "options": found["options"]
            | {
                "security_protocol": "SASL_PLAINTEXT",
                "sasl_mechanism": "SCRAM-SHA-256",
                "sasl_plain_username": user,
                "sasl_plain_password": f"{user}-secret",
            },
        }

    worker, aggregator, replay = (
        world.replica(group=PREFIX, role="all" if user == "replay" else user, source=source(user))
        for user in USERS
    )
    with worker, aggregator:
        assert conclude(world, [worker, aggregator], expected) is aggregator
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
        producer.send(INPUTS, b"{", partition=0)
        producer.close()
        rejected = "stream_monitor_events_rejected_total"
        aggregator.wait_for("the letter", lambda: aggregator.metric(rejected) == 1)
        config = replay.folder / "monitor.yaml"
        command = [sys.executable, "-m", "stream_monitor", "replay", "--config", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        # it was no better than before
        aggregator.wait_for("it again", lambda: aggregator.metric(rejected) == 2)
        assert [worker.stop(), aggregator.stop()] == [0, 0]
        assert all("uthorizationFailed" not in s.log() for s in (worker, aggregator))
