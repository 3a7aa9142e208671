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
from typing import Any, Literal

import msgspec
import numpy as np

from stream_monitor.config.model import LabelsConfig
from stream_monitor.config.units import format_duration
from stream_monitor.errors import StoreError
from stream_monitor.labels.beside import Beside, Held
from stream_monitor.labels.ledger import Ledger
from stream_monitor.labels.outcome import OutcomeCounter
from stream_monitor.labels.packing import Mark, unpacked
from stream_monitor.labels.route import LATE
from stream_monitor.labels.rows import LABEL, Rows, before, keys_of, winners
from stream_monitor.methods.base import Addends
from stream_monitor.panes.partition import Partition, Shape
from stream_monitor.schema import BoolArray, IntArray
from stream_monitor.store.base import PaneKey

NAME = "(join)"  # of the partition that holds outcome panes where there is but one
PREDICTED = "predicted"  # the panes of all predictions, beside those of delay classes
LABELS = "labels"

# what becomes of labels, counted by model name
JOINED, DUPLICATE, CORRECTED, OUTDATED, TOO_OLD = (
    "labels_joined", "labels_duplicate", "labels_corrected", "labels_outdated",
    "labels_beyond_horizon",
)  # fmt: skip
WAITING = "labels_without_prediction"
FOREIGN = "join_records_foreign"
REPEATED, EVICTED = "predictions_repeated", "predictions_evicted"
TOLD = (JOINED, DUPLICATE, CORRECTED, OUTDATED, LATE, TOO_OLD, WAITING, REPEATED, EVICTED)
DELAYS, DELAY_SUM = "label_delay", "label_delay_sum"

