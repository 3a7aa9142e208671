"""Records that hold several JSON events: an array of them, or one after the other.

Objects that follow each other are NDJSON; line ends between them are usual, and make it possible to
tell a spoilt one from those beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any

import msgspec

# A place is where an event stands in a run of records: the record's index and, in the lower bits,
# its number within the record.
SHIFT = 32
REFUSALS = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)

ARROW_STREAM, ARROW_FILE = b"\xff\xff\xff\xff", b"ARROW1"  # what no JSON begins with

_WHITE = " \t\n\r"
_BEFORE = _WHITE.encode() + b"\xef\xbb\xbf\xff\xfe\0"  # byte order marks, and UTF-16's zeros
_MARK = b"\xef\xbb\xbf"  # UTF-8's
_raw_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_raw_lines = msgspec.json.Decoder(msgspec.Raw).decode_lines
# finds where a value ends; what it is does not matter
_value = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode


class Form(Enum):
    """How events stand in a record of several: (before them, between them, behind them)."""

    ARRAY = (b"[", b",", b"]")
    LINES = (b"", b"\n", b"")


def form_of(payload: bytes) -> Form:
    """The form that a record has if it holds several events, by how it begins."""
    array = payload[:1] == b"[" or payload.lstrip(_BEFORE)[:1] == b"["
    return Form.ARRAY if array else Form.LINES


def is_arrow(payload: bytes) -> bool:
    """Whether a record is Arrow IPC, by its first bytes."""
    return payload[:4] == ARROW_STREAM or payload[:6] == ARROW_FILE


class Several:
    """Decodes all events of a record into one type; refuses with one of :data:`REFUSALS`."""

    def __init__(self, kind: type) -> None:
        self._array = msgspec.json.Decoder(list[kind]).decode  # type: ignore[valid-type]
        self._lines: Callable[[bytes], list[Any]] = msgspec.json.Decoder(kind).decode_lines

    def __call__(self, payload: bytes) -> list[Any]:
        return (self._array if form_of(payload) is Form.ARRAY else self._lines)(payload)


def split(payload: bytes) -> Sequence[bytes] | None:
    """The events of a record as they stand there; None where it is a single one.

    As everywhere, bare NaN and Infinity are accepted, and UTF-16 as Python's json does. Bytes that
    are no UTF-8 spoil only their event, one nested about a thousand deep its whole array.
    """
    array = form_of(payload) is Form.ARRAY
    try:
        raw = _raw_array(payload) if array else _raw_lines(payload.removeprefix(_MARK))
        found: Sequence[bytes] | None = raw
    except REFUSALS:
        found = _as_python_reads_it(payload, _elements if array else _values)
        if found is None and not array:
            found = _lines(payload)
    return found if found is not None and (array or len(found) > 1) else None


def _as_python_reads_it(
    payload: bytes, taken: Callable[[str], Iterator[str]]
) -> Sequence[bytes] | None:
    try:
        encoding = json.detect_encoding(payload)
        errors = "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass"
        return [e.encode(errors=errors) for e in taken(payload.decode(encoding, errors))]
    except (ValueError, RecursionError):
        return None


def _lines(payload: bytes) -> Sequence[bytes] | None:
    """Lines, where at least one looks like an event: one event may be written over several."""
    stripped = (line.strip() for line in payload.removeprefix(_MARK).split(b"\n"))
    found = [line for line in stripped if line]
    return found if any(line[:1] == b"{" and line[-1:] == b"}" for line in found) else None


def _values(text: str) -> Iterator[str]:
    """Values that follow each other, the way Python reads JSON; ValueError where one is none."""
    at = _skip_white(text, 0)
    while at < len(text):
        end = _value(text, at)[1]
        yield text[at:end]
        at = _skip_white(text, end)


def _elements(text: str) -> Iterator[str]:
    """The elements of an array, likewise."""
    at = _after(text, 0, "[")
    if text[at : at + 1] != "]":
        while True:
            end = _value(text, at)[1]
            yield text[at:end]
            at = _skip_white(text, end)
            if text[at : at + 1] == "]":
                break
            at = _after(text, at, ",")
    if _after(text, at, "]") != len(text):
        raise ValueError("more than an array")


def _after(text: str, at: int, mark: str) -> int:
    """Where what comes behind a mark begins."""
    at = _skip_white(text, at)
    if text[at : at + 1] != mark:
        raise ValueError(f"no {mark}")
    return _skip_white(text, at + 1)


def _skip_white(text: str, at: int) -> int:
    while text[at : at + 1] in _WHITE and at < len(text):
        at += 1
    return at
