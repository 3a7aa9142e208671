"""Predictions and labels by id, whichever comes first: what they add to outcome panes.

What an id adds is a function of two rows, the winning prediction (least time and origin) and the
winning label (greatest): the prediction to its pane's predictions, both to the pane's labelled
rows, where the label came within the horizon. When a row comes, what was added is taken back and
what is right now is added. So order, batching and repetition of records make no difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from stream_monitor.batch import ColumnBatch
from stream_monitor.config.model import LabelsConfig
from stream_monitor.config.units import format_duration
from stream_monitor.decode.ids import keyed
from stream_monitor.decode.labels import LabelBatch
from stream_monitor.labels.ledger import Ledger
from stream_monitor.labels.outcome import OutcomeCounter
from stream_monitor.labels.rows import LABEL, Rows, before, keys_of, winners
from stream_monitor.panes.count import Slots
from stream_monitor.panes.partition import Partition, Shape
from stream_monitor.schema import BoolArray, IntArray
from stream_monitor.store.base import PaneKey

NAME = "(join)"  # of the partition that holds outcome panes
PREDICTED = "predicted"  # the panes of all predictions, beside those of delay classes
LABELS = "labels"

# what becomes of labels, counted by model name
JOINED, DUPLICATE, CORRECTED, OUTDATED, LATE, TOO_OLD = (
    "labels_joined", "labels_duplicate", "labels_corrected", "labels_outdated", "labels_late",
    "labels_beyond_horizon",
)  # fmt: skip
WAITING = "labels_without_prediction"
REPEATED, EVICTED = "predictions_repeated", "predictions_evicted"
TOLD = (JOINED, DUPLICATE, CORRECTED, OUTDATED, LATE, TOO_OLD, WAITING, REPEATED, EVICTED)
DELAYS, DELAY_SUM = "label_delay", "label_delay_sum"

_MINUTE, _HOUR, _DAY = 60_000_000, 3_600_000_000, 86_400_000_000
# upper bounds of the histogram of label delays, microseconds
DELAY_BOUNDS = (
    0, _MINUTE, 10 * _MINUTE, _HOUR, 6 * _HOUR, _DAY, 3 * _DAY, 7 * _DAY, 14 * _DAY, 30 * _DAY,
    90 * _DAY,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class JoinedModel:
    """One model version in the join.

    ``label`` is for people, ``key`` names its ledger; ``parts`` are the keys of the whole's and
    the segments' panes, to which the delay class is added.
    """

    name: str
    label: str
    key: str
    parts: tuple[str, ...]
    counter: OutcomeCounter
    grains: Mapping[str, int]

    def pane_keys(self, delays: Iterable[str]) -> dict[str, Shape]:
        """The shapes of all its panes, for restoring them."""
        return {
            f"{part}|{delay}": Shape(layout.size, {})
            for part, layout in zip(self.parts, self.counter.layouts, strict=True)
            for delay in (PREDICTED, *delays)
        }


class Join:
    """Joins the labels of all models; owns the outcome panes (``partition``) and the ledgers."""

    def __init__(
        self,
        models: Mapping[int, JoinedModel],
        config: LabelsConfig,
        folder: Path | None,
        manifests: Mapping[str, bytes],
    ) -> None:
        self.models = models
        self._config = config
        self.delays = [format_duration(m) for m in config.maturities]
        self._bounds = np.array(config.maturities)
        self.partition = Partition(NAME)
        self.touched: set[PaneKey] = set()

        def ledger(name: str, dtype: Any, keep: Any) -> Ledger:
            own = None if folder is None else folder / name
            return Ledger(name, dtype, keep=keep, folder=own, manifest=manifests.get(name))

        self._predictions = {
            index: ledger(f"predictions-{_digest(m.key)}", m.counter.dtype, "first")
            for index, m in models.items()
        }
        self._labels = ledger(LABELS, LABEL, "last")
        self._versions: dict[str, list[int]] = {}
        for index, m in models.items():
            self._versions.setdefault(m.name, []).append(index)

    @property
    def ledgers(self) -> list[Ledger]:
        return [*self._predictions.values(), self._labels]

    def shapes(self) -> dict[str, Shape]:
        """Of all outcome panes."""
        return {k: s for m in self.models.values() for k, s in m.pane_keys(self.delays).items()}

    def unlabelled(self, index: int, batch: ColumnBatch) -> ColumnBatch:
        """The same events for the input panes, which know no labels."""
        model = self.models.get(index)
        return batch if model is None else model.counter.unlabelled(batch)

    # --- predictions ----------------------------------------------------------------------------

    def predictions(
        self, index: int, batch: ColumnBatch, slots: Slots, number: IntArray | None
    ) -> None:
        """Take counted events of a model; ``number`` is their place on the clock of rows."""
        if index not in self.models:
            return
        model = self.models[index]
        keys = keyed(batch.ids, model.name)
        rows = model.counter.rows(batch, slots, keys, number)
        named = np.flatnonzero(keys.any(axis=1))
        first = named[winners(rows[named], last=False)]
        self._tally(REPEATED, model.name, len(named) - len(first))
        ledger = self._predictions[index]
        at, known = ledger.find(keys[first])
        fresh = np.ones(len(first), dtype=np.bool_)
        fresh[at] = False
        # an id that is known: the same record again, a repetition, or one that comes before it
        again = rows[first[at]]
        same = (again["origin"] == known["origin"]) & (again["time"] == known["time"])
        self._tally(REPEATED, model.name, int((~same).sum()))
        sooner = before(again, known)
        new = np.concatenate([rows[first[fresh]], again[sooner]])
        counted: BoolArray = np.asarray(~keys.any(axis=1))
        counted[first[fresh]] = True
        self._predict(model, rows, 1, counted, slots)
        if sooner.any():
            old = known[sooner]
            self._take_back(index, old)
            self._predict(model, again[sooner], 1)
        ledger.add(new)
        if len(new):
            self._label_new(index, new, int(fresh.sum()))
        self._own_labels(index, batch, rows, keys)

    def _label_new(self, index: int, new: Rows, fresh: int) -> None:
        """Labels that were there before their prediction; the first rows have a new id."""
        at, labels = self._labels.find(keys_of(new))
        rows = new[at]
        waited = at < fresh
        for other in self._versions[self.models[index].name]:
            if other != index:
                known, _ = self._predictions[other].find(keys_of(rows))
                waited[known] = False
        self._tally(WAITING, self.models[index].name, -int(waited.sum()))
        self._outcome(index, rows, labels, 1)
        self._tell(index, rows[at < fresh], labels[at < fresh])

    def _take_back(self, index: int, old: Rows) -> None:
        self._predict(self.models[index], old, -1)
        at, labels = self._labels.find(keys_of(old))
        self._outcome(index, old[at], labels, -1)

    def _own_labels(self, index: int, batch: ColumnBatch, rows: Rows, keys: Any) -> None:
        """Labels that events bring themselves, as of the event's time."""
        model = self.models[index]
        events, values = model.counter.labels_of(batch)
        if not len(events):
            return
        named = keys[events].any(axis=1)
        if not named.all():  # without an id nothing else can belong to them
            bare = events[~named]
            labels = _label_rows(
                keys[bare], rows["time"][bare], rows["origin"][bare], values[~named]
            )
            self._outcome(index, rows[bare], labels, 1)
            self._tell(index, rows[bare], labels)
        events, values = events[named], values[named]
        self._take(
            model.name,
            _label_rows(keys[events], rows["time"][events], rows["origin"][events], values),
        )

    # --- labels ---------------------------------------------------------------------------------

    def labels(self, name: str, batch: LabelBatch) -> None:
        """Take the labels of a model name."""
        late = batch.arrival - batch.time > self._config.allowed_lateness
        self._tally(LATE, name, int(late.sum()))
        rows = _label_rows(batch.keys, batch.time, batch.origin, batch.value)
        self._take(name, rows[~late])

    def _take(self, name: str, rows: Rows) -> None:
        chosen = rows[winners(rows, last=True)]
        self._tally(DUPLICATE, name, len(rows) - len(chosen))
        at, known = self._labels.find(keys_of(chosen))
        fresh = np.ones(len(chosen), dtype=np.bool_)
        fresh[at] = False
        again = chosen[at]
        later = before(known, again)
        equal = again["value"] == known["value"]
        same = (again["origin"] == known["origin"]) & (again["time"] == known["time"])
        self._tally(DUPLICATE, name, int((equal & ~same).sum()))
        self._tally(CORRECTED, name, int((later & ~equal).sum()))
        self._tally(OUTDATED, name, int((~later & ~same & ~equal).sum()))
        new, old = np.concatenate([chosen[fresh], again[later]]), known[later]
        self._labels.add(new)
        matched = np.zeros(len(new), dtype=np.bool_)
        number = int(fresh.sum())
        for index in self._versions[name]:
            found, predictions = self._predictions[index].find(keys_of(new))
            matched[found] = True
            replaced = found >= number
            self._outcome(index, predictions[replaced], old[found[replaced] - number], -1)
            self._outcome(index, predictions, new[found], 1)
            self._tell(index, predictions[~replaced], new[found[~replaced]])
        self._tally(WAITING, name, int((~matched[:number]).sum()))

    # --- panes ----------------------------------------------------------------------------------

    def _predict(
        self,
        model: JoinedModel,
        rows: Rows,
        sign: int,
        counted: BoolArray | None = None,
        slots: Slots | None = None,
    ) -> None:
        for clock, grain in model.grains.items():
            pane = _places(rows, clock) // grain
            group = pane if counted is None else np.where(counted, pane, -1)
            found = model.counter.predicted(rows, group, None if slots is None else slots.blocks)
            for part, number, counts in found:
                key = PaneKey(f"{model.parts[part]}|{PREDICTED}", clock, number)
                self._add(key, counts * sign, *_span(rows, pane, clock, number, grain))

    def _outcome(self, index: int, rows: Rows, labels: Rows, sign: int) -> None:
        """Add labelled predictions, or take them back."""
        if not len(rows):
            return
        model = self.models[index]
        within, delay = self._delays(rows, labels)
        rows, labels = rows[within], labels[within]
        if not len(rows):
            return
        kind = np.searchsorted(self._bounds, delay, side="left")
        kinds = len(self._bounds)
        for clock, grain in model.grains.items():
            pane = _places(rows, clock) // grain
            for part, group, counts in model.counter.labelled(
                rows, np.ascontiguousarray(labels["value"]), pane * kinds + kind
            ):
                number, which = divmod(group, kinds)
                key = PaneKey(f"{model.parts[part]}|{self.delays[which]}", clock, number)
                self._add(key, counts * sign, *_span(rows, pane, clock, number, grain))

    def _delays(self, rows: Rows, labels: Rows) -> tuple[BoolArray, IntArray]:
        """Which labels count, and how long after their predictions these came, at least 0.

        A label may be older than its prediction, by no more than labels may be late: after that its
        row is gone.
        """
        delay = labels["time"] - rows["time"]
        within = (delay <= self._bounds[-1]) & (delay >= -self._config.allowed_lateness)
        return within, np.maximum(delay[within], 0)

    def _tell(self, index: int, rows: Rows, labels: Rows) -> None:
        """Count predictions that have a label for the first time."""
        name = self.models[index].name
        _, delay = self._delays(rows, labels)
        self._tally(TOO_OLD, name, len(rows) - len(delay))
        self._tally(JOINED, name, len(delay))
        self._tally(DELAY_SUM, name, int(delay.sum()))
        at = np.searchsorted(np.array(DELAY_BOUNDS), delay, side="left")
        for bucket, n in enumerate(np.bincount(at).tolist()):
            self._tally(DELAYS, f"{bucket}|{name}", n)

    def _add(self, key: PaneKey, counts: IntArray, first: int, last: int) -> None:
        self.partition.add(key, counts, first, last)
        self.touched.add(key)

    def _tally(self, what: str, name: str, count: int) -> None:
        if count:
            self.partition.tally(what, name, count)

    # --- life -----------------------------------------------------------------------------------

    def forget(self, floor: int) -> None:
        """No label of predictions before this time will count any more."""
        for ledger in self._predictions.values():
            if floor > ledger.floor:
                ledger.raise_floor(floor)
        earlier = floor - self._config.allowed_lateness
        if earlier > self._labels.floor:
            self._labels.raise_floor(earlier)

    def prepare(self) -> dict[str, bytes]:
        """Bound and write the ledgers; their manifests by name, for the commit."""
        most = self._config.max_predictions
        if self._labels.evict(most * len(self.models)):
            # a correction could not take back a label that is gone
            self.forget(self._labels.floor + self._config.allowed_lateness)
        for index, ledger in self._predictions.items():
            self._tally(EVICTED, self.models[index].name, ledger.evict(most))
        return {ledger.name: ledger.prepare() for ledger in self.ledgers}

    def committed(self) -> None:
        for ledger in self.ledgers:
            ledger.committed()


def _label_rows(keys: Any, time: IntArray, origin: Any, value: Any) -> Rows:
    rows = np.zeros(len(time), dtype=LABEL)
    rows["high"], rows["low"] = keys[:, 0], keys[:, 1]
    rows["time"], rows["origin"], rows["value"] = time, origin, value
    return rows


def _places(rows: Rows, clock: str) -> IntArray:
    found: IntArray = rows["row"] if clock == "rows" else rows["time"]
    return found


def _span(rows: Rows, pane: IntArray, clock: str, number: int, grain: int) -> tuple[int, int]:
    if clock != "rows":
        return number * grain, (number + 1) * grain
    times = rows["time"][pane == number]
    return int(times.min()), int(times.max())


def _digest(key: str) -> str:
    return blake2b(key.encode(), digest_size=8).hexdigest()
