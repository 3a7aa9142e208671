"""A JSONL log that is still written to, with rotation, as a sidecar reads its server's.

A log is known by its *fingerprint*: a digest of its first line's first bytes, which survives a
rename and tells a truncated or new file from the one that was being read. The position is
``<fingerprint>:<byte>``; after a restart the rest of a file that was rotated away meanwhile is
read first, if a file of that fingerprint still lies beside the log.
"""

from __future__ import annotations

import glob
import os
import time
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import structlog

from stream_monitor.errors import SourceError
from stream_monitor.sources.base import Poll, Records, escaped
from stream_monitor.sources.lines import BLOCK, Found, Lines

_HEAD = 256  # bytes that make a fingerprint; a log's first line holds an id or a time
_PACKED = (".gz", ".bz2", ".xz", ".zst")  # a rotated log is read before it is packed
_PAUSE = 0.05
_MAX_BYTES = 4 * BLOCK  # of one poll

log = structlog.get_logger()


def fingerprint(head: bytes) -> str:
    """Digest of the first line's first bytes; empty while there is no whole line yet."""
    line, end, _ = head.partition(b"\n")
    if not end and len(head) < _HEAD:
        return ""
    return blake2b(line[:_HEAD], digest_size=8).hexdigest()


class FollowSource:
    """Follows one log by name, as ``tail -F``: renamed and truncated files included."""

    def __init__(self, path: Path, *, max_record_size: int) -> None:
        if path.is_dir():
            raise SourceError(f"source.path: {path} is a folder; name the log in it, or use files")
        self._path = path
        self._partition = str(path)
        self._max_record_size = max_record_size
        self._file: BinaryIO | None = None
        self._lines = Lines(max_record_size)
        self._print = ""
        self._wanted: tuple[str, int] | None = None
        self._left: tuple[int, int] | None = None
        self._announced = self._sought = self._paused = False

    def poll(self, timeout_seconds: float) -> Poll:
        poll = Poll()
        if not self._announced:
            self._announced = True
            poll.assigned = (self._partition,)
            return poll
        if not self._sought or self._paused:
            time.sleep(min(timeout_seconds, _PAUSE))
            return poll
        deadline = time.monotonic() + timeout_seconds
        while True:
            found = Found() if self._file is None and not self._open() else self._read()
            if found:
                poll.records.append(self._records(found))
                return poll
            if time.monotonic() >= deadline:
                poll.at_end = frozenset([self._partition])
                return poll
            time.sleep(_PAUSE)

    def seek(self, partition: str, position: str | None) -> str | None:
        self._sought = True
        self.close()
        if position:
            known, _, byte = position.partition(":")
            if not byte.isdecimal():
                raise SourceError(
                    f"{partition}: {position!r} is no position of a followed log; remove the "
                    f"state file or restore the source that wrote it"
                )
            self._wanted = known, int(byte)
        return position

    def pause(self, partitions: frozenset[str]) -> None:
        self._paused = self._partition in partitions

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _records(self, found: Found) -> Records:
        form = f"{escaped(self._path.name)}@byte {{}}"
        return found.records(self._partition, form, f"{self._print}:{self._lines.resume}")

    # --- files ----------------------------------------------------------------------------------

    def _open(self) -> bool:
        """Open the file to read next; False while there is none."""
        if self._wanted is not None:
            known, byte = self._wanted
            found = self._find(known)
            if found is None and known:
                if not self._path.exists():
                    return False
                log.warning(
                    "the log that was being read is gone, and with it what was not read",
                    path=str(self._path),
                    read_bytes=byte,
                )
            self._wanted = None
            if found is not None:
                return self._start(found, known, byte)
        path = self._next()
        return path is not None and self._start(path, "", 0)

    def _next(self) -> Path | None:
        """What follows the file that was left: the oldest written to since, or the log."""
        candidates = []
        for path in [self._path, *self._beside()]:
            try:
                stat = path.stat()
            except OSError:
                continue
            if self._left is None:
                return path
            inode, changed = self._left
            if stat.st_ino != inode and (path == self._path or stat.st_mtime_ns > changed):
                candidates.append((stat.st_mtime_ns, path))
        return min(candidates)[1] if candidates else None

    def _beside(self) -> list[Path]:
        """Files into which the log may have been rotated."""
        found = self._path.parent.glob(f"{glob.escape(self._path.name)}?*")
        return [p for p in found if p.suffix not in _PACKED]

    def _start(self, path: Path, known: str, byte: int) -> bool:
        try:
            self._file = path.open("rb")
        except FileNotFoundError:
            return False
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error}); check its permissions") from None
        self._print = known
        self._file.seek(byte)
        self._lines = Lines(self._max_record_size, byte)
        return True

    def _find(self, known: str) -> Path | None:
        """The log, or a file beside it whose name begins with the log's, with this fingerprint."""
        for path in [self._path, *self._beside()]:
            try:
                with path.open("rb") as file:
                    if known and fingerprint(file.read(_HEAD)) == known:
                        return path
            except OSError:
                continue
        return None

    def _read(self) -> Found:
        file = self._file
        if file is None:
            return Found()
        if self._truncated(file):
            # its rest may lie in a copy beside it, which is then read before its new beginning
            self._wanted = (self._print, self._lines.resume)
            self.close()
            return Found()
        found = Found()
        read = 0
        while read < _MAX_BYTES and not found:
            block = file.read(BLOCK)
            if not block:
                if self._rotated(file):
                    found += self._switch(file)
                break
            read += len(block)
            found += self._lines.feed(block)
        if not self._print:
            self._print = self._head(file)
        return found

    def _head(self, file: BinaryIO) -> str:
        place = file.tell()
        file.seek(0)
        head = file.read(_HEAD)
        file.seek(place)
        return fingerprint(head)

    def _truncated(self, file: BinaryIO) -> bool:
        """Whether the file has become another one under its name, as copytruncate does."""
        size = file.seek(0, 2)
        file.seek(self._lines.offset)
        if size < self._lines.offset:
            return True
        return bool(self._print) and self._head(file) != self._print

    def _rotated(self, file: BinaryIO) -> bool:
        """Whether the log's name leads to another file than the open one."""
        try:
            now = self._path.stat()
        except OSError:
            return False
        here = os.fstat(file.fileno())
        return (now.st_dev, now.st_ino) != (here.st_dev, here.st_ino)

    def _switch(self, file: BinaryIO) -> Found:
        """Leave a file that was read to its end: what was written last, and its last line."""
        found = self._lines.feed(file.read())
        found += self._lines.finish()
        if found:
            # delivered with the old file's position; the new one is opened with the next poll
            return found
        stat = os.fstat(file.fileno())
        self._left = (stat.st_ino, stat.st_mtime_ns)
        self.close()
        return found
