"""Publishing: which windows are closed, what they are worth, and how long their panes live."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import product

import msgspec

from stream_monitor.alerts.unexplained import unexplained
from stream_monitor.detectors.config import DetectorConfig
from stream_monitor.detectors.track import Track
from stream_monitor.explain import notes
from stream_monitor.methods.performance.realized import RealizedBlock
from stream_monitor.panes.across import Across, Summed
from stream_monitor.panes.layout import Counted
from stream_monitor.panes.partition import Partition
from stream_monitor.panes.windows import ROWS, TIME, Window
from stream_monitor.published import Books, Published, Saved
from stream_monitor.reference.profile import Part
from stream_monitor.schema import IntArray
from stream_monitor.store.base import PaneKey
from stream_monitor.values import Value, WindowResult, unjudged
from stream_monitor.watch import Watched, WatchedPart


class Publisher:
    """Closes windows over the panes of all partitions and evaluates them."""

    def __init__(
        self,
        watched: list[Watched],
        windows: tuple[Window, ...],
        partitions: Mapping[str, Partition],
        detectors: Sequence[DetectorConfig],
        *,
        explained: bool = True,
    ) -> None:
        self._explained = explained
        self._watched = watched
        self._windows = windows
        self._named = {w.name: w for w in windows}
        self._across = Across(partitions)
        self._books = Books()
        self._floor: dict[tuple[str, str], int] = {}
        clocks = {w.clock: w for w in windows}
        # detectors step over panes of time where there are such
        self._steps = clocks.get(TIME) or clocks[ROWS]
        self.tracks = {m.key: Track(detectors, m.name) for m in watched}

    def floor(self, model: Watched, clock: str) -> int | None:
        """The first pane that is still alive; None before the first window closed."""
        return self._floor.get((model.key, clock))

    def close(self, watermark: int | None, changed: Iterable[PaneKey]) -> list[WindowResult]:
        """Windows that are closed now and were not, and closed ones whose panes have changed."""
        results: list[WindowResult] = []
        touched: dict[tuple[str, str], set[int]] = {}
        for key in changed:
            touched.setdefault((key.model, key.clock), set()).add(key.number)
        panes = cache(self._across.numbers)
        for model in self._watched:
            self._detect(model, watermark, panes)
            for window in self._windows:
                mark = self._mark(model, window, watermark)
                for part in model.parts:
                    again = touched.get((part.key, window.clock), set())
                    results += self._close(part, window, mark, again, panes)
            self._drop(model, watermark)
        return results

    def _detect(
        self,
        model: Watched,
        watermark: int | None,
        panes: Callable[[], dict[tuple[str, str], set[int]]],
    ) -> None:
        """Feed the panes that are closed now to the model's detectors."""
        track, clock = self.tracks[model.key], self._steps
        mark = self._mark(model, clock, watermark)
        if not track or mark is None:
            return
        end, last = mark // clock.grain, track.pane
        there = panes().get((model.key, clock.clock), set())
        for number in sorted(n for n in there if n < end and (last is None or n > last)):
            summed = self._sum(model.parts[0], clock, range(number, number + 1))
            if summed is not None:
                track.feed(number, model.parts[0].evaluator.measure(summed.counted))

    def filling(self, *, judged: bool = False) -> list[WindowResult]:
        """For each part and window name the next window to close, if it has rows already.

        ``judged`` takes it for closed: nothing more will come.
        """
        results = []
        panes = self._across.numbers()
        for model in self._watched:
            for part in model.parts:
                for window in self._windows:
                    state = self._state(part, window)
                    if state is not None:
                        there = panes.get((part.key, window.clock), ())
                        within = [window.containing(n) for n in there]
                        numbers = [max(r.start, state.next) for r in within if r.stop > state.next]
                        if numbers:
                            number = min(numbers)
                            results += self._evaluated(part, window, state, [number], closed=judged)
        return results

    def counts(
        self, part: WatchedPart, window: Window, result: WindowResult
    ) -> dict[str, IntArray]:
        """Counts a column of the window that a result is of; empty once its panes are gone."""
        state = self._state(part, window)
        if state is None:
            return {}
        summed = self._sum(part, window, window.panes(result.index - state.index(0)))
        return {} if summed is None else summed.counted.columns()

    def first(self, part: WatchedPart, window: str) -> int | None:
        """The number of a part's first window; None before the first event."""
        state = self._state(part, self._named[window])
        return None if state is None else state.origin

    def index(self, part: WatchedPart, window: str, number: int) -> int:
        """The index of a part's window, which there must be."""
        state = self._state(part, self._named[window])
        return number if state is None else state.index(number)

    def step(self, window: str) -> int:
        return self._named[window].step

    def rows(self, part: WatchedPart) -> int:
        """Events counted so far of the part's model."""
        return self._across.rows(part.model)

    def _mark(self, model: Watched, window: Window, watermark: int | None) -> int | None:
        if window.clock == TIME:
            return watermark
        return self.rows(model.parts[0])

    def _origin(self, part: WatchedPart, window: Window) -> int | None:
        if window.clock == ROWS:
            return 0
        first = self._across.first_event(part.model)
        return None if first is None else window.first(first)

    def _state(self, part: WatchedPart, window: Window) -> Published | None:
        """What was published, or what will be the first; None before the first event."""
        if (state := self._books.get(part.key, window.name)) is not None:
            return state
        origin = self._origin(part, window)
        return None if origin is None else self._books.new(part.key, window.name, origin)

    def _close(
        self,
        part: WatchedPart,
        window: Window,
        mark: int | None,
        touched: set[int],
        panes: Callable[[], dict[tuple[str, str], set[int]]],
    ) -> list[WindowResult]:
        state = self._state(part, window)
        if state is None:
            return []
        # while nobody knows how far all are no window closes; closed ones change nevertheless
        last = state.next - 1 if mark is None else window.last_closed(mark)
        if last < state.origin:
            return []
        self._books.put(part.key, window.name, state)
        again: set[int] = set()
        floor = self._floor.get((part.model, window.clock))
        oldest = state.origin if floor is None else max(state.origin, window.whole_from(floor))
        for number in touched:
            again.update(_common(window.containing(number), range(oldest, state.next)))
        for number in again:
            state.revisions[number] = state.revisions.get(number, 0) + 1
        new: set[int] = set()
        if last >= state.next:
            for number in panes().get((part.key, window.clock), ()):
                new.update(_common(window.containing(number), range(state.next, last + 1)))
            state.next = last + 1
        return self._evaluated(part, window, state, sorted(again | new), closed=True)

    def _evaluated(
        self,
        part: WatchedPart,
        window: Window,
        state: Published,
        numbers: Iterable[int],
        *,
        closed: bool,
    ) -> list[WindowResult]:
        results = []
        for number in numbers:
            # what is costly to measure waits until the window is complete
            summed = self._sum(part, window, window.panes(number), sketches=closed)
            if summed is None:
                continue
            counted = summed.counted
            history = state.before(number)
            measured = part.evaluator.measure(counted)
            by_time = window.clock == TIME
            if closed and by_time:
                state.remember(number, counted.rows)
            if not closed:
                filled = self._filled(part, window, number, counted.rows)
                part.judge.expect(window.name, measured, filled)
            values = part.judge.values(measured, counted, closed=closed, history=history)
            values += unexplained(values, part.outputs)
            values += self._detected(part, window, number, closed=closed)
            if part.candidate:
                values = unjudged(values)
            realized = part.evaluator.blocks.get("realized_performance")
            results.append(
                WindowResult(
                    part.name,
                    part.version,
                    part.label,
                    window.name,
                    state.index(number),
                    window.start(number) if by_time else summed.first,
                    window.end(number) if by_time else summed.last,
                    counted.rows,
                    closed,
                    values,
                    state.revisions.get(number, 0),
                    self.notes(part.reference, counted, values, realized),
                )
            )
        return results

    def _filled(self, part: WatchedPart, window: Window, number: int, rows: int) -> float:
        """How much of a window has been seen since its first event, in [0, 1]."""
        if window.clock == ROWS:
            return min(rows / window.length, 1.0)
        begin = max(window.start(number), self._across.first_event(part.model) or 0)
        seen = max(self._across.newest - begin, 0)
        return min(seen / max(window.end(number) - begin, 1), 1.0)

    def notes(
        self, reference: Part, window: Counted, values: Sequence[Value], realized: object
    ) -> dict[str, str]:
        """What can be said of a window's alerts, if anybody reads it."""
        if not self._explained:
            return {}
        known = realized if isinstance(realized, RealizedBlock) else None
        return notes(reference, window, values, known)

    def _detected(
        self, part: WatchedPart, window: Window, number: int, *, closed: bool
    ) -> tuple[Value, ...]:
        if part.label or window.clock != self._steps.clock:
            return ()
        return self.tracks[part.key].values(window.panes(number), judged=closed)

    def _sum(
        self, part: WatchedPart, window: Window, panes: range, *, sketches: bool = False
    ) -> Summed | None:
        layout = part.reference.layout
        return self._across.sum(part.key, window.clock, panes, layout, sketches=sketches)

    def _drop(self, model: Watched, watermark: int | None) -> None:
        """End the life of panes that no window needs any more."""
        for clock in {w.clock for w in self._windows}:
            floors = []
            for window in self._windows:
                if window.clock == clock:
                    mark = self._mark(model, window, watermark)
                    if mark is None:
                        break
                    floors.append(window.oldest_needed(mark))
            else:
                self._end(model, clock, min(floors))

    def _end(self, model: Watched, clock: str, floor: int) -> bool:
        """End the life of a model's panes below a floor; whether there were any."""
        floor = self._floor[model.key, clock] = max(
            floor, self._floor.get((model.key, clock), floor)
        )
        if clock == self._steps.clock:
            self.tracks[model.key].forget(floor)
        ours = {part.key for part in model.parts}
        for window, key in product(self._windows, ours):
            state = self._books.get(key, window.name)
            if window.clock == clock and state is not None:
                state.forget(window.whole_from(floor))
        return self._across.drop(ours, clock, floor)

    @property
    def floors(self) -> list[tuple[str, str, int]]:
        """The first pane that is still needed, by model and clock."""
        return [(*key, floor) for key, floor in sorted(self._floor.items())]

    def follow(self, floors: Iterable[tuple[str, str, int]]) -> bool:
        """End the life of panes as another process says; whether there were any."""
        known = {model.key: model for model in self._watched}
        ended = False
        for key, clock, floor in floors:
            if key in known:
                ended |= self._end(known[key], clock, floor)
        return ended

    def state(self) -> bytes:
        """What was published and which panes have ended their life, as JSON."""
        detectors = {key: track.state() for key, track in self.tracks.items() if track}
        return self._books.saved(self.floors, detectors)

    def restore(self, data: bytes) -> dict[str, str]:
        """The inverse of :meth:`state`; what belongs to other references is forgotten.

        Returns
        -------
        Detectors that begin anew, each with the reason.
        """
        parts = [part for model in self._watched for part in model.parts]
        known = {part.key for part in parts}
        stored = msgspec.json.decode(data, type=Saved)
        self._books.restore(stored, known, {part.key for part in parts if not part.candidate})
        self._floor = {(key, clock): f for key, clock, f in stored.floors if key in known}
        anew: dict[str, str] = {}
        for key, track in self.tracks.items():
            if track and key in stored.detectors:
                anew |= track.restore(stored.detectors[key])
        return anew


def _common(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))
