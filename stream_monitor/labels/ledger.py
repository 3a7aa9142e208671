"""The ledger: rows by 128-bit key, millions of them on disk, few bytes of each in memory.

A log-structured merge of sorted, immutable :mod:`runs <stream_monitor.labels.runs>` (O'Neil et al.
1996, "The log-structured merge-tree"): what is added becomes a run in memory, ``prepare`` writes
these as one run into a file, and the newest runs are merged where four of a size have gathered (so
a row is written about three times), until they have 500,000 rows. Keys are hashes, so a B-tree
would write a page a row instead.

The state at a commit is the list of files that the *manifest* names; it is the checkpoint that
keeps the manifest, and files are deleted only after it. So a crash leaves, at worst, files that no
manifest names.

A key's row in the newest run that has it is its winner: ``add`` leaves out rows that lose against
what is there. A winner below the floor is as good as gone, and what it won against is gone for
good: whatever has been merged or dropped, ``find`` gives the same.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stream_monitor.errors import StoreError
from stream_monitor.labels.rows import Keys, Rows, before, keys_of, winners
from stream_monitor.labels.runs import (
    FORMAT_VERSION,
    Run,
    Sought,
    build,
    described,
    joined,
    merged,
    opened,
)
from stream_monitor.schema import IntArray

NO_FLOOR = -(2**63)
_FULL = 2**19  # rows; such runs are merged no more
_GATHER = 4  # runs of a size that are merged


class Ledger:
    """Rows by key; of rows with the same key one wins.

    Parameters
    ----------
    name
        Of its files: letters, digits, ``.``, ``_`` and ``-``.
    dtype
        Of the rows; begins with the fields of :mod:`stream_monitor.labels.rows`: ``high``,
        ``low``, ``time`` (microseconds), ``origin``.
    keep
        Which row of a key wins: the one with the least (time, origin), or the greatest.
    folder
        Where its files are, made if it is missing; None keeps everything in memory. It belongs to
        one process at a time.
    manifest
        What :meth:`prepare` gave at the last commit; None where there was none. Files of this
        ledger that it does not name are deleted.

    Raises
    ------
    StoreError
        Where a file that the manifest names is missing or damaged, or has rows of another dtype.
    """

    def __init__(
        self,
        name: str,
        dtype: np.dtype[Any],
        *,
        keep: Literal["first", "last"],
        folder: Path | None = None,
        manifest: bytes | None = None,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            raise ValueError(f"ledger {name!r}: a name has letters, digits, '.', '_' and '-' only")
        if folder is None and manifest:
            raise ValueError(f"ledger {name!r}: rows of an earlier run need their folder")
        self.name = name
        self._dtype = np.dtype(dtype)
        self._last = keep == "last"
        self._folder = folder
        self._floor = NO_FLOOR
        self._full = _FULL
        self._runs: list[Run] = []  # the oldest first; those in memory after those in files
        self._files: dict[Path, int] = {}  # every file that there is, with its size
        self._named: set[Path] = set()  # those that the last manifest names
        self._next = 1
        if folder is not None:
            if manifest:
                self._restore(folder, manifest)
            self._clear(folder)

    # --- rows -----------------------------------------------------------------------------------

    def find(self, keys: Keys) -> tuple[IntArray, Rows]:
        """The winners of those keys that are there; never a row below the floor.

        Parameters
        ----------
        keys : uint64[n, 2]
            ``high`` and ``low``; a key may be there several times.

        Returns
        -------
        int64[m], rising: places in ``keys``; and rows[m], the winner of each.
        """
        at, rows = self._newest(
            Sought.of(np.ascontiguousarray(keys[:, 0]), np.ascontiguousarray(keys[:, 1]))
        )
        valid = rows["time"] >= self._floor
        if not valid.all():
            at, rows = at[valid], rows.compress(valid)
        return at, rows

    def _newest(self, sought: Sought) -> tuple[IntArray, Rows]:
        """What the newest run that has it says about each key, below the floor or not."""
        places, chosen = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=self._dtype)]
        for run in reversed(self._runs):
            which, rows = run.find(sought)
            if len(which):
                places.append(sought.at[which])
                chosen.append(rows)
                sought = sought.without(which)
                if not len(sought.at):
                    break
        at = np.concatenate(places)
        order = np.argsort(at)
        return at[order], joined(chosen).take(order)

    def add(self, rows: Rows) -> None:
        """Add rows, in any order; the winner of each key is found from then on.

        Rows below the floor, and such as lose against what is there, are not stored.
        """
        if self._floor > NO_FLOOR:
            rows = rows.compress(rows["time"] >= self._floor)
        rows = rows.take(winners(rows, last=self._last))
        at, stored = self.find(keys_of(rows))
        shadows = NO_FLOOR
        if len(at):
            known = rows.take(at)
            better = before(stored, known) if self._last else before(known, stored)
            shadows = int(stored["time"].max(where=better, initial=NO_FLOOR))
            wanted = np.ones(len(rows), dtype=np.bool_)
            wanted[at[~better]] = False
            rows = rows.compress(wanted)
        run = build([rows], len(rows), self._dtype, shadows, None)
        if run is None:
            return
        self._runs.append(run)
        files = self._in_files()
        start = files + self._due([run.rows for run in self._runs[files:]])
        if len(self._runs) - start > 1:
            self._runs[start:] = self._merge(self._runs[start:], None)

    def raise_floor(self, floor: int) -> None:
        """Rows with a lesser time are never found again.

        Their space is freed in time: that of whole runs at once, that of others as they are merged.
        """
        if floor > self._floor:
            self._floor = floor
            self._runs = [run for run in self._runs if run.until >= floor]

    def evict(self, most: int) -> int:
        """Drop the oldest runs while more than ``most`` rows are held; how many rows went.

        The floor rises to what is left. Runs are kept to an eighth of ``most``, but what was added
        at once, or before the bound was known, goes at once.
        """
        self._full = max(min(_FULL, most // 8), 1)
        held = self.rows
        while self.rows > most:
            self.raise_floor(min(run.until for run in self._runs) + 1)
        return held - self.rows

    # --- files ----------------------------------------------------------------------------------

    def prepare(self) -> bytes:
        """Write what is only in memory, merge what is due; the manifest for the commit.

        Where this or the commit fails nothing is lost: it is called again later.

        Returns
        -------
        JSON; ``b""`` in memory.

        Raises
        ------
        StoreError
            Where files cannot be read or written.
        """
        if self._folder is None:
            return b""
        files = self._in_files()
        new = self._runs[files:]
        if new:
            sizes = [run.rows for run in self._runs[:files]]
            start = min(self._due([*sizes, sum(run.rows for run in new)]), files)
            path = self._folder / f"{self.name}-{self._next:06}.run"
            written = self._merge(self._runs[start:], path)
            _sync(self._folder)
            self._runs[start:] = written
            self._next += 1
        named = {run.source: run for run in self._runs if isinstance(run.source, Path)}
        self._files |= {path: run.bytes for path, run in named.items()}
        self._named = set(named)
        manifest = {
            "format": FORMAT_VERSION,
            "rows": described(self._dtype),
            "floor": self._floor,
            "next": self._next,
            "files": [[path.name, run.bytes, run.check] for path, run in named.items()],
        }
        return json.dumps(manifest).encode()

    def committed(self) -> None:
        """The last manifest is durable: delete files that it does not name."""
        for path in self._files.keys() - self._named:
            with _writing(path):
                path.unlink(missing_ok=True)
            del self._files[path]

    def _in_files(self) -> int:
        return sum(isinstance(run.source, Path) for run in self._runs)

    def _merge(self, runs: Sequence[Run], path: Path | None) -> list[Run]:
        most = sum(run.rows for run in runs)
        shadows = max(run.shadows for run in runs)
        run = build(merged(runs, self._floor), most, self._dtype, shadows, path)
        return [] if run is None else [run]

    def _due(self, sizes: list[int]) -> int:
        """Where the newest runs begin that are to be merged, the oldest first; the end if none.

        A run's size is its power of four. The newest runs that are no greater than the last one
        are merged when there are four of them, or enough for a full run; what comes out may be the
        fourth of its size.
        """
        sizes = sizes.copy()
        start = len(sizes)
        while sizes:
            limit = 4 ** (_power_of_four(sizes[-1]) + 1)
            group = 0
            while group < len(sizes) and sizes[-1 - group] < min(limit, self._full):
                group += 1
            total = sum(sizes[len(sizes) - group :])
            if group < 2 or (group < _GATHER and total < self._full):
                break
            start = len(sizes) - group
            sizes[start:] = [total]
        return start

    def _restore(self, folder: Path, manifest: bytes) -> None:
        kept = json.loads(manifest)
        place = f"{folder / self.name}"
        if kept["format"] != FORMAT_VERSION:
            raise StoreError(
                f"{place}: files of format {kept['format']!r}, this program reads {FORMAT_VERSION};"
                f" run the version that wrote them, or remove the store to begin anew"
            )
        if kept["rows"] != described(self._dtype):
            raise StoreError(
                f"{place}: its rows are {kept['rows']}, those of this configuration "
                f"{described(self._dtype)}; run with the configuration that wrote them, or remove "
                f"the store to begin anew"
            )
        self._floor, self._next = kept["floor"], kept["next"]
        for name, size, check in kept["files"]:
            run = opened(folder / name, self._dtype, size, check)
            self._runs.append(run)
            self._files[folder / name] = size
        self._named = set(self._files)

    def _clear(self, folder: Path) -> None:
        """Delete what a crash has left over; make the folder."""
        own = re.compile(re.escape(self.name) + r"-\d{6,}\.run")
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                if own.fullmatch(path.name) and path not in self._files:
                    path.unlink()

    # --- sizes ----------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Rows held, with such as have lost or are below the floor until they are merged away."""
        return sum(run.rows for run in self._runs)

    @property
    def bytes(self) -> int:
        """Bytes on disk."""
        return sum(self._files.values())

    @property
    def memory(self) -> int:
        """Bytes held in memory: filters, fences, and rows that no file has yet."""
        return sum(run.memory for run in self._runs)

    @property
    def floor(self) -> int:
        """Rows with a lesser time are not found; at first -2**63."""
        return self._floor


def _power_of_four(rows: int) -> int:
    return (rows.bit_length() - 1) // 2


def _sync(folder: Path) -> None:
    """Make new names in a folder durable."""
    with _writing(folder):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {error}; give the service write access to the folder") from error
