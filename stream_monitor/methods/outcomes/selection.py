"""Are the labelled like the others? Labels of some scores first make performance look like it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf, nan, sqrt

import numpy as np
from scipy.special import rel_entr

from stream_monitor.methods.base import Block, Definition, Measured
from stream_monitor.methods.outcomes.base import Outcome, OutcomeMeasure, register_outcome
from stream_monitor.methods.performance.cbpe import CbpeBlock
from stream_monitor.methods.performance.uncertainty import RANGES
from stream_monitor.panes.layout import Counted
from stream_monitor.schema import FloatArray, score_column
from stream_monitor.values import LABELS

_LEAST = 5.0  # rows that are expected in a cell of the table, else its range joins its neighbour

SHARE = Definition("share", LABELS, 0.0, 1.0, "Share of the predictions whose label is in.")
DISTANCE = Definition(
    "selection_distance",
    LABELS,
    0.0,
    1.0,
    "Jensen-Shannon distance (base 2) of the scores of labelled and of other predictions.",
)
SELECTION = Definition(
    "selection",
    LABELS,
    0.0,
    inf,
    "Chi-squared of labelled and other predictions by score range, over its freedom.",
    upper_only=True,
)


class Selection:
    """The share of labels, and whether the labelled are selected by their scores.

    Over 20 score ranges of equal reference mass of each score column:

    - ``selection_distance``: √ of the Jensen–Shannon divergence, base 2, of labelled and other
      predictions, in [0, 1]: how different they are, not judged;
    - ``selection``: chi-squared of the table labelled or not × range, over its freedom k, which
      without selection is a gamma of mean 1 and variance 2/k: whether that is more than chance.

    An alert is a warning about realized performance: it is that of the rows which have labels. The
    concept effect and the calibration drift compare rows of equal score and do not mind; selection
    by the label itself, the score being equal, nobody can see before the others come. NaN where all
    or none have labels.
    """

    name = "selection"
    definitions = (SHARE, DISTANCE, SELECTION)

    def bind(self, blocks: Mapping[str, Block], reference: Counted) -> OutcomeMeasure | None:  # noqa: ARG002
        block = blocks.get("cbpe")
        return _Measure(block if isinstance(block, CbpeBlock) else None)


@dataclass(frozen=True, slots=True)
class _Measure:
    block: CbpeBlock | None

    def measure(self, outcome: Outcome) -> Iterator[Measured]:
        every, some = outcome.predicted.rows, outcome.labelled.rows
        yield Measured(SHARE, SHARE.metric, "", "", some / every if every else nan, every)
        if self.block is None:
            return
        block, problem = self.block, self.block.problem
        predicted, _ = block.sums(outcome.predicted)
        labelled, _ = block.sums(outcome.labelled)
        places = np.split(block.ranges, block.cells.starts[1:-1])
        for column, label in enumerate(problem.scored):
            table = np.stack(
                [
                    np.bincount(places[column], counts, RANGES).astype(np.float64)
                    for counts in (
                        labelled.totals[column],
                        np.maximum(predicted.totals[column] - labelled.totals[column], 0.0),
                    )
                ]
            )
            name = score_column(None if problem.binary else problem.classes[label])
            rows = int(table.sum())
            yield Measured(DISTANCE, DISTANCE.metric, name, name, distance(table), rows)
            value, freedom = homogeneity(table)
            spread = sqrt(2 / freedom) if freedom else nan
            yield Measured(SELECTION, SELECTION.metric, name, name, value, rows,
                           expected=1.0, spread=spread)  # fmt: skip


def distance(table: FloatArray) -> float:
    """Of the two rows float64[2, G] of counts; NaN where one is empty."""
    totals = table.sum(axis=1, keepdims=True)
    if not totals.all():
        return nan
    p, q = table / totals
    middle = (p + q) / 2
    divergence = float((rel_entr(p, middle) + rel_entr(q, middle)).sum()) / 2 / np.log(2)
    return sqrt(min(max(divergence, 0.0), 1.0))


def homogeneity(table: FloatArray) -> tuple[float, int]:
    """Pearson's chi-squared over its freedom, and the freedom.

    Neighbouring ranges are taken together until at least five rows are expected in each cell; NaN
    and 0 where that leaves one range, or a row is empty.
    """
    totals = table.sum(axis=1)
    if not totals.all():
        return nan, 0
    part = totals / totals.sum()
    columns, held = [], np.zeros(2)
    for counts in table.T:
        held = held + counts
        if (held.sum() * part).min() >= _LEAST:
            columns.append(held)
            held = np.zeros(2)
    if not columns:
        return nan, 0
    columns[-1] = columns[-1] + held
    freedom = len(columns) - 1
    if not freedom:
        return nan, 0
    observed = np.stack(columns, axis=1)
    expected = part[:, None] * observed.sum(axis=0)
    return float(((observed - expected) ** 2 / expected).sum()) / freedom, freedom


register_outcome(Selection())
