"""Learning a reference's principal components in one pass over its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells
from stream_monitor.errors import ProfileError
from stream_monitor.methods import moments
from stream_monitor.methods.base import Arrays, Study
from stream_monitor.schema import Column, FloatArray, IntArray, Role, Schema

_VARIANCE = 0.65  # the share that the components must exceed


def usable(column: Column, cells: Cells) -> bool:
    """Whether a column is a feature with any value, and float64 holds its moments and range."""
    if column.role is not Role.FEATURE:
        return False
    if cells.summary is None:
        return len(cells.categories) > 0
    return moments.usable(cells.summary)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Where the features stand in a batch: numbers first, then categories, each in schema order.

    ``numbers`` and ``codes`` are positions in the batch's arrays, ``starts`` is where each
    categorical feature's slots begin among those of all, of which there are ``slots``.
    """

    names: tuple[str, ...]
    numbers: IntArray
    codes: IntArray
    starts: IntArray
    slots: int

    @classmethod
    def of(cls, schema: Schema, cells: Mapping[str, Cells], columns: list[int]) -> Inputs:
        names = {schema.columns[i].name for i in columns}
        numbers = [i for i, c in enumerate(schema.continuous) if c.name in names]
        codes = [i for i, c in enumerate(schema.categorical) if c.name in names]
        continuous = tuple(schema.continuous[i].name for i in numbers)
        categorical = tuple(schema.categorical[i].name for i in codes)
        ends = np.cumsum([0, *(cells[name].slots for name in categorical)])
        return cls(
            continuous + categorical,
            np.array(numbers, dtype=np.int64),
            np.array(codes, dtype=np.int64),
            ends[:-1, None],
            int(ends[-1]),
        )


class Learner:
    """Cross-products of all features over all rows, in one pass.

    A category's number is its frequency, which is known at the end only. So what is summed is
    which slots (categories, unseen, missing, wrong type) occur together, in a sparse matrix, and
    the numbers' sums in each slot: the numbers put in later, this gives all cross-products.
    """

    def __init__(self, study: Study, columns: list[int]) -> None:
        self._columns = columns
        self._inputs = inputs = Inputs.of(study.schema, study.cells, columns)
        continuous = inputs.names[: len(inputs.numbers)]
        summaries = [s for name in continuous if (s := study.cells[name].summary) is not None]
        self._center = np.array([s.mean for s in summaries])
        self._std = np.array([s.std or 1.0 for s in summaries])
        k, m = len(inputs.numbers), inputs.slots
        self._n = 0
        self._numbers = np.zeros((k, k))
        self._mixed = np.zeros((k, m))
        self._together = csr_array((m, m), dtype=np.int64)
        self._lengths = [study.cells[name].slots for name in inputs.names[k:]]

    def update(self, batch: ColumnBatch) -> None:
        inputs = self._inputs
        n, features = len(batch), len(inputs.codes)
        values = batch.numbers[inputs.numbers]
        known = np.isfinite(values)
        values -= self._center[:, None]
        values /= self._std[:, None]
        values[~known] = 0.0  # the mean
        slots = (batch.codes[inputs.codes] + inputs.starts).T.ravel()
        starts = np.arange(0, n * features + 1, features) if features else np.zeros(n + 1, int)
        ones = np.ones(len(slots), dtype=np.int64)
        member = csr_array((ones, slots, starts), shape=(n, inputs.slots))
        self._n += n
        self._numbers += values @ values.T
        self._mixed += (member.T @ values.T).T
        self._together = self._together + member.T @ member

    def finish(self, sample: ColumnBatch) -> Arrays:  # noqa: ARG002 - every row was seen
        """The features' positions, how to standardise them, and the principal components.

        center, scale : float64[k], of the numbers
        encoding : float64[slots], the standardised number of each slot
        components : float64[F, c], orthonormal columns; numbers first, then categories
        """
        n = self._n
        if not n:
            raise ProfileError("principal components: no row to learn from; the reference is empty")
        codes, means = self._encoded()
        k = len(self._center)
        products = np.block(
            [
                [self._numbers, self._mixed @ codes],
                [(self._mixed @ codes).T, codes.T @ (self._together @ codes)],
            ]
        )
        variance = np.diagonal(products) / n
        means = np.concatenate([self._center / self._std, means])
        # scikit-learn's rule for what is constant but for rounding, which then has the scale 1
        epsilon = np.finfo(np.float64).eps
        flat = variance <= n * epsilon * variance + (n * means * epsilon) ** 2
        scale = np.where(flat, 1.0, np.sqrt(variance))
        products /= n * np.outer(scale, scale)
        products[flat] = products[:, flat] = 0.0
        return {
            "columns": np.array(self._columns, dtype=np.int64),
            "center": self._center,
            "scale": np.where(flat[:k], 1.0, scale[:k] * self._std),
            "encoding": (codes / scale[k:]).sum(axis=1),
            "components": _components(products),
        }

    def _encoded(self) -> tuple[FloatArray, FloatArray]:
        """Each slot's frequency less the mean, float64[slots, m], 0 off a feature's own slots.

        And the means, float64[m]. A missing value counts as the most frequent category, of equals
        the first by name; a category that is not listed is 0.
        """
        counts = self._together.diagonal()
        codes = np.zeros((len(counts), len(self._lengths)))
        means = np.zeros(len(self._lengths))
        for i, (start, length) in enumerate(
            zip(self._inputs.starts[:, 0].tolist(), self._lengths, strict=True)
        ):
            own = counts[start : start + length]
            frequency = np.zeros(length)
            frequency[:-3] = own[:-3]  # the last are unseen, missing, of a wrong type
            mode = int(frequency.argmax())
            frequency[mode] += own[-2:].sum()
            frequency[-2:] = frequency[mode]
            frequency /= self._n
            means[i] = own @ frequency / self._n
            codes[start : start + length, i] = frequency - means[i]
        return codes, means


def _components(correlation: FloatArray) -> FloatArray:
    """The fewest principal components with more than 65 % of the variance, float64[F, c].

    That is scikit-learn's ``PCA(n_components=0.65)``; none where nothing varies.
    """
    variances, vectors = np.linalg.eigh(correlation)
    explained = np.cumsum(variances[::-1])
    if not explained[-1] > 0:
        return np.empty((len(correlation), 0))
    number = int(np.searchsorted(explained / explained[-1], _VARIANCE, side="right")) + 1
    return np.ascontiguousarray(vectors[:, ::-1][:, :number])
