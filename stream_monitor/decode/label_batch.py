"""What label decoders share: batches of labels, models, values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from stream_monitor.batch import IdArray, Reject
from stream_monitor.decode.base import spellings
from stream_monitor.decode.ids import keyed
from stream_monitor.decode.lenient import float_of
from stream_monitor.schema import BoolArray, FloatArray, IntArray, category_of

ValueArray = NDArray[np.uint64]

_KNOWN, _LONGEST = 4_096, 64  # values whose hashes are remembered: how many, how long


@dataclass(slots=True)
class LabelBatch:
    """Labels of one model name, in input order.

    Attributes
    ----------
    keys : uint64[n, 2]
        Hash of model name and id, as :func:`~stream_monitor.decode.ids.keyed` gives it.
    time : int64[n]
        When the truth was known, microseconds since the epoch.
    arrival : int64[n]
        Record timestamp in the same unit; equal to ``time`` where the input has none.
    value : uint64[n]
        The bits of the float64 where the target is continuous, never NaN, ±inf or −0; else
        :func:`label_value` of the category.
    record : int64[n]
        Index of the input record each label came from.
    origin : uint64[n]
        What orders the records, see :func:`stream_monitor.labels.rows.origins`; empty until it is
        set.
    """

    keys: IdArray
    time: IntArray
    arrival: IntArray
    value: ValueArray
    record: IntArray
    origin: ValueArray = field(default_factory=lambda: np.empty(0, dtype=np.uint64))

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: IntArray) -> Self:
        """The labels of the given rows, in the given order."""
        return type(self)(
            self.keys[rows],
            self.time[rows],
            self.arrival[rows],
            self.value[rows],
            self.record[rows],
            self.origin[rows] if len(self.origin) else self.origin,
        )

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """One batch of at least one, in the given order."""
        columns = ((p.keys, p.time, p.arrival, p.value, p.record, p.origin) for p in parts)
        return cls(*(np.concatenate(column) for column in zip(*columns, strict=True)))


@dataclass(slots=True)
class DecodedLabels:
    """Labels by model name, and what was refused beside them: each label is in one of both."""

    batches: dict[str, LabelBatch] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)


def label_value(category: str) -> int:
    """The 64-bit XXH3 hash of a category's name, never 0."""
    return xxh3_64_intdigest(category.encode(errors="surrogatepass")) or 1


class Models:
    """The model names that labels may have, and what their labels' values are."""

    def __init__(self, models: Mapping[str, bool]) -> None:
        self.names = list(models)
        self.continuous = list(models.values())
        self._index = {s: i for i, name in enumerate(models) for s in spellings(name)}
        self._values = _Values()
        self._unnamed = 0 if len(models) == 1 else -1

    def of(self, names: Iterable[str | int | None]) -> IntArray:
        """int64[n], the model of each name; -1 where there is none."""
        index, unnamed = self._index, self._unnamed
        found = [unnamed if name is None else index.get(name, -1) for name in names]
        return np.array(found, dtype=np.int64)

    def values(self, model: IntArray, labels: Sequence[Any]) -> tuple[ValueArray, BoolArray]:
        """(uint64[n], bool[n] usable) of scalars; not usable without a model."""
        value = np.zeros(len(labels), dtype=np.uint64)
        usable = np.zeros(len(labels), dtype=np.bool_)
        for index in np.unique(model[model >= 0]).tolist():
            rows = np.flatnonzero(model == index)
            own = labels if len(rows) == len(labels) else [labels[r] for r in rows.tolist()]
            if self.continuous[index]:
                value[rows], usable[rows] = bits(np.array([*map(_number, own)]))
            else:
                found = [*map(self._values.__getitem__, zip(map(type, own), own, strict=True))]
                value[rows] = found
                usable[rows] = value[rows] != 0
        return value, usable

    def split(self, model: IntArray, labels: LabelBatch) -> dict[str, LabelBatch]:
        """The labels of each model that has any; their keys were ids until now."""
        batches = {}
        for index in np.unique(model).tolist():
            name, own = self.names[index], labels.take(np.flatnonzero(model == index))
            own.keys = keyed(own.keys, name)
            batches[name] = own
        return batches


class _Values(dict[tuple[type, Any], int]):
    """(type, value) → hash of the category, 0 where it is none; for 1, 1.0 and true are equal."""

    def __missing__(self, key: tuple[type, Any]) -> int:
        value = key[1]
        missing = isinstance(value, float) and math.isnan(value)
        name = None if missing else category_of(value)
        found = 0 if name is None else label_value(name)
        if len(self) < _KNOWN and not (isinstance(value, str) and len(value) > _LONGEST):
            self[key] = found
        return found


def _number(value: object) -> float:
    return float_of(value) if type(value) in (int, float) else math.nan  # type: ignore[arg-type]


def bits(numbers: FloatArray) -> tuple[ValueArray, BoolArray]:
    usable: BoolArray = np.isfinite(numbers)
    return (np.where(usable, numbers, 0.0) + 0.0).view(np.uint64), usable  # −0 + 0 is 0


def named(ids: IdArray) -> BoolArray:
    found: BoolArray = (ids[:, 0] | ids[:, 1]) != 0
    return found
