"""Every Prometheus metric that the service exposes, as data: name, type, labels, help.

The collector renders from this table and refuses a name that is not in it; the docs, the
dashboards and the rules are tested against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "stream_monitor_"

_MODEL = ("model", "version")
_WINDOW = (*_MODEL, "segment", "window")
_VALUE = (*_WINDOW, "feature", "metric")
_MATURE = (*_WINDOW, "maturity")
_LATE_VALUE = (*_VALUE, "maturity")


@dataclass(frozen=True, slots=True)
class Metric:
    """``name`` is without the prefix; a counter's carries its ``_total``."""

    name: str
    type: Literal["gauge", "counter", "histogram", "info"]
    labels: tuple[str, ...]
    help: str

    @property
    def full_name(self) -> str:
        return PREFIX + self.name


def _judged(
    name: str,
    meaning: str,
    labels: tuple[str, ...] = _VALUE,
    when: str = "the newest closed window",
) -> tuple[Metric, ...]:
    """A value of the newest closed window with its band and its thresholds."""
    return (
        Metric(name, "gauge", labels, f"{meaning}, in {when}."),
        Metric(f"{name}_lower_confidence", "gauge", labels, f"Lower end of the band of {name}."),
        Metric(f"{name}_upper_confidence", "gauge", labels, f"Upper end of the band of {name}."),
        Metric(f"{name}_lower_threshold", "gauge", labels, f"Below it {name} is an alert."),
        Metric(f"{name}_upper_threshold", "gauge", labels, f"Above it {name} is an alert."),
        Metric(f"{name}_alert", "gauge", labels, f"1 if {name} is an alert, 0 if judged fine."),
    )


def _late(name: str, meaning: str) -> tuple[Metric, ...]:
    """A value that rests on labels: of the newest window that is mature."""
    when = "the newest window whose predictions are all older than `maturity`"
    return _judged(name, meaning, _LATE_VALUE, when)


