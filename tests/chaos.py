"""Replicas that are killed while events and labels stream in, and one that is left in peace.

``python -m tests.chaos --rounds 200 --events 1000000`` takes about 35 minutes: three brokers, one
to four workers that come and go, two aggregators. In each round a worker, an aggregator or a broker
is killed with -9, or a worker joins or leaves. In the end everything that was concluded must be
what one undisturbed replica concludes from the same topics: every closed window, every value, every
alert; and the results log must hold every revision of every window exactly once.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import orjson
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from stream_monitor.store.kafka.pieces import Pieces
from stream_monitor.values import WindowResult
from tests import worlds
from tests.distributed import NAMES, SEGMENTS
from tests.kafka_broker import KafkaCluster, create_topic
from tests.late import stream
from tests.service import Service

PARTITIONS = 4
A_RECORD = 25  # events
_HOURS = 10.0  # that the world's time spans, before it is put into real time
_QUIET = 240.0  # seconds that the replicas have at the end
_ENDS = None, "8h"  # what needs no labels, and the greatest maturity
Rows = dict[tuple[Any, ...], dict[str, Any]]
Tell = Callable[[int, str], None]  # takes the rounds that are over, and what is being done


@dataclass(frozen=True)
class Plan:
    """What is done: so many rounds of so many seconds."""

    rounds: int
    events: int
    seed: int
    seconds: float = 8.5
    brokers: bool = True

    @property
    def duration(self) -> float:
        return self.rounds * self.seconds


class Traffic(threading.Thread):
    """Writes events and labels in real time: each record when its last event is due."""

    def __init__(self, plan: Plan, cluster: KafkaCluster, name: str) -> None:
        super().__init__(daemon=True)
        found = stream(plan.events, plan.seed, seconds=_HOURS * 3_600 / plan.events)
        self._start = time.time() + 2.0
        scale = plan.duration / (_HOURS * 3_600)

        def moved(one: dict[str, Any]) -> dict[str, Any]:
            return one | {"ts": self._start + (one["ts"] - worlds.START) * scale}

        self._events = [moved(e) for e in found.events]
        for event in self._events[plan.events // 3 : plan.events // 2]:  # so that there are alerts
            if event["features"]["income"] is not None:
                event["features"]["income"] *= 1.5
        self._labels = sorted(map(moved, found.labels), key=lambda label: float(label["ts"]))
        self.sent = len(self._events)
        self._name = name
        self._producer = KafkaProducer(
            bootstrap_servers=cluster.bootstrap_servers, linger_ms=20, delivery_timeout_ms=300_000
        )
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self.error = error

    def _run(self) -> None:
        waiting = iter(self._labels)
        label = next(waiting, None)
        numbers = itertools.count()
        for i, start in enumerate(range(0, len(self._events), A_RECORD)):
            some = self._events[start : start + A_RECORD]
            due = some[-1]["ts"]
            while label is not None and label["ts"] <= due:
                self._label(label, next(numbers))
                label = next(waiting, None)
            time.sleep(max(0.0, due - time.time()))
            self._producer.send(self._name, orjson.dumps(some), partition=i % PARTITIONS)
        while label is not None:
            self._label(label, next(numbers))
            label = next(waiting, None)
        self._producer.flush()

    def _label(self, label: dict[str, Any], number: int) -> None:
        self._producer.send(f"{self._name}-labels", orjson.dumps(label), partition=number % 3)

    def close_all(self) -> None:
        """The label that says that all labels have come."""
        end = {"id": "nobody's", "model": "loans", "ts": self._start + 400 * 86_400, "label": 1}
        self._label(end, 0)
        self._producer.flush()
        self._producer.close()


class Chaos:
    """The replicas of one group, and what becomes of them."""

    def __init__(self, plan: Plan, folder: Path, cluster: KafkaCluster) -> None:
        self.plan, self._folder, self.cluster = plan, folder, cluster
        self._random = random.Random(plan.seed)  # noqa: S311 - not for secrets
        self.name = f"chaos-{time.time_ns()}"
        worlds.build(folder, segments=SEGMENTS)
        for topic, partitions in ((self.name, PARTITIONS), (f"{self.name}-labels", 3)):
            create_topic(cluster, topic, partitions=partitions)
        self._count = itertools.count(1)
        self.workers: list[Service] = []
        self.aggregators: list[Service] = []
        self.done: Counter[str] = Counter()
        self._healing: threading.Thread | None = None

    def config(self, group: str, role: str) -> dict[str, Any]:
        return worlds.raw_config(
            models=[
                {"name": "loans", "version": "1", "reference": str(self._folder / "loans.ref")}
            ],
            role=role,
            windows=[{"name": "minute", "size": "1m"}],
            source={
                "type": "kafka",
                "bootstrap_servers": self.cluster.bootstrap_servers,
                "topics": [self.name],
                "group_id": group,
                "options": {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 500},
            },
            store={
                "type": "kafka",
                "partitions": 4,
                "transaction_timeout": "5s",
                "commit_interval": "500ms",
            },
            mapping={"arrival": "event_time"},
            labels={
                "source": {"type": "kafka", "topics": [f"{self.name}-labels"]},
                "mapping": {"arrival": "label_time"},
                "maturities": ["1m", "6m", _ENDS[1]],
                "allowed_lateness": "1h",
                "join_partitions": 3,
            },
            time={"allowed_lateness": "3m", "max_ahead": "10m"},
            segments=SEGMENTS,
            limits={"memory": "256GiB"},
        )

    def replica(self, role: str, group: str | None = None) -> Service:
        """A new replica, started."""
        folder = self._folder / f"{role}-{next(self._count)}"
        folder.mkdir()
        service = Service(folder, self.config(group or self.name, role))
        service.launch()
        return service

    def rest(self, began: float) -> None:
        """Wait for the rest of a round, which is of any length around the plan's."""
        seconds = self.plan.seconds * (0.5 + self._random.random())
        time.sleep(max(0.0, seconds - (time.monotonic() - began)))

    def begin(self) -> None:
        self.workers = [self.replica("worker") for _ in range(2)]
        self.aggregators = [self.replica("aggregator") for _ in range(2)]

    def round(self) -> str:
        """Do one cruel thing; what it was."""
        choices = ["worker"] * 4 + ["aggregator"] * 3 + ["join", "leave"]
        calm = self._healing is None or not self._healing.is_alive()
        if self.plan.brokers and calm:
            choices += ["broker"] * 2
        what = self._random.choice(choices)
        if what == "join" and len(self.workers) == 4:
            what = "leave"
        if what == "leave" and len(self.workers) == 1:
            what = "join"
        getattr(self, f"_{what}")()
        self.done[what] += 1
        return what

    def _worker(self) -> None:
        self._again(self._random.choice(self.workers))

    def _aggregator(self) -> None:
        active = [a for a in self.aggregators if _active(a)]
        # the active one, mostly
        of = active if active and self._random.random() < 0.8 else self.aggregators
        self._again(self._random.choice(of))

    def _again(self, service: Service) -> None:
        if not service.running:
            raise AssertionError(f"a replica ended by itself:\n{service.log()[-3000:]}")
        service.kill()
        service.keep_log(next(self._count))
        time.sleep(self._random.random() * 2)
        service.launch()

    def _join(self) -> None:
        self.workers.append(self.replica("worker"))

    def _leave(self) -> None:
        leaving = self.workers.pop(self._random.randrange(len(self.workers)))
        # before that it ends by the signal itself
        leaving.wait_for("the service to say where it listens", leaving.ask)
        status = leaving.stop()
        if status:
            raise AssertionError(f"exit status {status} after SIGTERM:\n{leaving.log()[-3000:]}")

    def _broker(self) -> None:
        node = self._random.choice(self.cluster.running)
        self.cluster.kill(node)
        seconds = 1 + self._random.random() * 4

        def heal() -> None:
            time.sleep(seconds)
            self.cluster.restart(node)

        self._healing = threading.Thread(target=heal)
        self._healing.start()

    def heal(self) -> None:
        if self._healing is not None:
            self._healing.join()

    def active(self) -> Service | None:
        """The active aggregator."""
        return next((a for a in self.aggregators if _active(a)), None)

    def stop(self) -> None:
        for service in (*self.workers, *self.aggregators):
            if service.running:
                service.kill()


