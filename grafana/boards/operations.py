"""The operations dashboard: are the monitors themselves well?"""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from boards.panels import (
    BAD,
    IDLE,
    OK,
    PROCESS,
    Query,
    board,
    lines,
    metric,
    number,
    process_variables,
    rate,
    values,
    verdicts,
)

_OF_INSTANCE = "{{instance}}"
_OF_MODEL = "{{model}} {{version}}"
_STEP = "step_duration_seconds"
_COMMIT = f'{PROCESS},step="commit"'
_BY_INSTANCE = "sum by (job, instance)"


def build() -> dashboard.Dashboard:
    return board(
        "stream-monitor-operations",
        "Monitor operations",
        "The monitors themselves: what they read, what they refuse, whether they keep up.",
        process_variables(),
        [
            number(
                "Monitors that answer",
                "Monitors that answered their last scrape.",
                f"sum(up{{{PROCESS}}} and on (job, instance) {metric('build_info', PROCESS)})",
                bad_below=1,
            ),
            number(
                "All ready",
                "1 if every monitor has restored its state and was given its input.",
                f"min({metric('ready', PROCESS)})",
                bad_below=1,
            ),
            number(
                "Heartbeat age",
                "Since the slowest loop came round. The probe /-/healthy fails at 30 s.",
                f"max(time() - {metric('heartbeat_timestamp_seconds', PROCESS)})",
                unit="s",
                bad_above=30,
            ),
            number(
                "Commit age",
                "Since the oldest of the monitors' last commits; it grows while nothing is read.",
                f"max(time() - ({metric('last_commit_timestamp_seconds', PROCESS)} > 0))",
                unit="s",
            ),
            number(
                "Failing commits",
                "Attempts to write a checkpoint that fail, a second.",
                f"sum({rate('commit_failures_total', PROCESS)})",
                unit="cps",
                bad_above=0.001,
            ),
            number(
                "Series left out",
                "Values that limits.max_series keeps out of the metrics.",
                f"sum({metric('series_dropped', PROCESS)})",
                bad_above=1,
            ),
            "Replicas",
            values(
                "Replicas now",
                "Of the replicas over one Kafka store one is active: it tells what all of them "
                "read and what windows say. One with a local store is active by itself.",
                {
                    "Active": f"{_BY_INSTANCE} ({metric('aggregator_active', PROCESS)})",
                    "Ready": f"{_BY_INSTANCE} ({metric('ready', PROCESS)})",
                    "Partitions": f"{_BY_INSTANCE} ({metric('assigned_partitions', PROCESS)})",
                    "Records waiting": f"{_BY_INSTANCE} ({metric('lag_records', PROCESS)})",
                    "Failing commits": f"{_BY_INSTANCE} "
                    f"(increase({metric('commit_failures_total', PROCESS)}[$__rate_interval]))",
                },
                sort_by="Active",
            ),
            verdicts(
                "Active aggregator",
                "Which replica evaluates: one at a time. At a hand-over two may overlap.",
                Query(f"{_BY_INSTANCE} ({metric('aggregator_active', PROCESS)})", _OF_INSTANCE),
                words=(("not active", IDLE), ("active", OK)),
                width=12,
            ),
            verdicts(
                "Ready",
                "Whether a replica has restored what is its, or stands by.",
                Query(f"{_BY_INSTANCE} ({metric('ready', PROCESS)})", _OF_INSTANCE),
                words=(("not ready", BAD), ("ready", OK)),
                width=12,
            ),
            lines(
                "Partitions",
                "Partitions that each monitor reads.",
                Query(metric("assigned_partitions", PROCESS), _OF_INSTANCE),
                width=6,
            ),
            lines(
                "Records waiting by replica",
                "Records that are not read yet, in the partitions of each.",
                Query(f"{_BY_INSTANCE} ({metric('lag_records', PROCESS)})", _OF_INSTANCE),
                width=6,
            ),
            lines(
                "Time of a commit",
                "99th percentile of the time that a commit takes.",
                Query(
                    "histogram_quantile(0.99, sum by (instance, le) "
                    f"({rate(_STEP, _COMMIT, '_bucket')}))",
                    _OF_INSTANCE,
                ),
                unit="s",
                width=6,
            ),
            lines(
                "Commits that fail",
                "Attempts to commit that fail, a second.",
                Query(f"{_BY_INSTANCE} ({rate('commit_failures_total', PROCESS)})", _OF_INSTANCE),
                unit="cps",
                width=6,
            ),
            "Input",
            lines(
                "Records read",
                "Records read a second, by partition; of replicas as the active one tells it.",
                Query(
                    f"sum by (job, partition) ({rate('records_consumed_total', PROCESS)})",
                    "{{job}} {{partition}}",
                ),
                unit="cps",
                width=6,
            ),
            lines(
                "Bytes read",
                "Payload bytes read a second.",
                Query(f"sum by (job) ({rate('consumed_bytes_total', PROCESS)})", "{{job}}"),
                unit="binBps",
                width=6,
            ),
            lines(
                "Records waiting",
                "Records in the source that are not read yet, where the source knows.",
                Query(metric("lag_records", PROCESS), "{{instance}} {{partition}}"),
                width=6,
            ),
            lines(
                "Records lost",
                "Records that Kafka deleted before they were read.",
                Query(
                    f"sum by (job, partition) "
                    f"(increase({metric('records_lost_total', PROCESS)}[$__rate_interval]))",
                    "{{job}} {{partition}}",
                ),
                width=6,
            ),
            lines(
                "Events counted",
                "Events counted into windows a second.",
                Query(f"sum by (model, version) ({rate('events_total', PROCESS)})", _OF_MODEL),
                unit="cps",
                width=8,
            ),
            lines(
                "Events refused",
                "Events that became dead letters a second, by reason.",
                Query(f"sum by (reason) ({rate('events_rejected_total', PROCESS)})", "{{reason}}"),
                unit="cps",
                width=8,
            ),
            lines(
                "Events too late",
                "Events a second that came later than time.allowed_lateness, or after the state "
                "of their window had ended its life.",
                Query(
                    f"sum by (model, version) ({rate('events_late_total', PROCESS)})",
                    f"{_OF_MODEL}, late",
                ),
                Query(
                    f"sum by (model, version) ({rate('events_expired_total', PROCESS)})",
                    f"{_OF_MODEL}, expired",
                ),
                unit="cps",
                width=8,
            ),
            "Loop",
            lines(
                "Time by step",
                "Share of the loop's time in each step; poll includes waiting for records.",
                Query(
                    f"sum by (instance, step) ({rate(_STEP, PROCESS, '_sum')})",
                    "{{instance}} {{step}}",
                ),
                unit="percentunit",
                width=8,
            ),
            lines(
                "Slow steps",
                "99th percentile of the time that a step takes a batch.",
                Query(
                    "histogram_quantile(0.99, sum by (instance, step, le) "
                    f"({rate(_STEP, PROCESS, '_bucket')}))",
                    "{{instance}} {{step}}",
                ),
                unit="s",
                width=8,
            ),
            lines(
                "Watermark behind the newest record",
                "How far the slowest partition holds back the closing of windows, the allowed "
                "lateness included. Event time.",
                Query(
                    f"max by (job) ({metric('last_record_timestamp_seconds', PROCESS)} "
                    f"- {metric('watermark_timestamp_seconds', PROCESS)})",
                    "{{job}}",
                ),
                unit="s",
                width=8,
            ),
            "Process",
            lines(
                "State",
                "Bytes of pane counts in memory, and limits.memory (dashed).",
                Query(metric("state_bytes", PROCESS), _OF_INSTANCE),
                Query(metric("memory_limit_bytes", PROCESS), f"{_OF_INSTANCE}, limit"),
                unit="bytes",
                width=8,
                dashed="B",
            ),
            lines(
                "Memory",
                "Resident memory of the whole process.",
                Query(f"process_resident_memory_bytes{{{PROCESS}}}", _OF_INSTANCE),
                unit="bytes",
                width=8,
            ),
            lines(
                "CPU",
                "Processors in use.",
                Query(
                    f"rate(process_cpu_seconds_total{{{PROCESS}}}[$__rate_interval])", _OF_INSTANCE
                ),
                unit="none",
                width=8,
            ),
            lines(
                "Series",
                "Series of window values in a scrape.",
                Query(metric("series", PROCESS), _OF_INSTANCE),
            ),
            values(
                "References",
                "Rows of the reference of each model under watch.",
                {"Rows": f"max by (model, version) ({metric('reference_rows', PROCESS)})"},
                sort_by="Rows",
                width=12,
            ),
        ],
    )
