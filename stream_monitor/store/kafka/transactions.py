"""One Kafka transaction a commit by kafka-python: records and positions, all of it or nothing.

kafka-python's ``commit_transaction`` and ``send_offsets_to_transaction`` wait for ever while no
broker answers, which would stop the loop and its heartbeat. This file therefore waits by itself, on
the results that these calls wait on; it is the only one that touches what is not public.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import structlog
from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError, UnknownError
from kafka.structs import OffsetAndMetadata

from stream_monitor.errors import StoreError
from stream_monitor.sources.kafka_client import connected

MOST = 20.0  # seconds that one may take: who does not come round for 30 is taken for stuck
LAST = 4.0  # seconds that a transaction may take once the service is to end
_BLOCK = 10_000  # milliseconds that the client waits for what it must know first
_JOIN = 1.0  # seconds that a producer's thread has to end

log = structlog.get_logger()


class Outgoing(NamedTuple):
    """A record to be written; ``timestamp`` in milliseconds, None for now."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp: int | None = None


class Transactions:
    """A producer of transactions with a name of its own.

    Who begins with the same name ends what another left open, and shuts it out.
    """

    def __init__(self, options: Mapping[str, object], name: str, timeout: int) -> None:
        self.name = name
        self._seconds = min(timeout / 1e6, MOST)
        self._options = dict(options) | {
            "transactional_id": name,
            "transaction_timeout_ms": timeout // 1_000,
            "acks": "all",
            "linger_ms": 5,
            "batch_size": 2**18,
            "max_request_size": 2**26,
            "max_block_ms": min(timeout // 1_000, _BLOCK),
            "request_timeout_ms": max(1_000, timeout // 2_000),
            "delivery_timeout_ms": max(1_100, timeout // 1_000),
        }
        self._producer: Any = None

    def open(self) -> None:
        """Be ready for transactions; ends one that was left open under this name.

        Raises
        ------
        StoreError
            No broker answers in time, or it refuses.
        """
        if self._producer is not None:
            return
        producer: Any = None
        try:
            producer = connected(KafkaProducer, **self._options)
            producer.init_transactions()
        except KafkaError as error:
            if producer is not None:
                _end(producer)
            raise StoreError(
                f"transactions as {self.name}: {type(error).__name__}: {error}; it is tried again"
            ) from error
        self._producer = producer

    def run(self, records: Iterable[Outgoing], offsets: Mapping[Any, int], membership: Any) -> None:
        """Write all of it.

        Parameters
        ----------
        offsets
            The next offset by ``TopicPartition``.
        membership
            Of the consumer that read them; who is no member of that group any more is shut out.

        Raises
        ------
        StoreError
            It did not work, or nobody knows whether it did: read what is there before going on.
        """
        self.open()
        producer = self._producer
        deadline = time.monotonic() + self._seconds
        try:
            producer.begin_transaction()
            sent = [
                producer.send(
                    r.topic,
                    r.value,
                    key=r.key,
                    headers=list(r.headers),
                    partition=r.partition,
                    timestamp_ms=r.timestamp,
                )
                for r in records
            ]
            if offsets:
                if membership.generation_id < 0:
                    raise StoreError("the group has gone on without this replica")
                # -1: the epoch of the partition's leader is not known
                positions = {p: OffsetAndMetadata(o, "", -1) for p, o in offsets.items()}
                manager = producer._transaction_manager
                self._wait(manager.send_offsets_to_transaction(positions, membership), deadline)
            with suppress(UnknownError):  # of a batch that was too large and has been split
                producer.flush(timeout=max(0.0, deadline - time.monotonic()))
            for future in sent:
                future.get(timeout=max(0.001, deadline - time.monotonic()))
            self._wait(producer._transaction_manager.begin_commit(), deadline)
        except (KafkaError, StoreError) as error:
            self.drop()
            raise StoreError(
                f"transaction of {self.name}: {type(error).__name__}: {error}; what it held is "
                "read again"
            ) from error

    def _wait(self, result: Any, deadline: float) -> None:
        self._producer._sender.wakeup()
        if not result.wait(timeout_ms=max(1.0, (deadline - time.monotonic()) * 1_000)):
            raise KafkaTimeoutError("no answer in time")

    def hurry(self) -> None:
        """Nothing may take long any more."""
        self._seconds = min(self._seconds, LAST)

    def drop(self) -> None:
        """Leave whatever is open; the next :meth:`open` ends it."""
        producer, self._producer = self._producer, None
        if producer is not None:
            _end(producer)

    def close(self) -> None:
        """Every transaction has come to its end, so nothing is left to be waited for."""
        self.drop()


def _end(producer: Any) -> None:
    """Close a producer without sending what it still holds.

    kafka-python's own ``close`` waits for that first and, where it does not go, leaves its thread
    at work: with each commit that fails one more.
    """
    producer._sender.force_close()
    producer._sender.join(_JOIN)
    with suppress(KafkaError):
        producer.close(timeout=0)
