"""What breaks around the service, and what it makes of it: nothing is lost, nothing counts twice.

Each test is a line of "When something breaks" in ``docs/operations.md``.
"""

from __future__ import annotations

import itertools
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewPartitions
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from stream_monitor.store.kafka.pieces import cut
from stream_monitor.store.kafka.topics import place_of
from tests import worlds
from tests.distributed import Distributed, Table
from tests.kafka_broker import KafkaBroker, KafkaCluster, create_topic
from tests.service import Service

QUICK: dict[str, Any] = {"group.min.session.timeout.ms": "1000"}
STORES = "sqlite", "kafka"
EVENTS = 600
STUCK = 15.0  # seconds without a heartbeat; half of what /-/healthy lets pass
LINES = worlds.events(5_000, 6, seconds=5.0)
_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def own_broker() -> Iterator[KafkaBroker]:
    broker = KafkaBroker(**QUICK)
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def broker(own_broker: KafkaBroker) -> Iterator[KafkaBroker]:
    """One that a test may freeze or kill."""
    yield own_broker
    own_broker.thaw()
    own_broker.start()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    worlds.build(folder)
    return folder / "loans.ref"


BOTH = pytest.mark.parametrize("client", ["kafka-python", "confluent"])


class Stage:
    """A topic, what is written to it, and services that read it without labels."""

    def __init__(
        self,
        folder: Path,
        reference: Path,
        broker: Any,
        partitions: int = 2,
        *,
        make: bool = True,
        client: str = "kafka-python",
    ) -> None:
        self.client = client
        self._folder, self._reference = folder, reference
        self.servers, self._broker = broker.bootstrap_servers, broker
        self.topic = f"outage-{time.time_ns()}-{next(_NUMBERS)}"
        self.partitions = partitions
        self._lines = iter(LINES)
        self.sent = 0
        if make:
            self.make()

    def make(self) -> None:
        create_topic(self._broker, self.topic, partitions=self.partitions)

    def write(self, number: int = EVENTS) -> None:
        producer = KafkaProducer(bootstrap_servers=self.servers, linger_ms=20)
        for _ in range(number):
            producer.send(self.topic, next(self._lines), partition=self.sent % self.partitions)
            self.sent += 1
        producer.flush()
        producer.close()

    def service(self, store: str = "kafka", **sections: Any) -> Service:
        folder = self._folder / f"{self.topic}-{store}"
        folder.mkdir(exist_ok=True)
        kept: dict[str, Any] = {"type": store, "commit_interval": "200ms"}
        if store == "kafka":
            kept |= {"transaction_timeout": "4s", "partitions": 2}
        config = worlds.raw_config(
            models=[{"name": "loans", "version": "1", "reference": str(self._reference)}],
            windows=[{"name": "day", "size": "1d"}],  # none is closed, which would take time
            source={
                "type": "kafka",
                "bootstrap_servers": self.servers,
                "topics": [self.topic],
                "group_id": self.group(store),
                "client": self.client,
                "options": {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 500},
            },
            store=kept,
            mapping={"arrival": "event_time"},
        )
        return Service(folder, config | sections)

    def group(self, store: str = "kafka") -> str:
        return f"{self.topic}-{store}"

    def counted(self, *services: Service) -> None:
        """All of it is counted, and nothing twice."""
        for service in services:
            service.wait_for("all events", lambda s=service: s.accepted() == self.sent)  # type: ignore[misc]
        time.sleep(1)
        for service in services:
            # with a Kafka store nobody tells while no aggregator is active
            found = service.wait_for(
                "its counts",
                lambda s=service: s.samples("stream_monitor_events_total") or None,  # type: ignore[misc]
            )
            assert sum(found) == self.sent

    @contextmanager
    def admin(self) -> Iterator[Any]:
        admin = KafkaAdminClient(bootstrap_servers=self.servers)
        yield admin
        admin.close()

    def committed(self) -> list[int]:
        """How far each partition is from what the group has committed."""
        consumer = KafkaConsumer(bootstrap_servers=self.servers, group_id=self.group())
        places = [TopicPartition(self.topic, p) for p in range(self.partitions)]
        ends = consumer.end_offsets(places)
        behind = [int(ends[p]) - int(consumer.committed(p) or 0) for p in places]
        consumer.close()
        return behind


