"""Whenever a replica is told to stop, what it has committed is whole."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stream_monitor.assembly import furnish, open_copy
from stream_monitor.config.model import KafkaStore
from stream_monitor.panes.partition import Partition
from stream_monitor.pipeline import ACCEPTED
from stream_monitor.replica import Replica
from stream_monitor.store.kafka.topics import Topics
from stream_monitor.store.kafka.transactions import Transactions
from stream_monitor.store.kafka.worker import WorkerStore
from stream_monitor.watch import watch
from tests import worlds
from tests.bench.running import Board
from tests.kafka_broker import ExternalBroker, KafkaBroker

ROUNDS, A_ROUND = 14, 100  # stops, each at a later question; events before each


class Told(threading.Event):
    """Is set from its n-th question on."""

    def __init__(self, questions: int) -> None:
        super().__init__()
        self._left = questions

    def is_set(self) -> bool:
        self._left -= 1
        return self._left <= 0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> worlds.World:
    return worlds.build(tmp_path_factory.mktemp("stops"))


@pytest.fixture
def sections(kafka_broker: KafkaBroker | ExternalBroker, tmp_path: Path) -> dict[str, Any]:
    """Of a worker that tails a file, and commits in every round."""
    return {
        "source": {"type": "follow", "path": str(tmp_path / "events.jsonl")},
        "store": {
            "type": "kafka",
            "bootstrap_servers": kafka_broker.bootstrap_servers,
            "prefix": f"stops-{time.time_ns()}",
            "instance": "pod",
            "commit_interval": "1ms",
        },
        "role": "worker",
    }


def test_a_stop_at_any_moment_leaves_what_was_committed_whole(
    world: worlds.World, sections: dict[str, Any], tmp_path: Path
) -> None:
    config = world.config(**sections)
    assert isinstance(config.store, KafkaStore)
    watched, windows = watch(config, "test")
    events = worlds.events(ROUNDS * A_ROUND, 5, seconds=1.0)
    log = tmp_path / "events.jsonl"
    log.write_bytes(b"")
    seen: set[int] = set()
    for number in range(ROUNDS):
        with log.open("ab") as file:
            file.writelines(e + b"\n" for e in events[number * A_ROUND : (number + 1) * A_ROUND])
        replica = Replica(config, Board())
        with ExitStack() as stack:
            furnish(
                replica,
                config,
                config.store,
                "test",
                watched=watched,
                windows=windows,
                outcomes=None,
                copy=open_copy(config, stack),
                timed=lambda _step: nullcontext(),
            )
            replica.run(Told(number + 1))
        partition = restored(
            config, f"pod!{log}", {k: s for m in watched for k, s in m.shapes.items()}
        )
        model = watched[0].key
        counts = [pane.counts[0] for key, pane in partition.panes.items() if key.model == model]
        accepted = sum(partition.counters.get(ACCEPTED, {}).values())
        assert np.sum(counts, dtype=int) == accepted
        seen.add(accepted)
    assert 0 in seen  # stopped before anything was committed
    assert max(seen) > ROUNDS * A_ROUND / 2


def restored(config: Any, name: str, shapes: Any) -> Partition:
    """What a successor would find."""
    options = {"bootstrap_servers": config.store.bootstrap_servers}
    transactions = Transactions(options, f"test-{time.time_ns()}", 5_000_000)
    store = WorkerStore(Topics.of(config, config.store), options, transactions, None, lambda: None)
    try:
        (state,) = store.restore([name]).values()
    finally:
        store.close()
    return Partition(name) if state is None else Partition.restored(name, state, shapes)
