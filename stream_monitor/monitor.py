"""The service's loop: the only place where source, pipeline, store and page meet.

One round: ask the source, count what came, close windows, commit, show. Offsets and everything
they caused are committed together, so a crash at any moment loses and doubles nothing: the next
start resumes at the committed position with the committed counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import product
from typing import Protocol

import structlog

from stream_monitor import __version__
from stream_monitor.alerts.judge import prepare
from stream_monitor.config.model import (
    Config,
    FilesSource,
    FollowSource,
    KafkaSource,
)
from stream_monitor.errors import StoreError
from stream_monitor.expose.snapshot import ServiceView, Snapshot
from stream_monitor.intake import Intake
from stream_monitor.labels.join import NAME
from stream_monitor.panes.windows import Window
from stream_monitor.pipeline import Pipeline
from stream_monitor.reading import Reading
from stream_monitor.sources.base import Poll, Source
from stream_monitor.store.base import Checkpoint, Store
from stream_monitor.values import WindowResult
from stream_monitor.view import Views, counted, log_alerts, state_bytes
from stream_monitor.watch import Watched
from stream_monitor.watch_outcome import Outcomes

_POLL_SECONDS = 0.2
_SHOW_SECONDS = 0.2

log = structlog.get_logger()


class Board(Protocol):
    """Where the snapshot is put for the HTTP server to read."""

    def publish(self, snapshot: Snapshot) -> None: ...


class Monitor:
    """Runs one source through the pipeline into a store and onto a board.

    ``step_timer`` gives a context manager that times a named step.
    """

    def __init__(
        self,
        *,
        config: Config,
        watched: list[Watched],
        windows: tuple[Window, ...],
        source: Source,
        store: Store,
        board: Board,
        step_timer: Callable[[str], AbstractContextManager[None]],
        outcomes: Outcomes | None = None,
    ) -> None:
        self._config = config
        self._watched = watched
        self._parts = [part for model in watched for part in model.parts]
        self._source = source
        self._store = store
        self._board = board
        self._timed = step_timer
        self._source_name = describe(config)
        self._pipeline = Pipeline(watched, windows, config, outcomes)
        self._intake = Intake(config, watched, self._pipeline, outcomes, timed=step_timer)
        # a join in this process is there from the start
        self._intake.begin({n: store.restore_partition(n) for n in self._pipeline.joins})
        self._reading = Reading(config, source, self._intake, self._pipeline, step_timer)
        judges = {part.key: part.judge for part in self._parts}
        maturities = [""]
        if outcomes is not None:
            judges |= {part.key: part.judge for m in outcomes.models for part in m.parts}
            maturities += outcomes.delays
        self._judges = judges
        self._views = Views(watched, windows, config.windows, maturities[1:])
        self._results: list[WindowResult] = []
        self._ready = self._dirty = self._stuck = self._preparing = False
        self._waiting: dict[str, None] = {}  # partitions that are ours and not begun yet
        self._committed = self._shown = 0.0
        self._last_commit = self._commit_failures = 0
        service = store.restore_service()
        if service is not None:
            for name, reason in self._pipeline.publisher.restore(service).items():
                log.warning("detector begins anew", detector=name, reason=reason)
        self._cached: dict[str, int] = {}
        for key, judge in judges.items():
            if (cache := store.restore_cache(key)) is not None:
                judge.limits.load(cache)
            self._cached[key] = judge.limits.size
        for part, window, maturity in product(self._parts, windows, maturities):
            names = part.name, part.version, part.label, window.name
            self._views.add(store.history(*names, maturity))
        stored, _ = store.restore_outcomes()
        if stored is not None and self._pipeline.matured is not None:
            for name, reason in self._pipeline.matured.restore(stored).items():
                log.warning("begins anew", what=name, reason=reason)

    @property
    def lag(self) -> dict[str, int]:
        """Records of each partition that are still to be read, where its end is known."""
        return self._reading.lag

    def run(self, stop: threading.Event) -> None:
        """Go round until told to stop; then commit what was read."""
        self.show()
        try:
            while not stop.is_set():
                self.round()
            self._commit()
            self.show()
        finally:
            self._source.close()

    def round(self) -> None:
        """Poll once and do everything that follows from it."""
        reading = self._reading
        poll = reading.poll(0.0 if self._preparing else _POLL_SECONDS)
        self._reassign(poll)
        reading.take(poll)
        self._dirty |= bool(poll.records)
        with self._timed("evaluate"):
            closed = self._pipeline.close(reading.at_end)
        if closed:
            self._dirty = True
            self._results += closed
            self._views.add(closed)
            log_alerts(closed)
        if self._stuck:
            # what is read now could not be kept: wait until it can
            reading.source.pause(frozenset(self._intake.partitions))
        else:
            reading.hold_back(None)
        now = time.monotonic()
        interval = self._config.store.commit_interval / 1e6
        if self._dirty and now - self._committed >= interval:
            self._commit()
            self.show()
        elif now - self._shown >= _SHOW_SECONDS:
            self.show()
        # while nothing waits to be read there is time for thresholds
        idle = not poll.records or not reading.behind
        self._preparing = idle and prepare(self._judges.values())
        self._dirty |= self._preparing
        if poll.finished and not poll.records:
            if self._dirty:
                self._commit()
                self.show()
            time.sleep(_POLL_SECONDS)

    def _reassign(self, poll: Poll) -> None:
        # what came of a partition before it is sought is read again
        poll.records = [r for r in poll.records if r.partition not in self._waiting]
        if poll.revoked:
            # what they sent is in our panes: commit it with their positions before letting go
            self._commit()
            for name in poll.revoked:
                self._intake.revoke(name)
                self._waiting.pop(name, None)
            log.info("partitions revoked", partitions=list(poll.revoked))
        if poll.assigned:
            self._intake.begin({n: self._store.restore_partition(n) for n in poll.assigned})
            self._waiting |= dict.fromkeys(poll.assigned)
        if self._waiting:
            try:
                self._reading.begin(self._waiting)
            except StoreError as error:
                log.warning("partitions cannot be begun, trying again", error=str(error))
                return
            self._waiting = {}
            self._ready = True

    def _commit(self) -> None:
        """Write everything since the last commit, or keep it for the next attempt."""
        if not self._dirty:
            return
        pipeline, partitions = self._pipeline, self._intake.partitions
        ledgers: dict[str, bytes] = {}
        letters = self._reading.dead_letters
        try:
            with self._timed("ledger"):
                for join in pipeline.joins.values():
                    ledgers |= join.prepare()
        except StoreError as error:
            self._failed(error)
            return
        checkpoint = Checkpoint(
            {n: p.checkpoint() for n, p in partitions.items()},
            pipeline.publisher.state(),
            self._results,
            letters,
            {
                key: judge.limits.dump()
                for key, judge in self._judges.items()
                if judge.limits.size != self._cached[key]
            },
            None if pipeline.matured is None else pipeline.matured.state(),
            ledgers,
        )
        try:
            with self._timed("commit"):
                self._store.commit(checkpoint)
        except StoreError as error:
            for name, state in checkpoint.partitions.items():
                partitions[name].unchecked(state)
            self._failed(error)
            return
        try:
            for join in pipeline.joins.values():
                join.committed()
        except StoreError as error:  # files that nobody needs stay, until the next commit
            log.warning("old files of a ledger cannot be deleted", error=str(error))
        for key in checkpoint.caches:
            self._cached[key] = self._judges[key].limits.size
        self._results, self._reading.dead_letters = [], []
        self._dirty = self._stuck = False
        self._committed = time.monotonic()
        self._last_commit = time.time_ns() // 1_000

    def _failed(self, error: StoreError) -> None:
        self._commit_failures += 1
        self._stuck = True
        log.error("commit failed, will be tried again", error=str(error))
        self._committed = time.monotonic()

    def show(self) -> None:
        """Put a new snapshot on the board."""
        self._shown = time.monotonic()
        models = self._views.models(self._pipeline.publisher)
        self._board.publish(Snapshot(self._service(), models, self._views.alerts(models)))

    def _service(self) -> ServiceView:
        pipeline, reading = self._pipeline, self._reading
        partitions = self._intake.partitions
        return ServiceView(
            version=__version__,
            source=self._source_name,
            ready=self._ready,
            finished=reading.finished,
            heartbeat=time.time_ns() // 1_000,
            last_commit=self._last_commit,
            state_bytes=state_bytes(partitions.values()),
            memory_limit=self._config.limits.memory,
            commit_failures=self._commit_failures,
            dead_letters_dropped=self._store.dead_letters_dropped,
            partitions=tuple(sorted(n for n in partitions if n != NAME)),
            lag=self.lag,
            **counted(pipeline.closing, reading.at_end, self._watched),
        )


def describe(config: Config) -> str:
    """The source in a few words, for people; holds no secret."""
    source = config.source
    if isinstance(source, KafkaSource):
        return f"kafka topics {', '.join(source.topics)}"
    if isinstance(source, FilesSource | FollowSource):
        return f"{source.type} {source.path}"
    return "no source" if source is None else "standard input"