CATALOGUE: dict[str, Metric] = {
    m.name: m
    for m in (
        # the process
        Metric("build_info", "gauge", ("version",), "The running version; always 1."),
        Metric("ready", "gauge", (), "1 once state is restored and partitions are read."),
        Metric("single_instance", "gauge", (),
               "1 where state is local: this process sees only what it reads itself."),
        Metric("aggregator_active", "gauge", (),
               "1 in the one replica that evaluates and tells what all of them read."),
        Metric("heartbeat_timestamp_seconds", "gauge", (), "When the loop last came round."),
        Metric("step_duration_seconds", "histogram", ("step",),
               "Time spent a batch in poll, decode, update, evaluate and commit."),
        Metric("commit_failures_total", "counter", (), "Checkpoints that could not be written."),
        Metric("last_commit_timestamp_seconds", "gauge", (), "When state was last committed."),
        Metric("state_bytes", "gauge", (), "Bytes of pane counts held in memory."),
        Metric("memory_limit_bytes", "gauge", (), "The configured limit for state."),
        Metric("series", "gauge", (), "Series of window values in this scrape."),
        Metric("series_dropped", "gauge", (), "Series left out because of limits.max_series."),
        # the input
        Metric("assigned_partitions", "gauge", (), "Partitions that this process reads."),
        Metric("records_consumed_total", "counter", ("partition",), "Records read."),
        Metric("consumed_bytes_total", "counter", ("partition",), "Payload bytes read."),
        Metric("records_lost_total", "counter", ("partition",),
               "Records that were deleted from their topic before they were read."),
        Metric("lag_records", "gauge", ("partition",),
               "Records not read yet, where the source knows."),
        Metric("events_total", "counter", _MODEL, "Events counted into windows."),
        Metric("events_late_total", "counter", _MODEL,
               "Events not counted because they came later than time.allowed_lateness."),
        Metric("events_expired_total", "counter", _MODEL,
               "Events not counted because their window's state had ended its life."),
        Metric("events_rejected_total", "counter", ("reason",), "Events that became dead letters."),
        Metric("dead_letters_dropped_total", "counter", (),
               "Dead letters deleted because of store.max_dead_letters."),
        Metric("last_record_timestamp_seconds", "gauge", (), "Newest record timestamp read."),
        Metric("watermark_timestamp_seconds", "gauge", (),
               "Windows that end before this are closed."),
        # labels that come late
        Metric("labels_total", "counter", ("model", "result"),
               "Labels by what became of them: joined, duplicate, corrected, outdated, late, "
               "beyond_horizon."),
        Metric("labels_without_prediction", "gauge", ("model",),
               "Labels whose prediction has not come."),
        Metric("label_delay_seconds", "histogram", ("model",),
               "Time from a prediction to its first label."),
        Metric("predictions_repeated_total", "counter", ("model",),
               "Predictions whose id was there already."),
        Metric("predictions_evicted_total", "counter", ("model",),
               "Stored predictions dropped because of labels.max_predictions."),
        Metric("stored_rows", "gauge", ("ledger",), "Predictions and labels that are stored."),
        Metric("ledger_bytes", "gauge", (), "Bytes of stored predictions and labels on disk."),
        Metric("ledger_memory_bytes", "gauge", (), "Bytes of their filters in memory."),
        # the reference
        Metric("reference_info", "gauge", (*_MODEL, "fingerprint"), "The reference in use."),
        Metric("reference_rows", "gauge", _MODEL, "Rows of the reference."),
        # the newest closed window
        Metric("window_rows", "gauge", _WINDOW, "Rows in the newest closed window."),
        Metric("window_end_timestamp_seconds", "gauge", _WINDOW,
               "End of the newest closed window, event time."),
        Metric("window_revision", "gauge", _WINDOW,
               "How often the newest closed window was published anew."),
        Metric("outcome_window_rows", "gauge", _MATURE,
               "Predictions in the newest mature window."),
        Metric("outcome_window_end_timestamp_seconds", "gauge", _MATURE,
               "End of the newest mature window, event time."),
        Metric("outcome_window_revision", "gauge", _MATURE,
               "How often the newest mature window was published anew."),
        Metric("outcome_label_share_ratio", "gauge", _MATURE,
               "Share of the newest mature window's predictions whose label came in time."),
        Metric("drift_score", "gauge", _VALUE,
               "Univariate drift in the newest closed window; wasserstein in the feature's unit."),
        Metric("drift_threshold", "gauge", _VALUE, "Above it drift_score is an alert."),
        Metric("drift_p_value", "gauge", _VALUE,
               "Probability of such a drift_score or a larger one without drift."),
        Metric("drift_alert", "gauge", _VALUE, "1 if drift_score is an alert, 0 if judged fine."),
        Metric("quality_ratio", "gauge", _VALUE,
               "Share of rows missing, of a wrong type, unseen or out of range."),
        Metric("quality_upper_threshold_ratio", "gauge", _VALUE,
               "Above it quality_ratio is an alert."),
        Metric("quality_lower_threshold_ratio", "gauge", _VALUE,
               "Below it quality_ratio is an alert."),
        Metric("quality_alert", "gauge", _VALUE,
               "1 if quality_ratio is an alert, 0 if judged fine."),
        Metric("outliers_ratio", "gauge", _VALUE,
               "Half-Space-Trees outlier share and mean outlier score."),
        Metric("outliers_upper_threshold_ratio", "gauge", _VALUE,
               "Above it outliers_ratio is an alert."),
        Metric("outliers_alert", "gauge", _VALUE,
               "1 if outliers_ratio is an alert, 0 if judged fine."),
        *_judged("multivariate_drift", "PCA reconstruction error, domain classifier's AUROC"),
        *_judged("estimated_performance", "Performance estimated without labels (CBPE, DLE)"),
        *_late("realized_performance", "Performance on the rows whose label is known"),
        *_late("covariate_effect",
               "What the inputs explain of the change of performance, in the metric's unit"),
        *_late("concept_effect",
               "What a changed world costs of performance, in the metric's unit"),
        *_late("concept_drift",
               "Labels against the reference's calibration curve, outputs against inputs"),
        *_late("labelling", "Share of labels in, and whether the labelled are like the others"),
        *_late("estimator", "Sequential test of the estimate: gaps, and log10 of the evidence"),
        *_judged("statistics", "Summary statistics of a column, in its unit"),
        Metric("detections", "gauge", _VALUE,
               "Drifts that a sequential detector found in the window's panes; metric: its name."),
        Metric("detections_alert", "gauge", _VALUE, "1 if detections is above 0, else 0."),
        Metric("alert_info", "gauge", (*_WINDOW, "feature", "family", "explanation", "maturity"),
               "What a value in alert means, in words; always 1, only while it is one."),
        # the window that is still filling: shown, never judged
        Metric("live_window_rows", "gauge", _WINDOW, "Rows so far in the window that is filling."),
        Metric("live_drift_score", "gauge", _VALUE, "drift_score so far, not judged."),
        Metric("live_quality_ratio", "gauge", _VALUE, "quality_ratio so far, not judged."),
        Metric("live_outliers_ratio", "gauge", _VALUE, "outliers_ratio so far, not judged."),
        *(
            Metric(f"live_{name}", "gauge", _VALUE, f"{name} so far, not judged.")
            for name in ("multivariate_drift", "estimated_performance", "realized_performance",
                         "statistics", "detections")
        ),
    )
}  # fmt: skip
