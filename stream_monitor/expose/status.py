"""What the status page draws, as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stream_monitor.cells import Cells
from stream_monitor.explain import changes, split
from stream_monitor.expose.histograms import bars
from stream_monitor.expose.snapshot import (
    FiringAlert,
    ModelView,
    OutcomeView,
    ServiceView,
    Snapshot,
    WindowView,
)
from stream_monitor.schema import IntArray, Role
from stream_monitor.values import (
    CONCEPT_DRIFT,
    CONCEPT_EFFECT,
    COVARIATE_EFFECT,
    DRIFT,
    ESTIMATED,
    ESTIMATOR,
    LABELS,
    REALIZED,
    Value,
    WindowResult,
    rfc3339,
)

_MOST = 1e6  # a ratio for people; beyond, the threshold is as good as 0

ByName = Mapping[str, Mapping[tuple[str, str], Value]]  # feature, then family and metric


class SelectionError(ValueError):
    """The selection names what is not there."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which part is wanted in full; None stands for the first there is, of ``feature`` for none."""

    model: str | None = None
    version: str | None = None
    segment: str = ""
    window: str | None = None
    metric: str | None = None
    feature: str | None = None


def status(snapshot: Snapshot, selection: Selection, now: int) -> dict[str, Any]:
    """Service, alerts and which models there are; one window of one model in full.

    A replica that is not active knows no windows: ``view`` is None, and the selection is ignored.

    Parameters
    ----------
    now
        Microseconds since the epoch, for the age of the loop's heartbeat.

    Raises
    ------
    SelectionError
        Where the selection names what is not there.
    """
    return {
        "service": _service(snapshot.service, now),
        "alerts": [alert(a) for a in snapshot.alerts],
        "models": [
            {
                "name": m.name,
                "version": m.version,
                "windows": [w.name for w in m.windows],
                "segments": [
                    other.segment
                    for other in snapshot.models
                    if (other.name, other.version) == (m.name, m.version)
                ],
            }
            for m in snapshot.models
            if not m.segment
        ],
        "view": _view(snapshot, selection) if snapshot.models else None,
    }


def alert(firing: FiringAlert) -> dict[str, Any]:
    """A firing alert; numbers that do not apply are null."""
    found = {k: _number(v) if isinstance(v, float) else v for k, v in asdict(firing).items()}
    return found | {
        "ratio": ratio(firing.value, firing.lower_threshold, firing.upper_threshold),
        "since": _time(firing.since),
        "window_end": _time(firing.window_end),
    }


def ratio(value: float, lower: float, upper: float) -> float:
    """How far a value has gone to a threshold: value / upper or lower / value, the greater.

    Below 0 it is value / lower.

    1 is at the threshold, above is beyond it; at most 10⁶; 0 without a value or thresholds.
    """
    if math.isnan(value):
        return 0.0
    found = 0.0
    if not math.isnan(upper) and value > 0:
        found = value / upper if upper > 0 else _MOST
    if not math.isnan(lower) and lower > 0:
        found = max(found, lower / value if value > 0 else _MOST)
    elif not math.isnan(lower) and lower < 0 and value < 0:
        found = max(found, value / lower)
    return min(found, _MOST)


def _service(view: ServiceView, now: int) -> dict[str, Any]:
    return {
        "version": view.version,
        "source": view.source,
        "ready": view.ready,
        "finished": view.finished,
        "single_instance": view.single_instance,
        "active": view.active,
        "role": view.role,
        "heartbeat_age_seconds": (now - view.heartbeat) / 1e6,
        "watermark": _time(view.watermark),
        "last_record": _time(view.last_record),
        "last_commit": _time(view.last_commit),
        "accepted": sum(view.accepted.values()),
        "late": sum(view.late.values()),
        "expired": sum(view.expired.values()),
        "rejected": {reason: n for reason, n in view.rejected.items() if n},
        "lag": sum(view.lag.values()) if view.lag else None,
        "partitions": len(view.partitions),
        "reads": None
        if view.active
        else [{"partition": name, "lag": view.lag.get(name)} for name in view.partitions],
        "state_bytes": view.state_bytes,
        "memory_limit": view.memory_limit,
        "commit_failures": view.commit_failures,
        "dead_letters_dropped": view.dead_letters_dropped,
    }


