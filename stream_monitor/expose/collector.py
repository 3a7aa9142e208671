"""The snapshot as Prometheus metrics: built at each scrape, never updated in place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from stream_monitor.expose.catalogue import CATALOGUE
from stream_monitor.expose.snapshot import FiringAlert, ServiceView, Snapshot, WindowView
from stream_monitor.values import (
    DETECTORS,
    DRIFT,
    ESTIMATED,
    MULTIVARIATE,
    OUTLIERS,
    QUALITY,
    REALIZED,
    STATISTICS,
    Value,
    WindowResult,
)

_BUCKETS = (0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
_MICROSECONDS = 1e6
_EXPLANATIONS = 50  # in a scrape
_EXPLANATION = 160  # characters


@dataclass(frozen=True, slots=True)
class _Names:
    """Metric names of one family; empty where the family has no such metric."""

    value: str
    upper: str
    alert: str
    lower: str = ""
    p_value: str = ""
    lower_confidence: str = ""
    upper_confidence: str = ""

    @classmethod
    def of(cls, value: str, *, confidence: bool = False) -> _Names:
        """The regular names, with both thresholds."""
        return cls(
            value,
            f"{value}_upper_threshold",
            f"{value}_alert",
            lower=f"{value}_lower_threshold",
            lower_confidence=f"{value}_lower_confidence" if confidence else "",
            upper_confidence=f"{value}_upper_confidence" if confidence else "",
        )


_FAMILIES = {
    DRIFT: _Names("drift_score", "drift_threshold", "drift_alert", p_value="drift_p_value"),
    QUALITY: _Names(
        "quality_ratio",
        "quality_upper_threshold_ratio",
        "quality_alert",
        lower="quality_lower_threshold_ratio",
    ),
    OUTLIERS: _Names("outliers_ratio", "outliers_upper_threshold_ratio", "outliers_alert"),
    MULTIVARIATE: _Names.of("multivariate_drift", confidence=True),
    ESTIMATED: _Names.of("estimated_performance", confidence=True),
    REALIZED: _Names.of("realized_performance", confidence=True),
    STATISTICS: _Names.of("statistics", confidence=True),
    DETECTORS: _Names("detections", "", "detections_alert"),
}


class StepTimer:
    """The histogram of the loop's steps."""

    def __init__(self, registry: CollectorRegistry) -> None:
        metric = CATALOGUE["step_duration_seconds"]
        self._histogram = Histogram(
            metric.full_name, metric.help, metric.labels, registry=registry, buckets=_BUCKETS
        )

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a named step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._histogram.labels(name).observe(time.perf_counter() - start)


class SnapshotCollector:
    """Renders what ``current`` gives at the moment of a scrape."""

    def __init__(self, current: Callable[[], Snapshot | None], max_series: int) -> None:
        self._current = current
        self._max_series = max_series

    def describe(self) -> list[Metric]:
        """Nothing: names are checked against the catalogue, not by collecting at registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        snapshot = self._current()
        if snapshot is None:
            return
        page = _Page(self._max_series)
        _service(page, snapshot.service)
        for model in snapshot.models:
            labels = (model.name, model.version)
            if not model.segment:
                page.add("reference_info", (*labels, model.fingerprint), 1)
                page.add("reference_rows", labels, model.reference_rows)
            for window in model.windows:
                _window(page, window)
        _alerts(page, snapshot.alerts)
        page.add("series", (), page.values)
        page.add("series_dropped", (), page.dropped)
        yield from page.metrics()


class _Page:
    """Metric families by name; window values beyond the limit are dropped and counted."""

    def __init__(self, max_series: int) -> None:
        self._max_series = max_series
        self._families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        self.values = self.dropped = 0

    def add(self, name: str, labels: Iterable[str], value: float) -> None:
        family = self._families.get(name)
        if family is None:
            metric = CATALOGUE[name]
            if metric.type == "counter":
                family = CounterMetricFamily(metric.full_name, metric.help, labels=metric.labels)
            else:
                family = GaugeMetricFamily(metric.full_name, metric.help, labels=metric.labels)
            self._families[name] = family
        family.add_metric(list(labels), value)

    def value(self, name: str, labels: Iterable[str], value: float) -> None:
        """A window's value: no series where it is NaN."""
        if not name or math.isnan(value):
            return
        if self.values >= self._max_series:
            self.dropped += 1
            return
        self.values += 1
        self.add(name, labels, value)

    def metrics(self) -> Iterator[Metric]:
        yield from self._families.values()


