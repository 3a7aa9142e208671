"""Kafka's errors as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kafka.errors import KafkaError

from stream_monitor.errors import StoreError


@contextmanager
def errors(what: str) -> Iterator[None]:
    """Say what could not be done; it may work later."""
    try:
        yield
    except KafkaError as error:
        raise StoreError(f"{what}: {type(error).__name__}: {error}; it is tried again") from error
