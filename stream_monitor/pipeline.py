"""From decoded events to windows: the part that the service and a backtest share.

Nothing here reads a clock or knows a source, a store or a page. What comes out is a function of
what went in: the events of each partition in order, and the watermark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from itertools import product
from typing import NamedTuple

import msgspec
import numpy as np

from stream_monitor.batch import ColumnBatch, Decoded, Reject
from stream_monitor.config.model import TimeConfig
from stream_monitor.config.units import format_duration
from stream_monitor.panes.layout import Counted
from stream_monitor.panes.partition import Partition
from stream_monitor.panes.windows import ROWS, TIME, Window
from stream_monitor.schema import IntArray
from stream_monitor.store.base import PaneKey
from stream_monitor.values import WindowResult
from stream_monitor.watch import Watched, WatchedPart

ACCEPTED, LATE, EXPIRED, REJECTED = "accepted", "late", "expired", "rejected"


class Published(msgspec.Struct):
    """Which windows of one model and window name were published.

    ``origin`` is the number of the first window and ``base`` its index, ``next`` the first that is
    not closed, ``revisions`` how often closed windows that may still change were published anew.
    """

    origin: int
    next: int
    revisions: dict[int, int] = {}
    base: int = 0

    def index(self, number: int) -> int:
        return number - self.origin + self.base


class _Summed(NamedTuple):
    counted: Counted
    first: int
    last: int


class Pipeline:
    """Counts events into panes, closes windows, evaluates them."""

    def __init__(
        self, watched: list[Watched], windows: tuple[Window, ...], time: TimeConfig
    ) -> None:
        self._watched = watched
        self._windows = windows
        self._time = time
        self._grains = {w.clock: w.grain for w in windows}
        self.partitions: dict[str, Partition] = {}
        self.published: dict[tuple[str, str], Published] = {}
        self._touched: set[PaneKey] = set()
        self._floor: dict[tuple[str, str], int] = {}
        self._bases: dict[tuple[str, str], int] = {}

    # --- counting -------------------------------------------------------------------------------

    def ingest(self, partition: Partition, decoded: Decoded) -> list[Reject]:
        """Count a run of one partition's events; returns everything that was refused."""
        rejects = list(decoded.rejects)
        for index, batch in decoded.batches.items():
            model = self._watched[index]
            counted, skewed = self._admit(partition, model, batch)
            rejects += skewed
            if len(counted):
                self._count(partition, model, counted)
        for reject in rejects:
            partition.tally(REJECTED, reject.reason)
        return rejects

    def _admit(
        self, partition: Partition, model: Watched, batch: ColumnBatch
    ) -> tuple[ColumnBatch, list[Reject]]:
        """The events that count. Late and skewed are facts of a record alone."""
        if not len(batch):
            return batch, []
        partition.advance(int(batch.arrival.max()))
        delay = batch.arrival - batch.event_time
        late = delay > self._time.allowed_lateness
        skewed = -delay > self._time.allowed_skew
        expired = np.zeros(len(batch), dtype=np.bool_)
        if TIME in self._grains:
            floor = self._floor.get((model.key, TIME))
            if floor is not None:
                expired = (batch.event_time // self._grains[TIME] < floor) & ~late & ~skewed
        refused = late | skewed | expired
        if not refused.any():
            return batch, []
        partition.tally(LATE, model.key, int(late.sum()))
        partition.tally(EXPIRED, model.key, int(expired.sum()))
        allowed = format_duration(self._time.allowed_skew)
        rejects = [
            Reject(
                int(batch.record[row]),
                "clock_skew",
                f"event time is {-delay[row] / 1e6:.3f} s ahead of the record timestamp; "
                f"time.allowed_skew is {allowed}",
            )
            for row in np.flatnonzero(skewed).tolist()
        ]
        return batch.take(np.flatnonzero(~refused)), rejects

    def _count(self, partition: Partition, model: Watched, batch: ColumnBatch) -> None:
        n = len(batch)
        places: dict[str, IntArray] = {}
        if TIME in self._grains:
            places[TIME] = batch.event_time
        if ROWS in self._grains:
            before = partition.rows[model.key]
            places[ROWS] = np.arange(before, before + n)
        partition.rows[model.key] += n
        partition.tally(ACCEPTED, model.key, n)
        origin = int(batch.event_time.min())
        partition.origins[model.key] = min(partition.origins.get(model.key, origin), origin)
        slots = model.counter.slots(batch)
        for clock, place in places.items():
            pane = place // self._grains[clock]
            grain = self._grains[clock]
            spans = {}
            for index, counts in slots.count(pane):
                first, last = index * grain, (index + 1) * grain
                if clock == ROWS:
                    times = batch.event_time[pane == index]
                    first, last = int(times.min()), int(times.max())
                spans[index] = first, last
                key = PaneKey(model.key, clock, index)
                self._add(partition, key, counts, spans[index])
                if model.sketchers:
                    rows = batch if counts[0] == n else batch.take(np.flatnonzero(pane == index))
                    made = {name: s.sketch(rows) for name, s in model.sketchers.items()}
                    partition.sketch(key, made)
            for segment, index, counts in model.segments.count(batch, slots, pane):
                key = PaneKey(model.parts[1 + segment].key, clock, index)
                self._add(partition, key, counts, spans[index])

    def _add(
        self, partition: Partition, key: PaneKey, counts: IntArray, span: tuple[int, int]
    ) -> None:
        partition.add(key, counts, *span)
        self._touched.add(key)

    # --- windows --------------------------------------------------------------------------------

    def watermark(self, at_end: Iterable[str] = ()) -> int | None:
        """Windows that end at or before it are closed; None while a partition is yet unread.

        The least progress of all partitions less the allowed lateness. A partition read to its
        end counts as far as the furthest.
        """
        ended = set(at_end)
        progress = [p.progress for p in self.partitions.values()]
        furthest = max((p for p in progress if p is not None), default=None)
        if furthest is None:
            return None
        slowest = furthest
        for name, partition in self.partitions.items():
            if name not in ended:
                if partition.progress is None:
                    return None
                slowest = min(slowest, partition.progress)
        return slowest - self._time.allowed_lateness

    def close(self, watermark: int | None) -> list[WindowResult]:
        """Windows that are closed now and were not, and closed ones that changed since."""
        results: list[WindowResult] = []
        touched: dict[tuple[str, str], set[int]] = {}
        for key in self._touched:
            touched.setdefault((key.model, key.clock), set()).add(key.number)
        self._touched = set()
        panes = cache(self._panes)
        for model in self._watched:
            for window in self._windows:
                mark = self._mark(model, window, watermark)
                for part in model.parts if mark is not None else ():
                    again = touched.get((part.key, window.clock), set())
                    results += self._close(part, window, mark or 0, again, panes)
            self._drop(model, watermark)
        return results

    def filling(self) -> list[WindowResult]:
        """For each part and window name the next window to close, if it has rows already."""
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
                            results += self._evaluated(part, window, state, [number], closed=False)
        return results

    def counts(
        self, part: WatchedPart, window: Window, result: WindowResult
    ) -> dict[str, IntArray]:
        """Counts a column of the window that a result is of; empty once its panes are gone."""
        state = self._state(part, window)
        if state is None:
            return {}
        summed = self._sum(part, window, result.index - state.index(0))
        return {} if summed is None else summed.counted.columns()

    def _mark(self, model: Watched, window: Window, watermark: int | None) -> int | None:
        if window.clock == TIME:
            return watermark
        return sum(p.rows[model.key] for p in self.partitions.values())

    def _origin(self, part: WatchedPart, window: Window) -> int | None:
        if window.clock == ROWS:
            return 0
        key = part.model
        origins = [p.origins[key] for p in self.partitions.values() if key in p.origins]
        return window.first(min(origins)) if origins else None

    def _state(self, part: WatchedPart, window: Window) -> Published | None:
        """What was published, or what will be the first; None before the first event."""
        if (state := self.published.get((part.key, window.name))) is not None:
            return state
        origin = self._origin(part, window)
        if origin is None:
            return None
        return Published(origin, origin, base=self._bases.get((_label(part.key), window.name), 0))

    def _panes(self) -> dict[tuple[str, str], set[int]]:
        """The numbers of all panes by part and clock."""
        found: dict[tuple[str, str], set[int]] = {}
        for partition in self.partitions.values():
            for key in partition.panes:
                found.setdefault((key.model, key.clock), set()).add(key.number)
        return found

    def _close(
        self,
        part: WatchedPart,
        window: Window,
        mark: int,
        touched: set[int],
        panes: Callable[[], dict[tuple[str, str], set[int]]],
    ) -> list[WindowResult]:
        last = window.last_closed(mark)
        state = self._state(part, window)
        if state is None or last < state.origin:
            return []
        self.published[part.key, window.name] = state
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
            summed = self._sum(part, window, number)
            if summed is None:
                continue
            counted = summed.counted
            if not closed:  # what is costly to measure waits until the window is complete
                counted = replace(counted, sketches={})
            measured = part.evaluator.measure(counted)
            by_time = window.clock == TIME
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
                    part.judge.values(measured, counted, closed=closed),
                    state.revisions.get(number, 0),
                )
            )
        return results

    def _sum(self, part: WatchedPart, window: Window, number: int) -> _Summed | None:
        """A window's panes of all partitions as one; None where there is none."""
        panes = []
        for index in window.panes(number):
            key = PaneKey(part.key, window.clock, index)
            found = (p.panes.get(key) for p in self.partitions.values())
            panes += [pane for pane in found if pane is not None]
        if not panes:
            return None
        vector = panes[0].counts.copy()
        sketches = dict(panes[0].sketches)
        for pane in panes[1:]:
            vector += pane.counts
            for name, sketch in pane.sketches.items():
                sketches[name] = sketches[name].merged(sketch) if name in sketches else sketch
        first, last = min(p.first for p in panes), max(p.last for p in panes)
        return _Summed(Counted(part.reference.layout, vector, sketches), first, last)

    def _drop(self, model: Watched, watermark: int | None) -> None:
        """End the life of panes that no window needs any more."""
        for clock in self._grains:
            floors = []
            for window in self._windows:
                if window.clock == clock:
                    mark = self._mark(model, window, watermark)
                    if mark is None:
                        break
                    floors.append(window.oldest_needed(mark))
            else:
                floor = max(min(floors), self._floor.get((model.key, clock), min(floors)))
                self._floor[model.key, clock] = floor
                ours = {part.key for part in model.parts}
                for window, key in product(self._windows, ours):
                    state = self.published.get((key, window.name))
                    if window.clock == clock and state is not None and state.revisions:
                        oldest = window.whole_from(floor)
                        state.revisions = {n: r for n, r in state.revisions.items() if n >= oldest}
                for partition in self.partitions.values():
                    over = [k for k in partition.panes if k.number < floor and k.clock == clock]
                    partition.drop([k for k in over if k.model in ours])

    def tally(self, what: str) -> Counter[str]:
        """A counter over all partitions."""
        total: Counter[str] = Counter()
        for partition in self.partitions.values():
            total.update(partition.counters.get(what, {}))
        return total

    # --- what belongs to no partition -----------------------------------------------------------

    def service_state(self) -> bytes:
        """What was published and which panes have ended their life, as JSON."""
        return msgspec.json.encode(
            _Service(
                [(*key, state) for key, state in sorted(self.published.items())],
                [(*key, floor) for key, floor in sorted(self._floor.items())],
                [(*key, base) for key, base in sorted(self._bases.items())],
            )
        )

    def restore_service(self, data: bytes) -> None:
        """The inverse of :meth:`service_state`; what belongs to other references is forgotten.

        All but how many windows they had: a model's windows are numbered on when its reference
        changes, for the results log tells them apart by number.
        """
        known = {part.key for model in self._watched for part in model.parts}
        stored = msgspec.json.decode(data, type=_Service)
        self.published = {(key, name): s for key, name, s in stored.published if key in known}
        self._bases = {(label, name): base for label, name, base in stored.bases}
        for key, name, state in stored.published:
            if key not in known:
                place = _label(key), name
                self._bases[place] = max(self._bases.get(place, 0), state.index(state.next))
        self._floor = {(key, clock): f for key, clock, f in stored.floors if key in known}


class _Service(msgspec.Struct):
    published: list[tuple[str, str, Published]]
    floors: list[tuple[str, str, int]]
    bases: list[tuple[str, str, int]] = []


def _label(key: str) -> str:
    """The part of a model's key that stays when its reference changes."""
    return key.rpartition("@")[0]


def _common(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))
