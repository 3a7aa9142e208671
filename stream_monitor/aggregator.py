"""The aggregator: follows everybody's panes, closes windows over them, keeps what it concludes.

One replica is active at a time; the others stand by. All of it is a function of the state's topic
and of what was concluded before, so it makes no difference which.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from itertools import islice, product
from math import inf
from typing import Any

import structlog

from stream_monitor.alerts.judge import Judge, prepare
from stream_monitor.closing import Awaited, Closing
from stream_monitor.config.model import Config, KafkaStore
from stream_monitor.errors import StoreError, UnusableError
from stream_monitor.expose.snapshot import FiringAlert, ModelView
from stream_monitor.intake import Kinds
from stream_monitor.labels.beside import JoinReplica
from stream_monitor.panes.partition import Partition, Shape
from stream_monitor.panes.windows import Window
from stream_monitor.sources.several import INSTANCE
from stream_monitor.store.base import Checkpoint, PaneKey
from stream_monitor.store.kafka.aggregator import AggregatorStore, Conclusions, Update
from stream_monitor.store.kafka.progress import Progress
from stream_monitor.store.kafka.topics import inputs_of
from stream_monitor.store.sqlite import SqliteStore
from stream_monitor.values import WindowResult
from stream_monitor.view import Views, counted, log_alerts, state_bytes
from stream_monitor.watch import Watched
from stream_monitor.watch_outcome import Outcomes

_AWAITED_SECONDS = 10.0  # how often the topics are looked at for new partitions
_ENDS_SECONDS = 0.5  # and for where they end, while nothing is heard of the workers
_RESULTS = 500  # that are put into the local copy at once

log = structlog.get_logger()


class Aggregator:
    """Stands by, or is the active one.

    ``copy`` is a local copy of the results, for the API.
    """

    def __init__(
        self,
        *,
        config: Config,
        watched: list[Watched],
        windows: tuple[Window, ...],
        outcomes: Outcomes | None,
        store: AggregatorStore,
        copy: SqliteStore,
        joins: str | None,
        timed: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._config = config
        self._store = store
        self._copy = copy
        self._watched = watched
        self._timed = timed
        self._windows = windows
        self._outcomes = outcomes
        self._joins = joins
        self._evaluation: Evaluation | None = None
        self._interval = config.store.commit_interval / 1e6
        self._topics = *inputs_of(config), [] if joins is None else [joins]
        self._awaited = self._looked = self._committed = 0.0
        self._results: list[WindowResult] = []
        self.last_commit = self.commit_failures = 0

    @property
    def active(self) -> bool:
        """Whether it has read everything and evaluates."""
        return self._evaluation is not None and self._evaluation.complete

    @property
    def ready(self) -> bool:
        """Whether it evaluates, or stands by."""
        return self.active or (self._store.joined and not self._store.owned)

    def round(self, seconds: float) -> None:
        """Follow what came, and do everything that follows from it."""
        try:
            self._round(seconds)
        except UnusableError:
            raise
        except StoreError as error:
            self.commit_failures += 1
            log.error("the aggregator begins anew", error=str(error))
            self._end()
            time.sleep(seconds)

    def _round(self, seconds: float) -> None:
        if not self._store.owns():
            if self._evaluation is not None:
                log.warning("another replica is the aggregator now")
                self._end()
            time.sleep(seconds)
            return
        if self._evaluation is None or self._store.anew():
            self._end()
            with self._timed("restore"):
                self._evaluation = Evaluation(
                    self._config,
                    self._watched,
                    self._windows,
                    self._outcomes,
                    joins=self._joins,
                    copy=self._copy,
                    told=self._store.begin(),
                )
            log.info("this replica is the aggregator now")
        evaluation = self._evaluation
        for update in self._store.updates(seconds):
            evaluation.take(update)
            self._looked = 0.0
        if not evaluation.complete:
            evaluation.complete = self._store.caught_up()
            return
        self._await(evaluation)
        if not evaluation.awaited:
            return
        self._look(evaluation)
        with self._timed("evaluate"):
            closed = evaluation.close()
        self._results += closed
        if time.monotonic() - self._committed >= self._interval and self._store.settled():
            self.commit()

    def _await(self, evaluation: Evaluation) -> None:
        """Look for partitions that have been added; what is no more is awaited no less."""
        if evaluation.awaited and time.monotonic() - self._awaited < _AWAITED_SECONDS:
            return
        self._awaited = time.monotonic()
        found = [self._store.partitions(topics) for topics in self._topics]
        if all(there or not topics for there, topics in zip(found, self._topics, strict=True)):
            evaluation.awaited = True
            evaluation.closing.awaited = Awaited(*found)

    def _look(self, evaluation: Evaluation) -> None:
        """Ask where the inputs end; while nobody tells, nothing counts as read to its end.

        After every update, and before it closes anything: what is written from now on is no older
        than what others have read by now, so nothing is missed however fast they read.
        """
        if time.monotonic() - self._looked < _ENDS_SECONDS:
            return
        try:
            evaluation.ends = self._store.ends([*self._topics[0], *self._topics[1]])
        except StoreError as error:
            evaluation.ends = {}
            log.warning("windows wait: nobody says where the topics end", error=str(error))
        self._looked = time.monotonic()

    def commit(self) -> None:
        """Write what was concluded since the last time.

        Raises
        ------
        StoreError
            What was concluded counts for nothing.
        """
        if self._evaluation is None or not self._evaluation.complete:
            return
        self._committed = time.monotonic()
        checkpoint, progress = self._evaluation.checkpoint(self._results)
        with self._timed("commit"):
            if not self._store.commit(checkpoint, progress):
                return
        self._copy.commit(Checkpoint(results=self._results))
        self._evaluation.shown(self._results, checkpoint)
        log_alerts(self._results)
        self._results = []
        self.last_commit = time.time_ns() // 1_000

    def _end(self) -> None:
        self._evaluation, self._results = None, []

    def view(self) -> tuple[dict[str, Any], tuple[ModelView, ...], tuple[FiringAlert, ...]]:
        """What there is to show: counts, models, alerts."""
        if self._evaluation is None or not self._evaluation.complete:
            return {}, (), ()
        return self._evaluation.view()

    def prepare(self) -> bool:
        """For a moment, work out thresholds that will be needed; False if all were there."""
        return self._evaluation is not None and prepare(self._evaluation.judges.values())

    def close(self) -> None:
        """Commit and leave."""
        self._store.hurry()
        try:
            self.commit()
        except StoreError as error:
            log.warning("the last conclusions are left to the next aggregator", error=str(error))
        self._store.close()


class Evaluation:
    """Everybody's panes, as the active aggregator holds them."""

    def __init__(
        self,
        config: Config,
        watched: list[Watched],
        windows: tuple[Window, ...],
        outcomes: Outcomes | None,
        *,
        joins: str | None,
        copy: SqliteStore,
        told: Conclusions,
    ) -> None:
        self._watched = watched
        self._kinds = Kinds(config, joins)
        self._shapes: dict[str, Shape] = {k: s for m in watched for k, s in m.shapes.items()}
        self._outcome_shapes = {} if outcomes is None else outcomes.shapes()
        self._names = [] if outcomes is None else sorted({m.name for m in outcomes.joined.values()})
        self._partitions: dict[str, Partition] = {}
        self._label_partitions: dict[str, Partition] = {}
        self._joins: dict[str, JoinReplica] = {}
        self._touched: set[PaneKey] = set()
        self._committed: dict[str, int] = {}
        store = config.store
        self._patience = store.instance_timeout if isinstance(store, KafkaStore) else 0
        self.complete = self.awaited = False
        self.ends: Mapping[str, int] = {}  # of the inputs' partitions, as the brokers say
        self.closing = Closing(
            watched,
            windows,
            config,
            outcomes,
            partitions=self._partitions,
            label_partitions=self._label_partitions,
            joins=self._joins,
            sharded=True,
        )
        parts = [part for model in watched for part in model.parts]
        self.judges: dict[str, Judge] = {part.key: part.judge for part in parts}
        maturities = [""]
        if outcomes is not None:
            self.judges |= {p.key: p.judge for m in outcomes.models for p in m.parts}
            maturities += outcomes.delays
        if told.service is not None:
            for name, reason in self.closing.publisher.restore(told.service).items():
                log.warning("detector begins anew", detector=name, reason=reason)
        if told.outcomes is not None and self.closing.matured is not None:
            for name, reason in self.closing.matured.restore(told.outcomes).items():
                log.warning("begins anew", what=name, reason=reason)
        for key, judge in self.judges.items():
            if key in told.caches:
                judge.limits.load(told.caches[key])
        self._cached = {key: judge.limits.size for key, judge in self.judges.items()}
        while some := list(islice(told.results, _RESULTS)):
            copy.commit(Checkpoint(results=some))
        self._views = Views(watched, windows, config.windows, maturities[1:])
        for part, window, maturity in product(parts, windows, maturities):
            names = part.name, part.version, part.label, window.name
            self._views.add(copy.history(*names, maturity))

    @property
    def _ended(self) -> frozenset[str]:
        """Read to their end; or files of an instance that has not been heard of for long.

        Whoever reads a partition may have died since: where the brokers have more of it by now, it
        is behind, and windows wait until somebody has read that.
        """
        every = self._partitions | self._label_partitions
        newest = max(self._committed.values(), default=0)
        return frozenset(
            name
            for name, partition in every.items()
            if (
                partition.ended
                and (partition.end is None or self.ends.get(name, inf) <= partition.end)
            )
            or (INSTANCE in name and newest - self._committed[name] > self._patience)
        )

    def take(self, update: Update) -> None:
        """What a worker has committed of a partition."""
        self._committed[update.name] = update.committed
        if self._kinds.rows(update.name):
            join = self._joins.get(update.name)
            if join is None:
                join = self._joins[update.name] = JoinReplica(update.name, self._names)
            join.partition.follow(update.state, self._outcome_shapes)
            join.touched |= {k for k in update.touched if k.model in self._outcome_shapes}
            return
        labels = self._kinds.labels(update.name)
        held = self._label_partitions if labels else self._partitions
        held.setdefault(update.name, Partition(update.name)).follow(update.state, self._shapes)
        self._touched |= {k for k in update.touched if k.model in self._shapes}

    def close(self) -> list[WindowResult]:
        """Windows that are closed now and were not, and closed ones that changed since."""
        touched, self._touched = self._touched, set()
        return self.closing.close(self._ended, touched)

    def checkpoint(self, results: list[WindowResult]) -> tuple[Checkpoint, Progress]:
        """What is to be committed, and what the workers are told."""
        publisher, matured = self.closing.publisher, self.closing.matured
        checkpoint = Checkpoint(
            service=publisher.state(),
            results=results,
            caches={
                key: judge.limits.dump()
                for key, judge in self.judges.items()
                if judge.limits.size != self._cached[key]
            },
            outcomes=None if matured is None else matured.state(),
        )
        progress = Progress(
            self.closing.slowest(self._ended),
            publisher.floors,
            [] if matured is None else matured.floors,
            None if matured is None else matured.past,
        )
        return checkpoint, progress

    def shown(self, results: list[WindowResult], checkpoint: Checkpoint) -> None:
        """These are committed: they may be shown."""
        self._views.add(results)
        for key in checkpoint.caches:
            self._cached[key] = self.judges[key].limits.size

    def view(self) -> tuple[dict[str, Any], tuple[ModelView, ...], tuple[FiringAlert, ...]]:
        models = self._views.models(self.closing.publisher)
        every = [*self._partitions.values(), *self._label_partitions.values()]
        every += [join.partition for join in self._joins.values()]
        counts = counted(self.closing, self._ended, self._watched)
        counts["state_bytes"] = state_bytes(every)
        return counts, models, self._views.alerts(models)
