"""The mapping's dotted paths, as tuples of keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream_monitor.config.model import MappingConfig
from stream_monitor.schema import SCORE, SEGMENT, Column, Role

Path = tuple[str, ...]
EVENT_TIME = "event_time"  # a value of mapping.arrival


def _split(text: str | None) -> Path:
    return () if text in (None, ".") else tuple((text or "").split("."))


class Paths:
    """Where a JSON event keeps each part; an empty path means that the mapping has none."""

    def __init__(self, mapping: MappingConfig) -> None:
        self.id = _split(mapping.id)
        self.model = _split(mapping.model)
        self.version = _split(mapping.version)
        self.time = _split(mapping.timestamp)
        # the event time plays the record timestamp, whatever the source says
        self.arrives_at_event_time = mapping.arrival == EVENT_TIME
        self.arrival = () if self.arrives_at_event_time else _split(mapping.arrival)
        self.features = _split(mapping.features)
        self._single = {
            Role.PREDICTION: _split(mapping.prediction),
            Role.SCORE: _split(mapping.score),
            Role.TARGET: _split(mapping.label),
        }
        self._scores = mapping.scores
        self._segment = _split(mapping.segment)

    def column(self, column: Column) -> Path:
        """Where the column's value is."""
        match column.role:
            case Role.FEATURE:
                return (*self.features, column.name)
            case Role.SEGMENT:
                return (*self._segment, column.name.removeprefix(SEGMENT))
            case Role.SCORE if column.name != SCORE:
                return self._class_score(column.name.removeprefix(f"{SCORE}_"))
        return self._single[column.role]

    def _class_score(self, label: str) -> Path:
        if isinstance(self._scores, str):
            return (*_split(self._scores), label)
        return _split((self._scores or {}).get(label))


def look_up(event: Mapping[str, Any], path: Path) -> Any:
    """The value at a path, None where there is none."""
    value: Any = event
    for key in path:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value
