"""From decoded events to windows: the part that the service and a backtest share.

Nothing here reads a clock or knows a source, a store or a page. What comes out is a function of
what went in: the events of each partition in order, and the watermark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from stream_monitor.batch import ColumnBatch, Decoded, Reject
from stream_monitor.closing import Closing
from stream_monitor.config.model import Config
from stream_monitor.config.units import format_duration
from stream_monitor.decode.label_batch import DecodedLabels
from stream_monitor.labels.join import NAME, Join
from stream_monitor.labels.packing import Marks, Send, Sharded
from stream_monitor.labels.route import Router, Sink
from stream_monitor.panes.partition import Partition
from stream_monitor.panes.windows import ROWS, TIME, Window
from stream_monitor.schema import BoolArray, IntArray
from stream_monitor.store.base import PaneKey
from stream_monitor.values import WindowResult
from stream_monitor.watch import Watched
from stream_monitor.watch_outcome import Outcomes

ACCEPTED, LATE, EXPIRED, REJECTED = "accepted", "late", "expired", "rejected"


class Pipeline:
    """Counts events into panes, closes windows, evaluates them.

    ``explained`` says whether alerts come with notes in words.
    """

    def __init__(
        self,
        watched: list[Watched],
        windows: tuple[Window, ...],
        config: Config,
        outcomes: Outcomes | None = None,
        send: Send | None = None,
        *,
        explained: bool = True,
    ) -> None:
        self._watched = watched
        self._windows = windows
        self._time = config.time
        self._grains = {w.clock: w.grain for w in windows}
        self.partitions: dict[str, Partition] = {}
        self.label_partitions: dict[str, Partition] = {}
        self.joins: dict[str, Join] = {}
        self.router: Router | None = None
        self._sharded: Sharded | None = None
        if outcomes is not None:
            self._open(outcomes, send)
        self.closing = Closing(
            watched,
            windows,
            config,
            outcomes,
            partitions=self.partitions,
            label_partitions=self.label_partitions,
            joins=self.joins,
            sharded=send is not None,
            explained=explained,
        )
        self.publisher, self.matured = self.closing.publisher, self.closing.matured
        self._touched: set[PaneKey] = set()

    def _open(self, outcomes: Outcomes, send: Send | None) -> None:
        """Labels come late: rows go to a join right here or, with ``send``, by a topic."""
        sink: Sink
        if send is None:
            sink = self.joins[NAME] = outcomes.join(NAME)
        else:
            names = {index: m.rows for index, m in outcomes.joined.items()}
            sink = self._sharded = Sharded(names, outcomes.config.join_partitions, send)
        models = {index: (m.name, m.counter) for index, m in outcomes.joined.items()}
        self.router = Router(models, outcomes.config.allowed_lateness, sink)

    # --- counting -------------------------------------------------------------------------------

    def ingest(self, partition: Partition, decoded: Decoded) -> list[Reject]:
        """Count a run of one partition's events; returns everything that was refused."""
        rejects = list(decoded.rejects)
        for index, batch in decoded.batches.items():
            model = self._watched[index]
            counted, skewed = self._admit(partition, model, batch)
            rejects += skewed
            if len(counted):
                self._count(partition, model, counted, index)
        for reject in rejects:
            partition.tally(REJECTED, reject.reason, reject.count)
        return rejects

    def ingest_labels(self, partition: Partition, decoded: DecodedLabels) -> list[Reject]:
        """Join a run of labels to their predictions; returns everything that was refused."""
        rejects = list(decoded.rejects)
        for name, batch in decoded.batches.items():
            if not len(batch) or self.router is None:
                continue
            partition.advance(int(batch.arrival.max()))
            ahead = batch.time - batch.arrival
            skewed = ahead > self._time.allowed_skew
            rejects += self._skewed(batch.record, ahead, skewed)
            self.router.labels(partition, name, batch.take(np.flatnonzero(~skewed)))
        for reject in rejects:
            partition.tally(REJECTED, reject.reason, reject.count)
        return rejects

    def _skewed(self, record: IntArray, ahead: IntArray, skewed: BoolArray) -> list[Reject]:
        """The events that are ahead of their record's timestamp, one reject for each record.

        The bytes of an event by itself are no longer at hand here: the reject is of the record as
        a whole, with the number of its events that are ahead and the time of the first of them.
        """
        allowed = format_duration(self._time.allowed_skew)
        rows = np.flatnonzero(skewed)
        records, first, counts = np.unique(record[rows], return_index=True, return_counts=True)
        return [
            Reject(
                number,
                "clock_skew",
                f"its time is {time / 1e6:.3f} s ahead of the record timestamp; "
                f"time.allowed_skew is {allowed}",
                count=count,
            )
            for number, time, count in zip(
                records.tolist(), ahead[rows[first]].tolist(), counts.tolist(), strict=True
            )
        ]

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
        rejects = self._skewed(batch.record, -delay, skewed)
        return batch.take(np.flatnonzero(~refused)), rejects

    def _count(self, partition: Partition, model: Watched, batch: ColumnBatch, index: int) -> None:
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
        events = batch
        if self.router is not None:
            batch = self.router.unlabelled(index, batch)
        slots = model.counter.slots(batch)
        if self.router is not None:
            self.router.predictions(index, events, slots, places.get(ROWS))
        for clock, place in places.items():
            pane = place // self._grains[clock]
            grain = self._grains[clock]
            spans = {}
            for number, counts in slots.count(pane):
                first, last = number * grain, (number + 1) * grain
                if clock == ROWS:
                    times = batch.event_time[pane == number]
                    first, last = int(times.min()), int(times.max())
                spans[number] = first, last
                key = PaneKey(model.key, clock, number)
                self._add(partition, key, counts, spans[number])
                if model.sketchers:
                    rows = batch if counts[0] == n else batch.take(np.flatnonzero(pane == number))
                    held = partition.panes[key].sketches
                    made = {n: s.sketch(rows, held.get(n)) for n, s in model.sketchers.items()}
                    partition.sketch(key, made)
            for segment, number, counts in model.segments.count(batch, slots, pane):
                key = PaneKey(model.parts[1 + segment].key, clock, number)
                self._add(partition, key, counts, spans[number])

    def _add(
        self, partition: Partition, key: PaneKey, counts: IntArray, span: tuple[int, int]
    ) -> None:
        partition.add(key, counts, *span)
        self._touched.add(key)

    def watermark(self, at_end: Iterable[str] = ()) -> int | None:
        """See :meth:`Closing.watermark`."""
        return self.closing.watermark(at_end)

    def marks(self, at_end: Iterable[str]) -> Marks:
        """How far every partition has been read."""
        return self.closing.marks(at_end)

    def tell(self, marks: Marks) -> None:
        """Where rows go by a topic: say there how far those before this go."""
        if self._sharded is not None:
            self._sharded.marks(marks)

    def close(self, at_end: Iterable[str] = ()) -> list[WindowResult]:
        """Windows that are closed now and were not, and closed ones that changed since."""
        touched, self._touched = self._touched, set()
        return self.closing.close(at_end, touched)

    def forget_touched(self) -> None:
        """Which panes have changed is of no use where no windows are closed."""
        self._touched.clear()
        for join in self.joins.values():
            join.touched.clear()

    def tally(self, what: str) -> Counter[str]:
        """A counter over all partitions."""
        return self.closing.tally(what)
