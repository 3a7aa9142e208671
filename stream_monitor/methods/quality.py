"""Data quality: which share of the rows is missing, of a wrong type, unseen, or out of range.

Each value is a count over all rows of the window. What the reference says about the share in new
data is a beta distribution; which one is said below, with N the reference's rows.
"""

from __future__ import annotations

import numpy as np

from stream_monitor.cells import Cells
from stream_monitor.methods.base import Chunks, Definition, register_nannyml, register_share
from stream_monitor.methods.binning import above, bins_of
from stream_monitor.schema import BoolArray, Role
from stream_monitor.values import QUALITY

# derived columns are computed here, and a label that has not come yet is no fault of the data
_NOT_INPUT = (Role.DERIVED, Role.TARGET)


class MissingValues:
    """Null, absent, or NaN. A share that falls is told too: a default may have replaced the nulls.

    Expected: Beta(k + 1/2, N − k + 1/2) for k missing in the reference (Jeffreys' prior).
    """

    definition = Definition(
        "missing_values",
        QUALITY,
        0.0,
        1.0,
        "Share of rows without a value: null, absent or NaN.",
        Chunks.BOTH,
    )
    two_sided = True

    def mask(self, cells: Cells) -> BoolArray | None:
        return _slot(cells, cells.missing)

    def expected(self, cells: Cells) -> tuple[float, float]:
        return _jeffreys(cells, int(cells.counts[cells.missing]))


class WrongType:
    """Values that are not of the column's kind, such as text where numbers belong.

    Expected: Beta(k + 1/2, N − k + 1/2) for k of a wrong type in the reference.
    """

    definition = Definition(
        "wrong_type",
        QUALITY,
        0.0,
        1.0,
        "Share of rows whose value is not of the column's kind.",
        Chunks.WITHIN,
    )
    two_sided = False

    def mask(self, cells: Cells) -> BoolArray | None:
        return _slot(cells, cells.wrong_type)

    def expected(self, cells: Cells) -> tuple[float, float]:
        return _jeffreys(cells, int(cells.counts[cells.wrong_type]))


class UnseenValues:
    """Categories that the reference does not have. Missing values are not unseen.

    Expected: Beta(k + 1/2, N − k + 1/2), where k is the number of categories that the reference
    has once. That is the Good–Turing estimate (Good 1953): the share of what comes next and has
    not been before is about k / N. Where the reference has more categories than are kept, its rows
    with one of the others count into k.
    """

    definition = Definition(
        "unseen_values",
        QUALITY,
        0.0,
        1.0,
        "Share of rows with a category that the reference does not have.",
        Chunks.ZERO,
    )
    two_sided = False

    def mask(self, cells: Cells) -> BoolArray | None:
        return None if cells.column.continuous else _slot(cells, cells.unseen)

    def expected(self, cells: Cells) -> tuple[float, float]:
        once = int(np.count_nonzero(cells.values[: cells.unseen] == 1))
        return _jeffreys(cells, once + int(cells.counts[cells.unseen]))


class UnseenOrMissing(UnseenValues):
    """As NannyML 0.13.1: a missing value is unseen, too, where the reference has none."""

    def mask(self, cells: Cells) -> BoolArray | None:
        mask = super().mask(cells)
        if mask is not None:
            mask[cells.missing] = cells.counts[cells.missing] == 0
        return mask


class NumericalRange:
    """Numbers below the reference's minimum or above its maximum; ±inf are such numbers.

    The range of n values drawn from a continuous distribution leaves outside of it a share of new
    values that is Beta(2, n − 1), one end of it Beta(1, n), whatever the distribution (Wilks 1942,
    "Statistical prediction with special reference to the problem of tolerance limits"). So new
    extremes are normal where the reference's own are single values; an extreme that occurs more
    than once is taken for a bound (0 of a count, 100 of a percentage) that new data keep to.
    Expected: Beta(a, N + 1 − a), where a is the number of single extremes, or 1/2 without any,
    plus the reference's own infinities. Rows without a number are counted in N as they are among
    the window's rows. Does not apply to a reference of fewer than two numbers.
    """

    definition = Definition(
        "numerical_range",
        QUALITY,
        0.0,
        1.0,
        "Share of rows beyond the reference's least or greatest number.",
        Chunks.ZERO,
    )
    two_sided = False

    def mask(self, cells: Cells) -> BoolArray | None:
        summary = cells.summary
        if cells.column.role in _NOT_INPUT or summary is None or summary.n < 2:
            return None
        bounds = np.array([summary.minimum, summary.maximum])
        bounds[1:] = above(bounds[1:])
        mask = np.zeros(cells.slots, dtype=np.bool_)
        mask[: cells.size] = bins_of(cells, bounds) != 1
        mask[cells.not_finite] = True
        return mask

    def expected(self, cells: Cells) -> tuple[float, float]:
        if cells.summary is None:
            raise ValueError(
                f"{self.definition.metric} does not apply to the column {cells.column.name!r}"
            )
        single = (cells.summary.minimum_count == 1) + (cells.summary.maximum_count == 1)
        a = max(single, 0.5) + int(cells.counts[cells.not_finite])
        return a, int(cells.counts.sum()) + 1 - a


def _slot(cells: Cells, slot: int) -> BoolArray | None:
    """The mask of one slot; None for a column that is not the events' input."""
    if cells.column.role in _NOT_INPUT:
        return None
    mask = np.zeros(cells.slots, dtype=np.bool_)
    mask[slot] = True
    return mask


def _jeffreys(cells: Cells, count: int) -> tuple[float, float]:
    return count + 0.5, int(cells.counts.sum()) - count + 0.5


register_share(MissingValues())
register_share(WrongType())
register_share(UnseenValues())
register_share(NumericalRange())
register_nannyml(UnseenOrMissing())
