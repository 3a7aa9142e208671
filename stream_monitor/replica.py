"""One of several replicas over a Kafka store: a worker, an aggregator or both, and its page."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace

from stream_monitor import __version__
from stream_monitor.aggregator import Aggregator
from stream_monitor.config.model import Config
from stream_monitor.expose.snapshot import ServiceView, Snapshot
from stream_monitor.monitor import Board, describe
from stream_monitor.view import state_bytes
from stream_monitor.worker import Worker

_POLL_SECONDS = 0.1
_SHOW_SECONDS = 0.2
_BEAT_SECONDS = 1.0


class _Stopped(Exception):  # noqa: N818 - nothing is wrong
    """Long work is left, for the service is to end."""


class Replica:
    """Goes round until it is told to stop; either part may be missing."""

    def __init__(self, config: Config, board: Board) -> None:
        self._config = config
        self._board = board
        self._source_name = describe(config)
        self._shown = 0.0
        nothing = ServiceView(
            __version__, self._source_name, single_instance=False, active=False, role=config.role
        )
        self._last = Snapshot(nothing)
        self._preparing = False
        self._stop: threading.Event | None = None
        self.worker: Worker | None = None
        self.aggregator: Aggregator | None = None

    @property
    def _parts(self) -> list[Worker | Aggregator]:
        return [part for part in (self.worker, self.aggregator) if part is not None]

    def beat(self) -> None:
        """Long work goes on: the loop is not stuck. Where it is to end, this is the way out."""
        if self._stop is not None and self._stop.is_set():
            raise _Stopped
        if time.monotonic() - self._shown > _BEAT_SECONDS:
            ready = all(part.ready for part in self._parts)
            self._publish(replace(self._last.service, ready=ready))

    def run(self, stop: threading.Event) -> None:
        """Go round; at the end commit what was read and leave the groups."""
        self.show()
        self._stop = stop
        # what is raised in the midst of something leaves that undone, and it is read again
        with suppress(_Stopped):
            while not stop.is_set():
                self.round()
        self._stop = None
        for part in self._parts:
            part.close()

    def round(self) -> None:
        """Both parts once; then show what there is."""
        busy = False
        if self.worker is not None:
            busy = self.worker.round(0.0 if self.aggregator is not None else _POLL_SECONDS)
        self.beat()
        if self.aggregator is not None:
            self.aggregator.round(0.0 if busy or self._preparing else _POLL_SECONDS)
            # while nothing waits to be read there is time for thresholds
            busy = busy and self.worker is not None and self.worker.behind
            self._preparing = not busy and self.aggregator.prepare()
        if time.monotonic() - self._shown > _SHOW_SECONDS:
            self.show()

    def show(self) -> None:
        """Put a new snapshot on the board."""
        worker, aggregator = self.worker, self.aggregator
        parts = self._parts
        counts, models, alerts = ({}, (), ()) if aggregator is None else aggregator.view()
        held = () if worker is None else tuple(worker.intake.partitions.values())
        counts["state_bytes"] = counts.get("state_bytes", 0) + state_bytes(held)
        service = ServiceView(
            version=__version__,
            source=self._source_name,
            ready=all(part.ready for part in parts),
            single_instance=False,
            active=aggregator is not None and aggregator.active,
            role=self._config.role,
            last_commit=max((part.last_commit for part in parts), default=0),
            memory_limit=self._config.limits.memory,
            commit_failures=sum(part.commit_failures for part in parts),
            partitions=tuple(sorted(partition.name for partition in held)),
            lag={} if worker is None else worker.lag,
            **counts,
        )
        self._last = Snapshot(service, models, alerts)
        self._publish(service)

    def _publish(self, service: ServiceView) -> None:
        self._shown = time.monotonic()
        service = replace(service, heartbeat=time.time_ns() // 1_000)
        self._last = replace(self._last, service=service)
        self._board.publish(self._last)
