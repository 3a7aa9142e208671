"""Compares a backtest's table with NannyML's own numbers, cell by cell.

A cell is one value about one window. In each: the value and both thresholds lie within the metric's
tolerance, the alert is the same, so are the window's rows, start and end. Sampling errors and bands
are measured and not judged.

An alert may differ only where NannyML's value lies nearer to its threshold than the tolerance; such
cells are named. Chi-squared has no threshold there, so its alerts must be equal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy import stats

from stream_monitor.schema import FloatArray
from stream_monitor.values import (
    DRIFT,
    ESTIMATED,
    MULTIVARIATE,
    QUALITY,
    REALIZED,
    STATISTICS,
)
from tests.nannyml_data import Dataset, Figure

CHUNK = 5_000
RANKING = ("roc_auc", "average_precision")
_FAMILIES = {
    "univariate_drift": DRIFT,
    "missing_values": QUALITY,
    "unseen_values": QUALITY,
    "numerical_range": QUALITY,
    "stats_avg": STATISTICS,
    "stats_sum": STATISTICS,
    "stats_std": STATISTICS,
    "stats_median": STATISTICS,
    "stats_rowcount": STATISTICS,
    "reconstruction": MULTIVARIATE,
    "domain_classifier": MULTIVARIATE,
    "cbpe": ESTIMATED,
    "dle": ESTIMATED,
    "performance": REALIZED,
}
_METRICS = {"stats_avg": "mean", "stats_sum": "sum", "stats_std": "std", "stats_median": "median"}


class Cell(NamedTuple):
    """Where a value stands in our table."""

    family: str
    feature: str
    metric: str
    window: int


Rows = Mapping[Cell, Mapping[str, Any]]


def rows_of(table: pa.Table) -> dict[Cell, dict[str, Any]]:
    """A backtest's table by cell."""
    rows = table.to_pylist()
    return {Cell(r["family"], r["feature"], r["metric"], r["window_index"]): r for r in rows}


def cell_of(dataset: Dataset, figure: Figure) -> Cell:
    """Where our table has NannyML's value."""
    return Cell(
        _FAMILIES[figure.calculator],
        feature_of(dataset, figure.column),
        _METRICS.get(figure.metric, figure.metric),
        figure.chunk_index,
    )


def feature_of(dataset: Dataset, column: str) -> str:
    """Our name of a column."""
    fixed = {"y_pred": "prediction", dataset.label: "target"}
    return fixed.get(column, column.replace("y_pred_proba", "score"))


class Tolerance(NamedTuple):
    """The greatest difference allowed: relative to NannyML's number, plus absolute."""

    relative: float = 0.0
    absolute: float = 0.0

    def at(self, number: float) -> float:
        return self.relative * abs(number) + self.absolute


EXACT = Tolerance(relative=1e-9)
_TOLERANCES = {
    # the root of a divergence that float64 has to 1e-16
    (DRIFT, "jensen_shannon"): Tolerance(relative=1e-9, absolute=1e-12),
    (DRIFT, "kolmogorov_smirnov"): Tolerance(absolute=1e-3),
    (DRIFT, "wasserstein"): Tolerance(relative=0.01),
    (MULTIVARIATE, "reconstruction_error"): Tolerance(relative=1e-6),
    (MULTIVARIATE, "domain_classifier_auroc"): Tolerance(absolute=0.02),
}
_RANKED = {"roc_auc": Tolerance(relative=1e-4), "average_precision": Tolerance(relative=1e-3)}
_MOST_DISTINCT_SCORES = 1_000
_MOST_DISTINCT_VALUES = 512


