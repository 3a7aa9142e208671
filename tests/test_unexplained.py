"""Outputs that move without inputs."""

from __future__ import annotations

from math import isnan, nan

from hypothesis import given
from hypothesis import strategies as st

from stream_monitor.alerts.unexplained import unexplained
from stream_monitor.values import DRIFT, Value

OUTPUTS = {"prediction", "score"}


def drift(feature: str, value: float, upper: float = 1.0, *, closed: bool = True) -> Value:
    alert = None if not closed or isnan(upper) or isnan(value) else value > upper
    return Value(feature, DRIFT, "jensen_shannon", value, upper_threshold=upper, alert=alert)


def test_outputs_alone_are_an_alert_and_with_inputs_they_are_not() -> None:
    (alone,) = unexplained([drift("age", 0.5), drift("score", 3.0)], OUTPUTS)
    assert (alone.value, alone.alert) == (2.5, True)
    (both,) = unexplained([drift("age", 2.0), drift("score", 3.0)], OUTPUTS)
    assert (both.value, both.alert) == (1.0, False)
    (none,) = unexplained([drift("age", 0.5), drift("prediction", 0.1, 0.2)], OUTPUTS)
    assert (none.value, none.alert) == (0.0, False)


def test_what_is_not_there_or_not_judged_says_nothing() -> None:
    assert unexplained([], OUTPUTS) == ()
    assert unexplained([drift("age", 0.5)], OUTPUTS) == ()
    assert unexplained([drift("score", 0.5)], OUTPUTS) == ()
    (filling,) = unexplained(
        [drift("age", 0.5, closed=False), drift("score", 3.0, closed=False)], OUTPUTS
    )
    assert filling.alert is None
    (bare,) = unexplained([drift("age", 0.5, nan), drift("score", 3.0, nan)], OUTPUTS)
    assert isnan(bare.value)
    assert bare.alert is None


_NUMBERS = st.floats(0, 1e6) | st.just(nan)


@given(st.lists(st.tuples(st.sampled_from(["age", "income", "score", "prediction"]),
                          _NUMBERS, _NUMBERS), max_size=8))  # fmt: skip
def test_the_order_of_the_values_does_not_matter(found: list[tuple[str, float, float]]) -> None:
    values = [drift(*one) for one in found]
    one, other = unexplained(values, OUTPUTS), unexplained(values[::-1], OUTPUTS)
    assert [(repr(v.value), v.alert) for v in one] == [(repr(v.value), v.alert) for v in other]
