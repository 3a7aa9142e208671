"""What becomes of a partition's records: events, labels, or rows of the join's own topic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import structlog

from stream_monitor.batch import Reject
from stream_monitor.config.model import Config, KafkaLabels
from stream_monitor.decode.labels import LabelDecoder
from stream_monitor.decode.native import NativeDecoder
from stream_monitor.errors import StoreError
from stream_monitor.labels.join import Join
from stream_monitor.labels.rows import origins
from stream_monitor.panes.partition import Partition, Shape
from stream_monitor.pipeline import Pipeline
from stream_monitor.sources.base import Records
from stream_monitor.sources.both import PREFIX
from stream_monitor.store.base import Store
from stream_monitor.watch import Watched
from stream_monitor.watch_outcome import Outcomes

log = structlog.get_logger()


class Intake:
    """Restores partitions from the store and hands their records to the pipeline.

    ``rows`` is the name of the join's topic, None where rows go straight to a join.
    """

    def __init__(
        self,
        config: Config,
        watched: list[Watched],
        pipeline: Pipeline,
        outcomes: Outcomes | None,
        store: Store,
        *,
        rows: str | None,
        timed: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._pipeline = pipeline
        self._outcomes = outcomes
        self._store = store
        self._rows = rows
        self._timed = timed
        self._shapes = {key: shape for model in watched for key, shape in model.shapes.items()}
        limit = config.limits.max_record_size
        self._events = NativeDecoder(config.mapping, [m.target for m in watched], limit)
        self._labels: LabelDecoder | None = None
        self._topics: set[str] = set()
        if outcomes is not None and config.labels is not None:
            kinds = {m.name: m.counter.continuous for m in outcomes.joined.values()}
            self._labels = LabelDecoder(config.labels.mapping, kinds, limit)
            if isinstance(config.labels.source, KafkaLabels):
                self._topics = set(config.labels.source.topics)
            # a join in this process is there from the start
            for name, join in pipeline.joins.items():
                join.partition = self._restored(name, outcomes.shapes())

    @property
    def partitions(self) -> dict[str, Partition]:
        """Everything that is committed by partition: what is read, and the joins."""
        pipeline = self._pipeline
        joins = {name: join.partition for name, join in pipeline.joins.items()}
        return pipeline.partitions | pipeline.label_partitions | joins

    def assign(self, name: str) -> Partition:
        """Begin with a partition where it was committed."""
        if self._brings_rows(name) and self._outcomes is not None:
            _, manifests = self._store.restore_outcomes()
            join: Join = self._outcomes.join(name, manifests)
            join.partition = self._restored(name, self._outcomes.shapes())
            self._pipeline.joins[name] = join
            return join.partition
        partition = self._restored(name, self._shapes)
        if self._brings_labels(name):
            self._pipeline.label_partitions[name] = partition
        else:
            self._pipeline.partitions[name] = partition
        return partition

    def revoke(self, name: str) -> None:
        """Let go of a partition."""
        for held in (
            self._pipeline.partitions, self._pipeline.label_partitions, self._pipeline.joins
        ):  # fmt: skip
            held.pop(name, None)

    def take(self, records: Records) -> list[Reject]:
        """Everything that follows from a run of records; what was refused of them."""
        name = records.partition
        partition = self.partitions[name]
        if self._brings_rows(name):
            rejects = self._take_rows(self._pipeline.joins[name], records)
        elif self._labels is not None and self._brings_labels(name):
            with self._timed("decode"):
                labels = self._labels.decode(records)
            with self._timed("join"):
                for own in labels.batches.values():
                    own.origin = origins(partition.number, records.offsets, own.record)
                rejects = self._pipeline.ingest_labels(partition, labels)
        else:
            with self._timed("decode"):
                events = self._events.decode(records)
            with self._timed("update"):
                if self._labels is not None:
                    for batch in events.batches.values():
                        batch.origin = origins(partition.number, records.offsets, batch.record)
                rejects = self._pipeline.ingest(partition, events)
        partition.position = records.position
        return rejects

    def _take_rows(self, join: Join, records: Records) -> list[Reject]:
        rejects = []
        with self._timed("join"):
            for i, payload in enumerate(records.payloads):
                try:
                    join.take(payload)
                except StoreError as error:
                    rejects.append(Reject(i, "bad_join_rows", str(error)))
        return rejects

    def _restored(self, name: str, shapes: Mapping[str, Shape]) -> Partition:
        state = self._store.restore_partition(name)
        return Partition(name) if state is None else Partition.restored(name, state, shapes)

    def _brings_rows(self, name: str) -> bool:
        return self._rows is not None and name.rpartition(":")[0] == self._rows

    def _brings_labels(self, name: str) -> bool:
        return name.startswith(PREFIX) or name.rpartition(":")[0] in self._topics
