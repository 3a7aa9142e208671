"""The join with millions of stored predictions: ``python -m tests.bench_join [predictions]``.

Predictions of a week arrive in commits of 20,000, then a label for each in random order. Prints
what is on the disk and in memory, and how many predictions and labels a second are joined, counted
into outcome panes and written, on one core.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from stream_monitor.decode.label_batch import label_value
from stream_monitor.labels.join import Join
from stream_monitor.labels.rows import LABEL, Rows
from stream_monitor.watch import watch
from stream_monitor.watch_outcome import watch_outcomes
from tests import worlds

WEEK = 7 * 86_400 * 1_000_000
COMMIT = 20_000


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    with tempfile.TemporaryDirectory() as folder:
        world = worlds.build(Path(folder))
        config = world.config(labels={"max_predictions": number + COMMIT})
        watched, windows = watch(config, "bench")
        outcomes = watch_outcomes(config, watched, windows, "bench", folder=Path(folder) / "rows")
        if outcomes is None:
            raise SystemExit("the configuration has no labels")
        run(outcomes.join("bench"), outcomes.joined[0].counter.dtype, number)


def run(join: Join, dtype: Any, number: int) -> None:
    random = np.random.default_rng(1)
    values = np.array([label_value("0"), label_value("1")], dtype=np.uint64)
    print(f"{number:,} predictions, then as many labels, commits of {COMMIT:,}\n")
    print("| | a second | share of a core at 20,000 a second | longest commit |")
    print("|---|---|---|---|")
    places = np.arange(number, dtype=np.int64)
    empty = anonymous()
    spent = commits(join, places, lambda part: predictions(part, dtype, number), "p")
    report("predictions", number, spent)
    random.shuffle(places)
    spent = commits(join, places, lambda part: labels(part, number, values), "l")
    report("labels", number, spent)
    stored = sum(ledger.rows for ledger in join.ledgers.values())
    disk = sum(ledger.bytes for ledger in join.ledgers.values())
    told = join.partition.counters["labels_joined"].total()
    panes = sum(pane.counts.nbytes for pane in join.partition.panes.values())
    filters = sum(ledger.memory for ledger in join.ledgers.values())
    print(
        f"\n{stored:,} rows, {told:,} joined; on disk {disk / 1e6:.0f} MB, outcome panes "
        f"{panes / 1e6:.1f} MB, filters {filters / 1e6:.0f} MB, anonymous memory of the process "
        f"{anonymous() / 1e6:.0f} MB, {(anonymous() - empty) / 1e6:.0f} MB more than at the start"
    )


def commits(join: Join, places: Any, rows_of: Any, kind: str) -> tuple[float, float]:
    """Seconds in all, and of the longest commit."""
    spent = longest = 0.0
    for start in range(0, len(places), COMMIT):
        rows = rows_of(places[start : start + COMMIT])
        began = time.perf_counter()
        if kind == "p":
            join.predictions(0, rows)
        else:
            join.labels("loans", rows)
        between = time.perf_counter()
        join.prepare()
        join.committed()
        join.partition.checkpoint()
        ended = time.perf_counter()
        spent += ended - began
        longest = max(longest, ended - between)
    return spent, longest


def report(what: str, number: int, found: tuple[float, float]) -> None:
    spent, longest = found
    print(f"| {what} | {number / spent:,.0f} | {20_000 * spent / number:.1%} | {longest:.2f} s |")


def keyed(rows: Rows, places: Any) -> None:
    for name, salt in (("high", 1), ("low", 2)):
        mixed = (places.astype(np.uint64) + np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
        rows[name] = mixed * np.uint64(0xBF58476D1CE4E5B9)
    rows["origin"] = places


def moments(places: Any, number: int) -> Any:
    return worlds.START * 1_000_000 + places * (WEEK // number)


def predictions(places: Any, dtype: Any, number: int) -> Rows:
    rows = np.zeros(len(places), dtype=dtype)
    keyed(rows, places)
    rows["time"] = moments(places, number)
    rows["scores"] = np.random.default_rng(int(places[0])).beta(2, 5, (len(places), 1))
    rows["prediction"] = rows["scores"][:, 0] > 0.4
    return rows


def labels(places: Any, number: int, values: Any) -> Rows:
    rows = np.zeros(len(places), dtype=LABEL)
    keyed(rows, places)
    random = np.random.default_rng(int(places[0]))
    rows["time"] = moments(places, number) + random.integers(0, WEEK, len(places))
    rows["value"] = values[random.integers(0, 2, len(places))]
    return rows


def anonymous() -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"RssAnon:\s+(\d+) kB", text)
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    main()
