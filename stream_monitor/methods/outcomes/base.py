"""What a method is that needs both a window's predictions and those of them that have labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from stream_monitor.methods.base import Block, Definition, Measured
from stream_monitor.panes.layout import Counted

ESTIMATING = ("cbpe", "dle")
REALIZING = ("realized_performance", "realized_losses")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of a window at one maturity.

    ``predicted`` counts all its predictions: rows and the estimating block. ``labelled`` counts
    those whose label came within the maturity: rows, the column ``target``, the realizing block,
    and the estimating block on these same rows.
    """

    predicted: Counted
    labelled: Counted


class OutcomeMeasure(Protocol):
    """An outcome method made ready for one reference."""

    def measure(self, outcome: Outcome) -> Iterable[Measured]:
        """Its values, always the same ones in the same order; NaN where there is nothing."""


class OutcomeMethod(Protocol):
    """Values of the model as a whole from what was estimated and what came true."""

    @property
    def name(self) -> str: ...

    @property
    def definitions(self) -> tuple[Definition, ...]: ...

    def bind(self, blocks: Mapping[str, Block], reference: Counted) -> OutcomeMeasure | None:
        """Ready to evaluate; None where the model lacks what the method needs.

        ``blocks`` are the loaded ones by name, ``reference`` the counts of the whole labelled
        reference under the same names.
        """


OUTCOMES: dict[str, OutcomeMethod] = {}


def register_outcome(method: OutcomeMethod) -> None:
    if method.name in OUTCOMES:
        raise ValueError(f"an outcome method {method.name!r} is registered already")
    OUTCOMES[method.name] = method
