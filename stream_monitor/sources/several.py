"""Several sources as one, told apart by what the names of their partitions begin with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stream_monitor.sources.base import Poll, Source

INSTANCE = "!"  # no Kafka topic may be called so: ends the name of the instance that reads a file
LABELS = f"labels{INSTANCE}"


class Several:
    """Asks each, and tells each what is about its own partitions.

    ``sources`` are by prefix; one may be empty. The first waits for records, the others do not.
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = dict(sources)

    def poll(self, timeout_seconds: float) -> Poll:
        others = list(self._sources.items())[1:]
        polls = [(prefix, source.poll(0.0)) for prefix, source in others]
        # who waits for the first must not wait while there are records of others
        busy = any(poll.records for _, poll in polls)
        prefix, first = next(iter(self._sources.items()))
        polls.insert(0, (prefix, first.poll(0.0 if busy else timeout_seconds)))
        found = Poll(finished=True, joined=any(poll.joined for _, poll in polls))
        for prefix, poll in polls:
            found.records += [replace(r, partition=prefix + r.partition) for r in poll.records]
            found.assigned += tuple(prefix + name for name in poll.assigned)
            found.revoked += tuple(prefix + name for name in poll.revoked)
            found.at_end |= {prefix + name for name in poll.at_end}
            found.ends = {**found.ends, **{prefix + name: n for name, n in poll.ends.items()}}
            found.lag = {**found.lag, **{prefix + name: n for name, n in poll.lag.items()}}
            found.finished &= poll.finished
            found.lost = {**found.lost, **{prefix + name: n for name, n in poll.lost.items()}}
        return found

    def seek(self, partition: str, position: str | None) -> str | None:
        prefix = self._prefix(partition)
        return self._sources[prefix].seek(partition.removeprefix(prefix), position)

    def pause(self, partitions: frozenset[str]) -> None:
        for prefix, source in self._sources.items():
            own = {p for p in partitions if self._prefix(p) == prefix}
            source.pause(frozenset(p.removeprefix(prefix) for p in own))

    def close(self) -> None:
        for source in self._sources.values():
            source.close()

    def _prefix(self, partition: str) -> str:
        return max((p for p in self._sources if partition.startswith(p)), key=len)
