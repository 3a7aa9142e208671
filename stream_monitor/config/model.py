"""The configuration file as types. Every key, its default and its meaning stand here, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    field_validator,
    model_validator,
)

from stream_monitor.config.secrets import ClientOptions
from stream_monitor.config.units import (
    SECOND,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)
from stream_monitor.detectors.config import DetectorConfig

Duration = Annotated[
    int,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration),
]
Size = Annotated[int, BeforeValidator(parse_size), PlainSerializer(format_size)]


class Section(BaseModel):
    """A part of the file: unknown keys are errors, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)


class ModelConfig(Section):
    """A model version to monitor, with its own reference."""

    name: str = Field(min_length=1, description="as the events name it, and the `model` label")
    version: str = Field(
        default="", description="as the events name it; empty: any version of the model"
    )
    reference: Path = Field(description="file written by `stream-monitor reference build`")
    candidate: bool = Field(
        default=False,
        description="a new reference beside the one in use: the same events are measured against "
        "it, too, under `<version>+candidate`, without alerts. To switch, leave only this entry, "
        "without `candidate`: its windows go on",
    )


class MappingConfig(Section):
    """Where an event keeps its parts: dotted paths into the JSON object, or column names.

    `.` for `features` means that the features lie flat beside the other parts.
    """

    id: str = "id"
    model: str = "model"
    version: str = "version"
    timestamp: str | None = Field(
        default="ts", description="event time: epoch seconds, milliseconds or RFC 3339"
    )
    arrival: str | None = Field(
        default=None,
        description="record timestamp; default: Kafka's own, in files the event time. "
        "`event_time` takes the event time in Kafka too: nothing is late then",
    )
    features: str = "features"
    prediction: str | None = "prediction"
    score: str | None = "score"
    scores: str | dict[str, str] | None = Field(
        default="scores",
        description="where the object of one score a class lies, or a path for each class",
    )
    segment: str | None = Field(default="segment", description="object of segment fields")
    label: str | None = Field(default="label", description="the true class or value")


class ColumnConfig(Section):
    """Overrides of what `reference build` infers about one column."""

    kind: Literal["continuous", "categorical", "boolean", "ignore"]


class ReferenceConfig(Section):
    """How references are built."""

    columns: dict[str, ColumnConfig] = Field(
        default_factory=dict, description="kind of a column where the inferred one is not right"
    )
    chunk_rows: int | None = Field(
        default=None,
        gt=0,
        description="rows of a reference chunk, for thresholds from chunks; default: the window's "
        "rows where a window has rows, else a tenth of the reference",
    )
    max_categories: int = Field(
        default=1000,
        gt=0,
        le=100_000,
        description="the most frequent are kept, the rest is "
        "unseen; with `compat: nannyml` all are kept",
    )
    sample_rows: int = Field(
        default=100_000,
        gt=0,
        description="rows, chosen by hash, that calibrators and regressors learn from; with "
        "`compat: nannyml` all rows",
    )
    importances: dict[str, float] = Field(
        default_factory=dict, description="of features, for `rank --by importance`"
    )
    positive_class: str | None = Field(
        default=None,
        description="the class that `score` is the probability of; default: 1 or true, else the "
        "last by name",
    )


class SegmentConfig(Section):
    """Parts of the traffic to watch by themselves: one for each combination of some columns."""

    by: list[str] = Field(
        min_length=1,
        description="categorical columns: features, or `segment.<field>` of the events' segment "
        "object",
    )
    most: int = Field(
        default=10, gt=0, le=1000, description="the combinations most frequent in the reference"
    )


