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


class RateLimit(logging.Filter):
    """Lets at most ``burst`` lines of an event through an interval, and says how many it held back.

    A structlog processor for our own lines, a filter for those of libraries, where the text before
    its arguments are filled in is the event. Whatever arrives must not fill a disk with logs; the
    counters keep the exact number.
    """

    def __init__(
        self,
        burst: int = _BURST,
        interval: float = _INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._burst, self._interval, self._clock = burst, interval, clock
        self._seen: dict[str, tuple[float, int]] = {}

    def __call__(
        self, _logger: Any, _method: str, line: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        allowed, suppressed = self._count(str(line.get("event")))
        if not allowed:
            raise structlog.DropEvent
        return {**line, "suppressed": suppressed} if suppressed else line

    def filter(self, record: logging.LogRecord) -> bool:
        allowed, suppressed = self._count(f"{record.name}: {record.msg}")
        if suppressed:
            record.msg = f"{record.msg} ({suppressed} more of these suppressed)"
        return allowed

    def _count(self, event: str) -> tuple[bool, int]:
        """Whether one more line may pass, and how many were held back before it."""
        now, suppressed = self._clock(), 0
        since, count = self._seen.get(event, (now, 0))
        if now - since >= self._interval:
            suppressed = max(count - self._burst, 0)
            since, count = now, 0
        self._seen[event] = (since, count + 1)
        return count < self._burst, suppressed


def configure(config: LogConfig) -> None:
    """Set up logging for the process: structlog for us, the standard library for our libraries."""
    level = logging.getLevelNamesMapping()[config.level.upper()]
    console = config.format == "console" or (config.format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[RateLimit(), *shared, structlog.processors.format_exc_info, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler(sys.stderr)
    # the handler, too: a logger with a level of its own does not ask that of the root
    handler.setLevel(max(level, logging.WARNING))
    handler.addFilter(RateLimit())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    # libraries speak up only when something is wrong
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)
