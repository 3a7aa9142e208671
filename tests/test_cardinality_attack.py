"""A million different values of everything that an event or a label can name: the state stays.

A state is measured after 100,000 records and after a million: panes, sketches, counters, what a
checkpoint writes, and the number of Prometheus series. All records are of one hour, so there is
one window, and whatever grows, grows with the values.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest
import structlog

from stream_monitor.expose.collector import SnapshotCollector
from stream_monitor.expose.http import Board
from stream_monitor.labels.join import TOLD
from stream_monitor.methods.unseen_names import MOST, Names
from stream_monitor.monitor import Monitor
from stream_monitor.panes.partition import Partition
from stream_monitor.sources.base import Poll, Records
from stream_monitor.store.sqlite import SqliteStore
from stream_monitor.watch import watch
from stream_monitor.watch_outcome import watch_outcomes
from tests import worlds

FEW, MANY, A_RUN = 100_000, 1_000_000, 20_000
SERIES = 20_000
STATE = 512 * 1_024  # bytes: panes of eight columns and two segments, and their sketches
DEAD_LETTERS = 1_000
Make = Callable[[int], bytes]


@dataclass
class Fed:
    """A source of one partition that is given its records."""

    partition: str
    records: list[Records] = field(default_factory=list)
    told: bool = False

    def poll(self, _timeout_seconds: float) -> Poll:
        if not self.told:
            self.told = True
            return Poll(assigned=("events:0", "truth:0"))
        records, self.records = self.records, []
        return Poll(records)

    def seek(self, partition: str, position: str | None) -> None:
        """Not needed."""

    def pause(self, partitions: frozenset[str]) -> None:
        """Not needed."""

    def close(self) -> None:
        """Not needed."""


class Attacked:
    """A service's loop in this process, its store in memory."""

    def __init__(self, world: worlds.World, folder: Path) -> None:
        config = world.config(
            source={"type": "kafka", "bootstrap_servers": "x", "topics": ["events"],
                    "group_id": "g"},
            labels={"source": {"type": "kafka", "topics": ["truth"]}, "maturities": ["1h"],
                    "allowed_lateness": "1h"},
            segments=[{"by": ["channel"], "most": 2}],
            limits={"max_rejected": 1.0},
            store={"commit_interval": "10ms"},
        )  # fmt: skip
        watched, windows = watch(config, "test")
        outcomes = watch_outcomes(config, watched, windows, "test", folder=folder)
        self.store = SqliteStore(None, results_retention_windows=10, max_dead_letters=DEAD_LETTERS)
        self.board = Board()
        self.source = Fed("events:0")
        self.sent = 0
        self.monitor = Monitor(
            config=config, watched=watched, windows=windows, source=self.source, store=self.store,
            board=self.board, step_timer=lambda _step: nullcontext(), outcomes=outcomes,
        )  # fmt: skip
        self.monitor.round()

    def close(self) -> None:
        self.store.close()

    def send(self, topic: str, make: Make, until: int) -> None:
        """Records up to a number, in runs, as one topic's only partition."""
        while self.sent < until:
            numbers = range(self.sent, self.sent + A_RUN)
            payloads = [make(i) for i in numbers]
            stamps = np.full(A_RUN, (worlds.START + 60) * 1_000_000)
            self.source.records = [
                Records(
                    f"{topic}:0", payloads, [""] * A_RUN, str(numbers.stop), stamps,
                    np.arange(numbers.start, numbers.stop),
                )
            ]  # fmt: skip
            self.monitor.round()
            self.sent = numbers.stop
        self.monitor.show()

    @property
    def partitions(self) -> Mapping[str, Partition]:
        pipeline = self.monitor._pipeline
        joins = {name: join.partition for name, join in pipeline.joins.items()}
        return {**pipeline.partitions, **pipeline.label_partitions, **joins}

    def state(self) -> tuple[int, int]:
        """Bytes in memory, and of a checkpoint of all of it."""
        memory = stored = 0
        for partition in self.partitions.values():
            copy = Partition("copy")
            copy.counters, copy.rows, copy.origins = (
                partition.counters, partition.rows, partition.origins,
            )  # fmt: skip
            for key, pane in partition.panes.items():
                copy.add(key, pane.counts, pane.first, pane.last)
                copy.sketch(key, pane.sketches)
                memory += pane.counts.nbytes
                memory += sum(len(sketch.to_bytes()) for sketch in pane.sketches.values())
            memory += sum(
                len(msgspec.json.encode(counter)) for counter in partition.counters.values()
            )
            state = copy.checkpoint()
            stored += len(state.meta) + sum(map(len, state.chunks.values()))
        return memory, stored

    def series(self) -> int:
        families = SnapshotCollector(lambda: self.board.current, SERIES).collect()
        return sum(len(family.samples) for family in families)

    def counted(self, what: str) -> dict[str, int]:
        total: dict[str, int] = {}
        for partition in self.partitions.values():
            for key, number in partition.counters.get(what, {}).items():
                total[key] = total.get(key, 0) + number
        return total

    def events(self) -> int:
        return sum(
            sum(self.counted(what).values()) for what in ("accepted", "late", "expired", "rejected")
        )

    def value(self, feature: str, metric: str) -> float:
        """Of the window that fills."""
        assert self.board.current is not None
        (view,) = self.board.current.models[0].windows
        assert view.filling is not None
        (found,) = (
            v.value for v in view.filling.values if (v.feature, v.metric) == (feature, metric)
        )
        return found

    def names(self, column: str) -> tuple[int, bool]:
        """Unseen categories that are kept by name, and whether there are more."""
        (sketch,) = (
            pane.sketches["unseen_names"]
            for pane in self.partitions["events:0"].panes.values()
            if "unseen_names" in pane.sketches
        )
        assert isinstance(sketch, Names)
        return len(sketch.counts(column)), column in sketch.more


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    return worlds.build(tmp_path_factory.mktemp("world"), segments=[{"by": ["channel"], "most": 2}])


