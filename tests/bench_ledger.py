"""What it costs to keep predictions and labels: the ledger, SQLite by key, RocksDB.

    python -m tests.bench_ledger [--rows 10000000] [--folder DIR] [ledger sqlite rocksdb]

Predictions of 46 bytes come in batches of 2,000 and commits of 20,000; each key is looked for
before it is stored, as the join does. Then labels of 40 bytes come for all of them, in another
order: each is looked for among the labels, stored, and its prediction found. Every store commits
durably (fsync). What is random about a key is its position: keys are SplitMix64 of a counter.

``% core`` is the processor time of store calls per 20,000 rows, in percent of a second; for
RocksDB that of its own threads too. ``pause`` is the longest and the median commit. ``anon`` is the
greatest RssAnon beyond that of the process before the store was opened. ``written`` is what went to
the disk, per byte of the rows.

SQLite cannot be filled by key in reasonable time, so all but the last 200,000 rows of each kind are
put in beforehand, in the order of their keys, which is what a B-tree is best at.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np

from stream_monitor.hashing import splitmix64
from stream_monitor.labels.ledger import Ledger
from stream_monitor.labels.rows import LABEL, Rows, keys_of, prediction_dtype
from stream_monitor.schema import IntArray
from stream_monitor.store.base import Checkpoint
from stream_monitor.store.sqlite import SqliteStore

P = ParamSpec("P")
T = TypeVar("T")

PREDICTION = prediction_dtype(1, classes=True, sets=1, carried=0, rows=False)
DTYPES = {"predictions": PREDICTION, "labels": LABEL}
BATCH, COMMIT = 2_000, 20_000
SQLITE_ROWS = 200_000
STRIDE = 7_368_787  # a prime: label i is of prediction i · STRIDE mod rows


def made(kind: str, numbers: IntArray, start: int) -> Rows:
    """Rows of these predictions, or of their labels, that come as ``start``-th and following."""
    rows = np.zeros(len(numbers), dtype=DTYPES[kind])
    rows["high"] = splitmix64(numbers.astype(np.uint64))
    rows["low"] = splitmix64(rows["high"])
    rows["time"] = numbers * 50
    rows["origin"] = np.arange(start, start + len(rows))
    return rows


class Store(Protocol):
    """What is compared."""

    def fill(self, kind: str, rows: Rows) -> None:
        """Rows that are there before the measurement, sorted by key."""

    def find(self, kind: str, rows: Rows) -> int:
        """How many of the rows' keys are there; what is found is read."""

    def add(self, kind: str, rows: Rows) -> None: ...

    def commit(self) -> None: ...


class OfLedger:
    def __init__(self, folder: Path) -> None:
        self._store = SqliteStore(
            folder / "state.db", results_retention_windows=1, max_dead_letters=1
        )
        place = folder / "ledgers"
        self._ledgers = {
            "predictions": Ledger("predictions", PREDICTION, keep="first", folder=place),
            "labels": Ledger("labels", LABEL, keep="last", folder=place),
        }

    def fill(self, kind: str, rows: Rows) -> None:
        self.add(kind, rows)

    def find(self, kind: str, rows: Rows) -> int:
        return len(self._ledgers[kind].find(keys_of(rows))[0])

    def add(self, kind: str, rows: Rows) -> None:
        self._ledgers[kind].add(rows)

    def commit(self) -> None:
        manifests = {kind: ledger.prepare() for kind, ledger in self._ledgers.items()}
        self._store.commit(Checkpoint(ledgers=manifests))
        for ledger in self._ledgers.values():
            ledger.committed()


