"""What all dashboards share: selectors, panels that look alike, variables, the frame."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from string import ascii_uppercase
from typing import TypeVar

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from stream_monitor.expose.catalogue import CATALOGUE

TAG = "stream-monitor"
RUNBOOK = "https://github.com/stream-monitor/stream-monitor/blob/main/docs/alerts.md"
DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")

PROCESS = 'job=~"$job",instance=~"$instance"'
MODEL = f'{PROCESS},model=~"$model",version=~"$version"'
WINDOW = f'{MODEL},segment="",window=~"$window"'
FEATURE = f'{WINDOW},feature="$feature"'  # one value: Grafana does not escape it for =~

# what the values of several monitors are merged by
BY_WINDOW = "max by (model, version, window)"
BY_FEATURE = "max by (model, version, window, feature)"
BY_VALUE = "max by (model, version, window, feature, metric)"

OK, BAD, IDLE = "green", "red", "text"
THRESHOLD_COLOR = "orange"

FEATURE_UID = "stream-monitor-feature"
FEATURE_LINK = (
    f"/d/{FEATURE_UID}?${{__url_time_range}}&var-datasource=${{datasource}}"
    "&var-model=${__data.fields.model}&var-version=${__data.fields.version}"
    "&var-window=${__data.fields.window}&var-feature=${__data.fields.feature}"
)

P = TypeVar("P", stat.Panel, table.Panel, timeseries.Panel, statetimeline.Panel)


def metric(name: str, select: str, part: str = "") -> str:
    """A selector of a metric of the catalogue; KeyError if it has no such metric.

    ``part`` is ``_bucket``, ``_sum`` or ``_count`` for one of a histogram's series.
    """
    return f"{CATALOGUE[name].full_name}{part}{{{select}}}"


def rate(name: str, select: str, part: str = "") -> str:
    return f"rate({metric(name, select, part)}[$__rate_interval])"


@dataclass(frozen=True)
class Query:
    """PromQL and the legend of its series, with labels in double braces."""

    expr: str
    legend: str = ""


# --- panels -------------------------------------------------------------------------------------


def _described(panel: P, title: str, description: str, unit: str, size: tuple[int, int]) -> P:
    width, height = size
    panel.title(title).description(description).unit(unit).span(width).height(height)
    panel.datasource(DATASOURCE)
    return panel


def _target(letter: str, query: Query) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(letter).expr(query.expr).datasource(DATASOURCE)
    return target.legend_format(query.legend or "__auto")


def number(
    title: str,
    description: str,
    query: str,
    *,
    unit: str = "short",
    bad_above: float | None = None,
    bad_below: float | None = None,
    width: int = 4,
) -> stat.Panel:
    """One number now, red beyond a bound."""
    panel = _described(stat.Panel(), title, description, unit, (width, 4))
    steps = [models.Threshold(value=None, color="text")]
    if bad_above is not None:
        steps = [
            models.Threshold(value=None, color=OK),
            models.Threshold(value=bad_above, color=BAD),
        ]
    if bad_below is not None:
        steps = [
            models.Threshold(value=None, color=BAD),
            models.Threshold(value=bad_below, color=OK),
        ]
    panel.thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
    panel.graph_mode(common_models.BigValueGraphMode.NONE)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return panel.with_target(_target("A", Query(query)).instant())


def window_rows(width: int) -> stat.Panel:
    """How many rows the shown windows have."""
    return number(
        "Rows",
        "Rows of the newest closed windows that are shown.",
        f"sum({BY_WINDOW} ({metric('window_rows', WINDOW)}))",
        width=width,
    )


def lines(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    width: int = 12,
    height: int = 8,
    line_at: float | None = None,
    dashed: str = "",
    log: bool = False,
) -> timeseries.Panel:
    """Lines over time; ``line_at`` draws a bound, ``dashed`` names queries that are one."""
    panel = _described(timeseries.Panel(), title, description, unit, (width, height))
    for letter, query in zip(ascii_uppercase, queries, strict=False):
        panel.with_target(_target(letter, query).range())
    panel.line_interpolation(common_models.LineInterpolation.STEP_AFTER).line_width(1.5)
    panel.legend(
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(common_models.LegendDisplayMode.LIST)
        .placement(common_models.LegendPlacement.BOTTOM)
    )
    panel.tooltip(
        common.VizTooltipOptions()
        .mode(common_models.TooltipDisplayMode.MULTI)
        .sort(common_models.SortOrder.DESCENDING)
    )
    if log:
        panel.scale_distribution(
            common.ScaleDistributionConfig().type(common_models.ScaleDistribution.LOG).log(10)
        )
    else:
        panel.axis_soft_min(0)
    if line_at is not None:
        steps = [
            models.Threshold(value=None, color="transparent"),
            models.Threshold(value=line_at, color=THRESHOLD_COLOR),
        ]
        panel.thresholds(
            dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
        )
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_models.GraphTresholdsStyleMode.DASHED)
        )
    for letter in dashed:
        panel.override_by_query(
            letter,
            [
                models.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
                models.DynamicConfigValue(
                    "color", {"mode": "fixed", "fixedColor": THRESHOLD_COLOR}
                ),
            ],
        )
    return panel


def verdicts(
    title: str,
    description: str,
    query: Query,
    *,
    words: tuple[tuple[str, str], tuple[str, str]] = (("fine", OK), ("alert", BAD)),
    width: int = 24,
) -> statetimeline.Panel:
    """A row a series; ``words`` are text and colour where it is 0 and where it is 1."""
    panel = _described(statetimeline.Panel(), title, description, "none", (width, 8))
    shown = {
        str(i): models.ValueMappingResult(text=text, color=color, index=i)
        for i, (text, color) in enumerate(words)
    }
    panel.mappings([models.ValueMap(options=shown)])
    panel.show_value(common_models.VisibilityMode.NEVER)
    return panel.with_target(_target("A", query).range())


def values(
    title: str,
    description: str,
    columns: dict[str, str],
    *,
    unit: str = "short",
    sort_by: str,
    links: dict[str, str] | None = None,
    width: int = 24,
) -> table.Panel:
    """A table of instant queries joined on their labels: column title → expression.

    ``links`` gives a column's cells an address.
    """
    panel = _described(table.Panel(), title, description, unit, (width, 8))
    for letter, expr in zip(ascii_uppercase, columns.values(), strict=False):
        target = _target(letter, Query(expr)).instant().format(PromQueryFormat.TABLE)
        panel.with_target(target)
    # with one query Grafana calls its column "Value", with more "Value #A", …
    names = [f"Value #{letter}" for letter in ascii_uppercase[: len(columns)]]
    renamed = dict(zip(names if len(columns) > 1 else ["Value"], columns, strict=True))
    panel.with_transformation(models.DataTransformerConfig("merge", options={}))
    panel.with_transformation(
        models.DataTransformerConfig(
            "organize", options={"excludeByName": {"Time": True}, "renameByName": renamed}
        )
    )
    for column, url in (links or {}).items():
        link = {"title": "Show this feature", "url": url, "targetBlank": False}
        panel.override_by_name(column, [models.DynamicConfigValue("links", [link])])
    panel.sort_by([common.TableSortByFieldState().display_name(sort_by).desc(True)])
    return panel.no_value("nothing")


# --- variables ----------------------------------------------------------------------------------


def variable(
    name: str, label: str, source: str, *, all_value: str = ".+", single: bool = False
) -> dashboard.QueryVariable:
    """The values of the label ``name`` of the series ``source``; all of them unless ``single``."""
    found = (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query(f"label_values({source}, {name})")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )
    if single:
        return found
    return (
        found.multi(True)
        .include_all(True)
        .all_value(all_value)
        .current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def process_variables() -> list[dashboard.QueryVariable]:
    return [
        variable("job", "Job", CATALOGUE["build_info"].full_name),
        variable("instance", "Instance", metric("build_info", 'job=~"$job"')),
    ]


def window_variables() -> list[dashboard.QueryVariable]:
    of_model = f'{PROCESS},model=~"$model"'
    return [
        *process_variables(),
        variable("model", "Model", metric("reference_info", PROCESS)),
        # a model may be configured without a version
        variable("version", "Version", metric("reference_info", of_model), all_value=".*"),
        variable("window", "Window", metric("window_rows", MODEL)),
    ]


# --- dashboards ---------------------------------------------------------------------------------


def board(
    uid: str,
    title: str,
    description: str,
    variables: Iterable[dashboard.QueryVariable],
    contents: Iterable[str | Builder[models.Panel]],
) -> dashboard.Dashboard:
    """A dashboard of panels in reading order; a text begins a row with that title."""
    found = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("Dashboards")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(True)
            .keep_time(True)
        )
        .link(
            dashboard.DashboardLink("Runbook")
            .type(models.DashboardLinkType.LINK)
            .url(RUNBOOK)
            .target_blank(True)
        )
    )
    found.with_variable(
        dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    )
    for each in variables:
        found.with_variable(each)
    for part in contents:
        if isinstance(part, str):
            found.with_row(dashboard.Row(part))
        else:
            found.with_panel(part)
    return found
