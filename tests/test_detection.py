"""Detectors in the service: fed pane by pane, the same in a backtest and over restarts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from river import drift

from stream_monitor.backtest import backtest
from stream_monitor.config.model import Config
from stream_monitor.decode.native import NativeDecoder
from stream_monitor.errors import ConfigError
from stream_monitor.panes.partition import Partition
from stream_monitor.pipeline import Pipeline
from stream_monitor.store.base import ChunkKey
from stream_monitor.values import WindowResult
from stream_monitor.watch import watch
from tests import worlds
from tests.test_laws import records

HOURS = 120
DETECTORS = [
    {"name": "mean", "method": "page_hinkley", "series": "statistics/mean/ratio"},
    {"name": "outliers", "method": "adwin", "series": "outliers/outlier_score"},
    {"name": "errors", "method": "ddm", "series": "error"},
]


def stream() -> list[bytes]:
    """120 hours of 120 events; from hour 70 on ratios are larger, from hour 90 on labels turn."""
    rng = np.random.default_rng(3)
    lines = []
    for i, line in enumerate(worlds.events(HOURS * 120, 3, seconds=30)):
        event = orjson.loads(line)
        if i >= 70 * 120:
            event["features"]["ratio"] = min(event["features"]["ratio"] + 0.3, 1.0)
        if i >= 90 * 120 and rng.random() < 0.5:
            event["label"] = 1 - event["label"]
        lines.append(orjson.dumps(event))
    return lines


STREAM = stream()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    world = worlds.build(tmp_path_factory.mktemp("world"))
    (world.folder / "events.jsonl").write_bytes(b"\n".join(STREAM))
    return world.config(
        windows=[{"name": "half_day", "size": "12h", "every": "1h"}], detectors=DETECTORS
    )


def detections(results: list[WindowResult]) -> dict[tuple[int, str], float]:
    return {
        (r.index, v.metric): v.value for r in results for v in r.values if v.family == "detectors"
    }


def run_live(config: Config, cuts: list[int]) -> dict[tuple[int, str], float]:
    """As the service does, with a restart at each cut."""
    watched, windows = watch(config, "test")
    decoder = NativeDecoder(config.mapping, [m.target for m in watched], 2**20)
    pipeline = Pipeline(watched, windows, config)
    partition = pipeline.partitions["p"] = Partition("p")
    shapes = {key: shape for m in watched for key, shape in m.shapes.items()}
    found: dict[tuple[int, str], float] = {}
    stored: dict[ChunkKey, bytes] = {}
    edges = sorted({*range(0, len(STREAM), 500), *cuts, len(STREAM)})
    for start, end in pairwise(edges):
        chosen = [(line, 0) for line in STREAM[start:end]]
        decoded = decoder.decode(records("p", chosen))
        for batch in decoded.batches.values():
            batch.arrival[:] = batch.event_time
        pipeline.ingest(partition, decoded)
        found |= detections(pipeline.close())
        if end in cuts:
            state, service = partition.checkpoint(), pipeline.publisher.state()
            stored |= state.chunks
            state.chunks = {k: v for k, v in stored.items() if k.pane not in state.dropped}
            pipeline = Pipeline(watched, windows, config)
            pipeline.publisher.restore(service)
            partition = pipeline.partitions["p"] = Partition.restored("p", state, shapes)
    return found


def test_detectors_find_the_change_and_nothing_before(config: Config) -> None:
    watched, windows = watch(config, "test")
    path = Path(str(config.models[0].reference)).parent / "events.jsonl"
    results, _ = backtest([path], config, watched, windows, lambda _: None)
    found = detections(results)
    assert {name for _, name in found} == {"mean", "outliers", "errors"}
    # DDM is known to take a first error for drift, so only what it finds later says something
    for name, onset, since in (("mean", 70, 0), ("outliers", 70, 0), ("errors", 90, 20)):
        found_in = [i for (i, n), value in found.items() if n == name and value and i > since]
        # the first window with a detection ends 12 panes after its beginning
        assert found_in, name
        assert onset < min(found_in) + 12 < onset + 40, name
    flagged = [v for r in results for v in r.values if v.family == "detectors" and v.alert]
    assert flagged
    assert all(v.value > 0 for v in flagged)


def test_a_restart_anywhere_gives_the_same_detections(config: Config) -> None:
    whole = run_live(config, [])
    rng = np.random.default_rng(1)
    for _ in range(3):
        cuts = sorted(rng.integers(1, len(STREAM), 6).tolist())
        assert run_live(config, cuts) == whole
    assert sum(whole.values()) > 0


def test_event_errors_are_those_of_river_alone(config: Config) -> None:
    ddm: Any = drift.binary.DDM()
    found = []
    for i, line in enumerate(STREAM):
        event = orjson.loads(line)
        ddm.update(event["prediction"] != event["label"])
        if ddm.drift_detected:
            found.append(i // 120)
    per_window = run_live(config, [])
    for index in range(HOURS - 13):
        within = sum(index <= pane < index + 12 for pane in found)
        assert per_window[index, "errors"] == within


def test_a_detector_of_what_is_not_measured_is_refused(config: Config) -> None:
    folder = Path(str(config.models[0].reference)).parent
    wrong: dict[str, Any] = {"name": "x", "method": "adwin", "series": "statistics/mean/nothing"}
    other = worlds.World(folder, watch(config, "test")[0][0].profile).config(detectors=[wrong])
    with pytest.raises(ConfigError, match=r"detectors\[0\]\.series.*has in statistics/mean only"):
        watch(other, "test")
