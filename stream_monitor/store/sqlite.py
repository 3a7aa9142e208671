"""Durable state in one SQLite file; a commit is one transaction.

Write-ahead log with ``synchronous=FULL``: a commit that returned survives ``kill -9`` and a power
cut. A lock file beside it keeps a second process out. Readers (the HTTP threads) have connections
of their own and see the last commit.
"""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from stream_monitor.decode import timestamps
from stream_monitor.errors import StoreError
from stream_monitor.store.base import Checkpoint, ChunkKey, DeadLetter, PaneKey, PartitionState
from stream_monitor.values import WindowResult, rows_of

FORMAT_VERSION = 2
HISTORY = 60
_REVISIONS = 10  # of a window that are kept, the newest ones
_EQUAL = ("model", "version", "segment", "window", "maturity", "feature", "family", "metric")
_OTHER = ("since", "until", "limit")

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE partitions (name TEXT PRIMARY KEY, position TEXT, meta BLOB) WITHOUT ROWID;
CREATE TABLE chunks (
    partition TEXT, model TEXT, clock TEXT, pane INTEGER, chunk INTEGER, data BLOB,
    PRIMARY KEY (partition, model, clock, pane, chunk)
) WITHOUT ROWID;
CREATE TABLE results (
    model TEXT, version TEXT, segment TEXT, window TEXT, maturity TEXT, number INTEGER,
    revision INTEGER, ends INTEGER, data BLOB,
    PRIMARY KEY (model, version, segment, window, maturity, number, revision)
) WITHOUT ROWID;
CREATE TABLE dead_letters (id INTEGER PRIMARY KEY AUTOINCREMENT, data BLOB);
"""

_NEWEST = """
SELECT data FROM results AS r WHERE revision = (
    SELECT max(revision) FROM results AS n
    WHERE (n.model, n.version, n.segment, n.window, n.maturity, n.number)
    = (r.model, r.version, r.segment, r.window, r.maturity, r.number))
