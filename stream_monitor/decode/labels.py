"""Records of labels → columns: which prediction, when the truth was known, and what it is.

A record is one label or several, as JSON objects of our own form or as Seldon Core's feedback, or
as rows of Arrow. As with events, a typed struct takes the bulk of JSON, and what it refuses is read
alone.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from stream_monitor.config.model import LabelMapping
from stream_monitor.decode import timestamps
from stream_monitor.decode.feedback import Form
from stream_monitor.decode.ids import id_hashes
from stream_monitor.decode.label_batch import DecodedLabels, LabelBatch, Models, named
from stream_monitor.decode.lenient import parse, shown, stamp_of, text_of
from stream_monitor.decode.paths import Path, look_up
from stream_monitor.decode.reader import Gathered
from stream_monitor.decode.rejects import Refused, RejectedError
from stream_monitor.decode.several import SHIFT
from stream_monitor.schema import BoolArray, IntArray, category_of
from stream_monitor.sources.base import Records

if TYPE_CHECKING:  # pyarrow takes 35 MB, so it is imported with the first record that is Arrow's
    from stream_monitor.decode.arrow import Rows


class LabelDecoder:
    """Decodes label records of a stream.

    ``models`` says of each model name whether its target is continuous. A label without a model
    is for the only one there is.
    """

    def __init__(
        self, mapping: LabelMapping, models: Mapping[str, bool], max_record_size: int
    ) -> None:
        self._models = Models(models)
        self._form = Form(mapping)
        self._mapping, self._limit = mapping, max_record_size
        self._replayed = mapping.arrival == "label_time"
        self._reader = self._form.reader(max_record_size)

    def decode(self, records: Records) -> DecodedLabels:
        """Every label of the records, in a batch of its model or as a reject; in input order."""
        read = self._reader.read(records.payloads)
        places, structs = read.members[0]
        model, labels, usable = self._together(structs, np.array(places, dtype=np.int64), records)
        read.refused.extend(labels.record[~usable].tolist())
        rows = np.flatnonzero(usable)
        models, parts = array("q", model[rows].tobytes()), Gathered(LabelBatch.joined)
        parts.large.append(labels.take(rows))
        for which, own in read.rows(self._limit, partial(self._rows, records.timestamps)):
            models.extend(which.tolist())
            parts.large.append(own)
        for place in read.left():
            try:
                index, label = self._alone(read.payload(place), place, records)
            except RejectedError as error:
                read.refuse(place, error)
            else:
                models.append(index)
                parts.add(label)
        model, labels = np.asarray(models), parts.joined()
        if (np.diff(labels.record) < 0).any():
            order = np.argsort(labels.record)
            model, labels = model[order], labels.take(order)
        labels.record = labels.record >> SHIFT
        return DecodedLabels(self._models.split(model, labels), read.rejects.all())

    def _rows(
        self, stamps: IntArray | None, rows: Rows
    ) -> tuple[tuple[IntArray, LabelBatch], list[Refused]]:
        """Models and labels of the rows of Arrow records, with places as records; other rows."""
        from stream_monitor.decode.label_rows import labels_of  # noqa: PLC0415 - see TYPE_CHECKING

        stamp = None if stamps is None else rows.of(stamps)
        model, labels, refused = labels_of(rows.chunk(), self._mapping, self._models, stamp)
        labels.record = rows.place[labels.record]
        return (model, labels), refused

    def _together(
        self, structs: list[Any], place: IntArray, records: Records
    ) -> tuple[IntArray, LabelBatch, BoolArray]:
        """Models, labels with ids as keys and places as records, and which of them are usable."""
        form = self._form
        model = self._models.of(form.all_of(structs, [form.model]))
        ids = id_hashes(form.all_of(structs, form.ids))
        found = [*map(form.scalar, form.all_of(structs, form.labels))]
        value, known = self._models.values(model, found)
        stamp = None if records.timestamps is None else records.timestamps[place >> SHIFT]
        time, timely = form.times(structs, stamp)
        arrival = time if stamp is None or self._replayed else stamp
        usable = known & timely & named(ids) & timestamps.known(arrival)
        return model, LabelBatch(ids, time, arrival, value, place), usable

    def _alone(self, payload: bytes, place: int, records: Records) -> tuple[int, LabelBatch]:
        """The same of one label; RejectedError where something is wrong."""
        event, form, models = parse(payload), self._form, self._models
        name = text_of(look_up(event, form.model))
        model = models.of([name])
        if model[0] < 0:
            known = ", ".join(models.names)[:150]
            detail = f"model {shown(name)}; there are {known}; see labels.mapping.model"
            raise RejectedError("unknown_model", detail)
        stamp = None if records.timestamps is None else int(records.timestamps[place >> SHIFT])
        time = form.time_of(event, stamp)
        ids = id_hashes([form.of(event, form.ids)])
        if not ids.any():
            raise RejectedError("missing_field", f"no id at {_either(form.ids)}")
        label = form.scalar(form.of(event, form.labels))
        value, usable = models.values(model, [None if category_of(label) is None else label])
        if not usable[0]:
            wanted = "a finite number" if models.continuous[int(model[0])] else "a category"
            detail = f"{shown(label)} at {_either(form.labels)} is not {wanted}"
            raise RejectedError("bad_label", detail)
        arrival = time if stamp is None or self._replayed else stamp_of(stamp)
        times = (np.array([time]), np.array([arrival]))
        return int(model[0]), LabelBatch(ids, *times, value, np.array([place]))


def _either(paths: list[Path]) -> str:
    return " or ".join(".".join(path) for path in paths)