def _view(snapshot: Snapshot, selection: Selection) -> dict[str, Any]:
    model = _selected_model(snapshot, selection)
    view = _chosen("window", selection.window, {w.name: w for w in model.windows})
    newest = view.closed or view.filling
    names = [v.metric for v in newest.values if v.family == DRIFT] if newest else []
    metrics = list(dict.fromkeys(names))
    metric = _chosen("metric", selection.metric, {m: m for m in metrics}) if metrics else None
    shown = _Shown.of(view)
    features = [
        _feature(cells, view, metric, shown)
        for cells in model.cells.values()
        if cells.column.role is not Role.DERIVED
    ]
    features.sort(key=lambda f: (not f["alert"], -f["ratio"], f["name"]))
    if selection.feature is not None and selection.feature not in model.cells:
        raise SelectionError(f"feature: {selection.feature!r}: the model has no such column")
    return {
        "model": model.name,
        "version": model.version,
        "segment": model.segment,
        "reference_rows": model.reference_rows,
        "window": view.name,
        "length": view.length,
        "metric": metric,
        "metrics": metrics,
        "closed": _span(view.closed),
        "filling": _span(view.filling),
        "history": [_span(result) for result in view.history],
        "whole": [v for v in shown.courses("") if v["family"] not in (ESTIMATED, REALIZED)],
        "performance": _performance(shown, view),
        "outcomes": [_outcome(outcome) for outcome in view.outcomes],
        "features": features,
        "detail": None
        if selection.feature is None
        else _detail(model.cells[selection.feature], view, shown),
    }


def _performance(shown: _Shown, view: WindowView) -> list[dict[str, Any]]:
    """Estimated and realised values by metric, in one entry where both are there.

    The cells of a confusion matrix are left out. Where labels come late the realised values are
    those of the greatest maturity, over the same windows as the estimated ones, with a course and
    the share of labels for each maturity.
    """
    found: dict[str, dict[str, Any]] = {}
    for v in shown.courses(""):
        cell = v["metric"].startswith(("true_", "false_"))
        if v["family"] in (ESTIMATED, REALIZED) and not cell:
            found.setdefault(v["metric"], {"metric": v["metric"]})[v["family"]] = v
    for outcome in view.outcomes:
        results = {result.index: result for result in outcome.history}
        aligned = [results.get(result.index) for result in view.history]
        late = _Shown(_by_name(outcome.closed), {}, [_by_name(result) for result in aligned])
        share = [None if r is None else _short(r.label_share) for r in aligned]
        for v in late.courses(""):
            if v["family"] == REALIZED and v["metric"] in found:
                entry = found[v["metric"]]
                entry[REALIZED] = v | {"maturity": outcome.maturity}
                entry.setdefault("maturities", []).append(
                    {"maturity": outcome.maturity, "course": v["course"], "share": share}
                )
    return list(found.values())


def _outcome(outcome: OutcomeView) -> dict[str, Any]:
    """What labels tell at one maturity of the newest mature window, and what its change is."""
    result = outcome.closed
    found: dict[str, Any] = {"maturity": outcome.maturity, "closed": _span(result)}
    if result is None:
        return found
    values = _by_name(result)
    whole = values.get("", {})
    effects = []
    for (family, metric), inputs in whole.items():
        world, realized = whole.get((CONCEPT_EFFECT, metric)), whole.get((REALIZED, metric))
        if family != COVARIATE_EFFECT or world is None or realized is None:
            continue
        words = split(result.values, metric)
        if words:
            before = realized.value - inputs.value - world.value
            effects.append(
                {
                    "metric": metric,
                    "reference": before,
                    "realized": realized.value,
                    "inputs": [inputs.value, inputs.sampling_error, inputs.alert],
                    "world": [world.value, world.sampling_error, world.alert],
                    "words": words,
                }
            )
    late = _Shown(values, {}, [_by_name(r) for r in outcome.history])
    told = [
        v | {"feature": feature}
        for feature in values
        for v in late.courses(feature)
        if v["family"] in (CONCEPT_DRIFT, LABELS, ESTIMATOR)
    ]
    return found | {
        "share": _number(result.label_share),
        "history": [_span(r) for r in outcome.history],
        "effects": effects,
        "told": told,
    }


def _detail(cells: Cells, view: WindowView, shown: _Shown) -> dict[str, Any]:
    name = cells.column.name
    counts = view.closed_counts if view.closed else view.filling_counts
    found = changes(cells, counts[name]) if name in counts else []
    return {
        "name": name,
        "values": shown.courses(name),
        "changes": [asdict(change) for change in found],
    }