class KafkaSource(Section):
    """A Kafka topic, read by a consumer group."""

    type: Literal["kafka"]
    bootstrap_servers: str
    topics: list[str] = Field(min_length=1)
    group_id: str = "stream-monitor"
    auto_offset_reset: Literal["earliest", "latest"] = "earliest"
    partitions: int = Field(
        default=16, gt=0, description="the most partitions of all topics, for the memory bound"
    )
    client: Literal["kafka-python", "confluent"] = Field(
        default="kafka-python",
        description="what reads the topics; confluent takes less of the processor, and needs "
        "`pip install stream-monitor[confluent]`",
    )
    options: ClientOptions = Field(
        default_factory=dict,
        description="any further option of the client, by its name in kafka-python or by the "
        "dotted name of the Java client and librdkafka",
    )

    @field_validator("client", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        if isinstance(value, dict):
            raise ValueError("is the name of a library: move these under `options`")
        return value


class FilesSource(Section):
    """JSONL files, read once, in name order: a file, a directory or a glob pattern."""

    type: Literal["files"]
    path: str


class FollowSource(Section):
    """A JSONL log that is still written to, with rotation, as `tail -F` reads it."""

    type: Literal["follow"]
    path: Path


class StdinSource(Section):
    """JSONL on standard input. It cannot be read again: after a crash what was lost is lost."""

    type: Literal["stdin"]


SourceConfig = Annotated[
    KafkaSource | FilesSource | FollowSource | StdinSource, Field(discriminator="type")
]


class LabelMapping(Section):
    """Where a label record keeps its parts: dotted paths, or column names of a table."""

    format: Literal["native", "seldon"] = Field(
        default="native",
        description="native: an object a label, many in a record as of events; seldon: feedback of "
        "Seldon Core, whose id is `meta.puid` and whose time is the record timestamp",
    )
    id: str = "id"
    model: str = Field(default="model", description="may be missing where there is one model")
    timestamp: str | None = Field(
        default="ts", description="when the truth was known; null: the record timestamp"
    )
    arrival: Literal["record", "label_time"] = Field(
        default="record",
        description="what says when a label came: its record's timestamp or, where old labels are "
        "replayed, its own time. In files it is always its own time",
    )
    label: str = "label"


class KafkaLabels(Section):
    """Topics of the cluster that the events come from, read by the same group."""

    type: Literal["kafka"]
    topics: list[str] = Field(min_length=1)


LabelSource = Annotated[KafkaLabels | FilesSource | FollowSource, Field(discriminator="type")]


class LabelsConfig(Section):
    """Labels that come after their predictions. Without this section they come with the events."""

    source: LabelSource | None = Field(
        default=None, description="default: only those in the events, and `backtest --labels`"
    )
    mapping: LabelMapping = LabelMapping()
    maturities: list[Duration] = Field(
        default=[3600 * SECOND, 24 * 3600 * SECOND, 7 * 24 * 3600 * SECOND],
        min_length=1,
        description="ages of a prediction at which performance is reported; labels later than the "
        "greatest do not count, and that one is judged",
    )
    allowed_lateness: Duration = Field(
        default=24 * 3600 * SECOND,
        description="a label counts if its record timestamp is at most this much after its time",
    )
    max_predictions: int = Field(
        default=10_000_000,
        gt=0,
        description="the oldest stored predictions of a model beyond it are evicted and counted; "
        "with a Kafka store, of each partition of the join",
    )
    join_topic: str | None = Field(
        default=None,
        description="with a Kafka store: the topic by which predictions and labels of one id "
        "meet, made where it is missing; default: `<group_id>-joins`",
    )
    join_partitions: int = Field(default=4, gt=0, le=64, description="of the join's topic")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(m <= 0 for m in self.maturities) or sorted(set(self.maturities)) != self.maturities:
            raise ValueError("maturities: give rising durations above 0, such as [1h, 1d, 7d]")
        return self

    @property
    def horizon(self) -> int:
        """The greatest maturity, microseconds."""
        return self.maturities[-1]


class WindowConfig(Section):
    """A window of event time (`size`, and `every` if it slides) or of rows (`rows`)."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_]+$")
    size: Duration | None = Field(default=None, gt=0)
    every: Duration | None = Field(
        default=None, gt=0, description="a new window begins this often; default: `size`"
    )
    rows: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.size is None) == (self.rows is None):
            raise ValueError("give either `size` or `rows`")
        if self.every is not None and self.size is None:
            raise ValueError("only a window of time slides: leave out `every`")
        if self.size and self.every and self.size % self.every:
            raise ValueError("`every` must be a part of `size`, such as a 24th of it")
        return self

    @property
    def step(self) -> int:
        """Distance between the beginnings of two windows, in microseconds or rows."""
        return self.rows or self.every or self.size or 0

    @property
    def length(self) -> int:
        """Microseconds or rows."""
        return self.rows or self.size or 0


class TimeConfig(Section):
    """Which events count, and when a window is called closed."""

    allowed_lateness: Duration = Field(
        default=10 * 60 * SECOND,
        description="an event counts if its record timestamp is at most this much after its time",
    )
    allowed_skew: Duration = Field(
        default=5 * 60 * SECOND,
        description="an event further than this ahead of its record timestamp is a dead letter",
    )
    max_ahead: Duration | None = Field(
        default=None,
        description="a partition this far ahead of the slowest is held back, which bounds memory; "
        "default: the longest window",
    )


class MethodsConfig(Section):
    """What is measured."""

    continuous: list[str] = ["jensen_shannon", "hellinger", "wasserstein", "kolmogorov_smirnov",
                             "psi"]  # fmt: skip
    categorical: list[str] = ["jensen_shannon", "hellinger", "l_infinity", "chi2", "psi"]
    quality: list[str] = ["missing_values", "wrong_type", "unseen_values", "numerical_range"]
    outliers: bool = True
    blocks: list[str] = Field(
        default=["statistics", "reconstruction_error", "cbpe", "realized_performance",
                 "realized_losses", "outlier_features", "cardinality", "unseen_names"],
        description="methods of the model as a whole that `reference build` prepares, each where "
        "the reference has what it needs; `dle` and `domain_classifier` need LightGBM",
    )  # fmt: skip
    business_value: list[list[float]] | None = Field(
        default=None,
        description="what a prediction is worth: a row a true class, in it a number a predicted "
        "one, classes by name (binary: negative, positive)",
    )
    business_value_per_prediction: bool = Field(
        default=False, description="NannyML's normalisation: over shares of each predicted class"
    )  # fmt: skip


class ThresholdOverride(Section):
    """Constant limits for some values; the first entry that fits a value counts."""

    metric: str | None = Field(default=None, description="default: every metric")
    feature: str | None = Field(default=None, description="default: every feature")
    model: str | None = Field(default=None, description="default: every model")
    lower: float | None = None
    upper: float | None = None


class AlertsConfig(Section):
    """When a value is an alert."""

    threshold: Literal["calibrated", "constant", "chunks"] | None = Field(
        default=None,
        description="calibrated: from the reference, for the window's number of rows; constant: "
        "only `overrides`; chunks: NannyML's mean ± 3 standard deviations of reference chunks; "
        "default: calibrated, with `compat: nannyml` chunks",
    )
    false_alarms: float = Field(
        default=1e-4,
        gt=0,
        lt=0.5,
        description="rate of windows without any drift in which some value of a family alerts",
    )
    min_rows: int = Field(default=100, ge=1, description="below it a value is shown, not judged")
    overrides: list[ThresholdOverride] = Field(default_factory=list)


class SqliteStore(Section):
    """State in a file: one instance, no server. The default."""

    type: Literal["sqlite"] = "sqlite"
    path: Path = Path("stream-monitor.db")
    commit_interval: Duration = SECOND
    results_retention_windows: int = Field(
        default=10_000, gt=0, description="closed windows kept in the results log, a window name"
    )
    max_dead_letters: int = Field(default=10_000, ge=0)


class KafkaStore(Section):
    """State in Kafka, in one transaction with the positions: any number of replicas."""

    type: Literal["kafka"]
    bootstrap_servers: str | None = Field(
        default=None, description="default: those of a Kafka source"
    )
    options: ClientOptions | None = Field(
        default=None,
        description="how to connect: the security options of a Kafka source, whose own are the "
        "default",
    )
    prefix: str | None = Field(
        default=None,
        pattern=r"^[a-zA-Z0-9._-]+$",
        description="of the topics `…-state`, `…-control`, `…-results`, `…-dead-letters` and "
        "`…-joins`, which are made where they are missing; default: `source.group_id`",
    )
    instance: str | None = Field(
        default=None,
        pattern=r"^[a-zA-Z0-9._-]+$",
        description="a name that this replica keeps over restarts, and no other has; needed where "
        "the source is not Kafka",
    )
    instance_timeout: Duration = Field(
        default=3600 * SECOND,
        gt=0,
        description="where the source is not Kafka: who has committed nothing for so long, by the "
        "brokers' clock, holds up no window any more",
    )
    path: Path = Field(
        default=Path("stream-monitor.db"),
        description="local copies of what lies in Kafka; lost, they are made anew",
    )
    partitions: int = Field(
        default=8, gt=0, le=1000, description="of the state's topic, when it is made"
    )
    commit_interval: Duration = SECOND // 2
    transaction_timeout: Duration = Field(
        default=10 * SECOND,
        gt=0,
        description="after which the broker ends what a dead replica left open",
    )
    results_retention_windows: int = Field(
        default=10_000, gt=0, description="closed windows that the API serves, a window name"
    )
    results_retention: Duration = Field(
        default=30 * 24 * 3600 * SECOND, gt=0, description="of the results' topic"
    )
    dead_letter_bytes: Size = Field(
        default=2**30, gt=0, description="of the dead letters' topic; the oldest go first"
    )


def _store_type(store: Any) -> str:
    kind = store.get("type", "sqlite") if isinstance(store, dict) else store.type
    return str(kind)


StoreConfig = Annotated[
    Annotated[SqliteStore, Tag("sqlite")] | Annotated[KafkaStore, Tag("kafka")],
    Discriminator(_store_type),
]


class HttpConfig(Section):
    """Where metrics, the API and the status page are served."""

    host: str = "127.0.0.1"
    port: int = Field(default=9877, ge=0, le=65535, description="0: any free port")
    web_config: Path | None = Field(
        default=None,
        description="file with TLS and passwords in the format of Prometheus' exporters; read at "
        "start, see [operations.md](operations.md#tls-and-passwords)",
    )


class LimitsConfig(Section):
    """Bounds that hold whatever arrives."""

    memory: Size = Field(default=2**30, gt=0)
    max_series: int = Field(default=20_000, gt=0, description="Prometheus series of one scrape")
    max_record_size: Size = Field(default=2**20, gt=0)
    max_rejected: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="the service stops when a greater share of the last 10,000 records, and of "
        "their events, could not be used, before their positions are committed; 1: never",
    )


class LogConfig(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="auto: console on a terminal, else JSON"
    )


class Config(Section):
    """The whole file."""

    models: list[ModelConfig] = Field(min_length=1)
    compat: Literal["nannyml"] | None = Field(
        default=None,
        description="NannyML's numbers, quirks included; a reference is built with or without it",
    )
    source: SourceConfig | None = Field(default=None, description="required by `run`")
    mapping: MappingConfig = MappingConfig()
    reference: ReferenceConfig = ReferenceConfig()
    labels: LabelsConfig | None = Field(default=None, description="labels that come late")
    segments: list[SegmentConfig] = Field(
        default_factory=list, description="fixed when the reference is built"
    )
    windows: list[WindowConfig] = Field(min_length=1)
    time: TimeConfig = TimeConfig()
    methods: MethodsConfig = MethodsConfig()
    detectors: list[DetectorConfig] = Field(default_factory=list)
    alerts: AlertsConfig = AlertsConfig()
    store: StoreConfig = SqliteStore()
    role: Literal["all", "worker", "aggregator"] = Field(
        default="all",
        description="with a Kafka store: worker reads and counts, aggregator closes windows and "
        "judges them (one is active, others stand by), all is both",
    )
    http: HttpConfig = HttpConfig()
    limits: LimitsConfig = LimitsConfig()
    log: LogConfig = LogConfig()

    @property
    def blocks(self) -> list[str]:
        """The methods of the model as a whole: those chosen, and what NannyML's numbers need."""
        needed = ["unseen_names"] if self.compat else []
        return list(dict.fromkeys([*self.methods.blocks, *needed]))
