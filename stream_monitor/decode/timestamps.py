"""Times as events bring them → microseconds since the epoch, UTC.

Numbers are told apart by size: below 10¹¹ seconds, below 10¹⁴ milliseconds, below 10¹⁷
microseconds, else nanoseconds (10¹¹ s is the year 5138, 10¹¹ ms is 1973). Text is RFC 3339 or
ISO 8601; without an offset it is taken as UTC.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np

from stream_monitor.schema import BoolArray, IntArray

EARLIEST = 0
LATEST = 7_258_118_400_000_000  # 2200-01-01; beyond is a mistake, and would close every window
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def of_datetime(value: datetime) -> int:
    """Microseconds of a datetime, exactly; a naive one is UTC."""
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return (value - _EPOCH) // _MICROSECOND


def of_text(text: str) -> int | None:
    """Microseconds of an RFC 3339 text, or None where it is none."""
    try:
        return _within(of_datetime(datetime.fromisoformat(text)))
    except (ValueError, OverflowError):
        return None


def of_number(value: float) -> int | None:
    """Microseconds of epoch seconds, milliseconds, microseconds or nanoseconds, or None."""
    if not math.isfinite(value):
        return None
    size = abs(value)
    if size < 1e11:
        return _within(round(value * 1_000_000))
    if size < 1e14:
        return _within(round(value * 1_000))
    return _within(round(value if size < 1e17 else value / 1_000))


def of_numbers(
    values: Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float64]],
) -> tuple[IntArray, BoolArray]:
    """:func:`of_number` for many: (int64[n], bool[n] usable); 0 where not usable."""
    numbers = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(numbers)
    if not finite.all():
        numbers = np.where(finite, numbers, -1.0)
    size = np.abs(numbers)
    factor = np.full(len(numbers), 1e6)
    if len(numbers) and size.max() >= 1e11:
        factor[size >= 1e11] = 1e3
        factor[size >= 1e14] = 1.0
        factor[size >= 1e17] = 1e-3
    times = np.rint(np.clip(numbers * factor, -1.0, 2.0 * LATEST)).astype(np.int64)
    usable = finite & known(times)
    return np.where(usable, times, 0), usable


def known(times: IntArray) -> BoolArray:
    """bool[n], which microseconds are times that we take."""
    found: BoolArray = (times >= EARLIEST) & (times < LATEST)
    return found


def _within(time: int) -> int | None:
    return time if EARLIEST <= time < LATEST else None
