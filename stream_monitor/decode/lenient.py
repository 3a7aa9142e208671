"""The slow, forgiving way through one JSON event: finds out what is wrong with it.

An event survives whatever its features hold: a value of a wrong type is counted as such and the
rest is used. It becomes a dead letter only where it cannot be placed: no JSON, no time, no model.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import orjson

from stream_monitor.batch import ColumnBatch, Unseen
from stream_monitor.config.model import MappingConfig
from stream_monitor.decode import timestamps
from stream_monitor.decode.base import Target, choose
from stream_monitor.decode.ids import id_hashes
from stream_monitor.decode.paths import Path, Paths, look_up
from stream_monitor.decode.rejects import RejectedError
from stream_monitor.schema import Kind, category_of

_SHOWN = 80  # characters of a value that a reason quotes


class LenientDecoder:
    """Decodes events one at a time by the mapping, whatever their values are."""

    def __init__(self, mapping: MappingConfig, targets: list[Target]) -> None:
        self._paths = Paths(mapping)
        self._targets = targets

    def event(self, payload: bytes, record: int, stamp: int | None) -> tuple[int, ColumnBatch]:
        """The index of the event's model and a batch of this one event; RejectedError if none.

        ``stamp`` is the record's timestamp, None where the event time plays it.
        """
        event = parse(payload)
        paths = self._paths
        name, version = (text_of(look_up(event, p)) for p in (paths.model, paths.version))
        index = choose(self._targets, name, version)
        if index is None:
            raise RejectedError("unknown_model", f"model {shown(name)}, version {shown(version)}")
        time = time_at(event, paths.time)
        if paths.arrival:
            arrival = time_at(event, paths.arrival)
        else:
            arrival = time if stamp is None else stamp_of(stamp)
        if paths.features and not isinstance(look_up(event, paths.features), dict):
            where = ".".join(paths.features)
            detail = f"no object {where!r} with the features; see mapping.features"
            raise RejectedError("missing_field", detail)
        return index, self._columns(event, self._targets[index], time, arrival, record)

    def _columns(
        self, event: dict[str, Any], target: Target, time: int, arrival: int, record: int
    ) -> ColumnBatch:
        numbers, wrong = [], []
        for k, column in enumerate(target.schema.continuous):
            value = look_up(event, self._paths.column(column))
            if value is None:
                numbers.append(math.nan)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                numbers.append(float_of(value))
            else:
                numbers.append(math.nan)
                wrong.append(k)
        codes, unseen = [], []
        for m, column in enumerate(target.schema.categorical):
            value = look_up(event, self._paths.column(column))
            known = target.categories[column.name]
            codes.append(code_of(value, column.kind, known))
            if codes[-1] == len(known):
                unseen.append((m, 0, category_of(value) or ""))
        return ColumnBatch(
            np.array([time]),
            np.array([arrival]),
            np.array(numbers, dtype=np.float64).reshape(-1, 1),
            np.array(codes, dtype=np.int32).reshape(-1, 1),
            (np.array(wrong, dtype=np.int64), np.zeros(len(wrong), dtype=np.int64)),
            np.array([record]),
            id_hashes([look_up(event, self._paths.id)]),
            unseen_of(unseen),
        )


def time_at(event: dict[str, Any], path: Path) -> int:
    """The time at a path in microseconds, 0 for no path; RejectedError where none stands there."""
    if not path:
        return 0
    value = look_up(event, path)
    if value is None:
        raise RejectedError("missing_field", f"no {'.'.join(path)!r}")
    time = None
    if isinstance(value, str):
        time = timestamps.of_text(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        time = timestamps.of_number(float_of(value))
    if time is None:
        detail = f"{'.'.join(path)!r} is {shown(value)}: no time from 1970 to 2200"
        raise RejectedError("bad_timestamp", detail)
    return time


def stamp_of(stamp: int) -> int:
    """A record's own timestamp; RejectedError where it is no time.

    A producer may have set it to anything, and a single one beyond all others closes every window.
    """
    if not timestamps.EARLIEST <= stamp < timestamps.LATEST:
        detail = f"the record timestamp, {stamp} µs, is no time from 1970 to 2200"
        raise RejectedError("bad_timestamp", detail)
    return stamp


def code_of(value: object, kind: Kind, known: Any) -> int:
    """The slot of a categorical value; see :class:`~stream_monitor.batch.ColumnBatch`."""
    unseen = len(known)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return unseen + 1
    if kind is Kind.BOOLEAN and not isinstance(value, bool):
        return unseen + 2
    name = category_of(value)
    return unseen + 2 if name is None else int(known.get(name, unseen))


def unseen_of(found: list[tuple[int, int, str]]) -> Unseen:
    """From (row of codes, event, name) of each unseen category."""
    if not found:
        return Unseen()
    columns, events, names = zip(*found, strict=True)
    return Unseen(np.array(columns), np.array(events), np.array(names, dtype=np.object_))


def text_of(value: object) -> str | None:
    """A model's name or version, whatever type it has."""
    # what is no scalar names nothing
    return None if value is None else category_of(value) or ""


def shown(value: object) -> str:
    """A value in a few characters; what nests is only named, for it may be nested too deep."""
    scalar = value is None or category_of(value) is not None
    return repr(value)[:_SHOWN] if scalar else f"a JSON {type(value).__name__}"


def float_of(value: float) -> float:
    """An integer beyond the range of floats is infinite for us: counted, never added."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def parse(payload: bytes) -> dict[str, Any]:
    """The JSON object that a payload is; RejectedError where it is none."""
    try:
        event = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        event = _as_python_reads_it(payload, str(error))
    if not isinstance(event, dict):
        raise RejectedError("not_an_object", f"a JSON {type(event).__name__}, not an object")
    return event


def _integer(text: str) -> float:
    """Python refuses integers of thousands of digits; beyond 64 bits all are floats for us."""
    return int(text) if len(text) < 20 else float(text)


def _as_python_reads_it(payload: bytes, detail: str) -> Any:
    """Python's own json writes bare NaN and Infinity and reads integers of any length; so do we."""
    try:
        return json.loads(payload, parse_int=_integer)
    except (ValueError, RecursionError):
        raise RejectedError("not_json", detail) from None
