"""The overview: what drifts now, in all models."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from boards.panels import (
    BY_FEATURE,
    BY_VALUE,
    BY_WINDOW,
    FEATURE_LINK,
    MODEL,
    WINDOW,
    Query,
    board,
    lines,
    metric,
    number,
    rate,
    values,
    verdicts,
    window_variables,
)

_OF_WINDOW = "{{model}} {{version}} {{window}}"
_OF_FEATURE = f"{_OF_WINDOW}: {{{{feature}}}}"
_OF_VALUE = f"{_OF_FEATURE} {{{{metric}}}}"

_SCORE = metric("drift_score", WINDOW)
_THRESHOLD = metric("drift_threshold", WINDOW)
_DRIFTS = f"({metric('drift_alert', WINDOW)} == 1)"
_SHARE = metric("quality_ratio", WINDOW)
_BROKEN = f"({metric('quality_alert', WINDOW)} == 1)"


def build() -> dashboard.Dashboard:
    return board(
        "stream-monitor-overview",
        "Drift overview",
        "What has moved in the newest closed window of each model, and by how much.",
        window_variables(),
        [
            number(
                "Features in drift",
                "Features and outputs with a drift alert in their newest closed window.",
                f"sum({BY_FEATURE} ({metric('drift_alert', WINDOW)}))",
                bad_above=1,
            ),
            number(
                "Features with broken values",
                "Features with more missing, wrongly typed, unseen or out-of-range values than "
                "the reference has.",
                f"sum({BY_FEATURE} ({metric('quality_alert', WINDOW)}))",
                bad_above=1,
            ),
            number(
                "Windows with outliers",
                "Windows whose rows are more unusual than the reference's.",
                f"sum({BY_WINDOW} ({metric('outliers_alert', WINDOW)}))",
                bad_above=1,
            ),
            number(
                "Rows in the newest windows",
                "Rows that the newest closed windows rest on, all models together.",
                f"sum({BY_WINDOW} ({metric('window_rows', WINDOW)}))",
            ),
            number(
                "Newest window ended",
                "End of the newest closed window, event time: far from now in a replay.",
                f"max({metric('window_end_timestamp_seconds', WINDOW)}) * 1000",
                unit="dateTimeAsIso",
            ),
            number(
                "Events",
                "Events counted into windows a second.",
                f"sum({rate('events_total', MODEL)})",
                unit="cps",
            ),
            "Drift",
            values(
                "Drift above its threshold",
                "Values of the newest closed windows that are alerts. The threshold belongs to "
                "the window's number of rows; wasserstein is in the feature's own unit. Click on "
                "a feature for its past.",
                {
                    "Score": f"{BY_VALUE} ({_SCORE} and {_DRIFTS})",
                    "Threshold": f"{BY_VALUE} ({_THRESHOLD} and {_DRIFTS})",
                    "Times threshold": f"{BY_VALUE} ({_SCORE} / {_THRESHOLD} and {_DRIFTS})",
                },
                sort_by="Times threshold",
                links={"feature": FEATURE_LINK},
            ),
            lines(
                "Drift in units of its threshold, ten strongest",
                "Each feature's largest score divided by its threshold: above 1 it is an alert.",
                Query(f"topk(10, {BY_FEATURE} ({_SCORE} / {_THRESHOLD}))", _OF_FEATURE),
                unit="none",
                line_at=1,
            ),
            verdicts(
                "Features over time",
                "Whether some score of the feature was an alert in the newest closed window.",
                Query(f"{BY_FEATURE} ({metric('drift_alert', WINDOW)})", _OF_FEATURE),
                width=12,
            ),
            "Quality and outliers",
            values(
                "Broken values above their threshold",
                "Shares of rows that are alerts in the newest closed windows.",
                {"Share": f"{BY_VALUE} ({_SHARE} and {_BROKEN})"},
                unit="percentunit",
                sort_by="Share",
                links={"feature": FEATURE_LINK},
            ),
            lines(
                "Broken values, ten largest shares",
                "Share of the newest closed window's rows that are missing, of a wrong type, "
                "unseen or out of range.",
                Query(f"topk(10, {BY_VALUE} ({_SHARE}))", _OF_VALUE),
                unit="percentunit",
            ),
            lines(
                "Outliers",
                "Share of unusual rows and mean outlier score by Half-Space Trees, with their "
                "thresholds dashed.",
                Query(f"{BY_VALUE} ({metric('outliers_ratio', WINDOW)})", _OF_VALUE),
                Query(
                    f"{BY_VALUE} ({metric('outliers_upper_threshold_ratio', WINDOW)})",
                    f"{_OF_VALUE}, threshold",
                ),
                unit="percentunit",
                dashed="B",
            ),
            "Windows",
            lines(
                "Rows in a window",
                "Rows of the newest closed window, and so far of the one that is filling.",
                Query(f"{BY_WINDOW} ({metric('window_rows', WINDOW)})", f"{_OF_WINDOW}, closed"),
                Query(
                    f"{BY_WINDOW} ({metric('live_window_rows', WINDOW)})", f"{_OF_WINDOW}, filling"
                ),
                width=24,
            ),
        ],
    )
