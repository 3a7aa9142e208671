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


class NoLimits:
    """No thresholds but those that the configuration overrides."""

    def of(self, measured: Sequence[Measured], vector: IntArray) -> list[Limit]:  # noqa: ARG002
        return [NO_LIMIT] * len(measured)
