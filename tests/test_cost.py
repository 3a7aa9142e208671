"""What an event costs, in counts that do not depend on the machine's mood.

Where one of these fails, something has come into the path of every event: take it out again or, if
it is worth it, say so in the commit and raise the limit. ``make bench`` has the times.
"""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_monitor.intake import Intake
from stream_monitor.panes.partition import Partition
from stream_monitor.pipeline import Pipeline
from stream_monitor.sources.base import Places, Records
from stream_monitor.watch import watch
from tests.bench import world

NAME = "t:0"
# of the model in tests/bench/world.py, with every default method; measured and rounded up
CALLS_A_RUN = 2_800  # of functions, Python's and C's, for a run of 2,000 events
CALLS_AN_EVENT = 0.9  # for each further one: parts of some hundred rows, and nothing an event
BYTES_AN_EVENT = 2_800  # at the most at once, the columns of a run included
CALLS_A_VALUE = 24  # of functions, for each value of a window that is evaluated
BYTES_A_COMMIT = 160_000  # of state, for one pane that has changed; half of it hashes of values


class Route:
    """The way of events through decoding and counting."""

    def __init__(self, folder: Path) -> None:
        config = world.config(folder)
        watched, windows = watch(config, "test")
        self._pipeline = Pipeline(watched, windows, config)
        self._intake = Intake(
            config, watched, self._pipeline, None, timed=lambda _step: nullcontext()
        )
        self._intake.begin({NAME: None})
        self._payloads = world.events(20_000, 3, rate=50_000)

    def evaluated(self) -> int:
        """Evaluate the windows as they are; how many values that gave."""
        found = self._pipeline.publisher.filling()
        return sum(len(result.values) for result in found)

    @property
    def partition(self) -> Partition:
        return self._intake.partitions[NAME]

    def take(self, number: int) -> None:
        """A run of so many events."""
        numbers = range(number)
        records = Records(
            NAME,
            self._payloads[:number],
            Places("t@{}", numbers),
            str(number),
            np.full(number, world.START * 1_000_000, dtype=np.int64),
            np.array(numbers, dtype=np.int64),
        )
        assert not self._intake.take(records)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Route:
    folder = tmp_path_factory.mktemp("cost")
    world.build(folder)
    found = Route(folder)
    found.take(1_000)  # what is made once
    return found


@contextmanager
def counting(found: list[int]) -> Iterator[None]:
    """Counts calls of functions into ``found``."""

    def note(_frame: Any, event: str, _argument: Any) -> None:
        if event in ("call", "c_call"):
            found[0] += 1

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


def calls(path: Route, number: int) -> int:
    found = [0]
    with counting(found):
        path.take(number)
    return found[0]


def test_functions_are_called_for_runs_and_not_for_events(path: Route) -> None:
    few, many = calls(path, 2_000), calls(path, 20_000)
    print(f"{few} calls for 2,000 events, {many} for 20,000")
    assert few <= CALLS_A_RUN
    assert (many - few) / 18_000 <= CALLS_AN_EVENT


def test_a_window_is_evaluated_by_arrays(path: Route) -> None:
    path.evaluated()  # what is made once
    found = [0]
    with counting(found):
        values = path.evaluated()
    print(f"{found[0] / values:.1f} calls a value, {values} values")
    assert found[0] / values <= CALLS_A_VALUE


@pytest.mark.parametrize(
    ("command", "strangers"),
    [
        ("run", {"scipy.stats", "scipy.optimize", "lightgbm", "pyarrow"}),
        ("backtest", {"scipy.stats", "scipy.optimize", "lightgbm", "uvicorn", "starlette"}),
    ],
)
def test_a_command_imports_what_it_needs(command: str, strangers: set[str]) -> None:
    program = f"import sys; from stream_monitor.cli import parser; parser({command!r}); "
    done = subprocess.run(
        [sys.executable, "-c", program + "print(*sys.modules)"],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert f"stream_monitor.cli.{command}" in loaded
    assert not loaded & strangers


def test_memory_is_that_of_columns(path: Route) -> None:
    tracemalloc.start()
    try:
        path.take(10_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{peak / 10_000:.0f} bytes an event")
    assert peak / 10_000 <= BYTES_AN_EVENT


def test_a_commit_writes_what_has_changed(path: Route) -> None:
    path.partition.checkpoint()
    path.take(5_000)
    state = path.partition.checkpoint()
    size = len(state.meta) + sum(map(len, state.chunks.values()))
    print(f"{size:,} bytes, {len(state.chunks)} chunks")
    assert size <= BYTES_A_COMMIT
