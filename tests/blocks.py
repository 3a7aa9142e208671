"""A block method on arrays: learned, loaded, and counting as panes do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from stream_monitor.batch import ColumnBatch, empty_wrong
from stream_monitor.cells import Cells, codes_of
from stream_monitor.methods.base import Arrays, Block, BlockMethod, Measured, Study
from stream_monitor.panes.layout import ROWS, Counted, Layout
from stream_monitor.schema import IntArray, Kind, Role, Schema, category_of
from tests.building import cells_of

Columns = Mapping[str, Sequence[Any] | np.ndarray[Any, Any]]


def number_column(values: Sequence[Any] | np.ndarray[Any, Any]) -> bool:
    return np.asarray(values).dtype.kind in "iuf"


def cells_from(columns: Columns, roles: Mapping[str, Role] | None = None) -> dict[str, Cells]:
    """Cells with counts of each column: float and int arrays are numbers, the rest categories."""
    found = {}
    for name, values in columns.items():
        role = (roles or {}).get(name, Role.FEATURE)
        if number_column(values):
            found[name] = cells_of(np.asarray(values, dtype=np.float64), name=name, role=role)
        else:
            found[name] = cells_of(list(values), Kind.CATEGORICAL, name=name, role=role)
    return found


def batch_of(schema: Schema, cells: Mapping[str, Cells], columns: Columns) -> ColumnBatch:
    """The columns as the decoder gives them; None is missing."""
    n = len(next(iter(columns.values())))
    numbers = np.empty((len(schema.continuous), n))
    codes = np.empty((len(schema.categorical), n), dtype=np.int32)
    for i, column in enumerate(schema.continuous):
        numbers[i] = columns[column.name]
    for i, column in enumerate(schema.categorical):
        own = cells[column.name]
        index = {category: code for code, category in enumerate(own.categories)}
        codes[i] = [
            own.missing if v is None else index.get(str(category_of(v)), own.unseen)
            for v in columns[column.name]
        ]
    rows = np.arange(n)
    return ColumnBatch(rows, rows, numbers, codes, empty_wrong(), rows)


@dataclass(frozen=True)
class Counting:
    """A method that learned from a reference."""

    method: BlockMethod
    schema: Schema
    cells: dict[str, Cells]
    reference: Columns
    arrays: Arrays
    block: Block

    @property
    def layout(self) -> Layout:
        return Layout.of(self.cells, {self.method.name: self.block.size})

    def batch(self, columns: Columns) -> ColumnBatch:
        return batch_of(self.schema, self.cells, columns)

    def counts(self, batch: ColumnBatch, group: IntArray, groups: int) -> IntArray:
        """int64[groups, layout.size]."""
        layout = self.layout
        found = np.zeros((groups, layout.size), dtype=np.int64)
        found[:, ROWS] = np.bincount(group, minlength=groups)
        found[:, layout.blocks[self.method.name]] = self.block.addends(batch).counts(group, groups)
        slots = {
            c.name: codes_of(self.cells[c.name].edges, batch.numbers[i])
            for i, c in enumerate(self.schema.continuous)
        } | {c.name: batch.codes[i] for i, c in enumerate(self.schema.categorical)}
        for name, own in slots.items():
            np.add.at(found[:, layout.columns[name]], (group, own), 1)
        return found

    def chunks(self, columns: Columns, rows: int) -> IntArray:
        """Counts of each run of so many rows, the last as it is."""
        batch = self.batch(columns)
        group = np.arange(len(batch)) // rows
        return self.counts(batch, group, int(group[-1]) + 1 if len(group) else 1)

    def window(self, columns: Columns) -> Counted:
        batch = self.batch(columns)
        counts = self.counts(batch, np.zeros(len(batch), dtype=np.int64), 1)
        return Counted(self.layout, counts[0])

    def measure(self, *windows: Counted) -> list[dict[tuple[str, str], Measured]]:
        """The values of windows, by metric and feature."""
        measure = self.block.bind(self.window(self.reference))
        return [{(m.metric, m.feature): m for m in measure.measure(w)} for w in windows]

    def values(self, columns: Columns) -> dict[tuple[str, str], Measured]:
        return self.measure(self.window(columns))[0]


def learned(
    method: BlockMethod,
    reference: Columns,
    *,
    rows: int = 1_000,
    compat: bool = False,
    roles: Mapping[str, Role] | None = None,
) -> Counting:
    """The method learned from the reference in batches of so many rows."""
    cells = cells_from(reference, roles)
    schema = Schema(tuple(c.column for c in cells.values()))
    empty = {n: replace(c, counts=np.empty(0, np.int64)) for n, c in cells.items()}
    learner = method.learner(Study(schema, empty, compat))
    assert learner is not None
    batch = batch_of(schema, cells, reference)
    for part in parts(len(batch), rows):
        learner.update(batch.take(part))
    arrays = learner.finish(batch)
    assert not any(array.dtype.hasobject for array in arrays.values())
    block = method.load(schema, cells, arrays)
    return Counting(method, schema, cells, reference, arrays, block)


def parts(n: int, rows: int) -> Iterator[IntArray]:
    for start in range(0, n, rows):
        yield np.arange(start, min(start + rows, n))


def assert_any_parts_count_the_same(
    counting: Counting, columns: Columns, *, groups: int, size: int, rng: np.random.Generator
) -> None:
    """Batches of so many rows in random order add up to one batch, a group and all together."""
    batch = counting.batch(columns)
    before = batch.numbers.copy()
    rows = len(batch)
    group = rng.integers(0, groups, rows)
    expected = counting.counts(batch, group, groups)
    order = rng.permutation(rows)
    found = np.zeros_like(expected)
    for part in parts(rows, size):
        some = order[part]
        found += counting.counts(batch.take(some), group[some], groups)
    np.testing.assert_array_equal(found, expected)
    single = counting.counts(batch, np.zeros(rows, dtype=np.int64), 1)
    np.testing.assert_array_equal(single[0], expected.sum(axis=0))
    np.testing.assert_array_equal(batch.numbers, before)


def data_set(folder: Path, prefix: str, period: str, names: Sequence[str]) -> dict[str, Any]:
    """Columns of one of NannyML's data sets."""
    table = pa.parquet.read_table(folder / f"{prefix}_{period}.parquet", columns=list(names))
    return {
        name: table[name].to_pylist()
        if pa.types.is_string(table[name].type) or pa.types.is_boolean(table[name].type)
        else table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
        for name in names
    }


