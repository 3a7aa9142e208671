"""One detector: the values it is given, brought to a scale, through River, one after another."""

from __future__ import annotations

from hashlib import blake2b
from importlib.metadata import version
from math import isfinite, nan, sqrt
from typing import Any, Final

import numpy as np
import orjson

from stream_monitor.detectors.config import PER_EVENT, DetectorConfig
from stream_monitor.detectors.registry import METHODS, make
from stream_monitor.detectors.state import restored, state_of
from stream_monitor.errors import StoreError
from stream_monitor.schema import BoolArray, IntArray

_UNIT = 1.5  # spreads on either side that HDDM's [0, 1] holds
_FURTHEST = 100.0  # spreads; what lies further out counts as this far
_LARGEST = 1e100  # of values as they are, so that squares stay finite


class Detector:
    """A River detector with its scale and its counters.

    A value is standardised, z = (value - expected) / spread, and cut off at ±100. Methods whose
    bounds hold for [0, 1] get (z + 1.5) / 3 cut off at 0 and 1: any fixed monotone map keeps
    their guarantee, and a wider one loses sight of a shift of one spread. With `scale: none`
    values go in as they are, within ±1e100.

    What can't be used is left out and counted as skipped: NaN, infinities, a value without an
    expected value or with a spread of 0, and with `scale: none` a value outside [0, 1] for the
    methods that need it. Nothing that can come as a value raises.

    Attributes
    ----------
    seen
        Values, or events, that reached River.
    skipped
        Values that could not be used.
    learned
        Values of the warm-up.
    detections
        How many drifts it has found.
    last
        Pane, or number of the event from 0, of the newest detection; the fold notes it.
    """

    def __init__(self, config: DetectorConfig) -> None:
        self.config: Final = config
        self.per_event: Final = config.method in PER_EVENT
        self.seen = self.skipped = self.learned = self.detections = 0
        self.last: int | None = None
        self._mean = self._squares = 0.0  # Welford's running moments of the warm-up
        self._unit = METHODS[config.method].unit
        self._river = make(config.method, config.options)

    def update(self, value: float, expected: float = nan, spread: float = nan) -> bool:
        """Take one value of the series; whether the detector finds drift at it."""
        if not isfinite(value) or self._warming(value):
            self.skipped += not isfinite(value)
            return False
        x = self._scaled(value, expected, spread)
        if not isfinite(x):
            self.skipped += 1
            return False
        return self._step(x)

    def feed_events(self, errors: BoolArray) -> IntArray:
        """Take single events in their order, for DDM and EDDM.

        One River call an event, about a microsecond each: the only Python work per event there
        is, hence by choice.

        Parameters
        ----------
        errors : bool[n], whether each labelled event's prediction was wrong

        Returns
        -------
        int64[detections]: positions in ``errors`` at which the detector finds drift.
        """
        found = [i for i, error in enumerate(errors.tolist()) if self._step(error)]
        return np.array(found, dtype=np.int64)

    def _step(self, x: float) -> bool:
        self.seen += 1
        self._river.update(x)
        drifted = bool(self._river.drift_detected)
        self.detections += drifted
        return drifted

    def _warming(self, value: float) -> bool:
        """Whether a value is one of those that only teach the scale.

        These are the first `warm_up` values, or more until they are not all equal.
        """
        done = self.learned >= self.config.warm_up and self._squares > 0
        if self.config.scale != "warm_up" or done:
            return False
        value = min(max(value, -_LARGEST), _LARGEST)
        self.learned += 1
        step = value - self._mean
        self._mean += step / self.learned
        self._squares += step * (value - self._mean)
        return True

    def _scaled(self, value: float, expected: float, spread: float) -> float:
        """What River is given; NaN where there is nothing to give."""
        if self.config.scale == "none":
            if self._unit:
                return value if 0 <= value <= 1 else nan
            return min(max(value, -_LARGEST), _LARGEST)
        if self.config.scale == "warm_up":
            expected, spread = self._mean, sqrt(self._squares / (self.learned - 1))
        if not (isfinite(expected) and isfinite(spread) and spread > 0):
            return nan
        furthest = _UNIT if self._unit else _FURTHEST
        # Python floats, not NumPy's: a spread near 0 may give an infinity here, without warning
        z = min(max((float(value) - float(expected)) / float(spread), -furthest), furthest)
        return (z + _UNIT) / (2 * _UNIT) if self._unit else z

    def state(self) -> dict[str, Any]:
        """Everything that the future depends on, as JSON; its bound is that of River's part."""
        own = {
            "river": version("river"),
            "config": _digest(self.config.model_dump()),
            "counters": [self.seen, self.skipped, self.learned, self.detections, self.last],
            "warm_up": [self._mean, self._squares],
            "detector": state_of(self._river),
        }
        return {**own, "digest": _digest(own)}

    def restore(self, state: dict[str, Any]) -> str | None:
        """Go on from a state; or say why the detector begins anew, which then it does.

        Raises
        ------
        StoreError
            The state is damaged.
        """
        own = {name: value for name, value in state.items() if name != "digest"}
        if state.get("digest") != _digest(own):
            raise StoreError(
                f"the stored state of detector {self.config.name} is damaged; give it another "
                "name in the configuration, under which it begins anew"
            )
        if own["config"] != _digest(self.config.model_dump()):
            return "its configuration has changed"
        if own["river"] != (installed := version("river")):
            return f"its state is of River {own['river']}, installed is {installed}"
        self.seen, self.skipped, self.learned, self.detections, self.last = own["counters"]
        self._mean, self._squares = own["warm_up"]
        self._river = restored(make(self.config.method, self.config.options), own["detector"])
        return None


def _digest(content: dict[str, Any]) -> str:
    return blake2b(orjson.dumps(content, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()
