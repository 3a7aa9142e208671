"""Everything that is measured about a window once labels have come."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from stream_monitor.methods.base import Block, Measured, Registry
from stream_monitor.methods.evaluate import ROWS_COUNT, Evaluator
from stream_monitor.methods.outcomes.base import OUTCOMES, REALIZING, Outcome
from stream_monitor.panes.layout import Counted
from stream_monitor.reference.profile import Part
from stream_monitor.schema import TARGET

# the others speak of values that are not there, which for a label says only that it has not come
_QUALITY = ("unseen_values", "numerical_range")


class OutcomeEvaluator(Evaluator):
    """Realized performance, drift of the labels, and what labels say about the estimates.

    Of ``part`` only the target column is looked at.
    """

    def __init__(
        self,
        part: Part,
        registry: Registry,
        blocks: Mapping[str, Block],
        *,
        continuous: Sequence[str],
        categorical: Sequence[str],
        quality: Collection[str],
        compat: bool,
    ) -> None:
        super().__init__(
            {TARGET: part.cells[TARGET]},
            part.reference,
            registry,
            {name: block for name, block in blocks.items() if name in REALIZING},
            {},
            continuous=continuous,
            categorical=categorical,
            quality=[q for q in quality if q in _QUALITY],
            compat=compat,
        )
        bound = (method.bind(blocks, part.reference) for method in OUTCOMES.values())
        self._outcomes = [measure for measure in bound if measure is not None]

    def measure(self, window: Counted) -> list[Measured]:
        """As if every row of the counts had its label."""
        return self.outcome(Outcome(window, window))

    def outcome(self, outcome: Outcome) -> list[Measured]:
        """Every value of a window."""
        found = [m for m in super().measure(outcome.labelled) if m.definition is not ROWS_COUNT]
        for measure in self._outcomes:
            found += measure.measure(outcome)
        return found
