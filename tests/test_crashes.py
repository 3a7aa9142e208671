"""Killed with -9 at random record offsets and started again: the same windows as undisturbed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests import worlds
from tests.service import Service

EVENTS = 6_000
KILLS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crash")
    worlds.build(folder)
    return folder


def config(**sections: Any) -> dict[str, Any]:
    return worlds.raw_config(
        windows=[
            {"name": "hour", "size": "1h"},
            {"name": "sliding", "size": "2h", "every": "30m"},
        ],
        **sections,
    )


def windows(service: Service) -> list[dict[str, Any]]:
    return list(service.get("/api/v1/windows")["windows"])


def test_a_followed_file_survives_twenty_kills(folder: Path) -> None:
    lines = worlds.events(EVENTS, 9, shift=0.1)
    (folder / "whole.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    quiet = config(
        source={"type": "follow", "path": "whole.jsonl"}, store={"path": "undisturbed.db"}
    )
    with Service(folder, quiet) as service:
        service.wait_for("all events", lambda: service.accepted() == EVENTS)
        service.wait_for("the windows", lambda: len(windows(service)) > 0)
        assert service.stop() == 0
    with Service(folder, quiet) as service:
        service.wait_for("the state", lambda: service.accepted() == EVENTS)
        expected = windows(service)

    log = folder / "growing.jsonl"
    log.touch()
    shaken = config(
        source={"type": "follow", "path": log.name},
        store={"path": "shaken.db", "commit_interval": "20ms"},
    )
    service = Service(folder, shaken)
    choose = random.Random(20)  # noqa: S311 - a seeded test, no secret
    cuts = sorted(choose.sample(range(1, EVENTS), KILLS))
    written = 0
    with log.open("ab", buffering=0) as file:
        for cut in cuts:
            file.write(b"\n".join(lines[written:cut]) + b"\n")
            written = cut
            service.start()
            wanted = choose.randrange(service_floor(cut), cut)
            service.wait_for("some events", lambda n=wanted: service.accepted() >= n)
            service.kill()
        file.write(b"\n".join(lines[written:]) + b"\n")
    with service:
        service.wait_for("all events", lambda: service.accepted() == EVENTS)
        service.wait_for("the same windows", lambda: windows(service) == expected)


def service_floor(cut: int) -> int:
    """Events that the service must have counted before it is killed: anything up to the cut."""
    return max(0, cut - 300)
