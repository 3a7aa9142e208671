"""All that happens to an event, beside what it takes to turn its bytes into columns at all.

Ours is the service's own loop over a file, or over payloads in memory in polls of any size:
decoding, counting, every default method, windows, a commit to SQLite a second. The baseline is what
any program has to do that wants columns: the file's bytes cut into lines, typed structs by msgspec,
NumPy arrays of times, ids, numbers, codes, scores and predictions.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson

from stream_monitor.assembly import open_copy, settle
from stream_monitor.config.model import Config
from stream_monitor.monitor import Monitor
from stream_monitor.schema import FloatArray
from stream_monitor.sources.base import Places, Poll, Records
from stream_monitor.sources.files import FilesSource
from stream_monitor.sources.lines import BLOCK
from stream_monitor.sources.several import LABELS, Several
from stream_monitor.watch import watch
from stream_monitor.watch_outcome import watch_outcomes
from tests.bench import world
from tests.bench.lines import Line, Section, Tell, microseconds, turns
from tests.bench.running import Board

EVENTS = 200_000
RATE = 50_000  # events a second of event time
BATCHES = 500, 2_000, 10_000
PAIRS = 11
_NUMBERS = itertools.count()


def measure(tell: Tell) -> Section:
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        what = f"the whole pipeline, a file of {EVENTS:,} events"
        tell(what)
        found = turns(bench.run_file, bench.spent_file, number=PAIRS, units=EVENTS)
        lines = [_line(what, "bytes to columns, msgspec", *found, most=2.0)]
        for batch in BATCHES:
            what = f"the same from memory, {batch:,} events a poll"
            tell(what)
            ours, theirs = turns(
                lambda b=batch: bench.run(b),  # type: ignore[misc]
                lambda b=batch: bench.spent(typed, b),  # type: ignore[misc]
                number=PAIRS,
                units=EVENTS,
            )
            lines.append(_line(what, "bytes to columns, msgspec", ours, theirs))
        tell("the parts")
        batch = BATCHES[1]
        for what, baseline, ours_call, theirs_call in (
            (
                "bytes to columns, orjson",
                "bytes to columns, msgspec",
                lambda: bench.spent(untyped, batch),
                lambda: bench.spent(typed, batch),
            ),
            (
                f"with the join and a label an event, {batch:,} of each a poll",
                "the same without labels",
                lambda: bench.run(batch, labels=True),
                lambda: bench.run(batch),
            ),
        ):
            tell(what)
            ours, theirs = turns(ours_call, theirs_call, number=PAIRS, units=EVENTS)
            lines.append(_line(what, baseline, ours, theirs))
        lines.append(bench.evaluating(tell))
    return Section(title="The pipeline", command="python -m tests.bench pipeline", lines=lines)


def _line(
    what: str,
    baseline: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    most: float | None = None,
) -> Line:
    return Line(
        what=what,
        baseline=baseline,
        unit="µs an event",
        ours=microseconds(ours),
        theirs=microseconds(theirs),
        most=most,
    )


# --- bytes to columns ---------------------------------------------------------------------------

_CONTINUOUS, _CATEGORICAL = world.names(world.DEFAULT)
_CODES = {f"kind_{k}": k for k in range(20)}
_Features = msgspec.defstruct(
    "Features",
    [*((name, float | None) for name in _CONTINUOUS), *((name, str) for name in _CATEGORICAL)],
    gc=False,
)
_Event = msgspec.defstruct(
    "Event",
    [
        ("id", str),
        ("model", str),
        ("version", str),
        ("ts", float),
        ("features", _Features),
        ("prediction", int),
        ("score", float),
    ],
    gc=False,
)
_decode = msgspec.json.Decoder(_Event).decode
Columns = tuple[list[str], FloatArray, FloatArray, Any, FloatArray, Any]


def typed(payloads: Sequence[bytes]) -> Columns:
    """Ids, times, numbers, codes, scores, predictions."""
    events = [*map(_decode, payloads)]
    features = [*map(attrgetter("features"), events)]
    numbers = np.array([*map(attrgetter(*_CONTINUOUS), features)], dtype=np.float64).T
    codes = [[*map(_CODES.__getitem__, map(attrgetter(n), features))] for n in _CATEGORICAL]
    return (
        [*map(attrgetter("id"), events)],
        np.array([*map(attrgetter("ts"), events)]),
        np.ascontiguousarray(numbers),
        np.array(codes, dtype=np.int32),
        np.array([*map(attrgetter("score"), events)]),
        np.array([*map(attrgetter("prediction"), events)], dtype=np.int32),
    )


def untyped(payloads: Sequence[bytes]) -> Columns:
    """The same by orjson's dictionaries."""
    events = [*map(orjson.loads, payloads)]
    features = [*map(itemgetter("features"), events)]
    numbers = np.array([*map(itemgetter(*_CONTINUOUS), features)], dtype=np.float64).T
    codes = [[*map(_CODES.__getitem__, map(itemgetter(n), features))] for n in _CATEGORICAL]
    return (
        [*map(itemgetter("id"), events)],
        np.array([*map(itemgetter("ts"), events)]),
        np.ascontiguousarray(numbers),
        np.array(codes, dtype=np.int32),
        np.array([*map(itemgetter("score"), events)]),
        np.array([*map(itemgetter("prediction"), events)], dtype=np.int32),
    )


# --- the service --------------------------------------------------------------------------------


