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
from stream_monitor.config.model import (
    Config,
    FilesSource,
    FollowSource,
    KafkaLabels,
    KafkaSource,
    SourceConfig,
    StdinSource,
)
from stream_monitor.errors import ConfigError, Problem
from stream_monitor.expose.http import Board, Server
from stream_monitor.monitor import Monitor, describe
from stream_monitor.sources import files, follow, kafka, stdin
from stream_monitor.sources.base import Source
from stream_monitor.sources.both import Both
from stream_monitor.sources.kafka_rows import RowTopic
from stream_monitor.store.sqlite import SqliteStore
from stream_monitor.watch import watch
from stream_monitor.watch_outcome import watch_outcomes

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


def open_source(config: Config, place: str, rows: RowTopic | None = None) -> Source:
    """The configured source, and that of labels with it, opened; ``rows`` is the join's topic."""
    labels = None if config.labels is None else config.labels.source
    if isinstance(labels, KafkaLabels):
        if isinstance(config.source, KafkaSource):
            return kafka.KafkaSource(config.source, labels.topics, rows)
        labels = None  # there is no source of events, which the next line says
    events = _opened(config.source, config, place)
    return events if labels is None else Both(events, _opened(labels, config, place))


def row_topic(config: Config) -> RowTopic | None:
    """The join's own topic, where labels come from Kafka."""
    labels, source = config.labels, config.source
    if labels is None or not isinstance(labels.source, KafkaLabels):
        return None
    if not isinstance(source, KafkaSource):
        return None
    return RowTopic(
        source,
        labels.join_topic or f"{source.group_id}-joins",
        partitions=labels.join_partitions,
        retention=labels.horizon + 2 * labels.allowed_lateness,
    )


def _opened(source: SourceConfig | None, config: Config, place: str) -> Source:
    limit = config.limits.max_record_size
    match source:
        case KafkaSource():
            return kafka.KafkaSource(source)
        case FilesSource():
            return files.FilesSource(source.path, max_record_size=limit)
        case FollowSource():
            return follow.FollowSource(source.path, max_record_size=limit)
        case StdinSource():
            return stdin.StdinSource(max_record_size=limit)
        case None:
            remedy = "add a source: kafka, files, follow or stdin"
            raise ConfigError(place, [Problem("source", None, remedy)])


def _run(arguments: argparse.Namespace) -> int:
    config = read_config(arguments.config)
    logs.configure(config.log)
    place = str(arguments.config)
    watched, windows = watch(config, place)
    rows = row_topic(config)
    source = open_source(config, place, rows)
    store = SqliteStore(
        config.store.path,
        results_retention_windows=config.store.results_retention_windows,
        max_dead_letters=config.store.max_dead_letters,
    )
    folder = config.store.path.with_name(config.store.path.name + "-ledgers")
    _, manifests = store.restore_outcomes()
    outcomes = watch_outcomes(config, watched, windows, place, folder=folder, manifests=manifests)
    keys, ledgers = {part.key for m in watched for part in m.parts}, set[str]()
    if outcomes is not None:
        keys |= outcomes.keys()
        ledgers = outcomes.ledgers()
    forgotten = store.forget_models(keys, ledgers)
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
            outcomes=outcomes,
            rows=rows,
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
