"""Building a reference profile from files larger than memory, in three passes.

1. What does each column hold? Kinds, moments, quantiles, categories (:mod:`.study`).
2. With cells fixed: let the methods learn, and choose the rows that some of them learn from.
3. With all learned: count each chunk of the reference, just as the service counts a pane.

This module knows no method: the cuts that the cells need, and what learns, come through the
registry's interfaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells, codes_of
from stream_monitor.config.model import Config
from stream_monitor.decode.base import Target
from stream_monitor.decode.table import TableDecoder, source_columns
from stream_monitor.errors import ProfileError
from stream_monitor.methods.base import (
    BlockLearner,
    BlockMethod,
    Registry,
    RowLearner,
    SketchMethod,
    Study,
)
from stream_monitor.panes.count import Counter
from stream_monitor.panes.exact import LIMBS
from stream_monitor.panes.layout import Counted, Layout
from stream_monitor.reference.columns import check_names, coarse_edges, decided, filled_cells
from stream_monitor.reference.learned import loaded, target_of
from stream_monitor.reference.profile import Arrays, Profile, fingerprinted
from stream_monitor.reference.sample import RowSample
from stream_monitor.reference.segments import Chooser, SegmentSet
from stream_monitor.reference.split import SegmentCounter
from stream_monitor.reference.study import ColumnStudy
from stream_monitor.schema import Column, IntArray, Kind, Role, Schema
from stream_monitor.tables import Chunk, read_chunks

Progress = Callable[[str, float], None]
_MAX_CHUNKS = 1_000


def build_profile(
    paths: list[Path],
    config: Config,
    *,
    model: str,
    version: str,
    registry: Registry,
    progress: Progress,
) -> Profile:
    """The profile of the rows in ``paths`` that belong to the model.

    Rows of other models and rows without a usable time are left out.

    Raises
    ------
    ProfileError
        Where nothing usable is in the files, or a column cannot be used as configured.
    """
    target = Target(model, version, Schema(()), {})
    builder = _Builder(paths, config, target, registry=registry, progress=progress)
    studies = builder.study()
    check_names(builder.names, config)
    schema, cells = decided(studies, config, registry)
    learned, cells, segments = builder.learn(schema, cells)
    chunk_rows = _chunk_rows(config, builder.rows)
    return fingerprinted(builder.count(schema, cells, learned, segments, chunk_rows))


class _Builder:
    def __init__(
        self,
        paths: list[Path],
        config: Config,
        target: Target,
        *,
        registry: Registry,
        progress: Progress,
    ) -> None:
        self._paths = paths
        self._config = config
        self._target = target
        self._registry = registry
        self._progress = progress
        self._mapping = config.mapping
        self.rows = 0
        self.names: dict[str, None] = {}  # of all columns, in the order of the data
        self._order: IntArray | None = None

    def study(self) -> dict[str, ColumnStudy]:
        """First pass; once more for columns that turn out to hold categories only on the way."""
        overrides = self._config.reference.columns
        ignored = {name for name, o in overrides.items() if o.kind == "ignore"}
        forced = {name: Kind(o.kind) for name, o in overrides.items() if o.kind != "ignore"}
        studies = self._look("looking at the columns", forced, lambda name: name not in ignored)
        scored = any(s.role is Role.SCORE for s in studies.values())
        late = {
            name: Kind.CATEGORICAL
            for name, study in studies.items()
            if study.kind(scored=scored) is Kind.CATEGORICAL and not study.counted
        }
        if late:
            studies |= self._look("looking at the categories", late, late.__contains__)
        return studies

    def _look(
        self, phase: str, forced: Mapping[str, Kind], wanted: Callable[[str], bool]
    ) -> dict[str, ColumnStudy]:
        studies: dict[str, ColumnStudy] = {}
        times: list[IntArray] = []
        self.rows = 0
        for number, chunk in enumerate(self._read(phase)):
            self._settle_times(chunk, first=number == 0)
            placed = TableDecoder(self._mapping, [self._target]).place(chunk)
            used = np.flatnonzero(placed.target >= 0)
            times.append(placed.time[used])
            chosen = chunk if len(used) == chunk.rows else chunk.take(used)
            for name, (source, role) in source_columns(self._mapping, list(chunk.columns)).items():
                self.names[name] = None
                if wanted(name):
                    if name not in studies:
                        studies[name] = ColumnStudy(name, role, forced.get(name))
                    studies[name].update(chosen.columns[source], text=chunk.text, row=self.rows)
            self.rows += len(used)
        if not self.rows:
            raise ProfileError(
                f"{', '.join(map(str, self._paths))}: no usable row for model "
                f"{self._target.name!r}; check `mapping` and `models`"
            )
        self._order = _order(np.concatenate(times))
        return studies

    def _settle_times(self, chunk: Chunk, *, first: bool) -> None:
        """Reference data often has no times: its order then is that of the rows."""
        column = self._config.mapping.timestamp
        timed = column in chunk.columns
        if first and not timed:
            self._mapping = self._config.mapping.model_copy(update={"timestamp": None})
        elif timed is (self._mapping.timestamp is None):
            raise ProfileError(
                f"column {column!r} (mapping.timestamp) is in some of the files only; give every "
                f"file its times, or none"
            )

    def learn(
        self, schema: Schema, cells: dict[str, Cells]
    ) -> tuple[dict[str, Arrays], dict[str, Cells], tuple[SegmentSet, ...]]:
        """Second pass: what the methods learned by name, the cells with their counts, segments."""
        config = self._config
        compat = config.compat is not None
        study = Study(schema, cells, compat, config.reference.positive_class)
        rows: dict[str, RowLearner] = {}
        for name, method in self._registry.row.items() if config.methods.outliers else ():
            if (row := method.learner(schema, cells)) is not None:
                rows[name] = row
        blocks: dict[str, BlockLearner] = {}
        known: Mapping[str, BlockMethod | SketchMethod]
        known = {**self._registry.block, **self._registry.sketch}
        for name in config.blocks:
            if (block := known[name].learner(study)) is not None:
                blocks[name] = block
        chooser = Chooser(config.segments, schema, cells)
        sample = RowSample(None if compat else config.reference.sample_rows)
        layout = Layout.of(cells, {})
        counter = Counter(schema, cells, layout, {}, {})
        total = np.zeros(layout.size, dtype=np.int64)
        sums = {c.name: np.zeros(cells[c.name].size) for c in schema.continuous}
        for batch, rank in self._batches(schema, cells, "learning"):
            for _, vector in counter.slots(batch).count(np.zeros(len(batch), dtype=np.int64)):
                total += vector
            for column, numbers in zip(schema.continuous, batch.numbers, strict=True):
                finite = numbers[np.isfinite(numbers)]
                codes = codes_of(cells[column.name].edges, finite)
                sums[column.name] += np.bincount(codes, finite, cells[column.name].size)
            for row in rows.values():
                row.update(batch)
            for block in blocks.values():
                block.update(batch)
            chooser.update(batch)
            sample.add(batch, rank)
        learned = {name: row.finish() for name, row in rows.items()}
        chosen = sample.batch(schema)
        for done, (name, block) in enumerate(blocks.items(), start=1):
            learned[name] = block.finish(chosen)
            self._progress("training", done / len(blocks))
        counted = Counted(layout, total)
        filled = {
            name: filled_cells(column, counted.column(name), sums.get(name))
            for name, column in cells.items()
        }
        return learned, filled, chooser.finish()

    def count(
        self,
        schema: Schema,
        cells: dict[str, Cells],
        learned: dict[str, Arrays],
        segments: tuple[SegmentSet, ...],
        chunk_rows: int,
    ) -> Profile:
        """Third pass."""
        number = -(-self.rows // chunk_rows)
        parts = 1 + sum(len(one.values) for one in segments)
        if number * parts > _MAX_CHUNKS:
            raise ProfileError(
                f"{self.rows:,} rows in chunks of {chunk_rows:,} are {number:,} chunks of each of "
                f"{parts} parts (the whole and its segments), {_MAX_CHUNKS:,} are kept at most; "
                "raise reference.chunk_rows or lower segments[].most"
            )
        scorers, blocks, _ = loaded(self._registry, schema, cells, learned)
        points = {name: np.zeros(len(s.edges) + 1) for name, s in scorers.items()}
        for name, scorer in scorers.items():
            column = Column(name, Kind.CONTINUOUS, Role.DERIVED)
            none = np.empty(0, np.int64)
            cells[name] = Cells(column, scorer.edges, np.empty(0), (), none, None)
        sizes = dict.fromkeys(scorers, LIMBS) | {name: b.size for name, b in blocks.items()}
        layout = Layout.of(cells, sizes)
        counter = Counter(schema, cells, layout, scorers, blocks)
        profile = Profile(
            self._target.name,
            self._target.version,
            datetime.now(UTC).isoformat(timespec="seconds"),
            schema,
            cells,
            self.rows,
            chunk_rows,
            np.zeros((number, layout.size), dtype=np.int64),
            learned,
            sizes,
            self._config.compat is not None,
            self._config.reference.importances,
            segments,
            coarse={
                c.column.name: coarse_edges(c, self._registry)
                for c in cells.values()
                if segments and c.summary is not None
            },
        )
        places = SegmentCounter(profile)
        own = np.zeros((parts - 1, number, places.layout.size), dtype=np.int64)
        for batch, rank in self._batches(schema, cells, "counting"):
            slots, chunk = counter.slots(batch), rank // chunk_rows
            for index, vector in slots.count(chunk):
                profile.chunks[index] += vector
            for segment, index, vector in places.count(batch, slots, chunk):
                own[segment, index] += vector
            for name, values in slots.derived.items():
                edges = cells[name].edges
                points[name] += np.bincount(codes_of(edges, values), values, len(edges) + 1)
        for name, sums in points.items():
            cells[name] = filled_cells(cells[name], profile.whole.reference.column(name), sums)
        return replace(profile, segment_chunks=own)

    def _batches(
        self, schema: Schema, cells: Mapping[str, Cells], phase: str
    ) -> Iterator[tuple[ColumnBatch, IntArray]]:
        """The rows as batches, with the rank in time of each."""
        target = target_of(self._target.name, self._target.version, schema, cells)
        decoder = TableDecoder(self._mapping, [target])
        row = 0
        for chunk in self._read(phase):
            batch = decoder.decode(chunk).batches.get(0)
            if batch is None:
                continue
            rows = np.arange(row, row + len(batch))
            rank = rows if self._order is None else self._order[rows]
            row += len(batch)
            yield batch, rank

    def _read(self, phase: str) -> Iterator[Chunk]:
        for chunk in read_chunks(self._paths):
            yield chunk
            self._progress(phase, chunk.done)


def _order(times: IntArray) -> IntArray | None:
    """Each row's rank in time; None where rows stand in that order already."""
    if np.all(times[1:] >= times[:-1]):
        return None
    rank = np.empty(len(times), dtype=np.int64)
    rank[np.argsort(times, kind="stable")] = np.arange(len(times))
    return rank


def _chunk_rows(config: Config, rows: int) -> int:
    """Rows of a reference chunk: as configured, as the first window of rows, or a tenth."""
    by_rows = next((w.rows for w in config.windows if w.rows), None)
    return config.reference.chunk_rows or by_rows or max(-(-rows // 10), 1)
