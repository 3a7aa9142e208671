"""Performance of a model: estimated, realised, and what explains a drop."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from boards.panels import (
    BY_VALUE,
    PROCESS,
    WINDOW,
    Query,
    board,
    lines,
    metric,
    number,
    rate,
    variable,
    window_rows,
    window_variables,
)

_OF_WINDOW = "{{model}} {{version}} {{window}}"
_OF_METRIC = f"{_OF_WINDOW}: {{{{metric}}}}"
_BY_AGE = "max by (model, version, window, feature, metric, maturity)"
_OF_AGE = f"{_OF_WINDOW} after {{{{maturity}}}}"
_AGED = f"{_OF_AGE}: {{{{metric}}}} {{{{feature}}}}"
_OF_FEATURE = f"{_OF_WINDOW}: {{{{feature}}}} {{{{metric}}}}"
_MODEL = f'{PROCESS},model=~"$model"'
_CHOSEN = f'{WINDOW},metric=~"$metric"'
_UNIT = 'metric!="reconstruction_clipped"'
_SHAPE = f'{WINDOW},feature="",{_UNIT}'


def _named(name: str, select: str = _CHOSEN) -> str:
    return f"{BY_VALUE} ({metric(name, select)})"


def _aged(name: str, select: str = _CHOSEN) -> str:
    """A value that rests on labels, by maturity."""
    return f"{_BY_AGE} ({metric(name, select)})"


def build() -> dashboard.Dashboard:
    return board(
        "stream-monitor-performance",
        "Performance of a model",
        "Estimated performance needs no labels and sees what a change of the inputs costs; "
        "realised performance is that of the rows whose label is known.",
        [
            *window_variables(),
            variable("metric", "Metric", metric("estimated_performance", WINDOW)),
        ],
        [
            number(
                "Estimates in alert",
                "Estimated metrics that are an alert in the newest closed window.",
                f"sum({_named('estimated_performance_alert')})",
                bad_above=1,
                width=6,
            ),
            number(
                "Realised in alert",
                "Realised metrics that are an alert in the newest closed window.",
                f"sum({_aged('realized_performance_alert')})",
                bad_above=1,
                width=6,
            ),
            number(
                "Multivariate drift in alert",
                "Of PCA reconstruction error and domain classifier.",
                f"sum({_named('multivariate_drift_alert', WINDOW)})",
                bad_above=1,
                width=6,
            ),
            window_rows(6),
            lines(
                "$metric",
                "Estimated and realised performance in the newest closed window, the estimate's "
                "band, and its thresholds (dashed).",
                Query(_named("estimated_performance"), f"{_OF_WINDOW}, estimated"),
                Query(_aged("realized_performance"), f"{_OF_AGE}, realised"),
                Query(_named("estimated_performance_lower_confidence"), f"{_OF_WINDOW}, band from"),
                Query(_named("estimated_performance_upper_confidence"), f"{_OF_WINDOW}, band to"),
                Query(_named("estimated_performance_lower_threshold"), f"{_OF_WINDOW}, lower"),
                Query(_named("estimated_performance_upper_threshold"), f"{_OF_WINDOW}, upper"),
                unit="none",
                width=24,
                dashed="EF",
            ).repeat("metric"),
            "What a change is made of",
            lines(
                "What the inputs explain",
                "Covariate effect: the estimate less the reference's, with its band and thresholds "
                "(dashed).",
                Query(_aged("covariate_effect"), _AGED),
                Query(_aged("covariate_effect_lower_confidence"), f"{_AGED}, from"),
                Query(_aged("covariate_effect_upper_confidence"), f"{_AGED}, to"),
                Query(_aged("covariate_effect_lower_threshold"), f"{_AGED}, lower"),
                Query(_aged("covariate_effect_upper_threshold"), f"{_AGED}, upper"),
                unit="none",
                dashed="DE",
            ),
            lines(
                "What a changed world costs",
                "Concept effect: realised less estimated performance of the labelled rows, with "
                "its band and thresholds (dashed).",
                Query(_aged("concept_effect"), _AGED),
                Query(_aged("concept_effect_lower_confidence"), f"{_AGED}, from"),
                Query(_aged("concept_effect_upper_confidence"), f"{_AGED}, to"),
                Query(_aged("concept_effect_lower_threshold"), f"{_AGED}, lower"),
                Query(_aged("concept_effect_upper_threshold"), f"{_AGED}, upper"),
                unit="none",
                dashed="DE",
            ),
            lines(
                "Do scores mean what they meant",
                "Chi-squared over its freedom of labels against the calibration curve, its "
                "threshold dashed; outputs that move without inputs.",
                Query(_aged("concept_drift", WINDOW), _AGED),
                Query(_aged("concept_drift_upper_threshold", WINDOW), f"{_AGED}, upper"),
                unit="none",
                dashed="B",
            ),
            lines(
                "Can the estimate be trusted",
                "Evidence against it, log10, with its threshold (dashed), and the gaps between "
                "what came true and what was estimated, with confidence sequences.",
                Query(_aged("estimator", WINDOW), _AGED),
                Query(_aged("estimator_upper_threshold", WINDOW), f"{_AGED}, upper"),
                Query(_aged("estimator_lower_confidence", WINDOW), f"{_AGED}, from"),
                Query(_aged("estimator_upper_confidence", WINDOW), f"{_AGED}, to"),
                unit="none",
                dashed="B",
            ),
            "Labels",
            lines(
                "Share of labels in",
                "Of the newest mature window's predictions, within each maturity.",
                Query(
                    "max by (model, version, window, maturity) "
                    f"({metric('outcome_label_share_ratio', WINDOW)})",
                    _OF_AGE,
                ),
                unit="percentunit",
            ),
            lines(
                "Are the labelled like the others",
                "Distance and chi-squared of the scores of labelled and other predictions.",
                Query(_aged("labelling", WINDOW), _AGED),
                Query(_aged("labelling_upper_threshold", WINDOW), f"{_AGED}, upper"),
                unit="none",
                dashed="B",
            ),
            lines(
                "Delay of labels",
                "From a prediction to its first label: median and nine in ten.",
                Query(
                    "histogram_quantile(0.5, sum by (le, model) "
                    f"({rate('label_delay_seconds', _MODEL, '_bucket')}))",
                    "{{model}}, median",
                ),
                Query(
                    "histogram_quantile(0.9, sum by (le, model) "
                    f"({rate('label_delay_seconds', _MODEL, '_bucket')}))",
                    "{{model}}, nine in ten",
                ),
                unit="s",
            ),
            lines(
                "What becomes of labels",
                "A second, and predictions that were repeated or evicted.",
                Query(
                    f"sum by (model, result) ({rate('labels_total', _MODEL)})",
                    "{{model}}: {{result}}",
                ),
                Query(
                    f"sum by (model) ({rate('predictions_repeated_total', _MODEL)})",
                    "{{model}}: repeated predictions",
                ),
                Query(
                    f"sum by (model) ({rate('predictions_evicted_total', _MODEL)})",
                    "{{model}}: evicted predictions",
                ),
                unit="cps",
            ),
            lines(
                "Labels without a prediction, stored rows",
                "Labels whose prediction has not come; predictions and labels that are stored.",
                Query(
                    f"sum by (model) ({metric('labels_without_prediction', _MODEL)})",
                    "{{model}}: without prediction",
                ),
                Query(f"sum by (ledger) ({metric('stored_rows', PROCESS)})", "{{ledger}}"),
                unit="short",
            ),
            lines(
                "Size of what is stored",
                "On disk, and the filters in memory.",
                Query(f"sum ({metric('ledger_bytes', PROCESS)})", "on disk"),
                Query(f"sum ({metric('ledger_memory_bytes', PROCESS)})", "in memory"),
                unit="bytes",
            ),
            "Thresholds and what is filling",
            lines(
                "Realised performance and its thresholds",
                "A value outside of its thresholds (dashed) is an alert.",
                Query(_aged("realized_performance"), _AGED),
                Query(_aged("realized_performance_lower_threshold"), f"{_AGED}, lower"),
                Query(_aged("realized_performance_upper_threshold"), f"{_AGED}, upper"),
                unit="none",
                dashed="BC",
            ),
            lines(
                "So far",
                "In the window that is filling; not judged.",
                Query(_named("live_estimated_performance"), f"{_OF_METRIC}, estimated"),
                unit="none",
            ),
            "Multivariate drift",
            lines(
                "Reconstruction error and domain classifier",
                "With their thresholds (dashed) and the band.",
                Query(_named("multivariate_drift", _SHAPE), _OF_METRIC),
                Query(_named("multivariate_drift_lower_threshold", _SHAPE), f"{_OF_METRIC}, lower"),
                Query(_named("multivariate_drift_upper_threshold", _SHAPE), f"{_OF_METRIC}, upper"),
                Query(_named("multivariate_drift_lower_confidence", _SHAPE), f"{_OF_METRIC}, from"),
                Query(_named("multivariate_drift_upper_confidence", _SHAPE), f"{_OF_METRIC}, to"),
                Query(_named("live_multivariate_drift", _SHAPE), f"{_OF_METRIC}, so far"),
                unit="none",
                dashed="BC",
            ),
            lines(
                "Features of the reconstruction error",
                "Each feature's part in it.",
                Query(
                    _named("multivariate_drift", f'{WINDOW},metric="reconstruction_contribution"'),
                    _OF_FEATURE,
                ),
                unit="percentunit",
            ),
        ],
    )
