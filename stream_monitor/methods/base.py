"""What a method is, and where it is registered. One file a method or family, one registration.

Methods know plain arrays only: the reference's :class:`~stream_monitor.cells.Cells` and counts of
a window. They are pure and hold no state of the stream.

Five shapes cover everything so far:

- :class:`DriftMethod`: a distance between the reference's and the window's counts of one column;
- :class:`ShareMethod`: the share of rows that fall into some of a column's slots;
- :class:`RowMethod`: a number for each row from several of its columns, which then is a column of
  its own with cells and share methods;
- :class:`BlockMethod`: any values from slots of its own, which it fills itself;
- :class:`SketchMethod`: values from a sketch of the rows, which merges and does not add.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from math import nan
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells, Summary
from stream_monitor.methods.binning import Pooled
from stream_monitor.panes.layout import Counted, Sketch
from stream_monitor.schema import BoolArray, FloatArray, IntArray, Kind, Schema

Arrays = Mapping[str, np.ndarray[Any, Any]]


class Chunks(Enum):
    """How NannyML 0.13.1 draws the thresholds of a metric, and when it alerts.

    All but the constants are the mean of the reference chunks' values ± 3 population standard
    deviations, NaN left out.
    """

    UPPER = "upper bound only; alert above it"
    WITHIN = "upper bound only, at most the metric's greatest value; alert above it"
    BOTH = "both bounds, within the metric's range; alert outside of them"
    BETWEEN = "both bounds, none where it would leave the metric's range; alert unless between"
    ZERO = "constant upper bound 0"
    SEPARABLE = "constant bounds 0.45 and 0.65"
    CHI2 = "no bound; alert where p < 0.05"
    NONE = "no bound, no alert"


@dataclass(frozen=True, slots=True)
class Definition:
    """What a value is, for thresholds, documentation and metadata.

    Attributes
    ----------
    metric
        The field's name of it.
    family
        Values of one family share the stated rate of false alarms.
    low, high
        The range of its values; may be infinite.
    help
        One sentence: formula or meaning, unit, range.
    chunks
        NannyML's threshold.
    chunk_family
        Whose values of the same metric the chunks' thresholds are drawn from; default: its own.
    upper_only
        Whether only a value above what is expected is of interest.
    """

    metric: str
    family: str
    low: float
    high: float
    help: str
    chunks: Chunks = Chunks.NONE
    chunk_family: str = ""
    upper_only: bool = False


class Measured(msgspec.Struct, frozen=True):
    """A value before it is judged; a struct as :class:`~stream_monitor.values.Value` is one.

    Attributes
    ----------
    metric
        The definition's, but where one definition stands for many (the cells of a confusion
        matrix).
    feature
        What the value is shown under; empty where it belongs to the model as a whole.
    column
        The column that it was computed from, which is what ``feature`` is but for derived columns.
    rows
        The number of rows that it rests on.
    sampling_error
        Standard error of the value as an estimate for the population that the window is a sample
        of.
    lower_confidence, upper_confidence
        A band about the value; its method says of which kind.
    expected, spread
        Mean and standard deviation of the value in windows of so many rows that are like the
        reference, the reference's own sampling noise included: what calibrated thresholds of
        values without a calibration of their own are drawn from. NaN: not judged by default.
    """

    definition: Definition
    metric: str
    feature: str
    column: str
    value: float
    rows: int
    sampling_error: float = nan
    lower_confidence: float = nan
    upper_confidence: float = nan
    expected: float = nan
    spread: float = nan

    @property
    def family(self) -> str:
        return self.definition.family


class DriftMethod(Protocol):
    """A distance between two samples of one column, computed from counts.

    ``tail_power`` says how the statistic grows with the difference of the shares: 2 where its
    square has an asymptotically exponential tail without drift (distances: their square is like a
    chi-squared sum), 1 where the statistic itself has (chi-squared, PSI). Calibration extrapolates
    on that scale.

    ``singly`` methods take every unseen category by itself under `compat: nannyml`, where all
    others count unseen ones as one; they work on any number of cells.

    ``fine`` methods work on any cells, the finer the better; segments give them fewer. The others
    find exactly their own bins among the cells.
    """

    @property
    def definition(self) -> Definition: ...

    @property
    def kinds(self) -> frozenset[Kind]: ...

    @property
    def tail_power(self) -> int: ...

    @property
    def singly(self) -> bool: ...

    @property
    def fine(self) -> bool: ...

    def edges(self, summary: Summary, *, compat: bool = False) -> FloatArray:
        """The cuts this method needs among a continuous column's edges; may be empty.

        ``compat`` asks for as many as NannyML's own numbers take to be met.
        """

    def bind(self, cells: Cells) -> Pooled:
        """The method for one column."""


class ShareMethod(Protocol):
    """The share of a window's rows that fall into some slots of a column.

    Value: count in the slots / rows of the window; NaN for a window without rows.
    """

    @property
    def definition(self) -> Definition: ...

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

    def finish(self) -> Arrays:
        """Named arrays, as saved in the reference file."""


class RowScorer(Protocol):
    """A learned row method."""

    def score(self, batch: ColumnBatch) -> FloatArray:
        """float64[n], finite, within ±:data:`stream_monitor.panes.exact.LIMIT`."""

    @property
    def edges(self) -> FloatArray:
        """The cells of the scores."""


class RowMethod(Protocol):
    """A number for each row from several of its columns (an outlier score, a residual)."""

    @property
    def definition(self) -> Definition:
        """Of the mean in a window; its metric is the derived column's name."""

    def learner(self, schema: Schema, cells: Mapping[str, Cells]) -> RowLearner | None:
        """A learner for the reference's second pass; None where the schema has no fit columns."""

    def load(self, schema: Schema, arrays: Arrays) -> RowScorer: ...


