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
from stream_monitor.batch import Reject
from stream_monitor.config.model import (
    Config,
    FilesSource,
    FollowSource,
    KafkaSource,
)
from stream_monitor.decode.base import REASONS
from stream_monitor.errors import StoreError
from stream_monitor.expose.snapshot import ServiceView, Snapshot
from stream_monitor.intake import Intake
from stream_monitor.labels.join import NAME
from stream_monitor.labels.packing import Marks
from stream_monitor.panes.windows import Window
from stream_monitor.pipeline import ACCEPTED, EXPIRED, LATE, REJECTED, Pipeline
from stream_monitor.sources.base import Poll, Records, Source
from stream_monitor.store.base import Checkpoint, DeadLetter, Store
from stream_monitor.values import WindowResult
from stream_monitor.view import Views, join_view
from stream_monitor.watch import Watched, max_ahead
from stream_monitor.watch_outcome import Outcomes

_RECORDS, _BYTES = "records", "bytes"
_POLL_SECONDS = 0.2
_SHOW_SECONDS = 0.5

log = structlog.get_logger()


class RowTopic(Protocol):
    """The topic by which rows go to the joins; see :mod:`stream_monitor.sources.kafka_rows`."""

    @property
    def name(self) -> str: ...

    def send(self, partition: int, payload: bytes) -> None: ...

    def flush(self) -> None: ...


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
        rows: RowTopic | None = None,
    ) -> None:
        self._config = config
        self._watched = watched
        self._parts = [part for model in watched for part in model.parts]
        self._source = source
        self._store = store
        self._board = board
        self._timed = step_timer
        self._source_name = describe(config)
        self._rows = rows
        self._told: Marks = {}
        send = None if rows is None else rows.send
        self._pipeline = Pipeline(watched, windows, config, outcomes, send)
        self._intake = Intake(
            config,
            watched,
            self._pipeline,
            outcomes,
            store,
            rows=None if rows is None else rows.name,
            timed=step_timer,
        )
        judges = {part.key: part.judge for part in self._parts}
        maturities = [""]
        if outcomes is not None:
            judges |= {part.key: part.judge for m in outcomes.models for part in m.parts}
            maturities += outcomes.delays
        self._judges = judges
        self._views = Views(watched, windows, config.windows, maturities[1:])
        self._max_ahead = max_ahead(config)
        self._at_end: frozenset[str] = frozenset()
        self._lag: dict[str, int] = {}
        self._results: list[WindowResult] = []
        self._dead_letters: list[DeadLetter] = []
        self._ready = self._finished = self._dirty = False
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
        with self._timed("poll"):
            poll = self._source.poll(_POLL_SECONDS)
        self._reassign(poll)
        for records in poll.records:
            self._take(records)
        self._at_end, self._finished = poll.at_end, poll.finished
        self._lag = dict(poll.lag)
        with self._timed("evaluate"):
            closed = self._pipeline.close(self._at_end)
        if closed:
            self._dirty = True
            self._results += closed
            self._views.add(closed)
            self._log_alerts(closed)
        self._tell_marks()
        self._hold_back()
        now = time.monotonic()
        interval = self._config.store.commit_interval / 1e6
        if self._dirty and now - self._committed >= interval:
            self._commit()
            self.show()
        elif now - self._shown >= _SHOW_SECONDS:
            self.show()
        if not poll.records:
            # a first threshold takes long; while nothing else is to do there is time for it
            self._dirty |= any(judge.prepare() for judge in self._judges.values())
        if poll.finished and not poll.records:
            if self._dirty:
                self._commit()
                self.show()
            time.sleep(_POLL_SECONDS)

    def _reassign(self, poll: Poll) -> None:
        if poll.revoked:
            # what they sent is in our panes: commit it with their positions before letting go
            self._commit()
            for name in poll.revoked:
                self._intake.revoke(name)
            log.info("partitions revoked", partitions=list(poll.revoked))
        for name in poll.assigned:
            partition = self._intake.assign(name)
            self._source.seek(name, partition.position)
            log.info("partition assigned", partition=name, position=partition.position)
        if poll.assigned:
            self._ready = True

    def _take(self, records: Records) -> None:
        rejects = self._intake.take(records)
        partition = self._intake.partitions[records.partition]
        partition.tally(_RECORDS, records.partition, len(records))
        partition.tally(_BYTES, records.partition, sum(map(len, records.payloads)))
        for reject in rejects:
            self._dead_letters.append(_dead_letter(records, reject))
            log.warning(
                "event rejected",
                place=records.places[reject.record],
                reason=reject.reason,
                detail=reject.detail,
            )
        self._dirty = True

    def _tell_marks(self) -> None:
        """Where rows go by a topic: say there how far they go, with the next commit."""
        if self._rows is not None:
            marks = self._pipeline.marks(self._at_end)
            self._dirty |= marks != self._told

    def _hold_back(self) -> None:
        """Pause partitions that run ahead of the slowest, so that few panes are open at once."""
        every = self._pipeline.partitions | self._pipeline.label_partitions
        progress = {n: p.progress for n, p in every.items() if n not in self._at_end}
        known = [p for p in progress.values() if p is not None]
        if len(known) < len(progress):
            ahead = frozenset(n for n, p in progress.items() if p is not None)
        else:
            limit = min(known, default=0) + self._max_ahead
            ahead = frozenset(n for n, p in progress.items() if p is not None and p > limit)
        self._source.pause(ahead)

    def _commit(self) -> None:
        """Write everything since the last commit, or keep it for the next attempt."""
        if not self._dirty:
            return
        pipeline, partitions = self._pipeline, self._intake.partitions
        ledgers: dict[str, bytes] = {}
        marks = pipeline.marks(self._at_end)
        try:
            if self._rows is not None:
                if marks != self._told:
                    pipeline.tell(marks)
                with self._timed("send"):
                    self._rows.flush()
            with self._timed("ledger"):
                for join in pipeline.joins.values():
                    ledgers |= join.prepare()
        except StoreError as error:
            self._failed(error)
            return
        self._told = marks
        checkpoint = Checkpoint(
            {n: p.checkpoint() for n, p in partitions.items()},
            pipeline.publisher.state(),
            self._results,
            self._dead_letters,
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
        self._results, self._dead_letters = [], []
        self._dirty = False
        self._committed = time.monotonic()
        self._last_commit = time.time_ns() // 1_000

    def _failed(self, error: StoreError) -> None:
        self._commit_failures += 1
        log.error("commit failed, will be tried again", error=str(error))
        self._committed = time.monotonic()

    def show(self) -> None:
        """Put a new snapshot on the board."""
        self._shown = time.monotonic()
        models = self._views.models(self._pipeline.publisher)
        self._board.publish(Snapshot(self._service(), models, self._views.alerts(models)))

    def _service(self) -> ServiceView:
        pipeline = self._pipeline
        partitions = self._intake.partitions
        progress = [p.progress for p in partitions.values() if p.progress is not None]
        panes = [pane for p in partitions.values() for pane in p.panes.values()]
        return ServiceView(
            version=__version__,
            source=self._source_name,
            ready=self._ready,
            finished=self._finished,
            heartbeat=time.time_ns() // 1_000,
            last_commit=self._last_commit,
            last_record=max(progress, default=0),
            watermark=pipeline.watermark(self._at_end) or 0,
            state_bytes=sum(pane.counts.nbytes for pane in panes),
            memory_limit=self._config.limits.memory,
            commit_failures=self._commit_failures,
            dead_letters_dropped=self._store.dead_letters_dropped,
            partitions=tuple(sorted(n for n in partitions if n != NAME)),
            lag=self._lag,
            records=pipeline.tally(_RECORDS),
            bytes=pipeline.tally(_BYTES),
            accepted=self._by_model(ACCEPTED),
            late=self._by_model(LATE),
            expired=self._by_model(EXPIRED),
            rejected=dict.fromkeys(REASONS, 0) | dict(pipeline.tally(REJECTED)),
            join=join_view(pipeline.joins.values(), pipeline.tally) if pipeline.matured else None,
        )

    def _by_model(self, what: str) -> dict[tuple[str, str], int]:
        total = self._pipeline.tally(what)
        return {(m.name, m.version): total[m.key] for m in self._watched}

    def _log_alerts(self, results: list[WindowResult]) -> None:
        for result in results:
            flagged = [v for v in result.values if v.alert]
            if flagged:
                log.warning(
                    "window alerts",
                    model=result.model,
                    version=result.version,
                    window=result.window,
                    maturity=result.maturity,
                    index=result.index,
                    rows=result.rows,
                    features=sorted({v.feature or v.metric for v in flagged}),
                    notes=dict(result.notes),
                )


def describe(config: Config) -> str:
    """The source in a few words, for people; holds no secret."""
    source = config.source
    if isinstance(source, KafkaSource):
        return f"kafka topics {', '.join(source.topics)}"
    if isinstance(source, FilesSource | FollowSource):
        return f"{source.type} {source.path}"
    return "standard input"


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
    )
