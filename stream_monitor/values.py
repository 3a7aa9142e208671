"""Values and windows: what the methods compute and everything after them passes on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import nan

import msgspec
from msgspec.structs import astuple, replace

DRIFT = "drift"
MULTIVARIATE = "multivariate_drift"
OUTLIERS = "outliers"
QUALITY = "quality"
STATISTICS = "statistics"
ESTIMATED = "estimated_performance"
REALIZED = "realized_performance"
DETECTORS = "detectors"
COVARIATE_EFFECT = "covariate_effect"
CONCEPT_EFFECT = "concept_effect"
CONCEPT_DRIFT = "concept_drift"
LABELS = "labels"
ESTIMATOR = "estimator"
# families that rest on labels
LATE = (REALIZED, COVARIATE_EFFECT, CONCEPT_EFFECT, CONCEPT_DRIFT, LABELS, ESTIMATOR)


class Value(msgspec.Struct, frozen=True):
    """One number about one window. NaN and None stand for "nothing applies".

    There are hundreds a window, and a struct is made in a tenth of a dataclass's time.
    ``feature`` is empty where the value belongs to the model as a whole. ``alert`` is None where
    the value is shown but not judged: no threshold, fewer rows than ``min_rows``, or a window
    that is still filling.
    """

    feature: str
    family: str
    metric: str
    value: float
    p_value: float = nan
    sampling_error: float = nan
    lower_confidence: float = nan
    upper_confidence: float = nan
    lower_threshold: float = nan
    upper_threshold: float = nan
    alert: bool | None = None


# The columns of a backtest's table, of the results log and of /api/v1/windows, in this order.
WINDOW_COLUMNS = (
    "model", "version", "segment", "window", "window_index", "window_start", "window_end",
    "revision", "maturity", "rows", "label_share",
)  # fmt: skip
COLUMNS = (*WINDOW_COLUMNS, *Value.__struct_fields__)


@dataclass(frozen=True, slots=True)
class WindowResult:
    """A window of one model version and everything computed from it.

    ``start`` and ``end`` are microseconds since the epoch; for a window of rows they are the
    first and last event time in it. ``end`` is exclusive for windows of time. ``closed`` is False
    while the watermark has not passed the end; ``revision`` counts how often a closed window was
    published anew because more of it arrived. ``notes`` says of alerts in words where to look, by
    family and feature as :func:`note_of` joins them. ``maturity`` is the age at which labels were
    looked at, such as ``1d``, empty for what needs none; ``label_share`` then is the share of the
    rows whose label had come within it, in [0, 1].
    """

    model: str
    version: str
    segment: str
    window: str
    index: int
    start: int
    end: int
    rows: int
    closed: bool
    values: tuple[Value, ...]
    revision: int = 0
    notes: Mapping[str, str] = field(default_factory=dict)
    maturity: str = ""
    label_share: float = nan


def unjudged(values: Iterable[Value]) -> tuple[Value, ...]:
    """The same values, with their thresholds, as if nobody had compared them."""
    return tuple(replace(value, alert=None) for value in values)


def note_of(value: Value) -> str:
    """The key of a value's note."""
    return f"{value.family}/{value.feature}"


def window_cells(result: WindowResult) -> tuple[object, ...]:
    """What all rows of a result have in common, in the order of WINDOW_COLUMNS.

    Times are RFC 3339 in UTC, None where there are none (rows without a timestamp).
    """
    timed = result.end > 0
    return (
        result.model, result.version, result.segment, result.window, result.index,
        rfc3339(result.start) if timed else None, rfc3339(result.end) if timed else None,
        result.revision, result.maturity or None, result.rows, result.label_share,
    )  # fmt: skip


def rows_of(result: WindowResult) -> Iterator[dict[str, object]]:
    """A result as rows of the table, dicts in which NaN is None."""
    window = window_cells(result)
    for value in result.values:
        # nothing but NaN differs from itself
        known = (None if c != c else c for c in (*window, *astuple(value)))  # noqa: PLR0124
        yield dict(zip(COLUMNS, known, strict=True))


def rfc3339(microseconds: int) -> str:
    """A time since the epoch, in UTC, with a fraction only where there is one."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    return moment.isoformat().replace("+00:00", "Z")
