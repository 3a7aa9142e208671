"""What a join keeps beside its panes, for others to know: marks, floors, its ledgers' sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from stream_monitor.labels.packing import Mark
from stream_monitor.panes.partition import Partition
from stream_monitor.store.base import PaneKey


class Held(msgspec.Struct, array_like=True, frozen=True):
    """Rows of a ledger, and its bytes on disk and in memory."""

    rows: int
    bytes: int
    memory: int


class Beside(msgspec.Struct):
    """The ``owner`` part of a join's partition.

    ``marks`` say how far the partitions were read whose rows have come, ``floors`` below which time
    a ledger's rows are gone, ``held`` what a ledger holds.
    """

    marks: dict[str, Mark] = {}
    floors: dict[str, int] = {}
    held: dict[str, Held] = {}


class Joined(Protocol):
    """A join as those see it who evaluate its panes."""

    partition: Partition
    touched: set[PaneKey]

    @property
    def marks(self) -> Mapping[str, Mark]:
        """How far the partitions were read whose rows have come."""

    @property
    def names(self) -> list[str]:
        """Of the models."""

    @property
    def held(self) -> Mapping[str, Held]:
        """By ledger."""

    def forget(self, floor: int) -> None:
        """No label of predictions before this time will count any more."""


class JoinReplica:
    """The panes of a join that another process owns."""

    def __init__(self, name: str, names: list[str]) -> None:
        self._names = names
        self.partition = Partition(name)
        self.touched: set[PaneKey] = set()

    @property
    def names(self) -> list[str]:
        return self._names

    @property
    def _beside(self) -> Beside:
        return msgspec.json.decode(self.partition.owner, type=Beside)

    @property
    def marks(self) -> dict[str, Mark]:
        return self._beside.marks

    @property
    def held(self) -> dict[str, Held]:
        return self._beside.held

    def forget(self, floor: int) -> None:
        """Its owner does, when it is told."""
