"""How well a classifier tells a window's rows from the reference's, after NannyML 0.13.1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells
from stream_monitor.methods.base import (
    Arrays,
    Chunks,
    Definition,
    Measured,
    Study,
    register_sketch,
)
from stream_monitor.methods.gradient_boosting import Features, Model, trained
from stream_monitor.panes.layout import Counted, Sketch
from stream_monitor.panes.sample import RowSample
from stream_monitor.schema import BoolArray, FloatArray, IntArray, Role, Schema
from stream_monitor.values import MULTIVARIATE

NAME = "domain_classifier"

FOLDS = 5
# Rows that are kept. An evaluation takes 0.3 s with 7 features, 0.8 s with 20 and 3 s with 100;
# with `compat`, 50,000 rows of the reference and windows of 5,000, 1 s, 2 s and 9 s.
WINDOW_ROWS, REFERENCE_ROWS = 2_000, 5_000
COMPAT_WINDOW_ROWS = 20_000
# The AUROC's standard deviation without drift, over that of fixed scores. The folds share most of
# their training rows, which spreads it by up to so much (numbers, categories, both; 200 to 2,000
# rows against 1,000 to 5,000).
_SLACK = 1.6

_INPUTS = (Role.FEATURE,)
_AUROC = Definition(
    "domain_classifier_auroc",
    MULTIVARIATE,
    0.0,
    1.0,
    "AUROC of a classifier that tells the window's rows from the reference's; 0.5 where it cannot.",
    Chunks.SEPARABLE,
)


def stratified(first: int, second: int) -> IntArray:
    """The fold of each row where ``first`` rows of one class precede ``second`` of the other.

    As scikit-learn's ``StratifiedKFold(5)`` without shuffling: the fold sizes a class are those of
    dealing out the rows in turn, and each class's rows go to the folds in runs.

    Returns
    -------
    int64[first + second] in 0 … 4
    """
    fold = np.arange(FOLDS)
    dealt = np.arange(first + second) % FOLDS
    sizes = (np.bincount(part, minlength=FOLDS) for part in (dealt[:first], dealt[first:]))
    return np.concatenate([np.repeat(fold, size) for size in sizes])


def auroc(reference: FloatArray, window: FloatArray, categorical: BoolArray) -> float:
    """AUROC of telling the two apart, in [0, 1].

    NannyML 0.13.1: LightGBM's classifier with its defaults is trained on four fifths of the rows
    and scores the fifth one, in turn (:func:`stratified`); the AUROC is that of all scores
    together, ties counting half.

    Parameters
    ----------
    reference, window : float64[m, F] and float64[n, F]
    categorical : bool[F]
        Columns of whole numbers that stand for categories.

    Returns
    -------
    float; NaN where either has fewer rows than there are folds.
    """
    m, n = len(reference), len(window)
    if min(m, n) < FOLDS:
        return nan
    rows = np.concatenate([reference, window])
    label = np.repeat([0.0, 1.0], [m, n])
    fold = stratified(m, n)
    scores = np.empty(m + n)
    for i in range(FOLDS):
        test = fold == i
        model = Model(trained("binary", rows[~test], label[~test], categorical))
        scores[test] = model.predict(rows[test])
    _, place, equal = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(equal) - (equal - 1) / 2  # of equal scores the mean of theirs
    wins = float(ranks[place][m:].sum()) - n * (n + 1) / 2
    return wins / (m * n)


class _Learner:
    """Keeps rows of the reference."""

    def __init__(self, study: Study) -> None:
        self._features = Features.of(study.schema, study.cells, _INPUTS)
        self._compat = study.compat

    def update(self, batch: ColumnBatch) -> None:
        """The rows are chosen at the end."""

    def finish(self, sample: ColumnBatch) -> Arrays:
        """rows : float64[m, F], in time order; limit : int64[1], rows of a window that are kept."""
        number = len(sample) if self._compat else min(len(sample), REFERENCE_ROWS)
        chosen = np.arange(number) * len(sample) // max(number, 1)
        limit = COMPAT_WINDOW_ROWS if self._compat else WINDOW_ROWS
        return {
            "rows": self._features.matrix(sample.take(chosen)),
            "limit": np.array([limit], dtype=np.int64),
        }


class _Sketcher:
    def __init__(self, schema: Schema, cells: Mapping[str, Cells], arrays: Arrays) -> None:
        self._features = Features.of(schema, cells, _INPUTS)
        self._rows = arrays["rows"]
        self._limit = int(arrays["limit"][0])

    def sketch(self, batch: ColumnBatch, beside: Sketch | None = None) -> RowSample:  # noqa: ARG002
        return RowSample.of(batch.event_time, self._features.matrix(batch), self._limit)

    def from_bytes(self, data: bytes) -> RowSample:
        return RowSample.from_bytes(data)

    @property
    def most_bytes(self) -> int:
        return RowSample.most_bytes(self._limit, self._rows.shape[1])

    def bind(self, reference: Counted) -> _Measure:  # noqa: ARG002 - it has rows of its own
        return _Measure(self._rows, self._features.categorical, self._limit)


@dataclass(frozen=True, slots=True)
class _Measure:
    rows: FloatArray
    categorical: BoolArray
    limit: int

    def measure(self, window: Counted) -> Iterator[Measured]:
        sample = window.sketches.get(NAME)
        value, n = nan, min(window.rows, self.limit)
        if isinstance(sample, RowSample):
            drawn = sample.drawn()
            n = len(drawn)
            value = auroc(self.rows, drawn, self.categorical)
        m = len(self.rows)
        # Hanley & McNeil (1982) where the classes cannot be told apart
        fixed = sqrt((m + n + 1) / (12 * m * n)) if m and n else nan
        yield Measured(_AUROC, _AUROC.metric, "", "", value, n, expected=0.5, spread=_SLACK * fixed)


class DomainClassifier:
    """AUROC of a classifier between the window's rows and the reference's, in [0, 1].

    NannyML 0.13.1, see :func:`auroc`, on the features only: 0.5 where the window's rows are like
    the reference's, near 1 where hardly any is. It sees any change of the joint distribution, also
    one that leaves every feature alone as it was, but not how much it matters.

    A window is compared by at most 2,000 of its rows, chosen by a hash of their content, the
    reference by at most 5,000, equally far apart in the sample; with ``compat`` by at most 20,000
    and by all of the reference's. Rows stand in time order. Categories that the reference does not
    have count as one.

    Without drift the AUROC is taken to be normal about 0.5 with 1.6 times the standard deviation of
    fixed scores, sqrt((m + n + 1) / (12 m n)). NaN for fewer than five rows on either side and for
    what has no rows: windows that are not closed, segments, chunks of the reference. Against
    NannyML's table (car loan, chunks of 5,000) values differ by less than 0.001. Rows of the same
    time may stand in another order than in the input, which moves the value by about 0.005.
    """

    name = NAME
    definitions = (_AUROC,)

    def learner(self, study: Study) -> _Learner | None:
        """None without features."""
        featured = any(column.role in _INPUTS for column in study.schema.columns)
        return _Learner(study) if featured else None

    def load(self, schema: Schema, cells: Mapping[str, Cells], arrays: Arrays) -> _Sketcher:
        return _Sketcher(schema, cells, arrays)


register_sketch(DomainClassifier())