_PLAIN = str.maketrans(dict.fromkeys(":/()!\\ ", "_"))  # a name as a folder's
_MINUTE, _HOUR, _DAY = 60_000_000, 3_600_000_000, 86_400_000_000
# upper bounds of the histogram of label delays, microseconds
DELAY_BOUNDS = (
    0, _MINUTE, 10 * _MINUTE, _HOUR, 6 * _HOUR, _DAY, 3 * _DAY, 7 * _DAY, 14 * _DAY, 30 * _DAY,
    90 * _DAY,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class JoinedModel:
    """One model version in the join.

    ``label`` is for people, ``rows`` stands for the reference and everything else that its rows
    depend on, ``key`` for what its panes do, too; ``parts`` are the keys of the whole's and the
    segments' panes, to which the delay class is added. What becomes of its rows is counted if it is
    ``told``: where two references see the same events, that of one.
    """

    name: str
    label: str
    rows: str
    key: str
    parts: tuple[str, ...]
    counter: OutcomeCounter
    grains: Mapping[str, int]
    told: bool = True

    @property
    def ledger(self) -> str:
        """The name of the ledger of its predictions."""
        return f"predictions-{blake2b(self.key.encode(), digest_size=8).hexdigest()}"

    def pane_keys(self, delays: Iterable[str]) -> dict[str, Shape]:
        """The shapes of all its panes, for restoring them."""
        return {
            f"{part}|{delay}": Shape(layout.size, {})
            for part, layout in zip(self.parts, self.counter.layouts, strict=True)
            for delay in (PREDICTED, *delays)
        }


class Join:
    """Joins rows of predictions and labels whose keys belong here; owns their outcome panes.

    Attributes
    ----------
    partition
        The outcome panes and the counters.
    touched
        The panes that changed since somebody asked.
    """

    def __init__(
        self,
        name: str,
        models: Mapping[int, JoinedModel],
        config: LabelsConfig,
        folder: Path | None,
        manifests: Mapping[str, bytes],
    ) -> None:
        self._models = models
        self._config = config
        self._delay_names = [format_duration(m) for m in config.maturities]
        self._bounds = np.array(config.maturities)
        self.partition = Partition(name)
        self.touched: set[PaneKey] = set()
        self._marks: dict[str, Mark] = {}
        self._manifests = manifests
        self._folder = None if folder is None else folder / name.translate(_PLAIN)
        self._predictions = {
            index: self._ledger(m.ledger, m.counter.dtype, "first") for index, m in models.items()
        }
        self._labels = self._ledger(LABELS, LABEL, "last")
        self._kinds = {m.rows: (index, m.counter.dtype) for index, m in models.items()}
        self._versions: dict[str, list[int]] = {}
        for index, m in models.items():
            self._versions.setdefault(m.name, []).append(index)

    def _ledger(self, name: str, dtype: Any, keep: Literal["first", "last"]) -> Ledger:
        folder = None if self._folder is None else self._folder / name
        manifest = self._manifests.get(f"{self.partition.name}/{name}")
        return Ledger(name, dtype, keep=keep, folder=folder, manifest=manifest)

    @property
    def names(self) -> list[str]:
        """Of the models."""
        return list(self._versions)

    @property
    def ledgers(self) -> dict[str, Ledger]:
        """By name."""
        every = [*self._predictions.values(), self._labels]
        return {ledger.name: ledger for ledger in every}

    @property
    def marks(self) -> Mapping[str, Mark]:
        return self._marks

    @property
    def held(self) -> dict[str, Held]:
        """What the ledgers hold, by name."""
        return {n: Held(one.rows, one.bytes, one.memory) for n, one in self.ledgers.items()}

    def resume(self, partition: Partition) -> None:
        """Go on from what was committed, with the ledgers as they are."""
        beside = msgspec.json.decode(partition.owner, type=Beside)
        self.partition, self._marks, self.touched = partition, dict(beside.marks), set()
        for name, ledger in self.ledgers.items():
            if (floor := beside.floors.get(name)) is not None:
                ledger.raise_floor(floor)

    def take(self, payload: bytes) -> None:
        """A record of the join's topic."""
        found = unpacked(payload, self._kinds)
        if found is None:
            self._tally(FOREIGN, "", 1)
        elif found.marks is not None:
            self._marks.update(found.marks)
        elif found.rows is not None and found.model is not None:
            if not self._models[found.model].counter.fit(found.rows):
                raise StoreError("rows of predictions name classes or segments that are not there")
            self.predictions(found.model, found.rows)
        elif found.rows is not None and found.label_name in self._versions:
            self.labels(found.label_name, found.rows)

    # --- predictions ----------------------------------------------------------------------------

    def predictions(
        self, index: int, rows: Rows, known: Mapping[str, Addends] | None = None
    ) -> None:
        """Take predictions of a model; ``known`` are its blocks' addends of these very rows."""
        model = self._models[index]
        first = winners(rows, last=False)
        self._tally(REPEATED, model.name, (len(rows) - len(first)) * model.told)
        ledger = self._predictions[index]
        at, stored = ledger.find(keys_of(rows[first]))
        fresh = np.ones(len(first), dtype=np.bool_)
        fresh[at] = False
        # a key that is known: the same record again, a repetition, or one that comes before it
        again = rows[first[at]]
        same = (again["origin"] == stored["origin"]) & (again["time"] == stored["time"])
        self._tally(REPEATED, model.name, int((~same).sum()) * model.told)
        sooner = before(again, stored)
        new = np.concatenate([rows[first[fresh]], again[sooner]])
        counted = np.zeros(len(rows), dtype=np.bool_)
        counted[first[fresh]] = True
        self._predict(model, rows, 1, counted, known)
        self._predict(model, again[sooner], 1)
        self._take_back(index, stored[sooner])
        ledger.add(new)
        self._label_new(index, new, int(fresh.sum()))

    def _label_new(self, index: int, new: Rows, fresh: int) -> None:
        """Labels that were there before their prediction; the first rows have a new key."""
        at, labels = self._labels.find(keys_of(new))
        rows = new[at]
        waited = at < fresh
        for other in self._versions[self._models[index].name]:
            if other != index:
                known, _ = self._predictions[other].find(keys_of(rows))
                waited[known] = False
        self._tally(WAITING, self._models[index].name, -int(waited.sum()))
        self._outcome(index, rows, labels, 1)
        self._tell(index, rows[at < fresh], labels[at < fresh])

    def _take_back(self, index: int, old: Rows) -> None:
        self._predict(self._models[index], old, -1)
        at, labels = self._labels.find(keys_of(old))
        self._outcome(index, old[at], labels, -1)

    # --- labels ---------------------------------------------------------------------------------

    def labels(self, name: str, rows: Rows) -> None:
        """Take labels of a model name."""
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
        known: Mapping[str, Addends] | None = None,
    ) -> None:
        if not len(rows):
            return
        for clock, grain in model.grains.items():
            pane = _places(rows, clock) // grain
            group = pane if counted is None else np.where(counted, pane, -1)
            for part, number, counts in model.counter.predicted(rows, group, known):
                key = PaneKey(f"{model.parts[part]}|{PREDICTED}", clock, number)
                self._add(key, counts * sign, *_span(rows, pane, clock, number, grain))

    def _outcome(self, index: int, rows: Rows, labels: Rows, sign: int) -> None:
        """Add labelled predictions, or take them back."""
        if not len(rows):
            return
        model = self._models[index]
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
                key = PaneKey(f"{model.parts[part]}|{self._delay_names[which]}", clock, number)
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
        name = self._models[index].name
        if not self._models[index].told:
            return
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
        """Bound and write the ledgers; their manifests, for the commit."""
        most = self._config.max_predictions
        if self._labels.evict(most * len(self._models)):
            # a correction could not take back a label that is gone
            self.forget(self._labels.floor + self._config.allowed_lateness)
        for index, ledger in self._predictions.items():
            model = self._models[index]
            self._tally(EVICTED, model.name, ledger.evict(most) * model.told)
        prefix = self.partition.name
        manifests = {f"{prefix}/{n}": ledger.prepare() for n, ledger in self.ledgers.items()}
        floors = {n: ledger.floor for n, ledger in self.ledgers.items()}
        beside = Beside(self._marks, floors, self.held)
        self.partition.owner = msgspec.json.encode(beside)
        return manifests

    def committed(self) -> None:
        for ledger in self.ledgers.values():
            ledger.committed()


def _places(rows: Rows, clock: str) -> IntArray:
    found: IntArray = rows["row"] if clock == "rows" else rows["time"]
    return found


def _span(rows: Rows, pane: IntArray, clock: str, number: int, grain: int) -> tuple[int, int]:
    if clock != "rows":
        return number * grain, (number + 1) * grain
    times = rows["time"][pane == number]
    return int(times.min()), int(times.max())
