"""Where the parts of a label stand: in records of our own form, and in Seldon Core's feedback."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np

from stream_monitor.config.model import LabelMapping
from stream_monitor.decode import timestamps
from stream_monitor.decode.base import plant, struct_of, times_of
from stream_monitor.decode.lenient import stamp_of, time_at
from stream_monitor.decode.paths import Path, look_up
from stream_monitor.decode.reader import ONLY, Reader
from stream_monitor.decode.rejects import RejectedError
from stream_monitor.schema import BoolArray, IntArray

_Scalar = str | int | float | bool | None
_PUID = [("response", "meta", "puid"), ("request", "meta", "puid")]
_TRUTH = [("truth", "data", "ndarray"), ("truth", "data", "tensor", "values")]


class Form:
    """The parts of one kind of label record, from structs and from plain objects.

    ``ids`` and ``labels`` are paths of which the first that holds something counts; ``time`` is
    empty where the mapping has none.

    Seldon Core 1 logs feedback as its ``prediction.proto`` has it: the prediction's id is the
    response's or the request's ``meta.puid``, the label the first value of the ``truth``, an
    ``ndarray`` or a ``tensor``; a truth of several values, such as a class as 0s and 1s, is not
    understood as one. It has no time of its own, so where the mapping's path leads nowhere the
    record timestamp plays it (``own_time`` is False).
    """

    def __init__(self, mapping: LabelMapping) -> None:
        self.model, self.time = _path(mapping.model), _path(mapping.timestamp)
        self.nested = mapping.format == "seldon"
        self.own_time = bool(self.time) and not self.nested
        self.ids: list[Path] = [*_PUID] if self.nested else [_path(mapping.id)]
        self.labels: list[Path] = [*_TRUTH] if self.nested else [_path(mapping.label)]
        tree: dict[str, Any] = {}
        for path in self.ids:
            plant(tree, path, str | int | float | None)
        for path in self.labels:
            plant(tree, path, list[list[_Scalar] | _Scalar] | None if self.nested else _Scalar)
        plant(tree, self.model, str | int | None)
        if self.time:
            plant(tree, self.time, float | str if self.own_time else float | str | None)
        names: dict[Path, str] = {}
        self._struct = struct_of(tree, (), names, {self.time} if self.own_time else set())
        self._get = {path: attrgetter(name) for path, name in names.items()}

    def reader(self, max_record_size: int) -> Reader:
        """Reads records as structs, all of one type."""
        return Reader([self._struct], ONLY, max_record_size)

    def all_of(self, structs: list[Any], paths: list[Path]) -> list[Any]:
        """Of each struct what stands at the first path that holds something, or at the last."""
        found = [*map(self._get[paths[0]], structs)]
        for get in (self._get[path] for path in paths[1:]):
            found = [v if _holds(v) else get(s) for v, s in zip(found, structs, strict=True)]
        return found

    def of(self, event: dict[str, Any], paths: list[Path]) -> Any:
        """The same of one plain object."""
        value = None
        for path in paths:
            value = look_up(event, path)
            if _holds(value):
                break
        return value

    def times(self, structs: list[Any], stamp: IntArray | None) -> tuple[IntArray, BoolArray]:
        """The labels' own times, and those of their records where they have none.

        ``stamp`` int64[n] are the record timestamps. Returns (int64[n] microseconds, bool[n]
        usable).
        """
        given = self.all_of(structs, [self.time]) if self.time else [None] * len(structs)
        has = np.array([v is not None for v in given], dtype=np.bool_)
        time, usable = times_of([0.0 if v is None else v for v in given])
        if stamp is None:
            return time, usable & has
        known = timestamps.known(stamp)
        return np.where(has, time, stamp), np.where(has, usable, known)

    def time_of(self, event: dict[str, Any], stamp: int | None) -> int:
        """The same of one plain object; RejectedError where there is no usable time."""
        if self.own_time or (self.time and look_up(event, self.time) is not None):
            return time_at(event, self.time)
        if stamp is None:
            detail = "the source has no record timestamps; name a path in labels.mapping.timestamp"
            raise RejectedError("bad_timestamp", detail)
        return stamp_of(stamp)

    def scalar(self, value: Any) -> Any:
        """The value that counts among what stands at a label's path."""
        while self.nested and isinstance(value, list):
            value = value[0] if value else None
        return value


def _path(text: str | None) -> Path:
    return () if text is None else tuple(text.split("."))


def _holds(value: Any) -> bool:
    return value is not None and value != ""
