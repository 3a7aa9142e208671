"""What is shown: the last closed windows, the one that fills, and the alerts that follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from stream_monitor.config.model import WindowConfig
from stream_monitor.config.units import format_duration
from stream_monitor.expose.snapshot import FiringAlert, JoinView, ModelView, OutcomeView, WindowView
from stream_monitor.labels.join import DELAY_BOUNDS, DELAY_SUM, DELAYS, TOLD, Join
from stream_monitor.panes.windows import Window
from stream_monitor.publish import Publisher
from stream_monitor.values import Value, WindowResult, note_of
from stream_monitor.watch import Watched, WatchedPart

HISTORY = 60


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

    def add(self, results: Iterable[WindowResult]) -> None:
        """Take in closed windows; a new revision replaces the old one."""
        for result in results:
            key = result.model, result.version, result.segment, result.window, result.maturity
            if key in self._history:
                # a window that was empty when it closed may come after its successors
                newest = {r.index: r for r in self._history[key]} | {result.index: result}
                self._history[key] = [newest[i] for i in sorted(newest)][-HISTORY:]

    def models(self, publisher: Publisher) -> tuple[ModelView, ...]:
        keys = {(p.name, p.version, p.label): p.key for m in self._watched for p in m.parts}
        filling = {(keys[r.model, r.version, r.segment], r.window): r for r in publisher.filling()}
        return tuple(
            ModelView(
                model.name,
                model.version,
                part.label,
                model.profile.fingerprint,
                part.reference.reference.rows,
                part.reference.cells,
                tuple(
                    self._window(part, w, publisher, filling.get((part.key, w.name)))
                    for w in self._windows
                ),
            )
            for model in self._watched
            for part in model.parts
        )

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


def join_view(joins: Iterable[Join], tally: Callable[[str], Counter[str]]) -> JoinView:
    """What is shown of joins; ``tally`` gives a counter over everything that counts."""
    joins = list(joins)
    names = sorted({name for join in joins for name in join.names})
    counters = {what: tally(what) for what in (*TOLD, DELAYS, DELAY_SUM)}
    stored: Counter[str] = Counter()
    for join in joins:
        stored.update({name: ledger.rows for name, ledger in join.ledgers.items()})
    ledgers = [ledger for join in joins for ledger in join.ledgers.values()]
    delays = {}
    for name in names:
        counts = (counters[DELAYS][f"{i}|{name}"] for i in range(len(DELAY_BOUNDS) + 1))
        delays[name] = tuple(counts), counters[DELAY_SUM][name]
    return JoinView(
        {what: {n: counters[what][n] for n in names} for what in TOLD},
        delays,
        dict(stored),
        sum(ledger.bytes for ledger in ledgers),
        sum(ledger.memory for ledger in ledgers),
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