class Memory:
    """A source of payloads that are there already; sets ``ended`` with the last of them."""

    def __init__(self, payloads: Sequence[bytes], batch: int, ended: threading.Event) -> None:
        self._payloads, self._batch, self._ended = payloads, batch, ended
        self._next = 0
        self._told = False

    def poll(self, timeout_seconds: float) -> Poll:  # noqa: ARG002 - nothing is waited for
        if not self._told:
            self._told = True
            return Poll(assigned=("memory",))
        start = self._next
        some = self._payloads[start : start + self._batch]
        self._next += len(some)
        if self._next == len(self._payloads):
            self._ended.set()
        numbers = range(start, self._next)
        stamp = int((world.START + start / RATE) * 1e6)
        records = Records(
            "memory",
            some,
            Places("memory:{}", numbers),
            str(self._next),
            np.full(len(some), stamp, dtype=np.int64),
            np.array(numbers, dtype=np.int64),
        )
        return Poll(records=[records], lag={"memory": len(self._payloads) - self._next})

    def seek(self, partition: str, position: str | None) -> str:  # noqa: ARG002 - there is but one
        return position or "0"

    def pause(self, partitions: frozenset[str]) -> None:
        """Nothing is ever ahead."""

    def close(self) -> None:
        """Nothing is held."""


class Ending:
    """A file; sets ``ended`` once it has been read."""

    def __init__(self, path: Path, ended: threading.Event) -> None:
        self._files = FilesSource(str(path), max_record_size=2**20)
        self._ended = ended
        self.seek, self.pause, self.close = self._files.seek, self._files.pause, self._files.close

    def poll(self, timeout_seconds: float) -> Poll:
        poll = self._files.poll(timeout_seconds)
        if poll.finished:
            self._ended.set()
        return poll


class Bench:
    """Payloads, the reference, and a folder for state."""

    def __init__(self, folder: Path, *, events: int = EVENTS, **sections: Any) -> None:
        self._folder, self._sections = folder, sections
        world.build(folder)
        self.payloads = world.events(events, 2, rate=RATE)
        self._labels = world.labels(events, 2, rate=RATE)

    @cached_property
    def file(self) -> Path:
        """The payloads as lines."""
        path = self._folder / "events.jsonl"
        path.write_bytes(b"\n".join(self.payloads) + b"\n")
        return path

    def run_file(self) -> float:
        """Seconds of the processor from the file's first byte to the commit of its last event."""
        with self._monitor(lambda ended: Ending(self.file, ended), {}) as (monitor, ended):
            began = time.process_time()
            monitor.run(ended)
            return time.process_time() - began

    def spent_file(self) -> float:
        """Seconds of the processor that it takes to turn the file into columns."""
        began = time.process_time()
        with self.file.open("rb") as file:
            left = b""
            while block := file.read(BLOCK):
                *lines, left = (left + block).split(b"\n")
                typed(lines)
        return time.process_time() - began

    def spent(self, columns: Callable[[Sequence[bytes]], Any], batch: int) -> float:
        """Seconds of the processor that it takes to turn all payloads into columns."""
        began = time.process_time()
        for start in range(0, len(self.payloads), batch):
            columns(self.payloads[start : start + batch])
        return time.process_time() - began

    def run(
        self, batch: int, *, labels: bool = False, payloads: Sequence[bytes] | None = None
    ) -> float:
        """Seconds of the processor from the first event to the commit of the last.

        ``batch`` records a poll; ``payloads`` are the same events in other records.
        """
        sections: dict[str, Any] = {}
        if labels:
            sections["labels"] = {"maturities": ["1h"], "mapping": {"arrival": "label_time"}}
        some = self.payloads if payloads is None else payloads
        with self._monitor(lambda end: Memory(some, batch, end), sections, batch) as (
            monitor,
            ended,
        ):
            began = time.process_time()
            monitor.run(ended)
            return time.process_time() - began

    @contextmanager
    def _monitor(
        self,
        make: Callable[[threading.Event], Any],
        sections: dict[str, Any],
        batch: int = 0,
    ) -> Iterator[tuple[Monitor, threading.Event]]:
        config = self.config(**sections)
        watched, windows = watch(config, "bench")
        outcomes = watch_outcomes(
            config, watched, windows, "bench", folder=config.store.path.with_suffix(".ledgers")
        )
        ended, aside = threading.Event(), threading.Event()
        source: Any = make(ended)
        if outcomes is not None:
            source = Several({"": source, LABELS: Memory(self._labels, batch, aside)})
        with ExitStack() as stack:
            monitor = Monitor(
                config=config,
                watched=watched,
                windows=windows,
                source=source,
                store=open_copy(config, stack),
                board=Board(),
                step_timer=lambda _step: nullcontext(),
                outcomes=outcomes,
            )
            settle()
            yield monitor, ended

    def config(self, **sections: Any) -> Config:
        """With a folder of its own for state."""
        own = self._folder / f"run-{next(_NUMBERS)}"
        own.mkdir()
        store = {"type": "sqlite", "path": str(own / "state.db")}
        return world.config(self._folder, store=store, **self._sections, **sections)

    def evaluating(self, tell: Tell) -> Line:
        """What the windows of a minute cost, closed and shown, in a minute."""
        tell("evaluating all windows")
        spent = {"evaluate": 0.0}

        @contextmanager
        def timed(step: str) -> Iterator[None]:
            began = time.process_time()
            yield
            if step in spent:
                spent[step] += time.process_time() - began

        minutes = 90
        payloads = world.events(minutes * 600, 6, rate=10)
        ended = threading.Event()
        watched, windows = watch(config := self.config(), "bench")
        with ExitStack() as stack:
            Monitor(
                config=config,
                watched=watched,
                windows=windows,
                source=Memory(payloads, 200, ended),
                store=open_copy(config, stack),
                board=Board(),
                step_timer=timed,
            ).run(ended)
        return Line(
            what="evaluating all windows that close, thresholds included",
            baseline="the time in which they close",
            unit="s a minute",
            ours=[spent["evaluate"] / minutes],
            theirs=[60.0],
            most=0.05,
        )
