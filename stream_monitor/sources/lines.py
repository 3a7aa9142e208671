"""Splitting bytes into lines without ever holding more than one line too many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stream_monitor.schema import IntArray

BLOCK = 2**20


def offsets_of(lines: Sequence[tuple[int, bytes]]) -> IntArray:
    """Where each line begins, int64[n]."""
    return np.array([offset for offset, _ in lines], dtype=np.int64)


@dataclass(slots=True)
class Lines:
    """Complete lines of a byte stream, with the offset at which each begins.

    A line longer than ``max_size`` is delivered as its first ``max_size + 1`` bytes, which the
    decoder refuses as too large; the rest of it is passed over.

    Attributes
    ----------
    offset
        Of the first byte that has not been fed yet.
    """

    max_size: int
    offset: int = 0
    _partial: bytes = b""
    _skipping: bool = False
    _start: int = field(default=0)

    def __post_init__(self) -> None:
        self._start = self.offset

    @property
    def resume(self) -> int:
        """Where the first line that was not delivered begins: the position to restart from."""
        return self._start

    def feed(self, block: bytes) -> list[tuple[int, bytes]]:
        """Lines that end in this block, as (offset, line without its end), but empty ones."""
        found: list[tuple[int, bytes]] = []
        pieces = block.split(b"\n")
        last = len(pieces) - 1
        for i, piece in enumerate(pieces):
            if i < last:
                line = self._partial + piece if self._partial else piece
                self.offset += len(piece) + 1
                if not self._skipping:
                    self._add(found, line)
                self._partial, self._skipping, self._start = b"", False, self.offset
            else:
                self.offset += len(piece)
                self._keep(found, piece)
        return found

    def finish(self) -> list[tuple[int, bytes]]:
        """The last line, where the stream ended without a line end."""
        found: list[tuple[int, bytes]] = []
        if self._partial and not self._skipping:
            self._add(found, self._partial)
        self._partial, self._skipping, self._start = b"", False, self.offset
        return found

    def _add(self, found: list[tuple[int, bytes]], line: bytes) -> None:
        if line.endswith(b"\r"):
            line = line[:-1]
        if line:
            found.append((self._start, line[: self.max_size + 1]))

    def _keep(self, found: list[tuple[int, bytes]], piece: bytes) -> None:
        if self._skipping:
            return
        self._partial += piece
        if len(self._partial) > self.max_size:
            self._add(found, self._partial)
            self._partial, self._skipping = b"", True