@pytest.fixture
def stage(tmp_path: Path, reference: Path, broker: KafkaBroker) -> Stage:
    return Stage(tmp_path, reference, broker)


@contextmanager
def launched(*services: Service) -> Iterator[None]:
    """All of them at once, until they answer."""
    with ExitStack() as stack:
        for service in services:
            stack.callback(service.end)
            service.launch()
        for service in services:
            service.wait_for("an answer", service.ask)
        yield


def probe(service: Service, path: str) -> int:
    try:
        service.text(path)
    except OSError:
        return service.refused(path)[0]
    return 200


@contextmanager
def healthy(*services: Service) -> Iterator[None]:
    """All the while each of them says so, and its loop comes round."""
    ended, told = threading.Event(), list[str]()

    def look() -> None:
        while not ended.wait(0.3):
            for service in services:
                beat = service.metric("stream_monitor_heartbeat_timestamp_seconds")
                if time.time() - beat > STUCK or probe(service, "/-/healthy") != 200:
                    told.append(f"{time.time() - beat:.0f} s without a round\n{service.log()}")
                    return

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield
    finally:  # before the services end, which would be one more failure
        ended.set()
        looking.join()
    assert not told, told[0][-3_000:]


def says(service: Service, words: str) -> None:
    service.wait_for(f"it to say {words!r}", lambda: words in service.log())


# --- brokers ------------------------------------------------------------------------------------


def test_brokers_that_are_not_there_at_the_start_are_waited_for(
    stage: Stage, broker: KafkaBroker
) -> None:
    stage.write()
    broker.kill()
    services = [stage.service(store) for store in STORES]
    with launched(*services):
        with healthy(*services):
            for service in services:
                says(service, "no broker answers")
            time.sleep(10)
            assert [probe(service, "/-/ready") for service in services] == [503, 503]
            broker.start()
            stage.counted(*services)
        assert [probe(service, "/-/ready") for service in services] == [200, 200]
        assert [service.stop() for service in services] == [0, 0]


@BOTH
def test_brokers_that_die_and_come_back_cost_nothing(
    stage: Stage, broker: KafkaBroker, client: str
) -> None:
    stage.client = client
    services = [stage.service(store) for store in STORES]
    with launched(*services):
        stage.write()
        for service in services:
            service.wait_for("some events", lambda s=service: s.accepted() > 0)  # type: ignore[misc]
        stage.write()
        with healthy(*services):
            broker.kill()
            time.sleep(10)
            broker.start()
            stage.write()
            stage.counted(*services)


def test_brokers_that_hang_do_not_make_the_service_hang(
    tmp_path: Path, reference: Path, broker: KafkaBroker, stage: Stage
) -> None:
    """Connections stay open and nothing is answered; in the middle of work, and before it."""
    missing = Stage(tmp_path, reference, broker, make=False)
    services = [*(stage.service(store) for store in STORES), missing.service()]
    with launched(*services):
        stage.write()
        stage.counted(*services[:2])
        says(services[2], "no such topic yet")
        stage.write()
        with healthy(*services):
            broker.freeze()
            time.sleep(20)
            broker.thaw()
            stage.counted(*services[:2])
            missing.make()
            missing.write(100)
            missing.counted(services[2])


def test_what_is_counted_stays_so_while_another_has_a_partition(stage: Stage) -> None:
    """Prometheus takes a counter that falls for one that began anew, and adds all of it again."""
    service = stage.service("sqlite")
    seen = list[int]()

    def partitions(number: int) -> bool:
        seen.append(service.accepted())
        return service.metric("stream_monitor_assigned_partitions") == number

    with service:
        stage.write()
        stage.counted(service)
        other = KafkaConsumer(
            stage.topic,
            bootstrap_servers=stage.servers,
            group_id=stage.group("sqlite"),
            partition_assignment_strategy=[CooperativeStickyAssignor],
        )

        def taken(number: int) -> bool:
            other.poll(timeout_ms=200)
            return partitions(number)

        service.wait_for("another to have a partition", lambda: taken(1))
        other.close()
        service.wait_for("both partitions", lambda: partitions(2))
        stage.write()
        stage.counted(service)
        assert set(seen) == {EVENTS}


