"""Chunks of rows → column batches, by the same mapping and rules as JSON events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_monitor.batch import ColumnBatch, Decoded, IdArray, Reject, Unseen
from stream_monitor.config.model import MappingConfig
from stream_monitor.decode import tabular, timestamps
from stream_monitor.decode.base import Target, choose
from stream_monitor.decode.ids import id_hashes, no_ids, text_hashes
from stream_monitor.decode.rejects import Refused
from stream_monitor.errors import ProfileError
from stream_monitor.schema import (
    PREDICTION,
    SCORE,
    SEGMENT,
    TARGET,
    BoolArray,
    CodeArray,
    Column,
    IntArray,
    Kind,
    Role,
    score_column,
)
from stream_monitor.tables import Chunk

_FEW_PAIRS = 64  # of a name and a version, that are looked up whether they occur or not


def source_columns(mapping: MappingConfig, names: list[str]) -> dict[str, tuple[str, Role]]:
    """Which file column each column of the model comes from.

    Features lie below ``mapping.features``; where no file column does, all columns that the
    mapping does not claim for something else are features.

    Returns
    -------
    {column name: (file column, role)}, features in name order, then all others
    """
    prefix = mapping.features + "."
    nested = [n for n in names if n.startswith(prefix)]
    segment = f"{mapping.segment}."
    parts: dict[str, tuple[str, Role]] = {}
    for source, name, role in (
        (mapping.prediction, PREDICTION, Role.PREDICTION),
        (mapping.score, SCORE, Role.SCORE),
        *((source, score_column(label), Role.SCORE) for label, source in _scores(mapping, names)),
        (mapping.label, TARGET, Role.TARGET),
        *((n, SEGMENT + n.removeprefix(segment), Role.SEGMENT) for n in sorted(names)
          if mapping.segment and n.startswith(segment)),
    ):  # fmt: skip
        if source in names:
            parts[name] = (source or "", role)
    claimed = {
        mapping.id, mapping.model, mapping.version, mapping.timestamp, mapping.arrival,
        *(source for source, _ in parts.values()),
    }  # fmt: skip
    flat = [n for n in names if n not in claimed]
    features = {n.removeprefix(prefix): n for n in nested} if nested else {n: n for n in flat}
    if clash := sorted(features.keys() & parts.keys()):
        raise ProfileError(
            f"{', '.join(clash)}: a feature has the name of the prediction, a score, the target or "
            f"a segment field; rename the feature in the data"
        )
    return {name: (features[name], Role.FEATURE) for name in sorted(features)} | parts


def _scores(mapping: MappingConfig, names: list[str]) -> list[tuple[str, str]]:
    """The classes that have a score of their own, each with its column, in name order."""
    if not isinstance(mapping.scores, str):
        return sorted((mapping.scores or {}).items())
    prefix = f"{mapping.scores}."
    return [(n.removeprefix(prefix), n) for n in sorted(names) if n.startswith(prefix)]


@dataclass(frozen=True, slots=True)
class Placement:
    """Each row's times and model: ``target`` is -1 where the row cannot be used."""

    time: IntArray
    arrival: IntArray
    target: CodeArray
    refused: list[Refused]


