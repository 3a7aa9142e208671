"""What is shown: the last closed windows, the one that fills, and the alerts that follow."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog

from stream_monitor.closing import Closing
from stream_monitor.config.model import WindowConfig
from stream_monitor.config.units import format_duration
from stream_monitor.decode.rejects import REASONS
from stream_monitor.expose.snapshot import FiringAlert, JoinView, ModelView, OutcomeView, WindowView
from stream_monitor.labels.beside import Joined
from stream_monitor.labels.join import DELAY_BOUNDS, DELAY_SUM, DELAYS, TOLD
from stream_monitor.panes.partition import Partition
from stream_monitor.panes.windows import Window
from stream_monitor.pipeline import ACCEPTED, EXPIRED, LATE, REJECTED
from stream_monitor.publish import Publisher
from stream_monitor.reading import BYTES, LOST, RECORDS
from stream_monitor.values import Value, WindowResult, note_of
from stream_monitor.watch import Watched, WatchedPart

HISTORY = 60
_SHARE = 0.03  # of the time, at most, goes into windows that only fill

log = structlog.get_logger()


class Views:
    """Keeps the last closed windows of each model and window name."""

    def __init__(
        self,
        watched: list[Watched],
        windows: tuple[Window, ...],
        configs: list[WindowConfig],
        maturities: Sequence[str] = (),
    ) -> None:
        self._watched = watched
        self._windows = windows
        self._lengths = {c.name: _length(c) for c in configs}
        self._maturities = maturities
        self._history: dict[tuple[str, str, str, str, str], list[WindowResult]] = {
            (m.name, m.version, part.label, w.name, maturity): []
            for m in watched
            for part in m.parts
            for w in windows
            for maturity in ("", *maturities)
        }
        self._filling: dict[tuple[str, str], WindowResult] = {}
        self._due = 0.0

    def add(self, results: Iterable[WindowResult]) -> None:
        """Take in closed windows; a new revision replaces the old one."""
        for result in results:
            key = result.model, result.version, result.segment, result.window, result.maturity
            if key in self._history:
                # a window that was empty when it closed may come after its successors
                newest = {r.index: r for r in self._history[key]} | {result.index: result}
                self._history[key] = [newest[i] for i in sorted(newest)][-HISTORY:]

    def models(self, publisher: Publisher) -> tuple[ModelView, ...]:
        self._fill(publisher)
        return tuple(
            ModelView(
                model.name,
                model.version,
                part.label,
                model.profile.fingerprint,
                part.reference.reference.rows,
                part.reference.cells,
                tuple(
                    self._window(part, w, publisher, self._filling.get((part.key, w.name)))
                    for w in self._windows
                ),
            )
            for model in self._watched
            for part in model.parts
        )

    def _fill(self, publisher: Publisher) -> None:
        """Evaluate windows that fill, the less often the longer it takes."""
        began = time.monotonic()
        if began < self._due:
            return
        keys = {(p.name, p.version, p.label): p.key for m in self._watched for p in m.parts}
        self._filling = {
            (keys[r.model, r.version, r.segment], r.window): r for r in publisher.filling()
        }
        ended = time.monotonic()
        self._due = ended + (ended - began) / _SHARE

    def _window(
        self,
        part: WatchedPart,
        window: Window,
        publisher: Publisher,
        filling: WindowResult | None,
    ) -> WindowView:
        names = part.name, part.version, part.label, window.name
        history = tuple(self._history[*names, ""])
        closed = history[-1] if history else None
        if filling is not None and closed is not None and filling.index <= closed.index:
            filling = None  # it has closed since it was evaluated
        return WindowView(
            window.name,
            self._lengths[window.name],
            closed,
            publisher.counts(part, window, closed) if closed else {},
            filling,
            publisher.counts(part, window, filling) if filling else {},
            history,
            tuple(self._outcome(names, maturity) for maturity in self._maturities),
        )

    def _outcome(self, names: tuple[str, str, str, str], maturity: str) -> OutcomeView:
        history = tuple(self._history[*names, maturity])
        return OutcomeView(maturity, history[-1] if history else None, history)

    def alerts(self, models: Iterable[ModelView]) -> tuple[FiringAlert, ...]:
        """Values that the newest closed window of each part and window name judged an alert."""
        found: list[FiringAlert] = []
        for model in models:
            for view in model.windows:
                for newest, history in (
                    (view.closed, view.history),
                    *((outcome.closed, outcome.history) for outcome in view.outcomes),
                ):
                    if newest is not None:
                        found += (_firing(newest, v, history) for v in newest.values if v.alert)
        return tuple(found)


def counted(closing: Closing, at_end: Iterable[str], watched: Sequence[Watched]) -> dict[str, Any]:
    """The part of a :class:`ServiceView` that follows from what came in."""
    tally = closing.tally

    def by_model(what: str) -> dict[tuple[str, str], int]:
        total = tally(what)
        return {(m.name, m.version): total[m.key] for m in watched}

    records = tally(RECORDS)
    return {
        "last_record": closing.last_record,
        "watermark": closing.watermark(at_end) or 0,
        "records": records,
        "bytes": tally(BYTES),
        # from 0, or nobody would see the first loss as a rise
        "lost": dict.fromkeys(records, 0) | dict(tally(LOST)),
        "accepted": by_model(ACCEPTED),
        "late": by_model(LATE),
        "expired": by_model(EXPIRED),
        "rejected": dict.fromkeys(REASONS, 0) | dict(tally(REJECTED)),
        "join": None if closing.matured is None else join_view(closing.joins, tally),
    }


def state_bytes(partitions: Iterable[Partition]) -> int:
    """Bytes of the counts of all panes."""
    return sum(pane.counts.nbytes for p in partitions for pane in p.panes.values())


def log_alerts(results: Iterable[WindowResult]) -> None:
    """Say which of the windows alert."""
    for result in results:
        flagged = [v for v in result.values if v.alert]
        if flagged:
            log.warning(
                "window alerts",
                model=result.model,
                version=result.version,
                window=result.window,
                maturity=result.maturity,
                index=result.index,
                rows=result.rows,
                features=sorted({v.feature or v.metric for v in flagged}),
                notes=dict(result.notes),
            )


def join_view(joins: Iterable[Joined], tally: Callable[[str], Counter[str]]) -> JoinView:
    """What is shown of joins; ``tally`` gives a counter over everything that counts."""
    joins = list(joins)
    names = sorted({name for join in joins for name in join.names})
    counters = {what: tally(what) for what in (*TOLD, DELAYS, DELAY_SUM)}
    stored: Counter[str] = Counter()
    every = [join.held for join in joins]
    for held in every:
        stored.update({name: one.rows for name, one in held.items()})
    delays = {}
    for name in names:
        counts = (counters[DELAYS][f"{i}|{name}"] for i in range(len(DELAY_BOUNDS) + 1))
        delays[name] = tuple(counts), counters[DELAY_SUM][name]
    return JoinView(
        {what: {n: counters[what][n] for n in names} for what in TOLD},
        delays,
        dict(stored),
        sum(one.bytes for held in every for one in held.values()),
        sum(one.memory for held in every for one in held.values()),
    )


def _length(config: WindowConfig) -> str:
    if config.rows:
        return f"{config.rows:,} rows"
    size = format_duration(config.size or 0)
    every = config.every
    return size if not every or every == config.size else f"{size} every {format_duration(every)}"


def _firing(newest: WindowResult, value: Value, history: Sequence[WindowResult]) -> FiringAlert:
    since = newest.end
    for result in reversed(history):
        same = (v for v in result.values if _identity(v) == _identity(value))
        if not any(v.alert for v in same):
            break
        since = result.end
    return FiringAlert(
        newest.model,
        newest.version,
        newest.segment,
        newest.window,
        value.feature,
        value.family,
        value.metric,
        value.value,
        value.lower_threshold,
        value.upper_threshold,
        newest.rows,
        newest.end,
        since,
        newest.notes.get(note_of(value), ""),
        newest.maturity,
    )


def _identity(value: Value) -> tuple[str, str, str]:
    return value.feature, value.family, value.metric
