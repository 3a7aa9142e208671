"""L-infinity distance of categorical columns, as in NannyML 0.13.1."""

from __future__ import annotations

import numpy as np

from stream_monitor.cells import Cells, Summary
from stream_monitor.methods.base import Chunks, Definition, register_drift
from stream_monitor.methods.binning import Counts, Pooled, shares
from stream_monitor.schema import FloatArray, Kind
from stream_monitor.values import DRIFT


class LInfinity:
    """max |p − q| over the categories' shares of reference and window, in [0, 1].

    All unseen categories count as one, where NannyML takes each by itself, as `compat: nannyml`
    does here: the two differ only if several unseen categories together outweigh every other
    change. NaN where either side is empty.
    """

    definition = Definition(
        "l_infinity",
        DRIFT,
        0.0,
        1.0,
        "Greatest difference of a category's shares.",
        Chunks.UPPER,
    )
    kinds = frozenset({Kind.CATEGORICAL, Kind.BOOLEAN})
    tail_power = 2
    fine = False
    singly = True

    def edges(self, summary: Summary, *, compat: bool = False) -> FloatArray:  # noqa: ARG002
        return np.empty(0)

    def bind(self, cells: Cells) -> Pooled:
        return Pooled.of(cells, shares, _distance)


def _distance(reference: Counts, window: Counts) -> FloatArray:
    distance: FloatArray = np.abs(reference - window).max(axis=-1)
    return distance


register_drift(LInfinity())
