"""One model's detectors along its panes, and in which panes they found drift."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stream_monitor.detectors.config import DetectorConfig
from stream_monitor.detectors.fold import Fold
from stream_monitor.methods.base import Measured
from stream_monitor.schema import BoolArray, IntArray
from stream_monitor.values import DETECTORS, Value


class Track:
    """Detectors and the panes of their detections.

    A window's value of a detector is how many drifts it found in the window's panes; the metric is
    the detector's name, the feature that of its series. It is an alert above 0.
    """

    def __init__(self, detectors: Sequence[DetectorConfig], model: str) -> None:
        self._fold = Fold.of(detectors, model)
        self._found: dict[str, list[int]] = {d.config.name: [] for d in self._fold.detectors}
        self.by_event = any(d.per_event for d in self._fold.detectors)

    def __bool__(self) -> bool:
        return bool(self._found)

    @property
    def pane(self) -> int | None:
        """The last pane that was fed."""
        return self._fold.pane

    def feed(self, pane: int, measured: Iterable[Measured]) -> None:
        """Take a closed pane's values; panes come in order, each once."""
        for detection in self._fold.feed(pane, measured):
            self._found[detection.detector.name].append(pane)

    def feed_events(self, errors: BoolArray, panes: IntArray) -> None:
        """Take labelled events in their order, each with its pane: bool[n], int64[n]."""
        first = {d.config.name: d.seen for d in self._fold.detectors}
        for detection in self._fold.feed_events(errors):
            name = detection.detector.name
            self._found[name].append(int(panes[detection.place - first[name]]))

    def values(self, panes: range, *, judged: bool) -> tuple[Value, ...]:
        """Of the window with these panes."""
        found = []
        for detector in self._fold.detectors:
            number = sum(pane in panes for pane in self._found[detector.config.name])
            feature = detector.config.key[2]
            alert = number > 0 if judged else None
            found.append(
                Value(
                    feature,
                    DETECTORS,
                    detector.config.name,
                    float(number),
                    upper_threshold=0.0,
                    alert=alert,
                )
            )
        return tuple(found)

    def forget(self, floor: int) -> None:
        """Panes below the floor are in no window any more."""
        self._found = {n: [p for p in panes if p >= floor] for n, panes in self._found.items()}

    def state(self) -> dict[str, Any]:
        """For the checkpoint, as JSON."""
        return {"fold": self._fold.state(), "found": self._found}

    def restore(self, state: Mapping[str, Any]) -> dict[str, str]:
        """Go on from a state; detectors that begin anew, each with the reason."""
        found = state["found"]
        self._found = {name: found.get(name, []) for name in self._found}
        return self._fold.restore(state["fold"])
