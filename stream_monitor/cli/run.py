"""``run``: the service."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from contextlib import ExitStack
from types import FrameType

import structlog

from stream_monitor import logs
from stream_monitor.assembly import furnish, open_copy, open_source, settle
from stream_monitor.checks import read_config
from stream_monitor.cli.common import Commands, command, config_option
from stream_monitor.config.model import Config, KafkaStore
from stream_monitor.expose.http import Board, Server
from stream_monitor.expose.web_config import load_web_config
from stream_monitor.monitor import Monitor, describe
from stream_monitor.panes.windows import Window
from stream_monitor.replica import Replica
from stream_monitor.store.sqlite import SqliteStore
from stream_monitor.watch import Watched, watch
from stream_monitor.watch_outcome import Outcomes, watch_outcomes

log = structlog.get_logger()


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = command(
        commands,
        "run",
        _run,
        summary="run the service: read events, expose metrics, the API and the status page",
        example="stream-monitor run --config monitor.yaml",
    )
    config_option(parser)


def _run(arguments: argparse.Namespace) -> int:
    config = read_config(arguments.config, serves=True)
    logs.configure(config.log)
    place = str(arguments.config)
    watched, windows = watch(config, place)
    stop = _on_signals()
    with ExitStack() as stack:
        copy = open_copy(config, stack)
        outcomes = _outcomes(config, watched, windows, place, copy)
        board = Board()
        http, web = config.http, load_web_config(config.http.web_config)
        server = Server(board, copy, http.host, http.port, config.limits.max_series, web=web)
        source = None if isinstance(config.store, KafkaStore) else open_source(config, place)
        stack.callback(server.stop)
        server.start()
        log.info(
            "running",
            page=f"{server.url}/",
            metrics=f"{server.url}/metrics",
            source=describe(config),
            role=config.role,
            models=[f"{m.name} {m.version}".strip() for m in watched],
        )
        settle()
        if source is not None:
            Monitor(
                config=config,
                watched=watched,
                windows=windows,
                source=source,
                store=copy,
                board=board,
                step_timer=server.timer.step,
                outcomes=outcomes,
            ).run(stop)
        elif isinstance(config.store, KafkaStore):
            replica = Replica(config, board)
            furnish(
                replica,
                config,
                config.store,
                place,
                watched=watched,
                windows=windows,
                outcomes=outcomes,
                copy=copy,
                timed=server.timer.step,
            )
            replica.run(stop)
    log.info("stopped")
    return 0


def _outcomes(
    config: Config,
    watched: list[Watched],
    windows: tuple[Window, ...],
    place: str,
    store: SqliteStore,
) -> Outcomes | None:
    """How labels are joined; what lies in the local store of other references is forgotten."""
    path = config.store.path
    folder = path.with_name(f"{path.name}-ledgers")
    _, manifests = store.restore_outcomes()
    outcomes = watch_outcomes(config, watched, windows, place, folder=folder, manifests=manifests)
    keys, ledgers = {part.key for m in watched for part in m.parts}, set[str]()
    if outcomes is not None:
        keys |= outcomes.keys()
        ledgers = outcomes.ledgers()
    forgotten = store.forget_models(keys, ledgers)
    if forgotten:
        log.warning("panes of other references or windows forgotten", panes=forgotten)
    return outcomes


def _on_signals() -> threading.Event:
    """An event that the first SIGTERM or SIGINT sets; the second ends the process at once."""
    stop = threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        print("stopping: committing what was read", file=sys.stderr)  # noqa: T201

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
    return stop
