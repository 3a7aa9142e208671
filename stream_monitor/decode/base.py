"""What decoders share: reasons for a refusal, models, reading records, structs made of paths.

A record is one JSON object, which is an event, or an array of them. Typed decoders do the bulk;
what they refuse is left to be looked at alone.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np

from stream_monitor.batch import Reject
from stream_monitor.decode import timestamps
from stream_monitor.decode.paths import Path
from stream_monitor.schema import BoolArray, IntArray, Schema

# Every reason for which an event becomes a dead letter; a bounded set, for it is a metric's label.
REASONS = {
    "too_large": "the record exceeds limits.max_record_size",
    "not_json": "the payload is no JSON",
    "not_an_object": "the payload is JSON but no object",
    "missing_field": "a part that every event needs is not there",
    "bad_timestamp": "the event time or arrival is no time between 1970 and 2200",
    "unknown_model": "no configured model has this name and version",
    "bad_label": "a label record has no label, or one that the model cannot have",
    "bad_join_rows": "a record of the join's own topic holds no rows of ours, or is damaged",
    "clock_skew": "the event time is further ahead of the record timestamp than time.allowed_skew",
}

# A place is where an event stands in a run of records: the record's index and, in the lower bits,
# its number within the record.
SHIFT = 32
_NUMBER = (1 << SHIFT) - 1
_REFUSALS = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)

_LONGEST = 300  # characters of a detail
_ALONE = 10  # rejects of one record and reason that are kept by themselves
_MOST = 10_000  # rejects of a run of records
_TOGETHER = 1_000  # batches of single events that are joined as soon as they are there

B = TypeVar("B")


class RejectedError(Exception):
    """An event cannot be used: one of :data:`REASONS`, and a detail for people, cut to length."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail[:_LONGEST])
        self.reason = reason


class Rejects:
    """What is refused of a run of records, in a bounded number of :class:`Reject`.

    A record of 1 MiB can hold half a million bad events. Of one record and reason ten are kept by
    themselves; the others are one more, an array of them, so that nothing is lost and nothing is
    there twice. Beyond ten thousand of a run, all that follow are one for each reason.
    """

    def __init__(self) -> None:
        self._found: list[Reject] = []
        self._record = -1
        self._alone: Counter[str] = Counter()
        self._more: Counter[str] = Counter()
        self._arrays: dict[str, bytearray] = {}

    def add(self, reject: Reject) -> None:
        """One more; those of a record follow each other."""
        full = len(self._found) >= _MOST
        if reject.record != self._record:
            if not full:
                self._fold()
            self._alone.clear()
            self._record = reject.record
        if full or self._alone[reject.reason] == _ALONE:
            self._more[reject.reason] += reject.count
            if reject.payload is not None and not full:
                array = self._arrays.setdefault(reject.reason, bytearray())
                array += (b"," if array else b"[") + reject.payload
            return
        self._alone[reject.reason] += 1
        self._found.append(reject)

    def all(self) -> list[Reject]:
        """All of them; nothing is added afterwards."""
        if len(self._found) >= _MOST:
            self._arrays.clear()  # they are not all that is counted
            self._fold("of this record and those before it")
        else:
            self._fold()
        return self._found

    def _fold(self, where: str = "of this record like these") -> None:
        for reason, number in self._more.items():
            array = self._arrays.get(reason)
            payload = None if array is None else bytes(array + b"]")
            detail = f"and {number:,} more events {where}"
            self._found.append(Reject(self._record, reason, detail, payload, number))
        self._more.clear()
        self._arrays.clear()


@dataclass(frozen=True, slots=True)
class Target:
    """A model that events are decoded for.

    ``version`` is empty where any version fits. ``categories`` maps each categorical column to the
    codes of its categories.
    """

    name: str
    version: str
    schema: Schema
    categories: Mapping[str, Mapping[str, int]]


def choose(targets: list[Target], name: str | None, version: str | None) -> int | None:
    """The index of the model that an event names, or None.

    An event without a name or version fits if that leaves no choice: one model configured, one
    version of the model.
    """
    fits = [
        i
        for i, t in enumerate(targets)
        if (name is None or t.name == name)
        and (version is None or not t.version or t.version == version)
    ]
    exact = [i for i in fits if version is not None and targets[i].version == version]
    if len(exact) == 1:
        return exact[0]
    return fits[0] if len(fits) == 1 else None


def spellings(text: str) -> tuple[str | int, ...]:
    """A name as JSON may bring it: version 3 is "3" or 3."""
    return (text, int(text)) if text.isdecimal() and str(int(text)) == text else (text,)


