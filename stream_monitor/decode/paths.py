"""The mapping's dotted paths, as tuples of keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream_monitor.config.model import MappingConfig
from stream_monitor.schema import PREDICTION, SCORE, Column, Role

Path = tuple[str, ...]
EVENT_TIME = "event_time"  # a value of mapping.arrival


def _split(text: str | None) -> Path:
    return () if text in (None, ".") else tuple((text or "").split("."))


class Paths:
    """Where a JSON event keeps each part; an empty path means that the mapping has none."""

    def __init__(self, mapping: MappingConfig) -> None:
        self.model = _split(mapping.model)
        self.version = _split(mapping.version)
        self.time = _split(mapping.timestamp)
        # the event time plays the record timestamp, whatever the source says
        self.arrives_at_event_time = mapping.arrival == EVENT_TIME
        self.arrival = () if self.arrives_at_event_time else _split(mapping.arrival)
        self.features = _split(mapping.features)
        self._prediction = _split(mapping.prediction)
        self._score = _split(mapping.score)
        self._scores = _split(mapping.scores)

    def column(self, column: Column) -> Path:
        """Where the column's value is."""
        if column.role is Role.FEATURE:
            return (*self.features, column.name)
        if column.name == PREDICTION:
            return self._prediction
        if column.name == SCORE:
            return self._score
        return (*self._scores, column.name.removeprefix(f"{SCORE}_"))


def look_up(event: Mapping[str, Any], path: Path) -> Any:
    """The value at a path, None where there is none."""
    value: Any = event
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value
