"""Whether each event's prediction was wrong: the series of the detectors that go event by event."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells
from stream_monitor.methods.performance.problem import class_name
from stream_monitor.schema import PREDICTION, TARGET, IntArray, Schema


class Errors:
    """Compares predicted and true classes; both columns must be categorical."""

    def __init__(self, schema: Schema, cells: Mapping[str, Cells]) -> None:
        rows = {c.name: i for i, c in enumerate(schema.categorical)}
        self.known = {PREDICTION, TARGET} <= rows.keys()
        if not self.known:
            return
        self._rows = rows[PREDICTION], rows[TARGET]
        names = [[class_name(c) for c in cells[n].categories] for n in (PREDICTION, TARGET)]
        number = {name: i for i, name in enumerate(dict.fromkeys(names[0] + names[1]))}
        # unseen, missing and wrong type are no class
        self._classes = [np.array([number[n] for n in some] + [-1, -1, -1]) for some in names]

    def of(self, batch: ColumnBatch) -> IntArray:
        """int64[n]: 1 where the prediction was wrong, 0 where right, -1 where either is unknown."""
        predicted, true = (
            classes[batch.codes[row]]
            for classes, row in zip(self._classes, self._rows, strict=True)
        )
        found: IntArray = np.where((predicted < 0) | (true < 0), -1, predicted != true)
        return found
