"""Reading the JSON events of records through structs.

Typed decoders do the bulk; what they refuse is left to be looked at alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
import numpy as np

from stream_monitor.batch import Reject
from stream_monitor.decode.rejects import Refused, RejectedError, Rejects
from stream_monitor.decode.several import (
    REFUSALS,
    SHIFT,
    Form,
    Several,
    form_of,
    is_arrow,
    split,
)
from stream_monitor.errors import ProfileError

if TYPE_CHECKING:  # pyarrow takes 35 MB, so it is imported with the first record that is Arrow's
    from stream_monitor.decode.arrow import Rows

_NUMBER = (1 << SHIFT) - 1
_TOGETHER = 1_000  # batches of single events that are joined as soon as they are there

B = TypeVar("B")


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
    that nobody needs to look at; ``several`` has those records that hold several events, each with
    the form that they have there; ``tables`` are the places of records that are Arrow IPC.
    """

    def __init__(self, payloads: Sequence[bytes], decoders: int) -> None:
        self.members: list[tuple[list[int], list[Any]]] = [([], []) for _ in range(decoders)]
        self.refused = array("q")
        self.rejects = Rejects()
        self.several: dict[int, Form] = {}
        self.tables: list[int] = []
        self._payloads = payloads
        self._split: tuple[int, Sequence[bytes]] = -1, ()

    def left(self) -> Iterable[int]:
        """The refused places, in order."""
        np.asarray(self.refused).sort()
        return self.refused

    def rows(
        self, max_record_size: int, decode: Callable[[Rows], tuple[B, list[Refused]]]
    ) -> Iterator[B]:
        """What ``decode`` makes of records that are Arrow IPC; what cannot be used is refused."""
        if not self.tables:
            return
        from stream_monitor.decode import arrow  # noqa: PLC0415 - see TYPE_CHECKING

        payloads = ((place, self._payloads[place >> SHIFT]) for place in self.tables)
        for rows in arrow.together(payloads, max_record_size, self.refuse):
            yield from self._decoded(rows, decode, (*arrow.UNREADABLE, ProfileError, RejectedError))

    def _decoded(
        self,
        rows: Rows,
        decode: Callable[[Rows], tuple[B, list[Refused]]],
        wrong: tuple[type[Exception], ...],
    ) -> Iterator[B]:
        try:
            found, refused = decode(rows)
        except wrong as error:
            each = rows.each()
            if len(each) > 1:  # one of them spoils only itself
                for single in each:
                    yield from self._decoded(single, decode, wrong)
                return
            every = np.arange(len(rows.place))
            refused = [Refused(every, "bad_arrow", str(error))]
        else:
            yield found
        for which, reason, detail in refused:
            for place, own, number in rows.split(which):
                self.rejects.add(Reject(place >> SHIFT, reason, detail[:300], own, number))

    def payload(self, place: int) -> bytes:
        """The bytes of the event at a place.

        Places are asked for in order, so the events of one record at a time are held.
        """
        record = place >> SHIFT
        if record not in self.several:
            return self._payloads[record]
        if record != self._split[0]:
            self._split = record, split(self._payloads[record]) or ()
        events, number = self._split[1], place & _NUMBER
        # how deep an array may nest hangs on the stack: what was read may be beyond reach here
        return bytes(events[number]) if number < len(events) else self._payloads[record]

    def refuse(self, place: int, error: RejectedError) -> None:
        """Reject the event at a place, with its own bytes where the record has several."""
        record = place >> SHIFT
        form = self.several.get(record)
        own = None if form is None else self.payload(place)
        self.rejects.add(Reject(record, error.reason, str(error), own), form or Form.ARRAY)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which struct type events are for; refuses with a DecodeError what is for none.

    ``one`` tells it of an event, ``each`` of a record of several which types they are for.
    """

    one: Callable[[bytes], int]
    each: Callable[[bytes], set[int]]


ONLY = Choice(lambda _payload: 0, lambda _record: {0})


class Reader:
    """Reads events of records through one struct type for each model."""

    def __init__(
        self, structs: Sequence[type[msgspec.Struct]], choice: Choice, max_record_size: int
    ) -> None:
        self._choice, self._limit = choice, max_record_size
        self._decoders = [msgspec.json.Decoder(struct).decode for struct in structs]
        self._several = [Several(struct) for struct in structs]

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
                if not self._apart(read, place):
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
            except REFUSALS:
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
            except REFUSALS:  # those before it are there, and it goes on behind it
                bad.append(len(events) + len(bad))
        read.refused.extend(places[i] for i in bad)
        if bad:
            known = set(bad)
            places = [place for i, place in enumerate(places) if i not in known]
        read.members[0][0].extend(places)
        read.members[0][1].extend(events)

    def _apart(self, read: Read, place: int) -> bool:
        """Read the events of a record that holds several; False where it does not."""
        payload, record = read.payload(place), place >> SHIFT
        if is_arrow(payload):
            read.tables.append(place)
            return True
        form = form_of(payload)
        try:
            index, *others = self._choice.each(payload) or {0}
            if not others:
                events = self._several[index](payload)
                if form is Form.ARRAY or len(events) > 1:
                    read.several[record] = form
                    read.members[index][0].extend(range(place, place + len(events)))
                    read.members[index][1].extend(events)
                    return True
        except REFUSALS:
            pass  # which of them it is shows when each is read alone
        found = split(payload)
        if found is None:
            return False
        read.several[record] = form
        self._each(read, range(place, place + len(found)), found)
        return True


def number_of(payload: bytes, max_record_size: int) -> int:
    """How many events a record holds; what cannot be read is one."""
    if is_arrow(payload):
        from stream_monitor.decode.arrow import table_of  # noqa: PLC0415 - see TYPE_CHECKING

        try:
            return len(table_of(payload, max_record_size))
        except RejectedError:
            return 1
    found = split(payload)
    return 1 if found is None else len(found)