@pytest.fixture
def attacked(world: worlds.World, tmp_path: Path) -> Iterator[Attacked]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with closing(Attacked(world, tmp_path)) as attacked:
        yield attacked
    structlog.reset_defaults()


def resident() -> int:
    """The most bytes that this process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024


def attack(attacked: Attacked, topic: str, make: Make, state: int = STATE) -> None:
    """Send records and compare what is kept of a tenth of them with what is kept of all."""
    attacked.send(topic, make, FEW)
    memory, stored = attacked.state()
    series, most = attacked.series(), resident()
    attacked.send(topic, make, MANY)
    assert memory < state
    assert stored < state
    grown = attacked.state()
    assert grown[0] < memory * 1.02 + 1_000
    assert grown[1] < stored * 1.1 + 1_000  # counts need wider integers
    assert attacked.series() == series
    assert resident() < most + 60 * 2**20
    assert len(attacked.store.dead_letters(10 * DEAD_LETTERS)) <= DEAD_LETTERS


EVENT = (
    b'{"id":"%(id)s","model":"%(model)s","version":"%(version)s","ts":%(ts)s,"features":{"age":'
    b'%(age)s,"income":1.5,"ratio":0.5,"channel":"%(channel)s","member":true%(more)s},"prediction":'
    b'%(prediction)s,"score":0.5,"label":%(label)s}'
)


def event(**changes: bytes) -> bytes:
    parts = {
        b"id": b"a", b"model": b"loans", b"version": b"1", b"ts": b"%d" % worlds.START,
        b"age": b"33", b"channel": b"app", b"more": b"", b"prediction": b"1", b"label": b"null",
    }  # fmt: skip
    return EVENT % (parts | {name.encode(): value for name, value in changes.items()})


# the million values stand where
ATTACKS: dict[str, Callable[[bytes], bytes]] = {
    "categories and segments": lambda n: event(channel=b"kiosk-" + n),
    "predictions": lambda n: event(prediction=b'"new-' + n + b'"'),
    "numbers": lambda n: event(age=n),
    "ids": lambda n: event(id=n),
    "fields": lambda n: event(more=b',"f' + n + b'":1'),
    "labels": lambda n: event(id=b"", label=b'"l' + n + b'"'),
    "times": lambda n: event(ts=b"%d.%s" % (worlds.START, n)),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_million_values_in_events(attacked: Attacked, name: str) -> None:
    make = ATTACKS[name]
    attack(attacked, "events", lambda i: make(b"%d" % i))
    assert sum(attacked.counted("accepted").values()) == attacked.events() == MANY
    column = {"categories and segments": "channel", "predictions": "prediction"}.get(name)
    if column:
        assert attacked.value(column, "unseen_values") == 1.0
        assert attacked.names(column) == (MOST, True)


@pytest.mark.parametrize("part", ["model", "version"])
def test_a_million_names_and_versions(attacked: Attacked, part: str) -> None:
    attack(attacked, "events", lambda i: event(**{part: b"%d" % (i + 2)}))
    assert attacked.counted("rejected") == {"unknown_model": MANY}
    assert attacked.events() == MANY


LABEL = b'{"id":"%s","model":"%s","ts":%d.%06d,"label":%s}'
# of labels of the same prediction the last counts
LABELS: dict[str, Make] = {
    "values": lambda i: LABEL % (b"a", b"loans", worlds.START + 1, i, b'"%d"' % i),
    "model names": lambda i: LABEL % (b"a", b"m%d" % i, worlds.START, i, b"1"),
    "ids": lambda i: LABEL % (b"%d" % i, b"loans", worlds.START, i, b"1"),
}


@pytest.mark.parametrize("name", LABELS)
def test_a_million_values_in_labels(attacked: Attacked, name: str) -> None:
    attacked.send("events", lambda _i: event(), A_RUN)
    attacked.sent = 0
    attack(attacked, "truth", LABELS[name])
    counted = {key: sum(attacked.counted(key).values()) for key in (*TOLD, "rejected")}
    counted = {key: number for key, number in counted.items() if number}
    assert counted.pop("predictions_repeated") == A_RUN - 1
    assert sum(counted.values()) == MANY
    # of labels of one prediction, each run's last corrects it
    assert (
        counted.keys()
        == {
            "values": {"labels_joined", "labels_corrected", "labels_duplicate"},
            "model names": {"rejected"},
            "ids": {"labels_without_prediction"},
        }[name]
    )
