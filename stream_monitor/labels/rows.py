"""Join rows: what is kept of a prediction and of a label until its horizon has passed.

Rows are NumPy records of fixed width. Both kinds begin with the same fields: the 128-bit key (hash
of model name and id), a time in microseconds, and the record's *origin*, which orders records of
the same time as their partitions, offsets and places within the record do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_monitor.schema import IntArray

Rows = NDArray[np.void]
Keys = NDArray[np.uint64]  # uint64[n, 2]
Origins = NDArray[np.uint64]

KEY = ("high", "low")
_HEAD: list[Any] = [("high", "<u8"), ("low", "<u8"), ("time", "<i8"), ("origin", "<u8")]
LABEL = np.dtype([*_HEAD, ("value", "<u8")])

_PARTITION_BITS, _OFFSET_BITS, _PLACE_BITS = 12, 38, 14


def prediction_dtype(scores: int, *, classes: bool, sets: int, carried: int, rows: bool) -> Any:
    """Rows of one model's predictions.

    Parameters
    ----------
    scores
        How many score columns there are.
    classes
        Whether predictions are categories, kept by code, or numbers.
    sets
        How many sets of segments there are; of each a row knows its segment.
    carried
        How many numbers a block computed from the event that its label will need.
    rows
        Whether the row's number on the clock of rows is kept.
    """
    fields = [*_HEAD]
    if rows:
        fields.append(("row", "<i8"))
    if scores:
        fields.append(("scores", "<f8", (scores,)))
    fields.append(("prediction", "<i4" if classes else "<f8"))
    if sets:
        fields.append(("segments", "<i2", (sets,)))
    if carried:
        fields.append(("carried", "<f8", (carried,)))
    return np.dtype(fields)


def keys_of(rows: Rows) -> Keys:
    """uint64[n, 2]."""
    return np.stack([rows["high"], rows["low"]], axis=1)


def origins(partition: int, offsets: IntArray, record: IntArray) -> Origins:
    """One number a row that orders rows by partition, offset and place within the record.

    12, 38 and 14 bits; what is greater wraps round, which only ever decides between records of the
    very same time.

    Parameters
    ----------
    offsets : int64[records]
    record : int64[n], not falling: the record of each row
    """
    if not len(record):
        return np.empty(0, dtype=np.uint64)
    starts = np.flatnonzero(np.append(True, record[1:] != record[:-1]))
    lengths = np.diff(np.append(starts, len(record)))
    place = np.arange(len(record)) - np.repeat(starts, lengths)
    within: Origins = (
        ((offsets[record] & (1 << _OFFSET_BITS) - 1) << _PLACE_BITS)
        | (place & (1 << _PLACE_BITS) - 1)
    ).astype(np.uint64)
    # its highest bit is that of the sign, so it is set where there is none
    return within | np.uint64(partition % (1 << _PARTITION_BITS) << _OFFSET_BITS + _PLACE_BITS)


def winners(rows: Rows, *, last: bool) -> IntArray:
    """Which row of each key counts: the one with the least (time, origin), or the greatest.

    Returns
    -------
    int64[w], indices, in the order of the keys.
    """
    order = np.lexsort((rows["origin"], rows["time"], rows["low"], rows["high"]))
    high, low = rows["high"][order], rows["low"][order]
    change = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    ends = np.ones(min(len(rows), 1), dtype=np.bool_)
    chosen = np.append(change, ends) if last else np.append(ends, change)
    found: IntArray = order[chosen]
    return found


def before(rows: Rows, others: Rows) -> NDArray[np.bool_]:
    """Whether (time, origin) of each row is less than that of the other one."""
    earlier: NDArray[np.bool_] = (rows["time"] < others["time"]) | (
        (rows["time"] == others["time"]) & (rows["origin"] < others["origin"])
    )
    return earlier