@dataclass(frozen=True)
class Truth:
    """What the tolerances depend on: a data set's columns of numbers, reference and analysis.

    By our names, in time order; NaN is missing.
    """

    dataset: Dataset
    reference: Mapping[str, FloatArray]
    analysis: Mapping[str, FloatArray]
    chunk: int = CHUNK

    @classmethod
    def of(
        cls, dataset: Dataset, reference: pa.Table, analysis: pa.Table, *, chunk: int = CHUNK
    ) -> Truth:
        return cls(dataset, _numbers(dataset, reference), _numbers(dataset, analysis), chunk)

    def tolerance(self, cell: Cell) -> Tolerance:
        """Of a cell's value and thresholds."""
        if cell.metric in RANKING:
            return self._ranking(cell)
        if cell.family == ESTIMATED:
            regression = not any(name.startswith("score") for name in self.reference)
            return Tolerance(relative=0.01 if regression else 1e-6)
        if cell.metric == "median":
            values = self.reference[cell.feature]
            values = values[~np.isnan(values)]
            if len(np.unique(values)) > _MOST_DISTINCT_VALUES:
                return Tolerance(absolute=1e-3 * float(np.ptp(values)))
        return _TOLERANCES.get((cell.family, cell.metric), EXACT)

    def _ranking(self, cell: Cell) -> Tolerance:
        scores = [v for name, v in self.reference.items() if name.startswith("score")]
        if any(len(np.unique(v)) > _MOST_DISTINCT_SCORES for v in scores):
            # what cells lose is noise, which falls with the root of the rows
            return Tolerance(_RANKED[cell.metric].relative * math.sqrt(CHUNK / self.chunk))
        if cell.family == REALIZED:
            return EXACT
        # NannyML rounds the sums it ranks by to five decimals. Of several classes it also takes
        # rows of equal score in the order that an unstable sort leaves them in, and they differ
        # in the chance they were given: their order is noise, which the exact value is free of
        return Tolerance(relative=1e-5 if len(scores) > 1 else 1e-8)

    def wasserstein(self, cell: Cell) -> float:
        """The exact distance of the window from the reference, by SciPy."""
        whole, part = self.reference[cell.feature], self.analysis[cell.feature]
        part = part[cell.window * self.chunk :][: self.chunk]
        return float(stats.wasserstein_distance(whole[~np.isnan(whole)], part[~np.isnan(part)]))


def _numbers(dataset: Dataset, table: pa.Table) -> dict[str, FloatArray]:
    return {
        feature_of(dataset, name): table[name].cast(pa.float64()).to_numpy()
        for name in table.column_names
        if pa.types.is_integer(table[name].type) or pa.types.is_floating(table[name].type)
    }


@dataclass
class Comparison:
    """The outcome: what is wrong, what was excused, and how far apart the numbers are at worst."""

    failures: list[str] = field(default_factory=list)
    excused: list[str] = field(default_factory=list)
    worst: dict[tuple[str, str], Worst] = field(default_factory=dict)


@dataclass
class Worst:
    """The greatest differences of a metric: absolute, relative, and as a share of the tolerance."""

    cells: int = 0
    alerts: int = 0
    different_alerts: int = 0
    gaps: dict[str, tuple[float, float, float]] = field(default_factory=dict)

    def note(self, kind: str, gap: float, theirs: float, allowed: float) -> None:
        new = gap, gap / abs(theirs) if theirs else 0.0, gap / allowed if allowed else 0.0
        old = self.gaps.get(kind, (0.0, 0.0, 0.0))
        self.gaps[kind] = max(old[0], new[0]), max(old[1], new[1]), max(old[2], new[2])


def compare(truth: Truth, figures: Iterable[Figure], ours: Rows) -> Comparison:
    """Every number of NannyML against ours."""
    found = Comparison()
    for figure in figures:
        cell = cell_of(truth.dataset, figure)
        confusion = figure.metric.startswith(("true_", "false_"))
        metric = "confusion_matrix" if confusion else cell.metric
        worst = found.worst.setdefault((cell.family, metric), Worst())
        worst.cells += 1
        row = ours.get(cell)
        if row is None:
            found.failures.append(f"{_name(truth, cell)}: not in our table")
            continue
        _Pair(truth, cell, figure, row, found, worst).compare()
    return found


