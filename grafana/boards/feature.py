"""The feature detail: every method, its threshold, its quality."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from boards.panels import (
    BY_VALUE,
    FEATURE,
    FEATURE_UID,
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

_CHOSEN = f'{FEATURE},metric=~"$metric"'
_SCORE = metric("drift_score", _CHOSEN)
_THRESHOLD = metric("drift_threshold", _CHOSEN)

_PLACE = f'{FEATURE},metric=~"mean|median|quantile_.+"'


def build() -> dashboard.Dashboard:
    return board(
        FEATURE_UID,
        "Drift of a feature",
        "Everything that is measured about one feature or output. The distributions themselves, "
        "reference against window, are on the monitor's own status page.",
        [
            *window_variables(),
            variable("feature", "Feature", metric("drift_score", WINDOW), single=True),
            variable("metric", "Metric", metric("drift_score", FEATURE)),
        ],
        [
            number(
                "Scores in alert",
                "Scores of this feature that are an alert in the newest closed window.",
                f"sum({BY_VALUE} ({metric('drift_alert', _CHOSEN)}))",
                bad_above=1,
                width=6,
            ),
            number(
                "Quality alerts",
                "Kinds of broken values that are an alert in the newest closed window.",
                f"sum({BY_VALUE} ({metric('quality_alert', FEATURE)}))",
                bad_above=1,
                width=6,
            ),
            window_rows(6),
            number(
                "Window ended",
                "End of the newest closed window, event time.",
                f"max({metric('window_end_timestamp_seconds', WINDOW)}) * 1000",
                unit="dateTimeAsIso",
                width=6,
            ),
            lines(
                "Score in units of the threshold",
                "Above 1 the score is an alert. In this unit methods can be compared.",
                Query(f"{BY_VALUE} ({_SCORE} / {_THRESHOLD})", _OF_METRIC),
                unit="none",
                line_at=1,
            ),
            lines(
                "Probability without drift",
                "How probable such a score or a larger one is without drift. Logarithmic: 0 is "
                "not drawn.",
                Query(f"{BY_VALUE} ({metric('drift_p_value', _CHOSEN)})", _OF_METRIC),
                unit="none",
                log=True,
            ),
            "Scores",
            lines(
                "$metric",
                "The score in the newest closed window, its threshold (dashed), and the score so "
                "far in the window that is filling, which is not judged. wasserstein is in the "
                "feature's own unit.",
                Query(f"{BY_VALUE} ({_SCORE})", _OF_WINDOW),
                Query(f"{BY_VALUE} ({_THRESHOLD})", f"{_OF_WINDOW}, threshold"),
                Query(
                    f"{BY_VALUE} ({metric('live_drift_score', _CHOSEN)})", f"{_OF_WINDOW}, filling"
                ),
                unit="none",
                width=24,
                dashed="B",
            ).repeat("metric"),
            "Quality",
            lines(
                "Broken values",
                "Share of rows missing, of a wrong type, unseen or out of range, with their "
                "thresholds dashed.",
                Query(f"{BY_VALUE} ({metric('quality_ratio', FEATURE)})", _OF_METRIC),
                Query(
                    f"{BY_VALUE} ({metric('quality_upper_threshold_ratio', FEATURE)})",
                    f"{_OF_METRIC}, threshold",
                ),
                unit="percentunit",
                dashed="B",
            ),
            lines(
                "Broken values so far",
                "The same shares in the window that is filling; they are not judged.",
                Query(f"{BY_VALUE} ({metric('live_quality_ratio', FEATURE)})", _OF_METRIC),
                unit="percentunit",
            ),
            "Statistics",
            lines(
                "Mean and quantiles",
                "In the feature's own unit, with the band of three sampling errors.",
                Query(f"{BY_VALUE} ({metric('statistics', _PLACE)})", _OF_METRIC),
                Query(
                    f"{BY_VALUE} ({metric('statistics_lower_confidence', _PLACE)})",
                    f"{_OF_METRIC}, from",
                ),
                Query(
                    f"{BY_VALUE} ({metric('statistics_upper_confidence', _PLACE)})",
                    f"{_OF_METRIC}, to",
                ),
                unit="none",
            ),
            lines(
                "Mean and quantiles so far",
                "The same in the window that is filling.",
                Query(f"{BY_VALUE} ({metric('live_statistics', _PLACE)})", _OF_METRIC),
                unit="none",
            ),
        ],
    )
