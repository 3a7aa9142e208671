"""Thresholds are there before windows close, also where events never cease to come."""

from __future__ import annotations

import sqlite3
from contextlib import closing, nullcontext
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import orjson
import pytest

from stream_monitor.intake import Intake
from stream_monitor.pipeline import Pipeline
from stream_monitor.sources.base import Records
from stream_monitor.watch import watch
from tests import worlds
from tests.service import Service

FIRST = worlds.START + 600


def test_thresholds_are_worked_out_between_events(tmp_path: Path) -> None:
    """Every poll brings some: they come oftener than a poll waits."""
    worlds.build(tmp_path)
    log, database = tmp_path / "events.jsonl", tmp_path / "state.db"
    log.touch()
    config = worlds.raw_config(
        source={"type": "follow", "path": str(log)},
        store={"type": "sqlite", "path": str(database)},
        mapping={"arrival": "event_time"},
    )
    events = cycle(worlds.events(2_000, 2, seconds=0.01))
    with Service(tmp_path, config) as service:

        def saved() -> bool:
            with log.open("ab") as file:
                file.writelines(line + b"\n" for line in islice(events, 5))
            with closing(sqlite3.connect(database)) as db:
                (number,) = db.execute(
                    "SELECT count(*) FROM meta WHERE key LIKE 'cache/%'"
                ).fetchone()
            return bool(number)

        service.wait_for("a threshold", saved)


@pytest.mark.parametrize(
    "windows",
    [
        [{"name": "hour", "size": "1h"}, {"name": "day", "size": "1d"}],
        [{"name": "thousand", "rows": 1_000}],
    ],
    ids=["time", "rows"],
)
def test_they_are_worked_out_for_the_rows_that_a_window_will_have(
    tmp_path: Path, windows: list[dict[str, object]]
) -> None:
    """After a third of it, no more is left to be worked out when it closes."""
    config = worlds.build(tmp_path).config(windows=windows)
    watched, made = watch(config, "test")
    pipeline = Pipeline(watched, made, config)
    intake = Intake(config, watched, pipeline, None, timed=lambda _: nullcontext())
    intake.begin({"log": None})
    # the first of an hour comes ten minutes after its begin
    lines = [x for x in worlds.events(1_200, 3, seconds=3.6) if orjson.loads(x)["ts"] > FIRST]
    place = iter(range(len(lines)))

    def read(some: list[bytes]) -> None:
        stamps = np.array([int(orjson.loads(x)["ts"] * 1e6) for x in some])
        intake.take(Records("log", some, [str(next(place)) for _ in some], "", stamps))

    read(lines[: len(lines) // 3])
    list(pipeline.publisher.filling())
    judge = watched[0].parts[0].judge
    while judge.prepare():
        pass
    known = judge.limits.size
    assert known
    read(lines[len(lines) // 3 :])
    assert pipeline.close(["log"])
    assert judge.limits.size == known
