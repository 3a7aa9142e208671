"""JSONL files, read once, in name order, as one ordered partition."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from stream_monitor.errors import SourceError
from stream_monitor.sources.base import Poll, Records, escaped
from stream_monitor.sources.lines import BLOCK, Found, Lines

_SUFFIXES = (".jsonl", ".ndjson", ".json", ".log")


def matching(path: str) -> list[Path]:
    """The files that a path, a folder or a glob pattern names, in name order."""
    place = Path(path)
    if place.is_dir():
        found = [p for p in place.iterdir() if p.suffix in _SUFFIXES and p.is_file()]
    elif place.exists():
        found = [place]
    else:
        found = [Path(p) for p in glob.glob(path, recursive=True) if Path(p).is_file()]
    if not found:
        raise SourceError(
            f"source.path: {path}: no such file; give a JSONL file, a folder of them "
            f"({', '.join(_SUFFIXES)}) or a glob pattern"
        )
    return sorted(found)


class FilesSource:
    """Reads all lines of some files; the position is ``<number of the file>:<byte>``.

    The set of files is fixed when the source is opened; one that is added later must sort behind
    them, so that positions keep their meaning.
    """

    def __init__(self, path: str, *, max_record_size: int, max_records: int = 16_384) -> None:
        self._partition = path
        self._files = matching(path)
        self._max_record_size = max_record_size
        self._max_records = max_records
        self._reader: Iterator[Records] | None = None
        self._announced = self._paused = self._finished = False

    def poll(self, timeout_seconds: float) -> Poll:  # noqa: ARG002 - files never make us wait
        poll = Poll()
        if not self._announced:
            self._announced = True
            poll.assigned = (self._partition,)
        elif self._reader is not None and not self._paused and not self._finished:
            records = next(self._reader, None)
            if records is None:
                self._finished = True
            else:
                poll.records.append(records)
        if self._finished:
            poll.finished, poll.at_end = True, frozenset([self._partition])
        return poll

    def seek(self, partition: str, position: str | None) -> str | None:
        number, _, byte = (position or "0:0").partition(":")
        try:
            start = int(number), int(byte)
        except ValueError:
            raise SourceError(
                f"{partition}: {position!r} is no position of this source; remove the state file "
                f"or restore the source that wrote it"
            ) from None
        self._reader, self._finished = self._read(*start), False
        return position

    def pause(self, partitions: frozenset[str]) -> None:
        self._paused = self._partition in partitions

    def close(self) -> None:
        self._reader = None

    def _read(self, number: int, byte: int) -> Iterator[Records]:
        for i, path in enumerate(self._files):
            if i < number:
                continue
            try:
                with path.open("rb") as file:
                    yield from self._file(i, path, file, byte if i == number else 0)
            except OSError as error:
                raise SourceError(f"{path}: cannot be read ({error})") from None

    def _file(self, number: int, path: Path, file: BinaryIO, byte: int) -> Iterator[Records]:
        file.seek(byte)
        lines = Lines(self._max_record_size, byte)
        while block := file.read(BLOCK):
            yield from self._batches(number, path, lines, lines.feed(block))
        yield from self._batches(number, path, lines, lines.finish())

    def _batches(self, number: int, path: Path, lines: Lines, found: Found) -> Iterator[Records]:
        while found:
            some, found = found.head(self._max_records)
            resume = found.offsets[0] if found else lines.resume
            form = f"{escaped(path.name)}@byte {{}}"
            yield some.records(self._partition, form, f"{number}:{resume}")
