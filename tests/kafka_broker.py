"""A real Apache Kafka (KRaft, one node) for tests: jars by Maven, started on free local ports."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import KafkaError

HERE = Path(__file__).resolve().parent
POM = HERE / "kafka" / "pom.xml"
CACHE = HERE.parent / ".cache" / "kafka"
_START_SECONDS = 90.0
_CLUSTER = "c3RyZWFtLW1vbml0b3ItMQ"


def jars() -> Path:
    """The folder of Kafka's jars, fetched by Maven when it is not there yet."""
    for program, package in (("java", "openjdk-17-jre-headless"), ("mvn", "maven")):
        if shutil.which(program) is None:
            raise RuntimeError(f"no {program} on the path; install Debian's {package}")
    version = ET.parse(POM).findtext(".//{*}dependency/{*}version")  # noqa: S314 - our own file
    folder = CACHE / str(version)
    if not folder.exists():
        partial = folder.with_name(f"{version}.{os.getpid()}.partial")
        subprocess.run(
            ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies",
             f"-DoutputDirectory={partial}"],
            check=True, timeout=600, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if not folder.exists():
            partial.rename(folder)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class KafkaBroker:
    """One broker and controller in one process.

    ``properties`` are added to the server's or replace them. ``kill`` and ``start`` keep the data.
    """

    def __init__(self, **properties: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="kafka-"))
        self._port, controller = free_port(), free_port()
        self.bootstrap_servers = f"127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None
        settings = {
            "node.id": "1",
            "process.roles": "broker,controller",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://{self.bootstrap_servers},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap_servers}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self._folder / "data"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
        } | properties
        self._config = self._folder / "server.properties"
        self._config.write_text("".join(f"{k}={v}\n" for k, v in settings.items()))
        self._run("kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(self._config))
        atexit.register(self.stop)

    def _command(self, main: str, *arguments: str) -> list[str]:
        return ["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                "-cp", f"{jars()}/*", main, *arguments]  # fmt: skip

    def _run(self, main: str, *arguments: str) -> None:
        done = subprocess.run(
            self._command(main, *arguments), capture_output=True, timeout=120, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{main} failed:\n{(done.stdout + done.stderr).decode()}")

    def start(self) -> None:
        """Start the process and wait until it answers."""
        log = (self._folder / "server.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                self._command("kafka.Kafka", str(self._config)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=1):
                    pass
                admin = KafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
                admin.list_topics()
                admin.close()
                return
            except (OSError, KafkaError):
                time.sleep(0.3)
        text = (self._folder / "server.log").read_text(errors="replace")
        raise RuntimeError(f"the broker did not start:\n{text[-4000:]}")

    def kill(self) -> None:
        """SIGKILL the broker; its data stay."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the broker and delete its data."""
        self._end(signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)
            self._process.wait(30)
        self._process = None


class ExternalBroker:
    """A broker that runs already."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers


def create_topic(
    broker: KafkaBroker | ExternalBroker, name: str, *, partitions: int, **settings: str
) -> None:
    """A new topic; ``settings`` with underscores for dots (``message_timestamp_type``)."""
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    options = {key.replace("_", "."): value for key, value in settings.items()}
    admin.create_topics([NewTopic(name, partitions, 1, topic_configs=options)])
    admin.close()


@pytest.fixture(scope="session")
def kafka_broker() -> Iterator[KafkaBroker | ExternalBroker]:
    """A running broker: the one of ``KAFKA_BOOTSTRAP_SERVERS``, else one of our own."""
    if servers := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield ExternalBroker(servers)
        return
    broker = KafkaBroker()
    broker.start()
    yield broker
    broker.stop()
