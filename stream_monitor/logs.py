"""Structured logs on standard error: for people on a terminal, JSON elsewhere, rate-limited."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

from stream_monitor.config.model import LogConfig

_INTERVAL = 10.0  # seconds
_BURST = 5  # lines of one event in an interval


class RateLimit:
    """Lets at most ``burst`` lines of an event through an interval, and says how many it held back.

    Whatever arrives must not fill a disk with logs; the counters keep the exact number.
    """

    def __init__(
        self,
        burst: int = _BURST,
        interval: float = _INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst, self._interval, self._clock = burst, interval, clock
        self._seen: dict[str, tuple[float, int]] = {}

    def __call__(
        self, _logger: Any, _method: str, line: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        event, now = str(line.get("event")), self._clock()
        since, count = self._seen.get(event, (now, 0))
        if now - since >= self._interval:
            if count > self._burst:
                line["suppressed"] = count - self._burst
            since, count = now, 0
        self._seen[event] = (since, count + 1)
        if count >= self._burst:
            raise structlog.DropEvent
        return line


def configure(config: LogConfig) -> None:
    """Set up logging for the process: structlog for us, the standard library for our libraries."""
    level = logging.getLevelNamesMapping()[config.level.upper()]
    console = config.format == "console" or (config.format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        RateLimit(),
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    # libraries speak up only when something is wrong
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
