"""The service put together as its configuration says."""

from __future__ import annotations

import gc
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from stream_monitor.aggregator import Aggregator
from stream_monitor.config.model import (
    Config,
    FilesSource,
    FollowSource,
    KafkaLabels,
    KafkaSource,
    KafkaStore,
    SourceConfig,
    SqliteStore,
    StdinSource,
)
from stream_monitor.errors import ConfigError, Problem
from stream_monitor.panes.windows import Window
from stream_monitor.replica import Replica
from stream_monitor.sources import files, follow, kafka, stdin
from stream_monitor.sources.base import Source
from stream_monitor.sources.confluent import ConfluentSource
from stream_monitor.sources.kafka_group import GroupSource
from stream_monitor.sources.kafka_options import client_options, connection_options
from stream_monitor.sources.several import INSTANCE, LABELS, Several
from stream_monitor.store import sqlite
from stream_monitor.store.kafka.aggregator import AggregatorStore
from stream_monitor.store.kafka.confluent_transactions import ConfluentTransactions
from stream_monitor.store.kafka.topics import Topics, connection_of, prefix_of
from stream_monitor.store.kafka.transactions import Transactions
from stream_monitor.store.kafka.worker import WorkerStore
from stream_monitor.watch import Watched
from stream_monitor.watch_outcome import Outcomes
from stream_monitor.worker import Worker

_GROUP = ("session_timeout_ms", "heartbeat_interval_ms", "metadata_max_age_ms")


def settle() -> None:
    """Take what has been made so far as what stays.

    Python's garbage collector walks it no more, which it does after every few thousand records
    that come and go: a tenth of what a record costs.
    """
    gc.collect()
    gc.freeze()


def open_source(config: Config, place: str) -> Source:
    """The configured source, and that of labels with it, opened.

    Raises
    ------
    ConfigError
        There is none.
    """
    labels = None if config.labels is None else config.labels.source
    if isinstance(labels, KafkaLabels):
        if isinstance(config.source, KafkaSource):
            return member(config.source, labels.topics)
        labels = None  # there is no source of events, which the next line says
    events = _opened(config.source, config, place)
    if labels is None:
        return events
    return Several({"": events, LABELS: _opened(labels, config, place)})


def member(
    source: KafkaSource, more_topics: Sequence[str] = (), joins: str | None = None
) -> GroupSource:
    """A consumer of the source's group, by the client that it names.

    Raises
    ------
    SourceError
        That is not installed.
    """
    kind = ConfluentSource if source.client == "confluent" else kafka.KafkaSource
    return kind(source, more_topics, joins)


def _opened(source: SourceConfig | None, config: Config, place: str) -> Source:
    limit = config.limits.max_record_size
    match source:
        case KafkaSource():
            return member(source)
        case FilesSource():
            return files.FilesSource(source.path, max_record_size=limit)
        case FollowSource():
            return follow.FollowSource(source.path, max_record_size=limit)
        case StdinSource():
            return stdin.StdinSource(max_record_size=limit)
        case None:
            remedy = "add a source: kafka, files, follow or stdin"
            raise ConfigError(place, [Problem("source", None, remedy)])


def open_copy(config: Config, stack: ExitStack) -> sqlite.SqliteStore:
    """The local store; with a Kafka store a copy of the results, made anew each time."""
    path, most = config.store.path, 0
    if isinstance(config.store, SqliteStore):
        most = config.store.max_dead_letters
    else:
        path = path.with_name(f"{path.name}-copy")
        for end in ("", "-wal", "-shm"):
            path.with_name(path.name + end).unlink(missing_ok=True)
    store = sqlite.SqliteStore(
        path,
        results_retention_windows=config.store.results_retention_windows,
        max_dead_letters=most,
    )
    stack.callback(store.close)
    return store


def furnish(
    replica: Replica,
    config: Config,
    store: KafkaStore,
    place: str,
    *,
    watched: list[Watched],
    windows: tuple[Window, ...],
    outcomes: Outcomes | None,
    copy: sqlite.SqliteStore,
    timed: Callable[[str], AbstractContextManager[None]],
) -> None:
    """Give a replica the parts that its role asks for."""
    servers, client = connection_of(config)
    options = {"bootstrap_servers": servers, **connection_options(client)}
    topics = Topics.of(config, store)
    prefix = prefix_of(config, store)
    joins = topics.joins.name if topics.joins is not None and outcomes is not None else None
    if config.role != "aggregator":
        group = _group(config, store, joins, servers, client)
        events = _inputs(config, store, place, group)
        name = store.instance or str(client_options(client).get("group_instance_id") or "")
        # another name each time where nobody gave one: the group shuts out who has left it
        name = f"{prefix}-worker-{name or uuid.uuid4()}"
        worker_store = WorkerStore(
            topics,
            options,
            # a transaction takes the place in the group from the client that has it
            (ConfluentTransactions if isinstance(group, ConfluentSource) else Transactions)(
                options, name, store.transaction_timeout
            ),
            group,
            replica.beat,
        )
        replica.worker = Worker(
            config=config,
            watched=watched,
            windows=windows,
            source=events,
            store=worker_store,
            joins=joins,
            timed=timed,
            outcomes=outcomes,
        )
    if config.role != "worker":
        given = client_options(client)
        aggregator_store = AggregatorStore(
            topics,
            options,
            {k: v for k, v in given.items() if k in _GROUP},
            Transactions(options, f"{prefix}-aggregator", store.transaction_timeout),
            replica.beat,
        )
        replica.aggregator = Aggregator(
            config=config,
            watched=watched,
            windows=windows,
            outcomes=outcomes,
            store=aggregator_store,
            copy=copy,
            joins=joins,
            timed=timed,
        )


def _group(
    config: Config,
    store: KafkaStore,
    joins: str | None,
    servers: str,
    client: dict[str, Any],
) -> GroupSource | None:
    """The source that is a consumer group, if there is one."""
    labels = None if config.labels is None else config.labels.source
    if isinstance(config.source, KafkaSource):
        topics = labels.topics if isinstance(labels, KafkaLabels) else []
        return member(config.source, topics, joins)
    if joins is None:
        return None
    own = KafkaSource(
        type="kafka",
        bootstrap_servers=servers,
        topics=[joins],
        group_id=prefix_of(config, store),
        options=client,
    )
    return member(own, joins=joins)


def _inputs(config: Config, store: KafkaStore, place: str, group: GroupSource | None) -> Source:
    """All that a worker reads. Files are of this instance alone, and so are called."""
    sources: dict[str, Source] = {} if group is None else {"": group}
    if not isinstance(config.source, KafkaSource):
        sources[f"{store.instance}{INSTANCE}"] = _opened(config.source, config, place)
    labels = None if config.labels is None else config.labels.source
    if isinstance(labels, FilesSource | FollowSource):
        sources[f"{store.instance}{INSTANCE}{LABELS}"] = _opened(labels, config, place)
    return Several(sources)
