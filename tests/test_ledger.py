"""The ledger against a dictionary: whatever is merged, dropped, killed or damaged in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_monitor.errors import StoreError
from stream_monitor.labels import ledger as ledger_module
from stream_monitor.labels import runs as runs_module
from stream_monitor.labels.ledger import NO_FLOOR, Ledger
from stream_monitor.labels.rows import LABEL, Rows, keys_of

MOST = 2**64 - 1
# few, so that they meet; of some `high` is the same, and the ends of the range are among them
KEYS = [(0, 0), (0, MOST), (5, 1), (5, 2), (5, 3), (5, 4), (2**63, 0), (MOST, 0), (MOST, MOST)]
Keep = Literal["first", "last"]
Found = dict[tuple[int, int], tuple[Any, ...]]


def rows_of(found: list[tuple[int, int, int, int, int]]) -> Rows:
    return np.array(found, dtype=LABEL)


def random_rows(rng: np.random.Generator, count: int, keys: int = 2**64 - 1) -> Rows:
    rows = np.zeros(count, dtype=LABEL)
    rows["high"] = rng.integers(0, keys, count, dtype=np.uint64, endpoint=True)
    rows["low"] = rows["high"] * np.uint64(3)
    rows["time"] = rng.integers(0, 10**12, count)
    rows["origin"] = rng.integers(0, 2**64, count, dtype=np.uint64)
    rows["value"] = rng.integers(0, 2**64, count, dtype=np.uint64)
    return rows


class Dictionary:
    """The oracle: one row a key; a floor deletes what lies below it."""

    def __init__(self, keep: Keep) -> None:
        self.keep = keep
        self.rows: Found = {}
        self.floor = NO_FLOOR

    def copy(self) -> Dictionary:
        other = Dictionary(self.keep)
        other.rows, other.floor = dict(self.rows), self.floor
        return other

    def add(self, rows: Rows) -> None:
        for row in map(tuple, rows.tolist()):
            if row[2] < self.floor:
                continue
            known = self.rows.get(row[:2])
            wins = known is None or (
                row[2:4] < known[2:4] if self.keep == "first" else row[2:4] > known[2:4]
            )
            if wins:
                self.rows[row[:2]] = row

    def raise_floor(self, floor: int) -> None:
        self.floor = max(self.floor, floor)
        self.rows = {key: row for key, row in self.rows.items() if row[2] >= self.floor}


def check(ledger: Ledger, oracle: Dictionary, asked: list[tuple[int, int]]) -> None:
    keys = np.array(asked, dtype=np.uint64).reshape(-1, 2)
    at, rows = ledger.find(keys)
    expected = [(i, oracle.rows[key]) for i, key in enumerate(asked) if key in oracle.rows]
    assert at.dtype == np.int64
    assert rows.dtype == ledger._dtype
    assert list(zip(at.tolist(), map(tuple, rows.tolist()), strict=True)) == expected


row = st.builds(
    lambda key, time, origin: (*key, time, origin, (time * 7 + origin * 3 + key[1]) % 2**64),
    st.sampled_from(KEYS),
    st.integers(0, 30),
    st.integers(0, 3),
)
operation = st.one_of(
    st.tuples(st.just("add"), st.lists(row, max_size=12)),
    st.tuples(st.just("floor"), st.integers(0, 30)),
    st.tuples(st.just("evict"), st.integers(0, 40)),
    st.tuples(st.just("prepare"), st.none()),
    st.tuples(st.just("commit"), st.none()),
    st.tuples(st.just("crash"), st.none()),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["first", "last"]), st.booleans(), st.lists(operation, max_size=40))
def test_any_sequence_of_operations_and_crashes_gives_what_a_dictionary_gives(
    keep: Keep, disk: bool, operations: list[tuple[str, Any]]
) -> None:
    with TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        # small, so that few rows make many blocks, slices and full runs
        patch.setattr(runs_module, "_STEP", 2)
        patch.setattr(runs_module, "_SLICE", 3)
        patch.setattr(ledger_module, "_FULL", 8)
        folder = Path(place) if disk else None
        ledger, oracle = Ledger("some", LABEL, keep=keep, folder=folder), Dictionary(keep)
        manifest, durable = None, oracle.copy()
        for what, value in operations:
            if what == "add":
                ledger.add(rows_of(value))
                oracle.add(rows_of(value))
            elif what == "floor":
                ledger.raise_floor(value)
                oracle.raise_floor(value)
            elif what == "evict":
                held, went = ledger.rows, ledger.evict(value)
                assert ledger.rows == held - went <= value
                oracle.raise_floor(ledger.floor)
            elif what == "prepare":
                ledger.prepare()  # its commit fails
            elif what == "commit":
                manifest, durable = ledger.prepare(), oracle.copy()
                ledger.committed()
            elif folder is not None:
                ledger = Ledger("some", LABEL, keep=keep, folder=folder, manifest=manifest)
                oracle = durable.copy()
            check(ledger, oracle, [*KEYS, (5, 9), (7, 7), *KEYS])
            assert ledger.floor == oracle.floor
            assert ledger.rows >= len(oracle.rows)


@pytest.mark.parametrize("keep", ["first", "last"])
def test_hundreds_of_thousands_of_rows_give_what_a_dictionary_gives(
    tmp_path: Path, keep: Keep
) -> None:
    rng = np.random.default_rng(4)
    ledger, oracle = Ledger("many", LABEL, keep=keep, folder=tmp_path), Dictionary(keep)
    manifest = None
    for commit in range(25):
        # keys that come again within ten thousands of others
        rows = random_rows(rng, 6_000, 200_000)
        rows["time"] += commit * 10**11
        for part in np.array_split(rows, 3):
            ledger.add(part)
        oracle.add(rows)
        if commit % 5 == 4:
            ledger.raise_floor((commit - 8) * 10**11)
            oracle.raise_floor((commit - 8) * 10**11)
        manifest = ledger.prepare()
        ledger.committed()
    asked = [(h, h * 3 % 2**64) for h in rng.integers(0, 220_000, 30_000).tolist()]
    check(ledger, oracle, asked)
    check(Ledger("many", LABEL, keep=keep, folder=tmp_path, manifest=manifest), oracle, asked)


@pytest.mark.parametrize("floor", [60, 100])
def test_what_lost_does_not_come_back_when_its_winner_expires(tmp_path: Path, floor: int) -> None:
    ledger = Ledger("some", LABEL, keep="first", folder=tmp_path)
    key = np.array([[1, 2]], dtype=np.uint64)
    ledger.add(rows_of([(1, 2, 100, 0, 7)]))
    ledger.prepare()
    ledger.add(rows_of([(1, 2, 50, 0, 8)]))
    ledger.raise_floor(floor)
    manifest = ledger.prepare()
    ledger.committed()
    assert not len(ledger.find(key)[0])
    again = Ledger("some", LABEL, keep="first", folder=tmp_path, manifest=manifest)
    assert not len(again.find(key)[0])
    again.add(rows_of([(1, 2, 150, 0, 9)]))  # a new one, after the old was forgotten
    again.raise_floor(101)
    assert again.find(key)[1]["value"].tolist() == [9]


def test_what_is_below_the_floor_when_it_comes_is_not_stored() -> None:
    ledger = Ledger("some", LABEL, keep="last")
    ledger.raise_floor(10)
    ledger.raise_floor(5)
    ledger.add(rows_of([(1, 1, 9, 0, 0), (2, 2, 10, 0, 0)]))
    assert (ledger.floor, ledger.rows) == (10, 1)


def test_an_empty_ledger_finds_nothing_and_commits(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "deep" / "er"):
        ledger = Ledger("some", LABEL, keep="last", folder=folder)
        ledger.add(rows_of([]))
        at, rows = ledger.find(np.array([[1, 2]], dtype=np.uint64))
        assert (len(at), len(rows), rows.dtype) == (0, 0, LABEL)
        assert len(ledger.find(np.empty((0, 2), dtype=np.uint64))[0]) == 0
        manifest = ledger.prepare()
        ledger.committed()
        assert ledger.evict(0) == 0
        assert (ledger.rows, ledger.bytes, ledger.memory) == (0, 0, 0)
        again = Ledger("some", LABEL, keep="last", folder=folder, manifest=manifest)
        assert again.rows == 0


def test_rows_that_share_half_their_key_with_thousands_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    ledger = Ledger("some", LABEL, keep="last", folder=tmp_path)
    rows = random_rows(rng, 3_000)
    rows["high"], rows["low"] = MOST, np.arange(3_000) * 2
    for part in np.array_split(rows, 10):
        ledger.add(part)
        ledger.prepare()
    asked = np.stack([np.full(6_000, MOST, np.uint64), np.arange(6_000, dtype=np.uint64)], axis=1)
    at, found = ledger.find(asked)
    assert at.tolist() == list(range(0, 6_000, 2))
    assert (found == rows).all()


def test_runs_stay_few_and_bounded_and_each_row_is_written_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_FULL", 2_000)
    rng = np.random.default_rng(2)
    ledger = Ledger("some", LABEL, keep="first", folder=tmp_path)
    total = written = 0
    known: set[str] = set()
    for _ in range(600):
        count = int(rng.choice([1, 10, 50, 100, 300]))
        ledger.add(random_rows(rng, count))
        files = json.loads(ledger.prepare())["files"]
        ledger.committed()
        total += count
        written += sum(size for name, size, _ in files if name not in known)
        known = {name for name, _, _ in files}
        sizes = [size // LABEL.itemsize for _, size, _ in files]
        assert max(sizes) < 2 * 2_000 * 1.1
        assert len(files) <= total // 2_000 + 3 * 7
        assert ledger.bytes == sum(size for _, size, _ in files)
        assert sorted(known) == sorted(path.name for path in tmp_path.iterdir())
    assert ledger.rows == total
    assert written < 8 * total * LABEL.itemsize


def test_expired_runs_go_whole_and_their_files_with_the_commit(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    ledger = Ledger("some", LABEL, keep="first", folder=tmp_path)
    ledger.evict(8_000)  # full runs of a thousand rows
    for day in range(8):
        rows = random_rows(rng, 1_000)
        rows["time"] = day * 1_000 + np.arange(1_000)
        ledger.add(rows)
        ledger.prepare()
        ledger.committed()
    assert len(list(tmp_path.iterdir())) == 8
    ledger.raise_floor(2_500)
    assert ledger.rows == 6_000
    assert len(list(tmp_path.iterdir())) == 8  # the durable manifest still names them
    ledger.prepare()
    assert len(list(tmp_path.iterdir())) == 8
    ledger.committed()
    assert len(list(tmp_path.iterdir())) == 6
    assert ledger.evict(4_500) == 2_000
    assert (ledger.rows, ledger.floor) == (4_000, 4_000)


def test_memory_and_disk_hold_few_bytes_a_row_beside_the_rows(tmp_path: Path) -> None:
    ledger = Ledger("some", LABEL, keep="first", folder=tmp_path)
    ledger.add(random_rows(np.random.default_rng(5), 100_000))
    assert ledger.memory > 100_000 * LABEL.itemsize
    ledger.prepare()
    assert ledger.memory < 100_000 * 1.76
    assert ledger.bytes < 100_000 * (LABEL.itemsize + 1.76)


def test_the_filter_lets_one_percent_of_foreign_keys_pass(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    rows = random_rows(rng, 100_000)
    ledger = Ledger("some", LABEL, keep="first")
    ledger.add(rows)
    (run,) = ledger._runs
    other = random_rows(rng, 200_000)
    sought = runs_module.Sought.of(other["high"].copy(), other["low"].copy())
    words = run.words[runs_module._places(sought.high, len(run.words))]
    passing = float(((words & sought.mask) == sought.mask).mean())
    assert passing == pytest.approx(0.00987, abs=0.001)
    at, found = ledger.find(keys_of(rows))
    assert at.tolist() == list(range(100_000))
    assert (found == rows).all()


def test_nothing_stays_open_or_mapped_after_a_lookup(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    ledger = Ledger("some", LABEL, keep="first", folder=tmp_path)
    for _ in range(5):
        ledger.add(random_rows(rng, 5_000))
        ledger.prepare()
    at, _ = ledger.find(keys_of(random_rows(rng, 5_000)))
    assert not len(at)
    ledger.committed()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert not [
        link
        for link in Path("/proc/self/fd").iterdir()
        if link.is_symlink() and os.path.realpath(link).startswith(str(tmp_path))
    ]


# --- crashes and damage -------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from stream_monitor.labels.ledger import Ledger
from stream_monitor.labels.rows import LABEL

folder, kept = Path(sys.argv[1]), Path(sys.argv[2])
ledger = Ledger("some", LABEL, keep="first", folder=folder)
for commit in range(8):
    rows = np.zeros(100, LABEL)
    rows["high"] = np.arange(100) * 100 + commit
    ledger.add(rows)
    manifest = ledger.prepare()
    if commit == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    kept.write_bytes(manifest)
    ledger.committed()
"""