def test_leaders_and_coordinators_that_move_cost_nothing(
    tmp_path: Path, reference: Path, kafka_cluster: KafkaCluster
) -> None:
    stage = Stage(tmp_path, reference, kafka_cluster)
    service = stage.service()
    with service:
        stage.write()
        stage.counted(service)
        with healthy(service):
            for name in (stage.topic, f"{stage.group()}-state", f"{stage.group()}-control"):
                leader = kafka_cluster.leader_of(name, 0)
                other = next(n for n in kafka_cluster.node_ids if n != leader)
                kafka_cluster.move_leader(name, 0, other)
                stage.write(100)
            # one after another: so the groups' and the transactions' coordinators are among them
            for node in kafka_cluster.node_ids:
                kafka_cluster.terminate(node)
                stage.write(100)
                kafka_cluster.restart(node)
                stage.write(100)
            stage.counted(service)
        assert service.stop() == 0
        assert stage.committed() == [0, 0]


# --- topics -------------------------------------------------------------------------------------


def test_topics_that_are_made_later_are_waited_for(
    tmp_path: Path, reference: Path, broker: KafkaBroker
) -> None:
    stage = Stage(tmp_path, reference, broker, make=False)
    labels = {"source": {"type": "kafka", "topics": [f"{stage.topic}-labels"]}}
    service = stage.service(labels=labels | {"maturities": ["1d"]})
    with service, healthy(service):
        says(service, "no such topic yet")
        assert probe(service, "/-/ready") == 503
        stage.make()
        stage.write()
        time.sleep(2)
        assert service.accepted() == 0
        create_topic(broker, f"{stage.topic}-labels", partitions=1)
        stage.counted(service)
        assert probe(service, "/-/ready") == 200


@BOTH
def test_a_topic_that_is_deleted_and_made_again_is_read_from_its_start(
    stage: Stage, client: str
) -> None:
    stage.client = client
    services = [stage.service(store) for store in STORES]
    with launched(*services):
        stage.write()
        stage.counted(*services)
        with healthy(*services):
            with stage.admin() as admin:
                admin.delete_topics([stage.topic])
            for service in services:
                says(service, "partitions revoked")
            stage.make()
            stage.write(100)  # fewer than there were
            stage.counted(*services)
            for service in services:
                says(service, "was it made anew?")
        assert [service.stop() for service in services] == [0, 0]


def test_partitions_that_are_added_are_read(stage: Stage) -> None:
    # what is written before anybody knows of them comes late by so much
    service = stage.service(time={"allowed_lateness": "3h"})
    with service:
        stage.write()
        stage.counted(service)
        with stage.admin() as admin:
            admin.create_partitions({stage.topic: NewPartitions(4)})
        stage.partitions = 4
        began = time.monotonic()
        stage.write()
        service.wait_for("all events", lambda: service.accepted() == stage.sent)
        assert time.monotonic() - began < 25
        stage.counted(service)
        assert service.metric("stream_monitor_assigned_partitions") == 4
        assert service.metric("stream_monitor_events_late_total") == 0


def delete_before(stage: Stage, offset: int) -> None:
    with stage.admin() as admin:
        admin.delete_records({TopicPartition(stage.topic, 0): offset})


def lost(service: Service) -> float:
    return service.metric("stream_monitor_records_lost_total")


@BOTH
def test_records_that_were_deleted_unread_are_told(
    tmp_path: Path, reference: Path, broker: KafkaBroker, client: str
) -> None:
    stage = Stage(tmp_path, reference, broker, partitions=1, client=client)
    services = [stage.service(store) for store in STORES]
    with launched(*services):
        stage.write(500)
        stage.counted(*services)
        assert [service.stop() for service in services] == [0, 0]
    stage.write(500)
    delete_before(stage, 800)
    with launched(*services):
        for service in services:
            service.wait_for("the others", lambda s=service: s.accepted() == 700)  # type: ignore[misc]
            says(service, '"lost_records": 300')
            says(service, "raise the topic's retention")
            service.wait_for("the number", lambda s=service: lost(s) == 300)  # type: ignore[misc]
        # and the same while it runs, but does not get to read
        for service in services:
            os.kill(service.pid, signal.SIGSTOP)
        stage.write(500)
        delete_before(stage, 1_400)
        for service in services:
            os.kill(service.pid, signal.SIGCONT)
        for service in services:
            service.wait_for("the others", lambda s=service: s.accepted() + lost(s) == 1_500)  # type: ignore[misc]
            # a fetch that was on its way brings some that are deleted by now
            assert lost(service) > 300
    with launched(*services):
        for service in services:
            service.wait_for("the same", lambda s=service: s.accepted() + lost(s) == 1_500)  # type: ignore[misc]


