"""Splitting bytes into lines without ever holding more than one line too many."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import Self

import numpy as np

from stream_monitor.sources.base import Places, Records

BLOCK = 2**22  # thousands of lines: large runs cost less a line


@dataclass(slots=True)
class Found:
    """Lines without their ends, and the offset at which each begins."""

    offsets: list[int] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.lines)

    def __iadd__(self, other: Self) -> Self:
        self.offsets += other.offsets
        self.lines += other.lines
        return self

    def head(self, number: int) -> tuple[Self, Self]:
        """The first of these, and the others."""
        return (
            type(self)(self.offsets[:number], self.lines[:number]),
            type(self)(self.offsets[number:], self.lines[number:]),
        )

    def records(self, partition: str, form: str, position: str) -> Records:
        """These as records of a partition, ``form`` as for :class:`Places`."""
        offsets = np.array(self.offsets, dtype=np.int64)
        places = Places(form, self.offsets)
        return Records(partition, self.lines, places, position, offsets=offsets)


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

    def feed(self, block: bytes) -> Found:
        """Lines that end in this block, but empty ones."""
        found = Found()
        first, *others = block.split(b"\n")
        if others:
            if not self._skipping:
                self._add(found, self._start, self._partial + first)
            *whole, first = others
            begin = self.offset + len(block) - len(first)
            self._add_all(found, begin, whole, plain=b"\r" not in block)
            self._partial, self._skipping, self._start = b"", False, begin
        self.offset += len(block)
        self._keep(found, first)
        return found

    def finish(self) -> Found:
        """The last line, where the stream ended without a line end."""
        found = Found()
        if self._partial and not self._skipping:
            self._add(found, self._start, self._partial)
        self._partial, self._skipping, self._start = b"", False, self.offset
        return found

    def _add_all(self, found: Found, end: int, lines: list[bytes], *, plain: bool) -> None:
        """Lines that follow each other up to where the last one ends."""
        lengths = [*map(len, lines)]
        begin = end - sum(lengths) - len(lengths)
        begins = [*accumulate((length + 1 for length in lengths[:-1]), initial=begin)]
        if plain and min(lengths, default=0) > 0 and max(lengths) <= self.max_size:
            found += Found(begins, lines)
            return
        for at, line in zip(begins, lines, strict=False):
            self._add(found, at, line)

    def _add(self, found: Found, begin: int, line: bytes) -> None:
        line = line.removesuffix(b"\r")
        if line:
            found.offsets.append(begin)
            found.lines.append(line[: self.max_size + 1])

    def _keep(self, found: Found, piece: bytes) -> None:
        if self._skipping:
            return
        self._partial += piece
        if len(self._partial) > self.max_size:
            self._add(found, self._start, self._partial)
            self._partial, self._skipping = b"", True
