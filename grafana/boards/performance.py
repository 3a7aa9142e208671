"""Performance of a model: estimated, realised, and what explains a drop."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from boards.panels import (
    BY_VALUE,
    WINDOW,
    Query,
    board,
    lines,
    metric,
    number,
    variable,
    window_rows,
    window_variables,
)

_OF_WINDOW = "{{model}} {{version}} {{window}}"
_OF_METRIC = f"{_OF_WINDOW}: {{{{metric}}}}"
_OF_FEATURE = f"{_OF_WINDOW}: {{{{feature}}}} {{{{metric}}}}"
_CHOSEN = f'{WINDOW},metric=~"$metric"'
_UNIT = 'metric!="reconstruction_clipped"'
_SHAPE = f'{WINDOW},feature="",{_UNIT}'


def _named(name: str, select: str = _CHOSEN) -> str:
    return f"{BY_VALUE} ({metric(name, select)})"


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
                f"sum({_named('realized_performance_alert')})",
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
                Query(_named("realized_performance"), f"{_OF_WINDOW}, realised"),
                Query(_named("estimated_performance_lower_confidence"), f"{_OF_WINDOW}, band from"),
                Query(_named("estimated_performance_upper_confidence"), f"{_OF_WINDOW}, band to"),
                Query(_named("estimated_performance_lower_threshold"), f"{_OF_WINDOW}, lower"),
                Query(_named("estimated_performance_upper_threshold"), f"{_OF_WINDOW}, upper"),
                unit="none",
                width=24,
                dashed="EF",
            ).repeat("metric"),
            "Thresholds and what is filling",
            lines(
                "Realised performance and its thresholds",
                "A value outside of its thresholds (dashed) is an alert.",
                Query(_named("realized_performance"), _OF_METRIC),
                Query(_named("realized_performance_lower_threshold"), f"{_OF_METRIC}, lower"),
                Query(_named("realized_performance_upper_threshold"), f"{_OF_METRIC}, upper"),
                unit="none",
                dashed="BC",
            ),
            lines(
                "So far",
                "In the window that is filling; not judged.",
                Query(_named("live_estimated_performance"), f"{_OF_METRIC}, estimated"),
                Query(_named("live_realized_performance"), f"{_OF_METRIC}, realised"),
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