def _service(page: _Page, service: ServiceView) -> None:
    for name, value in (
        ("ready", service.ready),
        ("single_instance", service.single_instance),
        ("heartbeat_timestamp_seconds", service.heartbeat / _MICROSECONDS),
        ("last_commit_timestamp_seconds", service.last_commit / _MICROSECONDS),
        ("last_record_timestamp_seconds", service.last_record / _MICROSECONDS),
        ("watermark_timestamp_seconds", service.watermark / _MICROSECONDS),
        ("commit_failures_total", service.commit_failures),
        ("dead_letters_dropped_total", service.dead_letters_dropped),
        ("state_bytes", service.state_bytes),
        ("memory_limit_bytes", service.memory_limit),
        ("assigned_partitions", len(service.partitions)),
    ):
        page.add(name, (), float(value))
    page.add("build_info", (service.version,), 1)
    for name, table in (
        ("records_consumed_total", service.records),
        ("consumed_bytes_total", service.bytes),
        ("lag_records", service.lag),
        ("events_rejected_total", service.rejected),
    ):
        for label, count in table.items():
            page.add(name, (label,), count)
    for name, counts in (
        ("events_total", service.accepted),
        ("events_late_total", service.late),
        ("events_expired_total", service.expired),
    ):
        for labels, count in counts.items():
            page.add(name, labels, count)


def _window(page: _Page, view: WindowView) -> None:
    if (closed := view.closed) is not None:
        labels = _labels(closed)
        page.value("window_rows", labels, closed.rows)
        end = closed.end / _MICROSECONDS if closed.end > 0 else math.nan  # rows without times
        page.value("window_end_timestamp_seconds", labels, end)
        page.value("window_revision", labels, closed.revision)
        for value in closed.values:
            if (names := _FAMILIES.get(value.family)) is not None:
                _value(page, names, (*labels, value.feature, value.metric), value)
    if (filling := view.filling) is not None:
        labels = _labels(filling)
        page.value("live_window_rows", labels, filling.rows)
        for value in filling.values:
            if (names := _FAMILIES.get(value.family)) is not None:
                name = f"live_{names.value}"
                page.value(name, (*labels, value.feature, value.metric), value.value)


def _alerts(page: _Page, alerts: Iterable[FiringAlert]) -> None:
    """Explanations, each once; so many and so long that labels stay bounded."""
    explained = {
        (a.model, a.version, a.segment, a.window, a.feature, a.family, _cut(a.explanation))
        for a in alerts
        if a.explanation
    }
    for labels in sorted(explained)[:_EXPLANATIONS]:
        page.add("alert_info", labels, 1)


def _cut(text: str) -> str:
    return text if len(text) <= _EXPLANATION else text[: _EXPLANATION - 1] + "…"


def _labels(result: WindowResult) -> tuple[str, ...]:
    return result.model, result.version, result.segment, result.window


def _value(page: _Page, names: _Names, labels: tuple[str, ...], value: Value) -> None:
    page.value(names.value, labels, value.value)
    page.value(names.upper, labels, value.upper_threshold)
    page.value(names.lower, labels, value.lower_threshold)
    page.value(names.p_value, labels, value.p_value)
    page.value(names.lower_confidence, labels, value.lower_confidence)
    page.value(names.upper_confidence, labels, value.upper_confidence)
    page.value(names.alert, labels, math.nan if value.alert is None else float(value.alert))
