"""A backtest: files through the same decoder, pipeline and methods as the live service."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from msgspec.structs import astuple

from stream_monitor.batch import ColumnBatch, Decoded, concatenate
from stream_monitor.config.model import Config
from stream_monitor.decode.native import NativeDecoder
from stream_monitor.decode.table import TableDecoder
from stream_monitor.labels.rows import origins
from stream_monitor.labels.table import LabelTable
from stream_monitor.late_labels import LABELS, LateLabels
from stream_monitor.panes.partition import Partition
from stream_monitor.panes.windows import Window
from stream_monitor.pipeline import ACCEPTED, EXPIRED, LATE, REJECTED, Pipeline
from stream_monitor.schema import IntArray
from stream_monitor.sources.files import FilesSource
from stream_monitor.tables import read_chunks
from stream_monitor.values import (
    COLUMNS,
    WINDOW_COLUMNS,
    Value,
    WindowResult,
    rows_of,
    window_cells,
)
from stream_monitor.watch import Watched
from stream_monitor.watch_outcome import watch_outcomes

_EVENTS = "events"
_BLOCK = 8_192  # events between two looks at the watermark
_TEXT = {"model", "version", "segment", "window", "maturity", "window_start", "window_end",
         "feature", "family", "metric"}  # fmt: skip
_TYPES: dict[str, Any] = (
    {name: pa.string() if name in _TEXT else pa.float64() for name in COLUMNS}
    | dict.fromkeys(("window_index", "revision", "rows"), pa.int64())
    | {"alert": pa.bool_()}
)
Progress = Callable[[float], None]
OUTPUTS = (".parquet", ".csv", ".jsonl")


@dataclass(slots=True)
class Summary:
    """What became of the events."""

    accepted: int = 0
    late: int = 0
    expired: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    windows: int = 0
    alerts: int = 0


def backtest(
    paths: list[Path],
    config: Config,
    watched: list[Watched],
    windows: tuple[Window, ...],
    progress: Progress,
    *,
    labels: LabelTable | None = None,
    late: LateLabels | None = None,
) -> tuple[list[WindowResult], Summary]:
    """Every window of the files' events, newest revisions, and what became of the events.

    Closed windows are judged; the one that is still filling when the input ends is shown and not
    judged, as in the live service, but with `compat: nannyml`, which judges every chunk. Events
    that are not in time order are sorted, in memory. ``labels`` count as if the events had brought
    them; ``late`` ones as they come, by their own times, and windows that are not mature when the
    input ends are shown and not judged.
    """
    files = _Files(paths, config, watched, progress, labels)
    try:
        found, pipeline = _run(_streamed(files), config, watched, windows, late)
    except _OutOfOrderError:
        found, pipeline = _run(_sorted(files), config, watched, windows, late)
    summary = Summary(
        pipeline.tally(ACCEPTED).total(),
        pipeline.tally(LATE).total(),
        pipeline.tally(EXPIRED).total(),
        dict(pipeline.tally(REJECTED)),
        len(found),
        sum(bool(v.alert) for r in found for v in r.values),
    )
    return found, summary


class _OutOfOrderError(Exception):
    """The events are not in time order."""


def _run(
    events: Iterable[Decoded],
    config: Config,
    watched: list[Watched],
    windows: tuple[Window, ...],
    late: LateLabels | None,
) -> tuple[list[WindowResult], Pipeline]:
    outcomes = watch_outcomes(config, watched, windows, "backtest")
    pipeline = Pipeline(watched, windows, config, outcomes, explained=False)
    partition = pipeline.partitions[_EVENTS] = Partition(_EVENTS)
    results: dict[tuple[str, str, str, str, str, int], WindowResult] = {}

    def close(at_end: tuple[str, ...] = ()) -> None:
        for result in pipeline.close(at_end):
            results[_place(result)] = result
        for join in pipeline.joins.values():
            join.prepare()

    if late is not None:
        late.begin(pipeline)
    for decoded in events:
        pipeline.ingest(partition, decoded)
        if late is not None and partition.progress is not None:
            late.feed(pipeline, partition.progress)
        close()
    while late is not None and late.feed(pipeline, None):
        close((_EVENTS,))
    close((_EVENTS, LABELS))
    while pipeline.matured is not None and not pipeline.matured.settled():
        close((_EVENTS, LABELS))
    for result in pipeline.publisher.filling(judged=config.compat is not None):
        results[_place(result)] = result
    for result in () if pipeline.matured is None else pipeline.matured.filling():
        results[_place(result)] = result
    order = {w.name: i for i, w in enumerate(config.windows)}
    ages = {name: i for i, name in enumerate(["", *(outcomes.delays if outcomes else [])])}
    found = sorted(
        results.values(),
        key=lambda r: (r.model, r.version, r.segment, order[r.window], ages[r.maturity], r.index),
    )
    return found, pipeline


def _place(result: WindowResult) -> tuple[str, str, str, str, str, int]:
    names = result.model, result.version, result.segment, result.window, result.maturity
    return *names, result.index


def _order_of(config: Config, batch: ColumnBatch) -> IntArray:
    """What events are ordered by: event time for windows of rows, else arrival."""
    return batch.event_time if any(w.rows for w in config.windows) else batch.arrival


def _streamed(files: _Files) -> Iterator[Decoded]:
    """The events as they stand in the files, in blocks, as long as they are in order."""
    newest = 0
    for decoded in files.decoded():
        every = [_order_of(files.config, batch) for batch in decoded.batches.values()]
        if any(times[0] < newest or np.any(times[1:] < times[:-1]) for times in every):
            raise _OutOfOrderError
        newest = max([newest, *(int(times[-1]) for times in every)])
        yield Decoded({}, decoded.rejects)
        yield from _turns(files.config, decoded.batches)


def _sorted(files: _Files) -> Iterator[Decoded]:
    """All events, held in memory and sorted."""
    parts: dict[int, list[ColumnBatch]] = {}
    rejects = []
    for decoded in files.decoded():
        rejects += decoded.rejects
        for index, batch in decoded.batches.items():
            parts.setdefault(index, []).append(batch)
    yield Decoded({}, rejects)
    whole: dict[int, ColumnBatch] = {}
    for index, some in parts.items():
        batch = concatenate(files.watched[index].target.schema, some)
        whole[index] = batch.take(np.argsort(_order_of(files.config, batch), kind="stable"))
    yield from _turns(files.config, whole)


def _turns(config: Config, whole: dict[int, ColumnBatch]) -> Iterator[Decoded]:
    """Batches that are in order, in blocks, so that few panes are open at once.

    Models take turns by time, for the progress of one closes the windows of all.
    """
    keys = {index: _order_of(config, batch) for index, batch in whole.items()}
    every = np.sort(np.concatenate([np.empty(0, dtype=np.int64), *keys.values()]))
    starts = dict.fromkeys(whole, 0)
    for last in [*every[_BLOCK - 1 :: _BLOCK].tolist(), *every[-1:].tolist()]:
        block: dict[int, ColumnBatch] = {}
        for index, batch in whole.items():
            end = int(np.searchsorted(keys[index], last, side="right"))
            if end > starts[index]:
                block[index] = batch.take(np.arange(starts[index], end))
                starts[index] = end
        yield Decoded(block)


@dataclass(frozen=True, slots=True)
class _Files:
    """The input, which may have to be read twice."""

    paths: list[Path]
    config: Config
    watched: list[Watched]
    progress: Progress
    labels: LabelTable | None

    def decoded(self) -> Iterator[Decoded]:
        """The events as they stand in the files, with their labels."""
        for decoded in self._read():
            for index, batch in decoded.batches.items():
                if self.labels is not None:
                    decoded.batches[index] = self.labels.attach(index, batch)
            yield decoded

    def _order(self, decoded: Decoded, offsets: IntArray) -> None:
        if self.config.labels is not None:
            for batch in decoded.batches.values():
                batch.origin = origins(0, offsets, batch.record)

    def _read(self) -> Iterator[Decoded]:
        config, targets = self.config, [m.target for m in self.watched]
        table = TableDecoder(config.mapping, targets)
        native = NativeDecoder(config.mapping, targets, config.limits.max_record_size)
        sizes = [max(p.stat().st_size, 1) for p in self.paths]
        total, before = sum(sizes), 0
        for path, size in zip(self.paths, sizes, strict=True):
            if path.suffix in (".parquet", ".csv"):
                row = 0
                for chunk in read_chunks([path]):
                    decoded = table.decode(chunk)
                    self._order(decoded, np.arange(row, row + chunk.rows))
                    row += chunk.rows
                    yield decoded
                    self.progress((before + size * chunk.done) / total)
            else:
                source = FilesSource(str(path), max_record_size=config.limits.max_record_size)
                source.seek(str(path), None)
                source.poll(0.0)
                while not (poll := source.poll(0.0)).finished:
                    for records in poll.records:
                        decoded = native.decode(records)
                        self._order(decoded, records.offsets)
                        yield decoded
                        done = int(records.position.partition(":")[2])
                        self.progress((before + done) / total)
            before += size
            self.progress(before / total)


def write(results: list[WindowResult], path: Path) -> int:
    """Write the table, a row a value; returns the number of rows."""
    if path.suffix == ".jsonl":
        lines = [orjson.dumps(row) + b"\n" for result in results for row in rows_of(result)]
        path.write_bytes(b"".join(lines))
        return len(lines)
    values = [astuple(value) for result in results for value in result.values]
    window = np.repeat(np.arange(len(results)), [len(result.values) for result in results])
    shared = _columns(WINDOW_COLUMNS, [window_cells(result) for result in results])
    table = pa.table(
        {name: column.take(pa.array(window)) for name, column in shared.items()}
        | _columns(Value.__struct_fields__, values)
    )
    if path.suffix == ".parquet":
        pa.parquet.write_table(table, path)
    else:
        pa.csv.write_csv(table, path)
    return len(values)


def _columns(names: Sequence[str], rows: Sequence[tuple[object, ...]]) -> dict[str, Any]:
    columns = zip(*rows, strict=True) if rows else ((),) * len(names)
    # as from pandas: NaN is null
    return {
        name: pa.array(column, type=_TYPES[name], from_pandas=True)
        for name, column in zip(names, columns, strict=True)
    }
