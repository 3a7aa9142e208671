"""The laws that everything leans on: the same events give the same integers, whatever the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_monitor.decode.native import NativeDecoder
from stream_monitor.panes.partition import Partition, Shape
from stream_monitor.pipeline import Pipeline
from stream_monitor.schema import IntArray
from stream_monitor.sources.base import Records
from stream_monitor.store.base import ChunkKey, PaneKey, PartitionState
from stream_monitor.watch import Watched, watch
from tests import worlds

LATENESS, SKEW = 600, 300  # seconds


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Watched], Any, Any]:
    segments = [{"by": ["channel", "member"], "most": 3}, {"by": ["member"]}]
    world = worlds.build(tmp_path_factory.mktemp("world"), segments=segments)
    config = world.config(
        windows=[{"name": "hour", "size": "1h", "every": "10m"}],
        time={"allowed_lateness": f"{LATENESS}s", "allowed_skew": f"{SKEW}s"},
    )
    models, windows = watch(config, "test")
    return models, windows, config


def hostile_events() -> list[tuple[bytes, int]]:
    """Good events and every kind of bad one, with record timestamps in microseconds."""
    rng = np.random.default_rng(5)
    found = []
    for i, good in enumerate(worlds.events(400, 3)):
        arrival = (
            worlds.START + i * 10 + float(rng.choice([0, 1, 500, LATENESS, 1_200, -200, -900]))
        )
        event = orjson.loads(good)
        match i % 40:
            case 3:
                event["features"]["income"] = "much"
            case 7:
                event["features"]["channel"] = f"new-{i}"
            case 11:
                event["model"] = "nobody's"
            case 13:
                del event["ts"]
            case 19:
                event["features"]["age"] = 1e300
        line = good[:-20] if i % 40 == 17 else orjson.dumps(event)
        found.append((line, round(arrival * 1e6)))
    return found


HOSTILE = hostile_events()


def records(name: str, chosen: list[tuple[bytes, int]]) -> Records:
    return Records(
        name,
        [payload for payload, _ in chosen],
        [str(i) for i in range(len(chosen))],
        "0",
        np.array([stamp for _, stamp in chosen], dtype=np.int64),
    )


def outcome(pipeline: Pipeline) -> tuple[dict[PaneKey, IntArray], dict[str, Counter[str]]]:
    """All panes and counters, summed over the partitions."""
    panes: dict[PaneKey, IntArray] = {}
    counters: dict[str, Counter[str]] = {}
    for partition in pipeline.partitions.values():
        for key, pane in partition.panes.items():
            panes[key] = panes.get(key, 0) + pane.counts
        for what, counter in partition.counters.items():
            counters.setdefault(what, Counter()).update(counter)
    return panes, {what: +counter for what, counter in counters.items() if +counter}


def same(one: Any, other: Any) -> bool:
    panes, counters = one
    others, other_counters = other
    return (
        counters == other_counters
        and panes.keys() == others.keys()
        and all(np.array_equal(panes[k], others[k]) for k in panes)
    )


def run(
    setup: tuple[list[Watched], Any, Any], batches: Iterator[tuple[str, list[tuple[bytes, int]]]]
) -> Pipeline:
    models, windows, config = setup
    pipeline = Pipeline(models, windows, config)
    decoder = NativeDecoder(config.mapping, [m.target for m in models], 2**20)
    for name, chosen in batches:
        partition = pipeline.partitions.setdefault(name, Partition(name))
        pipeline.ingest(partition, decoder.decode(records(name, chosen)))
    return pipeline


def test_one_pass_accounts_for_every_event(watched: Any) -> None:
    pipeline = run(watched, iter([("p", HOSTILE)]))
    _, counters = outcome(pipeline)
    assert sum(c.total() for c in counters.values()) == len(HOSTILE)
    assert set(counters["rejected"]) == {"unknown_model", "missing_field", "not_json", "clock_skew"}
    assert counters["late"].total() > 10


@settings(max_examples=40, deadline=None)
@given(
    partition_of=st.lists(st.integers(0, 3), min_size=len(HOSTILE), max_size=len(HOSTILE)),
    sizes=st.lists(st.integers(1, 90), min_size=1, max_size=30),
    data=st.data(),
)
def test_any_partitioning_batching_and_order_of_partitions_give_the_same_integers(
    watched: Any, partition_of: list[int], sizes: list[int], data: st.DataObject
) -> None:
    whole = outcome(run(watched, iter([("p", HOSTILE)])))
    queues = {
        f"p{k}": [e for e, p in zip(HOSTILE, partition_of, strict=True) if p == k] for k in range(4)
    }

    def batches() -> Iterator[tuple[str, list[tuple[bytes, int]]]]:
        turn = 0
        while any(queues.values()):
            name = data.draw(st.sampled_from([n for n, q in queues.items() if q]))
            size = sizes[turn % len(sizes)]
            turn += 1
            yield name, queues[name][:size]
            del queues[name][:size]

    assert same(outcome(run(watched, batches())), whole)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, len(HOSTILE)), max_size=5))
def test_a_restart_at_any_record_gives_the_same_integers(watched: Any, cuts: list[int]) -> None:
    models, windows, config = watched
    whole = outcome(run(watched, iter([("p", HOSTILE)])))
    shapes = {key: shape for m in models for key, shape in m.shapes.items()}
    decoder = NativeDecoder(config.mapping, [m.target for m in models], 2**20)
    stored: PartitionState | None = None
    chunks: dict[ChunkKey, bytes] = {}
    edges = [0, *sorted(cuts), len(HOSTILE)]
    for start, end in pairwise(edges):
        pipeline = Pipeline(models, windows, config)
        if stored is not None:
            stored.chunks = dict(chunks)
            partition = Partition.restored("p", stored, shapes)
        else:
            partition = Partition("p")
        pipeline.partitions["p"] = partition
        if end > start:
            pipeline.ingest(partition, decoder.decode(records("p", HOSTILE[start:end])))
        stored = partition.checkpoint()
        chunks |= stored.chunks
    assert same(outcome(pipeline), whole)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_adding_panes_is_associative_commutative_and_has_zero(seed: int) -> None:
    rng = np.random.default_rng(seed)
    key = PaneKey("m", "time", 0)
    a, b, c = (rng.integers(0, 2**40, 5_000) for _ in range(3))

    def total(*parts: IntArray) -> IntArray:
        partition = Partition("p")
        for part in parts:
            partition.add(key, part, 0, 1)
        return partition.panes[key].counts

    zero = np.zeros(5_000, dtype=np.int64)
    assert np.array_equal(total(a, b, c), a + b + c)
    assert np.array_equal(total(c, a, b), total(a, b, c))
    assert np.array_equal(total(total(a, b), c), total(a, total(b, c)))
    assert np.array_equal(total(a, zero), a)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 10_000),
    high=st.sampled_from([1, 255, 256, 65_535, 65_536, 2**32, 2**62]),
)
def test_a_checkpoint_restores_every_count(seed: int, size: int, high: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, high, size, endpoint=True) * (rng.random(size) < 0.1)
    key = PaneKey("m", "time", 7)
    partition = Partition("p")
    partition.position, partition.progress = "12", 99
    partition.add(key, counts, 3, 4)
    partition.tally("accepted", "m", 5)
    restored = Partition.restored("p", partition.checkpoint(), {"m": Shape(size, {})})
    pane = restored.panes[key]
    assert np.array_equal(pane.counts, counts)
    assert (pane.first, pane.last) == (3, 4)
    assert (restored.position, restored.progress) == ("12", 99)
    assert restored.counters == {"accepted": Counter({"m": 5})}


def test_panes_of_another_reference_are_left_behind_and_dropped(tmp_path: Path) -> None:
    partition = Partition("p")
    key = PaneKey("old", "time", 1)
    partition.add(key, np.ones(10, dtype=np.int64), 0, 1)
    restored = Partition.restored("p", partition.checkpoint(), {"new": Shape(12, {})})
    assert restored.panes == {}
    assert restored.checkpoint().dropped == [key]
