"""Records that hold several events: arrays, NDJSON, Arrow IPC; all mean what single objects do."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_monitor.batch import Decoded
from stream_monitor.config.model import LabelMapping, MappingConfig
from stream_monitor.decode.labels import LabelDecoder
from stream_monitor.decode.native import NativeDecoder
from stream_monitor.decode.reader import number_of
from stream_monitor.sources.base import Records
from tests.test_decode import SECOND, TARGET, event, rows
from tests.test_label_decode import label

LIMIT = 2**20
T = 1_700_000_000
STAMP = (T + 60) * 1_000_000
Event = dict[str, Any]


def decode(
    payloads: Sequence[bytes], *targets: Any, mapping: MappingConfig | None = None
) -> Decoded:
    n = len(payloads)
    records = Records("p", payloads, [f"p@{i}" for i in range(n)], "end", np.full(n, STAMP))
    return NativeDecoder(mapping or MappingConfig(), [*(targets or [TARGET])], LIMIT).decode(
        records
    )


def table(events: Sequence[Event]) -> pa.Table:
    return pa.Table.from_pylist([*events])


def stream(found: pa.Table, compression: str | None = None, batch: int | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, found.schema, options=options) as writer:
        writer.write_table(found, max_chunksize=batch)
    return bytes(sink.getvalue())


def file(found: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, found.schema) as writer:
        writer.write_table(found)
    return bytes(sink.getvalue())


FORMS: dict[str, Callable[[Sequence[Event]], bytes]] = {
    "array": orjson.dumps,
    "lines": lambda events: b"\n".join(map(orjson.dumps, events)),
    "lines with ends": lambda events: b"\r\n".join([*map(orjson.dumps, events), b""]),
    "lines with a mark": lambda events: b"\xef\xbb\xbf" + b"\n\n".join(map(orjson.dumps, events)),
    "written at length": lambda events: "\n".join(json.dumps(e, indent=1) for e in events).encode(),
    "arrow": lambda events: stream(table(events)),
    "arrow in two batches": lambda events: stream(table(events), batch=len(events) // 2 + 1),
    "arrow by zstd": lambda events: stream(table(events), "zstd"),
    "arrow by lz4": lambda events: stream(table(events), "lz4"),
    "arrow file": lambda events: file(table(events)),
}
# several events are needed for lines to be more than an object
events_ = st.builds(
    event,
    id=st.sampled_from(["a", "b", "é😀", ""]),
    ts=st.sampled_from([T, T + 0.25, T + 5]),
    features=st.fixed_dictionaries({
        "age": st.none() | st.floats(allow_infinity=False, allow_nan=False) | st.integers(-9, 9),
        "channel": st.none() | st.sampled_from(["app", "web", "kiosk", "x" * 50]),
        "income": st.none() | st.floats(-1e6, 1e6),
        "member": st.none() | st.booleans(),
        "unknown": st.integers(0, 3),
    }),
    prediction=st.sampled_from([0, 1, None, 7]),
    score=st.none() | st.floats(0, 1),
    version=st.sampled_from(["1", None]),
)  # fmt: skip


def same(found: Decoded, wanted: Decoded) -> None:
    """The same events of the same records, but for the numbers of the records."""
    assert found.batches.keys() == wanted.batches.keys()
    for index, batch in wanted.batches.items():
        mine = found.batches[index]
        mine.record = batch.record = np.zeros(len(batch), dtype=np.int64)
        assert rows(mine) == rows(batch)


@settings(max_examples=60, deadline=None)
@given(st.lists(events_, min_size=2, max_size=12), st.sampled_from([*FORMS]))
def test_a_record_of_several_is_what_each_is_by_itself(events: list[Event], form: str) -> None:
    wanted = decode([orjson.dumps(e) for e in events])
    found = decode([FORMS[form](events)])
    assert not found.rejects
    same(found, wanted)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.lists(events_, min_size=2, max_size=5), st.sampled_from([*FORMS])),
                min_size=1, max_size=6))  # fmt: skip
def test_forms_may_stand_beside_each_other(parts: list[tuple[list[Event], str]]) -> None:
    events = [e for some, _ in parts for e in some]
    wanted = decode([orjson.dumps(e) for e in events])
    found = decode([FORMS[form](some) for some, form in parts])
    lengths = [len(some) for some, _ in parts]
    records = found.batches[0].record.tolist()
    assert records == np.repeat(np.arange(len(parts)), lengths).tolist()
    same(found, wanted)


@pytest.mark.parametrize("form", FORMS)
def test_events_of_several_models_may_share_a_record(form: str) -> None:
    events = [event(), event(model="prices", version="2"), event(model="nobody's"), event()]
    known = SECOND.name, SECOND.version
    events[1] |= {"model": known[0], "version": known[1]}
    wanted = decode([orjson.dumps(e) for e in events], TARGET, SECOND)
    found = decode([FORMS[form](events)], TARGET, SECOND)
    same(found, wanted)
    assert [(r.reason, r.count) for r in found.rejects] == [("unknown_model", 1)]
    payload = found.rejects[0].payload
    assert payload is not None
    again = decode([payload], TARGET, SECOND)
    assert [(r.reason, r.count, r.payload) for r in again.rejects] == [("unknown_model", 1, None)]


@pytest.mark.parametrize("form", FORMS)
def test_bad_events_are_refused_alone_and_can_be_read_again(form: str) -> None:
    events = [event(ts=t) for t in (T, 1e30, T, -5.0, 1e30)]
    found = decode([FORMS[form](events)])
    assert len(found.batches[0]) == 2
    assert {reject.reason for reject in found.rejects} == {"bad_timestamp"}
    assert sum(reject.count for reject in found.rejects) == 3
    assert sum(number_of(r.payload or b"", LIMIT) for r in found.rejects) == 3
    mended = [orjson.dumps(event())] if form not in ("array",) else [b"[]"]
    assert decode(mended).rejects == []


def test_rows_with_views_of_text_can_be_kept() -> None:
    events = [event(ts=t) for t in (1e30, T, 1e30)]
    found = table(events).set_column(0, "id", pa.array(["a", "b", "c"], pa.string_view()))
    (reject,) = decode([stream(found)]).rejects
    kept = pa.ipc.open_stream(reject.payload).read_all()
    assert kept["id"].to_pylist() == ["a", "c"]


def test_rows_without_a_time_miss_a_field() -> None:
    events = [event(), event(ts=None)]
    for payload in (orjson.dumps(events), stream(table(events))):
        found = decode([payload])
        assert [(r.reason, r.count) for r in found.rejects] == [("missing_field", 1)]
    nowhere = [{k: v for k, v in event().items() if k != "ts"}] * 2
    found = decode([stream(table(nowhere))])
    assert [(r.reason, r.count, r.payload) for r in found.rejects] == [("missing_field", 2, None)]


def test_a_line_that_is_cut_spoils_only_itself() -> None:
    good = orjson.dumps(event())
    found = decode([b"\n".join([good, good[:-20], good, b'{"ts": nonsense}'])])
    assert len(found.batches[0]) == 2
    assert [(r.reason, r.payload) for r in found.rejects] == [
        ("not_json", good[:-20]), ("not_json", b'{"ts": nonsense}'),
    ]  # fmt: skip


def test_many_bad_lines_are_kept_as_lines() -> None:
    bad = orjson.dumps(event(ts="never"))
    found = decode([b"\n".join([bad] * 100)])
    assert [reject.count for reject in found.rejects] == [1] * 10 + [90]
    rest = found.rejects[-1].payload
    assert rest == b"\n".join([bad] * 90)
    assert number_of(rest, LIMIT) == 90


SINGLE = {
    "written at length": json.dumps(event(), indent=2).encode(),
    "at length, a wrong type": json.dumps(event(ts=[]), indent=2).encode(),
    "at length, an object on a line": b'{"ts": 1700000000,\n"features":\n{"age": 33},\n"a": NaN}',
    "ends with a line": orjson.dumps(event()) + b"\n\n",
    "cut, at length": json.dumps(event(), indent=2).encode()[:-20],
    "text of lines": b"a,b\n1,2\n3,4",
}


@pytest.mark.parametrize("name", SINGLE)
def test_one_event_over_many_lines_is_one(name: str) -> None:
    found = decode([SINGLE[name]])
    accepted = sum(map(len, found.batches.values()))
    assert accepted + sum(reject.count for reject in found.rejects) == 1
    assert all(reject.payload is None for reject in found.rejects)


# --- Arrow --------------------------------------------------------------------------------------


def flat(events: Sequence[Event]) -> pa.Table:
    """Features as columns of their own, with dots in their names, dictionaries for text."""
    found = table(events).flatten()
    names = found.column_names
    columns = [
        column.dictionary_encode() if pa.types.is_string(column.type) else column
        for column in found.columns
    ]
    return pa.table(dict(zip(names, columns, strict=True)))


def test_nested_and_flat_columns_dictionaries_and_times_mean_the_same() -> None:
    events = [
        event(id=str(i), ts=T + i, features=event()["features"] | {"age": i}) for i in range(9)
    ]
    nested = table(events)
    wanted = decode([orjson.dumps(events)])
    micros = pa.array([(T + i) * 10**6 for i in range(9)], pa.timestamp("us"))
    at = nested.column_names.index("ts")
    text = [*map(str, range(9))]
    ids = [pa.array(text, pa.large_string()), pa.array(text, pa.string_view()), pa.array(range(9))]
    units = ("s", "ms", "us", "ns")
    for found in (
        flat(events),
        *(nested.set_column(0, "id", one) for one in ids),
        *(nested.set_column(at, "ts", micros.cast(pa.timestamp(unit, "UTC"))) for unit in units),
    ):
        same(decode([stream(found)]), wanted)


def test_columns_may_lie_flat_where_the_mapping_says_so() -> None:
    events = [event(), event()]
    unnested = [
        {**{k: v for k, v in e.items() if k != "features"}, **e["features"]} for e in events
    ]
    mapping = MappingConfig(features=".")
    found = decode([stream(table(unnested))], mapping=mapping)
    same(found, decode([orjson.dumps(unnested)], mapping=mapping))


def test_records_with_other_columns_do_not_mix() -> None:
    events = [event(), event(features={"age": 1.5}), event(features={"channel": "app"}), event()]
    found = decode([stream(table([e])) for e in events])
    assert found.batches[0].record.tolist() == [0, 1, 2, 3]
    same(found, decode([orjson.dumps(e) for e in events]))


def test_what_a_column_cannot_hold_is_of_a_wrong_type() -> None:
    events = [event(features={"age": "33", "channel": [1], "income": True, "member": "yes"})]
    found, wanted = decode([stream(table(events))]), decode([orjson.dumps(events[0])])
    same(found, wanted)
    assert len(found.batches[0].wrong_number[0]) == 2


Make = Callable[[bytes], bytes]
HOSTILE: dict[str, Make] = {}


def hostile(name: str) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        HOSTILE[name] = make
        return make

    return add


@hostile("only a beginning")
def _(good: bytes) -> bytes:
    return good[:4]


@hostile("cut in its schema")
def _(good: bytes) -> bytes:
    return good[:50]


@hostile("cut in its rows")
def _(good: bytes) -> bytes:
    return good[:-200]


@hostile("a mark of a file and nothing else")
def _(_good: bytes) -> bytes:
    return b"ARROW1"


@hostile("garbage")
def _(good: bytes) -> bytes:
    return good[:8] + bytes(range(256)) * 4


@hostile("rows of nothing")
def _(_good: bytes) -> bytes:
    rows_ = pa.RecordBatch.from_struct_array(pa.array([{}] * 7, pa.struct([])))
    return stream(pa.Table.from_batches([rows_]))


@hostile("more rows than bytes")
def _(_good: bytes) -> bytes:
    return stream(pa.table({"ts": pa.nulls(LIMIT)}))


@hostile("zeros that expand")
def _(_good: bytes) -> bytes:
    return stream(pa.table({f"c{i}": np.zeros(LIMIT // 8) for i in range(20)}), "zstd")


@hostile("a length that is no length")
def _(_good: bytes) -> bytes:
    found = bytearray(stream(pa.table({"ts": np.arange(1_000.0)}), "zstd"))
    at = found.index(struct.pack("<q", 8_000))
    found[at : at + 8] = struct.pack("<q", 2**50)
    return bytes(found)


@hostile("offsets beyond the text")
def _(_good: bytes) -> bytes:
    found = stream(pa.table({"ts": [T, T], "id": ["abc", "def"]}))
    offsets = struct.pack("<3i", 0, 3, 6)
    assert offsets in found
    return found.replace(offsets, struct.pack("<3i", 0, 3, 10**9))


@hostile("a category that there is not")
def _(_good: bytes) -> bytes:
    text = pa.DictionaryArray.from_arrays(pa.array([0, 77], pa.int8()), ["a"], safe=False)
    return stream(pa.table({"ts": [T, T], "id": text}))


@hostile("text that is no UTF-8")
def _(_good: bytes) -> bytes:
    offsets = pa.array([0, 1, 2], pa.int32()).buffers()[1]
    text = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"\xff\xfe"))
    return stream(pa.table({"ts": [T, T], "id": text}))


@hostile("views of one long text")
def _(_good: bytes) -> bytes:
    view = struct.pack("<i4sii", 100_000, b"xxxx", 0, 0)  # length, prefix, buffer, offset
    buffers = [None, pa.py_buffer(view * 1_000), pa.py_buffer(b"x" * 100_000)]
    views = pa.Array.from_buffers(pa.string_view(), 1_000, buffers)
    return stream(pa.table({"ts": [T] * 1_000, "id": views}))


@hostile("a feature with the name of another part")
def _(_good: bytes) -> bytes:
    return stream(pa.table({"ts": [T], "prediction": [1], "features.prediction": [1]}))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_arrow_is_refused_as_a_whole_and_alone(name: str) -> None:
    good = stream(table([event(), event()]))
    bad = HOSTILE[name](good)
    if bad[:4] != b"\xff\xff\xff\xff":
        assert bad[:6] == b"ARROW1"
    found = decode([good, bad, good])
    assert found.batches[0].record.tolist() == [0, 0, 2, 2]
    (reject,) = found.rejects
    assert (reject.record, reject.reason, reject.payload) == (1, "bad_arrow", None)
    assert reject.detail


def test_every_cut_of_an_arrow_record_is_refused_or_has_fewer_rows() -> None:
    good = stream(table([event(), event(), event()]), batch=1)
    for end in range(6, len(good), 7):
        found = decode([good[:end]])
        accepted = sum(map(len, found.batches.values()))
        assert accepted < 3 or end > len(good) - 16
        assert (accepted == 0) or not found.rejects


def test_rows_that_share_one_long_category_cost_no_more_than_one() -> None:
    long = "x" * 500_000
    ids = pa.DictionaryArray.from_arrays(pa.array([0] * 50_000, pa.int32()), [long])
    payload = stream(pa.table({"ts": [T] * 50_000, "model": ["loans"] * 50_000, "id": ids}), "lz4")
    batch = decode([payload]).batches[0]
    assert len(np.unique(batch.ids, axis=0)) == 1


# --- labels -------------------------------------------------------------------------------------


def labels_of(payloads: Sequence[bytes], mapping: LabelMapping | None = None) -> Any:
    n = len(payloads)
    records = Records("p", payloads, [""] * n, "end", np.full(n, STAMP))
    models = {"loans": False, "prices": True}
    return LabelDecoder(mapping or LabelMapping(), models, LIMIT).decode(records)


labels_ = st.one_of(
    st.builds(lambda i, t, v: label(id=i, ts=t, label=v),
              st.sampled_from("abc"), st.integers(T, T + 9), st.sampled_from(["yes", "no", "é"])),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(labels_, min_size=2, max_size=9), st.sampled_from([*FORMS]),
       st.sampled_from(["record", "label_time"]))  # fmt: skip
def test_labels_may_share_a_record(labels: list[Event], form: str, arrival: str) -> None:
    mapping = LabelMapping.model_validate({"arrival": arrival})
    wanted = labels_of([orjson.dumps(one) for one in labels], mapping)
    found = labels_of([FORMS[form](labels)], mapping)
    assert found.batches.keys() == wanted.batches.keys()
    for name, batch in wanted.batches.items():
        mine = found.batches[name]
        for part in ("keys", "time", "arrival", "value"):
            assert getattr(mine, part).tolist() == getattr(batch, part).tolist(), part


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_both_kinds_and_bad_ones(form: str) -> None:
    numbers = [label(model="prices", label=v) for v in (1.5, 2.0, 7.25)]
    found = labels_of([FORMS[form](numbers)])
    assert found.batches["prices"].value.view(np.float64).tolist() == [1.5, 2.0, 7.25]
    mixed = [label(), label(id=None), label(ts=-5), label(model="other"), label(label=None)]
    found = labels_of([FORMS[form](mixed)])
    assert len(found.batches["loans"]) == 1
    assert sorted((r.reason, r.count) for r in found.rejects) == [
        ("bad_label", 1), ("bad_timestamp", 1), ("missing_field", 1), ("unknown_model", 1),
    ]  # fmt: skip
