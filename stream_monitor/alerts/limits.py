"""What a rule for thresholds gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stream_monitor.methods.base import Measured
from stream_monitor.panes.layout import Counted


@dataclass(frozen=True, slots=True)
class Limit:
    """Bounds of a value without drift; NaN where there is none.

    A value is an alert strictly outside of them; with ``between`` also on them, and where it is NaN
    (NannyML's rule for some of its metrics).
    """

    lower: float
    upper: float
    p_value: float = math.nan
    between: bool = False

    def alert(self, value: float) -> bool | None:
        """None where there is nothing to judge."""
        if math.isnan(self.lower) and math.isnan(self.upper):
            return None
        if self.between:
            # comparisons with NaN are False
            above = math.isnan(self.lower) or self.lower < value
            return not (above and (math.isnan(self.upper) or value < self.upper))
        if math.isnan(value):
            return None
        return value > self.upper or value < self.lower


NO_LIMIT = Limit(math.nan, math.nan)


class Limits(Protocol):
    """A rule for thresholds, made ready for one reference."""

    def of(
        self, measured: Sequence[Measured], window: Counted, history: Sequence[int]
    ) -> list[Limit]:
        """The limit of each value of a window; ``history`` holds the rows of windows before it."""

    def prepare(self, measured: Sequence[Measured], growth: float) -> bool:
        """Do a little of what limits for values like these need, some 10 ms; False if all is there.

        ``growth`` is how many times as many rows they will rest on.

        What was not prepared is computed when it is asked for.
        """

    @property
    def size(self) -> int:
        """Grows with what :meth:`dump` would give."""

    def dump(self) -> bytes:
        """What was learned on the way and costs time to learn again."""

    def load(self, data: bytes) -> None:
        """Take back what :meth:`dump` gave."""


class Stateless:
    """The part of a rule that learns nothing on the way."""

    size = 0

    def prepare(self, measured: Sequence[Measured], growth: float) -> bool:  # noqa: ARG002
        return False

    def dump(self) -> bytes:
        return b""

    def load(self, data: bytes) -> None:
        """There is nothing to take back."""


class NoLimits(Stateless):
    """No thresholds but those that the configuration overrides."""

    def of(
        self,
        measured: Sequence[Measured],
        window: Counted,  # noqa: ARG002
        history: Sequence[int],  # noqa: ARG002
    ) -> list[Limit]:
        return [NO_LIMIT] * len(measured)
