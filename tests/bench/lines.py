"""What a benchmark tells: lines, each a ratio of two things that were measured in one run."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

Tell = Callable[[str], None]


class Line(msgspec.Struct, kw_only=True):
    """One ratio.

    Attributes
    ----------
    what, baseline
        What was measured, and beside what.
    unit
        Of both series.
    ours, theirs
        One value a pair, in the order in which they were measured.
    most, least
        The target: a cost ``ours / theirs`` of at most so much, or a gain ``theirs / ours`` of at
        least so much; neither where a line only tells.
    gain
        Whether the ratio is a gain.
    note
        In a few words, for the reader of the table.
    """

    what: str
    baseline: str
    unit: str
    ours: list[float]
    theirs: list[float]
    most: float | None = None
    least: float | None = None
    gain: bool = False
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        pairs = zip(self.ours, self.theirs, strict=True)
        return sorted(t / o if self.gain or self.least is not None else o / t for o, t in pairs)

    @property
    def ratio(self) -> float:
        """The median of the pairs' ratios."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        if self.most is not None:
            return self.ratio <= self.most
        return None if self.least is None else self.ratio >= self.least


class Section(msgspec.Struct, kw_only=True):
    """Lines of one benchmark. ``facts`` are sentences with what is no ratio."""

    title: str
    command: str
    lines: list[Line]
    facts: list[str] = []
    machine: str = ""
    date: str = ""


def turns(
    ours: Callable[[], float],
    theirs: Callable[[], float],
    *,
    number: int,
    units: float = 1.0,
    tell: Tell = lambda _what: None,
) -> tuple[list[float], list[float]]:
    """Call both in turns, each first as often as the other, after one of each that does not count.

    Returns
    -------
    What they give over ``units``: (ours, theirs), ``number`` of each.
    """
    found: tuple[list[float], list[float]] = ([], [])
    calls = ours, theirs
    for call in calls:
        call()
    for i in range(number):
        tell(f"pair {i + 1} of {number}")
        for which in (0, 1) if i % 2 else (1, 0):
            gc.collect()
            found[which].append(calls[which]() / units)
    return found


def pairs(
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    number: int,
    units: float = 1.0,
    clock: Callable[[], float] = time.process_time,
    tell: Tell = lambda _what: None,
) -> tuple[list[float], list[float]]:
    """The seconds that both take, see :func:`turns`."""

    def timed(call: Callable[[], Any]) -> Callable[[], float]:
        def run() -> float:
            began = clock()
            call()
            return clock() - began

        return run

    return turns(timed(ours), timed(theirs), number=number, units=units, tell=tell)


def microseconds(values: Sequence[float]) -> list[float]:
    return [value * 1e6 for value in values]
