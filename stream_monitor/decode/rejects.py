"""Why an event is refused, and what is kept of it."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from stream_monitor.batch import Reject
from stream_monitor.decode.several import Form
from stream_monitor.schema import IntArray

# Every reason for which an event becomes a dead letter; a bounded set, for it is a metric's label.
REASONS = {
    "too_large": "the record exceeds limits.max_record_size",
    "not_json": "the payload is no JSON",
    "bad_arrow": "the payload begins as Arrow IPC does, and is damaged or claims too much memory",
    "not_an_object": "the payload is JSON but no object",
    "missing_field": "a part that every event needs is not there",
    "bad_timestamp": "the event time or arrival is no time between 1970 and 2200",
    "unknown_model": "no configured model has this name and version",
    "bad_label": "a label record has no label, or one that the model cannot have",
    "bad_join_rows": "a record of the join's own topic holds no rows of ours, or is damaged",
    "clock_skew": "the event time is further ahead of the record timestamp than time.allowed_skew",
}

_LONGEST = 300  # characters of a detail
_ALONE = 10  # rejects of one record and reason that are kept by themselves
_MOST = 10_000  # rejects of a run of records


class RejectedError(Exception):
    """An event cannot be used: one of :data:`REASONS`, and a detail for people, cut to length."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail[:_LONGEST])
        self.reason = reason


class Refused(NamedTuple):
    """Rows of a table that cannot be used, int64[r], and why."""

    rows: IntArray
    reason: str
    detail: str


class Rejects:
    """What is refused of a run of records, in a bounded number of :class:`Reject`.

    A record of 1 MiB can hold half a million bad events. Of one record and reason ten are kept by
    themselves; the others are one more, a record of them, so that nothing is lost and nothing is
    there twice. Beyond ten thousand of a run, all that follow are one for each reason.
    """

    def __init__(self) -> None:
        self._found: list[Reject] = []
        self._record = -1
        self._alone: Counter[str] = Counter()
        self._more: Counter[str] = Counter()
        self._form = Form.ARRAY
        self._records: dict[str, bytearray] = {}
        self._beyond = 0  # records that came when there was no room for one of their own

    def add(self, reject: Reject, form: Form = Form.ARRAY) -> None:
        """One more; those of a record follow each other, and ``form`` is how they stand in it."""
        full = len(self._found) >= _MOST
        if reject.record != self._record:
            if full:
                self._beyond += 1
            else:
                self._fold()
            self._alone.clear()
            self._record, self._form = reject.record, form
        if full or self._alone[reject.reason] == _ALONE:
            self._more[reject.reason] += reject.count
            if reject.payload is not None and not full:
                before, between, _ = form.value
                record = self._records.setdefault(reject.reason, bytearray())
                record += (between if record else before) + reject.payload
            return
        self._alone[reject.reason] += 1
        self._found.append(reject)

    def all(self) -> list[Reject]:
        """All of them; nothing is added afterwards."""
        if len(self._found) >= _MOST:
            self._records.clear()  # they are not all that is counted
            self._fold("of this record and those before it")
        else:
            self._fold()
        return self._found

    def _fold(self, where: str = "of this record like these") -> None:
        for reason, number in self._more.items():
            record = self._records.get(reason)
            payload = None if record is None else bytes(record) + self._form.value[-1]
            detail = f"and {number:,} more events {where}"
            self._found.append(Reject(self._record, reason, detail, payload, number, self._beyond))
            self._beyond = 0
        self._more.clear()
        self._records.clear()