@dataclass(frozen=True, slots=True)
class Study:
    """What is known of a reference after the first look at it.

    ``cells`` have edges, categories and summaries, their counts are still empty. ``compat`` asks
    for NannyML's numbers, quirks included. ``positive`` is the configured name of the positive
    class, None where the method is to choose.
    """

    schema: Schema
    cells: Mapping[str, Cells]
    compat: bool = False
    positive: str | None = None


class BlockLearner(Protocol):
    """Learns a block method from the reference."""

    def update(self, batch: ColumnBatch) -> None:
        """Take in some rows; every row comes once, in the order of the files."""

    def finish(self, sample: ColumnBatch) -> Arrays:
        """Named arrays, as saved in the reference file; no object arrays.

        ``sample`` holds rows chosen by hash, or all of them, in time order.
        """


class Addends(Protocol):
    """What each row of a batch adds to a block's slots."""

    def counts(self, group: IntArray, groups: int) -> IntArray:
        """The rows' additions a group.

        Parameters
        ----------
        group : int64[n] in 0 … groups − 1, the group of each row

        Returns
        -------
        int64[groups, size]; see :mod:`stream_monitor.panes.exact` for sums as integers.
        """


class Measure(Protocol):
    """A block method made ready to evaluate windows against one reference."""

    def measure(self, window: Counted) -> Iterable[Measured]:
        """Its values of a window, always the same ones in the same order; NaN where empty."""


class Block(Protocol):
    """A learned block method."""

    @property
    def size(self) -> int:
        """How many slots it has."""

    def addends(self, batch: ColumnBatch) -> Addends:
        """The costly part of counting, done once a batch."""

    def bind(self, reference: Counted) -> Measure:
        """Ready to evaluate; ``reference`` holds the counts of the whole reference."""


class BlockMethod(Protocol):
    """Any values of the model, computed from slots of its own or from the columns' counts.

    Counts must be additive: the same rows in any batches, order and grouping give the same sums.
    """

    @property
    def name(self) -> str:
        """Of the block, and what `methods.blocks` lists."""

    @property
    def definitions(self) -> tuple[Definition, ...]: ...

    def learner(self, study: Study) -> BlockLearner | None:
        """None where the reference lacks what the method needs (labels, scores, …)."""

    def load(self, schema: Schema, cells: Mapping[str, Cells], arrays: Arrays) -> Block:
        """The method as learned; ``cells`` are complete, ``schema`` is that of the batches.

        Segments load it with coarser cells of their own: the block's size and what it adds must
        not depend on the cells' edges and counts.
        """


class Sketcher(Protocol):
    """A learned sketch method."""

    def sketch(self, batch: ColumnBatch, beside: Sketch | None = None) -> Sketch:
        """Of the batch's rows, at least one.

        ``beside`` is what it will be merged with: what cannot matter then may be left out.
        """

    def from_bytes(self, data: bytes) -> Sketch:
        """The inverse of the sketch's ``to_bytes``."""

    @property
    def most_bytes(self) -> int:
        """The greatest size of a sketch, for the memory bound."""

    def bind(self, reference: Counted) -> Measure:
        """Ready to evaluate windows that carry the sketch under the method's name.

        It gives NaN for a window without it.
        """


class SketchMethod(Protocol):
    """Values from a sketch of a window's rows; measured once a window is closed, not before."""

    @property
    def name(self) -> str:
        """What `methods.blocks` lists."""

    @property
    def definitions(self) -> tuple[Definition, ...]: ...

    def learner(self, study: Study) -> BlockLearner | None:
        """None where the reference lacks what the method needs."""

    def load(self, schema: Schema, cells: Mapping[str, Cells], arrays: Arrays) -> Sketcher:
        """The method as learned; ``cells`` are complete, ``schema`` is that of the batches."""


@dataclass(frozen=True, slots=True)
class Registry:
    """All methods, by metric or name.

    ``nannyml`` holds what takes the place of the share method of the same metric under
    `compat: nannyml`.
    """

    drift: dict[str, DriftMethod]
    share: dict[str, ShareMethod]
    row: dict[str, RowMethod]
    block: dict[str, BlockMethod]
    sketch: dict[str, SketchMethod]
    nannyml: dict[str, ShareMethod]


REGISTRY = Registry({}, {}, {}, {}, {}, {})

_M = TypeVar("_M")


def _add(table: dict[str, _M], metric: str, method: _M) -> None:
    if metric in table:
        raise ValueError(f"a method for {metric!r} is registered already")
    table[metric] = method


def register_drift(method: DriftMethod) -> None:
    _add(REGISTRY.drift, method.definition.metric, method)


def register_share(method: ShareMethod) -> None:
    _add(REGISTRY.share, method.definition.metric, method)


def register_nannyml(method: ShareMethod) -> None:
    _add(REGISTRY.nannyml, method.definition.metric, method)


def register_row(method: RowMethod) -> None:
    _add(REGISTRY.row, method.definition.metric, method)


def register_block(method: BlockMethod) -> None:
    _add(REGISTRY.block, method.name, method)


def register_sketch(method: SketchMethod) -> None:
    _add(REGISTRY.sketch, method.name, method)
