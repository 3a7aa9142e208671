"""What every source of events offers, and the words for it.

A source has *partitions*, each an ordered run of records with a *position*: a short string that
says where the next unread record begins (a Kafka offset, a file and byte). The monitor keeps the
positions in its checkpoint, beside everything that the records before them caused; a source never
remembers one by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, overload

import numpy as np

from stream_monitor.schema import IntArray


def escaped(text: str) -> str:
    """Text that stands for itself in the ``form`` of :class:`Places`."""
    return text.replace("{", "{{").replace("}", "}}")


class Places(Sequence[str]):
    """Where each record stands, worked out only for those that somebody asks about."""

    def __init__(self, form: str, numbers: Sequence[int]) -> None:
        self._form, self._numbers = form, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Places: ...
    def __getitem__(self, index: int | slice) -> str | Places:
        if isinstance(index, slice):
            return Places(self._form, self._numbers[index])
        return self._form.format(self._numbers[index])


@dataclass(frozen=True, slots=True)
class Records:
    """A run of records of one partition, in order.

    Attributes
    ----------
    partition
        Name of the partition, stable over restarts: ``topic:3``, ``events.jsonl``.
    payloads
        The bytes of each record.
    places
        Where each record stands, for people: ``topic[3]@1207``, ``events.jsonl:88``.
    position
        Where the record after the last of these begins.
    timestamps : int64[n] or None
        Record timestamps in microseconds since the epoch; None where the source has none.
    offsets : int64[n]
        Numbers that rise with the records of the partition: Kafka's offsets, bytes of a file.
    keys, headers
        As the record carried them, for dead letters; empty where the source has none.
    """

    partition: str
    payloads: Sequence[bytes]
    places: Sequence[str]
    position: str
    timestamps: IntArray | None = None
    offsets: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    keys: Sequence[bytes | None] = ()
    headers: Sequence[Sequence[tuple[str, bytes]]] = ()

    def __len__(self) -> int:
        return len(self.payloads)

    def head(self, number: int) -> Records:
        """The first of these, where offsets are positions."""
        return Records(
            self.partition,
            self.payloads[:number],
            self.places[:number],
            str(self.offsets[number]),
            None if self.timestamps is None else self.timestamps[:number],
            self.offsets[:number],
            self.keys[:number],
            self.headers[:number],
        )


@dataclass(slots=True)
class Poll:
    """What a source has to tell since it was last asked.

    ``assigned`` partitions send nothing until :meth:`Source.seek` was called for them; ``revoked``
    ones send nothing more, and what they sent since the last commit belongs to their next owner.
    ``at_end`` are the partitions known to be read to their end at this moment, and ``ends`` says of
    those that others may look at, too, where that was. ``finished`` says
    that no record will ever come again (a finite input). ``joined`` says that what is assigned is
    all that there is for us, be it nothing. ``lost`` are the records of a partition that were
    deleted before they were read.
    """

    records: list[Records] = field(default_factory=list)
    assigned: tuple[str, ...] = ()
    revoked: tuple[str, ...] = ()
    at_end: frozenset[str] = frozenset()
    ends: Mapping[str, int] = field(default_factory=dict)
    lag: Mapping[str, int] = field(default_factory=dict)
    finished: bool = False
    joined: bool = False
    lost: Mapping[str, int] = field(default_factory=dict)


class Source(Protocol):
    """An input. All methods are called from one thread."""

    def poll(self, timeout_seconds: float) -> Poll:
        """Wait at most ``timeout_seconds`` for records or a change of assignment."""

    def seek(self, partition: str, position: str | None) -> str | None:
        """Begin reading ``partition`` at ``position``, or where the configuration says if None.

        Returns
        -------
        Where that is; None where only the first record will tell.
        """

    def pause(self, partitions: frozenset[str]) -> None:
        """Hold back exactly these partitions and let all others flow."""

    def close(self) -> None:
        """Release everything; the source is not used again."""
