"""Writes the Grafana dashboards, and the runbook links of the Prometheus rules.

``python grafana/generate.py`` writes them; with ``--check`` it writes nothing, names what is not
current and ends with status 1 if there is any.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

import panels
from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models
from panels import (
    BY_FEATURE,
    BY_VALUE,
    BY_WINDOW,
    FEATURE,
    MODEL,
    PROCESS,
    WINDOW,
    Query,
    lines,
    metric,
    number,
    rate,
    values,
    verdicts,
)

HERE = Path(__file__).parent
RUNBOOK = "https://github.com/stream-monitor/stream-monitor/blob/main/docs/alerts.md"

_FEATURE_DASHBOARD = (
    "/d/stream-monitor-feature?${__url_time_range}&var-datasource=${datasource}"
    "&var-model=${__data.fields.model}&var-version=${__data.fields.version}"
    "&var-window=${__data.fields.window}&var-feature=${__data.fields.feature}"
)
_VALUE = "{{model}} {{version}} {{window}}: {{feature}} {{metric}}"


def overview() -> dashboard.Dashboard:
    """What drifts now, in all models."""
    board = _board(
        "stream-monitor-overview",
        "Drift overview",
        "What has moved in the newest closed window of each model, and by how much.",
        panels.WINDOW_VARIABLES,
    )
    drifting = f"{metric('drift_alert', WINDOW)} == 1"
    broken = f"{metric('quality_alert', WINDOW)} == 1"
    relative = f"{metric('drift_score', WINDOW)} / {metric('drift_threshold', WINDOW)}"
    board.with_panel(
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
    board.with_row(dashboard.Row("Drift")).with_panel(
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
            links={"feature": _FEATURE_DASHBOARD},
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
    board.with_row(dashboard.Row("Quality and outliers")).with_panel(
        values(
            "Broken values above their threshold",
            "Shares of rows that are alerts in the newest closed windows.",
            {"Share": f"{BY_VALUE} ({metric('quality_ratio', WINDOW)} and ({broken}))"},
            unit="percentunit",
            sort_by="Share",
            links={"feature": _FEATURE_DASHBOARD},
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
    return board.with_row(dashboard.Row("Windows")).with_panel(
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


def feature() -> dashboard.Dashboard:
    """One feature: every method, its threshold, its quality."""
    board = _board(
        "stream-monitor-feature",
        "Drift of a feature",
        "Everything that is measured about one feature or output. The distributions themselves, "
        "reference against window, are on the monitor's own status page.",
        panels.WINDOW_VARIABLES,
    )
    board.with_variable(
        panels.variable("feature", "Feature", metric("drift_score", WINDOW), single=True)
    ).with_variable(panels.variable("metric", "Metric", metric("drift_score", FEATURE)))
    chosen = f'{FEATURE},metric=~"$metric"'
    relative = f"{metric('drift_score', chosen)} / {metric('drift_threshold', chosen)}"
    of_metric = "{{model}} {{version}} {{window}}: {{metric}}"
    board.with_panel(
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
    board.with_row(dashboard.Row("Scores")).with_panel(
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
    return board.with_row(dashboard.Row("Quality")).with_panel(
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