def _selected_model(snapshot: Snapshot, selection: Selection) -> ModelView:
    for model in snapshot.models:
        fits = selection.model in (None, model.name) and selection.version in (None, model.version)
        if fits and selection.segment == model.segment:
            return model
    there = ", ".join(f"{m.name} {m.version} {m.segment}".strip() for m in snapshot.models)
    raise SelectionError(
        f"model, version, segment: {selection.model!r}, {selection.version!r}, "
        f"{selection.segment!r}: there are {there}"
    )


def _chosen(what: str, name: str | None, table: dict[str, Any]) -> Any:
    if name is None:
        return next(iter(table.values()))
    if name not in table:
        raise SelectionError(f"{what}: {name!r}: there are {', '.join(table)}")
    return table[name]


@dataclass(frozen=True, slots=True)
class _Shown:
    """The values of a window name: newest (closed, or filling before one closed), live, past."""

    newest: ByName
    filling: ByName
    history: list[ByName]

    @classmethod
    def of(cls, view: WindowView) -> _Shown:
        filling = _by_name(view.filling)
        newest = _by_name(view.closed) or filling
        return cls(newest, filling, [_by_name(result) for result in view.history])

    def values(self, feature: str) -> list[tuple[Value, dict[str, Any]]]:
        """Each value of a feature with its JSON."""
        return [
            (v, _value(v, self.filling.get(feature, {}).get(key)))
            for key, v in self.newest.get(feature, {}).items()
        ]

    def courses(self, feature: str) -> list[dict[str, Any]]:
        """The values of a feature, each with its course."""
        return [
            found | {"course": self.course(feature, v.family, v.metric)}
            for v, found in self.values(feature)
        ]

    def course(self, feature: str, family: str, metric: str) -> list[list[Any] | None]:
        """[value, lower, upper, alert, band from, to] a past window, to four digits.

        None where it has none.
        """
        course: list[list[Any] | None] = []
        for values in self.history:
            v = values.get(feature, {}).get((family, metric))
            if v is None:
                course.append(None)
                continue
            bounds = map(_short, (v.value, v.lower_threshold, v.upper_threshold))
            band = map(_short, (v.lower_confidence, v.upper_confidence))
            course.append([*bounds, v.alert, *band])
        return course


def _by_name(result: WindowResult | None) -> ByName:
    found: dict[str, dict[tuple[str, str], Value]] = {}
    for value in result.values if result else ():
        found.setdefault(value.feature, {})[value.family, value.metric] = value
    return found


def _feature(cells: Cells, view: WindowView, metric: str | None, shown: _Shown) -> dict[str, Any]:
    name = cells.column.name
    counts = {"closed": view.closed_counts, "filling": view.filling_counts}
    windows = {k: table[name] for k, table in counts.items() if name in table}
    own = shown.values(name)
    return {
        "name": name,
        "kind": cells.column.kind,
        "role": cells.column.role,
        "alert": any(v.alert for v, _ in own),
        "judged": any(v.alert is not None for v, _ in own),
        "ratio": max((_ratio(v) for v, _ in own if v.metric == metric or v.alert), default=0.0),
        "values": [found for _, found in own],
        "course": [] if metric is None else shown.course(name, DRIFT, metric),
        "histogram": bars(cells, windows),
        "lost": {k: _lost(cells, c) for k, c in windows.items()},
    }


def _lost(cells: Cells, counts: IntArray) -> dict[str, float]:
    """Shares of the rows without a value; 0 in a window without rows."""
    rows = max(int(counts.sum()), 1)
    return {
        "missing": int(counts[cells.missing]) / rows,
        "wrong_type": int(counts[cells.wrong_type]) / rows,
    }


def _value(value: Value, live: Value | None) -> dict[str, Any]:
    return {
        "family": value.family,
        "metric": value.metric,
        "value": _number(value.value),
        "p_value": _number(value.p_value),
        "lower": _number(value.lower_threshold),
        "upper": _number(value.upper_threshold),
        "ratio": _ratio(value),
        "alert": value.alert,
        "live": None if live is None else _number(live.value),
    }


def _span(result: WindowResult | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {
        "index": result.index,
        "start": _time(result.start),
        "end": _time(result.end),
        "rows": result.rows,
        "revision": result.revision,
    }


def _ratio(value: Value) -> float:
    return ratio(value.value, value.lower_threshold, value.upper_threshold)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _short(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.4g}")


def _time(microseconds: int) -> str | None:
    return rfc3339(microseconds) if microseconds > 0 else None
