"""Killed with -9 while labels are joined: the same windows and counts as undisturbed."""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests import worlds
from tests.late import stream
from tests.service import Service

KILLS = 12
ROWS = 5_000
STREAM = stream(ROWS, 9)
LABELS = {
    "source": {"type": "follow", "path": "labels.jsonl"},
    "maturities": ["30m", "2h", "30d"],
    "allowed_lateness": "60d",
}
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("late-crash")
    worlds.build(folder, segments=[{"by": ["channel"], "most": 2}])
    return folder


def config(store: str) -> dict[str, Any]:
    return worlds.raw_config(
        source={"type": "follow", "path": "events.jsonl"},
        labels=LABELS,
        segments=[{"by": ["channel"], "most": 2}],
        store={"path": store, "commit_interval": "200ms"},
        limits={"memory": "64GiB"},
    )


def append(path: Path, some: Rows) -> None:
    with path.open("ab") as file:
        file.write(b"".join(orjson.dumps(one) + b"\n" for one in some))


def windows(service: Service) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Every row by name; how often a window was published anew depends on when one looks."""
    names = ("segment", "window", "window_index", "maturity", "feature", "family", "metric")
    rows: Rows = service.get("/api/v1/windows?state=closed")["windows"]
    return {
        tuple(r[n] for n in names): {k: v for k, v in r.items() if k != "revision"}
        for r in rows
        # what takes panes in their order sees them as they are when the watermark passes, which
        # here runs ahead of what is still to be written
        if r["family"] != "estimator"
    }


def reached(service: Service, count: int) -> bool:
    return service.accepted() >= count


def told(service: Service) -> dict[str, float]:
    names = ("events_total", "labels_total", "label_delay_seconds_count",
             "predictions_repeated_total", "labels_without_prediction")  # fmt: skip
    return {name: service.metric(f"stream_monitor_{name}") for name in names}


def test_twelve_kills_while_labels_are_joined_change_nothing(folder: Path) -> None:
    events, labels = folder / "events.jsonl", folder / "labels.jsonl"
    # what comes last says that everything has come
    end = {"id": "nobody's", "ts": worlds.START + 100 * 86_400, "label": 1}
    every = [*STREAM.labels, end]
    for path in (events, labels):
        path.touch()
    service = Service(folder, config("shaken.db"))
    choose = random.Random(21)  # noqa: S311 - a seeded test, no secret
    cuts = sorted(choose.sample(range(1, 1_000), KILLS))
    start = [0, 0]
    for cut in cuts:
        ends = [len(STREAM.events) * cut // 1_000, len(every) * cut // 1_000]
        append(events, STREAM.events[start[0] : ends[0]])
        append(labels, every[start[1] : ends[1]])
        start = ends
        with service:
            wanted = choose.randrange(max(0, ends[0] - 300), max(ends[0], 1))
            service.wait_for("some events", partial(reached, service, wanted))
            time.sleep(choose.uniform(0, 0.3))
            service.kill()
    append(events, STREAM.events[start[0] :])
    append(labels, every[start[1] :])
    with Service(folder, config("undisturbed.db")) as other:
        total = len(STREAM.events)
        other.wait_for("all events", lambda: other.accepted() == total)
        other.wait_for(
            "all labels", lambda: other.metric("stream_monitor_labels_without_prediction") == 1
        )
        time.sleep(2)  # the last windows that changed
        expected, expected_told = windows(other), told(other)
        assert {key[3] for key in expected} == {None, "30m", "2h", "30d"}
        assert other.stop() == 0
    with service:
        service.wait_for("all events", lambda: service.accepted() == total)
        service.wait_for("the same windows", lambda: windows(service) == expected)
        assert told(service) == expected_told
        assert service.stop() == 0
