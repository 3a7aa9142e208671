"""Labels from files, joined to events by id: what ``backtest --labels`` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stream_monitor.batch import ColumnBatch, IdArray
from stream_monitor.config.model import MappingConfig
from stream_monitor.decode import tabular
from stream_monitor.decode.base import Target
from stream_monitor.decode.ids import no_ids
from stream_monitor.decode.table import ids_of, known_codes, texts_of
from stream_monitor.errors import LabelError
from stream_monitor.schema import TARGET, BoolArray, Column, FloatArray
from stream_monitor.tables import Chunk, read_chunks

Progress = Callable[[float], None]


class LabelTable:
    """The labels of some files.

    A label is a row with an id and a value, in the columns that the mapping names; a model column
    is used where there is one, a row without a usable id is left out. Of several labels of one
    event the last one counts. A label here takes the place of one in the event.
    """

    def __init__(
        self, paths: list[Path], mapping: MappingConfig, targets: list[Target], progress: Progress
    ) -> None:
        self._models = {
            index: _ModelLabels(target, column)
            for index, target in enumerate(targets)
            for column in target.schema.columns
            if column.name == TARGET
        }
        for chunk in read_chunks(paths):
            for name in (mapping.id, mapping.label):
                if name not in chunk.columns:
                    raise LabelError(
                        f"{', '.join(map(str, paths))}: no column {name!r}; there are "
                        f"{', '.join(chunk.columns)}; see mapping.id and mapping.label"
                    )
            ids, names = ids_of(chunk, mapping.id), texts_of(chunk, mapping.model)
            for model in self._models.values():
                own = np.array([n in (None, model.name) for n in names], dtype=np.bool_)
                model.add(chunk, mapping.label or "", ids, own & ids.any(axis=1))
            progress(chunk.done)
        for model in self._models.values():
            model.finish()

    def attach(self, index: int, batch: ColumnBatch) -> ColumnBatch:
        """The batch of the model with this index, with the labels of its events."""
        model = self._models.get(index)
        return batch if model is None else model.attach(batch)


class _ModelLabels:
    """One model's labels: sorted ids, and each value as batches hold it."""

    def __init__(self, target: Target, column: Column) -> None:
        self.name = target.name
        self._column = column
        columns = target.schema.continuous if column.continuous else target.schema.categorical
        self._row = columns.index(column)
        self._known = target.categories.get(TARGET, {})
        self._parts: list[tuple[NDArray[np.bytes_], FloatArray]] = []
        self._ids = _sortable(no_ids(0))
        self._values: FloatArray = np.empty(0)

    def add(self, chunk: Chunk, name: str, ids: IdArray, own: BoolArray) -> None:
        raw = chunk.columns[name]
        if self._column.continuous:
            values, _ = tabular.numbers(raw, text=chunk.text)
        else:
            codes, _, _ = known_codes(raw, self._column, self._known, text=chunk.text)
            values = codes.astype(np.float64)
        self._parts.append((_sortable(ids[own]), values[own]))

    def finish(self) -> None:
        ids = np.concatenate([self._ids, *(i for i, _ in self._parts)])
        values = np.concatenate([self._values, *(v for _, v in self._parts)])
        order = np.argsort(ids, kind="stable")
        ids, values = ids[order], values[order]
        last = np.append(ids[1:] != ids[:-1], np.ones(min(len(ids), 1), dtype=np.bool_))
        self._ids, self._values, self._parts = ids[last], values[last], []

    def attach(self, batch: ColumnBatch) -> ColumnBatch:
        if not len(self._ids):
            return batch
        ids = _sortable(batch.ids)
        at = np.searchsorted(self._ids, ids).clip(max=len(self._ids) - 1)
        found = self._ids[at] == ids
        if not self._column.continuous:
            codes = batch.codes.copy()
            codes[self._row, found] = self._values[at[found]].astype(np.int32)
            return replace(batch, codes=codes)
        numbers = batch.numbers.copy()
        numbers[self._row, found] = self._values[at[found]]
        column, event = batch.wrong_number
        stays = (column != self._row) | ~found[event]
        return replace(batch, numbers=numbers, wrong_number=(column[stays], event[stays]))


def _sortable(ids: IdArray) -> NDArray[np.bytes_]:
    """Each id as one value of 16 bytes, which NumPy can sort and search."""
    return np.ascontiguousarray(ids).view("S16").ravel()
