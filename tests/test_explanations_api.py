"""/api/v1/explanations over a running server, against what the windows were made of."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from stream_monitor.expose.http import Board, Server
from stream_monitor.expose.snapshot import ModelView, ServiceView, Snapshot, WindowView
from stream_monitor.schema import Kind
from stream_monitor.store.sqlite import SqliteStore
from stream_monitor.values import WindowResult
from tests.building import cells_of, counts_of

HOUR = 3_600_000_000
Get = Callable[[str], tuple[int, Any]]


def result(index: int, *, closed: bool, notes: dict[str, str]) -> WindowResult:
    end = (index + 1) * HOUR
    return WindowResult("m", "1", "", "hour", index, end - HOUR, end, 100, closed, (), 0, notes)


@pytest.fixture(scope="module")
def get() -> Iterator[Get]:
    colour = cells_of(["red"] * 60 + ["blue"] * 40, Kind.CATEGORICAL, name="colour/shade")
    size = cells_of(np.arange(100.0), name="size")
    cells = {c.column.name: c for c in (colour, size)}
    moved = {
        "colour/shade": counts_of(colour, ["red"] * 20 + ["blue"] * 40 + ["grey"] * 40),
        "size": size.counts,
    }
    notes = {"drift/colour/shade": "grey is new", "realized_performance/": "scores broke"}
    view = WindowView(
        "hour",
        "1h",
        result(4, closed=True, notes=notes),
        moved,
        result(5, closed=False, notes={}),
        {name: c.counts for name, c in cells.items()} | {"size": counts_of(size, np.full(9, 3.0))},
    )
    model = ModelView("m", "1", "", "ab", 100, cells, (view, WindowView("day", "1d")))
    board = Board()
    store = SqliteStore(None, results_retention_windows=1, max_dead_letters=1)
    server = Server(board, store, "127.0.0.1", 0, 1_000)
    url = f"http://127.0.0.1:{server.start()}/api/v1/explanations"

    def get(query: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(url + query, timeout=10) as answer:  # noqa: S310
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    assert get("") == (200, {"explanations": []})  # before the first snapshot
    service = ServiceView(version="0", source="s", ready=True, heartbeat=0, watermark=5 * HOUR)
    board.publish(Snapshot(service, (model,), ()))
    yield get
    server.stop()
    store.close()


def entries(get: Get, query: str = "") -> dict[tuple[str, str], Any]:
    code, answer = get(query)
    assert code == 200
    return {(e["feature"], e["state"]): e for e in answer["explanations"]}


def test_every_change_and_note_is_told_and_nothing_else(get: Get) -> None:
    found = entries(get)
    assert list(found) == [("", "closed"), ("colour/shade", "closed"), ("size", "filling")]
    assert found["", "closed"]["notes"] == {"realized_performance": "scores broke"}
    assert found["", "closed"]["changes"] == []
    colour = found["colour/shade", "closed"]
    assert colour["notes"] == {"drift": "grey is new"}
    assert (colour["rows"], colour["window_end"]) == (100, "1970-01-01T05:00:00Z")
    assert [c["label"] for c in colour["changes"]] == ["unseen", "red"]
    p, q = np.array([0.6, 0.4, 0.0]), np.array([0.2, 0.4, 0.4])
    m = (p + q) / 2
    unseen = 0.4 * np.log2(0.4 / m[2]) / 2
    explains = unseen / jensenshannon(p, q, base=2) ** 2
    assert colour["changes"][0]["explains"] == pytest.approx(explains, rel=1e-9)
    assert colour["changes"][1] | {"explains": 0} == {
        "label": "red", "reference": 0.6, "window": 0.2, "explains": 0,
    }  # fmt: skip


def test_parameters_choose(get: Get) -> None:
    assert list(entries(get, "?feature=size")) == [("size", "filling")]
    assert len(entries(get, "?feature=size,colour/shade&window=hour&model=m&segment=")) == 2
    assert entries(get, "?window=day") == {}


def test_an_unknown_parameter_is_refused_by_name(get: Get) -> None:
    code, answer = get("?features=size")
    assert code == 400
    assert answer["error"] == "features: there are model, version, segment, window, feature"
