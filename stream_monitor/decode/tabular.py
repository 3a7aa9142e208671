"""Columns of files → the columns of an event: numbers, categories, times.

Used where rows come as Arrow columns (`reference build`, `backtest` of Parquet and CSV). What a
value counts as is decided by the same rules as for JSON events.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream_monitor.decode import timestamps
from stream_monitor.schema import BoolArray, CodeArray, FloatArray, IntArray, category_of
from stream_monitor.tables import MixedColumn

_NUMBER = (int, float)


def observed(column: Any, *, text: bool) -> set[str]:
    """Which of ``number``, ``boolean``, ``text``, ``other`` the column's values are."""
    if isinstance(column, MixedColumn):
        return {_kind_of(v) for v in column.values if v is not None}
    if column.null_count == len(column):
        return set()
    if _is_text(column.type):
        return {_written(pc.drop_null(column))} if text else {"text"}
    if pa.types.is_boolean(column.type):
        return {"boolean"}
    return {"number" if _is_number(column.type) else "other"}


def _written(values: Any) -> str:
    """What a CSV's text stands for."""
    if not _parse(values)[1].any():
        return "number"
    lowered = pc.utf8_lower(values)
    boolean = pc.all(pc.is_in(lowered, pa.array(["true", "false"]))).as_py()
    return "boolean" if boolean else "text"


def _is_number(kind: Any) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _kind_of(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, _NUMBER):
        return "number"
    return "text" if isinstance(value, str) else "other"


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def present(column: Any) -> BoolArray:
    """bool[n], where something stands."""
    if isinstance(column, MixedColumn):
        return np.array([v is not None for v in column.values], dtype=np.bool_)
    return np.asarray(column.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)


def texts(column: Any) -> list[bytes] | None:
    """UTF-8 for each row, empty where nothing stands; None where that is not the fastest way."""
    if isinstance(column, MixedColumn) or pa.types.is_dictionary(column.type):
        return None
    if pa.types.is_integer(column.type):
        column = column.cast(pa.large_string())
    elif not _is_text(column.type):
        return None
    found: list[bytes] = column.cast(pa.large_binary()).fill_null(b"").to_pylist()
    return found


def numbers(column: Any, *, text: bool) -> tuple[FloatArray, BoolArray]:
    """(float64[n], NaN for missing; bool[n], True where a value is there and is no number)."""
    if isinstance(column, MixedColumn):
        wrong = np.array([v is not None and _kind_of(v) != "number" for v in column.values])
        found = [v if _kind_of(v) == "number" else None for v in column.values]
        return np.array(found, dtype=np.float64), wrong
    kind, n = column.type, len(column)
    if _is_number(kind):
        floats = column.cast(pa.float64(), safe=False)
        return floats.to_numpy(zero_copy_only=False), np.zeros(n, dtype=np.bool_)
    if text and _is_text(kind):
        return _parse(column)
    return np.full(n, np.nan), present(column)


def _parse(column: Any) -> tuple[FloatArray, BoolArray]:
    """Numbers written as text; the whole column at once where every value is one."""
    try:
        floats = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return floats, np.zeros(len(column), dtype=np.bool_)
    except pa.ArrowInvalid:
        encoded = column.dictionary_encode()
        values = [_float(v) for v in encoded.dictionary.to_pylist()]
        table = np.array([np.nan if v is None else v for v in values] + [np.nan])
        bad = np.array([v is None for v in values] + [False])
        indices = encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
        return table[indices], bad[indices]


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def constant(column: Any) -> str | None:
    """The category that stands in every row of a column of text; None where there is no such."""
    if isinstance(column, MixedColumn) or pa.types.is_dictionary(column.type):
        return None
    if not _is_text(column.type) or not len(column) or column.null_count:
        return None
    first: str = column[0].as_py()
    return category_of(first) if pc.all(pc.equal(column, first)).as_py() else None