def test_killed_between_prepare_and_commit_it_is_as_it_was_at_the_commit(tmp_path: Path) -> None:
    folder, kept = tmp_path / "ledger", tmp_path / "manifest"
    # the eighth commit merges all runs into one; the files it replaces must still be there
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(folder), str(kept)], check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    files = len(list(folder.iterdir()))
    ledger = Ledger("some", LABEL, keep="first", folder=folder, manifest=kept.read_bytes())
    assert len(list(folder.iterdir())) == files - 1
    keys = np.zeros((10_000, 2), dtype=np.uint64)
    keys[:, 0] = np.arange(10_000)
    at, _ = ledger.find(keys)
    assert at.tolist() == [k for k in range(10_000) if k % 100 < 7]


def committed(folder: Path) -> bytes:
    ledger = Ledger("some", LABEL, keep="first", folder=folder)
    ledger.add(random_rows(np.random.default_rng(8), 1_000))
    manifest = ledger.prepare()
    ledger.committed()
    return manifest


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@pytest.mark.parametrize("damage", ["missing", "short", "header", "filter", "fences", "version"])
def test_a_damaged_file_is_named_with_a_remedy(tmp_path: Path, damage: str) -> None:
    manifest = committed(tmp_path)
    path = only(tmp_path)
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(data[:-1])
    else:
        at = {"header": 20, "filter": 64 + 40_000 + 3, "fences": len(data) - 1, "version": 8}
        data[at[damage]] ^= 0x10
        path.write_bytes(data)
    with pytest.raises(StoreError, match=rf"{path}.*begin anew"):
        Ledger("some", LABEL, keep="first", folder=tmp_path, manifest=manifest)