class Gathered(Generic[B]):
    """Large batches, and small ones of single events, each kilobytes until they are joined."""

    def __init__(self, join: Callable[[list[B]], B]) -> None:
        self.large: list[B] = []
        self._single: list[B] = []
        self._join = join

    def add(self, batch: B) -> None:
        """One more batch of a single event."""
        self._single.append(batch)
        if len(self._single) == _TOGETHER:
            self.large.append(self._join(self._single))
            self._single = []

    def __bool__(self) -> bool:
        return bool(self.large or self._single)

    def joined(self) -> B:
        """One batch of all, in the order in which they came; there is at least one."""
        return self._join([*self.large, *self._single])


class Read:
    """What typed decoders made of a run of records.

    ``members`` has for each decoder its events and their places; ``refused`` are the places of
    events that no decoder took, as an array, for there may be millions; ``rejects`` are records
    that nobody needs to look at; ``arrays`` are the records that carry several events.
    """

    def __init__(self, payloads: Sequence[bytes], decoders: int) -> None:
        self.members: list[tuple[list[int], list[Any]]] = [([], []) for _ in range(decoders)]
        self.refused = array("q")
        self.rejects = Rejects()
        self.arrays: set[int] = set()
        self._payloads = payloads
        self._split: tuple[int, Sequence[bytes]] = -1, ()

    def left(self) -> Iterable[int]:
        """The refused places, in order."""
        np.asarray(self.refused).sort()
        return self.refused

    def payload(self, place: int) -> bytes:
        """The bytes of the event at a place.

        Places are asked for in order, so the elements of one record at a time are held.
        """
        record = place >> SHIFT
        if record not in self.arrays:
            return self._payloads[record]
        if record != self._split[0]:
            self._split = record, split(self._payloads[record]) or ()
        elements, number = self._split[1], place & _NUMBER
        # how deep an array may nest hangs on the stack: what was read may be beyond reach here
        return bytes(elements[number]) if number < len(elements) else self._payloads[record]

    def refuse(self, place: int, error: RejectedError) -> None:
        """Reject the event at a place, with its own bytes where the record has several."""
        record = place >> SHIFT
        own = self.payload(place) if record in self.arrays else None
        self.rejects.add(Reject(record, error.reason, str(error), own))


@dataclass(frozen=True, slots=True)
class Choice:
    """Which struct type events are for; refuses with a DecodeError what is for none.

    ``one`` tells it of an event, ``each`` of an array which types its elements are for.
    """

    one: Callable[[bytes], int]
    each: Callable[[bytes], set[int]]


ONLY = Choice(lambda _payload: 0, lambda _array: {0})


