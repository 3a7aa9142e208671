"""The operations dashboard: is the monitor itself well?"""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from boards.panels import (
    PROCESS,
    PROCESS_VARIABLES,
    Query,
    board,
    lines,
    metric,
    number,
    rate,
    values,
)

_INSTANCE = "{{instance}}"
_ALL_READY = f"min({metric('ready', PROCESS)})"


def build() -> dashboard.Dashboard:
    page = board(
        "stream-monitor-operations",
        "Monitor operations",
        "The monitors themselves: what they read, what they refuse, how they keep up.",
        PROCESS_VARIABLES,
    )
    _numbers(page)
    _input(page)
    _loop(page)
    return _process(page)


def _numbers(page: dashboard.Dashboard) -> None:
    page.with_panel(
        number(
            "Monitors that answer",
            "Scraped monitors that answered.",
            f"sum(up{{{PROCESS}}} and on (job, instance) {metric('build_info', PROCESS)})",
            bad_below=1,
        )
    ).with_panel(
        number(
            "All ready",
            "1 if every monitor has restored its state and was given its input.",
            _ALL_READY,
            bad_below=1,
        )
    ).with_panel(
        number(
            "Heartbeat age",
            "Since the slowest loop came round. The probe /-/healthy fails at 30 s.",
            f"max(time() - {metric('heartbeat_timestamp_seconds', PROCESS)})",
            unit="s",
            bad_above=30,
        )
    ).with_panel(
        number(
            "Commit age",
            "Since the oldest of the last commits; it grows while nothing is read.",
            f"max(time() - {metric('last_commit_timestamp_seconds', PROCESS)})",
            unit="s",
        )
    ).with_panel(
        number(
            "Records waiting",
            "Records that are in the source and not read yet.",
            f"sum({metric('lag_records', PROCESS)})",
        )
    ).with_panel(
        number(
            "Series left out",
            "Values that limits.max_series keeps out of the metrics.",
            f"sum({metric('series_dropped', PROCESS)})",
            bad_above=1,
        )
    )


def _input(page: dashboard.Dashboard) -> None:
    late, expired = rate("events_late_total", PROCESS), rate("events_expired_total", PROCESS)
    page.with_row(dashboard.Row("Input")).with_panel(
        lines(
            "Records read",
            "Records read a second, by partition.",
            Query(
                f"sum by (instance, partition) ({rate('records_consumed_total', PROCESS)})",
                "{{instance}} {{partition}}",
            ),
            unit="cps",
            width=8,
        )
    ).with_panel(
        lines(
            "Bytes read",
            "Payload bytes read a second.",
            Query(f"sum by (instance) ({rate('consumed_bytes_total', PROCESS)})", _INSTANCE),
            unit="binBps",
            width=8,
        )
    ).with_panel(
        lines(
            "Records waiting",
            "Records in the source that are not read yet, by partition, where the source knows.",
            Query(metric("lag_records", PROCESS), "{{instance}} {{partition}}"),
            width=8,
        )
    ).with_panel(
        lines(
            "Events counted",
            "Events counted into windows a second, by model.",
            Query(
                f"sum by (model, version) ({rate('events_total', PROCESS)})",
                "{{model}} {{version}}",
            ),
            unit="cps",
            width=8,
        )
    ).with_panel(
        lines(
            "Events refused",
            "Events that became dead letters a second, by reason.",
            Query(f"sum by (reason) ({rate('events_rejected_total', PROCESS)})", "{{reason}}"),
            unit="cps",
            width=8,
        )
    ).with_panel(
        lines(
            "Events too late",
            "Events a second that came later than time.allowed_lateness, or after the state of "
            "their window had ended its life.",
            Query(f"sum by (model, version) ({late})", "{{model}} {{version}}, late"),
            Query(f"sum by (model, version) ({expired})", "{{model}} {{version}}, expired"),
            unit="cps",
            width=8,
        )
    )


def _loop(page: dashboard.Dashboard) -> None:
    seconds = f"sum by (step) (rate(stream_monitor_step_duration_seconds_sum{{{PROCESS}}}[$__rate_interval]))"
    page