def _active(service: Service) -> bool:
    try:
        return service.ask() and service.metric("stream_monitor_aggregator_active") == 1
    except OSError:
        return False


def concluded(service: Service) -> Rows:
    """Every value of every closed window, in its newest revision."""
    rows = service.get("/api/v1/windows?state=closed")["windows"]
    return {
        tuple(row[n] for n in NAMES): {k: v for k, v in row.items() if k != "revision"}
        for row in rows
    }


def logged(servers: str, topic: str) -> list[WindowResult]:
    """The results log, in its order."""
    consumer = KafkaConsumer(
        bootstrap_servers=servers, group_id=None, isolation_level="read_committed"
    )
    place = TopicPartition(topic, 0)
    consumer.assign([place])
    consumer.seek_to_beginning(place)
    end = consumer.end_offsets([place])[place]
    pieces, found = Pieces(), []
    while consumer.position(place) < end:
        for records in consumer.poll(500).values():
            for record in records:
                whole = pieces.take(record.key, record.value)
                if whole is not None:
                    found += [msgspec.msgpack.decode(whole[1], type=WindowResult)]
    consumer.close()
    return found


def check_log(results: list[WindowResult], rows: Rows) -> int:
    """Every revision of a window is there once, in order; how many were revised."""
    revisions: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    newest: dict[tuple[Any, ...], WindowResult] = {}
    for r in results:
        key = r.segment, r.window, r.index, r.maturity
        revisions[key].append(r.revision)
        newest[key] = r
    for key, numbers in revisions.items():
        if numbers != sorted(set(numbers)) or numbers[0] != 0:
            raise AssertionError(f"window {key}: revisions {numbers} in the log")
    alerts = {
        (r.segment, r.window, r.index, r.maturity or None, v.feature, v.family, v.metric)
        for r in newest.values()
        for v in r.values
        if v.alert
    }
    served = {
        (k[0], k[1], k[2], k[3], k[4] or "", k[5], k[6]) for k, row in rows.items() if row["alert"]
    }
    if {(a[0] or None, *a[1:]) for a in alerts} != {(s[0] or None, *s[1:]) for s in served}:
        raise AssertionError(f"alerts in the log {alerts ^ served} differ from those served")
    return sum(len(numbers) > 1 for numbers in revisions.values())


