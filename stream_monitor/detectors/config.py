"""The configuration of one sequential detector. Knows no River, so that reading it stays quick."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    model_validator,
)

from stream_monitor.schema import TARGET
from stream_monitor.values import LATE

Option = StrictBool | StrictInt | StrictFloat | str
PER_EVENT = ("ddm", "eddm")
ERROR = "error"  # the series of single events: whether a prediction was wrong


def of_labels(detector: DetectorConfig) -> bool:
    """Whether a detector's series rests on labels, which may come late."""
    family, _, feature = detector.key
    return family in LATE or feature == TARGET


class DetectorConfig(BaseModel):
    """One of River's drift detectors on one series of values."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)

    name: str = Field(pattern=r"^[a-zA-Z0-9_]+$", description="its own, as the `metric` label")
    method: Literal["adwin", "page_hinkley", "kswin", "hddm_a", "hddm_w", "ddm", "eddm"]
    series: str = Field(
        description="what it watches: `family/metric`, or `family/metric/feature`, as they stand "
        "in a backtest's table; for ddm and eddm `error`, the errors of single events"
    )
    model: str | None = Field(default=None, description="default: every model")
    scale: Literal["reference", "warm_up", "none"] = Field(
        default="reference",
        description="reference: (value - expected) / spread, both from the reference for the "
        "pane's rows; warm_up: by mean and standard deviation of the first `warm_up` values, for "
        "series without an expected value or whose panes vary more than sampling explains; none",
    )
    warm_up: int = Field(default=50, ge=10, le=10_000, description="panes that only teach a scale")
    options: dict[str, Option] = Field(
        default_factory=dict, description="arguments of River's constructor"
    )

    @property
    def key(self) -> tuple[str, str, str]:
        """Family, metric and feature of the series; a feature's name may hold slashes."""
        family, metric, feature = [*self.series.split("/", 2), "", ""][:3]
        return family, metric, feature

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.method in PER_EVENT) != (self.series == ERROR):
            raise ValueError(
                f"ddm and eddm watch the series `{ERROR}`, event by event; every other method "
                "watches values of panes: write `family/metric` or `family/metric/feature`"
            )
        if self.series != ERROR and not all(self.key[:2]):
            raise ValueError("write `family/metric` or `family/metric/feature`")
        return self
