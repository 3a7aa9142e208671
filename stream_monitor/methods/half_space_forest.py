"""River's Half-Space Trees whose masses renew with every window, for one ordered input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from stream_monitor.methods.trees import CHUNK, Totals, grow
from stream_monitor.schema import BoolArray, FloatArray, IntArray

_PARTS = 64  # batches of a window that are kept apart
_WINDOWS = 8  # that are learned at once
_SMALL = 32_768  # leaves of a forest that are counted sooner than sought


class HalfSpaceForest:
    """River's ``HalfSpaceTrees`` for one ordered input: masses renew every ``window`` rows.

    The scores equal River's ``score_one`` (difference 0.0), however the rows are cut into
    batches. NaN is what a key missing from River's dictionary is: the row goes to the child with
    more rows of the window so far, to the left one on a tie.

    Parameters
    ----------
    limits : float64[F, 2]
        As for :func:`grow`.
    number, height, window, seed
        River's ``n_trees``, ``height``, ``window_size`` and ``seed``.
    """

    def __init__(
        self,
        limits: FloatArray,
        *,
        number: int = 10,
        height: int = 8,
        window: int = 250,
        seed: int = 42,
    ) -> None:
        self._features = len(limits)
        self._trees = grow(limits, number=number, height=height, seed=seed)
        self._window = window
        self._learned = 0  # rows of the window that is being learned
        # leaves of the rows of that window, and where these are many, rows by leaf
        self._leaves: list[NDArray[np.intp]] = []
        self._leaf_mass: IntArray | None = None
        self._totals: Totals | None = None  # None until the first window is complete

    def score(self, rows: FloatArray) -> FloatArray:
        """float64[n] for float64[n, F]; 0 while the first window is being learned."""
        scores = np.zeros(len(rows))
        for start in range(0, len(rows), CHUNK):
            part = slice(start, start + CHUNK)
            scores[part] = self._scores(self._trees.leaves(self._columns(rows[part]), self._follow))
        return scores

    def learn(self, rows: FloatArray) -> None:
        """Take in float64[n, F], in order."""
        self.score_learn(rows)

    def score_learn(self, rows: FloatArray) -> FloatArray:
        """Score each row, then learn it, one after the other: float64[n] for float64[n, F]."""
        scores = np.zeros(len(rows))
        for start in range(0, len(rows), CHUNK):
            columns = self._columns(rows[start : start + CHUNK])
            # only the way of a NaN depends on what was learned before it
            whole = None if np.isnan(columns).any() else self._trees.leaves(columns)
            n, at = columns.shape[1], 0
            at_once = _WINDOWS if whole is not None and self._trees.leaf_count <= _SMALL else 1
            while at < n:
                part = slice(at, min(at + at_once * self._window - self._learned, n))
                if whole is None:
                    leaves = self._trees.leaves(
                        np.ascontiguousarray(columns[:, part]), self._follow_in_turn
                    )
                else:
                    leaves = whole[:, part]
                scores[start + at : start + part.stop] = self._turned(leaves)
                at = part.stop
        return scores

    def _turned(self, leaves: NDArray[np.intp]) -> FloatArray:
        """Score rows by the window before theirs, and learn them: float64[n]."""
        scores = np.zeros(leaves.shape[1])
        complete, rest = divmod(self._learned + leaves.shape[1], self._window)
        first = self._window - self._learned  # so many rows are of the window that has begun
        scores[:first] = self._scores(leaves[:, :first])
        if complete <= 1:
            self._take(leaves[:, :first])
        else:
            self._take_several(leaves[:, : leaves.shape[1] - rest], scores, first)
        if complete and rest:
            own = leaves[:, leaves.shape[1] - rest :]
            scores[-rest:] = self._scores(own)
            self._take(own)
        return scores

    def _take_several(self, leaves: NDArray[np.intp], scores: FloatArray, first: int) -> None:
        """Learn rows to the end of a window beyond their first; score those behind that.

        What a window costs is a few calls of NumPy, which several share.
        """
        size, n = self._trees.leaf_count, leaves.shape[1]
        own = (np.arange(n) - first) // self._window + 1
        number = int(own[-1]) + 1
        found = np.bincount((leaves + own * size).ravel(), minlength=number * size)
        mass = found.reshape(number, size)
        mass[0] += self._mass_at(self._trees.height)
        totals = self._trees.totals(self._trees.masses(mass).__getitem__, self._window)
        scores[first:n] = self._trees.scores(
            totals, self._window, leaves[:, first:], own[first:] - 1
        )
        self._totals = Totals(totals.values[-1], totals.shift)
        self._leaves, self._leaf_mass, self._learned = [], None, 0

    def _take(self, leaves: NDArray[np.intp]) -> None:
        """Learn rows of one window."""
        self._leaves.append(leaves)
        self._learned += leaves.shape[1]
        if self._learned == self._window:
            mass_at: Callable[[int], IntArray] = self._mass_at
            if self._trees.leaf_count <= _SMALL:
                mass_at = self._trees.masses(self._mass_at(self._trees.height)).__getitem__
            self._totals = self._trees.totals(mass_at, self._window)
            self._leaves, self._leaf_mass, self._learned = [], None, 0
        elif len(self._leaves) > _PARTS or self._learned > self._trees.leaf_count:
            self._leaf_mass, self._leaves = self._mass_at(self._trees.height), []

    def _mass_at(self, level: int) -> IntArray:
        """int64[T * 2**level]: rows of the window so far, by node of a level."""
        shift, size = self._trees.height - level, self._trees.number << level
        found = np.zeros(size, dtype=np.int64)
        if self._leaves:
            leaves = np.concatenate(self._leaves, axis=1) >> shift
            found += np.bincount(leaves.ravel(), minlength=size)
        if self._leaf_mass is not None:
            found += self._trees.masses(self._leaf_mass)[level]
        return found

    def _columns(self, rows: FloatArray) -> FloatArray:
        if rows.shape[1] != self._features:
            raise ValueError(f"rows have {rows.shape[1]} features, the trees {self._features}")
        return np.ascontiguousarray(rows.T)

    def _scores(self, leaves: NDArray[np.intp]) -> FloatArray | float:
        if self._totals is None:
            return 0.0
        return self._trees.scores(self._totals, self._window, leaves)

    def _lead(self, level: int) -> IntArray:
        """int64[nodes of the level]: rows of the left child less rows of the right one."""
        children = self._mass_at(level + 1)
        return children[0::2] - children[1::2]

    def _follow(
        self, level: int, node: NDArray[np.intp], right: BoolArray, absent: BoolArray
    ) -> None:
        """NaN follows the majority as it stands."""
        right[absent] = self._lead(level)[node[absent]] < 0

    def _follow_in_turn(
        self, level: int, node: NDArray[np.intp], right: BoolArray, absent: BoolArray
    ) -> None:
        """NaN follows the majority at its turn, and then is part of it.

        Only nodes that a NaN comes to matter. Their rows, in order, are steps of +1 (left) and
        −1 (right); between two NaN the sum of steps is a prefix sum, so that the loop goes over
        the NaN alone.
        """
        lead = self._lead(level)
        concerned = np.zeros(len(lead), dtype=np.bool_)
        concerned[node[absent]] = True
        places = np.flatnonzero(concerned[node.ravel()])
        places = places[np.argsort(node.ravel()[places], kind="stable")]
        group = node.ravel()[places]
        asks = absent.ravel()[places]
        step = np.where(asks, 0, 1 - 2 * right.ravel()[places].astype(np.int64))
        before = np.cumsum(step) - step
        first = np.flatnonzero(np.diff(group, prepend=-1))
        size = np.diff(first, append=len(group))
        before += np.repeat(lead[group[first]] - before[first], size)
        decisions = []
        last, followed = -1, 0
        for at, known in zip(group[asks].tolist(), before[asks].tolist(), strict=True):
            if at != last:
                last, followed = at, 0
            goes_right = known + followed < 0
            followed += -1 if goes_right else 1
            decisions.append(goes_right)
        right.reshape(-1)[places[asks]] = decisions
