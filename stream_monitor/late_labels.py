"""Labels from files that come after their events: what ``backtest --labels`` replays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stream_monitor.batch import Reject
from stream_monitor.config.model import Config, LabelMapping, LabelsConfig
from stream_monitor.decode.base import Target
from stream_monitor.decode.label_batch import DecodedLabels, LabelBatch
from stream_monitor.decode.label_rows import decode_table
from stream_monitor.decode.labels import LabelDecoder
from stream_monitor.labels.rows import origins
from stream_monitor.panes.partition import Partition
from stream_monitor.pipeline import Pipeline
from stream_monitor.schema import TARGET, IntArray, Kind
from stream_monitor.sources.files import FilesSource
from stream_monitor.tables import read_chunks

LABELS = "labels"  # the name of the partition
_BLOCK = 8_192
Progress = Callable[[float], None]


class LateLabels:
    """The labels of some files in the order in which they came, in memory."""

    def __init__(
        self, paths: list[Path], config: Config, targets: list[Target], progress: Progress
    ) -> None:
        mapping = (config.labels or LabelsConfig()).mapping
        kinds = {
            target.name: column.continuous
            for target in targets
            for column in target.schema.columns
            if column.name == TARGET
        }
        boolean = {
            target.name
            for target in targets
            for column in target.schema.columns
            if column.name == TARGET and column.kind is Kind.BOOLEAN
        }
        parts: dict[str, list[LabelBatch]] = {}
        self._rejects: list[Reject] = []
        for i, path in enumerate(paths):
            read = _Reader(mapping, kinds, boolean, config.limits.max_record_size)
            for decoded in read(path):
                self._rejects += decoded.rejects
                for name, batch in decoded.batches.items():
                    parts.setdefault(name, []).append(batch)
            progress((i + 1) / len(paths))
        self._batches = {name: LabelBatch.joined(some) for name, some in parts.items()}
        for name, batch in self._batches.items():
            self._batches[name] = batch.take(np.argsort(batch.arrival, kind="stable"))
        empty = np.empty(0, dtype=np.int64)
        every = [batch.arrival for batch in self._batches.values()]
        self._arrivals = np.sort(np.concatenate([empty, *every]))
        self._done: dict[str, int] = {}

    def begin(self, pipeline: Pipeline) -> None:
        """From the first label on."""
        self._done = dict.fromkeys(self._batches, 0)
        partition = pipeline.label_partitions[LABELS] = Partition(LABELS)
        pipeline.ingest_labels(partition, DecodedLabels({}, self._rejects))

    def feed(self, pipeline: Pipeline, until: int | None) -> bool:
        """Labels that came until a time, or the next ones; False if there are no more."""
        partition = pipeline.label_partitions[LABELS]
        done = sum(self._done.values())
        if until is None:
            if done == len(self._arrivals):
                return False
            until = int(self._arrivals[min(done + _BLOCK, len(self._arrivals)) - 1])
        some = {}
        for name, batch in self._batches.items():
            end = int(np.searchsorted(batch.arrival, until, side="right"))
            if end > self._done[name]:
                some[name] = batch.take(np.arange(self._done[name], end))
                self._done[name] = end
        pipeline.ingest_labels(partition, DecodedLabels(some, []))
        partition.advance(until)  # a time without labels has passed, too
        return True


@dataclass(frozen=True, slots=True)
class _Reader:
    mapping: LabelMapping
    kinds: dict[str, bool]
    boolean: set[str]
    limit: int

    def __call__(self, path: Path) -> Iterator[DecodedLabels]:
        """The labels of a file, with what orders their records."""
        if path.suffix in (".parquet", ".csv"):
            row = 0
            for chunk in read_chunks([path]):
                decoded = decode_table(chunk, self.mapping, self.kinds, self.boolean)
                yield _ordered(decoded, np.arange(row, row + chunk.rows))
                row += chunk.rows
            return
        decoder = LabelDecoder(self.mapping, self.kinds, self.limit)
        source = FilesSource(str(path), max_record_size=self.limit)
        source.seek(str(path), None)
        source.poll(0.0)
        while not (poll := source.poll(0.0)).finished:
            for records in poll.records:
                yield _ordered(decoder.decode(records), records.offsets)


def _ordered(decoded: DecodedLabels, offsets: IntArray) -> DecodedLabels:
    for batch in decoded.batches.values():
        batch.origin = origins(0, offsets, batch.record)
    return decoded