def test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    manifest = committed(tmp_path)
    other = np.dtype([*LABEL.descr[:-1], ("value", "<f8")])
    with pytest.raises(StoreError, match=r"some: its rows are .*<u8.*configuration .*<f8"):
        Ledger("some", other, keep="first", folder=tmp_path, manifest=manifest)


def test_a_manifest_of_another_format_is_refused(tmp_path: Path) -> None:
    manifest = json.loads(committed(tmp_path)) | {"format": 99}
    with pytest.raises(StoreError, match="format 99"):
        Ledger("some", LABEL, keep="first", folder=tmp_path, manifest=json.dumps(manifest).encode())


def test_a_file_that_vanishes_while_it_is_used_is_an_error_not_a_miss(tmp_path: Path) -> None:
    ledger = Ledger("some", LABEL, keep="first", folder=tmp_path)
    rows = random_rows(np.random.default_rng(8), 1_000)
    ledger.add(rows)
    ledger.prepare()
    path = only(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreError, match=str(path)):
        ledger.find(keys_of(rows))
    path.unlink()
    with pytest.raises(StoreError, match=str(path)):
        ledger.find(keys_of(rows))


def test_nothing_is_lost_where_a_file_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    ledger = Ledger("some", LABEL, keep="first", folder=folder)
    rows = random_rows(np.random.default_rng(9), 1_000)
    ledger.add(rows)
    folder.rmdir()
    with pytest.raises(StoreError, match="nothing of this commit took effect"):
        ledger.prepare()
    assert len(ledger.find(keys_of(rows))[0]) == 1_000
    folder.mkdir()
    manifest = ledger.prepare()
    again = Ledger("some", LABEL, keep="first", folder=folder, manifest=manifest)
    assert len(again.find(keys_of(rows))[0]) == 1_000


def test_only_a_ledger_s_own_leftovers_are_deleted(tmp_path: Path) -> None:
    manifest = committed(tmp_path)
    kept = only(tmp_path).name
    for name in ("some-000077.run", "some-2-000001.run", "other-000001.run", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    Ledger("some", LABEL, keep="first", folder=tmp_path, manifest=manifest)
    assert {path.name for path in tmp_path.iterdir()} == {
        kept, "some-2-000001.run", "other-000001.run", "notes.txt",
    }  # fmt: skip


def test_names_and_manifests_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a name has letters"):
        Ledger("a/b", LABEL, keep="first", folder=tmp_path)
    with pytest.raises(ValueError, match="need their folder"):
        Ledger("some", LABEL, keep="first", manifest=committed(tmp_path))
