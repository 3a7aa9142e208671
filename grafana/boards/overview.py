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
    WINDOW_VARIABLES,
    Query,
    board,
    lines,
    metric,
    number,
    rate,
    values,
    verdicts,
)

_VALUE = "{{model}} {{version}} {{window}}: {{feature}} {{metric}}"


def build() -> dashboard.Dashboard:
    """What drifts now, in all models."""
    page = board(
        "stream-monitor-overview",
        "Drift overview",
        "What has moved in the newest closed window of each model, and by how much.",
        WINDOW_VARIABLES,
    )
    drifting = f"{metric('drift_alert', WINDOW)} == 1"
    broken = f"{metric('quality_alert', WINDOW)} == 1"
    relative = f"{metric('drift_score', WINDOW)} / {metric('drift_threshold', WINDOW)}"
    page.with_panel(
        number(
            "Features in drift",
            "Features and outputs with a drift alert in their newest closed window.",
            f"sum({BY_FEATURE} ({metric('drift_alert', WINDOW)}))",
            bad_above=1,
        )
    ).with_panel(
        number(
            "Features with broken values",
            "Features with more missing, wrongly typed, unseen or out-of-range values than in the "
            "reference.",
            f"sum({BY_FEATURE} ({metric('quality_alert', WINDOW)}))",
            bad_above=1,
        )
    ).with_panel(
        number(
            "Outlier alerts",
            "Models and windows whose rows are more unusual than the reference's.",
            f"sum({BY_WINDOW} ({metric('outliers_alert', WINDOW)}))",
            bad_above=1,
        )
    ).with_panel(
        number(
            "Rows in the newest windows",
            "Rows that the newest closed windows rest on, all models together.",
            f"sum({BY_WINDOW} ({metric('window_rows', WINDOW)}))",
        )
    ).with_panel(
        number(
            "Newest window ended",
            "End of the newest closed window, event time: far from now in a replay.",
            f"max({metric('window_end_timestamp_seconds', WINDOW)}) * 1000",
            unit="dateTimeAsIso",
        )
    ).with_panel(
        number(
            "Events",
            "Events counted into windows a second.",
            f"sum({rate('events_total', MODEL)})",
            unit="cps",
        )
    )
    page.with_row(dashboard.Row("Drift")).with_panel(
        values(
            "Drift above its threshold",
            "Values of the newest closed windows that are alerts. The threshold belongs to the "
            "window's number of rows; wasserstein is in the feature's own unit. Click on a "
            "feature to see its past.",
            {
                "Score": f"{BY_VALUE} ({metric('drift_score', WINDOW)} and ({drifting}))",
                "Threshold": f"{BY_VALUE} ({metric('drift_threshold', WINDOW)} and ({drifting}))",
                "Times threshold": f"{BY_VALUE} ({relative} and ({drifting}))",
            },
            sort_by="Times threshold",
            links={"feature": FEATURE_LINK},
        )
    ).with_panel(
        lines(
            "Drift in units of its threshold, ten strongest",
            "Each feature's largest score divided by its threshold: above 1 it is an alert.",
            Query(
                f"topk(10, {BY_FEATURE} ({relative}))",
                "{{model}} {{version}} {{window}}: {{feature}}",
            ),
            unit="none",
            line_at=1,
        )
    ).with_panel(
        verdicts(
            "Features over time",
            "Whether any method's score of the feature was an alert in the newest closed window.",
            Query(
                f"{BY_FEATURE} ({metric('drift_alert', WINDOW)})",
                "{{model}} {{version}} {{window}}: {{feature}}",
            ),
            width=12,
        )
    )
    page.with_row(dashboard.Row("Quality and outliers")).with_panel(
        values(
            "Broken values above their threshold",
            "Shares of rows that are alerts in the newest closed windows.",
            {"Share": f"{BY_VALUE} ({metric('quality_ratio', WINDOW)} and ({broken}))"},
            unit="percentunit",
            sort_by="Share",
            links={"feature": FEATURE_LINK},
        )
    ).with_panel(
        lines(
            "Broken values, ten largest shares",
            "Share of the rows of the newest closed window that are missing, of a wrong type, "
            "unseen or out of range.",
            Query(f"topk(10, {BY_VALUE} ({metric('quality_ratio', WINDOW)}))", _VALUE),
            unit="percentunit",
        )
    ).with_panel(
        lines(
            "Outliers",
            "Share of unusual rows and mean outlier score by Half-Space Trees, with their "
            "thresholds dashed.",
            Query(f"{BY_VALUE} ({metric('outliers_ratio', WINDOW)})", _VALUE),
            Query(
                f"{BY_VALUE} ({metric('outliers_upper_threshold_ratio', WINDOW)})",
                f"{_VALUE}, threshold",
            ),
            unit="percentunit",
            dashed="B",
        )
    )
    return page.with_row(dashboard.Row("Windows")).with_panel(
        lines(
            "Rows in a window",
            "Rows of the newest closed window, and so far of the one that is filling.",
            Query(
                f"{BY_WINDOW} ({metric('window_rows', WINDOW)})",
                "{{model}} {{version}} {{window}}, closed",
            ),
            Query(
                f"{BY_WINDOW} ({metric('live_window_rows', WINDOW)})",
                "{{model}} {{version}} {{window}}, filling",
            ),
            width=24,
        )
    )
