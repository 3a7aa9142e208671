"""What the status page draws, as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from stream_monitor.expose.histograms import bars
from stream_monitor.expose.snapshot import FiringAlert, ModelView, ServiceView, Snapshot, WindowView
from stream_monitor.schema import Role
from stream_monitor.values import Value, WindowResult, rfc3339


def status(snapshot: Snapshot) -> dict[str, Any]:
    """The whole page."""
    return {
        "service": service(snapshot.service),
        "alerts": [alert(a) for a in snapshot.alerts],
        "models": [_model(m) for m in snapshot.models],
    }


def service(view: ServiceView) -> dict[str, Any]:
    """The state of the process."""
    return {
        "version": view.version,
        "source": view.source,
        "ready": view.ready,
        "finished": view.finished,
        "single_instance": view.single_instance,
        "watermark": rfc3339(view.watermark) if view.watermark else None,
        "last_record": rfc3339(view.last_record) if view.last_record else None,
        "last_commit": rfc3339(view.last_commit) if view.last_commit else None,
        "accepted": sum(view.accepted.values()),
        "late": sum(view.late.values()),
        "expired": sum(view.expired.values()),
        "rejected": {reason: n for reason, n in view.rejected.items() if n},
        "lag": sum(view.lag.values()),
        "partitions": len(view.partitions),
        "state_bytes": view.state_bytes,
        "memory_limit": view.memory_limit,
        "commit_failures": view.commit_failures,
    }


def alert(firing: FiringAlert) -> dict[str, Any]:
    """A firing alert; numbers that do not apply are null."""
    found = {k: _number(v) if isinstance(v, float) else v for k, v in asdict(firing).items()}
    return found | {"since": rfc3339(firing.since), "window_end": rfc3339(firing.window_end)}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _model(model: ModelView) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "reference_rows": model.reference_rows,
        "windows": [_window(model, w) for w in model.windows],
    }


def _window(model: ModelView, view: WindowView) -> dict[str, Any]:
    counts = view.closed_counts or view.filling_counts
    features = {}
    for name, cells in model.cells.items():
        if cells.column.role is not Role.DERIVED:
            features[name] = {
                "kind": cells.column.kind,
                "role": cells.column.role,
                "histogram": bars(cells, counts.get(name)),
            }
    return {
        "name": view.name,
        "length": view.length,
        "closed": _result(view.closed),
        "filling": _result(view.filling),
        "features": features,
        "history": _history(view),
    }


def _result(result: WindowResult | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {
        "index": result.index,
        "start": rfc3339(result.start),
        "end": rfc3339(result.end),
        "rows": result.rows,
        "revision": result.revision,
        "values": [_value(v) for v in result.values],
    }


def _value(value: Value) -> dict[str, Any]:
    return {
        "feature": value.feature,
        "family": value.family,
        "metric": value.metric,
        "value": _number(value.value),
        "p_value": _number(value.p_value),
        "lower": _number(value.lower_threshold),
        "upper": _number(value.upper_threshold),
        "alert": value.alert,
    }


def _history(view: WindowView) -> dict[str, Any]:
    """The course of each value over the last closed windows, by ``feature/metric``."""
    courses: dict[str, list[list[Any]]] = {}
    for result in view.history:
        for v in result.values:
            course = courses.setdefault(f"{v.feature}/{v.metric}", [])
            course.append([result.index, _number(v.value), _number(v.upper_threshold), v.alert])
    return {
        "ends": {str(r.index): rfc3339(r.end) for r in view.history},
        "courses": courses,
    }
