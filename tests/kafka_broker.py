"""A real Apache Kafka (KRaft) for tests: jars by Maven, one node or three on free local ports."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaError

HERE = Path(__file__).resolve().parent
POM = HERE / "kafka" / "pom.xml"
CACHE = HERE.parent / ".cache" / "kafka"
_START_SECONDS = 90.0
_CLUSTER = "c3RyZWFtLW1vbml0b3ItMQ"
_SETTINGS = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "4",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    "log.retention.ms": "-1",  # tests write records of years ago
}
# of several brokers: that one is dead is noticed within seconds, and no record is lost by it
_SEVERAL = {
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",
    "replica.lag.time.max.ms": "3000",
    "unclean.leader.election.enable": "false",
}


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
    return next(free_ports())


def free_ports() -> Generator[int, None, None]:
    """Ports that nobody has, each another one."""
    with ExitStack() as stack:  # who gives one back might be given it again
        while True:
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            yield int(probe.getsockname()[1])


class _Node:
    """One process, a broker that is a controller, too, in a folder that keeps its data."""

    def __init__(
        self, folder: Path, settings: Mapping[str, str], *, heap: str, scram: Sequence[str]
    ) -> None:
        folder.mkdir()
        self._log = folder / "server.log"
        self._config = folder / "server.properties"
        self._heap = heap
        self._process: subprocess.Popen[bytes] | None = None
        mine = {"log.dirs": str(folder / "data")} | dict(settings)
        self._config.write_text("".join(f"{k}={v}\n" for k, v in mine.items()))
        self._format = self._spawn(
            "kafka.tools.StorageTool", "format", "-t", _CLUSTER, "-c", str(self._config),
            *(part for user in scram for part in ("--add-scram", user)),
        )  # fmt: skip

    def _spawn(self, main: str, *arguments: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                ["java", f"-Xmx{self._heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                 "-cp", f"{jars()}/*", main, *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def formatted(self) -> None:
        """Wait until the folder may be started from."""
        if self._format.wait(120):
            raise RuntimeError(f"the folder was not formatted:\n{self.log()}")

    def start(self) -> None:
        self._process = self._spawn("kafka.Kafka", str(self._config))

    @property
    def started(self) -> bool:
        """Whether it was started and not ended by us."""
        return self._process is not None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, number: int) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, number)

    def end(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)
            self._process.wait(60)
        self._process = None

    def log(self) -> str:
        return self._log.read_text(errors="replace")


class _Brokers:
    """Nodes with the ids 1, 2 … that are one cluster.

    ``listeners`` are further ones, the security protocol by name; :meth:`servers` has where they
    listen. ``scram`` are users as ``StorageTool --add-scram`` takes them.
    """

    def __init__(
        self,
        count: int,
        properties: Mapping[str, str],
        *,
        heap: str,
        listeners: Mapping[str, str] | None = None,
        scram: Sequence[str] = (),
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="kafka-"))
        self._nodes: dict[int, _Node] = {}
        atexit.register(self.stop)
        protocols = {"PLAINTEXT": "PLAINTEXT"} | dict(listeners or {})
        ids = range(1, count + 1)
        free = free_ports()
        self._servers = {n: {name: f"127.0.0.1:{next(free)}" for name in protocols} for n in ids}
        voters = {n: f"127.0.0.1:{next(free)}" for n in ids}
        free.close()
        copies, least = str(count), str(count // 2 + 1)
        shared = _SETTINGS | {
            "controller.quorum.voters": ",".join(f"{n}@{voters[n]}" for n in ids),
            "listener.security.protocol.map": ",".join(
                f"{name}:{p}" for name, p in (protocols | {"CONTROLLER": "PLAINTEXT"}).items()
            ),
            "default.replication.factor": copies,
            "min.insync.replicas": least,
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": least,
            "share.coordinator.state.topic.replication.factor": copies,
            "share.coordinator.state.topic.min.isr": least,
        }
        for n in ids:
            own = ",".join(f"{name}://{place}" for name, place in self._servers[n].items())
            places = {
                "node.id": str(n),
                "listeners": f"{own},CONTROLLER://{voters[n]}",
                "advertised.listeners": own,
            }
            self._nodes[n] = _Node(
                self._folder / str(n), shared | places | dict(properties), heap=heap, scram=scram
            )
        for node in self._nodes.values():
            node.formatted()

    @property
    def bootstrap_servers(self) -> str:
        """All nodes, running or not."""
        return self.servers("PLAINTEXT")

    def servers(self, listener: str) -> str:
        return ",".join(places[listener] for places in self._servers.values())

    def start(self) -> None:
        """Start the nodes that do not run and wait until all answer."""
        for node in self._nodes.values():
            if not node.running:
                node.start()
        self.wait_ready()

    def wait_ready(self) -> None:
        """Until all nodes that were started are in the cluster and in sync in every partition."""
        self._wait_for("the brokers to be ready", self._ready)

    def stop(self) -> None:
        """End all nodes and delete their data."""
        for node in self._nodes.values():
            node.end(signal.SIGKILL)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ready(self) -> bool:
        started = {n for n, node in self._nodes.items() if node.started}
        for n in started:
            host, _, port = self._servers[n]["PLAINTEXT"].partition(":")
            socket.create_connection((host, int(port)), timeout=1).close()
        with self._admin() as admin:
            if {b["broker_id"] for b in admin.describe_cluster()["brokers"]} != started:
                return False
            return all(
                p["leader_id"] in started
                and set(p["isr_nodes"]) == set(p["replica_nodes"]) & started
                for topic in admin.describe_topics()
                for p in topic["partitions"]
            )

    @contextmanager
    def _admin(self) -> Iterator[Any]:
        """An admin client of the nodes that run."""
        running = [s["PLAINTEXT"] for n, s in self._servers.items() if self._nodes[n].running]
        admin = KafkaAdminClient(bootstrap_servers=running)
        try:
            yield admin
        finally:
            admin.close()

    def _wait_for(self, what: str, ask: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            dead = [n for n, node in self._nodes.items() if node.started and not node.running]
            if dead:
                raise RuntimeError(f"node {dead[0]} ended:\n{self._nodes[dead[0]].log()[-4000:]}")
            try:
                if ask():
                    return
            except (OSError, KafkaError):
                pass
            time.sleep(0.2)
        logs = "".join(f"\nnode {n}:\n{x.log()[-2000:]}" for n, x in self._nodes.items())
        raise RuntimeError(f"waited {_START_SECONDS:.0f} s for {what}:{logs}")


class KafkaBroker(_Brokers):
    """One broker.

    ``properties`` are added to the server's or replace them. ``kill`` and ``start`` keep the data.
    """

    def __init__(
        self,
        *,
        listeners: Mapping[str, str] | None = None,
        scram: Sequence[str] = (),
        **properties: str,
    ) -> None:
        super().__init__(1, properties, heap="512m", listeners=listeners, scram=scram)

    def kill(self) -> None:
        """SIGKILL the broker; its data stay."""
        self._nodes[1].end(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP the broker: connections stay open, and nothing is answered."""
        self._nodes[1].signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._nodes[1].signal(signal.SIGCONT)