"""


class SqliteStore:
    """State in a file, or in memory where ``path`` is None."""

    def __init__(
        self, path: Path | None, *, results_retention_windows: int, max_dead_letters: int
    ) -> None:
        self._path = path
        self._retention = results_retention_windows
        self._max_dead_letters = max_dead_letters
        self._lock: IO[bytes] | None = None
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._writing = threading.Lock()
        if path is not None:
            self._lock = locked(path)
        self._writer = self._connect()
        try:
            with self._errors():
                self._prepare()
            dropped = self._meta("dead_letters_dropped")
        except StoreError:
            self.close()
            raise
        self._dropped = int(str(dropped)) if dropped is not None else 0

    # --- writing --------------------------------------------------------------------------------

    def commit(self, checkpoint: Checkpoint) -> None:
        with self._errors(), self._writing, self._writer:
            db = self._writer
            db.execute("BEGIN IMMEDIATE")
            for name, state in checkpoint.partitions.items():
                db.execute(
                    "INSERT OR REPLACE INTO partitions VALUES (?, ?, ?)",
                    (name, state.position, state.meta),
                )
                db.executemany(
                    "DELETE FROM chunks WHERE partition=? AND model=? AND clock=? AND pane=?",
                    [(name, *key) for key in state.dropped],
                )
                db.executemany(
                    "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?, ?)",
                    [(name, *key.pane, key.chunk, data) for key, data in state.chunks.items()],
                )
            self._put("service", checkpoint.service)
            if checkpoint.outcomes is not None:
                self._put("outcomes", checkpoint.outcomes)
            for name, data in checkpoint.ledgers.items():
                self._put(f"ledger/{name}", data)
            for name, data in checkpoint.caches.items():
                self._put(f"cache/{name}", data)
            self._append(checkpoint.results)
            dropped = self._dropped + self._bury(checkpoint.dead_letters)
            if dropped != self._dropped:
                self._put("dead_letters_dropped", dropped)
        self._dropped = dropped

    def _append(self, results: list[WindowResult]) -> None:
        db = self._writer
        db.executemany(
            "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (*_names(r), r.index, r.revision, r.end, msgspec.msgpack.encode(r))
                for r in results
            ],
        )  # fmt: skip
        where = "(model, version, segment, window, maturity) = (?, ?, ?, ?, ?)"
        for names in set(map(_names, results)):
            (newest,) = db.execute(
                f"SELECT max(number) FROM results WHERE {where}",  # noqa: S608 - no value in it
                names,
            ).fetchone()
            db.execute(
                f"DELETE FROM results WHERE {where} AND number <= ?",  # noqa: S608
                (*names, newest - self._retention),
            )
        # labels may change a window for as long as they come
        over = [(*_names(r), r.index, r.revision - _REVISIONS) for r in results if r.revision]
        db.executemany(
            f"DELETE FROM results WHERE {where} AND number = ? AND revision <= ?",  # noqa: S608
            [row for row in over if row[-1] >= 0],
        )

    def _bury(self, letters: list[DeadLetter]) -> int:
        """Add dead letters; how many had to go for it."""
        if not letters:
            return 0
        db = self._writer
        db.executemany(
            "INSERT INTO dead_letters (data) VALUES (?)",
            [(msgspec.msgpack.encode(letter),) for letter in letters],
        )
        (newest,) = db.execute("SELECT max(id) FROM dead_letters").fetchone()
        return db.execute(
            "DELETE FROM dead_letters WHERE id <= ?", (newest - self._max_dead_letters,)
        ).rowcount

    def forget_models(self, keep: set[str], ledgers: Collection[str] = ()) -> int:
        """Delete the panes of all models and all ledgers but these; how many panes that were.

        A ledger's rows are in its model's panes already: one goes with the other.
        """
        with self._errors(), self._writing, self._writer:
            db = self._writer
            db.execute("BEGIN IMMEDIATE")
            panes = [
                row
                for row in db.execute("SELECT DISTINCT partition, model, clock, pane FROM chunks")
                if row[1] not in keep
            ]
            db.executemany(
                "DELETE FROM chunks WHERE partition=? AND model=? AND clock=? AND pane=?", panes
            )
            caches = [key for (key,) in db.execute("SELECT key FROM meta")]
            old = [k for k in caches if k.startswith("cache/") and k[len("cache/") :] not in keep]
            # a ledger's own name comes after that of its join
            found = [k for k in caches if k.startswith("ledger/")]
            old += [k for k in found if k.rpartition("/")[2] not in ledgers]
            if not ledgers:
                old.append("outcomes")
            db.executemany("DELETE FROM meta WHERE key = ?", [(key,) for key in old])
        return len(panes)

    # --- reading --------------------------------------------------------------------------------

    def restore_partition(self, partition: str) -> PartitionState | None:
        with self._errors():
            db = self._reader()
            row = db.execute(
                "SELECT position, meta FROM partitions WHERE name = ?", (partition,)
            ).fetchone()
            if row is None:
                return None
            chunks = {
                ChunkKey(PaneKey(model, clock, pane), chunk): data
                for model, clock, pane, chunk, data in db.execute(
                    "SELECT model, clock, pane, chunk, data FROM chunks WHERE partition = ?",
                    (partition,),
                )
            }
            return PartitionState(row[0], row[1], chunks)

    def restore_service(self) -> bytes | None:
        service = self._meta("service")
        return service if isinstance(service, bytes) else None

    def restore_outcomes(self) -> tuple[bytes | None, dict[str, bytes]]:
        with self._errors():
            rows = self._reader().execute("SELECT key, value FROM meta").fetchall()
        outcomes = next((value for key, value in rows if key == "outcomes"), None)
        prefix = "ledger/"
        return outcomes, {k.removeprefix(prefix): v for k, v in rows if k.startswith(prefix)}

    def restore_cache(self, name: str) -> bytes | None:
        cache = self._meta(f"cache/{name}")
        return cache if isinstance(cache, bytes) else None

    def history(
        self, model: str, version: str, segment: str, window: str, maturity: str
    ) -> list[WindowResult]:
        names = "(model, version, segment, window, maturity) = (?, ?, ?, ?, ?)"
        query = f"{_NEWEST} AND {names} ORDER BY number DESC LIMIT ?"
        with self._errors():
            chosen = (model, version, segment, window, maturity, HISTORY)
            rows = self._reader().execute(query, chosen).fetchall()
        return [_result(data) for (data,) in reversed(rows)]

    def results(self, filters: Mapping[str, str]) -> Iterator[dict[str, object]]:
        chosen = {k: set(v.split(",")) for k, v in filters.items() if k in _EQUAL}
        if unknown := sorted(filters.keys() - {*_EQUAL, *_OTHER}):
            names = ", ".join((*_EQUAL, *_OTHER))
            raise ValueError(f"unknown filter {unknown[0]!r}; there are {names}")
        clauses, values = "", []
        for name, sign in (("since", ">="), ("until", "<=")):
            if name in filters:
                clauses += f" AND ends {sign} ?"
                values.append(_time(name, filters[name]))
        order = " ORDER BY model, version, segment, window, maturity, number"
        if "limit" in filters:
            if not filters["limit"].isdecimal():
                raise ValueError(f"limit: {filters['limit']!r}: give a number of windows")
            newest = _NEWEST.replace("SELECT data FROM", "SELECT * FROM", 1) + clauses
            query = f"SELECT data FROM ({newest} ORDER BY ends DESC LIMIT ?){order}"  # noqa: S608
            values.append(int(filters["limit"]))
        else:
            query = _NEWEST + clauses + order
        return self._rows(query, values, chosen)

    def _rows(
        self, query: str, values: list[int], chosen: Mapping[str, set[str]]
    ) -> Iterator[dict[str, object]]:
        with self._errors():
            found = self._reader().execute(query, values).fetchall()
        for (data,) in found:
            for row in rows_of(_result(data)):
                if all((row[name] or "") in wanted for name, wanted in chosen.items()):
                    yield row

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        with self._errors():
            rows = self._reader().execute(
                "SELECT data FROM dead_letters ORDER BY id DESC LIMIT ?", (limit,)
            )
            return [msgspec.msgpack.decode(data, type=DeadLetter) for (data,) in rows]

    @property
    def dead_letters_dropped(self) -> int:
        return self._dropped

    def close(self) -> None:
        for connection in (*self._readers, self._writer):
            connection.close()
        if self._lock is not None:
            self._lock.close()

    # --- the file -------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        name = "file::memory:" if self._path is None else str(self._path)
        with self._errors():
            return sqlite3.connect(
                name, isolation_level=None, check_same_thread=False, timeout=10.0
            )

    def _reader(self) -> sqlite3.Connection:
        if self._path is None:
            return self._writer
        reader: sqlite3.Connection | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = self._connect()
            reader.execute("PRAGMA query_only = ON")
            self._readers.append(reader)
        return reader

    def _prepare(self) -> None:
        db = self._writer
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA journal_mode = WAL")
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        if not tables:
            db.executescript(_SCHEMA)
            self._put("format_version", FORMAT_VERSION)
            return
        version = self._meta("format_version") if "meta" in tables else None
        if version != FORMAT_VERSION:
            raise StoreError(
                f"{self._path}: state of format {version!r}, this program reads {FORMAT_VERSION}; "
                f"run the version that wrote it, or name another file in store.path"
            )

    def _put(self, key: str, value: bytes | int) -> None:
        self._writer.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _meta(self, key: str) -> object:
        with self._errors():
            row = self._reader().execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{self._path or 'memory'}: {error}; {_remedy(error)}") from error


def _names(result: WindowResult) -> tuple[str, str, str, str, str]:
    names = result.model, result.version, result.segment, result.window
    return *names, result.maturity


def _remedy(error: sqlite3.DatabaseError) -> str:
    text = str(error)
    if "full" in text:
        return "free the disk; nothing of this commit took effect, it is tried again"
    if "readonly" in text or "unable to open" in text:
        return "give the service write access to the file and its folder"
    if "not a database" in text or "malformed" in text:
        return "restore a backup, or remove the file to begin anew"
    return "check the disk and the file"


def locked(path: Path) -> IO[bytes]:
    """Keep other processes from using a state; closed, it is let go."""
    try:
        lock = path.with_name(path.name + ".lock").open("wb")
    except OSError as error:
        raise StoreError(f"{path}: {error}; make the folder of store.path writable") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise StoreError(
            f"{path}: another process uses this state; stop it, or name another file in store.path"
        ) from None
    return lock


def _result(data: bytes) -> WindowResult:
    return msgspec.msgpack.decode(data, type=WindowResult)


def _time(name: str, text: str) -> int:
    try:
        time = timestamps.of_number(float(text))
    except ValueError:
        time = timestamps.of_text(text)
    if time is None:
        raise ValueError(f"{name}: {text!r}: give RFC 3339 or epoch seconds")
    return time
