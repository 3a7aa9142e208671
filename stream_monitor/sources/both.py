"""Events and labels from two sources, as one."""

from __future__ import annotations

from dataclasses import replace

from stream_monitor.sources.base import Poll, Source

PREFIX = "labels!"  # no Kafka topic may be called so


class Both:
    """Asks both, and tells each what is about its own partitions.

    Names of partitions must differ, so the labels' begin with :data:`PREFIX`.
    """

    def __init__(self, events: Source, labels: Source) -> None:
        self._events = events
        self._labels = labels

    def poll(self, timeout_seconds: float) -> Poll:
        labels = self._labels.poll(0.0)
        # who waits for events must not wait while there are labels
        events = self._events.poll(0.0 if labels.records else timeout_seconds)
        for records in labels.records:
            events.records.append(replace(records, partition=PREFIX + records.partition))
        events.assigned += tuple(PREFIX + name for name in labels.assigned)
        events.revoked += tuple(PREFIX + name for name in labels.revoked)
        events.at_end |= {PREFIX + name for name in labels.at_end}
        events.lag = {**events.lag, **{PREFIX + name: n for name, n in labels.lag.items()}}
        events.finished = events.finished and labels.finished
        return events

    def seek(self, partition: str, position: str | None) -> None:
        source, name = self._owner(partition)
        source.seek(name, position)

    def pause(self, partitions: frozenset[str]) -> None:
        own = frozenset(p for p in partitions if not p.startswith(PREFIX))
        self._events.pause(own)
        self._labels.pause(frozenset(p.removeprefix(PREFIX) for p in partitions - own))

    def close(self) -> None:
        self._events.close()
        self._labels.close()

    def _owner(self, partition: str) -> tuple[Source, str]:
        if partition.startswith(PREFIX):
            return self._labels, partition.removeprefix(PREFIX)
        return self._events, partition
