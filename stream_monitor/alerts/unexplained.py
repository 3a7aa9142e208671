"""Have the outputs moved without the inputs? What can be said of concept drift without labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import inf, isnan, nan

from stream_monitor.methods.base import Definition
from stream_monitor.values import CONCEPT_DRIFT, DRIFT, Value

DEFINITION = Definition(
    "unexplained_output_drift",
    CONCEPT_DRIFT,
    -inf,
    inf,
    "Drift of prediction, scores and labels less that of the features, each in its thresholds.",
)


def unexplained(values: Sequence[Value], outputs: Collection[str]) -> tuple[Value, ...]:
    """How much further the outputs have moved than any feature.

    The greatest ratio of a drift value to its threshold among the outputs (prediction, scores,
    labels that come with the events) less the greatest among the features: a proxy, for a
    deterministic model's outputs follow its inputs, so that what moves alone is a changed model, a
    part of the inputs that is not watched, or, where labels are among the outputs, the world. It
    is an alert where some output is beyond its threshold and no feature is. It knows no labels that
    come late: what these tell is ``calibration_drift``.

    Returns
    -------
    One value, NaN while nothing has a threshold; none where either side has no drift values.
    """
    drift = [v for v in values if v.family == DRIFT]
    sides = [[v for v in drift if (v.feature in outputs) is side] for side in (True, False)]
    if not all(sides):
        return ()
    moved = [max((_ratio(v) for v in side), default=nan) for side in sides]
    judged = any(v.alert is not None for v in drift)
    out, into = (any(v.alert for v in side) for side in sides)
    value = nan if -inf in moved else moved[0] - moved[1]
    return (
        Value(
            "",
            CONCEPT_DRIFT,
            DEFINITION.metric,
            value,
            alert=out and not into if judged else None,
        ),
    )


def _ratio(value: Value) -> float:
    """-inf where there is nothing to compare, which any other is greater than."""
    if isnan(value.value) or not value.upper_threshold > 0:
        return -inf
    return value.value / value.upper_threshold
