"""What predictions and their labels add to outcome panes, and what must be kept of them for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from stream_monitor.batch import ColumnBatch, Unseen, empty_wrong
from stream_monitor.cells import Cells, codes_of
from stream_monitor.decode.label_batch import label_value
from stream_monitor.labels.rows import Rows, prediction_dtype
from stream_monitor.methods import REGISTRY
from stream_monitor.methods.base import Addends, Arrays, Block
from stream_monitor.methods.outcomes.base import ESTIMATING, REALIZING
from stream_monitor.panes.count import Slots
from stream_monitor.panes.layout import Layout
from stream_monitor.reference.profile import Part, Profile
from stream_monitor.reference.segments import Members
from stream_monitor.schema import PREDICTION, TARGET, FloatArray, IntArray, Role, Schema

_SYNONYMS = (("true", "1"), ("1", "true"), ("false", "0"), ("0", "false"))
_ROLES = (Role.PREDICTION, Role.SCORE, Role.TARGET)


@runtime_checkable
class Carrying(Protocol):
    """A block whose addends cannot be had from scores and predictions: its numbers are carried."""

    @property
    def carried(self) -> int:
        """How many numbers a row needs."""

    def carry(self, addends: Any, rows: int) -> FloatArray:
        """float64[carried, rows] of a batch's addends; NaN for rows that add nothing."""

    def restored(self, carried: FloatArray) -> Addends:
        """The addends of rows with these numbers, float64[carried, n]."""


