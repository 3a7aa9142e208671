"""What takes a model's outcome panes in their order, each once: detectors, the estimate's test.

Every other number is a function of a window's sums. These depend on the order, so they see a pane
only once all labels that count have had the time to come: early ones, which may be those of the
easy cases, never pass for the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

from stream_monitor.detectors.track import Track
from stream_monitor.methods.base import Measured
from stream_monitor.methods.sequential.estimate import EstimateTest
from stream_monitor.panes.layout import Counted
from stream_monitor.values import Value, unjudged

_NUMBERS = ("value", "p_value", "sampling_error", "lower_confidence", "upper_confidence",
            "lower_threshold", "upper_threshold")  # fmt: skip


@dataclass(slots=True)
class Prequential:
    """One model's River detectors of series that rest on labels, and the test of its estimates.

    ``marks`` holds what the test said after each pane that is still alive, so that a window says
    the same whenever it is evaluated.
    """

    track: Track
    test: EstimateTest | None
    marks: dict[int, list[Value]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.track) or self.test is not None

    @property
    def next(self) -> int:
        """The first pane that was not fed."""
        fed = (self.track.pane, None if self.test is None else self.test.pane)
        return max((pane for pane in fed if pane is not None), default=-1) + 1

    def feed(self, pane: int, measured: Sequence[Measured], labelled: Counted) -> None:
        """Take a pane's values and its labelled rows."""
        if self.track:
            self.track.feed(pane, measured)
        if self.test is not None:
            self.test.feed(pane, labelled)
            self.marks[pane] = list(self.test.values())

    def values(self, panes: range, *, judged: bool) -> tuple[Value, ...]:
        """Detections in a window's panes, and the test as it stood at their end."""
        known = max((n for n in self.marks if n < panes.stop), default=None)
        said = () if known is None else tuple(self.marks[known])
        if not judged:
            said = unjudged(said)
        return self.track.values(panes, judged=judged) + said

    def forget(self, floor: int) -> None:
        """Panes below the floor are in no window any more."""
        self.track.forget(floor)
        newest = max((n for n in self.marks if n < floor), default=floor)
        self.marks = {n: values for n, values in self.marks.items() if n >= newest}

    def state(self) -> dict[str, Any]:
        """For the checkpoint, as JSON."""
        return {
            "track": self.track.state(),
            "test": None if self.test is None else self.test.state(),
            "marks": [(n, [_packed(v) for v in values]) for n, values in self.marks.items()],
        }

    def restore(self, state: Mapping[str, Any]) -> dict[str, str]:
        """Go on from a state; what begins anew, each with the reason."""
        anew = self.track.restore(state["track"])
        if self.test is None or state["test"] is None:
            return anew
        reason = self.test.restore(state["test"])
        if reason is None:
            self.marks = {n: [_unpacked(v) for v in values] for n, values in state["marks"]}
            return anew
        return anew | {"estimate": reason}


def _packed(value: Value) -> list[Any]:
    numbers = [getattr(value, name) for name in _NUMBERS]
    return [value.feature, value.family, value.metric, value.alert, *numbers]


def _unpacked(fields: list[Any]) -> Value:
    """JSON has no NaN: it comes back as None."""
    feature, family, metric, alert, *numbers = fields
    known = {name: nan if x is None else x for name, x in zip(_NUMBERS, numbers, strict=True)}
    return Value(feature, family, metric, alert=alert, **known)
