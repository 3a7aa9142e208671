"""Whether a backtest gives the values that a peer gives: else it is no comparison of cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import log, nan, sqrt
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pyarrow.parquet

from stream_monitor.values import DRIFT, QUALITY, STATISTICS
from tests.nannyml_data import Dataset, Figure
from tests.parity import Cell, Rows, Tolerance, Truth, compare, feature_of, rows_of

BENCH = Dataset("bench", ("", "", ""), "label")
_EQUAL = Tolerance(relative=1e-9, absolute=1e-12)
_SIMILAR = Tolerance(relative=0.02, absolute=1e-3)


class Files(NamedTuple):
    """What both read, and the folder in which both wrote."""

    reference: Path
    analysis: Path
    own: Path


def with_nannyml(files: Files, chunk: int) -> str:
    """Every value, threshold and alert of NannyML's, to the tolerances of the parity tests.

    NannyML's Wasserstein distance is an estimate, so where it lies near its threshold the exact one
    may lie on the other side.
    """
    reference, analysis = map(pyarrow.parquet.read_table, (files.reference, files.analysis))
    truth = Truth.of(BENCH, reference, analysis, chunk=chunk)
    figures = list(_figures(files.own))
    found = compare(truth, figures, _ours(files.own))
    alerts = [f for f in found.failures if "wasserstein" in f and ": alert " in f]
    if failures := [f for f in found.failures if f not in alerts]:
        _refuse("NannyML", failures)
    return (
        f"All {len(figures):,} values of NannyML in chunks of {chunk:,} rows, their thresholds and "
        "alerts, are in the backtest's table to the tolerance of the parity tests, but for "
        f"{len(found.excused) + len(alerts)} alerts of values next to their thresholds."
    )


def _figures(own: Path) -> Iterator[Figure]:
    """NannyML's tables as figures."""
    for path in sorted(own.glob("*.parquet")):
        if path.stem != "ours":
            for row in pyarrow.parquet.read_table(path).to_pylist():
                # a value's name is column, metric and key; who has one column, or metric, omits it
                named = {tuple(name.split("|")): value for name, value in row.items()}
                chunk = {key: value for (*place, key), value in named.items() if "chunk" in place}
                for *place, key in named:
                    if key == "value":
                        yield _figure(path.stem, place, chunk, named)


def _figure(
    calculator: str, place: list[str], chunk: dict[str, Any], named: dict[tuple[str, ...], Any]
) -> Figure:
    match calculator:
        case "univariate_drift":
            column, metric = place
        case "cbpe" | "performance" | "reconstruction" | "stats_rowcount":
            column, metric = "", place[0]
        case _:
            column, metric = place[0], calculator

    def number(key: str) -> float:
        found = named.get((*place, key))
        return nan if found is None else float(found)

    return Figure(
        dataset=BENCH.name,
        calculator=calculator,
        column=column,
        metric=metric,
        chunk_index=chunk["chunk_index"],
        start_index=chunk["start_index"],
        end_index=chunk["end_index"],
        start_date=str(chunk["start_date"]),
        end_date=str(chunk["end_date"]),
        period=chunk["period"],
        rows=chunk["end_index"] - chunk["start_index"] + 1,
        value=number("value"),
        sampling_error=number("sampling_error"),
        realized=number("realized"),
        upper_confidence=number("upper_confidence_boundary"),
        lower_confidence=number("lower_confidence_boundary"),
        upper_threshold=number("upper_threshold"),
        lower_threshold=number("lower_threshold"),
        alert=bool(named.get((*place, "alert"))),
    )


def with_whylogs(files: Files, chunk: int) -> str:
    """The means and the missing values of every column and chunk."""
    ours, failures, number = _ours(files.own), [], 0
    for path in files.own.glob("[0-9]*.parquet"):
        window = int(path.stem) // chunk
        for row in pyarrow.parquet.read_table(path).to_pylist():
            name = feature_of(BENCH, row["column"])
            where = f"chunk {window}, {name}"
            mean = ours.get(Cell(STATISTICS, name, "mean", window))
            if mean is not None:
                failures += _gap(where, mean["value"], row["distribution/mean"], _EQUAL)
                number += 1
            missing = ours.get(Cell(QUALITY, name, "missing_values", window))
            if missing is not None:
                theirs = row["counts/null"] / row["counts/n"]  # NaN among them
                failures += _gap(where, missing["value"], theirs, _EQUAL)
                number += 1
    if failures:
        _refuse("whylogs", failures)
    return f"{number:,} means and shares of missing values are whylogs' to 1e-9."


def with_evidently(files: Files, chunk: int) -> str:
    """Distances of every column and chunk, in Evidently's units."""
    table = pyarrow.parquet.read_table(files.reference)
    ours, failures, number = _ours(files.own), [], 0
    for path in files.own.glob("*.json"):
        for metric in json.loads(path.read_bytes())["metrics"]:
            asked = metric["config"]
            if "column" not in asked:
                continue
            name, window = feature_of(BENCH, asked["column"]), int(path.stem) // chunk
            if asked["method"].startswith("Wasserstein"):
                values = table[asked["column"]].drop_null().to_numpy()
                mine = ours[Cell(DRIFT, name, "wasserstein", window)]["value"] / values.std()
            elif asked["method"].startswith("Jensen") and name.startswith("category"):
                mine = ours[Cell(DRIFT, name, "jensen_shannon", window)]["value"] * sqrt(log(2))
            else:
                continue
            failures += _gap(f"chunk {window}, {name}", mine, metric["value"], _SIMILAR)
            number += 1
    if failures:
        _refuse("Evidently", failures)
    return f"{number:,} distances are Evidently's, in its units, to 2 % or 0.001."


def _gap(where: str, mine: float, theirs: float, tolerance: Tolerance) -> list[str]:
    if abs(mine - theirs) <= tolerance.at(theirs):
        return []
    return [f"{where}: {mine!r} instead of {theirs!r}"]


def _ours(own: Path) -> Rows:
    return rows_of(pyarrow.parquet.read_table(own / "ours.parquet"))


def _refuse(peer: str, failures: list[str]) -> NoReturn:
    listed = "\n".join(failures[:20])
    raise SystemExit(
        f"{len(failures)} values are not those of {peer}, so there is nothing to compare:\n{listed}"
    )