@dataclass(frozen=True)
class _Pair:
    """A cell in both tables."""

    truth: Truth
    cell: Cell
    theirs: Figure
    ours: Mapping[str, Any]
    found: Comparison
    worst: Worst

    def compare(self) -> None:
        self._window()
        tolerance = self.truth.tolerance(self.cell)
        if self.cell.metric != "wasserstein":
            self._number("value", self.theirs.value, tolerance, "value")
        elif self.theirs.alert:
            # theirs is an estimate, off by some per cent where rows lie beyond the reference
            self._number("value", self.truth.wasserstein(self.cell), tolerance, "value")
        if self.cell.metric != "chi2":
            for name in ("lower_threshold", "upper_threshold"):
                self._number(name, getattr(self.theirs, name), tolerance, "threshold")
        self._measured("sampling_error", "sampling_error")
        self._measured("lower_confidence", "band")
        self._measured("upper_confidence", "band")
        self._alert(tolerance)

    def _window(self) -> None:
        facts = {
            "rows": (self.ours["rows"], self.theirs.rows),
            "start": (_moment(self.ours["window_start"]), _moment(self.theirs.start_date)),
            "end": (_moment(self.ours["window_end"]), _moment(self.theirs.end_date)),
        }
        for name, (mine, other) in facts.items():
            if mine != other:
                self._fail(f"{name} {mine} instead of {other}")

    def _number(self, name: str, theirs: float, tolerance: Tolerance, kind: str) -> None:
        mine = _float(self.ours[name])
        if math.isnan(mine) or math.isnan(theirs):
            if math.isnan(mine) is not math.isnan(theirs):
                self._fail(f"{name} {mine:.12g} instead of {theirs:.12g}")
            return
        gap, allowed = abs(mine - theirs), tolerance.at(theirs)
        self.worst.note(kind, gap, theirs, allowed)
        if gap > allowed:
            self._fail(
                f"{name} {mine:.12g} instead of {theirs:.12g}, off by {gap:.3g}, "
                f"allowed {allowed:.3g}"
            )

    def _measured(self, name: str, kind: str) -> None:
        mine, theirs = _float(self.ours[name]), getattr(self.theirs, name)
        if not (math.isnan(mine) or math.isnan(theirs)):
            self.worst.note(kind, abs(mine - theirs), theirs, 0.0)

    def _alert(self, tolerance: Tolerance) -> None:
        mine, theirs = self.ours["alert"] is True, self.theirs
        self.worst.alerts += theirs.alert
        if mine is theirs.alert:
            return
        self.worst.different_alerts += 1
        what = f"alert {mine} instead of {theirs.alert}"
        distances = [
            abs(theirs.value - t) for t in (theirs.lower_threshold, theirs.upper_threshold)
        ]
        near = min((d for d in distances if not math.isnan(d)), default=math.inf)
        if near < tolerance.at(theirs.value):
            self.found.excused.append(
                f"{_name(self.truth, self.cell)}: {what}; its value {theirs.value:.12g} is "
                f"{near:.3g} from its threshold, tolerance {tolerance.at(theirs.value):.3g}"
            )
        else:
            self._fail(what)

    def _fail(self, what: str) -> None:
        self.found.failures.append(f"{_name(self.truth, self.cell)}: {what}")


def _name(truth: Truth, cell: Cell) -> str:
    return f"{truth.dataset.name}, {cell.family}/{cell.metric} {cell.feature} #{cell.window}"


def _float(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def report(comparisons: Mapping[str, Comparison]) -> str:
    """The table of worst differences, and the cells whose alert was excused."""
    lines: list[tuple[str, ...]] = [
        ("data set", "family", "metric", "cells", "alerts", "differ", *_KINDS)
    ]
    for name, comparison in comparisons.items():
        for (family, metric), w in comparison.worst.items():
            counts = str(w.cells), str(w.alerts), str(w.different_alerts)
            lines.append((name, family, metric, *counts, *(_gap(w, kind) for kind in _KINDS)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["worst differences: absolute, relative to NannyML's number, share of the tolerance"]
    text += [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    excused = [line for c in comparisons.values() for line in c.excused]
    if excused:
        text += ["alerts that differ, NannyML's value being near its threshold:", *excused]
    return "\n".join(text)


_KINDS = ("value", "threshold", "sampling_error", "band")


def _gap(worst: Worst, kind: str) -> str:
    if kind not in worst.gaps:
        return "-"
    absolute, relative, share = worst.gaps[kind]
    judged = f" {share:6.1%}" if kind in ("value", "threshold") else ""
    return f"{absolute:7.1e} {relative:7.1e}{judged}"
