"""What becomes of a partition's records: events, labels, or rows of the join's own topic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

from stream_monitor.batch import Decoded, Reject
from stream_monitor.config.model import Config, KafkaLabels
from stream_monitor.decode.labels import LabelDecoder
from stream_monitor.decode.native import NativeDecoder
from stream_monitor.errors import StoreError
from stream_monitor.labels.join import Join
from stream_monitor.labels.rows import origins
from stream_monitor.panes.partition import Partition, Shape
from stream_monitor.pipeline import Pipeline
from stream_monitor.sources.base import Records
from stream_monitor.sources.several import LABELS
from stream_monitor.store.base import PartitionState
from stream_monitor.watch import Watched
from stream_monitor.watch_outcome import Outcomes


class Kinds:
    """What a partition brings is told by its name.

    ``joins`` is the name of the join's topic, None where rows go straight to a join.
    """

    def __init__(self, config: Config, joins: str | None = None) -> None:
        labels = None if config.labels is None else config.labels.source
        self._topics = set(labels.topics) if isinstance(labels, KafkaLabels) else set()
        self._joins = joins

    def rows(self, name: str) -> bool:
        return self._joins is not None and name.rpartition(":")[0] == self._joins

    def labels(self, name: str) -> bool:
        return LABELS in name or name.rpartition(":")[0] in self._topics


class Intake:
    """Holds the partitions that this process reads, and hands their records to the pipeline."""

    def __init__(
        self,
        config: Config,
        watched: list[Watched],
        pipeline: Pipeline,
        outcomes: Outcomes | None,
        *,
        joins: str | None = None,
        timed: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._pipeline = pipeline
        self._outcomes = outcomes
        self._timed = timed
        self._kinds = Kinds(config, joins)
        self._shapes = {key: shape for model in watched for key, shape in model.shapes.items()}
        limit = config.limits.max_record_size
        # candidates see the events of the model whose place they want to take
        self._in_use = [i for i, m in enumerate(watched) if not m.candidate]
        self._events = NativeDecoder(
            config.mapping, [watched[i].target for i in self._in_use], limit
        )
        self._candidates: dict[int, int] = {}
        beside = [watched[i].target for i in self._in_use]
        for i, model in enumerate(watched):
            if model.candidate:
                named = [(t.name, t.version) for t in beside]
                place = named.index((model.target.name, model.target.version))
                beside[place] = model.target
                self._candidates[place] = i
        self._beside = NativeDecoder(config.mapping, beside, limit) if self._candidates else None
        self._labels: LabelDecoder | None = None
        if outcomes is not None and config.labels is not None:
            kinds = {m.name: m.counter.continuous for m in outcomes.joined.values()}
            self._labels = LabelDecoder(config.labels.mapping, kinds, limit)

    @property
    def partitions(self) -> dict[str, Partition]:
        """Everything that is committed by partition: what is read, and the joins."""
        pipeline = self._pipeline
        joins = {name: join.partition for name, join in pipeline.joins.items()}
        return pipeline.partitions | pipeline.label_partitions | joins

    def begin(
        self,
        states: Mapping[str, PartitionState | None],
        joins: Mapping[str, Join] | None = None,
    ) -> None:
        """Hold partitions as they were committed, or new ones.

        ``joins`` have their ledgers already; those that are missing are there from the start.
        """
        for name, state in states.items():
            self._pipeline.closing.departed.pop(name, None)
            join = self._pipeline.joins.get(name) if joins is None else joins.get(name)
            if join is not None and self._outcomes is not None:
                join.resume(_restored(name, state, self._outcomes.shapes()))
                self._pipeline.joins[name] = join
                continue
            partition = _restored(name, state, self._shapes)
            if self._kinds.labels(name):
                self._pipeline.label_partitions[name] = partition
            else:
                self._pipeline.partitions[name] = partition

    def revoke(self, name: str) -> None:
        """Let go of a partition; what it has counted is told still."""
        if (partition := self.partitions.get(name)) is not None:
            self._pipeline.closing.departed[name] = partition.counters
        for held in (
            self._pipeline.partitions, self._pipeline.label_partitions, self._pipeline.joins
        ):  # fmt: skip
            held.pop(name, None)

    def take(self, records: Records) -> list[Reject]:
        """Everything that follows from a run of records; what was refused of them."""
        name = records.partition
        partition = self.partitions[name]
        if self._kinds.rows(name):
            rejects = self._take_rows(self._pipeline.joins[name], records)
        elif self._labels is not None and self._kinds.labels(name):
            with self._timed("decode"):
                labels = self._labels.decode(records)
            with self._timed("join"):
                for own in labels.batches.values():
                    own.origin = origins(partition.number, records.offsets, own.record)
                rejects = self._pipeline.ingest_labels(partition, labels)
        else:
            with self._timed("decode"):
                events = self._decoded(records)
            with self._timed("update"):
                if self._labels is not None:
                    for batch in events.batches.values():
                        batch.origin = origins(partition.number, records.offsets, batch.record)
                rejects = self._pipeline.ingest(partition, events)
        partition.position = records.position
        return rejects

    def _decoded(self, records: Records) -> Decoded:
        """Events by model, those of candidates once more."""
        events = self._events.decode(records)
        found = {self._in_use[place]: batch for place, batch in events.batches.items()}
        if self._beside is not None:
            again = self._beside.decode(records).batches
            found |= {i: again[place] for place, i in self._candidates.items() if place in again}
        return replace(events, batches=found)

    def _take_rows(self, join: Join, records: Records) -> list[Reject]:
        rejects = []
        with self._timed("join"):
            for i, payload in enumerate(records.payloads):
                try:
                    join.take(payload)
                except StoreError as error:
                    rejects.append(Reject(i, "bad_join_rows", str(error)))
        return rejects


def _restored(name: str, state: PartitionState | None, shapes: Mapping[str, Shape]) -> Partition:
    return Partition(name) if state is None else Partition.restored(name, state, shapes)
