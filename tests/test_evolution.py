"""References change: a new one runs beside the old, is switched to, and never mixes with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stream_monitor.config.load import parse_config
from stream_monitor.errors import ConfigError
from stream_monitor.watch import watch
from tests import worlds
from tests.service import Service

HOUR = 360  # events
Row = dict[str, Any]


def write(path: Path, first: int, last: int) -> None:
    """The events of some hours."""
    lines = worlds.events(8 * HOUR, 3, seconds=10.0)[first * HOUR : last * HOUR]
    with path.open("ab") as file:
        file.write(b"".join(line + b"\n" for line in lines))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, seed in (("old", 1), ("new", 2)):
        (tmp_path / name).mkdir()
        worlds.build(tmp_path / name, seed=seed)
    return tmp_path


def entry(name: str, **more: Any) -> Row:
    return {"name": "loans", "version": "1", "reference": f"{name}/loans.ref", **more}


def config(*models: Row) -> dict[str, Any]:
    return worlds.raw_config(
        models=list(models),
        source={"type": "follow", "path": "events.jsonl"},
        time={"allowed_lateness": "0s"},
    )


def rows(service: Service, version: str) -> dict[tuple[Any, ...], Row]:
    """The values of closed windows of whole traffic."""
    found = service.get(f"/api/v1/windows?state=closed&version={version}")["windows"]
    return {(r["window_end"], r["feature"], r["family"], r["metric"]): r for r in found}


def closed(service: Service, version: str, windows: int) -> bool:
    return len({key[0] for key in rows(service, version)}) == windows


def values(found: dict[tuple[Any, ...], Row]) -> dict[tuple[Any, ...], Any]:
    return {k: (r["value"], r["upper_threshold"]) for k, r in found.items()}


def test_a_candidate_is_measured_beside_and_goes_on_when_it_is_switched_to(folder: Path) -> None:
    write(folder / "events.jsonl", 0, 4)
    both = config(entry("old"), entry("new", candidate=True))
    with Service(folder, both) as service:
        service.wait_for("three hours", lambda: closed(service, "1%2Bcandidate", 3))
        old, candidate = rows(service, "1"), rows(service, "1%2Bcandidate")
        assert old.keys() == candidate.keys()
        assert values(old) != values(candidate)
        # it has thresholds, and is judged by nobody
        assert any(row["upper_threshold"] is not None for row in candidate.values())
        assert any(row["alert"] is not None for row in old.values())
        assert all(row["alert"] is None for row in candidate.values())
        assert 'drift_alert{model="loans",version="1+candidate"' not in service.text("/metrics")
        assert service.stop() == 0
    write(folder / "events.jsonl", 4, 8)
    with Service(folder, config(entry("new"))) as service:
        # the hour that was half full when the references changed is whole: it had been counted
        service.wait_for("seven hours", lambda: closed(service, "1", 7))
        after = rows(service, "1")
        ends = sorted({key[0] for key in after})
        numbers = [next(r["window_index"] for k, r in after.items() if k[0] == end) for end in ends]
        assert numbers == list(range(7))
        assert {r["rows"] for r in after.values()} == {HOUR}
        assert service.stop() == 0
    # what the new one says is what it says where it was there from the start
    alone = folder / "alone"
    alone.mkdir()
    write(alone / "events.jsonl", 0, 8)
    models = [entry("new") | {"reference": str(folder / "new" / "loans.ref")}]
    with Service(alone, config(*models)) as service:
        service.wait_for("seven hours", lambda: closed(service, "1", 7))
        expected = rows(service, "1")
    last = ends[3:]
    assert values({k: r for k, r in after.items() if k[0] in last}) == values(
        {k: r for k, r in expected.items() if k[0] in last}
    )
    first = ends[:3]
    assert values({k: r for k, r in expected.items() if k[0] in first}) == values(candidate)


def test_another_reference_begins_anew_and_goes_on_numbering(folder: Path) -> None:
    write(folder / "events.jsonl", 0, 4)
    with Service(folder, config(entry("old"))) as service:
        service.wait_for("three hours", lambda: closed(service, "1", 3))
        old = rows(service, "1")
        assert service.stop() == 0
    write(folder / "events.jsonl", 4, 8)
    with Service(folder, config(entry("new"))) as service:
        service.wait_for("six windows", lambda: closed(service, "1", 6))
        found = rows(service, "1")
        # none of the old reference's counts: the hour in which it changed has no whole window
        assert values({k: found[k] for k in old}) == values(old)
        assert {r["rows"] for r in found.values()} == {HOUR}
        assert service.accepted() == 4 * HOUR


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([entry("new", candidate=True)], "there is no entry of this name and version without it"),
        (
            [entry("old"), entry("new", candidate=True), entry("new", candidate=True)],
            "each name and version may stand here once, and once as `candidate`",
        ),
        ([entry("old"), entry("old", candidate=True)], "it is the very reference that is in use"),
    ],
)
def test_what_a_candidate_must_be(folder: Path, models: list[Row], message: str) -> None:
    raw = worlds.raw_config(models=models)
    with pytest.raises(ConfigError, match=message):
        watch(parse_config(raw, place="test", folder=folder), "test")
