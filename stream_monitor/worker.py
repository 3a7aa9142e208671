"""A worker's loop: read what the group gives us, count it, commit it in one transaction.

It closes no window. When a partition goes to another worker, what was counted of it since the last
commit is dropped: the next owner reads it again. When a commit fails, that is so for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import structlog

from stream_monitor.config.model import Config
from stream_monitor.errors import StoreError, UnusableError
from stream_monitor.intake import Intake
from stream_monitor.labels.join import Join
from stream_monitor.labels.packing import Marks
from stream_monitor.panes.windows import Window
from stream_monitor.pipeline import Pipeline
from stream_monitor.reading import Reading
from stream_monitor.sources.base import Poll, Source
from stream_monitor.store.base import Checkpoint, PartitionState
from stream_monitor.store.kafka.worker import WorkerStore
from stream_monitor.watch import Watched
from stream_monitor.watch_outcome import Outcomes

_PREPARED = 1_000  # records of rows between two times that ledgers are written

log = structlog.get_logger()


class Worker:
    """Reads a source into panes and keeps them in a Kafka store.

    Attributes
    ----------
    ready
        Everything that is assigned has been restored.
    last_commit
        When, seconds since the epoch; 0 before the first.
    """

    def __init__(
        self,
        *,
        config: Config,
        watched: list[Watched],
        windows: tuple[Window, ...],
        source: Source,
        store: WorkerStore,
        joins: str | None,
        timed: Callable[[str], AbstractContextManager[None]],
        outcomes: Outcomes | None,
    ) -> None:
        self._store = store
        self._joins = joins
        self._outcomes = outcomes
        self._timed = timed
        self._rows: dict[str, list[tuple[int, bytes]]] = {}
        self._sender = ""
        self._pipeline = Pipeline(watched, windows, config, outcomes, self._send)
        self._intake = Intake(config, watched, self._pipeline, outcomes, joins=joins, timed=timed)
        self._reading = Reading(config, source, self._intake, self._pipeline, timed)
        self._interval = config.store.commit_interval / 1e6
        self._told: Marks = {}
        self._at_end: frozenset[str] = frozenset()
        self._ends: Mapping[str, int] = {}
        self._first: int | None = None  # how far the slowest was when reading began
        self._waiting: dict[str, None] = {}  # partitions that are ours and not restored yet
        # the files of ledgers as they were committed, and the position that they belong to
        self._manifests: dict[str, tuple[str | None, dict[str, bytes]]] = {}
        self._committed = self._restored_at = 0.0
        self._dirty = self._joined = False
        self.last_commit = self.commit_failures = 0

    @property
    def ready(self) -> bool:
        return self._joined and not self._waiting

    @property
    def lag(self) -> dict[str, int]:
        return self._reading.lag

    @property
    def behind(self) -> bool:
        return self._reading.behind

    @property
    def intake(self) -> Intake:
        return self._intake

    def _send(self, partition: int, payload: bytes) -> None:
        self._rows.setdefault(self._sender, []).append((partition, payload))

    def round(self, seconds: float) -> bool:
        """Poll once, and do everything that follows from it; whether anything came."""
        try:
            self._store.open()
        except UnusableError:
            raise
        except StoreError as error:
            log.warning("the store is not there yet, trying again", error=str(error))
            time.sleep(seconds)
            return False
        poll = self._reading.poll(seconds)
        self._reassign(poll)
        self._follow()
        self._take(poll)
        due = self._dirty and time.monotonic() - self._committed >= self._interval
        if due and self._store.settled():
            self.commit()
        return bool(poll.records)

    def _take(self, poll: Poll) -> None:
        self._reading.take(Poll(lost=poll.lost))
        for records in poll.records:
            self._sender = records.partition
            self._reading.take(Poll(records=[records]))
            self._dirty = True
        # the run that was just taken may have been cut, see Reading
        at_end, ends = self._reading.at_end, self._reading.ends
        if (at_end, ends) != (self._at_end, self._ends):
            self._at_end, self._ends = at_end, ends
            self._dirty = True

    # --- partitions -----------------------------------------------------------------------------

    def _reassign(self, poll: Poll) -> None:
        self._joined |= bool(poll.assigned) or poll.joined
        # what came of a partition before it is restored and sought is read again
        poll.records = [r for r in poll.records if r.partition not in self._waiting]
        for name in poll.revoked:
            self._drop(name)
            self._store.forget(name)
            self._manifests.pop(name, None)
            self._waiting.pop(name, None)
        if poll.revoked:
            log.info("partitions revoked", partitions=list(poll.revoked))
        self._waiting |= dict.fromkeys(poll.assigned)
        if self._waiting:
            self._restore(list(self._waiting))

    def _drop(self, name: str) -> None:
        """Forget what was counted of a partition."""
        self._intake.revoke(name)
        self._rows.pop(name, None)
        self._told = {n: mark for n, mark in self._told.items() if n != name}
        letters = self._reading.dead_letters
        self._reading.dead_letters = [one for one in letters if one.partition != name]

    def _restore(self, names: list[str]) -> None:
        try:
            with self._timed("restore"):
                states = self._store.restore(names)
                joins = {n: self._join(n, states[n]) for n in names if self._is_join(n)}
                self._intake.begin(states, joins)
                self._reading.begin(names)
        except UnusableError:
            raise
        except StoreError as error:
            for name in names:
                self._intake.revoke(name)
            log.warning("partitions cannot be restored, trying again", error=str(error))
            return
        self._waiting = {}
        self._dirty = True  # that they are ours, and how far they are, is of use to others

    def _is_join(self, name: str) -> bool:
        return self._joins is not None and name.rpartition(":")[0] == self._joins

    def _join(self, name: str, state: PartitionState | None) -> Join:
        """A join with its ledgers: the files as they were committed, or the rows read again."""
        assert self._outcomes is not None  # noqa: S101 - joins are there with outcomes only
        position = None if state is None else state.position
        known, manifests = self._manifests.get(name, (None, {}))
        if known is not None and known == position:
            return self._outcomes.join(name, manifests)
        join = self._outcomes.join(name, {})
        if position is not None:
            number = int(name.rpartition(":")[2])
            for i, payload in enumerate(self._store.rows(number, int(position)), start=1):
                try:
                    join.take(payload)
                except StoreError:
                    continue  # it was told when it came
                if i % _PREPARED == 0:
                    join.prepare()
                    join.committed()
        return join

    # --- what the aggregator says ---------------------------------------------------------------

    def _follow(self) -> None:
        """End the life of panes that nobody needs; hold back who is too far ahead."""
        try:
            progress = self._store.progress()
        except UnusableError:
            raise
        except StoreError as error:
            log.warning("nothing is heard of the aggregator", error=str(error))
            return
        pipeline = self._pipeline
        pipeline.forget_touched()
        if pipeline.publisher.follow(progress.floors):
            self._dirty = True
        if pipeline.matured is not None and progress.past is not None:
            self._dirty |= pipeline.matured.follow(progress.past, progress.outcome_floors)
        if self._first is None:
            held = pipeline.partitions | pipeline.label_partitions
            self._first = min((p.progress for p in held.values() if p.progress), default=None)
        # nobody ends the life of panes until an aggregator is there
        slowest = self._first if progress.slowest is None else progress.slowest
        self._reading.hold_back(slowest)

    # --- committing -----------------------------------------------------------------------------

    def commit(self) -> None:
        """Write everything since the last commit; where that fails it is read again."""
        if not self._dirty or not self._intake.partitions:
            return
        self._committed = time.monotonic()
        pipeline, partitions = self._pipeline, self._intake.partitions
        manifests: dict[str, dict[str, bytes]] = {}
        try:
            with self._timed("ledger"):
                for name, join in pipeline.joins.items():
                    manifests[name] = join.prepare()
            marks = pipeline.marks(self._at_end)
            self._sender = ""
            if marks != self._told:
                pipeline.tell(marks)
            for name, partition in partitions.items():
                partition.ended, partition.end = name in self._at_end, self._ends.get(name)
            checkpoint = Checkpoint(
                {name: partition.checkpoint() for name, partition in partitions.items()},
                dead_letters=self._reading.dead_letters,
            )
            # what a partition sent comes before the marks that tell how far it is
            marked = self._rows.pop("", [])
            rows = [row for own in self._rows.values() for row in own]
            with self._timed("commit"):
                self._store.commit(checkpoint, rows + marked)
        except StoreError as error:
            self.commit_failures += 1
            log.error("commit failed, reading again from the last one", error=str(error))
            self._begin_anew()
            return
        except BaseException:
            # a checkpoint holds what changed since the one before, so without it none may follow
            self._begin_anew()
            raise
        self._told, self._rows, self._reading.dead_letters = marks, {}, []
        self._dirty = False
        self.last_commit = time.time_ns() // 1_000
        for name, join in pipeline.joins.items():
            self._manifests[name] = partitions[name].position, manifests[name]
            try:
                join.committed()
            except StoreError as error:  # files that nobody needs stay, until the next commit
                log.warning("old files of a ledger cannot be deleted", error=str(error))

    def _begin_anew(self) -> None:
        """Nothing of the transaction counts, so nothing of what it held may stay."""
        names = list(self._intake.partitions)
        for name in names:
            self._drop(name)
        self._rows, self._told, self._reading.dead_letters = {}, {}, []
        self._waiting |= dict.fromkeys(names)

    def close(self) -> None:
        """Commit what was read and leave the group."""
        self._store.hurry()
        self.commit()
        self._reading.source.close()
        self._store.close()
