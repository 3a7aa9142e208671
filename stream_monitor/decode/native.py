"""JSON events → column batches, through structs typed by the reference's schema.

msgspec decodes an event straight into a struct whose fields are the columns; what it refuses goes
through :mod:`stream_monitor.decode.lenient`, alone, which finds out what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any, Literal

import msgspec
import numpy as np

from stream_monitor.batch import ColumnBatch, Decoded, Reject, concatenate, empty_wrong
from stream_monitor.config.model import MappingConfig
from stream_monitor.decode import timestamps
from stream_monitor.decode.base import Target, choose
from stream_monitor.decode.ids import id_hashes
from stream_monitor.decode.lenient import LenientDecoder, code_of, unseen_of
from stream_monitor.decode.paths import Path, Paths
from stream_monitor.schema import BoolArray, FloatArray, IntArray, Kind, category_of
from stream_monitor.sources.base import Records

_Scalar = str | int | float | bool | None
_Name = str | int | None
_MAX_KNOWN = 1024
_REFUSALS = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


class NativeDecoder:
    """Decodes JSON objects, one event a record."""

    def __init__(self, mapping: MappingConfig, targets: list[Target], max_record_size: int) -> None:
        paths = Paths(mapping)
        self._targets = targets
        self._max_record_size = max_record_size
        self._own_stamps = not paths.arrives_at_event_time
        self._typed = [_TypedDecoder(paths, target) for target in targets]
        self._lenient = LenientDecoder(mapping, targets)
        self._pick = _chooser(paths, targets)

    def decode(self, records: Records) -> Decoded:
        """Every record as an event of one of the models, or as a reject; in input order."""
        decoded = Decoded()
        stamps = records.timestamps if self._own_stamps else None
        members: list[tuple[list[int], list[Any]]] = [([], []) for _ in self._targets]
        refused: list[int] = []
        limit, pick = self._max_record_size, self._pick
        decoders = [typed.decode for typed in self._typed]
        for record, payload in enumerate(records.payloads):
            if len(payload) > limit:
                detail = f"{len(payload)} bytes or more, the limit is {limit}"
                decoded.rejects.append(Reject(record, "too_large", detail))
                continue
            try:
                index = pick(payload)
                event = decoders[index](payload)
            except _REFUSALS:
                refused.append(record)
                continue
            numbers, events = members[index]
            numbers.append(record)
            events.append(event)
        parts: dict[int, list[ColumnBatch]] = {}
        for index, (numbers, events) in enumerate(members):
            if events:
                record_of = np.array(numbers, dtype=np.int64)
                batch, unusable = self._typed[index].batch(events, record_of, stamps)
                refused += unusable.tolist()
                parts[index] = [batch]
        if refused:
            refused.sort()
            found, rejects = self._lenient.decode(
                [records.payloads[r] for r in refused], np.array(refused), stamps
            )
            decoded.rejects += rejects
            for index, batch in found:
                parts.setdefault(index, []).append(batch)
        for index, some in parts.items():
            batch = concatenate(self._targets[index].schema, some)
            in_order = len(some) == 1
            decoded.batches[index] = batch if in_order else batch.take(np.argsort(batch.record))
        return decoded


def _chooser(paths: Paths, targets: list[Target]) -> Callable[[bytes], int]:
    """Which model an event is for.

    With one model its typed struct alone refuses what is not for it; with several the event is
    looked at twice.
    """
    if len(targets) == 1:
        return lambda _payload: 0
    tree: dict[str, Any] = {}
    chosen_by = [p for p in (paths.model, paths.version) if p]
    for path in chosen_by:
        _plant(tree, path, _Name)
    names: dict[Path, str] = {}
    envelope = msgspec.json.Decoder(_struct(tree, (), names, set())).decode
    model, version = (attrgetter(names[p]) if p else None for p in (paths.model, paths.version))
    known: dict[tuple[str | int | None, str | int | None], int] = {}

    def pick(payload: bytes) -> int:
        event = envelope(payload)
        pair = (model(event) if model else None, version(event) if version else None)
        index = known.get(pair)
        if index is None:
            index = choose(targets, *(None if v is None else str(v) for v in pair))
            if index is None:
                raise msgspec.DecodeError("the event names no configured model")
            if len(known) < _MAX_KNOWN:  # versions may be without number where any fits
                known[pair] = index
        return index

    return pick


class _TypedDecoder:
    """Structs and getters of one model."""

    def __init__(self, paths: Paths, target: Target) -> None:
        schema = target.schema
        continuous = [paths.column(c) for c in schema.continuous]
        categorical = [paths.column(c) for c in schema.categorical]
        tree: dict[str, Any] = {}
        for path in continuous:
            _plant(tree, path, float | None)
        for column, path in zip(schema.categorical, categorical, strict=True):
            _plant(tree, path, bool | None if column.kind is Kind.BOOLEAN else _Scalar)
        for path, own in ((paths.model, target.name), (paths.version, target.version)):
            if path and own:
                _plant(tree, path, Literal[_spellings(own)] | None)
        if paths.id:
            _plant(tree, paths.id, _Name | float)
        required = {p for p in (paths.time, paths.arrival) if p}
        for path in required:
            _plant(tree, path, float | str)
        names: dict[Path, str] = {}
        struct = _struct(tree, (), names, required | {paths.features})
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(struct).decode
        self._time = attrgetter(names[paths.time]) if paths.time else None
        self._arrival = attrgetter(names[paths.arrival]) if paths.arrival else None
        self._id = attrgetter(names[paths.id]) if paths.id else None
        self._numbers = _groups([names[p] for p in continuous])
        self._codes = [attrgetter(names[p]) for p in categorical]
        self._known = [_Codes(c.kind, target.categories[c.name]) for c in schema.categorical]
        self._width = len(continuous)

    def batch(
        self, events: Sequence[Any], record: IntArray, stamps: IntArray | None
    ) -> tuple[ColumnBatch, IntArray]:
        """The columns of events, and the records of those whose times cannot be used."""
        n = len(events)
        usable = np.ones(n, dtype=np.bool_)
        time = np.zeros(n, dtype=np.int64)
        if self._time:
            time, usable = _times(map(self._time, events))
        if self._arrival:
            arrival, known = _times(map(self._arrival, events))
            usable &= known
        else:
            arrival = time if stamps is None else stamps[record]
        codes = np.empty((len(self._known), n), dtype=np.int32)
        unseen: list[tuple[int, int, str]] = []
        for m, (getter, known_codes) in enumerate(zip(self._codes, self._known, strict=True)):
            codes[m] = [*map(known_codes.__getitem__, map(getter, events))]
            unseen += (
                (m, event, category_of(getter(events[event])) or "")
                for event in np.flatnonzero(codes[m] == known_codes.unseen).tolist()
            )
        ids = id_hashes(map(self._id, events) if self._id else repeat(None, n), n)
        numbers = self._columns(events)
        batch = ColumnBatch(
            time, arrival, numbers, codes, empty_wrong(), record, ids, unseen_of(unseen)
        )
        if usable.all():
            return batch, np.empty(0, dtype=np.int64)
        return batch.take(np.flatnonzero(usable)), record[~usable]

    def _columns(self, events: Sequence[Any]) -> FloatArray:
        numbers = np.empty((self._width, len(events)))
        for rows, parent, leaves in self._numbers:
            holders = events if parent is None else [*map(parent, events)]
            values = np.array([*map(leaves, holders)], dtype=np.float64)
            numbers[rows] = values.reshape(len(events), -1).T
        return numbers


class _Codes(dict[object, int]):
    """Value → code; what is not a known string is worked out, and not remembered."""

    def __init__(self, kind: Kind, known: Mapping[str, int]) -> None:
        super().__init__()
        self.update(known)
        self.unseen = len(known)
        self[None] = self.unseen + 1
        self._kind, self._known = kind, known

    def __missing__(self, value: object) -> int:
        return code_of(value, self._kind, self._known)


def _times(values: Iterable[float | str]) -> tuple[IntArray, BoolArray]:
    found = list(values)
    array = np.array(found)
    if array.dtype.kind != "U":
        return timestamps.of_numbers(array.astype(np.float64))
    times = [
        timestamps.of_text(v) if isinstance(v, str) else timestamps.of_number(v) for v in found
    ]
    usable = np.array([t is not None for t in times], dtype=np.bool_)
    return np.array([t or 0 for t in times], dtype=np.int64), usable


def _groups(names: list[str]) -> list[tuple[list[int], Any, Any]]:
    """Attributes by the object that holds them: (rows, getter of the holder, getter of all)."""
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(name.rpartition(".")[0], []).append(i)
    return [
        (rows, attrgetter(parent) if parent else None,
         attrgetter(*(names[i].rpartition(".")[2] for i in rows)))
        for parent, rows in groups.items()
    ]  # fmt: skip


def _spellings(text: str) -> tuple[str | int, ...]:
    """A name as JSON may bring it: version 3 is "3" or 3."""
    return (text, int(text)) if text.isdecimal() and str(int(text)) == text else (text,)


def _plant(tree: dict[str, Any], path: Path, kind: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = kind


def _struct(
    tree: dict[str, Any], at: Path, names: dict[Path, str], required: set[Path]
) -> type[msgspec.Struct]:
    """A struct type for a tree of fields, all optional but for the ``required`` ones.

    ``names`` receives each field's attribute path. Attributes are numbered, for JSON keys need not
    be Python names.
    """
    fields: list[Any] = []
    rename: dict[str, str] = {}
    prefix = names.get(at)
    for i, (key, node) in enumerate(tree.items()):
        attribute, path = f"f{i}", (*at, key)
        rename[attribute] = key
        names[path] = f"{prefix}.{attribute}" if prefix else attribute
        if not isinstance(node, dict):
            fields.append((attribute, node) if path in required else (attribute, node, None))
            continue
        inner = _struct(node, path, names, required)
        if path in required or any(f.required for f in msgspec.structs.fields(inner)):
            fields.append((attribute, inner))
        else:
            fields.append((attribute, inner, msgspec.field(default_factory=inner)))
    fields.sort(key=len)  # required ones first
    return msgspec.defstruct("Event", fields, rename=rename, gc=False)