class OfSqlite:
    def __init__(self, folder: Path) -> None:
        self._db = sqlite3.connect(folder / "rows.db", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA cache_size = -16384")
        for kind in DTYPES:
            self._db.execute(f"CREATE TABLE {kind} (key BLOB PRIMARY KEY, row BLOB) WITHOUT ROWID")
        self._db.execute("BEGIN IMMEDIATE")

    def fill(self, kind: str, rows: Rows) -> None:
        self.add(kind, rows)

    def find(self, kind: str, rows: Rows) -> int:
        query = f"SELECT row FROM {kind} WHERE key = ?"  # noqa: S608 - a constant
        found = [self._db.execute(query, (key,)).fetchone() for key, _ in _pairs(rows)]
        return sum(row is not None for row in found)

    def add(self, kind: str, rows: Rows) -> None:
        query = f"INSERT OR REPLACE INTO {kind} VALUES (?, ?)"  # noqa: S608 - a constant
        self._db.executemany(query, _pairs(rows))

    def commit(self) -> None:
        self._db.execute("COMMIT")
        self._db.execute("BEGIN IMMEDIATE")


class OfRocks:
    def __init__(self, folder: Path) -> None:
        rocks: Any = importlib.import_module("rocksdict")
        self._rocks = rocks
        options = rocks.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(8 << 20)
        options.set_compression_type(rocks.DBCompressionType.none())
        table = rocks.BlockBasedOptions()
        table.set_bloom_filter(12, False)
        table.set_block_cache(rocks.Cache(8 << 20))
        options.set_block_based_table_factory(table)
        self._stores = {kind: rocks.Rdict(str(folder / kind), options) for kind in DTYPES}
        self._batches = {kind: rocks.WriteBatch(raw_mode=True) for kind in DTYPES}
        self._durable = rocks.WriteOptions()
        self._durable.sync = True

    def fill(self, kind: str, rows: Rows) -> None:
        self.add(kind, rows)

    def find(self, kind: str, rows: Rows) -> int:
        found = self._stores[kind].get([key for key, _ in _pairs(rows)])
        return sum(row is not None for row in found)

    def add(self, kind: str, rows: Rows) -> None:
        put = self._batches[kind].put
        for key, row in _pairs(rows):
            put(key, row)

    def commit(self) -> None:
        for kind, batch in self._batches.items():
            if len(batch):
                self._stores[kind].write(batch, self._durable)
                self._batches[kind] = self._rocks.WriteBatch(raw_mode=True)


STORES: dict[str, Callable[[Path], Store]] = {
    "ledger": OfLedger,
    "sqlite": OfSqlite,
    "rocksdb": OfRocks,
}


def _pairs(rows: Rows) -> list[tuple[bytes, bytes]]:
    """Key, big-endian so that bytes sort as numbers do, and what is left of each row."""
    keys = keys_of(rows).astype(">u8").view("V16").ravel().tolist()
    width = rows.dtype.itemsize
    rest = np.ascontiguousarray(rows.view(np.uint8).reshape(-1, width)[:, 16:])
    return list(zip(keys, rest.view(f"V{width - 16}").ravel().tolist(), strict=True))


def _status(file: str, name: str) -> int:
    (line,) = [x for x in Path(f"/proc/self/{file}").read_text().splitlines() if x.startswith(name)]
    return int(line.split()[1])


class Meter:
    """Time of store calls, memory and what is written."""

    def __init__(self, folder: Path, base: int) -> None:
        self._folder, self._base = folder, base
        self.reset()

    def reset(self) -> None:
        self.wall = self.processor = 0.0
        self.pauses: list[float] = []
        self.anonymous = 0
        self._written = _status("io", "write_bytes:")

    def run(self, call: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
        start, processor = time.perf_counter(), time.process_time()
        result = call(*args, **named)
        self.wall += time.perf_counter() - start
        self.processor += time.process_time() - processor
        return result

    def commit(self, store: Store) -> None:
        before = self.wall
        self.run(store.commit)
        self.pauses.append(self.wall - before)
        self.anonymous = max(self.anonymous, _status("status", "RssAnon:") * 1024 - self._base)

    def row(self, what: str, rows: int, width: int) -> str:
        disk = sum(p.stat().st_size for p in self._folder.rglob("*") if p.is_file())
        written = _status("io", "write_bytes:") - self._written
        return (
            f"{what:<26}{rows / self.wall:>10,.0f}{self.processor / rows * 2e6:>8.1f}"
            f"{max(self.pauses) * 1e3:>8.0f}{np.median(self.pauses) * 1e3:>7.0f}"
            f"{disk / 1e6:>8,.0f}{self.anonymous / 1e6:>7,.0f}{written / rows / width:>9.1f}"
        )


def measure(name: str, total: int, folder: Path) -> None:
    """One store, in this process; prints its lines of the table."""
    base = _status("status", "RssAnon:") * 1024
    store = STORES[name](folder)
    meter = Meter(folder, base)
    filled = max(total - SQLITE_ROWS, 0) if name == "sqlite" else 0
    if filled:
        fill(store, "predictions", np.arange(filled))
    meter.reset()
    for commit in range(filled, total, COMMIT):
        for start in range(commit, min(commit + COMMIT, total), BATCH):
            numbers = np.arange(start, min(start + BATCH, total))
            rows = made("predictions", numbers, start)
            known = meter.run(store.find, "predictions", rows)
            assert known == 0, known
            meter.run(store.add, "predictions", rows)
        meter.commit(store)
    print(meter.row(f"{name}: predictions", total - filled, PREDICTION.itemsize), flush=True)
    if filled:
        fill(store, "labels", np.arange(filled) * STRIDE % total)
    meter.reset()
    for commit in range(filled, total, COMMIT):
        for start in range(commit, min(commit + COMMIT, total), BATCH):
            numbers = np.arange(start, min(start + BATCH, total)) * STRIDE % total
            rows = made("labels", numbers, start)
            known = meter.run(store.find, "labels", rows)
            assert known == 0, known
            meter.run(store.add, "labels", rows)
            found = meter.run(store.find, "predictions", rows)
            assert found == len(rows), (found, len(rows))
        meter.commit(store)
    print(meter.row(f"{name}: labels, joined", total - filled, LABEL.itemsize), flush=True)
    for what, shift in (("keys that are there", 0), ("foreign keys", total)):
        meter.reset()
        rng = np.random.default_rng(1)
        asked = 0
        while meter.wall < 3:
            rows = made("labels", shift + rng.integers(0, total, BATCH), 0)
            found = meter.run(store.find, "predictions", rows)
            assert found == (0 if shift else BATCH)
            asked += BATCH
        print(f"{name}: {what:<25}{asked / meter.wall:>10,.0f} lookups/s", flush=True)


def fill(store: Store, kind: str, numbers: IntArray) -> None:
    """Many rows in the order of their keys."""
    numbers = numbers[np.argsort(splitmix64(numbers.astype(np.uint64)))]
    for start in range(0, len(numbers), 100_000):
        store.fill(kind, made(kind, numbers[start : start + 100_000], start))
        store.commit()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench_ledger")
    parser.add_argument("stores", nargs="*", default=list(STORES), metavar="|".join(STORES))
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside is not None:
        measure(given.stores[0], given.rows, given.inside)
        return 0
    print(f"{given.rows:,} predictions and labels; {os.cpu_count()} cores")
    print(
        f"{'':<26}{'rows/s':>10}{'% core':>8}{'pause':>8}{'(ms)':>7}{'disk MB':>8}{'anon':>7}"
        f"{'written':>9}"
    )
    for name in given.stores:
        if name == "rocksdb" and importlib.util.find_spec("rocksdict") is None:
            print("rocksdb: not measured, the package rocksdict is not installed")
            continue
        # each in a process of its own, so that memory is its own
        with TemporaryDirectory(dir=given.folder) as folder:
            options = [name, "--rows", str(given.rows), "--inside", folder]
            subprocess.run([sys.executable, "-m", "tests.bench_ledger", *options], check=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
