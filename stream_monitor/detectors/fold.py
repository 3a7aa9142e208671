"""Folding a model's closed panes through its sequential detectors.

Every other number is a function of summed counts; these depend on the order of the panes. Each
pane is fed once, in order, as it stood when it closed: what arrives for it later is not fed again,
so the same closed panes give the same detections whatever came after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stream_monitor.detectors.config import DetectorConfig
from stream_monitor.detectors.detector import Detector
from stream_monitor.methods.base import Measured
from stream_monitor.schema import BoolArray


@dataclass(frozen=True, slots=True)
class Detection:
    """A drift that a detector found.

    ``place`` is the pane's index, or for DDM and EDDM the number of the labelled event, from 0.
    ``value`` is that of the series there, as measured; of an event 1.0, an error, or 0.0.
    ``number`` counts the detector's detections from 1.
    """

    detector: DetectorConfig
    place: int
    value: float
    number: int


class Fold:
    """All detectors of one model."""

    def __init__(self, detectors: Iterable[DetectorConfig]) -> None:
        self.detectors: tuple[Detector, ...] = tuple(map(Detector, detectors))
        self.pane: int | None = None

    @classmethod
    def of(cls, detectors: Sequence[DetectorConfig], model: str) -> Fold:
        """Those of the configured detectors that watch a model."""
        return cls(d for d in detectors if d.model in (None, model))

    def feed(self, pane: int, measured: Iterable[Measured]) -> list[Detection]:
        """Take the values of a closed pane.

        Panes without rows may be left out. A pane that lacks a detector's series, or has no
        value of it, counts as skipped by that detector.

        Raises
        ------
        ValueError
            The pane does not come after the last one.
        """
        if self.pane is not None and pane <= self.pane:
            raise ValueError(f"pane {pane} after pane {self.pane}: feed each pane once, in order")
        self.pane = pane
        wanted = {d.config.key for d in self.detectors if not d.per_event}
        values = {}
        for m in measured:
            if (key := (m.family, m.metric, m.feature)) in wanted:
                values[key] = (m.value, m.expected, m.spread)
        found = []
        for detector in self.detectors:
            if detector.per_event:
                continue
            value = values.get(detector.config.key, _ABSENT)
            if detector.update(*value):
                detector.last = pane
                found.append(Detection(detector.config, pane, value[0], detector.detections))
        return found

    def feed_events(self, errors: BoolArray) -> list[Detection]:
        """Take labelled events in their order; see :meth:`Detector.feed_events`."""
        found = []
        for detector in self.detectors:
            if detector.per_event:
                first, number = detector.seen, detector.detections
                for i, row in enumerate(detector.feed_events(errors).tolist(), start=1):
                    detector.last = first + row
                    value = float(errors[row])
                    found.append(Detection(detector.config, first + row, value, number + i))
        return found

    def state(self) -> dict[str, Any]:
        """For the checkpoint, as JSON; see :mod:`stream_monitor.detectors.state` for its size."""
        return {"pane": self.pane, "detectors": {d.config.name: d.state() for d in self.detectors}}

    def restore(self, state: Mapping[str, Any]) -> dict[str, str]:
        """Go on from a state, in a new fold.

        Returns
        -------
        Detectors that begin anew although the state knows them, each with the reason, to be
        logged. A detector that the state does not know begins, one that is gone is forgotten.

        Raises
        ------
        StoreError
            The state is damaged.
        """
        self.pane = state["pane"]
        anew = {}
        for detector in self.detectors:
            name = detector.config.name
            if name in state["detectors"]:
                reason = detector.restore(state["detectors"][name])
                if reason is not None:
                    anew[name] = reason
        return anew


_ABSENT = (float("nan"), float("nan"), float("nan"))