def categories(column: Any, *, text: bool) -> tuple[CodeArray, list[str], BoolArray]:
    """Categories as codes.

    A CSV cannot say whether ``1.0`` is a number. Written as numbers usually are, it is one: the
    category ``1``, as of JSON's 1 and 1.0. Other spellings (``01``, ``1.50``) stay as they are.

    Returns
    -------
    codes : int32[n], index into the names; -1 for missing and for what is no scalar
    names : list of the categories in this column
    wrong : bool[n], True where a value is there and is no scalar
    """
    if isinstance(column, MixedColumn):
        return _encode(column.values)
    if not _is_text(column.type) and not _scalar(column.type):
        return np.full(len(column), -1, dtype=np.int32), [], present(column)
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    if text:
        values = [_number_if_written_so(v) for v in values]
    # NaN is a missing number, not a category
    named = [None if v is None or v != v else category_of(v) for v in values]  # noqa: PLR0124
    names = list(dict.fromkeys(n for n in named if n is not None))
    index = {n: i for i, n in enumerate(names)}
    table = np.array([-1 if n is None else index[n] for n in named] + [-1], dtype=np.int32)
    indices = encoded.indices.fill_null(len(named)).to_numpy(zero_copy_only=False)
    return table[indices], names, np.zeros(len(column), dtype=np.bool_)


def _number_if_written_so(value: Any) -> Any:
    number = _float(value) if isinstance(value, str) else None
    return value if number is None or repr(number) != value else number


def _scalar(kind: Any) -> bool:
    return bool(
        pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
        or pa.types.is_null(kind)
    )  # fmt: skip


def _encode(values: list[Any]) -> tuple[CodeArray, list[str], BoolArray]:
    index: dict[str, int] = {}
    codes = np.full(len(values), -1, dtype=np.int32)
    wrong = np.zeros(len(values), dtype=np.bool_)
    for i, value in enumerate(values):
        name = category_of(value)
        if name is not None:
            codes[i] = index.setdefault(name, len(index))
        else:
            wrong[i] = value is not None
    return codes, list(index), wrong


def booleans(column: Any, *, text: bool) -> tuple[CodeArray, list[str], BoolArray]:
    """As :func:`categories`, where anything but a boolean is of a wrong type."""
    if text and _is_text(getattr(column, "type", pa.null())):
        column = pc.utf8_lower(column)
    codes, names, wrong = categories(column, text=text)
    if isinstance(column, MixedColumn):
        strict = np.array([isinstance(v, bool) for v in column.values])
    else:
        fits = text or pa.types.is_boolean(column.type)
        allowed = np.array([fits and n in ("true", "false") for n in names] + [False])
        strict = allowed[codes]
    wrong |= ~strict & (codes >= 0)
    return np.where(strict, codes, -1).astype(np.int32), names, wrong


def times(column: Any, *, text: bool) -> tuple[IntArray, BoolArray]:
    """(int64[n] microseconds since the epoch, bool[n] usable); 0 where not usable."""
    if isinstance(column, MixedColumn):
        found = [_time(v) for v in column.values]
    elif pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        micros = column.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False)
        whole = micros.cast(pa.int64())
        usable = np.asarray(whole.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)
        time = whole.fill_null(-1).to_numpy(zero_copy_only=False)
        usable &= (time >= timestamps.EARLIEST) & (time < timestamps.LATEST)
        return np.where(usable, time, 0), usable
    elif _is_text(column.type):
        plain, wrong = numbers(column, text=text)
        if text and not wrong.any():
            return timestamps.of_numbers(plain)
        try:
            zoned = bool(pc.all(pc.match_substring_regex(column, r"(Z|[+-]\d\d:?\d\d)$")).as_py())
            kind = pa.timestamp("us", "UTC") if zoned else pa.timestamp("us")
            return times(column.cast(kind), text=False)
        except pa.ArrowInvalid:
            found = [_time(v) for v in column.to_pylist()]
    else:
        return timestamps.of_numbers(numbers(column, text=text)[0])
    usable = np.array([v is not None for v in found], dtype=np.bool_)
    return np.array([v or 0 for v in found], dtype=np.int64), usable


def _time(value: object) -> int | None:
    if isinstance(value, str):
        return timestamps.of_text(value)
    if isinstance(value, _NUMBER) and not isinstance(value, bool):
        return timestamps.of_number(float(value))
    return None