class OutcomeCounter:
    """Of one model: events → join rows → vectors of outcome panes.

    Attributes
    ----------
    layouts
        Of the vectors of the whole and of each segment.
    dtype
        Of the rows of predictions.
    continuous
        Whether labels are numbers.
    """

    def __init__(
        self,
        profile: Profile,
        parts: Sequence[Part],
        learned: Mapping[str, Arrays],
        blocks: Mapping[str, Block],
        *,
        rows: bool,
    ) -> None:
        schema = Schema(tuple(c for c in profile.schema.columns if c.role in _ROLES))
        full, self._schema = profile.schema, schema
        chosen = [n for n in (*ESTIMATING, *REALIZING) if n in blocks]
        self._carrying = {n: b for n in chosen if isinstance(b := blocks[n], Carrying)}
        self._blocks = {
            name: REGISTRY.block[name].load(schema, profile.cells, learned[name])
            for name in chosen
            if name not in self._carrying
        }
        self._estimating = [n for n in chosen if n in ESTIMATING]
        sizes = {name: blocks[name].size for name in chosen}
        # which predictions were estimated, only their column tells
        columns = (TARGET, PREDICTION) if self._carrying else (TARGET,)
        self._columns = [{name: part.cells[name] for name in columns} for part in parts]
        self.layouts = [Layout.of(cells, sizes) for cells in self._columns]
        self._members = Members(profile.segments, full, profile.cells)
        self._target = _Target(full, parts[0].cells[TARGET])
        self.continuous = parts[0].cells[TARGET].column.continuous
        numbers, categories = (
            [c.name for c in some] for some in (full.continuous, full.categorical)
        )
        self._scores = [i for i, c in enumerate(full.continuous) if c.role is Role.SCORE]
        self._classes = PREDICTION in categories
        known = categories if self._classes else numbers
        # of categories, unseen, missing, wrong type
        self._codes = len(profile.cells[PREDICTION].categories) + 3 if self._classes else 0
        self._prediction = known.index(PREDICTION) if PREDICTION in known else None
        self.dtype = prediction_dtype(
            len(self._scores),
            classes=self._classes,
            sets=len(profile.segments),
            carried=sum(b.carried for b in self._carrying.values()),
            rows=rows,
        )

    def rows(self, batch: ColumnBatch, slots: Slots, keys: Any, number: IntArray | None) -> Rows:
        """Join rows of a batch's events; ``number`` is their place on the clock of rows."""
        found = np.zeros(len(batch), dtype=self.dtype)
        found["high"], found["low"] = keys[:, 0], keys[:, 1]
        found["time"], found["origin"] = batch.event_time, batch.origin
        if number is not None:
            found["row"] = number
        if self._scores:
            found["scores"] = batch.numbers[self._scores].T
        if self._prediction is not None:
            found["prediction"] = (batch.codes if self._classes else batch.numbers)[
                self._prediction
            ]
        if "segments" in self.dtype.names:
            found["segments"] = np.stack(self._members.of(batch), axis=1)
        if self._carrying:
            found["carried"] = np.concatenate(
                [b.carry(slots.blocks[n], len(batch)) for n, b in self._carrying.items()]
            ).T
        return found

    def fit(self, rows: Rows) -> bool:
        """Whether rows that another process made name classes and segments that there are."""
        found = True
        if self._classes:
            codes = rows["prediction"]
            found &= bool(np.all((codes >= 0) & (codes < self._codes)))
        if "segments" in self.dtype.names:
            segments = rows["segments"]
            found &= bool(np.all((segments >= -1) & (segments < self._members.number)))
        return found and bool(np.all(rows["time"] >= 0))

    def labels_of(self, batch: ColumnBatch) -> tuple[IntArray, Any]:
        """The events that bring a label of their own, and its value as label rows have it."""
        return self._target.values_of(batch)

    def unlabelled(self, batch: ColumnBatch) -> ColumnBatch:
        """The same events without labels of their own."""
        return self._target.stripped(batch)

    def predicted(
        self, rows: Rows, group: IntArray, known: Mapping[str, Addends] | None = None
    ) -> Iterator[tuple[int, int, IntArray]]:
        """(part, group, counts) of predictions.

        Part 0 is the whole, then come the segments. ``group`` is int64[n], negative for none;
        ``known`` are the blocks' addends of these very rows where they were worked out already.
        """
        return self._counted(rows, None, group, known)

    def labelled(
        self, rows: Rows, values: Any, group: IntArray
    ) -> Iterator[tuple[int, int, IntArray]]:
        """The same of labelled predictions; ``values`` uint64[n] as label rows have them."""
        return self._counted(rows, values, group, None)

    def _addends(self, rows: Rows, values: Any) -> dict[str, Addends]:
        batch = self._batch(rows, values)
        names = self._estimating if values is None else [*self._blocks, *self._carrying]
        found: dict[str, Addends] = {}
        start = 0
        for name, block in self._carrying.items():
            own = rows["carried"][:, start : start + block.carried].T
            start += block.carried
            if name in names:
                found[name] = block.restored(own)
        for name, plain in self._blocks.items():
            if name in names:
                found[name] = plain.addends(batch)
        return found

    def _counted(
        self, rows: Rows, values: Any, group: IntArray, known: Mapping[str, Addends] | None
    ) -> Iterator[tuple[int, int, IntArray]]:
        if known is None:
            addends = self._addends(rows, values)
        else:
            addends = {name: known[name] for name in self._estimating}
        slots = self._slots(rows, values, 0)
        for place, vector in Slots(self.layouts[0], slots, addends, {}).count(group):
            yield 0, place, vector
        number = self._members.number
        if not number:
            return
        coarse = Slots(self.layouts[1], self._slots(rows, values, 1), addends, {})
        for segment in rows["segments"].T.astype(np.int64):
            both = group * number + segment
            both[(segment < 0) | (group < 0)] = -1
            for place, vector in coarse.count(both):
                yield 1 + place % number, place // number, vector

    def _slots(self, rows: Rows, values: Any, part: int) -> IntArray:
        """Slots of the columns that are known, int64[k, n]; segments have the same cells."""
        cells, places = self._columns[part], self.layouts[part].columns
        found = [np.empty((0, len(rows)), dtype=np.int64)]
        if values is not None:
            found.append(self._target.slots(values, cells[TARGET]) + places[TARGET].start)
        if PREDICTION in cells:
            codes = codes_of(cells[PREDICTION].edges, rows["prediction"])
            found.append(codes[None] + places[PREDICTION].start)
        return np.concatenate(found)

    def _batch(self, rows: Rows, values: Any) -> ColumnBatch:
        """The columns that the blocks read, as the events had them."""
        n, schema = len(rows), self._schema
        numbers = np.full((len(schema.continuous), n), np.nan)
        codes = np.empty((len(schema.categorical), n), dtype=np.int32)
        score = 0
        for i, column in enumerate(schema.continuous):
            if column.role is Role.SCORE:
                numbers[i] = rows["scores"][:, score]
                score += 1
            elif column.role is Role.PREDICTION:
                numbers[i] = rows["prediction"]
            elif values is not None:
                numbers[i] = values.view(np.float64)
        for i, column in enumerate(schema.categorical):
            if column.role is Role.PREDICTION:
                codes[i] = rows["prediction"]
            else:
                codes[i] = self._target.codes(values, n)
        return ColumnBatch(rows["time"], rows["time"], numbers, codes, empty_wrong(), np.arange(n))


