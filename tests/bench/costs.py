"""What more features, segments, windows and models cost, each beside the default case.

A case runs in a process of its own (:mod:`tests.bench.one_case`), so that its memory is its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import yaml
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import generate_latest

from stream_monitor.assembly import open_copy
from stream_monitor.expose.collector import SnapshotCollector
from stream_monitor.monitor import Monitor
from stream_monitor.watch import watch
from tests.bench import world
from tests.bench.lines import Line, Section, Tell, microseconds, pairs
from tests.bench.one_case import BATCH, PANES, Taken
from tests.bench.pipeline import Memory
from tests.bench.running import Board

ROUNDS = 5
REFERENCE_ROWS = 5_000
WINDOW_ROWS = 100_000  # that counting is compared with evaluating
SERIES = 20_000
SCRAPES = 9
# thresholds take their time once, whatever comes afterwards; references of a hundred segments hold
# a few chunks only
SECTIONS: dict[str, Any] = {
    "alerts": {"threshold": "constant"},
    "reference": {"chunk_rows": 1_000},
}


@dataclass(frozen=True)
class Case:
    """One that differs from the default in one respect.

    ``batches`` are fewer where an event is large, so that a case takes a second or two.
    """

    what: str
    shape: world.Shape = world.DEFAULT
    models: int = 1
    sections: Mapping[str, Any] = field(default_factory=dict)
    batches: int = 10

    @property
    def name(self) -> str:
        return self.what.replace(" ", "-")


def segments(most: int) -> dict[str, Any]:
    """So many parts of the traffic: 20 categories, or pairs with 5 others."""
    by = ["category_01"] if most <= 20 else ["category_00", "category_01"]
    return {"segments": [{"by": by, "most": most}]}


def windows(number: int) -> dict[str, Any]:
    """So many window names over the same panes."""
    every = [{"name": f"last_{m}m", "size": f"{m}m", "every": "1m"} for m in range(30, 0, -4)]
    return {"windows": every[:number]}


DEFAULT = Case("22 features, 2 windows, 1 model")
CASES = (
    Case("10 features", world.Shape(9, 1)),
    Case("100 features", world.Shape(91, 9), batches=5),
    Case("1,000 features", world.Shape(909, 91), batches=2),
    Case("10 segments", sections=segments(10)),
    Case("100 segments", sections=segments(100)),
    Case("1 window", sections=windows(1)),
    Case("8 windows", sections=windows(8)),
    Case("4 models", models=4),
    Case("16 models", models=16),
)


def measure(tell: Tell) -> Section:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in (DEFAULT, *CASES):
            tell(f"{case.what}: reference and events")
            prepare(folder, case)
        found: dict[str, list[Taken]] = {}
        for i in range(ROUNDS):
            for case in (DEFAULT, *CASES):
                tell(f"round {i + 1} of {ROUNDS}: {case.what}")
                found.setdefault(case.what, []).append(run(folder, case))
        theirs = found.pop(DEFAULT.what)
        lines = [line for what, ours in found.items() for line in lines_of(what, ours, theirs)]
        lines.append(evaluating(theirs))
        tell("a scrape")
        lines.append(scraping(folder, tell))
    panes = ", ".join(f"{what} {ours[0].pane / 1e3:,.0f} KB" for what, ours in found.items())
    return Section(
        title="Costs",
        command="python -m tests.bench costs",
        lines=lines,
        facts=[f"The counts of a pane: {DEFAULT.what} {theirs[0].pane / 1e3:,.0f} KB, {panes}."],
    )


def prepare(folder: Path, case: Case) -> None:
    """The case's reference, its configuration, and its events: one pane full, 29 with a few."""
    own = folder / case.name
    sections = SECTIONS | dict(case.sections)
    models = ["bench", *(f"bench_{i}" for i in range(1, case.models))]
    for model in models:
        world.build(own, case.shape, model=model, rows=REFERENCE_ROWS, **sections)
    config = world.raw_config(own, models=world.models(own, *models), **sections)
    (own / "monitor.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    number = case.batches * BATCH
    full = world.events(number, 2, shape=case.shape, rate=number / 59)
    few = world.events(PANES - 1, 3, shape=case.shape, rate=1 / 60, start=world.START + 60)
    with (own / "events.jsonl").open("wb") as file:
        for i, payload in enumerate([*full, *(p for p in few for _ in models)]):
            name = models[i % case.models]
            file.write(payload.replace(b'"model":"bench"', b'"model":"%b"' % name.encode()) + b"\n")


def run(folder: Path, case: Case) -> Taken:
    """The case in a fresh process."""
    own = folder / case.name
    files = [str(own / name) for name in ("monitor.yaml", "events.jsonl")]
    command = [sys.executable, "-m", "tests.bench.one_case", *files]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return msgspec.json.decode(done.stdout, type=Taken)


def lines_of(what: str, ours: Sequence[Taken], theirs: Sequence[Taken]) -> list[Line]:
    return [
        Line(
            what=f"{what}: {told}",
            baseline=DEFAULT.what,
            unit=unit,
            ours=[getattr(taken, name) * scale for taken in ours],
            theirs=[getattr(taken, name) * scale for taken in theirs],
        )
        for told, name, unit, scale in (
            ("decoding and counting", "count", "µs an event", 1e6),
            ("evaluating all windows once", "evaluate", "ms", 1e3),
            (f"memory with {PANES} panes", "resident", "MB", 1e-6),
        )
    ]


def evaluating(taken: Sequence[Taken]) -> Line:
    return Line(
        what="evaluating all windows once, without thresholds",
        baseline=f"decoding and counting the {WINDOW_ROWS:,} events of one",
        unit="µs",
        ours=microseconds([one.evaluate for one in taken]),
        theirs=microseconds([one.count * WINDOW_ROWS for one in taken]),
    )


def scraping(folder: Path, tell: Tell) -> Line:
    """The service's own registry beside one of the client library's gauges, each with a child."""
    ours = CollectorRegistry()
    snapshot = shown(folder)
    ours.register(SnapshotCollector(lambda: snapshot, SERIES))
    theirs, number = CollectorRegistry(), 0
    for family in ours.collect():
        gauge: Gauge | None = None
        for sample in family.samples:
            if sample.name != family.name or not sample.labels:
                continue
            if gauge is None:
                names = list(sample.labels)
                gauge = Gauge(family.name, family.documentation, names, registry=theirs)
            gauge.labels(**sample.labels).set(sample.value)
            number += 1
    mine, other = pairs(
        lambda: generate_latest(ours), lambda: generate_latest(theirs), number=SCRAPES, tell=tell
    )
    return Line(
        what=f"a scrape of {number:,} series",
        baseline="as many gauges of prometheus_client",
        unit="ms",
        ours=[second * 1e3 for second in mine],
        theirs=[second * 1e3 for second in other],
    )


def shown(folder: Path) -> Any:
    """What is shown of a model with a hundred segments."""
    own = folder / next(case.name for case in CASES if case.what == "100 segments")
    ended, board = Event(), Board()
    store = {"type": "sqlite", "path": str(own / "state.db")}
    config = world.config(own, store=store, **(SECTIONS | segments(100)))
    watched, windows_ = watch(config, "bench")
    with ExitStack() as stack:
        Monitor(
            config=config,
            watched=watched,
            windows=windows_,
            source=Memory(world.events(BATCH * 4, 4, rate=1), BATCH, ended),
            store=open_copy(config, stack),
            board=board,
            step_timer=lambda _step: nullcontext(),
        ).run(ended)
    return board.newest
