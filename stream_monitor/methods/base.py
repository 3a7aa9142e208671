"""What a method is, and where it is registered. One file a method or family, one registration.

Methods know plain arrays only: the reference's :class:`~stream_monitor.cells.Cells` and counts of
a window. They are pure and hold no state of the stream.

Three shapes cover everything so far:

- :class:`DriftMethod`: a distance between the reference's and the window's counts of one column;
- :class:`ShareMethod`: the share of rows that fall into some of a column's slots;
- :class:`RowMethod`: a number for each row from several of its columns, which then is a column of
  its own with cells, share methods and a mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells, Summary
from stream_monitor.schema import BoolArray, FloatArray, IntArray, Kind, Schema


class BoundDrift(Protocol):
    """A drift method made ready for one column."""

    def distance(self, reference: IntArray, window: IntArray) -> FloatArray:
        """Distances between counts.

        Parameters
        ----------
        reference, window : int64[..., K]
            Counts of the column's value cells; leading axes broadcast, so that thousands of
            resampled windows are compared at once.

        Returns
        -------
        float64[...]; NaN where either side has no values.
        """


class DriftMethod(Protocol):
    """A distance between two samples of one column, computed from counts.

    ``tail_power`` says how the statistic grows with the difference of the shares: 2 where its
    square has an asymptotically exponential tail without drift (distances: their square is like a
    chi-squared sum), 1 where the statistic itself has (chi-squared, PSI). Calibration extrapolates
    on that scale.
    """

    @property
    def metric(self) -> str: ...

    @property
    def kinds(self) -> frozenset[Kind]: ...

    @property
    def tail_power(self) -> int: ...

    def edges(self, summary: Summary) -> FloatArray:
        """The cuts this method needs among a continuous column's edges; may be empty."""

    def bind(self, cells: Cells) -> BoundDrift:
        """The method for one column."""


class ShareMethod(Protocol):
    """The share of a window's rows that fall into some slots of a column.

    Value: count in the slots / rows of the window; NaN for a window without rows.
    """

    @property
    def metric(self) -> str: ...

    @property
    def family(self) -> str: ...

    @property
    def two_sided(self) -> bool:
        """Whether a share that falls below what the reference showed is drift too."""

    def mask(self, cells: Cells) -> BoolArray | None:
        """bool[slots]: which slots count; None where the method does not apply to the column."""

    def expected(self, cells: Cells) -> tuple[float, float]:
        """(a, b) of the beta distribution of the share in new data like the reference."""


class RowLearner(Protocol):
    """Learns a row method from the reference, batch by batch."""

    def update(self, batch: ColumnBatch) -> None: ...

    def finish(self) -> dict[str, np.ndarray[Any, Any]]:
        """Named arrays, as saved in the reference file."""


class RowScorer(Protocol):
    """A learned row method."""

    def score(self, batch: ColumnBatch) -> FloatArray:
        """float64[n], finite."""

    @property
    def edges(self) -> FloatArray:
        """The cells of the scores."""


class RowMethod(Protocol):
    """A number for each row from several of its columns (an outlier score, a residual)."""

    @property
    def metric(self) -> str:
        """Name of the derived column."""

    @property
    def family(self) -> str: ...

    def learner(self, schema: Schema, cells: Mapping[str, Cells]) -> RowLearner | None:
        """A learner for the reference's second pass; None where the schema has no fit columns."""

    def load(self, schema: Schema, arrays: Mapping[str, np.ndarray[Any, Any]]) -> RowScorer: ...


@dataclass(frozen=True, slots=True)
class Registry:
    """All methods, by metric."""

    drift: dict[str, DriftMethod]
    share: dict[str, ShareMethod]
    row: dict[str, RowMethod]


REGISTRY = Registry({}, {}, {})

_M = TypeVar("_M")


def _add(table: dict[str, _M], metric: str, method: _M) -> None:
    if metric in table:
        raise ValueError(f"a method for {metric!r} is registered already")
    table[metric] = method


def register_drift(method: DriftMethod) -> None:
    _add(REGISTRY.drift, method.metric, method)


def register_share(method: ShareMethod) -> None:
    _add(REGISTRY.share, method.metric, method)


def register_row(method: RowMethod) -> None:
    _add(REGISTRY.row, method.metric, method)
