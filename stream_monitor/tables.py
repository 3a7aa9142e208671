"""Reading files of rows (Parquet, CSV, JSONL) in chunks, as named Arrow columns.

Nested records become dotted names (``features.age``). Values keep the type that the file gives
them; CSV has none, so there everything is text, and reading numbers out of it is the decoder's
task, the same in every chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from stream_monitor.errors import SourceError
from stream_monitor.schema import IntArray

CHUNK_ROWS = 65_536
_BUFFER = 2**20  # bytes of a Parquet column that are read at once
_BLOCK_BYTES = 16 * 2**20
SUFFIXES = (".parquet", ".csv", ".jsonl", ".ndjson")


@dataclass(frozen=True, slots=True)
class MixedColumn:
    """A JSON column whose values are of several types, as Python objects."""

    values: list[Any]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows of one file.

    ``columns`` are Arrow arrays of ``rows`` values each, or mixed columns; ``text`` says that
    every value is text as it stood in a CSV; ``done`` is the share of all files read after this
    chunk, 0 to 1.
    """

    rows: int
    columns: dict[str, Any]
    text: bool
    done: float

    def take(self, rows: IntArray) -> Chunk:
        """The chunk of the given rows."""
        columns = {
            name: MixedColumn([column.values[r] for r in rows.tolist()])
            if isinstance(column, MixedColumn)
            else column.take(pa.array(rows))
            for name, column in self.columns.items()
        }
        return Chunk(len(rows), columns, self.text, self.done)


def expand(patterns: list[str]) -> list[Path]:
    """The files that paths, folders and glob patterns name, each folder's in name order."""
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
        elif path.exists():
            files = [path]
        else:
            anchor = Path(path.anchor or ".")
            relative = path.relative_to(path.anchor) if path.anchor else path
            files = sorted(anchor.glob(str(relative)))
        if not files:
            raise SourceError(f"{pattern}: no such file; give Parquet, CSV or JSONL files")
        found += files
    for path in found:
        if path.suffix not in SUFFIXES:
            raise SourceError(f"{path}: unknown kind of file; name it {', '.join(SUFFIXES)}")
    return found


def read_chunks(paths: list[Path]) -> Iterator[Chunk]:
    """All rows of all files, in order, in chunks that fit into memory."""
    sizes = [max(path.stat().st_size, 1) for path in paths]
    total, before = sum(sizes), 0
    for path, size in zip(paths, sizes, strict=True):
        reader = {".parquet": _parquet, ".csv": _csv}.get(path.suffix, _jsonl)
        try:
            for columns, rows, share in reader(path):
                if rows:
                    done = (before + size * share) / total
                    yield Chunk(rows, columns, path.suffix == ".csv", done)
        except (pa.ArrowInvalid, OSError) as error:
            raise SourceError(f"{path}: cannot be read ({error}); check the file") from None
        before += size


_Part = tuple[dict[str, Any], int, float]


def _parquet(path: Path) -> Iterator[_Part]:
    # by default all of a row group is read at once, which may be all of the file
    with pa.parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
        total, seen = max(file.metadata.num_rows, 1), 0
        for batch in file.iter_batches(batch_size=CHUNK_ROWS):
            seen += batch.num_rows
            yield flattened(pa.Table.from_batches([batch])), batch.num_rows, seen / total


def _csv(path: Path) -> Iterator[_Part]:
    with path.open("rb") as raw:
        names = pa.csv.open_csv(raw).schema.names
    total = max(path.stat().st_size, 1)
    with path.open("rb") as raw:
        reader = pa.csv.open_csv(
            raw,
            read_options=pa.csv.ReadOptions(block_size=_BLOCK_BYTES),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
        for batch in reader:
            share = min(raw.tell() / total, 1.0)
            for start in range(0, batch.num_rows, CHUNK_ROWS):
                part = batch.slice(start, CHUNK_ROWS)
                yield flattened(pa.Table.from_batches([part])), part.num_rows, share


def _jsonl(path: Path) -> Iterator[_Part]:
    total = max(path.stat().st_size, 1)
    with path.open("rb") as raw:
        number, done = 0, 0
        while lines := list(_take(raw, CHUNK_ROWS)):
            events = []
            for line in lines:
                number += 1
                done += len(line)
                if not line.strip():
                    continue
                try:
                    event = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise SourceError(f"{path}:{number}: not JSON ({error})") from None
                if not isinstance(event, dict):
                    raise SourceError(f"{path}:{number}: not a JSON object; one record a line")
                events.append(_flat(event))
            names = dict.fromkeys(name for event in events for name in event)
            columns = {name: _array([e.get(name) for e in events]) for name in names}
            yield columns, len(events), done / total


def _take(lines: Iterator[bytes], count: int) -> Iterator[bytes]:
    for _, line in zip(range(count), lines, strict=False):
        yield line


def _flat(event: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in event.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _array(values: list[Any]) -> Any:
    """An Arrow array, or a :class:`MixedColumn` where JSON mixes types in one column."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        present = {type(v) for v in values if v is not None}
        if present <= {int, float}:
            return pa.array([None if v is None else float(v) for v in values], pa.float64())
        return MixedColumn(values)


def flattened(table: Any) -> dict[str, Any]:
    """Columns by name, each in one piece; those of nested ones have dotted names."""
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return {
        # one that is in one piece would be copied all the same
        name: column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
