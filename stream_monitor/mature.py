"""Publishing what labels tell: each window once for each maturity, over the outcome panes.

A window at maturity m is closed when the watermark has passed its end by m: then every prediction
in it is at least so old. Sliding windows would need panes as fine as their steps for as long as
labels may come, so here windows follow each other: of those that overlap, each that begins where a
multiple of the length is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from stream_monitor.config.model import LabelsConfig
from stream_monitor.config.units import format_duration
from stream_monitor.labels.beside import Joined
from stream_monitor.labels.join import PREDICTED
from stream_monitor.methods.outcomes.base import Outcome
from stream_monitor.panes.layout import Counted, Layout
from stream_monitor.panes.partition import Pane
from stream_monitor.panes.windows import ROWS, TIME, Window
from stream_monitor.publish import Publisher
from stream_monitor.store.base import PaneKey
from stream_monitor.values import WindowResult, unjudged
from stream_monitor.watch_outcome import OutcomeModel, OutcomePart, outcome_windows

_REVISED = 8  # windows that are published anew in a round; the others wait for the next


class State(msgspec.Struct):
    """What was published of a part's window name at one maturity.

    ``next`` is the first window that is not closed, ``stale`` those whose counts have changed since
    they were published, ``revisions`` how often each was published anew.
    """

    next: int
    stale: set[int] = set()
    revisions: dict[int, int] = {}

    def forget(self, first: int) -> None:
        """What is published of windows before the first stays as it is."""
        self.stale = {n for n in self.stale if n >= first}
        self.revisions = {n: r for n, r in self.revisions.items() if n >= first}


class Matured:
    """Closes windows over outcome panes and evaluates them."""

    def __init__(
        self,
        models: Sequence[OutcomeModel],
        windows: Sequence[Window],
        publisher: Publisher,
        joins: Mapping[str, Joined],
        config: LabelsConfig,
    ) -> None:
        self._models = models
        self._publisher = publisher
        self._joins = joins
        self._delays = [format_duration(m) for m in config.maturities]
        self._maturities = config.maturities
        self._last = len(config.maturities) - 1
        self._life = config.horizon + config.allowed_lateness
        self._states: dict[tuple[str, str, int], State] = {}
        # by part and clock: of each pane of predictions the last event time
        self._predicted: dict[tuple[str, str], dict[int, int]] = {}
        # what nobody needs any more: rows of predictions before, panes below, by part and clock
        self.past: int | None = None
        self.floors: list[tuple[str, str, int]] = []
        self._own = outcome_windows(windows)
        clocks = {w.clock: w for w in self._own.values()}
        self._steps = clocks.get(TIME) or clocks[ROWS]

    # --- closing --------------------------------------------------------------------------------

    def close(self, watermark: int | None) -> list[WindowResult]:
        """Windows that are mature now and were not, and some of those that changed since."""
        for join in self._joins.values():
            # before anything else: a commit may follow, and what changed must be known after it
            self._mark_stale(join.touched)
            join.touched = set()
        if watermark is None:
            return []
        self._look()
        results: list[WindowResult] = []
        for model in self._models:
            self._feed(model, watermark)
            for part in model.parts:
                for window in self._own.values():
                    for i in range(len(self._maturities)):
                        results += self._close(model, part, window, i, watermark)
        results += self._revise()
        self._drop(watermark)
        return results

    def settled(self) -> bool:
        """Whether every published window stands as its panes are."""
        return not any(state.stale for state in self._states.values())

    def filling(self) -> Iterator[WindowResult]:
        """Every window that is not mature yet, shown and not judged."""
        self._look()
        for model in self._models:
            for part in model.parts:
                for window in self._own.values():
                    there = self._predicted.get((part.key, window.clock), {})
                    every = sorted({n // (window.length // window.grain) for n in there})
                    for i in range(len(self._maturities)):
                        state = self._states.get((part.key, window.name, i))
                        for number in every:
                            if state is None or number >= state.next:
                                result = self._evaluated(
                                    model, part, window, i, number, closed=False
                                )
                                if result is not None:
                                    yield result

    def _mark_stale(self, touched: Iterable[PaneKey]) -> None:
        delays = [PREDICTED, *self._delays]
        places = {
            (f"{part.key}|{delay}"): (part.key, max(i - 1, 0))
            for model in self._models
            for part in model.parts
            for i, delay in enumerate(delays)
        }
        for key in touched:
            part, first = places[key.model]
            for window in self._own.values():
                if window.clock != key.clock:
                    continue
                number = key.number // (window.length // window.grain)
                for i in range(first, len(self._maturities)):
                    state = self._states.get((part, window.name, i))
                    if state is not None and number < state.next:
                        state.stale.add(number)

    def _close(
        self, model: OutcomeModel, part: OutcomePart, window: Window, i: int, watermark: int
    ) -> list[WindowResult]:
        key = part.key, window.name, i
        first = self._publisher.first(part.input, window.name)
        if first is None:
            return []
        ratio = window.length // self._publisher.step(window.name)
        state = self._states.get(key) or State(-(-first // ratio))
        last = self._before(part, window, watermark - self._maturities[i])
        if last < state.next:
            return []
        self._states[key] = state
        numbers = {
            n // (window.length // window.grain)
            for n in self._predicted.get((part.key, window.clock), {})
        }
        chosen = sorted(n for n in numbers if state.next <= n <= last)
        state.next = last + 1
        results = (self._evaluated(model, part, window, i, n, closed=True) for n in chosen)
        return [result for result in results if result is not None]

    def _before(self, part: OutcomePart, window: Window, time: int) -> int:
        """The newest window whose predictions are all from before a time; may be negative."""
        if window.clock == TIME:
            return window.last_closed(time)
        closed = window.last_closed(self._publisher.rows(part.input))
        length = window.length // window.grain
        lasts = self._predicted.get((part.key, window.clock), {})
        later = [number // length for number, last in lasts.items() if last > time]
        return min([closed, *(number - 1 for number in later)])

    def _revise(self) -> list[WindowResult]:
        """Some windows whose counts have changed, the oldest first."""
        models = {part.key: (model, part) for model in self._models for part in model.parts}
        waiting = sorted(
            (number, key) for key, state in self._states.items() for number in state.stale
        )
        results = []
        for number, key in waiting[:_REVISED]:
            state = self._states[key]
            state.stale.discard(number)
            state.revisions[number] = state.revisions.get(number, 0) + 1
            model, part = models[key[0]]
            result = self._evaluated(model, part, self._own[key[1]], key[2], number, closed=True)
            if result is not None:
                results.append(result)
        return results

    # --- evaluating -----------------------------------------------------------------------------

    def _evaluated(
        self,
        model: OutcomeModel,
        part: OutcomePart,
        window: Window,
        i: int,
        number: int,
        *,
        closed: bool,
    ) -> WindowResult | None:
        panes = window.panes(number)
        outcome, every = self._outcome(part, window, panes, i)
        if not outcome.predicted.rows:
            return None
        rows, labelled = outcome.predicted.rows, outcome.labelled.rows
        last = i == self._last
        # early labels are not those of all predictions: only when none is missing, or none counts
        # any more, a verdict is about the window
        judged = closed and (last or labelled == rows)
        measured = part.evaluator.outcome(outcome)
        if last and not closed and labelled:
            part.judge.expect(window.name, measured, labelled / rows)
        values = part.judge.values(measured, outcome.labelled, closed=judged)
        if last and not part.input.label and window.clock == self._steps.clock:
            values += model.prequential.values(panes, judged=closed)
        if part.input.candidate:
            values = unjudged(values)
        state = self._states.get((part.key, window.name, i))
        by_time = window.clock == TIME
        ratio = window.length // self._publisher.step(window.name)
        return WindowResult(
            part.input.name,
            part.input.version,
            part.input.label,
            window.name,
            self._publisher.index(part.input, window.name, number * ratio),
            window.start(number) if by_time else min(p.first for p in every),
            window.end(number) if by_time else max(p.last for p in every),
            rows,
            closed,
            values,
            state.revisions.get(number, 0) if state is not None else 0,
            self._publisher.notes(part.reference, outcome.labelled, values, part.realized),
            self._delays[i],
            labelled / rows,
        )

    def _outcome(
        self, part: OutcomePart, window: Window, numbers: range, i: int
    ) -> tuple[Outcome, list[Pane]]:
        predicted = self._panes(part, window, numbers, PREDICTED)
        labelled = [
            pane
            for delay in self._delays[: i + 1]
            for pane in self._panes(part, window, numbers, delay)
        ]
        outcome = Outcome(_summed(part.layout, predicted), _summed(part.layout, labelled))
        return outcome, predicted

    def _panes(self, part: OutcomePart, window: Window, numbers: range, delay: str) -> list[Pane]:
        name = f"{part.key}|{delay}"
        found = (
            join.partition.panes.get(PaneKey(name, window.clock, n))
            for join in self._joins.values()
            for n in numbers
        )
        return [pane for pane in found if pane is not None]

    def _look(self) -> None:
        """Note which panes of predictions there are, and the last event time of each."""
        self._predicted = {}
        for join in self._joins.values():
            for key, pane in join.partition.panes.items():
                part, _, delay = key.model.rpartition("|")
                if delay == PREDICTED:
                    lasts = self._predicted.setdefault((part, key.clock), {})
                    lasts[key.number] = max(lasts.get(key.number, 0), pane.last)

    # --- in the order of the panes --------------------------------------------------------------

    def _feed(self, model: OutcomeModel, watermark: int) -> None:
        """Panes that are mature now, to what takes them in their order, each once."""
        whole, window = model.parts[0], self._steps
        if not model.prequential:
            return
        pane = replace(window, length=window.grain, step=window.grain)
        mature = self._before(whole, pane, watermark - self._maturities[-1])
        there = self._predicted.get((whole.key, window.clock), {})
        first = model.prequential.next
        for number in sorted(n for n in there if first <= n <= mature):
            outcome, _ = self._outcome(whole, pane, range(number, number + 1), self._last)
            measured = whole.evaluator.outcome(outcome)
            model.prequential.feed(number, measured, outcome.labelled)

    # --- life and state -------------------------------------------------------------------------

    def _drop(self, watermark: int) -> None:
        """End the life of panes for which no label will count any more."""
        past = watermark - self._life
        floors: dict[tuple[str, str], int] = {}
        for model in self._models:
            whole = model.parts[0]
            for window in self._own.values():
                # a window is whole until no label of its last prediction will count
                number = self._before(whole, window, past) + 1
                # and what has changed of it is published
                number = min([number, *self._stale(model, window)])
                floor = window.start(number) // window.grain
                for part in model.parts:
                    place = part.key, window.clock
                    floors[place] = min(floor, floors.get(place, floor))
                    for i in range(len(self._maturities)):
                        if (state := self._states.get((part.key, window.name, i))) is not None:
                            state.forget(number)
            model.prequential.forget(floors[whole.key, self._steps.clock])
        self.past = past
        self.floors = [(*place, floor) for place, floor in sorted(floors.items())]
        self.follow(past, self.floors)

    def _stale(self, model: OutcomeModel, window: Window) -> list[int]:
        """Windows of any part that do not stand as their panes are."""
        states = (
            self._states.get((part.key, window.name, i))
            for part in model.parts
            for i in range(len(self._maturities))
        )
        return [number for state in states if state is not None for number in state.stale]

    def follow(self, past: int, floors: Iterable[tuple[str, str, int]]) -> bool:
        """End the life of panes below floors and of rows before ``past``; whether panes ended."""
        known = {(part, clock): floor for part, clock, floor in floors}
        ended = False
        for join in self._joins.values():
            join.forget(past)
            panes = join.partition.panes
            places = ((key, (key.model.rpartition("|")[0], key.clock)) for key in panes)
            over = [key for key, place in places if key.number < known.get(place, key.number)]
            join.partition.drop(over)
            ended |= bool(over)
        return ended

    def state(self) -> bytes:
        """What was published, and the tests' states, as JSON."""
        return msgspec.json.encode(
            _Stored(
                [(*key, state) for key, state in sorted(self._states.items())],
                {m.parts[0].key: m.prequential.state() for m in self._models if m.prequential},
            )
        )

    def restore(self, data: bytes) -> dict[str, str]:
        """The inverse of :meth:`state`; what belongs to other references is forgotten.

        Returns
        -------
        What begins anew, each with the reason.
        """
        stored = msgspec.json.decode(data, type=_Stored)
        known = {part.key for model in self._models for part in model.parts}
        self._states = {
            (key, name, i): state
            for key, name, i, state in stored.states
            if key in known and name in self._own and i <= self._last
        }
        anew: dict[str, str] = {}
        for model in self._models:
            key = model.parts[0].key
            if model.prequential and key in stored.prequential:
                anew |= model.prequential.restore(stored.prequential[key])
        return anew


class _Stored(msgspec.Struct):
    states: list[tuple[str, str, int, State]]
    prequential: dict[str, Any] = {}


def _summed(layout: Layout, panes: Sequence[Pane]) -> Counted:
    vector = np.zeros(layout.size, dtype=np.int64)
    for pane in panes:
        vector += pane.counts
    return Counted(layout, vector)
