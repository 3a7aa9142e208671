"""Join rows as records of the join's own topic: many rows a record, routed by key.

A record is a magic word, one byte that says what it holds, and a name with its length; then the
rows as they are in memory, or for marks a JSON object:

``p`` predictions of the model version with this key, ``l`` labels of the model with this name,
``m`` marks: how far the partitions have been read whose rows are in the records before it.

Rows of one key always go to the same partition, whatever partition they came from, so a join
needs nothing of the producers. A record that comes twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np

from stream_monitor.errors import StoreError
from stream_monitor.labels.rows import LABEL, Rows
from stream_monitor.methods.base import Addends
from stream_monitor.schema import IntArray

_MAGIC = b"SMJ1"
_PREDICTIONS, _LABELS, _MARKS = b"p", b"l", b"m"
_MOST = 512 * 2**10  # bytes of rows in a record; brokers take 1 MiB by default

Send = Callable[[int, bytes], None]


class Mark(NamedTuple):
    """How far a partition has been read, microseconds, and whether that is its end."""

    progress: int | None
    ended: bool


Marks = Mapping[str, Mark]


class Sharded:
    """A sink of rows that sends them to the partition of their key.

    ``names`` are the keys of the models by their index, ``send`` takes a partition and a record.
    """

    def __init__(self, names: Mapping[int, str], partitions: int, send: Send) -> None:
        self._names = names
        self._partitions = partitions
        self._send = send

    def predictions(
        self,
        index: int,
        rows: Rows,
        known: Mapping[str, Addends] | None = None,  # noqa: ARG002 - not of use elsewhere
    ) -> None:
        self._spread(_PREDICTIONS, self._names[index], rows)

    def labels(self, name: str, rows: Rows) -> None:
        self._spread(_LABELS, name, rows)

    def marks(self, marks: Marks) -> None:
        """Tell every partition how far the rows before this go."""
        for partition in range(self._partitions):
            self._send(partition, _head(_MARKS, "") + msgspec.json.encode(marks))

    def _spread(self, kind: bytes, name: str, rows: Rows) -> None:
        shard: IntArray = (rows["high"] % np.uint64(self._partitions)).astype(np.int64)
        head, most = _head(kind, name), max(_MOST // rows.dtype.itemsize, 1)
        for partition in np.unique(shard).tolist():
            own = rows[shard == partition]
            for start in range(0, len(own), most):
                self._send(partition, head + own[start : start + most].tobytes())


class Unpacked(NamedTuple):
    """What a record holds: predictions of a model, labels of a model name, or marks."""

    model: int | None = None
    label_name: str | None = None
    rows: Rows | None = None
    marks: Marks | None = None


def unpacked(payload: bytes, models: Mapping[str, tuple[int, Any]]) -> Unpacked | None:
    """A record; None where it holds rows of a model that is not watched here.

    Parameters
    ----------
    models
        Index and dtype by key.

    Raises
    ------
    StoreError
        The record is none of ours, or damaged.
    """
    kind, length = payload[4:5], int.from_bytes(payload[5:7], "little")
    name, body = payload[7 : 7 + length].decode(errors="replace"), payload[7 + length :]
    if payload[:4] != _MAGIC or kind not in (_PREDICTIONS, _LABELS, _MARKS):
        raise StoreError(
            f"a record of {len(payload)} bytes holds no join rows: does something else write to "
            "the join's topic? Name another one in labels.join_topic"
        )
    try:
        if kind == _MARKS:
            return Unpacked(marks=msgspec.json.decode(body, type=dict[str, Mark]))
        if kind == _LABELS:
            return Unpacked(label_name=name, rows=np.frombuffer(body, LABEL))
        if name not in models:
            return None
        index, dtype = models[name]
        return Unpacked(model=index, rows=np.frombuffer(body, dtype))
    except (ValueError, msgspec.DecodeError) as error:
        raise StoreError(f"a record of join rows is damaged: {error}; it was left out") from None


def _head(kind: bytes, name: str) -> bytes:
    raw = name.encode()
    return _MAGIC + kind + len(raw).to_bytes(2, "little") + raw