class Reader:
    """Reads events of records through one struct type for each model."""

    def __init__(
        self, structs: Sequence[type[msgspec.Struct]], choice: Choice, max_record_size: int
    ) -> None:
        self._choice, self._limit = choice, max_record_size
        self._decoders = [msgspec.json.Decoder(struct).decode for struct in structs]
        self._many = [msgspec.json.Decoder(list[struct]).decode for struct in structs]  # type: ignore[valid-type]

    def read(self, payloads: Sequence[bytes]) -> Read:
        """Every event of the records, typed or refused; records beyond the limit as rejects."""
        (read,) = self.runs(payloads, max(len(payloads), 1))
        return read

    def runs(self, payloads: Sequence[bytes], size: int) -> Iterator[Read]:
        """The same, at most so many records at a time: ``members`` are those of the run.

        All else adds up, so there is but one :class:`Read`; it is whole with the last run.
        """
        read = Read(payloads, len(self._decoders))
        places: Sequence[int] = range(0, len(payloads) << SHIFT, 1 << SHIFT)
        limit = self._limit
        if max(map(len, payloads), default=0) > limit:
            large = {r: len(p) for r, p in enumerate(payloads) if len(p) > limit}
            for record, length in large.items():
                detail = f"{length} bytes or more, the limit is {limit}"
                read.rejects.add(Reject(record, "too_large", detail, payloads[record][:limit]))
            places = [place for place in places if place >> SHIFT not in large]
            payloads = [payloads[place >> SHIFT] for place in places]
        for start in range(0, max(len(places), 1), size):
            read.members = [([], []) for _ in self._decoders]
            before, read.refused = read.refused, array("q")
            self._each(read, places[start : start + size], payloads[start : start + size])
            refused, read.refused = read.refused, before
            for place in refused:
                if not self._array(read, place):
                    read.refused.append(place)
            yield read

    def _each(self, read: Read, places: Sequence[int], payloads: Sequence[bytes]) -> None:
        pick, decoders, members = self._choice.one, self._decoders, read.members
        if self._choice is ONLY:
            self._all(read, places, payloads)
            return
        for place, payload in zip(places, payloads, strict=True):
            try:
                index = pick(payload)
                event = decoders[index](payload)
            except _REFUSALS:
                read.refused.append(place)
                continue
            taken, events = members[index]
            taken.append(place)
            events.append(event)

    def _all(self, read: Read, places: Sequence[int], payloads: Sequence[bytes]) -> None:
        """As :meth:`_each` where there is one type: no Python an event."""
        decode, events, left = self._decoders[0], list[Any](), iter(payloads)
        bad: list[int] = []
        while True:
            try:
                events.extend(map(decode, left))
                break
            except _REFUSALS:  # those before it are there, and it goes on behind it
                bad.append(len(events) + len(bad))
        read.refused.extend(places[i] for i in bad)
        if bad:
            known = set(bad)
            places = [place for i, place in enumerate(places) if i not in known]
        read.members[0][0].extend(places)
        read.members[0][1].extend(events)

    def _array(self, read: Read, place: int) -> bool:
        """Read the events of a record that is an array; False where it is none."""
        payload = read.payload(place)
        if payload[:1] != b"[" and payload.lstrip(_BEFORE)[:1] != b"[":
            return False
        record = place >> SHIFT
        try:
            index, *others = self._choice.each(payload) or {0}
            if not others:
                events = self._many[index](payload)
                read.arrays.add(record)
                read.members[index][0].extend(range(place, place + len(events)))
                read.members[index][1].extend(events)
                return True
        except _REFUSALS:
            pass  # which of them it is shows when each is read alone
        elements = split(payload)
        if elements is None:
            return False
        read.arrays.add(record)
        self._each(read, range(place, place + len(elements)), elements)
        return True


_WHITE = " \t\n\r"
_BEFORE = _WHITE.encode() + b"\xef\xbb\xbf\xff\xfe\0"  # byte order marks, and UTF-16's zeros
_raw = msgspec.json.Decoder(list[msgspec.Raw]).decode
# finds where a value ends; what it is does not matter
_value = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode


def split(payload: bytes) -> Sequence[bytes] | None:
    """The elements of a JSON array as they stand there; None where it is no array.

    As everywhere, bare NaN and Infinity are accepted, and UTF-16 as Python's json does. Bytes that
    are no UTF-8 spoil only their element, one nested about a thousand deep its whole array.
    """
    try:
        return _raw(payload)
    except _REFUSALS:
        pass
    try:
        encoding = json.detect_encoding(payload)
        errors = "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass"
        return [e.encode(errors=errors) for e in _elements(payload.decode(encoding, errors))]
    except (ValueError, RecursionError):
        return None


def _elements(text: str) -> list[str]:
    """As :func:`split`, the way Python reads JSON; ValueError where it is no array."""
    found = []
    at = _after(text, 0, "[")
    if text[at : at + 1] != "]":
        while True:
            end = _value(text, at)[1]
            found.append(text[at:end])
            at = _skip_white(text, end)
            if text[at : at + 1] == "]":
                break
            at = _after(text, at, ",")
    if _after(text, at, "]") != len(text):
        raise ValueError("more than an array")
    return found


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


def times_of(values: Iterable[float | str]) -> tuple[IntArray, BoolArray]:
    """Times as JSON brings them: (int64[n] microseconds, bool[n] usable); 0 where not usable."""
    found = list(values)
    if str not in {*map(type, found)}:  # as an array of text all would be as wide as the longest
        return timestamps.of_numbers(np.array(found, dtype=np.float64))
    times = [
        timestamps.of_text(v) if isinstance(v, str) else timestamps.of_number(v) for v in found
    ]
    usable = np.array([t is not None for t in times], dtype=np.bool_)
    return np.array([t or 0 for t in times], dtype=np.int64), usable


def plant(tree: dict[str, Any], path: Path, kind: Any) -> None:
    """Put a leaf of a type into a tree of fields."""
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = kind


def struct_of(
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
        inner = struct_of(node, path, names, required)
        if path in required or any(f.required for f in msgspec.structs.fields(inner)):
            fields.append((attribute, inner))
        else:
            fields.append((attribute, inner, msgspec.field(default_factory=inner)))
    fields.sort(key=len)  # required ones first
    return msgspec.defstruct("Event", fields, rename=rename, gc=False)
