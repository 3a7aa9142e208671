"""The feature detail: every method, its threshold, its quality."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from boards.panels import (
    BY_VALUE,
    BY_WINDOW,
    FEATURE,
    FEATURE_UID,
    WINDOW,
    WINDOW_VARIABLES,
    Query,
    board,
    lines,
    metric,
    number,
    variable,
)


def build() -> dashboard.Dashboard:
    """One feature: every method, its threshold, its quality."""
    page = board(
        FEATURE_UID,
        "Drift of a feature",
        "Everything that is measured about one feature or output. The distributions themselves, "
        "reference against window, are on the monitor's own status page.",
        WINDOW_VARIABLES,
    )
    page.with_variable(
        variable("feature", "Feature", metric("drift_score", WINDOW), single=True)
    ).with_variable(variable("metric", "Metric", metric("drift_score", FEATURE)))
    chosen = f'{FEATURE},metric=~"$metric"'
    relative = f"{metric('drift_score', chosen)} / {metric('drift_threshold', chosen)}"
    of_metric = "{{model}} {{version}} {{window}}: {{metric}}"
    page.with_panel(
        number(
            "Methods that see drift",
            "Methods whose score of this feature is an alert in the newest closed window.",
            f"sum({BY_VALUE} ({metric('drift_alert', chosen)}))",
            bad_above=1,
            width=6,
        )
    ).with_panel(
        number(
            "Quality alerts",
            "Kinds of broken values that are an alert in the newest closed window.",
            f"sum({BY_VALUE} ({metric('quality_alert', FEATURE)}))",
            bad_above=1,
            width=6,
        )
    ).with_panel(
        number(
            "Rows",
            "Rows of the newest closed windows that are shown.",
            f"sum({BY_WINDOW} ({metric('window_rows', WINDOW)}))",
            width=6,
        )
    ).with_panel(
        number(
            "Window ended",
            "End of the newest closed window, event time.",
            f"max({metric('window_end_timestamp_seconds', WINDOW)}) * 1000",
            unit="dateTimeAsIso",
            width=6,
        )
    ).with_panel(
        lines(
            "Score in units of the threshold",
            "Above 1 the score is an alert. The unit makes methods comparable.",
            Query(f"{BY_VALUE} ({relative})", of_metric),
            unit="none",
            line_at=1,
        )
    ).with_panel(
        lines(
            "Probability without drift",
            "How probable a score as large as this one, or larger, is for as many rows of the "
            "reference. Logarithmic; what is 0 is not drawn.",
            Query(f"{BY_VALUE} ({metric('drift_p_value', chosen)})", of_metric),
            unit="none",
            log=True,
        )
    )
    page.with_row(dashboard.Row("Scores")).with_panel(
        lines(
            "$metric",
            "The score in the newest closed window, its threshold (dashed), and the score so far "
            "of the window that is filling, which is not judged. wasserstein is in the feature's "
            "own unit.",
            Query(
                f"{BY_VALUE} ({metric('drift_score', chosen)})", "{{model}} {{version}} {{window}}"
            ),
            Query(
                f"{BY_VALUE} ({metric('drift_threshold', chosen)})",
                "{{model}} {{version}} {{window}}, threshold",
            ),
            Query(
                f"{BY_VALUE} ({metric('live_drift_score', chosen)})",
                "{{model}} {{version}} {{window}}, filling",
            ),
            unit="none",
            dashed="B",
        ).repeat("metric")
    )
    return page.with_row(dashboard.Row("Quality")).with_panel(
        lines(
            "Broken values",
            "Share of rows missing, of a wrong type, unseen or out of range, with their thresholds "
            "dashed.",
            Query(f"{BY_VALUE} ({metric('quality_ratio', FEATURE)})", of_metric),
            Query(
                f"{BY_VALUE} ({metric('quality_upper_threshold_ratio', FEATURE)})",
                f"{of_metric}, threshold",
            ),
            unit="percentunit",
            dashed="B",
        )
    ).with_panel(
        lines(
            "Broken values so far",
            "The same shares in the window that is filling; they are not judged.",
            Query(f"{BY_VALUE} ({metric('live_quality_ratio', FEATURE)})", of_metric),
            unit="percentunit",
        )
    )
