"""The interface to durable state: one checkpoint is offsets and everything they caused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from stream_monitor.values import WindowResult


class PaneKey(NamedTuple):
    """A pane's name: the model's fingerprinted key, its clock, its number on that clock."""

    model: str
    clock: str
    number: int


class ChunkKey(NamedTuple):
    """A pane is stored in chunks of slots, so that a commit writes only what changed."""

    pane: PaneKey
    chunk: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record, or some events of it, that could not be used; kept as it came."""

    partition: str
    place: str
    reason: str
    detail: str
    payload: bytes
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp: int | None = None  # record timestamp, microseconds since the epoch
    count: int = 1  # events that were refused; the payload may hold others, that were not


@dataclass(slots=True)
class PartitionState:
    """One partition's part of a checkpoint.

    ``meta`` is a small JSON object (progress, counters, row numbers), always whole. ``chunks``
    holds the chunks that changed, each whole, never a difference; ``dropped`` the panes whose life
    has ended. On restore ``chunks`` holds all of them.
    """

    position: str | None
    meta: bytes
    chunks: dict[ChunkKey, bytes] = field(default_factory=dict)
    dropped: list[PaneKey] = field(default_factory=list)


@dataclass(slots=True)
class Checkpoint:
    """Everything that the records since the last commit caused. Committed as a whole or not at all.

    ``service`` is what belongs to no partition (which windows were published), a JSON object,
    always whole. ``caches`` holds what could be computed again, by name, where it changed.
    ``outcomes`` is what was published of late labels, and ``ledgers`` which files hold the rows
    that wait for labels, by ledger; both whole, None and empty where labels do not come late.
    """

    partitions: dict[str, PartitionState] = field(default_factory=dict)
    service: bytes = b"{}"
    results: list[WindowResult] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    caches: dict[str, bytes] = field(default_factory=dict)
    outcomes: bytes | None = None
    ledgers: dict[str, bytes] = field(default_factory=dict)


class Store(Protocol):
    """Durable state.

    ``commit`` is atomic: after a crash a restore sees all of a checkpoint or nothing of it. When
    it raises, nothing of the checkpoint took effect.
    """

    def restore_partition(self, partition: str) -> PartitionState | None:
        """What was last committed for the partition, or None."""

    def restore_service(self) -> bytes | None:
        """The ``service`` part of the last checkpoint, or None in a new store."""

    def restore_outcomes(self) -> tuple[bytes | None, dict[str, bytes]]:
        """``outcomes`` and ``ledgers`` of the last checkpoint; None and empty in a new store."""

    def restore_cache(self, name: str) -> bytes | None:
        """What was last committed as the cache of this name, or None."""

    def commit(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint, atomically and durably."""

    def results(self, filters: Mapping[str, str]) -> Iterator[dict[str, object]]:
        """Rows of the results log, newest revision of each window, by COLUMNS; see the API docs."""

    def history(
        self, model: str, version: str, segment: str, window: str, maturity: str
    ) -> list[WindowResult]:
        """The newest 60 closed windows of a name, oldest first, each in its newest revision."""

    @property
    def dead_letters_dropped(self) -> int:
        """How many dead letters were deleted because there were too many."""

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        """The newest dead letters, newest first."""

    def close(self) -> None:
        """Release everything; the store is not used again."""
