"""``run``: the service."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from types import FrameType

import structlog

from stream_monitor import logs
from stream_monitor.checks import read_config
from stream_monitor.cli.common import Commands, command, config_option
from stream_monitor.config.model import Config, FilesSource, FollowSource, KafkaSource, StdinSource
from stream_monitor.errors import ConfigError, Problem
from stream_monitor.expose.http import Board, Server
from stream_monitor.monitor import Monitor, describe
from stream_monitor.sources import files, follow, kafka, stdin
from stream_monitor.sources.base import Source
from stream_monitor.store.sqlite import SqliteStore
from stream_monitor.watch import watch

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


def open_source(config: Config, place: str) -> Source:
    """The configured source, opened."""
    limit = config.limits.max_record_size
    match config.source:
        case KafkaSource():
            return kafka.KafkaSource(config.source)
        case FilesSource():
            return files.FilesSource(config.source.path, max_record_size=limit)
        case FollowSource():
            return follow.FollowSource(config.source.path, max_record_size=limit)
        case StdinSource():
            return stdin.StdinSource(max_record_size=limit)
        case None:
            remedy = "add a source: kafka, files, follow or stdin"
            raise ConfigError(place, [Problem("source", None, remedy)])


def _run(arguments: argparse.Namespace) -> int:
    config = read_config(arguments.config)
    logs.configure(config.log)
    watched, windows = watch(config, str(arguments.config))
    source = open_source(config, str(arguments.config))
    store = SqliteStore(
        config.store.path,
        results_retention_windows=config.store.results_retention_windows,
        max_dead_letters=config.store.max_dead_letters,
    )
    forgotten = store.forget_models({m.key for m in watched})
    if forgotten:
        log.warning("panes of other references or windows forgotten", panes=forgotten)
    board = Board()
    server = Server(board, store, config.http.host, config.http.port, config.limits.max_series)
    port = server.start()
    stop = _on_signals()
    log.info(
        "running",
        page=f"http://{config.http.host}:{port}/",
        metrics=f"http://{config.http.host}:{port}/metrics",
        source=describe(config),
        models=[f"{m.name} {m.version}".strip() for m in watched],
    )
    try:
        Monitor(
            config=config,
            watched=watched,
            windows=windows,
            source=source,
            store=store,
            board=board,
            step_timer=server.timer.step,
        ).run(stop)
    finally:
        server.stop()
        store.close()
    log.info("stopped")
    return 0


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
