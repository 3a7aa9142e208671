"""Rows of the reference for methods that learn from rows."""

from __future__ import annotations

import numpy as np

from stream_monitor.batch import ColumnBatch, concatenate
from stream_monitor.hashing import splitmix64
from stream_monitor.schema import IntArray, Schema


class RowSample:
    """The ``limit`` rows whose rank in time has the smallest hash; all rows without a limit.

    Which rows these are depends on the number of rows only, not on how the files are cut. At most
    twice as many are in memory at once.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._most = np.iinfo(np.uint64).max
        self._parts: list[ColumnBatch] = []
        self._ranks: list[IntArray] = []
        self._rows = 0

    def add(self, batch: ColumnBatch, rank: IntArray) -> None:
        """Take in a batch of rows with their ranks."""
        if self._limit is not None:
            kept = np.flatnonzero(splitmix64(rank.astype(np.uint64)) <= self._most)
            batch, rank = batch.take(kept), rank[kept]
        self._parts.append(batch)
        self._ranks.append(rank)
        self._rows += len(rank)
        if self._limit is not None and self._rows > 2 * self._limit:
            self._prune(self._limit)

    def _prune(self, limit: int) -> None:
        hashes = splitmix64(np.concatenate(self._ranks).astype(np.uint64))
        if len(hashes) > limit:
            self._most = np.partition(hashes, limit - 1)[limit - 1]
        parts, ranks, self._rows = self._parts, self._ranks, 0
        self._parts, self._ranks = [], []
        for batch, rank in zip(parts, ranks, strict=True):
            kept = np.flatnonzero(splitmix64(rank.astype(np.uint64)) <= self._most)
            self._parts.append(batch.take(kept))
            self._ranks.append(rank[kept])
            self._rows += len(kept)

    def batch(self, schema: Schema) -> ColumnBatch:
        """The rows in time order."""
        if self._limit is not None:
            self._prune(self._limit)
        whole = concatenate(schema, self._parts)
        return whole.take(np.argsort(np.concatenate(self._ranks)))
