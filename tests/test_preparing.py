"""Thresholds are there before windows close, also where events never cease to come."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import cycle, islice
from pathlib import Path

from tests import worlds
from tests.service import Service


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
