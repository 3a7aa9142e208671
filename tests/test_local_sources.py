"""Files, standard input and followed logs: every line once, in order, whatever happens to them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream_monitor.errors import SourceError
from stream_monitor.sources.base import Source
from stream_monitor.sources.files import FilesSource
from stream_monitor.sources.follow import FollowSource
from stream_monitor.sources.lines import Found, Lines
from stream_monitor.sources.stdin import StdinSource

BIG = 1_000_000
fresh = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Reader:
    """Reads a source and can be killed and started again at the last position it saw."""

    def __init__(self, make: Callable[[], Source]) -> None:
        self._make = make
        self._position: str | None = None
        self.lines: list[bytes] = []
        self.source = self._make()
        self.restart()

    def close(self) -> None:
        self.source.close()

    def restart(self) -> None:
        self.close()
        self.source = self._make()
        (partition,) = self.source.poll(0).assigned
        self.source.seek(partition, self._position)

    def read(self, polls: int = 1) -> None:
        for _ in range(polls):
            poll = self.source.poll(0)
            for records in poll.records:
                self.lines += records.payloads
                self._position = records.position

    def drain(self) -> None:
        for _ in range(200):
            poll = self.source.poll(0)
            for records in poll.records:
                self.lines += records.payloads
                self._position = records.position
            if poll.finished or (poll.at_end and not poll.records):
                return
        raise AssertionError("the source never came to its end")


@given(
    lines=st.lists(
        st.binary(min_size=0, max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=30
    ),
    cuts=st.lists(st.integers(0, 800), max_size=20),
    ended=st.booleans(),
)
def test_any_split_of_the_bytes_gives_every_line_with_its_offset(
    lines: list[bytes], cuts: list[int], ended: bool
) -> None:
    data = b"\n".join(lines) + (b"\n" if ended and lines else b"")
    reader = Lines(BIG)
    found = Found()
    edges = [0, *sorted(c for c in cuts if c < len(data)), len(data)]
    for start, end in pairwise(edges):
        found += reader.feed(data[start:end])
    found += reader.finish()
    expected = [line.removesuffix(b"\r") for line in lines]
    assert found.lines == [line for line in expected if line]
    for offset, line in zip(found.offsets, found.lines, strict=True):
        assert data[offset : offset + len(line)] == line
    assert reader.resume == len(data)


@given(cut=st.integers(1, 500))
def test_a_line_too_long_is_cut_and_the_next_one_is_whole(cut: int) -> None:
    data = b"a" * 300 + b"\nshort\n"
    reader = Lines(100)
    found = [x for i in range(0, len(data), cut) for x in reader.feed(data[i : i + cut]).lines]
    assert [line[:101] for line in found] == [b"a" * 101, b"short"]
    assert len(found[0]) == 101


def test_files_are_read_in_name_order_and_resumed_at_any_record(tmp_path: Path) -> None:
    for name, count in (("b.jsonl", 5), ("a.jsonl", 7)):
        (tmp_path / name).write_bytes(
            b"".join(b"%s-%d\n" % (name.encode(), i) for i in range(count))
        )
    (tmp_path / "a.txt").write_text("not mine\n")
    expected = [b"a.jsonl-%d" % i for i in range(7)] + [b"b.jsonl-%d" % i for i in range(5)]
    for every in (1, 2, 5, 100):
        make = partial(FilesSource, str(tmp_path), max_record_size=BIG, max_records=every)
        reader = Reader(make)
        for _ in range(20):
            reader.read()
            reader.restart()
        assert reader.lines == expected


def test_a_files_source_without_files_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file; give a JSONL file"):
        FilesSource(str(tmp_path / "none*.jsonl"), max_record_size=BIG)


def test_standard_input_ends_with_a_line_without_its_end() -> None:
    reading, writing = os.pipe()
    reader = Reader(lambda: StdinSource(max_record_size=BIG, descriptor=reading))
    os.write(writing, b"one\ntw")
    reader.read()
    os.write(writing, b"o\nthree")
    os.close(writing)
    reader.drain()
    os.close(reading)
    assert reader.lines == [b"one", b"two", b"three"]


class Log:
    """A server's log: written in pieces, rotated by renaming or by copying and truncating."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written: list[bytes] = []
        self._file = path.open("ab", buffering=0)
        self._rotations = 0

    def close(self) -> None:
        self._file.close()

    def write(self, count: int) -> None:
        for _ in range(count):
            line = b'{"id": %d}' % len(self.written)
            self.written.append(line)
            middle = len(line) // 2
            self._file.write(line[:middle])
            self._file.write(line[middle:] + b"\n")

    def rename(self) -> None:
        self._rotations += 1
        self._file.close()
        self.path.rename(self.path.with_name(f"{self.path.name}.{self._rotations}"))
        self._file = self.path.open("ab", buffering=0)

    def copy_and_truncate(self) -> None:
        self._rotations += 1
        shutil.copy2(self.path, self.path.with_name(f"{self.path.name}.{self._rotations}"))
        os.truncate(self.path, 0)


steps = st.lists(
    st.sampled_from(["write", "write", "read", "rename", "restart"]), min_size=1, max_size=25
)


@fresh
@given(steps=steps)
def test_a_renamed_log_is_followed_line_by_line(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    with closing(Log(tmp_path_factory.mktemp("log") / "events.jsonl")) as log:
        log.write(1)
        with closing(Reader(lambda: FollowSource(log.path, max_record_size=BIG))) as reader:
            reader.drain()
            for step in steps:
                match step:
                    case "write":
                        log.write(3)
                    case "read":
                        reader.drain()
                    case "rename":
                        log.rename()
                        log.write(1)
                    case "restart":
                        reader.restart()
            for _ in range(30):
                reader.drain()
            assert reader.lines == log.written


def test_a_truncated_log_is_read_to_its_end_and_from_its_new_beginning(tmp_path: Path) -> None:
    with (
        closing(Log(tmp_path / "events.jsonl")) as log,
        closing(Reader(lambda: FollowSource(log.path, max_record_size=BIG))) as reader,
    ):
        log.write(5)
        reader.drain()
        log.write(2)
        log.copy_and_truncate()
        reader.restart()
        log.write(4)
        for _ in range(5):
            reader.drain()
        log.copy_and_truncate()
        log.write(3)
        for _ in range(5):
            reader.drain()
        assert reader.lines == log.written


def test_a_log_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "later.jsonl"
    with closing(Reader(lambda: FollowSource(path, max_record_size=BIG))) as reader:
        reader.drain()
        path.write_bytes(b"one\nunfinished")
        reader.drain()
        assert reader.lines == [b"one"]


def test_a_paused_source_sends_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"one\n")
    source = FilesSource(str(tmp_path), max_record_size=BIG)
    (partition,) = source.poll(0).assigned
    source.seek(partition, None)
    source.pause(frozenset([partition]))
    assert not source.poll(0).records
    source.pause(frozenset())
    assert [r.payloads for r in source.poll(0).records] == [[b"one"]]
