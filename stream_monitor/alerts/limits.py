"""What a rule for thresholds gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stream_monitor.methods.evaluate import Measured
from stream_monitor.schema import IntArray


@dataclass(frozen=True, slots=True)
class Limit:
    """Bounds of a value without drift; NaN where there is none."""

    lower: float
    upper: float
    p_value: float = math.nan


NO_LIMIT = Limit(math.nan, math.nan)


class Limits(Protocol):
    """A rule for thresholds, made ready for one reference."""

    def of(self, measured: Sequence[Measured], vector: IntArray) -> list[Limit]:
        """The limit of each value of a window with the counts ``vector``."""

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

    def dump(self) -> bytes:
        return b""

    def load(self, data: bytes) -> None:
        """There is nothing to take back."""


class NoLimits(Stateless):
    """No thresholds but those that the configuration overrides."""

    def of(self, measured: Sequence[Measured], vector: IntArray) -> list[Limit]:  # noqa: ARG002
        return [NO_LIMIT] * len(measured)