# --- state --------------------------------------------------------------------------------------


def _somebody_elses(stage: Stage) -> None:
    producer = KafkaProducer(bootstrap_servers=stage.servers)
    for place in range(2):
        producer.send(f"{stage.group()}-state", b"value", key=b"no key of ours", partition=place)
    producer.close()


def _newer(stage: Stage) -> None:
    producer = KafkaProducer(bootstrap_servers=stage.servers)
    name = f"{stage.topic}:0"
    head = msgspec.json.encode({"position": "1", "meta": {}, "format": 99})
    for key, value in cut((name, "head"), head):
        topic, place = f"{stage.group()}-state", place_of(name, 2)
        producer.send(topic, value, key=key, partition=place)
    producer.close()


def _deleted(stage: Stage) -> None:
    with stage.admin() as admin:
        admin.delete_topics([f"{stage.group()}-state"])


def _grow(stage: Stage, topic: str, count: int) -> None:
    with stage.admin() as admin:
        admin.create_partitions({topic: NewPartitions(count)})
        deadline = time.monotonic() + 30
        while len(admin.describe_topics([topic])[0]["partitions"]) < count:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def _grown(stage: Stage) -> None:
    name = f"{stage.topic}:0"
    count = next(n for n in itertools.count(3) if place_of(name, n) != place_of(name, 2))
    _grow(stage, f"{stage.group()}-state", count)


def _control_grown(stage: Stage) -> None:
    _grow(stage, f"{stage.group()}-control", 2)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_somebody_elses, "does something else write to its topics? Choose another store.prefix"),
        (_newer, "state of format 99, this program reads 1: run the version that wrote it"),
        (_deleted, "was that topic deleted"),
        (_grown, "its number of partitions changed? Restore it, or choose another source.group_id"),
        (_control_grown, "has 2 partitions, not 1; one partition chooses the one active"),
    ],
)
def test_a_state_that_cannot_be_used_ends_the_service_with_the_remedy(
    stage: Stage, spoil: Callable[[Stage], None], words: str
) -> None:
    service = stage.service()
    with service:
        stage.write(100)
        stage.counted(service)
        assert service.stop() == 0
    spoil(stage)
    _ends(service, words)


def _ends(service: Service, words: str) -> None:
    try:
        service.launch()  # and no more: it may end before it answers
        service.wait_for("its end", lambda: not service.running)
    finally:
        service.end()
    assert service.status == 1
    assert words in service.log()
    assert "Traceback" not in service.log()


def test_a_state_that_lies_where_it_no_longer_belongs_is_not_used(
    tmp_path: Path, reference: Path, broker: KafkaBroker
) -> None:
    """Another partition's state lies there now, so that it is read all the same."""
    stage = Stage(tmp_path, reference, broker, make=False)

    def places(count: int) -> list[int]:
        return [place_of(f"{stage.topic}:{partition}", count) for partition in range(2)]

    while places(2) != places(3)[::-1] or places(2) == places(3):
        stage.topic += "-"
    stage.make()
    service = stage.service()
    with service:
        stage.write(100)
        stage.counted(service)
        assert service.stop() == 0
    _grow(stage, f"{stage.group()}-state", 3)
    _ends(service, "its number of partitions changed?")


def test_a_state_that_is_deleted_under_a_running_service_is_not_begun_anew(stage: Stage) -> None:
    service = stage.service()
    with service:
        stage.write(100)
        stage.counted(service)
        _deleted(stage)
        stage.write(100)
        service.wait_for("its end", lambda: not service.running)
        assert service.status == 1
        assert "was that topic deleted" in service.log()


def test_a_full_disk_stops_commits_and_loses_nothing(tmp_path: Path, broker: KafkaBroker) -> None:
    """Ledgers lie on the local disk; a limit on the size of files stands for a full one."""
    world = Distributed(tmp_path, broker, f"full-{time.time_ns()}", rows=2_000, a_record=100)
    world.produce()
    service = world.replica()
    with service:
        with healthy(service):
            resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (4_096, resource.RLIM_INFINITY))
            service.wait_for(
                "failed commits", lambda: service.metric("stream_monitor_commit_failures_total") > 0
            )
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(service.pid, resource.RLIMIT_FSIZE, unlimited)
            service.wait_for("all events", lambda: service.accepted() == len(world.found.events))
        assert service.stop() == 0


