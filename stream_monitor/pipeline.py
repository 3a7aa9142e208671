"""From decoded events to windows: the part that the service and a backtest share.

Nothing here reads a clock or knows a source, a store or a page. What comes out is a function of
what went in: the events of each partition in order, and the watermark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

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
from stream_monitor.watch import Watched

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
            for index, counts in slots.count(pane):
                first, last = index * grain, (index + 1) * grain
                if clock == ROWS:
                    times = batch.event_time[pane == index]
                    first, last = int(times.min()), int(times.max())
                key = PaneKey(model.key, clock, index)
                partition.add(key, counts, first, last)
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
        touched, self._touched = self._touched, set()
        for model in self._watched:
            for window in self._windows:
                mark = self._mark(model, window, watermark)
                if mark is not None:
                    results += self._close(model, window, mark, touched)
            self._drop(model, watermark)
        return results

    def filling(self) -> list[WindowResult]:
        """For each model and window name the next window to close, if it has rows already."""
        results = []
        for model in self._watched:
            for window in self._windows:
                state = self._state(model, window)
                if state is not None:
                    within = [window.containing(k.number) for k in self._keys(model, window)]
                    numbers = [max(r.start, state.next) for r in within if r.stop > state.next]
                    if numbers:
                        number = min(numbers)
                        results += self._evaluated(model, window, state, [number], closed=False)
        return results

    def counts(self, model: Watched, window: Window, result: WindowResult) -> dict[str, IntArray]:
        """Counts a column of the window that a result is of; empty once its panes are gone."""
        state = self._state(model, window)
        if state is None:
            return {}
        vector, _, _ = self._sum(model, window, result.index - state.index(0))
        return {} if vector is None else Counted(model.layout, vector).columns()

    def _mark(self, model: Watched, window: Window, watermark: int | None) -> int | None:
        if window.clock == TIME:
            return watermark
        return sum(p.rows[model.key] for p in self.partitions.values())

    def _origin(self, model: Watched, window: Window) -> int | None:
        if window.clock == ROWS:
            return 0
        origins = [p.origins[model.key] for p in self.partitions.values() if model.key in p.origins]
        return window.first(min(origins)) if origins else None

    def _state(self, model: Watched, window: Window) -> Published | None:
        """What was published, or what will be the first; None before the first event."""
        if (state := self.published.get((model.key, window.name))) is not None:
            return state
        origin = self._origin(model, window)
        if origin is None:
            return None
        return Published(origin, origin, base=self._bases.get((_label(model.key), window.name), 0))

    def _keys(self, model: Watched, window: Window) -> set[PaneKey]:
        """The panes of a model on a window's clock."""
        return {
            key
            for partition in self.partitions.values()
            for key in partition.panes
            if key.model == model.key and key.clock == window.clock
        }

    def _close(
        self, model: Watched, window: Window, mark: int, touched: set[PaneKey]
    ) -> list[WindowResult]:
        last = window.last_closed(mark)
        state = self._state(model, window)
        if state is None or last < state.origin:
            return []
        self.published[model.key, window.name] = state
        again: set[int] = set()
        floor = self._floor.get((model.key, window.clock))
        oldest = state.origin if floor is None else max(state.origin, window.whole_from(floor))
        ours = (k for k in touched if k.model == model.key and k.clock == window.clock)
        for key in ours:
            again.update(_common(window.containing(key.number), range(oldest, state.next)))
        for number in again:
            state.revisions[number] = state.revisions.get(number, 0) + 1
        new: set[int] = set()
        if last >= state.next:
            for key in self._keys(model, window):
                new.update(_common(window.containing(key.number), range(state.next, last + 1)))
            state.next = last + 1
        return self._evaluated(model, window, state, sorted(again | new), closed=True)

    def _evaluated(
        self,
        model: Watched,
        window: Window,
        state: Published,
        numbers: Iterable[int],
        *,
        closed: bool,
    ) -> list[WindowResult]:
        results = []
        for number in numbers:
            vector, first, last = self._sum(model, window, number)
            if vector is None:
                continue
            counted = Counted(model.layout, vector)
            measured = model.evaluator.measure(counted)
            by_time = window.clock == TIME
            results.append(
                WindowResult(
                    model.name,
                    model.version,
                    "",
                    window.name,
                    state.index(number),
                    window.start(number) if by_time else first,
                    window.end(number) if by_time else last,
                    counted.rows,
                    closed,
                    model.judge.values(measured, counted, closed=closed),
                    state.revisions.get(number, 0),
                )
            )
        return results

    def _sum(self, model: Watched, window: Window, number: int) -> tuple[IntArray | None, int, int]:
        total: IntArray | None = None
        first = last = 0
        for index in window.panes(number):
            key = PaneKey(model.key, window.clock, index)
            for partition in self.partitions.values():
                pane = partition.panes.get(key)
                if pane is None:
                    continue
                if total is None:
                    total, first, last = pane.counts.copy(), pane.first, pane.last
                else:
                    total += pane.counts
                    first, last = min(first, pane.first), max(last, pane.last)
        return total, first, last

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
                for window in self._windows:
                    state = self.published.get((model.key, window.name))
                    if window.clock == clock and state is not None and state.revisions:
                        oldest = window.whole_from(floor)
                        state.revisions = {n: r for n, r in state.revisions.items() if n >= oldest}
                for partition in self.partitions.values():
                    partition.drop(
                        [
                            key
                            for key in partition.panes
                            if key.model == model.key and key.clock == clock and key.number < floor
                        ]
                    )

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
        known = {model.key for model in self._watched}
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
