"""Records of labels → columns: which prediction, when the truth was known, and what it is.

A record is one label or an array of them, as JSON objects of our own form or as Seldon Core's
feedback. As with events, a typed struct takes the bulk, and what it refuses is read alone.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from stream_monitor.batch import IdArray, Reject
from stream_monitor.config.model import LabelMapping
from stream_monitor.decode import tabular, timestamps
from stream_monitor.decode.base import SHIFT, Gathered, RejectedError, spellings
from stream_monitor.decode.feedback import Form
from stream_monitor.decode.ids import id_hashes, keyed
from stream_monitor.decode.lenient import float_of, parse, shown, stamp_of, text_of
from stream_monitor.decode.paths import Path, look_up
from stream_monitor.decode.table import ids_of, texts_of
from stream_monitor.errors import LabelError
from stream_monitor.schema import BoolArray, FloatArray, IntArray, category_of
from stream_monitor.sources.base import Records
from stream_monitor.tables import Chunk

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


class _Models:
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
                value[rows], usable[rows] = _bits(np.array([*map(_number, own)]))
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


def _bits(numbers: FloatArray) -> tuple[ValueArray, BoolArray]:
    usable: BoolArray = np.isfinite(numbers)
    return (np.where(usable, numbers, 0.0) + 0.0).view(np.uint64), usable  # −0 + 0 is 0


class LabelDecoder:
    """Decodes label records of a stream.

    ``models`` says of each model name whether its target is continuous. A label without a model
    is for the only one there is.
    """

    def __init__(
        self, mapping: LabelMapping, models: Mapping[str, bool], max_record_size: int
    ) -> None:
        self._models = _Models(models)
        self._form = Form(mapping)
        self._replayed = mapping.arrival == "label_time"
        self._reader = self._form.reader(max_record_size)

    def decode(self, records: Records) -> DecodedLabels:
        """Every label of the records, in a batch of its model or as a reject; in input order."""
        read = self._reader.read(records.payloads)
        places, structs = read.members[0]
        model, labels, usable = self._together(structs, np.array(places, dtype=np.int64), records)
        read.refused.extend(labels.record[~usable].tolist())
        rows = np.flatnonzero(usable)
        models, parts = array("q", model[rows].tobytes()), Gathered(LabelBatch.joined)
        parts.large.append(labels.take(rows))
        for place in read.left():
            try:
                index, label = self._alone(read.payload(place), place, records)
            except RejectedError as error:
                read.refuse(place, error)
            else:
                models.append(index)
                parts.add(label)
        model, labels = np.asarray(models), parts.joined()
        if (np.diff(labels.record) < 0).any():
            order = np.argsort(labels.record)
            model, labels = model[order], labels.take(order)
        labels.record = labels.record >> SHIFT
        return DecodedLabels(self._models.split(model, labels), read.rejects.all())

    def _together(
        self, structs: list[Any], place: IntArray, records: Records
    ) -> tuple[IntArray, LabelBatch, BoolArray]:
        """Models, labels with ids as keys and places as records, and which of them are usable."""
        form, n = self._form, len(structs)
        model = self._models.of(form.all_of(structs, [form.model]))
        ids = id_hashes(form.all_of(structs, form.ids), n)
        found = [*map(form.scalar, form.all_of(structs, form.labels))]
        value, known = self._models.values(model, found)
        stamp = None if records.timestamps is None else records.timestamps[place >> SHIFT]
        time, timely = form.times(structs, stamp)
        arrival = time if stamp is None or self._replayed else stamp
        usable = known & timely & _named(ids) & timestamps.known(arrival)
        return model, LabelBatch(ids, time, arrival, value, place), usable

    def _alone(self, payload: bytes, place: int, records: Records) -> tuple[int, LabelBatch]:
        """The same of one label; RejectedError where something is wrong."""
        event, form, models = parse(payload), self._form, self._models
        name = text_of(look_up(event, form.model))
        model = models.of([name])
        if model[0] < 0:
            known = ", ".join(models.names)[:150]
            detail = f"model {shown(name)}; there are {known}; see labels.mapping.model"
            raise RejectedError("unknown_model", detail)
        stamp = None if records.timestamps is None else int(records.timestamps[place >> SHIFT])
        time = form.time_of(event, stamp)
        ids = id_hashes([form.of(event, form.ids)], 1)
        if not ids.any():
            raise RejectedError("missing_field", f"no id at {_either(form.ids)}")
        label = form.scalar(form.of(event, form.labels))
        value, usable = models.values(model, [None if category_of(label) is None else label])
        if not usable[0]:
            wanted = "a finite number" if models.continuous[int(model[0])] else "a category"
            detail = f"{shown(label)} at {_either(form.labels)} is not {wanted}"
            raise RejectedError("bad_label", detail)
        arrival = time if stamp is None or self._replayed else stamp_of(stamp)
        times = (np.array([time]), np.array([arrival]))
        return int(model[0]), LabelBatch(ids, *times, value, np.array([place]))


def _named(ids: IdArray) -> BoolArray:
    named: BoolArray = (ids[:, 0] | ids[:, 1]) != 0
    return named


def _either(paths: list[Path]) -> str:
    return " or ".join(".".join(path) for path in paths)


def decode_table(
    chunk: Chunk,
    mapping: LabelMapping,
    models: Mapping[str, bool],
    boolean: Collection[str] = (),
) -> DecodedLabels:
    """The labels of a file's chunk, by the columns that the mapping names, whatever its format.

    ``record`` is the row's number in the chunk, the arrival the label time. ``boolean`` are the
    models whose target is boolean: a CSV's ``True`` is ``true`` for them.

    Raises
    ------
    LabelError
        A column that every label needs is not there.
    """
    columns = {"id": mapping.id, "timestamp": mapping.timestamp, "label": mapping.label}
    for key, name in columns.items():
        if name not in chunk.columns:
            raise LabelError(
                f"no column {name!r} among {', '.join(chunk.columns)}: "
                f"name the one of the {key} in labels.mapping.{key}"
            )
    known, raw = _Models(models), chunk.columns[mapping.label]
    model = known.of(texts_of(chunk, mapping.model))
    time, timely = tabular.times(chunk.columns[mapping.timestamp or ""], text=chunk.text)
    ids = ids_of(chunk, mapping.id)
    value = np.zeros(chunk.rows, dtype=np.uint64)
    usable = np.zeros(chunk.rows, dtype=np.bool_)
    for index in np.unique(model[model >= 0]).tolist():
        own = model == index
        if known.continuous[index]:
            found, fits = _bits(tabular.numbers(raw, text=chunk.text)[0])
        else:
            read = tabular.booleans if known.names[index] in boolean else tabular.categories
            codes, names, _ = read(raw, text=chunk.text)
            found = np.array([*map(label_value, names), 0], dtype=np.uint64)[codes]
            fits = found != 0
        value[own], usable[own] = found[own], fits[own]
    rejects = []
    left = np.ones(chunk.rows, dtype=np.bool_)
    for good, reason, detail in (
        (model >= 0, "unknown_model", f"{mapping.model!r} holds no model that is configured"),
        (timely, "bad_timestamp", f"{mapping.timestamp!r} holds no time from 1970 to 2200"),
        (_named(ids), "missing_field", f"{mapping.id!r} holds no id"),
        (usable, "bad_label", f"{mapping.label!r} holds no label that the model can have"),
    ):
        rejects += [Reject(r, reason, detail) for r in np.flatnonzero(left & ~good).tolist()]
        left &= good
    rejects.sort(key=lambda reject: reject.record)
    rows = np.flatnonzero(left)
    labels = LabelBatch(ids, time, time, value, np.arange(chunk.rows)).take(rows)
    return DecodedLabels(known.split(model[rows], labels), rejects)
