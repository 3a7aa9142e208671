"""How unusual a row is against the reference: Half-Space Trees that are learned once and stay.

``outlier_score`` is River's ``HalfSpaceTrees`` score (10 trees of height 8, seed 42) behind a
min-max scaling, with the whole reference as its one window: the trees are drawn in the unit cube,
the masses are the reference's counts, and neither changes afterwards, so that a score means the
same on every replica and in every week. ``outlier_share`` is the share of a window's rows that
score as high as the highest hundredth of the reference.

Min-max scaling is what River and the paper (Tan, Ting & Liu 2011, section 3.1) ask for: trees
drawn in the features' own units would cut the feature with the widest range nearly every time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells
from stream_monitor.errors import ProfileError
from stream_monitor.methods.base import Chunks, Definition, register_row, register_share
from stream_monitor.methods.trees import CHUNK, Trees, grow
from stream_monitor.schema import BoolArray, Column, FloatArray, IntArray, Kind, Role, Schema
from stream_monitor.values import OUTLIERS

OUTLIER_SCORE = "outlier_score"

_NUMBER, _HEIGHT, _SEED = 10, 8, 42
_OF_INPUTS = "columns", "low", "high", "fill"  # the arrays that scale what enters
_TAIL = 100  # the share counts the rows beyond the reference's highest 1/_TAIL

# 1 − score lies between 1 / (2**(height + 1) − 1), a row alone in its half of every tree, and 1,
# and is a sum of powers of two: equal steps of its logarithm, 2.6 % each, resolve the whole
# range. Rounded, so that no mathematics library moves an edge.
_EDGES = np.unique(np.round(1 - np.geomspace(1, 1 / ((2 << _HEIGHT) - 1), 241), 6))[1:]
_EDGES.flags.writeable = False


class _Inputs:
    """A batch's features, scaled to the reference's range, as the trees want them.

    Parameters
    ----------
    columns : int64[F]
        Positions in ``schema.columns``, sorted by name as River sorts its features.
    low, high : float64[F]
        The reference's least and greatest value; ``high / 2 > low / 2``.
    fill : float64[F]
        Stands for a missing value.
    """

    def __init__(
        self, schema: Schema, columns: IntArray, low: FloatArray, high: FloatArray, fill: FloatArray
    ) -> None:
        numbers = {c.name: i for i, c in enumerate(schema.continuous)}
        codes = {c.name: i for i, c in enumerate(schema.categorical)}
        chosen = [schema.columns[i] for i in columns.tolist()]
        self._numbers = [(i, numbers[c.name]) for i, c in enumerate(chosen) if c.continuous]
        self._codes = [(i, codes[c.name]) for i, c in enumerate(chosen) if not c.continuous]
        # halves, because the difference of two finite numbers may not be finite
        self._low = low[:, None] / 2
        self._width = high[:, None] / 2 - self._low
        self._fill = fill[:, None]

    def chunks(self, batch: ColumnBatch) -> Iterator[FloatArray]:
        """float64[F, m], C-contiguous, without NaN; the batch's rows in order.

        Each value is (x − low) / (high − low), which may lie outside [0, 1] and may be ±inf.
        """
        for start in range(0, len(batch), CHUNK):
            part = slice(start, min(start + CHUNK, len(batch)))
            values = np.empty((len(self._low), part.stop - start))
            for i, row in self._numbers:
                values[i] = batch.numbers[row, part]
            for i, row in self._codes:
                code = batch.codes[row, part]
                values[i] = np.where(code < 2, code, np.nan)
            np.copyto(values, self._fill, where=np.isnan(values))
            values /= 2
            values -= self._low
            with np.errstate(over="ignore"):  # far outside a tiny range is ±inf, and goes its way
                values /= self._width
            yield values


class _Learner:
    def __init__(
        self, schema: Schema, columns: IntArray, low: FloatArray, high: FloatArray, fill: FloatArray
    ) -> None:
        self._arrays = {"columns": columns, "low": low, "high": high, "fill": fill}
        self._inputs = _Inputs(schema, columns, low, high, fill)
        cube = np.tile([0.0, 1.0], (len(columns), 1))
        self._trees = grow(cube, number=_NUMBER, height=_HEIGHT, seed=_SEED)
        self._mass = np.zeros(self._trees.leaf_count, dtype=np.int64)

    def update(self, batch: ColumnBatch) -> None:
        for values in self._inputs.chunks(batch):
            leaves = self._trees.leaves(values)
            self._mass += np.bincount(leaves.ravel(), minlength=len(self._mass))

    def finish(self) -> dict[str, np.ndarray[Any, Any]]:
        if not self._mass.any():
            raise ProfileError(f"{OUTLIER_SCORE}: no row to learn from; the reference is empty")
        return self._arrays | {
            "feature": self._trees.feature,
            "threshold": self._trees.threshold,
            "mass": self._mass.reshape(self._trees.number, -1),
        }


class _Scorer:
    def __init__(
        self, inputs: _Inputs, trees: Trees, mass: NDArray[np.int64], identity: str
    ) -> None:
        self._inputs = inputs
        self._trees = trees
        self._identity = identity
        self._window = int(mass[0].sum())
        self._mass = mass.ravel()
        self._totals = trees.totals(trees.masses(self._mass).__getitem__, self._window)

    def walked(self, batch: ColumnBatch) -> tuple[NDArray[np.intp], FloatArray]:
        """Where a batch's rows end in the trees: worked out once for all that have the same trees.

        Returns
        -------
        leaves : intp[T, n]
        scores : float64[n] in [0, 1), River's with the reference as its last full window
        """
        found: tuple[NDArray[np.intp], FloatArray] | None = batch.memo.get(self._identity)
        if found is None:
            parts = [self._trees.leaves(values) for values in self._inputs.chunks(batch)]
            none = np.empty((self._trees.number, 0), dtype=np.intp)
            scores = [self._trees.scores(self._totals, self._window, leaves) for leaves in parts]
            found = np.concatenate([none, *parts], axis=1), np.concatenate([np.empty(0), *scores])
            batch.memo[self._identity] = found
        return found

    def score(self, batch: ColumnBatch) -> FloatArray:
        """float64[n], the scores of a batch."""
        return self.walked(batch)[1]

    def isolation(self) -> tuple[IntArray, FloatArray]:
        """See :meth:`~stream_monitor.methods.trees.Trees.isolation`."""
        return self._trees.isolation(self._mass, self._window)

    @property
    def edges(self) -> FloatArray:
        """float64[240]: equal steps of log(1 − score), the same for every reference."""
        return _EDGES


class HalfSpaceTrees:
    """The outlier score of a row, in [0, 1): higher is more unusual.

    From continuous features that vary in the reference and from booleans with both values there
    (false 0, true 1), scaled to the reference's range. A missing value (also a wrong type, and an
    unseen category) counts as unremarkable: the reference's median stands for it, one half for a
    boolean; a row without any value thus has a score as well. ±inf is beyond every cut.

    Masses are sums of int64: the same whatever the batches and their order.
    """

    definition = Definition(
        OUTLIER_SCORE,
        OUTLIERS,
        0.0,
        1.0,
        "Mean Half-Space-Trees score of the rows; higher is more unusual.",
        Chunks.WITHIN,
    )

    def learner(self, schema: Schema, cells: Mapping[str, Cells]) -> _Learner | None:
        found = []
        for i, column in enumerate(schema.columns):
            span = _span(column, cells[column.name])
            if span is not None:
                found.append((column.name, i, *span))
        if not found:
            return None
        _, columns, low, high, fill = zip(*sorted(found), strict=True)
        return _Learner(
            schema, np.array(columns, np.int64), np.array(low), np.array(high), np.array(fill)
        )

    def load(self, schema: Schema, arrays: Mapping[str, np.ndarray[Any, Any]]) -> _Scorer:
        inputs = _Inputs(schema, *(arrays[name] for name in _OF_INPUTS))
        trees = Trees(arrays["feature"], arrays["threshold"])
        return _Scorer(inputs, trees, arrays["mass"], _identity(arrays))


def _identity(arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """The same for trees that give the same of every row."""
    digest = blake2b(OUTLIER_SCORE.encode(), digest_size=16)
    for name in (*_OF_INPUTS, "feature", "threshold", "mass"):
        digest.update(arrays[name].tobytes())
    found: str = digest.hexdigest()
    return found


def _span(column: Column, cells: Cells) -> tuple[float, float, float] | None:
    """Least, greatest and fill value of a column the trees can cut; None for any other."""
    if column.role is not Role.FEATURE:
        return None
    if column.kind is Kind.BOOLEAN:
        return (0.0, 1.0, 0.5) if cells.categories == ("false", "true") else None
    summary = cells.summary
    if summary is None or not summary.minimum / 2 < summary.maximum / 2:
        return None
    return summary.minimum, summary.maximum, float(summary.sample[len(summary.sample) // 2])


def rare(counts: IntArray) -> BoolArray:
    """bool[K]: the score's cells at or above which at most 1 % of int64[K] rows lie."""
    above = np.cumsum(counts[::-1])[::-1]
    found: BoolArray = above * _TAIL <= above[0]
    found[0] = False  # the first cell begins at no edge
    return found


class OutlierShare:
    """The share of rows that score at or above the reference's 99th percentile.

    That is the smallest edge of the score's cells at or above which at most 1 % of the
    reference's rows lie; no row counts where even the last edge has more.
    """

    definition = Definition(
        "outlier_share",
        OUTLIERS,
        0.0,
        1.0,
        "Share of rows that score like the reference's highest hundredth.",
        Chunks.WITHIN,
    )
    two_sided = False

    def mask(self, cells: Cells) -> BoolArray | None:
        if cells.column.role is not Role.DERIVED or cells.column.name != OUTLIER_SCORE:
            return None
        mask = np.zeros(cells.slots, dtype=np.bool_)
        mask[: cells.size] = rare(cells.values)
        return mask

    def expected(self, cells: Cells) -> tuple[float, float]:
        """Beta(k + 1/2, n − k + 1/2), the Jeffreys posterior of k of n reference rows."""
        mask = self.mask(cells)
        if mask is None:
            raise ValueError(
                f"{self.definition.metric} does not apply to the column {cells.column.name!r}"
            )
        k, n = int(cells.counts[mask].sum()), int(cells.counts.sum())
        return k + 0.5, n - k + 0.5


register_row(HalfSpaceTrees())
register_share(OutlierShare())
