"""What every loop that reads does: hand records on, count them, keep what could not be used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager

import numpy as np
import structlog

from stream_monitor.batch import Reject
from stream_monitor.config.model import Config
from stream_monitor.errors import SourceError
from stream_monitor.intake import Intake
from stream_monitor.panes.partition import Partition
from stream_monitor.pipeline import ACCEPTED, REJECTED, Pipeline
from stream_monitor.sources.base import Poll, Records, Source
from stream_monitor.store.base import DeadLetter
from stream_monitor.watch import max_ahead

RECORDS, BYTES, LOST = "records", "bytes", "lost"
_LOGGED = 10  # rejects of a run of records that are logged one by one
_FEW = 1_000  # events of a poll; more of a file tell that there is a backlog
_LAST = 10_000  # records that the share of rejected ones is of

log = structlog.get_logger()


class Reading:
    """Reads a source into a pipeline.

    Attributes
    ----------
    dead_letters
        What could not be used since somebody took them away.
    at_end, lag, finished
        As the last poll told.
    """

    def __init__(
        self,
        config: Config,
        source: Source,
        intake: Intake,
        pipeline: Pipeline,
        timed: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self.source = source
        self.intake = intake
        self._pipeline = pipeline
        self._timed = timed
        self._most = config.limits.max_rejected
        self._max_ahead = max_ahead(config)
        # of the last records: all, those with a reject; and of their events
        self._records = self._spoilt = self._events = self._rejected = 0
        self.dead_letters: list[DeadLetter] = []
        self.at_end: frozenset[str] = frozenset()
        self.ends: Mapping[str, int] = {}
        self.lag: dict[str, int] = {}
        self.finished = False
        self._came = 0  # events since the last poll

    @property
    def behind(self) -> bool:
        """Whether more waits to be read than what came last; where nobody knows, that was much."""
        unread = self.intake.partitions.keys() - self.at_end
        return any(name in self.lag or self._came > _FEW for name in unread)

    def poll(self, seconds: float) -> Poll:
        """Ask the source; what is assigned and revoked is for the caller to see to."""
        with self._timed("poll"):
            poll = self.source.poll(seconds)
        self.at_end, self.ends, self.finished = poll.at_end, poll.ends, poll.finished
        self.lag = dict(poll.lag)
        self._came = 0
        return poll

    def begin(self, names: Iterable[str]) -> None:
        """Read partitions on from where they were committed."""
        begun = {}
        for name in names:
            partition = self.intake.partitions[name]
            begun[name] = partition.position = self.source.seek(name, partition.position)
        # what was told of their ends is of where they were before
        self.at_end = self.at_end.difference(begun)
        log.info("partitions assigned", positions=begun)

    def take(self, poll: Poll) -> None:
        """Count what came.

        Raises
        ------
        SourceError
            Nearly nothing of it could be used.
        """
        for name, number in poll.lost.items():
            if name in self.intake.partitions:
                self.intake.partitions[name].tally(LOST, name, number)
        for records in poll.records:
            if records.partition in self.intake.partitions:
                self._take(self._near(records))

    def _near(self, records: Records) -> Records:
        """Those of a run that do not lie far ahead of its first; the others are read again.

        A fetch of a sparse topic spans months, and each hour of them would open panes.
        """
        partition = self._pipeline.partitions.get(records.partition)
        if partition is None or records.timestamps is None or not len(records):
            return records  # labels open no panes
        limit = max(int(records.timestamps[0]), partition.progress or 0) + self._max_ahead
        far = np.flatnonzero(records.timestamps > limit)
        if not len(far):
            return records
        near = records.head(int(far[0]))
        self.source.seek(records.partition, near.position)
        self.at_end -= {records.partition}
        return near

    def _take(self, records: Records) -> None:
        partition = self.intake.partitions[records.partition]
        before = _counted(partition)
        rejects = self.intake.take(records)
        partition.tally(RECORDS, records.partition, len(records))
        partition.tally(BYTES, records.partition, sum(map(len, records.payloads)))
        for i, reject in enumerate(rejects):
            self.dead_letters.append(_dead_letter(records, reject))
            if i < _LOGGED:
                log.warning(
                    "event rejected",
                    place=records.places[reject.record],
                    reason=reject.reason,
                    detail=reject.detail,
                )
        if len(rejects) > _LOGGED:
            log.warning("more events rejected", number=len(rejects) - _LOGGED)
        accepted, rejected = (n - b for n, b in zip(_counted(partition), before, strict=True))
        self._records += len(records)
        self._spoilt += len({reject.record for reject in rejects}) + sum(r.more for r in rejects)
        self._events += accepted + rejected
        self._came += accepted + rejected
        self._rejected += rejected
        if self._records >= _LAST:
            self._guard(rejects, records)

    def _guard(self, rejects: list[Reject], records: Records) -> None:
        """Stop before a bad deploy empties a topic into the dead letters.

        Most records and most events: one record may hold a million bad events, and a thousand
        records one bad event each.
        """
        share = min(self._spoilt / self._records, self._rejected / max(self._events, 1))
        # the older half counts half, so that old good times do not hide the present
        self._records, self._spoilt = self._records // 2, self._spoilt // 2
        self._events, self._rejected = self._events // 2, self._rejected // 2
        if share > self._most and rejects:
            last = rejects[-1]
            raise SourceError(
                f"{share:.0%} of the last events could not be used, more than "
                f"limits.max_rejected, {self._most:.0%}; the last: "
                f"{records.places[last.record]}: {last.reason}: {last.detail}. Is `mapping` right, "
                "and the topic? What was not committed is read again after the next start"
            )

    def hold_back(self, slowest: int | None) -> None:
        """Pause partitions that run ahead of the slowest, so that few panes are open at once.

        ``slowest`` is how far that one is; None where nobody knows: then of ours.
        """
        pipeline = self._pipeline
        every = pipeline.partitions | pipeline.label_partitions
        progress = {n: p.progress for n, p in every.items() if n not in self.at_end}
        known = [p for p in progress.values() if p is not None]
        if slowest is None and len(known) < len(progress):
            ahead = frozenset(n for n, p in progress.items() if p is not None)
        else:
            limit = (min(known, default=0) if slowest is None else slowest) + self._max_ahead
            ahead = frozenset(n for n, p in progress.items() if p is not None and p > limit)
        self.source.pause(ahead)


def _counted(partition: Partition) -> tuple[int, int]:
    accepted = partition.counters.get(ACCEPTED, {}).values()
    return sum(accepted), sum(partition.counters.get(REJECTED, {}).values())


def _dead_letter(records: Records, reject: Reject) -> DeadLetter:
    i = reject.record
    return DeadLetter(
        records.partition,
        records.places[i],
        reject.reason,
        reject.detail,
        records.payloads[i] if reject.payload is None else reject.payload,
        records.keys[i] if records.keys else None,
        tuple(records.headers[i]) if records.headers else (),
        None if records.timestamps is None else int(records.timestamps[i]),
        reject.count,
    )
