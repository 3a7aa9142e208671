"""From batches to join rows: the part of the join that is done where events and labels are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from stream_monitor.batch import ColumnBatch
from stream_monitor.decode.ids import keyed
from stream_monitor.decode.label_batch import LabelBatch
from stream_monitor.hashing import splitmix64
from stream_monitor.labels.outcome import OutcomeCounter
from stream_monitor.labels.rows import LABEL, Rows
from stream_monitor.methods.base import Addends
from stream_monitor.panes.count import Slots
from stream_monitor.panes.partition import Partition
from stream_monitor.schema import IntArray

LATE = "labels_late"


class Sink(Protocol):
    """Where join rows go: a join in this process, or the topic that carries them to one."""

    def predictions(
        self, index: int, rows: Rows, known: Mapping[str, Addends] | None = None
    ) -> None:
        """Rows of a model's events; ``known`` are its blocks' addends of these rows."""

    def labels(self, name: str, rows: Rows) -> None:
        """Rows of labels of a model name."""


class Router:
    """Makes rows of counted events and of labels.

    ``models`` are name and counter of the models with outcomes, by index.
    """

    def __init__(
        self, models: Mapping[int, tuple[str, OutcomeCounter]], lateness: int, sink: Sink
    ) -> None:
        self._models = models
        self._lateness = lateness
        self.sink = sink

    def unlabelled(self, index: int, batch: ColumnBatch) -> ColumnBatch:
        """The same events for the input panes, which know no labels."""
        if index not in self._models:
            return batch
        return self._models[index][1].unlabelled(batch)

    def predictions(
        self, index: int, batch: ColumnBatch, slots: Slots, number: IntArray | None
    ) -> None:
        """Take counted events of a model; ``number`` is their place on the clock of rows."""
        if index not in self._models:
            return
        name, counter = self._models[index]
        keys = keyed(batch.ids, name)
        bare = ~keys.any(axis=1)
        # what has no id is joined to nothing, but read twice it must not count twice
        keys[bare, 0] = splitmix64(batch.origin[bare])
        keys[bare, 1] = splitmix64(batch.event_time[bare].astype(np.uint64))
        rows = counter.rows(batch, slots, keys, number)
        self.sink.predictions(index, rows, slots.blocks)
        events, values = counter.labels_of(batch)
        if len(events):
            own = rows[events]
            self.sink.labels(name, _label_rows(keys[events], own["time"], own["origin"], values))

    def labels(self, partition: Partition, name: str, batch: LabelBatch) -> None:
        """Take labels of a model name that came in a partition."""
        late = batch.arrival - batch.time > self._lateness
        partition.tally(LATE, name, int(late.sum()))
        batch = batch.take(np.flatnonzero(~late))
        self.sink.labels(name, _label_rows(batch.keys, batch.time, batch.origin, batch.value))


def _label_rows(keys: Any, time: IntArray, origin: Any, value: Any) -> Rows:
    rows = np.zeros(len(time), dtype=LABEL)
    rows["high"], rows["low"] = keys[:, 0], keys[:, 1]
    rows["time"], rows["origin"], rows["value"] = time, origin, value
    return rows
