"""What is shown: one immutable object that the loop swaps and readers hold by reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stream_monitor.cells import Cells
from stream_monitor.schema import IntArray
from stream_monitor.values import WindowResult


@dataclass(frozen=True, slots=True)
class OutcomeView:
    """What labels tell of a window name at one maturity, such as ``1d``.

    ``closed`` is the newest window that is mature, ``history`` the last of them, oldest first.
    """

    maturity: str
    closed: WindowResult | None
    history: tuple[WindowResult, ...]


@dataclass(frozen=True, slots=True)
class WindowView:
    """One configured window of one model.

    ``closed`` is the newest closed window, ``filling`` the one that collects rows now; either is
    None while there is none. Their ``counts`` are int64[slots] a column, as
    :class:`~stream_monitor.cells.Cells` orders them. ``history`` holds the last closed windows,
    oldest first, ``closed`` included. ``outcomes`` are by rising maturity, none where labels do not
    come late; in each result ``index`` and ``end`` say which of the windows it is of.
    """

    name: str
    length: str
    closed: WindowResult | None = None
    closed_counts: Mapping[str, IntArray] = field(default_factory=dict)
    filling: WindowResult | None = None
    filling_counts: Mapping[str, IntArray] = field(default_factory=dict)
    history: tuple[WindowResult, ...] = ()
    outcomes: tuple[OutcomeView, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model version's whole traffic (segment empty) or one segment of it."""

    name: str
    version: str
    segment: str
    fingerprint: str
    reference_rows: int
    cells: Mapping[str, Cells]
    windows: tuple[WindowView, ...]


@dataclass(frozen=True, slots=True)
class FiringAlert:
    """A value that its newest closed window judged an alert.

    ``since`` is the end of the first window in the unbroken run of alerting ones, microseconds;
    ``explanation`` says in words where the feature has changed, empty where there is nothing to
    say.
    """

    model: str
    version: str
    segment: str
    window: str
    feature: str
    family: str
    metric: str
    value: float
    lower_threshold: float
    upper_threshold: float
    rows: int
    window_end: int
    since: int
    explanation: str = ""
    maturity: str = ""


@dataclass(frozen=True, slots=True)
class JoinView:
    """Labels and the predictions that wait for them.

    Attributes
    ----------
    labels
        By what became of them (see :mod:`stream_monitor.labels.join`), then by model name.
    delays
        By model name: labels a bucket of :data:`stream_monitor.labels.join.DELAY_BOUNDS`, the last
        one for all beyond, and the sum of their delays in microseconds.
    stored
        Rows held by ledger.
    bytes, memory
        Of all ledgers, on disk and in memory.
    """

    labels: Mapping[str, Mapping[str, int]]
    delays: Mapping[str, tuple[tuple[int, ...], int]]
    stored: Mapping[str, int]
    bytes: int
    memory: int


@dataclass(frozen=True, slots=True)
class ServiceView:
    """The state of the process itself. Times are microseconds since the epoch, 0 for never.

    ``active`` says that this process evaluates: where several replicas share a Kafka store one of
    them does, and only it knows what came in and what it means. ``role`` is what each was started
    as: "worker", "aggregator" or "all".
    """

    version: str
    source: str
    ready: bool = False
    finished: bool = False
    single_instance: bool = True
    active: bool = True
    role: str = "all"
    heartbeat: int = 0
    last_commit: int = 0
    last_record: int = 0
    watermark: int = 0
    state_bytes: int = 0
    memory_limit: int = 0
    commit_failures: int = 0
    dead_letters_dropped: int = 0
    partitions: tuple[str, ...] = ()
    lag: Mapping[str, int] = field(default_factory=dict)
    records: Mapping[str, int] = field(default_factory=dict)
    bytes: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    accepted: Mapping[tuple[str, str], int] = field(default_factory=dict)
    late: Mapping[tuple[str, str], int] = field(default_factory=dict)
    expired: Mapping[tuple[str, str], int] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    join: JoinView | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that ``/metrics``, the API and the page show."""

    service: ServiceView
    models: tuple[ModelView, ...] = ()
    alerts: tuple[FiringAlert, ...] = ()
