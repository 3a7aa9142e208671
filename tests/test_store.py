"""The SQLite store: whole checkpoints or nothing, whatever happens in between."""

from __future__ import annotations

import json
import math
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_monitor.errors import StoreError
from stream_monitor.panes.partition import Partition, Shape
from stream_monitor.store.base import Checkpoint, ChunkKey, DeadLetter, PaneKey, PartitionState
from stream_monitor.store.sqlite import FORMAT_VERSION, SqliteStore
from stream_monitor.values import COLUMNS, Value, WindowResult

DAY = 86_400_000_000


def opened(path: Path | None, *, windows: int = 100, letters: int = 100) -> SqliteStore:
    return SqliteStore(path, results_retention_windows=windows, max_dead_letters=letters)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = opened(tmp_path / "state.db")
    yield store
    store.close()


def result(
    index: int, *, revision: int = 0, value: float = 0.5, window: str = "day"
) -> WindowResult:
    values = (
        Value("age", "drift", "jensen_shannon", value, upper_threshold=0.4, alert=value > 0.4),
        Value("age", "quality", "missing_values", math.nan),
        Value("", "statistics", "rows_count", 10.0),
    )
    return WindowResult(
        "m", "1", "", window, index, index * DAY, (index + 1) * DAY, 10, True, values, revision
    )


def chunk(pane: int, number: int = 0) -> ChunkKey:
    return ChunkKey(PaneKey("m@1", "time", pane), number)


partition_states = st.builds(
    PartitionState,
    st.none() | st.text(max_size=10),
    st.binary(max_size=20),
    st.dictionaries(
        st.builds(chunk, st.integers(-5, 5), st.integers(0, 3)), st.binary(max_size=30), max_size=6
    ),
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(max_size=5), partition_states, max_size=4), st.binary(max_size=20))
def test_what_was_committed_is_restored(
    partitions: dict[str, PartitionState], service: bytes
) -> None:
    store = opened(None)
    store.commit(Checkpoint(partitions, service, caches={"m@1": b"cache"}))
    assert {name: store.restore_partition(name) for name in partitions} == partitions
    assert store.restore_service() == service
    assert store.restore_cache("m@1") == b"cache"
    assert store.restore_partition("never seen") is None
    store.close()


def test_chunks_are_replaced_and_dropped_panes_are_gone(store: SqliteStore) -> None:
    first = PartitionState("1", b"", {chunk(1): b"a", chunk(1, 1): b"b", chunk(2): b"c"})
    store.commit(Checkpoint({"p": first}))
    second = PartitionState("2", b"", {chunk(2): b"d"}, [PaneKey("m@1", "time", 1)])
    store.commit(Checkpoint({"p": second}))
    assert store.restore_partition("p") == PartitionState("2", b"", {chunk(2): b"d"})


def test_panes_and_caches_of_other_references_are_forgotten(store: SqliteStore) -> None:
    other = ChunkKey(PaneKey("m@2", "time", 1), 0)
    state = PartitionState("1", b"", {chunk(1): b"a", other: b"b"})
    store.commit(Checkpoint({"p": state}, caches={"m@1": b"old", "m@2": b"new"}))
    assert store.forget_models({"m@2"}) == 1
    restored = store.restore_partition("p")
    assert restored is not None
    assert restored.chunks == {other: b"b"}
    assert (store.restore_cache("m@1"), store.restore_cache("m@2")) == (None, b"new")


def test_results_come_in_their_newest_revision_and_in_order(store: SqliteStore) -> None:
    store.commit(Checkpoint(results=[result(1), result(0)]))
    store.commit(Checkpoint(results=[result(0, revision=1, value=0.1)]))
    rows = list(store.results({}))
    assert [list(r) for r in rows] == [list(COLUMNS)] * 6
    assert [(r["window_index"], r["revision"]) for r in rows] == [(0, 1)] * 3 + [(1, 0)] * 3
    assert [r["metric"] for r in rows[:3]] == ["jensen_shannon", "missing_values", "rows_count"]
    assert rows[0]["window_start"] == "1970-01-01T00:00:00Z"
    assert [r["value"] for r in rows[:3]] == [0.1, None, 10.0]
    assert [r["alert"] for r in rows[:3]] == [False, None, None]
    history = store.history("m", "1", "", "day", "")
    assert [(r.index, r.revision) for r in history] == [(0, 1), (1, 0)]
    assert [v.alert for v in history[1].values] == [True, None, None]


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({"metric": "jensen_shannon"}, 4), ({"metric": "jensen_shannon,rows_count"}, 8),
        ({"window": "week"}, 3), ({"since": "1970-01-03T00:00:00Z"}, 6),
        ({"until": "172800"}, 9), ({"limit": "1"}, 3), ({"feature": ""}, 4), ({"model": "x"}, 0),
    ],
)  # fmt: skip
def test_results_are_filtered(store: SqliteStore, filters: dict[str, str], count: int) -> None:
    store.commit(Checkpoint(results=[result(0), result(1), result(2), result(0, window="week")]))
    assert len(list(store.results(filters))) == count


