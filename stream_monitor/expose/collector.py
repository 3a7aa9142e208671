"""The snapshot as Prometheus metrics: built at each scrape, never updated in place."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from stream_monitor.expose.catalogue import CATALOGUE
from stream_monitor.expose.snapshot import (
    FiringAlert,
    JoinView,
    ServiceView,
    Snapshot,
    WindowView,
)
from stream_monitor.labels import join as joining
from stream_monitor.labels.join import DELAY_BOUNDS
from stream_monitor.labels.route import LATE as LATE_LABELS
from stream_monitor.values import (
    CONCEPT_DRIFT,
    CONCEPT_EFFECT,
    COVARIATE_EFFECT,
    DETECTORS,
    DRIFT,
    ESTIMATED,
    ESTIMATOR,
    LABELS,
    LATE,
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
    COVARIATE_EFFECT: _Names.of("covariate_effect", confidence=True),
    CONCEPT_EFFECT: _Names.of("concept_effect", confidence=True),
    CONCEPT_DRIFT: _Names.of("concept_drift", confidence=True),
    LABELS: _Names.of("labelling", confidence=True),
    ESTIMATOR: _Names.of("estimator", confidence=True),
    DETECTORS: _Names("detections", "", "detections_alert"),
}


# the `result` of labels_total by what the join counts, and the metrics of what is no result
_RESULTS = {
    joining.JOINED: "joined",
    joining.DUPLICATE: "duplicate",
    joining.CORRECTED: "corrected",
    joining.OUTDATED: "outdated",
    LATE_LABELS: "late",
    joining.TOO_OLD: "beyond_horizon",
}
_COUNTS = {
    joining.WAITING: "labels_without_prediction",
    joining.REPEATED: "predictions_repeated_total",
    joining.EVICTED: "predictions_evicted_total",
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
                for outcome in window.outcomes:
                    if outcome.closed is not None:
                        _outcome(page, outcome.closed, newest=outcome is window.outcomes[-1])
        _alerts(page, snapshot.alerts)
        page.add("series", (), page.values)
        page.add("series_dropped", (), page.dropped)
        yield from page.metrics()


class _Page:
    """Metric families by name; window values beyond the limit are dropped and counted."""

    def __init__(self, max_series: int) -> None:
        self._max_series = max_series
        self._families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        self._histograms: dict[str, HistogramMetricFamily] = {}
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

    def histogram(self, name: str, label: str, counts: Sequence[int], total: float) -> None:
        """Counts a bucket of label delays, which are summed up as Prometheus has them."""
        metric = CATALOGUE[name]
        family = self._histograms.setdefault(
            name, HistogramMetricFamily(metric.full_name, metric.help, labels=metric.labels)
        )
        bounds = [*(f"{bound / _MICROSECONDS:g}" for bound in DELAY_BOUNDS), "+Inf"]
        sums = accumulate(counts)
        family.add_metric([label], list(zip(bounds, sums, strict=True)), total)

    def metrics(self) -> Iterator[Metric]:
        yield from self._families.values()
        yield from self._histograms.values()


def _service(page: _Page, service: ServiceView) -> None:
    if service.join is not None:
        _join(page, service.join)
    for name, value in (
        ("ready", service.ready),
        ("single_instance", service.single_instance),
        ("aggregator_active", service.active),
        ("heartbeat_timestamp_seconds", service.heartbeat / _MICROSECONDS),
        ("last_commit_timestamp_seconds", service.last_commit / _MICROSECONDS),
        ("commit_failures_total", service.commit_failures),
        ("dead_letters_dropped_total", service.dead_letters_dropped),
        ("state_bytes", service.state_bytes),
        ("memory_limit_bytes", service.memory_limit),
        ("assigned_partitions", len(service.partitions)),
    ):
        page.add(name, (), float(value))
    page.add("build_info", (service.version,), 1)
    for label, count in service.lag.items():
        page.add("lag_records", (label,), count)
    if service.active:
        _counts(page, service)


def _counts(page: _Page, service: ServiceView) -> None:
    """What came in, to all replicas together: so one of them tells it."""
    page.add("last_record_timestamp_seconds", (), service.last_record / _MICROSECONDS)
    page.add("watermark_timestamp_seconds", (), service.watermark / _MICROSECONDS)
    for name, table in (
        ("records_consumed_total", service.records),
        ("consumed_bytes_total", service.bytes),
        ("records_lost_total", service.lost),
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


def _join(page: _Page, join: JoinView) -> None:
    for what, counts in join.labels.items():
        for model, count in counts.items():
            if what in _RESULTS:
                page.add("labels_total", (model, _RESULTS[what]), count)
            else:
                page.add(_COUNTS[what], (model,), count)
    for model, (buckets, total) in join.delays.items():
        page.histogram("label_delay_seconds", model, buckets, total / _MICROSECONDS)
    for ledger, rows in join.stored.items():
        page.add("stored_rows", (ledger,), rows)
    page.add("ledger_bytes", (), join.bytes)
    page.add("ledger_memory_bytes", (), join.memory)


def _outcome(page: _Page, result: WindowResult, *, newest: bool) -> None:
    """What labels tell; of the label column itself what the greatest maturity says."""
    labels = (*_labels(result), result.maturity)
    page.value("outcome_window_rows", labels, result.rows)
    end = result.end / _MICROSECONDS if result.end > 0 else math.nan
    page.value("outcome_window_end_timestamp_seconds", labels, end)
    page.value("outcome_window_revision", labels, result.revision)
    page.value("outcome_label_share_ratio", labels, result.label_share)
    for value in result.values:
        if value.family in LATE or newest:
            _value(page, _FAMILIES[value.family], result, value)


def _window(page: _Page, view: WindowView) -> None:
    if (closed := view.closed) is not None:
        labels = _labels(closed)
        page.value("window_rows", labels, closed.rows)
        end = closed.end / _MICROSECONDS if closed.end > 0 else math.nan  # rows without times
        page.value("window_end_timestamp_seconds", labels, end)
        page.value("window_revision", labels, closed.revision)
        for value in closed.values:
            if (names := _FAMILIES.get(value.family)) is not None:
                _value(page, names, closed, value)
    if (filling := view.filling) is not None:
        labels = _labels(filling)
        page.value("live_window_rows", labels, filling.rows)
        for value in filling.values:
            if (names := _FAMILIES.get(value.family)) is not None:
                name = f"live_{names.value}"
                if name in CATALOGUE:
                    page.value(name, (*labels, value.feature, value.metric), value.value)


def _alerts(page: _Page, alerts: Iterable[FiringAlert]) -> None:
    """Explanations, each once; so many and so long that labels stay bounded."""
    explained = {
        (
            a.model,
            a.version,
            a.segment,
            a.window,
            a.feature,
            a.family,
            _cut(a.explanation),
            a.maturity,
        )
        for a in alerts
        if a.explanation
    }
    for labels in sorted(explained)[:_EXPLANATIONS]:
        page.add("alert_info", labels, 1)


def _cut(text: str) -> str:
    return text if len(text) <= _EXPLANATION else text[: _EXPLANATION - 1] + "…"


def _labels(result: WindowResult) -> tuple[str, ...]:
    return result.model, result.version, result.segment, result.window


def _value(page: _Page, names: _Names, result: WindowResult, value: Value) -> None:
    labels = (*_labels(result), value.feature, value.metric)
    if value.family in LATE:
        labels = (*labels, result.maturity)
    page.value(names.value, labels, value.value)
    page.value(names.upper, labels, value.upper_threshold)
    page.value(names.lower, labels, value.lower_threshold)
    page.value(names.p_value, labels, value.p_value)
    page.value(names.lower_confidence, labels, value.lower_confidence)
    page.value(names.upper_confidence, labels, value.upper_confidence)
    page.value(names.alert, labels, math.nan if value.alert is None else float(value.alert))
