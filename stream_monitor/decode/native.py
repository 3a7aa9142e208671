"""Records → column batches.

msgspec decodes a JSON event straight into a struct that is typed by the reference's schema, whose
fields are the columns; what it refuses goes through :mod:`stream_monitor.decode.lenient`, alone,
which finds out what is wrong with it. Arrow records are columns already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from stream_monitor.batch import ColumnBatch, Decoded, concatenate, empty_wrong
from stream_monitor.config.model import MappingConfig
from stream_monitor.decode import timestamps
from stream_monitor.decode.base import Target, choose, plant, spellings, struct_of, times_of
from stream_monitor.decode.ids import id_hashes, no_ids
from stream_monitor.decode.lenient import LenientDecoder, code_of, unseen_of
from stream_monitor.decode.paths import Path, Paths
from stream_monitor.decode.reader import ONLY, Choice, Gathered, Reader
from stream_monitor.decode.rejects import Refused, RejectedError
from stream_monitor.decode.several import SHIFT, Several
from stream_monitor.schema import FloatArray, IntArray, Kind, category_of
from stream_monitor.sources.base import Records

if TYPE_CHECKING:  # pyarrow takes 35 MB, so it is imported with the first record that is Arrow's
    from stream_monitor.decode.arrow import Rows
    from stream_monitor.decode.table import TableDecoder

_Scalar = str | int | float | bool | None
_Name = str | int | None
_RUN = 512  # records decoded at once: events stay in the processor's cache until they are columns
_MAX_KNOWN, _LONGEST = 1024, 64  # names and versions that are remembered: how many, how long


class NativeDecoder:
    """Decodes events: a JSON object, several in one record, or rows of an Arrow record."""

    def __init__(self, mapping: MappingConfig, targets: list[Target], max_record_size: int) -> None:
        paths = Paths(mapping)
        self._targets = targets
        self._own_stamps = not paths.arrives_at_event_time
        self._typed = [_TypedDecoder(paths, target) for target in targets]
        self._lenient = LenientDecoder(mapping, targets)
        structs = [typed.struct for typed in self._typed]
        self._reader = Reader(structs, _choice(paths, targets), max_record_size)
        self._mapping, self._limit = mapping, max_record_size

    def decode(self, records: Records) -> Decoded:
        """Every event as one of a model's, or as a reject; in input order.

        Events of one record have the same ``record``.
        """
        decoded = Decoded()
        stamps = records.timestamps if self._own_stamps else None
        parts = [Gathered(partial(concatenate, target.schema)) for target in self._targets]
        for read in self._reader.runs(records.payloads, _RUN):
            for index, (places, events) in enumerate(read.members):
                if events:
                    batch, unusable = self._typed[index].batch(events, np.array(places), stamps)
                    read.refused.extend(unusable.tolist())
                    parts[index].large.append(batch)
        for place in read.left():
            stamp = None if stamps is None else int(stamps[place >> SHIFT])
            try:
                index, batch = self._lenient.event(read.payload(place), place, stamp)
            except RejectedError as error:
                read.refuse(place, error)
            else:
                parts[index].add(batch)
        for batches in read.rows(self._limit, partial(self._rows, stamps)):
            for index, batch in batches:
                parts[index].large.append(batch)
        decoded.rejects = read.rejects.all()
        for index, some in enumerate(parts):
            if not some:
                continue
            batch = some.joined()
            if (np.diff(batch.record) < 0).any():
                batch = batch.take(np.argsort(batch.record))
            batch.record = batch.record >> SHIFT
            decoded.batches[index] = batch
        return decoded

    @cached_property
    def _table(self) -> TableDecoder:
        from stream_monitor.decode.table import TableDecoder  # noqa: PLC0415 - see TYPE_CHECKING

        return TableDecoder(self._mapping, self._targets)

    def _rows(
        self, stamps: IntArray | None, rows: Rows
    ) -> tuple[list[tuple[int, ColumnBatch]], list[Refused]]:
        """Batches of the rows of Arrow records, ``record`` of which are places; and other rows."""
        chunk = rows.chunk()
        placed = self._table.place(chunk, None if stamps is None else rows.of(stamps))
        batches = [*self._table.batches(chunk, placed)]
        for _, batch in batches:
            batch.record = rows.place[batch.record]
        return batches, placed.refused


def _choice(paths: Paths, targets: list[Target]) -> Choice:
    """Which model an event is for.

    With one model its typed struct alone refuses what is not for it; with several the event is
    looked at twice.
    """
    if len(targets) == 1:
        return ONLY
    tree: dict[str, Any] = {}
    chosen_by = [p for p in (paths.model, paths.version) if p]
    for path in chosen_by:
        plant(tree, path, _Name)
    names: dict[Path, str] = {}
    struct = struct_of(tree, (), names, set())
    envelope = msgspec.json.Decoder(struct).decode
    envelopes = Several(struct)
    model, version = (attrgetter(names[p]) if p else None for p in (paths.model, paths.version))
    known: dict[tuple[str | int | None, str | int | None], int] = {}

    def chosen(event: Any) -> int:
        pair = (model(event) if model else None, version(event) if version else None)
        index = known.get(pair)
        if index is None:
            index = choose(targets, *(None if v is None else str(v) for v in pair))
            if index is None:
                raise msgspec.DecodeError("the event names no configured model")
            # versions may be without number and of any length where any fits
            short = all(not isinstance(v, str) or len(v) <= _LONGEST for v in pair)
            if short and len(known) < _MAX_KNOWN:
                known[pair] = index
        return index

    return Choice(
        lambda event: chosen(envelope(event)), lambda many: {*map(chosen, envelopes(many))}
    )


class _TypedDecoder:
    """Structs and getters of one model."""

    def __init__(self, paths: Paths, target: Target) -> None:
        schema = target.schema
        continuous = [paths.column(c) for c in schema.continuous]
        categorical = [paths.column(c) for c in schema.categorical]
        tree: dict[str, Any] = {}
        for path in continuous:
            plant(tree, path, float | None)
        for column, path in zip(schema.categorical, categorical, strict=True):
            plant(tree, path, bool | None if column.kind is Kind.BOOLEAN else _Scalar)
        for path, own in ((paths.model, target.name), (paths.version, target.version)):
            if path and own:
                plant(tree, path, Literal[spellings(own)] | None)
        if paths.id:
            plant(tree, paths.id, _Name | float)
        required = {p for p in (paths.time, paths.arrival) if p}
        for path in required:
            plant(tree, path, float | str)
        names: dict[Path, str] = {}
        self.struct = struct_of(tree, (), names, required | {paths.features})
        self._time = attrgetter(names[paths.time]) if paths.time else None
        self._arrival = attrgetter(names[paths.arrival]) if paths.arrival else None
        self._id = attrgetter(names[paths.id]) if paths.id else None
        self._numbers = _groups(self.struct, [names[p] for p in continuous])
        self._codes = [attrgetter(names[p]) for p in categorical]
        self._known = [_Codes(c.kind, target.categories[c.name]) for c in schema.categorical]
        self._width = len(continuous)

    def batch(
        self, events: Sequence[Any], place: IntArray, stamps: IntArray | None
    ) -> tuple[ColumnBatch, IntArray]:
        """The columns of events, and the places of those whose times cannot be used.

        ``record`` of the batch is the events' places, see :class:`Read`.
        """
        n = len(events)
        usable = np.ones(n, dtype=np.bool_)
        time = np.zeros(n, dtype=np.int64)
        if self._time:
            time, usable = times_of(map(self._time, events))
        if self._arrival:
            arrival, known = times_of(map(self._arrival, events))
            usable &= known
        else:
            arrival = time if stamps is None else stamps[place >> SHIFT]
            if stamps is not None:
                usable &= timestamps.known(arrival)
        codes = np.empty((len(self._known), n), dtype=np.int32)
        unseen: list[tuple[int, int, str]] = []
        for m, (getter, known_codes) in enumerate(zip(self._codes, self._known, strict=True)):
            codes[m] = known_codes.of([*map(getter, events)])
            unseen += (
                (m, event, category_of(getter(events[event])) or "")
                for event in np.flatnonzero(codes[m] == known_codes.unseen).tolist()
            )
        ids = id_hashes(map(self._id, events)) if self._id else no_ids(n)
        numbers = self._columns(events)
        batch = ColumnBatch(
            time, arrival, numbers, codes, empty_wrong(), place, ids, unseen_of(unseen)
        )
        if usable.all():
            return batch, np.empty(0, dtype=np.int64)
        return batch.take(np.flatnonzero(usable)), place[~usable]

    def _columns(self, events: Sequence[Any]) -> FloatArray:
        numbers = np.empty((self._width, len(events)))
        for rows, getters in self._numbers:
            found: Iterable[Any] = events
            for getter in getters:
                found = map(getter, found)
            flat = chain.from_iterable(found) if len(rows) > 1 else found
            values = np.fromiter(flat, np.float64, len(events) * len(rows))  # None becomes NaN
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
        if kind is Kind.BOOLEAN:
            self.update({value: code_of(value, kind, known) for value in (True, False)})
        else:
            # a prediction of 1 is the category "1"; so is 1.0, but true, which equals it, is not
            self.update({s: c for n, c in known.items() for s in spellings(n) if s != n})

    def of(self, values: list[Any]) -> list[int]:
        """The code of each value."""
        if self._kind is not Kind.BOOLEAN and bool in {*map(type, values)}:
            return [code_of(value, self._kind, self._known) for value in values]
        return [*map(self.__getitem__, values)]

    def __missing__(self, value: object) -> int:
        return code_of(value, self._kind, self._known)


def _groups(
    struct: type[msgspec.Struct], names: list[str]
) -> list[tuple[list[int], list[Callable[[Any], Any]]]]:
    """Attributes by the object that holds them: (rows, what leads from an event to their values).

    Where they are the first fields of that object, it becomes a tuple as a whole: that takes a
    third of the time of asking for each.
    """
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        groups.setdefault(name.rpartition(".")[0], []).append(i)
    found = []
    for parent, rows in groups.items():
        leaves = tuple(names[i].rpartition(".")[2] for i in rows)
        getters: list[Callable[[Any], Any]] = [attrgetter(parent)] if parent else []
        if len(leaves) > 1 and _fields(struct, parent)[: len(leaves)] == leaves:
            getters += [msgspec.structs.astuple, itemgetter(slice(len(leaves)))]
        else:
            getters.append(attrgetter(*leaves))
        found.append((rows, getters))
    return found


def _fields(struct: type[msgspec.Struct], path: str) -> tuple[str, ...]:
    """The fields of the struct at an attribute path, in their order."""
    for part in path.split(".") if path else ():
        struct = next(f.type for f in msgspec.structs.fields(struct) if f.name == part)
    return struct.__struct_fields__
