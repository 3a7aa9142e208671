"""Labels as rows of a table: of a file, or of Arrow records."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from stream_monitor.config.model import LabelMapping
from stream_monitor.decode import tabular, timestamps
from stream_monitor.decode.label_batch import (
    DecodedLabels,
    LabelBatch,
    Models,
    bits,
    label_value,
    named,
)
from stream_monitor.decode.rejects import Refused
from stream_monitor.decode.table import ids_of, single, texts_of
from stream_monitor.errors import LabelError
from stream_monitor.schema import BoolArray, IntArray
from stream_monitor.tables import Chunk


def decode_table(
    chunk: Chunk,
    mapping: LabelMapping,
    models: Mapping[str, bool],
    boolean: Collection[str] = (),
) -> DecodedLabels:
    """The labels of a file's chunk, by the columns that the mapping names, whatever its format.

    ``record`` is the row's number in the chunk, the arrival the label time. ``boolean`` are the
    models whose target is boolean: a CSV's ``True`` is ``true`` for them.

    Raises
    ------
    LabelError
        A column that every label needs is not there.
    """
    columns = {"id": mapping.id, "timestamp": mapping.timestamp, "label": mapping.label}
    for key, name in columns.items():
        if name not in chunk.columns:
            raise LabelError(
                f"no column {name!r} among {', '.join(chunk.columns)}: "
                f"name the one of the {key} in labels.mapping.{key}"
            )
    known = Models(models)
    model, labels, refused = labels_of(chunk, mapping, known, boolean=boolean)
    rejects = sorted(single(refused), key=lambda reject: reject.record)
    return DecodedLabels(known.split(model, labels), rejects)


def labels_of(
    chunk: Chunk,
    mapping: LabelMapping,
    known: Models,
    stamps: IntArray | None = None,
    boolean: Collection[str] = (),
) -> tuple[IntArray, LabelBatch, list[Refused]]:
    """Each usable row's model, int64[n], the labels with ids as keys, and the other rows.

    ``stamps`` int64[rows] are the record timestamps, which play the label time where the mapping
    has none; without them it is the arrival, too.
    """
    n = chunk.rows
    model = known.of(texts_of(chunk, mapping.model))
    ids = ids_of(chunk, mapping.id)
    time, timely = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.bool_)
    if mapping.timestamp in chunk.columns:
        time, timely = tabular.times(chunk.columns[mapping.timestamp], text=chunk.text)
    elif mapping.timestamp is None and stamps is not None:
        time, timely = stamps, timestamps.known(stamps)
    arrival = time
    if stamps is not None and mapping.arrival != "label_time":
        arrival, timely = stamps, timely & timestamps.known(stamps)
    value, usable = _values(chunk, mapping.label, known, model, boolean)
    refused = []
    left = np.ones(n, dtype=np.bool_)
    for good, reason, detail in (
        (model >= 0, "unknown_model", f"{mapping.model!r} holds no model that is configured"),
        (timely, "bad_timestamp", f"{mapping.timestamp!r} holds no time from 1970 to 2200"),
        (named(ids), "missing_field", f"{mapping.id!r} holds no id"),
        (usable, "bad_label", f"{mapping.label!r} holds no label that the model can have"),
    ):
        if (bad := left & ~good).any():
            refused.append(Refused(np.flatnonzero(bad), reason, detail))
        left &= good
    rows = np.flatnonzero(left)
    return model[rows], LabelBatch(ids, time, arrival, value, np.arange(n)).take(rows), refused


def _values(
    chunk: Chunk, name: str, known: Models, model: IntArray, boolean: Collection[str]
) -> tuple[NDArray[np.uint64], BoolArray]:
    """What each row's label is, uint64[n], and whether its model can have it."""
    value = np.zeros(chunk.rows, dtype=np.uint64)
    usable = np.zeros(chunk.rows, dtype=np.bool_)
    if name not in chunk.columns:
        return value, usable
    raw = chunk.columns[name]
    for index in np.unique(model[model >= 0]).tolist():
        own = model == index
        if known.continuous[index]:
            found, fits = bits(tabular.numbers(raw, text=chunk.text)[0])
        else:
            read = tabular.booleans if known.names[index] in boolean else tabular.categories
            codes, names, _ = read(raw, text=chunk.text)
            found = np.array([*map(label_value, names), 0], dtype=np.uint64)[codes]
            fits = found != 0
        value[own], usable[own] = found[own], fits[own]
    return value, usable
