"""Which features make a window's outliers outliers: the cuts of Half-Space Trees that isolate them.

The rows of a window are gone when it is evaluated, so what isolates a row is counted with it: each
leaf of a tree has one cut that sets its rows most apart from the reference
(:meth:`~stream_monitor.methods.trees.Trees.isolation`), by so many bits, and a row that scores like
the reference's highest hundredth adds these bits to the features of its leaves' cuts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells, codes_of
from stream_monitor.methods.base import (
    Arrays,
    Definition,
    Measured,
    RowLearner,
    Study,
    register_block,
)
from stream_monitor.methods.half_space_trees import HalfSpaceTrees, rare
from stream_monitor.panes.layout import Counted
from stream_monitor.schema import FloatArray, IntArray, Schema
from stream_monitor.values import OUTLIERS

NAME = "outlier_features"
CONTRIBUTION = "outlier_contribution"

_STEPS = 1_024  # a bit, in the unit of the slots

_TREES = HalfSpaceTrees()

_DEFINITION = Definition(
    CONTRIBUTION,
    OUTLIERS,
    0.0,
    1.0,
    "A feature's share of what sets the outlying rows apart from the reference.",
)


class _Learner:
    """Learns the trees, then what each of their leaves is isolated by."""

    def __init__(self, schema: Schema, trees: RowLearner) -> None:
        self._schema = schema
        self._trees = trees

    def update(self, batch: ColumnBatch) -> None:
        self._trees.update(batch)

    def finish(self, sample: ColumnBatch) -> dict[str, np.ndarray[Any, Any]]:
        """The trees' arrays, and of each leaf its isolating feature and the bits in steps.

        cutoff : float64[1], the score from which a row is an outlier, ∞ where none is: the rule of
        ``outlier_share`` on the rows of the sample.
        """
        arrays = self._trees.finish()
        scorer = _TREES.load(self._schema, arrays)
        codes = codes_of(scorer.edges, scorer.score(sample))
        tail = np.flatnonzero(rare(np.bincount(codes, minlength=len(scorer.edges) + 1)))
        cutoff = scorer.edges[tail[0] - 1] if len(tail) else inf
        isolating, bits = scorer.isolation()
        return {
            **arrays,
            "isolating": isolating,
            "steps": np.rint(bits * _STEPS).astype(np.int64),
            "cutoff": np.array([cutoff]),
        }


@dataclass(frozen=True, slots=True)
class _Addends:
    """Of the outliers among the rows: which row, int64[m], and its leaves, intp[T, m]."""

    block: _Block
    rows: IntArray
    leaves: NDArray[np.intp]

    def counts(self, group: IntArray, groups: int) -> IntArray:
        block, own = self.block, group[self.rows]
        slots = block.isolating[self.leaves] + own * block.size
        # whole numbers far below 2**53: exact as floats
        found = np.bincount(
            slots.ravel(), block.steps[self.leaves].ravel(), groups * block.size
        ).astype(np.int64)
        found = found.reshape(groups, block.size)
        found[:, -1] = np.bincount(own, minlength=groups)
        return found


class _Block:
    """Slots: for each feature of the trees the steps that it isolated outliers by; outliers."""

    def __init__(self, schema: Schema, arrays: Arrays) -> None:
        self._scorer = _TREES.load(schema, arrays)
        self._cutoff = float(arrays["cutoff"][0])
        self.names = tuple(schema.columns[i].name for i in arrays["columns"].tolist())
        self.isolating: IntArray = arrays["isolating"]
        self.steps: FloatArray = arrays["steps"].astype(np.float64)

    @property
    def size(self) -> int:
        return len(self.names) + 1

    def addends(self, batch: ColumnBatch) -> _Addends:
        leaves, scores = self._scorer.walked(batch)
        outliers = np.flatnonzero(scores >= self._cutoff)
        return _Addends(self, outliers, leaves[:, outliers])

    def bind(self, reference: Counted) -> _Measure:  # noqa: ARG002 - a share needs no reference
        return _Measure(self.names)


@dataclass(frozen=True, slots=True)
class _Measure:
    names: tuple[str, ...]

    def measure(self, window: Counted) -> Iterator[Measured]:
        slots = window.block(NAME)
        outliers, total = int(slots[-1]), int(slots[:-1].sum())
        for name, steps in zip(self.names, slots.tolist(), strict=False):
            share = steps / total if total else nan
            yield Measured(_DEFINITION, CONTRIBUTION, name, name, share, outliers)


class OutlierFeatures:
    """A feature's share, in [0, 1], of the bits by which a window's outliers are set apart.

    An outlier is a row whose ``outlier_score`` is in the reference's highest hundredth, found on
    the sampled rows of the reference. In each tree the cut on its path after which the fewest of
    the reference's rows are left, compared with half of those before it, isolates it: that cut's
    feature gets log₂((M + 2) / (2 (m + 1))) bits for M rows before and m after, in steps of 1/1024.

    Shares of a window sum to 1; NaN without an outlier, and where nothing isolates one. They are
    not judged. Even the reference's own outliers are isolated by some features more than by
    others, so compare with the reference's shares. The trees are few and their cuts random: a
    feature that no tree cuts high up gets little, however far off its values are, and of features
    that move together one may stand for all.

    The trees are those of ``outlier_score``, learned apart; applies where that does.
    """

    name = NAME
    definitions = (_DEFINITION,)

    def learner(self, study: Study) -> _Learner | None:
        trees = _TREES.learner(study.schema, study.cells)
        return None if trees is None else _Learner(study.schema, trees)

    def load(self, schema: Schema, cells: Mapping[str, Cells], arrays: Arrays) -> _Block:  # noqa: ARG002
        return _Block(schema, arrays)


register_block(OutlierFeatures())
