"""From decoded events to windows: the part that the service and a backtest share.

Nothing here reads a clock or knows a source, a store or a page. What comes out is a function of
what went in: the events of each partition in order, and the watermark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from stream_monitor.batch import ColumnBatch, Decoded, Reject
from stream_monitor.config.model import Config
from stream_monitor.config.units import format_duration
from stream_monitor.panes.partition import Partition
from stream_monitor.panes.windows import ROWS, TIME, Window
from stream_monitor.publish import Publisher
from stream_monitor.schema import IntArray
from stream_monitor.store.base import PaneKey
from stream_monitor.values import WindowResult
from stream_monitor.watch import Watched

ACCEPTED, LATE, EXPIRED, REJECTED = "accepted", "late", "expired", "rejected"


class Pipeline:
    """Counts events into panes, closes windows, evaluates them."""

    def __init__(self, watched: list[Watched], windows: tuple[Window, ...], config: Config) -> None:
        self._watched = watched
        self._windows = windows
        self._time = config.time
        self._grains = {w.clock: w.grain for w in windows}
        self.partitions: dict[str, Partition] = {}
        self.publisher = Publisher(watched, windows, self.partitions, config.detectors)
        self._touched: set[PaneKey] = set()

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
            floor = self.publisher.floor(model, TIME)
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
        track = self.publisher.tracks[model.key]
        if track.by_event:
            clock = TIME if TIME in places else ROWS
            errors = model.errors.of(batch)
            labelled = errors >= 0
            track.feed_events(errors[labelled] > 0, places[clock][labelled] // self._grains[clock])
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
        touched, self._touched = self._touched, set()
        return self.publisher.close(watermark, touched)

    def tally(self, what: str) -> Counter[str]:
        """A counter over all partitions."""
        total: Counter[str] = Counter()
        for partition in self.partitions.values():
            total.update(partition.counters.get(what, {}))
        return total