class KafkaCluster(_Brokers):
    """Three brokers that are also the controllers: any one may die, and two have every record.

    Topics have three replicas, two of which must have a record before ``acks="all"`` answers.
    ``properties`` are added to the servers' or replace them.
    """

    def __init__(self, **properties: str) -> None:
        super().__init__(3, _SEVERAL | properties, heap="384m")

    @property
    def node_ids(self) -> tuple[int, ...]:
        return tuple(self._nodes)

    @property
    def running(self) -> tuple[int, ...]:
        return tuple(n for n, node in self._nodes.items() if node.running)

    def kill(self, node: int) -> None:
        """SIGKILL a node; its data stay. The others notice it after the session timeout."""
        self._nodes[node].end(signal.SIGKILL)

    def terminate(self, node: int) -> None:
        """SIGTERM a node, which hands over what it leads, and wait for its end."""
        self._nodes[node].end(signal.SIGTERM)

    def restart(self, node: int) -> None:
        """Start a node with its data, killed before if it runs, and wait until it is in sync."""
        self.kill(node)
        self._nodes[node].start()
        self.wait_ready()

    def leader_of(self, topic: str, partition: int) -> int:
        """The node that leads a partition; -1 when there is none. A dead one may still be named."""
        with self._admin() as admin:
            return int(_described(admin, topic, partition)["leader_id"])

    def coordinator_of(self, group_id: str) -> int:
        """The node that coordinates a consumer group, once there is one."""
        found = -1

        def asked() -> bool:
            nonlocal found
            with self._admin() as admin:
                found = admin._manager.run(admin._find_coordinator_id, group_id)
            return found in self.running

        self._wait_for(f"a coordinator of {group_id}", asked)
        return found

    def move_leader(self, topic: str, partition: int, node: int) -> None:
        """Make a running node the leader of a partition, as an operator would."""
        which = TopicPartition(topic, partition)

        def moved() -> bool:
            with self._admin() as admin:
                found = _described(admin, topic, partition)
                replicas = found["replica_nodes"]
                if replicas[0] != node:
                    others = [n for n in replicas if n != node]
                    admin.alter_partition_reassignments({which: [node, *others]})
                elif found["leader_id"] != node and node in found["isr_nodes"]:
                    admin.elect_leaders(0, {topic: [partition]}, raise_errors=False)
                return bool(found["leader_id"] == node)

        self._wait_for(f"node {node} to lead {topic}:{partition}", moved)


def _described(admin: Any, topic: str, partition: int) -> dict[str, Any]:
    (found,) = admin.describe_topics([topic])
    return next(p for p in found["partitions"] if p["partition_index"] == partition)


class ExternalBroker:
    """A broker that runs already."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers


def create_topic(
    broker: KafkaBroker | KafkaCluster | ExternalBroker,
    name: str,
    *,
    partitions: int,
    **settings: str,
) -> None:
    """A new topic with the brokers' number of replicas.

    ``settings`` have underscores for dots (``message_timestamp_type``).
    """
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    options = {key.replace("_", "."): value for key, value in settings.items()}
    admin.create_topics([NewTopic(name, partitions, -1, topic_configs=options)])
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


@pytest.fixture(scope="module")
def kafka_cluster() -> Iterator[KafkaCluster]:
    """Three running brokers. A test that kills one restarts it."""
    cluster = KafkaCluster()
    cluster.start()
    yield cluster
    cluster.stop()
