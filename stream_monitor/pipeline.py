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
from stream_monitor.panes.partition import Partition
from stream_monitor.panes.windows import ROWS, TIME, Window
from stream_monitor.schema import IntArray
from stream_monitor.store.base import PaneKey
from stream_monitor.values import WindowResult
from stream_monitor.watch import Watched

_FOREVER = 2**62
ACCEPTED, LATE, EXPIRED, REJECTED = "accepted", "late", "expired", "rejected"


class Published(msgspec.Struct):
    """Which windows of one model and window name were published.

    ``origin`` is the number of window 0, ``next`` the first that is not closed, ``revisions`` the
    revision of each closed window that may still change.
    """

    origin: int
    next: int
    revisions: dict[int, int] = {}


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
                first = self._next(model, window)
                if first is not None:
                    numbers = self._numbers(model, window, range(first, _FOREVER))
                    results += self._evaluated(model, window, numbers[:1], closed=False)
        return results

    def counts(self, model: Watched, window: Window, result: WindowResult) -> dict[str, IntArray]:
        """Counts a column of the window that a result is of; empty once its panes are gone."""
        state = self.published.get((model.key, window.name))
        origin = self._origin(model, window) if state is None else state.origin
        vector, _, _ = self._sum(model, window, result.index + (origin or 0))
        return {} if vector is None else model.layout.split(vector)

    def _mark(self, model: Watched, window: Window, watermark: int | None) -> int | None:
        if window.clock == TIME:
            return watermark
        return sum(p.rows[model.key] for p in self.partitions.values())

    def _origin(self, model: Watched, window: Window) -> int | None:
        if window.clock == ROWS:
            return 0
        origins = [p.origins[model.key] for p in self.partitions.values() if model.key in p.origins]
        return window.first(min(origins)) if origins else None

    def _next(self, model: Watched, window: Window) -> int | None:
        state = self.published.get((model.key, window.name))
        return self._origin(model, window) if state is None else state.next

    def _close(
        self, model: Watched, window: Window, mark: int, touched: set[PaneKey]
    ) -> list[WindowResult]:
        last = window.last_closed(mark)
        state = self.published.get((model.key, window.name))
        if state is None:
            origin = self._origin(model, window)
            if origin is None or last < origin:
                return []
            state = self.published[model.key, window.name] = Published(origin, origin)
        numbers = self._numbers(model, window, range(state.next, last + 1))
        again = {
            number
            for key in touched
            if key.model == model.key and key.clock == window.clock
            for number in window.containing(key.number)
            if number in state.revisions
        }
        for number in again:
            state.revisions[number] += 1
        for number in numbers:
            state.revisions[number] = 0
        state.next = max(state.next, last + 1)
        complete = window.last_closed(mark) - 1
        results = self._evaluated(model, window, sorted(again | set(numbers)), closed=True)
        state.revisions = {n: r for n, r in state.revisions.items() if n >= complete}
        return results

    def _numbers(self, model: Watched, window: Window, within: range) -> list[int]:
        """Numbers of the windows in a range that have panes."""
        found: set[int] = set()
        for partition in self.partitions.values():
            for key in partition.panes:
                if key.model == model.key and key.clock == window.clock:
                    found.update(n for n in window.containing(key.number) if n in within)
        return sorted(found)

    def _evaluated(
        self, model: Watched, window: Window, numbers: Iterable[int], *, closed: bool
    ) -> list[WindowResult]:
        state = self.published.get((model.key, window.name))
        origin = self._origin(model, window) if state is None else state.origin
        results = []
        for number in numbers:
            vector, first, last = self._sum(model, window, number)
            if vector is None:
                continue
            measured = model.evaluator.measure(vector)
            by_time = window.clock == TIME
            results.append(
                WindowResult(
                    model.name,
                    model.version,
                    "",
                    window.name,
                    number - (origin or 0),
                    window.start(number) if by_time else first,
                    window.end(number) if by_time else last,
                    model.layout.rows(vector),
                    closed,
                    model.judge.values(measured, vector, closed=closed),
                    state.revisions.get(number, 0) if state else 0,
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
            )
        )

    def restore_service(self, data: bytes) -> None:
        """The inverse of :meth:`service_state`; what belongs to other references is forgotten."""
        known = {model.key for model in self._watched}
        stored = msgspec.json.decode(data, type=_Service)
        self.published = {(key, name): s for key, name, s in stored.published if key in known}
        self._floor = {(key, clock): f for key, clock, f in stored.floors if key in known}


class _Service(msgspec.Struct):
    published: list[tuple[str, str, Published]]
    floors: list[tuple[str, str, int]]
