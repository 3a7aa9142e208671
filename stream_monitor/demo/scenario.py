"""What sets in during the demo, and in which features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Values = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Disturbance:
    """A change to one feature; ``apply`` takes and gives an array of one value an event.

    Values may become objects: None is missing, text in a number's place a broken schema.
    """

    feature: str
    what: str
    apply: Callable[[Values, np.random.Generator], Values]


@dataclass(frozen=True, slots=True)
class Scenario:
    """``flips`` is the share of true labels that turn around while the inputs stay."""

    summary: str
    disturbances: tuple[Disturbance, ...] = ()
    flips: float = 0.0

    @property
    def disturbed(self) -> dict[str, str]:
        return {d.feature: d.what for d in self.disturbances}


def _scaled(factor: float) -> Callable[[Values, np.random.Generator], Values]:
    return lambda values, _rng: values * factor


def _replaced(value: object, share: float) -> Callable[[Values, np.random.Generator], Values]:
    """A share of the values, chosen at random, becomes ``value``; None is missing."""

    def apply(values: Values, rng: np.random.Generator) -> Values:
        found = values.astype(object)
        found[rng.random(len(values)) < share] = value
        return found

    return apply


def _as_text(values: Values, _rng: np.random.Generator) -> Values:
    return np.array([f"{v:.4f}" for v in values.tolist()], dtype=object)


_QUALITY = (
    Disturbance("device_age_days", "missing values rise from 1 % to 8 %", _replaced(None, 0.07)),
    Disturbance("utilisation", "schema break: numbers sent as text", _as_text),
    Disturbance("country", "a country never seen before, 3 %", _replaced("XK", 0.03)),
)

SCENARIOS = {
    "none": Scenario("nothing sets in"),
    "drift": Scenario(
        "inputs drift, values go missing, the schema breaks",
        (
            Disturbance("amount", "mean rises by 30 %", _scaled(1.3)),
            Disturbance("velocity", "spread grows by half", _scaled(1.5)),
            Disturbance("channel", "a tenth of all moves to the app", _replaced("app", 0.1)),
            *_QUALITY,
        ),
    ),
    "quality": Scenario(
        "values go missing, leave their range, come as text or as new categories",
        (
            *_QUALITY,
            Disturbance("session_seconds", "2 % are a sentinel, -999", _replaced(-999.0, 0.02)),
        ),
    ),
    "concept": Scenario("labels turn around, inputs stay as they are", flips=0.2),
}
