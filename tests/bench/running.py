"""The service's parts as ``stream-monitor run`` puts them together, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from stream_monitor.assembly import furnish, open_copy, open_source, settle
from stream_monitor.config.model import Config, KafkaStore
from stream_monitor.expose.snapshot import Snapshot
from stream_monitor.monitor import Monitor
from stream_monitor.replica import Replica
from stream_monitor.watch import watch
from stream_monitor.watch_outcome import watch_outcomes


class Board:
    """Keeps the newest snapshot."""

    newest: Snapshot

    def publish(self, snapshot: Snapshot) -> None:
        self.newest = snapshot


class Loop:
    """A service, round by round."""

    def __init__(self, config: Config, stack: ExitStack) -> None:
        watched, windows = watch(config, "bench")
        copy = open_copy(config, stack)
        outcomes = watch_outcomes(
            config, watched, windows, "bench", folder=config.store.path.with_suffix(".ledgers")
        )
        self.board = Board()
        self.service: Monitor | Replica
        if isinstance(config.store, KafkaStore):
            self.service = replica = Replica(config, self.board)
            furnish(
                replica, config, config.store, "bench", watched=watched, windows=windows,
                outcomes=outcomes, copy=copy, timed=lambda _step: nullcontext(),
            )  # fmt: skip
            for part in (replica.worker, replica.aggregator):
                if part is not None:
                    stack.callback(part.close)
        else:
            source = open_source(config, "bench")
            self.service = Monitor(
                config=config, watched=watched, windows=windows, source=source, store=copy,
                board=self.board, step_timer=lambda _step: nullcontext(), outcomes=outcomes,
            )  # fmt: skip
            stack.callback(source.close)
        settle()

    def ready(self) -> None:
        """Go round until there is a partition, and somebody to evaluate."""
        self.show()
        while not (self.board.newest.service.ready and self.board.newest.service.partitions):
            self.round()

    def read(self) -> bool:
        """Whether everything that there is has been read."""
        if isinstance(self.service, Monitor):
            lag = self.service.lag
        else:
            lag = {} if self.service.worker is None else self.service.worker.lag
        return bool(lag) and not any(lag.values())

    def round(self) -> None:
        """As ``run`` does it."""
        self.service.round()

    def show(self) -> None:
        self.service.show()


@contextmanager
def loop(config: Config) -> Iterator[Loop]:
    """All of it, closed at the end."""
    with ExitStack() as stack:
        yield Loop(config, stack)


def store(folder: Path, kind: str) -> dict[str, Any]:
    """The section of a store in a folder."""
    found: dict[str, Any] = {"type": kind, "path": str(folder / "state.db")}
    return found | ({"partitions": 4} if kind == "kafka" else {})
