"""Labels that come late in every way there is, and what must follow, worked out one by one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from stream_monitor.batch import Decoded
from stream_monitor.config.model import Config
from stream_monitor.decode.labels import LabelDecoder
from stream_monitor.decode.native import NativeDecoder
from stream_monitor.labels.rows import origins
from stream_monitor.panes.partition import Partition
from stream_monitor.panes.windows import Window
from stream_monitor.pipeline import Pipeline
from stream_monitor.sources.base import Records
from stream_monitor.watch import Watched
from stream_monitor.watch_outcome import Outcomes, watch_outcomes
from tests import worlds

Json = dict[str, Any]
Piece = tuple[str, str, list[tuple[int, bytes]]]  # events or labels, partition, (offset, payload)


@dataclass(frozen=True)
class Stream:
    """Events and labels as JSON objects, in the order of their records."""

    events: list[Json]
    labels: list[Json]


def stream(rows: int, seed: int, *, own: bool = True, seconds: float = 10.0) -> Stream:
    """Events of :mod:`tests.worlds` whose labels come by a heavy-tailed law.

    Shuffled; 5 % twice, 2 % corrected, 3 % never. With ``own`` also ids that occur twice, events
    without one, and labels within events.
    """
    rng = np.random.default_rng(seed)
    events = [orjson.loads(line) for line in worlds.events(rows, seed, seconds=seconds)]
    labels: list[Json] = []
    for i, event in enumerate(events):
        label, ts = event.pop("label"), event["ts"]
        if own and i % 50 == 7:
            event["label"] = label
        if own and i % 60 == 11:
            event["id"] = None
            continue
        if rng.random() < 0.03:
            continue
        delay = float(rng.pareto(1.1) * 300)
        made = {"id": event["id"], "model": "loans", "ts": ts + delay, "label": label}
        labels.append(made)
        if rng.random() < 0.05:
            labels.append(made | {"ts": ts + delay + float(rng.random() * 600)})
        elif rng.random() < 0.02:
            labels.append(made | {"ts": ts + delay + 60, "label": 1 - label})
    if own:
        again = [e | {"ts": e["ts"] + 1_000, "score": 0.5} for e in events[::40] if e["id"]]
        events = sorted([*events, *again], key=lambda e: e["ts"])
    order = rng.permutation(len(labels))
    return Stream(events, [labels[i] for i in order])


def effective(found: Stream) -> list[tuple[Json, Json | None]]:
    """Each prediction that counts, with the label that counts or None: dictionaries, one by one."""
    first: dict[Any, Json] = {}
    bare = []
    for event in found.events:  # the earlier record is the earlier one in time, too
        if event["id"] is None:
            bare.append(event)
        elif event["id"] not in first or event["ts"] < first[event["id"]]["ts"]:
            first[event["id"]] = event
    last: dict[Any, Json] = {}
    own = [
        {"id": e["id"], "ts": e["ts"], "label": e["label"]}
        for e in found.events
        if e.get("label") is not None and e["id"] is not None
    ]
    for label in [*own, *found.labels]:
        known = last.get(label["id"])
        if known is None or label["ts"] > known["ts"]:
            last[label["id"]] = label
    pairs = [(event, last.get(name)) for name, event in first.items()]
    return pairs + [
        (e, {"ts": e["ts"], "label": e["label"]} if e.get("label") is not None else None)
        for e in bare
    ]


def opened(
    config: Config, watched: list[Watched], windows: tuple[Window, ...], **kept: Any
) -> tuple[Pipeline, Outcomes]:
    """A pipeline with its outcomes, in memory."""
    outcomes = watch_outcomes(config, watched, windows, "test", **kept)
    assert outcomes is not None
    return Pipeline(watched, windows, config, outcomes), outcomes


class Feeder:
    """Hands pieces of a stream to a pipeline, as the service does."""

    def __init__(self, config: Config, watched: list[Watched], pipeline: Pipeline) -> None:
        assert config.labels is not None
        self._pipeline = pipeline
        self._events = NativeDecoder(config.mapping, [m.target for m in watched], 2**20)
        self._labels = LabelDecoder(config.labels.mapping, {"loans": False}, 2**20)

    def feed(self, pieces: Iterable[Piece]) -> None:
        for kind, name, records in pieces:
            chosen = Records(
                name,
                [payload for _, payload in records],
                [str(offset) for offset, _ in records],
                "0",
                offsets=np.array([offset for offset, _ in records], dtype=np.int64),
            )
            pipeline = self._pipeline
            number = Partition(name).number
            if kind == "events":
                partition = pipeline.partitions.setdefault(name, Partition(name))
                decoded: Decoded = self._events.decode(chosen)
                for batch in decoded.batches.values():
                    batch.origin = origins(number, chosen.offsets, batch.record)
                pipeline.ingest(partition, decoded)
            else:
                partition = pipeline.label_partitions.setdefault(name, Partition(name))
                labels = self._labels.decode(chosen)
                for own in labels.batches.values():
                    own.origin = origins(number, chosen.offsets, own.record)
                pipeline.ingest_labels(partition, labels)


def lines(found: list[Json]) -> list[tuple[int, bytes]]:
    """Offsets and payloads."""
    return [(i, orjson.dumps(one)) for i, one in enumerate(found)]


def labels_config(**options: Any) -> dict[str, Any]:
    """A section in which nothing expires while a test runs."""
    return {"maturities": ["10m", "2h", "30d"], "allowed_lateness": "30d"} | options
