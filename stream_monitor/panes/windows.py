"""Windows: which panes they sum, which are closed, and how long a pane must live.

A *clock* numbers an event's place: ``time`` in microseconds since the epoch, ``rows`` in rows of
its model in input order. A pane is a grain of a clock, a window a run of panes. Windows are
aligned with the clock's zero; window 0 is the first that begins at or after the floor of the
first event, so that for a sliding window the ones that began before there was data are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from stream_monitor.config.model import WindowConfig

TIME = "time"
ROWS = "rows"


@dataclass(frozen=True, slots=True)
class Window:
    """A configured window on its clock.

    ``length`` and ``step`` are microseconds or rows, both multiples of the clock's ``grain``.
    """

    name: str
    clock: str
    length: int
    step: int
    grain: int

    def first(self, origin: int) -> int:
        """Number of the window that is window 0 where ``origin`` is the first event's place."""
        return origin // self.step

    def start(self, number: int) -> int:
        return number * self.step

    def end(self, number: int) -> int:
        return number * self.step + self.length

    def panes(self, number: int) -> range:
        """Indices of the window's panes."""
        return range(self.start(number) // self.grain, self.end(number) // self.grain)

    def containing(self, pane: int) -> range:
        """Numbers of the windows that contain a pane."""
        place = pane * self.grain
        return range((place - self.length) // self.step + 1, place // self.step + 1)

    def whole_from(self, pane: int) -> int:
        """Number of the first window all of whose panes are at or after ``pane``."""
        return -(-pane * self.grain // self.step)

    def last_closed(self, mark: int) -> int:
        """Number of the newest window that ends at or before ``mark``; may be negative."""
        return (mark - self.length) // self.step

    def oldest_needed(self, mark: int) -> int:
        """The first pane that the two newest closed windows or a later one need.

        Two, so that a straggler for a window that has just closed still revises it.
        """
        return self.start(self.last_closed(mark) - 1) // self.grain


def windows_of(configs: Sequence[WindowConfig]) -> tuple[Window, ...]:
    """The windows, with the coarsest grain a clock that fits all of its windows."""
    grain = {
        clock: math.gcd(*(n for c in configs if _clock(c) == clock for n in (c.length, c.step)))
        for clock in {_clock(c) for c in configs}
    }
    return tuple(Window(c.name, _clock(c), c.length, c.step, grain[_clock(c)]) for c in configs)


def _clock(config: WindowConfig) -> str:
    return ROWS if config.rows else TIME


def pane_count(windows: Sequence[Window], *, ahead: int) -> int:
    """The most panes that a partition holds of one model at once.

    From the oldest needed pane to the newest, which is at most ``ahead`` (microseconds) beyond the
    watermark.
    """
    total = 0
    for clock in {w.clock for w in windows}:
        some = [w for w in windows if w.clock == clock]
        span = max(w.length + 2 * w.step for w in some) + (ahead if clock == TIME else 0)
        total += -(-span // some[0].grain) + 1
    return total