@pytest.mark.parametrize(
    ("filters", "words"),
    [({"colour": "red"}, "there are model, version"), ({"since": "soon"}, "RFC 3339"),
     ({"limit": "-1"}, "number of windows")],
)  # fmt: skip
def test_wrong_filters_say_what_is_right(
    store: SqliteStore, filters: dict[str, str], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        store.results(filters)


def test_old_windows_and_dead_letters_make_room(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = opened(path, windows=3, letters=5)
    letters = [DeadLetter("p", f"p@{i}", "not_json", "…", b"x", b"k") for i in range(12)]
    store.commit(Checkpoint(results=[result(i) for i in range(10)], dead_letters=letters[:4]))
    store.commit(Checkpoint(dead_letters=letters[4:]))
    assert {r["window_index"] for r in store.results({})} == {7, 8, 9}
    assert [d.place for d in store.dead_letters(3)] == ["p@11", "p@10", "p@9"]
    assert len(store.dead_letters(100)) == 5
    store.close()
    store = opened(path, windows=3, letters=5)
    assert store.dead_letters_dropped == 7
    store.close()


def test_a_full_disk_keeps_the_old_state_and_the_store_usable(store: SqliteStore) -> None:
    store.commit(Checkpoint({"p": PartitionState("1", b"", {})}))
    (pages,) = store._writer.execute("PRAGMA page_count").fetchone()
    store._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
    big = PartitionState("2", b"", {chunk(i): bytes(40_000) for i in range(5)})
    with pytest.raises(StoreError, match="free the disk"):
        store.commit(Checkpoint({"p": big}))
    assert store.restore_partition("p") == PartitionState("1", b"", {})
    store._writer.execute("PRAGMA max_page_count = 100000")
    store.commit(Checkpoint({"p": big}))
    assert store.restore_partition("p") == big


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    first = opened(path)
    with pytest.raises(StoreError, match="another process uses this state"):
        opened(path)
    first.close()
    opened(path).close()


def test_a_file_that_is_no_state_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"this is a letter, not a database" * 100)
    with pytest.raises(StoreError, match=r"state\.db: file is not a database; restore a backup"):
        opened(path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    opened(path).close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = 99 WHERE key = 'format_version'")
    db.close()
    with pytest.raises(StoreError, match=f"format 99, this program reads {FORMAT_VERSION}"):
        opened(path)


def test_readers_in_other_threads_see_whole_commits(store: SqliteStore) -> None:
    seen: list[int] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            rows = list(store.results({}))
            seen.append(len(rows))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(50):
        store.commit(Checkpoint(results=[result(2 * i), result(2 * i + 1)]))
    done.set()
    reader.join()
    assert seen
    assert all(n % 6 == 0 for n in seen)


_WRITER = """
import sys
from pathlib import Path
from stream_monitor.store.base import Checkpoint, ChunkKey, PaneKey, PartitionState
from stream_monitor.store.sqlite import FORMAT_VERSION, SqliteStore
store = SqliteStore(Path(sys.argv[1]), results_retention_windows=9, max_dead_letters=9)
state = store.restore_partition("p")
n = int(state.position) if state else 0
print("ready", flush=True)
while True:
    n += 1
    data = str(n).encode() * 3000
    chunks = {ChunkKey(PaneKey("m", "time", i), 0): data for i in range(4)}
    store.commit(Checkpoint({"p": PartitionState(str(n), b"", chunks)}, str(n).encode()))
"""


def test_killed_at_any_moment_the_state_is_one_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    choose = random.Random(3)  # noqa: S311 - a seeded test, no secret
    last = 0
    for _ in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        time.sleep(choose.uniform(0.01, 0.25))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        store = opened(path)
        state, service = store.restore_partition("p"), store.restore_service()
        store.close()
        if state is None:
            continue
        number = json.loads(str(state.position))
        assert number >= last
        last = number
        assert service == str(number).encode()
        assert set(state.chunks.values()) == {str(number).encode() * 3000}
    assert last > 0


@given(
    size=st.integers(1, 4_096),
    some=st.dictionaries(st.integers(0, 4_095), st.integers(-(2**63), 2**63 - 1), max_size=60),
    filled=st.integers(0, 4_096),
)
def test_chunks_of_counts_are_read_back_as_they_were(
    size: int, some: dict[int, int], filled: int
) -> None:
    counts = np.zeros(4_096, dtype=np.int64)
    counts[:filled] = np.arange(filled) % 7
    for place, value in some.items():
        counts[place] = value
    partition = Partition("p")
    key = PaneKey("m", "time", 1)
    partition.add(key, counts[:size], 0, 1)
    state = partition.checkpoint()
    restored = Partition.restored("p", state, {"m": Shape(size, {})})
    assert np.array_equal(restored.panes[key].counts, counts[:size])
    if filled == 0 and len(some) < size // 16:
        assert sum(map(len, state.chunks.values())) < 8 * size
