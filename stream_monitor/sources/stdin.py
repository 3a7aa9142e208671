"""JSONL on standard input, as one ordered partition that cannot be read again."""

from __future__ import annotations

import os
import select

from stream_monitor.sources.base import Poll
from stream_monitor.sources.lines import BLOCK, Lines

PARTITION = "stdin"


class StdinSource:
    """Reads lines from a file descriptor; the position counts bytes read, over all runs."""

    def __init__(self, *, max_record_size: int, descriptor: int = 0) -> None:
        self._lines = Lines(max_record_size)
        self._descriptor = descriptor
        self._announced = self._sought = self._paused = self._finished = False

    def poll(self, timeout_seconds: float) -> Poll:
        poll = Poll()
        if not self._announced:
            self._announced = True
            poll.assigned = (PARTITION,)
        elif self._sought and not self._paused and not self._finished:
            ready, _, _ = select.select([self._descriptor], [], [], timeout_seconds)
            if ready:
                self._read(poll)
        if self._finished:
            poll.finished, poll.at_end = True, frozenset([PARTITION])
        return poll

    def _read(self, poll: Poll) -> None:
        block = os.read(self._descriptor, BLOCK)
        self._finished = not block
        found = self._lines.feed(block) if block else self._lines.finish()
        if found:
            form = PARTITION + "@byte {}"
            poll.records.append(found.records(PARTITION, form, str(self._lines.resume)))

    def seek(self, partition: str, position: str | None) -> str | None:  # noqa: ARG002 - there is one
        # bytes of an earlier run are gone; counting goes on where it stopped
        self._lines = Lines(self._lines.max_size, int(position or 0))
        self._sought = True
        return position

    def pause(self, partitions: frozenset[str]) -> None:
        self._paused = PARTITION in partitions

    def close(self) -> None:
        self._finished = True