def nannyml_table(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one of NannyML's results."""
    rows: list[dict[str, Any]] = pa.csv.read_csv(folder / name).to_pylist()
    return rows


def differences(
    counting: Counting,
    analysis: Columns,
    table: Sequence[Mapping[str, Any]],
    metric: str,
) -> dict[str, dict[str, float]]:
    """Greatest relative differences from NannyML's table a field and column; alerts must agree.

    Thresholds: mean ± 3 population standard deviations of the reference chunks' values.
    """
    windows = {
        period: [Counted(counting.layout, c) for c in counting.chunks(columns, 5_000)]
        for period, columns in (("reference", counting.reference), ("analysis", analysis))
    }
    found = {period: counting.measure(*some) for period, some in windows.items()}
    worst: dict[str, dict[str, float]] = {}
    for row in table:
        key = metric, row["column"] or ""
        own = found[row["period"]][row["chunk_index"]][key]
        values = [m[key].value for m in found["reference"]]
        middle, reach = np.mean(values), 3 * np.std(values)
        assert row["alert"] is not bool(middle - reach < own.value < middle + reach), row
        for field, value in (
            ("value", own.value),
            ("sampling_error", own.sampling_error),
            ("lower_confidence", own.lower_confidence),
            ("upper_confidence", own.upper_confidence),
            ("lower_threshold", middle - reach),
            ("upper_threshold", middle + reach),
        ):
            difference = abs(float(value) / row[field] - 1)
            column = worst.setdefault(field, {})
            column[key[1]] = max(column.get(key[1], 0.0), difference)
    return worst