class TableDecoder:
    """Turns chunks into column batches."""

    def __init__(self, mapping: MappingConfig, targets: list[Target]) -> None:
        self._mapping = mapping
        self._targets = targets

    def decode(self, chunk: Chunk) -> Decoded:
        """Every row as an event; ``record`` is the row's number in the chunk."""
        placed = self.place(chunk)
        return Decoded(dict(self.batches(chunk, placed)), [*single(placed.refused)])

    def batches(self, chunk: Chunk, placed: Placement) -> Iterator[tuple[int, ColumnBatch]]:
        """The usable rows of each model, by its index."""
        columns = source_columns(self._mapping, list(chunk.columns))
        for index in np.flatnonzero(np.bincount(placed.target[placed.target >= 0])).tolist():
            batch = self._batch(chunk, self._targets[index], columns, placed)
            rows = np.flatnonzero(placed.target == index)
            yield index, batch if len(rows) == chunk.rows else batch.take(rows)

    def place(self, chunk: Chunk, stamps: IntArray | None = None) -> Placement:
        """Where each row belongs, and which cannot be used.

        ``stamps`` int64[rows] are record timestamps; without, the event time plays them.
        """
        mapping, refused = self._mapping, list[Refused]()
        usable = np.ones(chunk.rows, dtype=np.bool_)
        time = np.zeros(chunk.rows, dtype=np.int64)
        if mapping.timestamp:
            time, usable = self._times(chunk, mapping.timestamp, usable, refused)
        arrival = time if stamps is None else stamps
        if mapping.arrival and mapping.arrival in chunk.columns:
            arrival, usable = self._times(chunk, mapping.arrival, usable, refused)
        elif stamps is not None:
            known = timestamps.known(stamps)
            detail = "the record timestamp is no time from 1970 to 2200"
            _refuse(usable & ~known, "bad_timestamp", detail, refused)
            usable &= known
        target = self._targets_of(chunk)
        detail = "the row names no model that is configured"
        _refuse(usable & (target < 0), "unknown_model", detail, refused)
        target[~usable] = -1
        return Placement(time, arrival, target, refused)

    @staticmethod
    def _times(
        chunk: Chunk, name: str, usable: BoolArray, refused: list[Refused]
    ) -> tuple[IntArray, BoolArray]:
        """The times of a column, and which rows are usable still."""
        if name not in chunk.columns:
            _refuse(usable, "missing_field", f"there is no column {name!r}", refused)
            return np.zeros(chunk.rows, dtype=np.int64), np.zeros(chunk.rows, dtype=np.bool_)
        time, known = tabular.times(chunk.columns[name], text=chunk.text)
        bad = usable & ~known
        if bad.any():
            present = tabular.present(chunk.columns[name])
            _refuse(bad & ~present, "missing_field", f"column {name!r} is empty", refused)
            detail = f"column {name!r} holds no time from 1970 to 2200"
            _refuse(bad & present, "bad_timestamp", detail, refused)
        return time, usable & known

    def _targets_of(self, chunk: Chunk) -> CodeArray:
        names, name = codes_of(chunk, self._mapping.model)
        versions, version = codes_of(chunk, self._mapping.version)
        place = name * len(versions) + version
        if (number := len(names) * len(versions)) <= _FEW_PAIRS:
            pairs = np.arange(number)
        else:
            pairs, place = np.unique(place, return_inverse=True)
        found = [
            choose(self._targets, names[pair // len(versions)], versions[pair % len(versions)])
            for pair in pairs.tolist()
        ]
        targets: CodeArray = np.array([-1 if i is None else i for i in found], dtype=np.int32)
        return targets[np.asarray(place)]

    def _batch(
        self,
        chunk: Chunk,
        target: Target,
        columns: Mapping[str, tuple[str, Role]],
        placed: Placement,
    ) -> ColumnBatch:
        n, schema = chunk.rows, target.schema
        values = np.full((len(schema.continuous), n), np.nan)
        codes = np.empty((len(schema.categorical), n), dtype=np.int32)
        wrong_column, wrong_event = [], []
        unseen = []
        for k, column in enumerate(schema.continuous):
            if column.name in columns:
                raw = chunk.columns[columns[column.name][0]]
                values[k], wrong = tabular.numbers(raw, text=chunk.text)
                if wrong.any():
                    events = np.flatnonzero(wrong)
                    wrong_event.append(events)
                    wrong_column.append(np.full(len(events), k, dtype=np.int64))
        for m, column in enumerate(schema.categorical):
            known = target.categories[column.name]
            if column.name in columns:
                raw = chunk.columns[columns[column.name][0]]
                codes[m], events, names = known_codes(raw, column, known, text=chunk.text)
                unseen.append(Unseen(np.full(len(events), m), events, names))
            else:
                codes[m] = len(known) + 1
        empty = np.empty(0, dtype=np.int64)
        return ColumnBatch(
            placed.time, placed.arrival, values, codes,
            (np.concatenate([empty, *wrong_column]), np.concatenate([empty, *wrong_event])),
            np.arange(n), ids_of(chunk, self._mapping.id),
            Unseen.joined(unseen, [0] * len(unseen)),
        )  # fmt: skip


def known_codes(
    raw: Any, column: Column, known: Mapping[str, int], *, text: bool
) -> tuple[CodeArray, IntArray, NDArray[np.object_]]:
    """Codes by the reference's categories, as :class:`ColumnBatch` has them: int32[n].

    With them the rows of unseen categories, int64[u], and what stands there, object[u].
    """
    if column.kind is Kind.BOOLEAN:
        local, names, wrong = tabular.booleans(raw, text=text)
    else:
        local, names, wrong = tabular.categories(raw, text=text)
    unseen = len(known)
    table = np.array([known.get(n, unseen) for n in names] + [unseen + 1], dtype=np.int32)
    codes = table[local]
    codes[wrong] = unseen + 2
    events = np.flatnonzero(codes == unseen)
    return codes, events, np.array([*names, None], dtype=np.object_)[local[events]]


def single(refused: Iterable[Refused]) -> Iterator[Reject]:
    """A reject for each row."""
    for rows, reason, detail in refused:
        yield from (Reject(row, reason, detail) for row in rows.tolist())


def _refuse(rows: BoolArray, reason: str, detail: str, refused: list[Refused]) -> None:
    if rows.any():
        refused.append(Refused(np.flatnonzero(rows), reason, detail))


def ids_of(chunk: Chunk, name: str) -> IdArray:
    """The hash of each row's id, uint64[n, 2]; (0, 0) where there is no such column."""
    if name not in chunk.columns:
        return no_ids(chunk.rows)
    if (texts := tabular.texts(chunk.columns[name])) is not None:
        return text_hashes(texts)
    names, codes = codes_of(chunk, name)
    return id_hashes(names)[codes]


def codes_of(chunk: Chunk, name: str) -> tuple[list[str | None], CodeArray]:
    """A column as text: what stands in it, None last, and which of it each row has, int32[n]."""
    if name not in chunk.columns:
        return [None], np.zeros(chunk.rows, dtype=np.int32)
    column = chunk.columns[name]
    if (one := tabular.constant(column)) is not None:  # as the model's name mostly is
        return [one, None], np.zeros(chunk.rows, dtype=np.int32)
    codes, names, _ = tabular.categories(column, text=False)
    return [*names, None], np.where(codes < 0, np.int32(len(names)), codes)


def texts_of(chunk: Chunk, name: str) -> list[str | None]:
    """A column as text a row; all None where there is no such column."""
    names, codes = codes_of(chunk, name)
    return [names[c] for c in codes.tolist()]
