"""Publishing: which windows are closed, what they are worth, and how long their panes live."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import msgspec

from stream_monitor.alerts.unexplained import unexplained
from stream_monitor.detectors.config import DetectorConfig
from stream_monitor.detectors.track import Track
from stream_monitor.explain import notes
from stream_monitor.methods.performance.realized import RealizedBlock
from stream_monitor.panes.layout import Counted, Sketch
from stream_monitor.panes.partition import Partition
from stream_monitor.panes.windows import ROWS, TIME, Window
from stream_monitor.reference.profile import Part
from stream_monitor.schema import IntArray
from stream_monitor.store.base import PaneKey
from stream_monitor.values import Value, WindowResult, unjudged
from stream_monitor.watch import Watched, WatchedPart

_HISTORY = 60  # closed windows whose rows are remembered


class Published(msgspec.Struct):
    """Which windows of one model and window name were published.

    ``origin`` is the number of the first window and ``base`` its index, ``next`` the first that is
    not closed, ``revisions`` how often closed windows that may still change were published anew,
    ``rows`` the rows of the last 60 closed windows of time by number.
    """

    origin: int
    next: int
    revisions: dict[int, int] = {}
    base: int = 0
    rows: dict[int, int] = {}

    def index(self, number: int) -> int:
        return number - self.origin + self.base


class _Summed(NamedTuple):
    counted: Counted
    first: int
    last: int


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
        self._partitions = partitions
        self._published: dict[tuple[str, str], Published] = {}
        self._floor: dict[tuple[str, str], int] = {}
        self._bases: dict[tuple[str, str], int] = {}
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
        panes = cache(self._panes)
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
            summed = self._sum(model.parts[0], clock.clock, range(number, number + 1))
            if summed is not None:
                track.feed(number, model.parts[0].evaluator.measure(summed.counted))

    def filling(self, *, judged: bool = False) -> list[WindowResult]:
        """For each part and window name the next window to close, if it has rows already.

        ``judged`` takes it for closed: nothing more will come.
        """
        results = []
        panes = self._panes()
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
        panes = window.panes(result.index - state.index(0))
        summed = self._sum(part, window.clock, panes)
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
        return sum(p.rows[part.model] for p in self._partitions.values())

    def _mark(self, model: Watched, window: Window, watermark: int | None) -> int | None:
        if window.clock == TIME:
            return watermark
        return self.rows(model.parts[0])

    def _origin(self, part: WatchedPart, window: Window) -> int | None:
        if window.clock == ROWS:
            return 0
        first = self._first_event(part)
        return None if first is None else window.first(first)

    def _first_event(self, part: WatchedPart) -> int | None:
        key = part.model
        return min(
            (p.origins[key] for p in self._partitions.values() if key in p.origins), default=None
        )

    def _state(self, part: WatchedPart, window: Window) -> Published | None:
        """What was published, or what will be the first; None before the first event."""
        if (state := self._published.get((part.key, window.name))) is not None:
            return state
        origin = self._origin(part, window)
        if origin is None:
            return None
        return Published(origin, origin, base=self._bases.get((_label(part.key), window.name), 0))

    def _panes(self) -> dict[tuple[str, str], set[int]]:
        """The numbers of all panes by part and clock."""
        found: dict[tuple[str, str], set[int]] = {}
        for partition in self._partitions.values():
            for key in partition.panes:
                found.setdefault((key.model, key.clock), set()).add(key.number)
        return found

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
        self._published[part.key, window.name] = state
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
            summed = self._sum(part, window.clock, window.panes(number), sketches=closed)
            if summed is None:
                continue
            counted = summed.counted
            history = [n for other, n in state.rows.items() if other < number]
            measured = part.evaluator.measure(counted)
            by_time = window.clock == TIME
            if closed and by_time:
                state.rows[number] = counted.rows
                state.rows = {n: state.rows[n] for n in sorted(state.rows)[-_HISTORY:]}
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
        begin = max(window.start(number), self._first_event(part) or 0)
        now = max((p.progress or 0 for p in self._partitions.values()), default=0)
        return min(max(now - begin, 0) / max(window.end(number) - begin, 1), 1.0)

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
        self, part: WatchedPart, clock: str, indices: range, *, sketches: bool = False
    ) -> _Summed | None:
        """Some panes of all partitions as one, with or without sketches; None if there is none."""
        panes = []
        for index in indices:
            key = PaneKey(part.key, clock, index)
            found = (p.panes.get(key) for p in self._partitions.values())
            panes += [pane for pane in found if pane is not None]
        if not panes:
            return None
        vector = panes[0].counts.copy()
        for pane in panes[1:]:
            vector += pane.counts
        merged: dict[str, Sketch] = {}
        for pane in panes if sketches else ():
            for name, sketch in pane.sketches.items():
                merged[name] = merged[name].merged(sketch) if name in merged else sketch
        first, last = min(p.first for p in panes), max(p.last for p in panes)
        return _Summed(Counted(part.reference.layout, vector, merged), first, last)

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
            state = self._published.get((key, window.name))
            if window.clock == clock and state is not None and state.revisions:
                oldest = window.whole_from(floor)
                state.revisions = {n: r for n, r in state.revisions.items() if n >= oldest}
        ended = False
        for partition in self._partitions.values():
            over = [k for k in partition.panes if k.number < floor and k.clock == clock]
            over = [k for k in over if k.model in ours]
            partition.drop(over)
            ended |= bool(over)
        return ended

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
        return msgspec.json.encode(
            _Service(
                [(*key, state) for key, state in sorted(self._published.items())],
                self.floors,
                [(*key, base) for key, base in sorted(self._bases.items())],
                {key: track.state() for key, track in self.tracks.items() if track},
            )
        )

    def restore(self, data: bytes) -> dict[str, str]:
        """The inverse of :meth:`state`; what belongs to other references is forgotten.

        All but how many windows they had: a model's windows are numbered on when its reference
        changes, for the results log tells them apart by number.

        Returns
        -------
        Detectors that begin anew, each with the reason.
        """
        known = {part.key for model in self._watched for part in model.parts}
        stored = msgspec.json.decode(data, type=_Service)
        self._published = {(key, name): s for key, name, s in stored.published if key in known}
        self._bases = {(label, name): base for label, name, base in stored.bases}
        for key, name, state in stored.published:
            if key not in known:
                place = _label(key), name
                self._bases[place] = max(self._bases.get(place, 0), state.index(state.next))
        in_use = {p.key for m in self._watched for p in m.parts if not m.candidate}
        for (key, name), state in self._published.items():
            # what was a candidate goes on after the windows of the reference before it
            after = self._bases.get((_label(key), name), 0) if key in in_use else 0
            state.base += max(0, after - state.index(state.next))
        self._floor = {(key, clock): f for key, clock, f in stored.floors if key in known}
        anew: dict[str, str] = {}
        for key, track in self.tracks.items():
            if track and key in stored.detectors:
                anew |= track.restore(stored.detectors[key])
        return anew


class _Service(msgspec.Struct):
    published: list[tuple[str, str, Published]]
    floors: list[tuple[str, str, int]]
    bases: list[tuple[str, str, int]] = []
    detectors: dict[str, Any] = {}


def _label(key: str) -> str:
    """The part of a model's key that stays when its reference changes."""
    return key.rpartition("@")[0]


def _common(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))