def compare(found: Rows, expected: Rows) -> str:
    """What differs, for people; empty where nothing does."""
    differing = [k for k in expected.keys() | found.keys() if found.get(k) != expected.get(k)]
    lines = [f"{len(differing)} of {len(expected)} values differ"] if differing else []
    windows = {
        k[:4]: (found.get(k, {}).get("rows"), expected.get(k, {}).get("rows")) for k in differing
    }
    lines += [f"{k}: {a} rows, expected {b}" for k, (a, b) in sorted(windows.items(), key=str)]
    for key in sorted(differing, key=str)[:5]:
        lines += [f"{key}", f"  found    {found.get(key)}", f"  expected {expected.get(key)}"]
    return "\n".join(lines)


def settle(
    service: Any, events: int, *, mature: bool = False, seconds: float = _QUIET
) -> tuple[Service, Rows]:
    """Wait until a service has counted all and concludes nothing more.

    ``mature`` asks for all windows at the greatest maturity, too. Who still gets on, on a machine
    that is busy, is waited for.
    """
    deadline = time.monotonic() + seconds
    before: Rows = {}
    most = 0
    while time.monotonic() < deadline:
        time.sleep(3)
        found = service()
        try:
            if found is None:
                continue
            counted = found.accepted()
            if counted > most:
                most, deadline = counted, time.monotonic() + seconds
            if counted != events:
                continue
            rows = concluded(found)
        except OSError:
            continue
        windows = {maturity: {k[:3] for k in rows if k[3] == maturity} for maturity in _ENDS}
        late = mature and windows[_ENDS[0]] - windows[_ENDS[1]]
        if rows and rows == before and not late:
            return found, rows
        before = rows
    raise AssertionError(f"not settled: {most} of {events} events counted, {len(before)} values")


def run(plan: Plan, folder: Path, tell: Tell = lambda _number, _what: None) -> str:
    """All of it; a line that says what was seen.

    Raises
    ------
    AssertionError
        Something was lost, doubled or different.
    """
    tell(0, "starting three brokers")
    cluster = KafkaCluster(**{"group.min.session.timeout.ms": "1000"})
    cluster.start()
    chaos = Chaos(plan, folder, cluster)
    try:
        tell(0, "making events")
        traffic = Traffic(plan, cluster, chaos.name)
        traffic.start()
        chaos.begin()
        for number in range(plan.rounds):
            began = time.monotonic()
            what = chaos.round()
            tell(number + 1, what)
            chaos.rest(began)
            if traffic.error is not None:
                raise AssertionError("the producer failed") from traffic.error
        chaos.heal()
        tell(plan.rounds, "the rest of the events")
        traffic.join()
        settle(chaos.active, traffic.sent)
        traffic.close_all()
        tell(plan.rounds, "the last windows")
        time.sleep(15)
        _, found = settle(chaos.active, traffic.sent, mature=True)
        chaos.stop()
        tell(plan.rounds, "the undisturbed replica")
        alone = chaos.replica("all", f"{chaos.name}-alone")
        chaos.workers.append(alone)
        time.sleep(20)
        _, expected = settle(lambda: alone if alone.ask() else None, traffic.sent, mature=True)
        if difference := compare(found, expected):
            raise AssertionError(difference)
        log = logged(cluster.bootstrap_servers, f"{chaos.name}-results")
        revised = check_log(log, found)
        alerts = sum(row["alert"] is True for row in found.values())
        return (
            f"{plan.rounds} rounds ({dict(chaos.done)}), {traffic.sent:,} events: "
            f"{len(found):,} values in {len({k[:4] for k in found})} windows equal those of one "
            f"undisturbed replica, {alerts} alerts; {len(log)} entries in the results log, each "
            f"once, {revised} windows revised"
        )
    finally:
        chaos.stop()
        chaos.heal()
        cluster.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8.5, help="a round, on average")
    parser.add_argument("--folder", type=Path, help="keep logs here")
    options = parser.parse_args()
    plan = Plan(options.rounds, options.events, options.seed, options.seconds)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    columns = (SpinnerColumn(), *Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.completed}/{task.total}")) as progress:
        task = progress.add_task("", total=plan.rounds)

        def tell(number: int, what: str) -> None:
            progress.update(task, completed=number, description=what)

        print(run(plan, folder, tell))
    return 0


if __name__ == "__main__":
    sys.exit(main())