class _Target:
    """The target column: from events to values of label rows, and from these to slots."""

    def __init__(self, schema: Schema, cells: Cells) -> None:
        self._continuous = cells.column.continuous
        columns = schema.continuous if self._continuous else schema.categorical
        self._row = [c.name for c in columns].index(TARGET)
        self._known = np.array([label_value(c) for c in cells.categories], dtype=np.uint64)
        # what a label record may call them, too: 1 where the reference has true, and so on
        codes = {name: code for code, name in enumerate(cells.categories)}
        for name, other in _SYNONYMS:
            if name in codes:
                codes.setdefault(other, codes[name])
        self._names = np.array([label_value(name) for name in codes], dtype=np.uint64)
        self._codes = np.array(list(codes.values()), dtype=np.int64)
        self._order = np.argsort(self._names)

    def values_of(self, batch: ColumnBatch) -> tuple[IntArray, Any]:
        if self._continuous:
            numbers = batch.numbers[self._row]
            events = np.flatnonzero(np.isfinite(numbers))
            return events, (numbers[events] + 0.0).view(np.uint64)  # -0 + 0 is 0
        codes, size = batch.codes[self._row], len(self._known)
        values = np.append(self._known, np.zeros(3, dtype=np.uint64))[codes]
        for column, event, name in zip(
            batch.unseen.column.tolist(),
            batch.unseen.event.tolist(),
            batch.unseen.name,
            strict=True,
        ):
            if column == self._row:
                values[event] = label_value(name)
        events = np.flatnonzero(codes <= size)
        return events, values[events]

    def stripped(self, batch: ColumnBatch) -> ColumnBatch:
        if self._continuous:
            column, event = batch.wrong_number
            kept = column != self._row
            if kept.all() and np.isnan(batch.numbers[self._row]).all():
                return batch
            numbers = batch.numbers.copy()
            numbers[self._row] = np.nan
            return replace(batch, numbers=numbers, wrong_number=(column[kept], event[kept]))
        missing = len(self._known) + 1
        if np.all(batch.codes[self._row] == missing):
            return batch
        codes, unseen = batch.codes.copy(), batch.unseen
        codes[self._row] = missing
        kept = unseen.column != self._row
        unseen = Unseen(unseen.column[kept], unseen.event[kept], unseen.name[kept])
        return replace(batch, codes=codes, unseen=unseen)

    def codes(self, values: Any, n: int) -> Any:
        """int32[n], as :class:`ColumnBatch` has them."""
        size = len(self._known)
        if values is None:
            return np.full(n, size + 1, dtype=np.int32)
        if not size:
            return np.zeros(n, dtype=np.int32)
        last = len(self._names) - 1
        at = np.searchsorted(self._names, values, sorter=self._order).clip(max=last)
        found = self._order[at]
        codes = np.where(self._names[found] == values, self._codes[found], size)
        return codes.astype(np.int32)

    def slots(self, values: Any, cells: Cells) -> IntArray:
        """int64[1, n], of the column's own slots."""
        if self._continuous:
            return codes_of(cells.edges, values.view(np.float64))[None]
        found: IntArray = self.codes(values, len(values)).astype(np.int64)[None]
        return found
