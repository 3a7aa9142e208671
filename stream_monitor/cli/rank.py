"""``rank``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from rich.bar import Bar
from rich.console import Console
from rich.table import Table

from stream_monitor.cli.common import Commands, command
from stream_monitor.errors import ProfileError, SourceError
from stream_monitor.methods import REGISTRY
from stream_monitor.panes.layout import Counted
from stream_monitor.ranking import Ranked, rank_by_alerts, rank_by_correlation, rank_by_importance
from stream_monitor.reference.learned import loaded
from stream_monitor.reference.profile import load
from stream_monitor.tables import MixedColumn, expand, read_chunks
from stream_monitor.values import COLUMNS, ESTIMATED, REALIZED, Value, WindowResult

_BAR = 10  # characters
_NUMBERS = COLUMNS[COLUMNS.index("value") : COLUMNS.index("alert")]


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = command(
        commands,
        "rank",
        _run,
        summary="rank the features in a table that `backtest` wrote: what to look at first",
        example="stream-monitor rank may.parquet --by correlation --reference model.ref",
    )
    parser.add_argument("table", metavar="TABLE", help="a file that `backtest` wrote")
    parser.add_argument(
        "--by",
        choices=("alerts", "correlation", "importance"),
        default="alerts",
        help="number of alerts; correlation with the change in performance; drift relative to "
        "its threshold, times importance (default: alerts)",
    )
    parser.add_argument(
        "--metric", default="jensen_shannon", help="of drift (default: jensen_shannon)"
    )
    parser.add_argument(
        "--performance", default="roc_auc", help="metric, for correlation (default: roc_auc)"
    )
    parser.add_argument(
        "--estimated", action="store_true", help="correlate with estimated performance"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="REF",
        help="for correlation and importance: the model's reference",
    )
    parser.add_argument(
        "--importances",
        type=Path,
        metavar="FILE",
        help='for importance: JSON, such as {"age": 0.3, "income": 0.7}; default: those of REF',
    )
    for option, meaning in (
        ("--model", "which model of the table"),
        ("--model-version", "which of its versions"),
        ("--window", "which of its windows"),
    ):
        parser.add_argument(option, help=f"{meaning}; default: the only one")
    parser.add_argument("--segment", default="", help="default: all of the traffic")


def _run(arguments: argparse.Namespace) -> int:
    family = ESTIMATED if arguments.estimated else REALIZED
    if arguments.by == "correlation" and arguments.reference is None:
        raise ProfileError("--by correlation needs the mean performance of --reference REF")
    results = _chosen(arguments, read_results(arguments.table))
    match arguments.by:
        case "correlation":
            if not _has(results, family, arguments.performance):
                raise SourceError(
                    f"{arguments.table}: has no {family}/{arguments.performance}; choose another "
                    "--performance, or --estimated"
                )
            mean = reference_mean(arguments.reference, family, arguments.performance)
            kind = family.removesuffix("_performance")
            title = f"correlation_with_{kind}_{arguments.performance}"
            ranked = rank_by_correlation(
                results,
                metric=arguments.metric,
                performance=arguments.performance,
                mean_reference_performance=mean,
                family=family,
            )
        case "importance":
            title = "drift / threshold × importance"
            ranked = rank_by_importance(
                results,
                metric=arguments.metric,
                importances=_importances(arguments),
            )
        case _:
            title = "alert_count"
            ranked = rank_by_alerts(results, metric=arguments.metric)
    if not ranked:
        raise SourceError(f"{arguments.table}: has no drift/{arguments.metric}; choose a --metric")
    Console().print(_table(f"{arguments.metric}, {len(results):,} windows: {title}", ranked))
    return 0


def _importances(arguments: argparse.Namespace) -> Mapping[str, float]:
    if arguments.importances is not None:
        return read_importances(arguments.importances)
    known = load(arguments.reference).importances if arguments.reference is not None else {}
    if not known:
        raise SourceError(
            "--by importance needs --importances FILE, or a --reference REF that was built with "
            "reference.importances"
        )
    return known


def _has(results: Iterable[WindowResult], family: str, metric: str) -> bool:
    return any(v.family == family and v.metric == metric for r in results for v in r.values)


def _table(title: str, ranked: list[Ranked]) -> Table:
    correlated = any(not isnan(one.p_value) for one in ranked)
    table = Table(title=title, title_justify="left")
    for heading in ("rank", "feature", "score", "", "drifted", *["p value"] * correlated):
        right = heading in ("rank", "score")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    greatest = max([abs(one.score) for one in ranked if isfinite(one.score)], default=0.0)
    for one in ranked:
        length = 0.0 if isnan(one.score) else min(abs(one.score), greatest)
        table.add_row(
            str(one.rank),
            one.feature,
            f"{one.score:.6g}",
            Bar(greatest or 1.0, 0, length, width=_BAR, color="red" if one.score < 0 else "green"),
            "yes" if one.has_drifted else "",
            *[f"{one.p_value:.3g}"] * correlated,
        )
    return table


def read_results(path: str) -> list[WindowResult]:
    """The windows in a table that `backtest` wrote, newest revisions, in the table's order.

    Raises
    ------
    SourceError
        The file cannot be read or is no such table.
    """
    found: dict[tuple[str, str, str, str, int], WindowResult] = {}
    values: dict[tuple[str, str, str, str, int], list[Value]] = {}
    for row in _rows(path):
        try:
            window, value = _window(row), _value(row)
        except (TypeError, ValueError) as error:
            raise SourceError(f"{path}: {error}; give a table that `backtest` wrote") from None
        place = window.model, window.version, window.segment, window.window, window.index
        if place not in found or window.revision > found[place].revision:
            found[place], values[place] = window, []
        if window.revision == found[place].revision:
            values[place].append(value)
    return [replace(window, values=tuple(values[place])) for place, window in found.items()]


def _rows(path: str) -> Iterable[dict[str, Any]]:
    for chunk in read_chunks(expand([path])):
        if missing := [name for name in COLUMNS if name not in chunk.columns]:
            raise SourceError(
                f"{path}: has no column {', '.join(missing)}; give a table that `backtest` wrote"
            )
        columns = [
            column.values if isinstance(column, MixedColumn) else column.to_pylist()
            for column in (chunk.columns[name] for name in COLUMNS)
        ]
        for cells in zip(*columns, strict=True):
            yield dict(zip(COLUMNS, cells, strict=True))


def _window(row: dict[str, Any]) -> WindowResult:
    model, version, segment, window = (
        row[name] or "" for name in ("model", "version", "segment", "window")
    )
    start, end = (_microseconds(row[name]) for name in ("window_start", "window_end"))
    index, rows, revision = (int(row[name]) for name in ("window_index", "rows", "revision"))
    return WindowResult(
        model, version, segment, window, index, start, end, rows, True, (), revision
    )


def _value(row: dict[str, Any]) -> Value:
    numbers = {name: nan if row[name] is None else float(row[name]) for name in _NUMBERS}
    alert = None if row["alert"] is None else str(row["alert"]).lower() == "true"
    return Value(row["feature"] or "", row["family"], row["metric"], **numbers, alert=alert)


def _microseconds(time: str | None) -> int:
    return 0 if time is None else round(datetime.fromisoformat(time).timestamp() * 1e6)


def _chosen(arguments: argparse.Namespace, results: list[WindowResult]) -> list[WindowResult]:
    """The windows of the one series that the options fit.

    Raises
    ------
    SourceError
        They fit none, or several.
    """
    wanted = (arguments.model, arguments.model_version, arguments.segment, arguments.window)
    series: dict[tuple[str, str, str, str], list[WindowResult]] = {}
    for r in results:
        series.setdefault((r.model, r.version, r.segment, r.window), []).append(r)
    fits = [one for one in series if all(w in (None, o) for w, o in zip(wanted, one, strict=True))]
    if len(fits) == 1:
        return series[fits[0]]
    listed = "; ".join(
        f"--model {m!r} --model-version {v!r} --segment {s!r} --window {w!r}"
        for m, v, s, w in series
    )
    raise SourceError(
        f"{arguments.table}: the options fit {len(fits)} of its series; choose from {listed}"
    )


def reference_mean(path: Path, family: str, metric: str) -> float:
    """Mean of a performance metric over a reference's chunks, NaN left out.

    Raises
    ------
    ProfileError
        The reference has no such metric.
    """
    profile = load(path)
    part = profile.whole
    _, blocks, _ = loaded(REGISTRY, profile.schema, profile.cells, profile.learned)
    values = []
    for name, block in blocks.items():
        if any(d.family == family for d in REGISTRY.block[name].definitions):
            measure = block.bind(part.reference)
            for chunk in part.chunks:
                values += [
                    m.value
                    for m in measure.measure(Counted(part.layout, chunk))
                    if (m.family, m.metric, m.feature) == (family, metric, "")
                ]
    known = [value for value in values if not isnan(value)]
    if not known:
        raise ProfileError(
            f"{path}: its chunks have no {family}/{metric}; build it with labels and with the "
            "method in `methods.blocks`"
        )
    return float(np.mean(known))


def read_importances(path: Path) -> dict[str, float]:
    """A JSON object of numbers of 0 or more.

    Raises
    ------
    SourceError
        The file cannot be read or holds something else.
    """
    remedy = 'write an object of numbers of 0 or more, such as {"age": 0.3, "income": 0.7}'
    try:
        content = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise SourceError(f"{path}: cannot be read ({error}); {remedy}") from None
    if not isinstance(content, dict):
        raise SourceError(f"{path}: no JSON object; {remedy}")
    for name, value in content.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise SourceError(f"{path}: {name}: {value!r}; {remedy}")
    return {name: float(value) for name, value in content.items()}