# --- the end ------------------------------------------------------------------------------------


def test_sigterm_leaves_nothing_to_be_read_again(stage: Stage) -> None:
    service = stage.service(store="kafka")
    with service:
        stage.write()
        service.wait_for("some events", lambda: service.accepted() > 0)
        service.wait_for(
            "the rest to be read", lambda: service.metric("stream_monitor_lag_records") == 0
        )
        assert service.stop() == 0
    assert stage.committed() == [0, 0]
    with service:
        stage.counted(service)
        assert service.metric("stream_monitor_records_consumed_total") == stage.sent


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_sigterm_ends_it_soon_though_no_broker_answers(
    stage: Stage, broker: KafkaBroker, how: str
) -> None:
    services = [stage.service(store) for store in STORES]
    with launched(*services):
        stage.write()
        stage.counted(*services)
        stage.write()
        getattr(broker, how)()
        time.sleep(0.5)
        began = time.monotonic()
        for service in services:
            os.kill(service.pid, signal.SIGTERM)
        for service in services:
            service.wait_for("its end", lambda s=service: not s.running)  # type: ignore[misc]
        assert time.monotonic() - began < 25
        assert [service.status for service in services] == [0, 0]


def test_sigterm_ends_a_restore_that_is_under_way(stage: Stage) -> None:
    service = stage.service()
    with service:
        stage.write(100)
        stage.counted(service)
        assert service.stop() == 0
    producer = KafkaProducer(bootstrap_servers=stage.servers, linger_ms=50, batch_size=2**18)
    for i in range(60_000):
        ((key, value),) = cut(("other:0", "chunk", "m", "time", i, 0), b"")
        producer.send(f"{stage.group()}-state", value, key=key, partition=i % 2)
    producer.flush()
    producer.close()
    with service:
        time.sleep(1)
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < 10
    with service:
        stage.counted(service)


def test_a_second_sigterm_ends_it_at_once(stage: Stage, broker: KafkaBroker) -> None:
    service = stage.service()
    with service:
        stage.write()
        stage.counted(service)
        broker.freeze()
        stage_time = time.monotonic()
        os.kill(service.pid, signal.SIGTERM)
        says(service, "stopping: committing what was read")
        assert service.running
        assert service.stop() == 128 + signal.SIGTERM
        assert time.monotonic() - stage_time < 5


# --- replicas -----------------------------------------------------------------------------------


def test_who_slept_through_its_session_writes_nothing_more(
    tmp_path: Path, broker: KafkaBroker
) -> None:
    world = Distributed(tmp_path, broker, f"zombie-{time.time_ns()}", rows=2_000, a_record=50)
    expected: Table = world.expect()
    world.produce()
    first, second = world.replica(), world.replica()

    def active() -> list[Service]:
        return [s for s in (first, second) if s.metric("stream_monitor_aggregator_active")]

    try:
        first.start()
        first.wait_for("a start", lambda: first.metric("stream_monitor_ready") == 1)
        os.kill(first.pid, signal.SIGSTOP)
        second.start()
        second.wait_for("the aggregator", lambda: second.metric("stream_monitor_aggregator_active"))
        second.wait_for("all events", lambda: second.accepted() == len(world.found.events))
        os.kill(first.pid, signal.SIGCONT)
        woken = time.time()
        first.wait_for(
            "its loop to come round",
            lambda: first.metric("stream_monitor_heartbeat_timestamp_seconds") > woken,
        )
        first.wait_for("its share", lambda: first.metric("stream_monitor_ready") == 1)

        def concluded() -> bool:
            """Whether the one aggregator serves what is expected; it may change until then."""
            found = active()
            return (
                len(found) == 1
                and world.live(found[0]) == expected
                and found[0].accepted() == len(world.found.events)
            )

        second.wait_for("the expected windows", concluded)
        time.sleep(3)  # for whoever would write late
        second.wait_for("the expected windows, still", concluded)
    finally:
        first.end()
        second.end()
