"""Label records and tables: against a reading of plain JSON, one label at a time."""

from __future__ import annotations

import csv
import json
import math
import struct
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_monitor.config.model import LabelMapping
from stream_monitor.decode.ids import id_hashes, keyed
from stream_monitor.decode.label_batch import DecodedLabels, LabelBatch, label_value
from stream_monitor.decode.label_rows import decode_table
from stream_monitor.decode.labels import LabelDecoder
from stream_monitor.decode.rejects import REASONS
from stream_monitor.errors import LabelError
from stream_monitor.sources.base import Records
from stream_monitor.tables import read_chunks

LIMIT = 10_000
CLASSES, NUMBERS = {"loans": False}, {"prices": True}
BOTH = CLASSES | NUMBERS
NATIVE, SELDON = LabelMapping(), LabelMapping(format="seldon")
T = 1_700_000_000
STAMP = (T + 60) * 1_000_000


def decode(
    payloads: list[bytes],
    models: dict[str, bool] = CLASSES,
    mapping: LabelMapping = NATIVE,
    stamp: int | None = STAMP,
) -> DecodedLabels:
    n = len(payloads)
    stamps = None if stamp is None else np.full(n, stamp)
    places = [f"p@{i}" for i in range(n)]
    return LabelDecoder(mapping, models, LIMIT).decode(Records("p", payloads, places, "", stamps))


def lines(labels: list[Any]) -> list[bytes]:
    return [json.dumps(label).encode() for label in labels]


def label(**changes: Any) -> dict[str, Any]:
    return {"id": "a", "model": "loans", "ts": T, "label": 1} | changes


def feedback(**changes: Any) -> dict[str, Any]:
    return {
        "request": {"meta": {"puid": "asked"}, "data": {"names": ["x"], "ndarray": [[0.5]]}},
        "response": {"meta": {"puid": "a", "tags": {"v": 1}}, "data": {"ndarray": [[0.9]]}},
        "reward": 1.0,
        "truth": {"data": {"ndarray": [[1]]}},
    } | changes


def rows(decoded: DecodedLabels) -> dict[str, list[Any]]:
    """The labels of each model, apart from the records they came from."""
    return {
        name: list(
            zip(
                map(tuple, batch.keys.tolist()), batch.time.tolist(), batch.arrival.tolist(),
                batch.value.tolist(), strict=True,
            )
        )
        for name, batch in decoded.batches.items()
    }  # fmt: skip


def test_labels_of_both_kinds() -> None:
    payloads = lines(
        [label(), label(id=7, label="yes"), label(id=True, label=True), label(label=1.0),
         label(model="prices", label=-2.5), label(model="prices", label=3),
         label(model="prices", label=-0.0)]
    )  # fmt: skip
    decoded = decode(payloads, BOTH)
    assert not decoded.rejects
    loans, prices = decoded.batches["loans"], decoded.batches["prices"]
    assert loans.record.tolist() == [0, 1, 2, 3]
    assert prices.record.tolist() == [4, 5, 6]
    assert loans.keys.tolist() == keyed(id_hashes(["a", "7", "true", "a"]), "loans").tolist()
    assert prices.keys.tolist() == keyed(id_hashes(["a"] * 3), "prices").tolist()
    assert loans.value.tolist() == [
        xxhash.xxh3_64_intdigest(name.encode()) for name in ("1", "yes", "true", "1")
    ]
    assert prices.value.tolist() == np.array([-2.5, 3.0, 0.0]).view(np.uint64).tolist()
    assert (loans.time == T * 1_000_000).all()
    assert (loans.arrival == STAMP).all()


def test_without_record_timestamps_labels_arrive_at_their_time() -> None:
    batch = decode(lines([label()]), stamp=None).batches["loans"]
    assert batch.arrival.tolist() == batch.time.tolist() == [T * 1_000_000]


BAD = {
    "no label": (label(label=None), "bad_label"),
    "label missing": ({"id": 1, "ts": T}, "bad_label"),
    "label an object": (label(label={"a": 1}), "bad_label"),
    "label an array": (label(label=[1]), "bad_label"),
    "label not a number": (label(label=math.nan), "bad_label"),
    "number as text": (label(model="prices", label="1"), "bad_label"),
    "number as boolean": (label(model="prices", label=True), "bad_label"),
    "number not there": (label(model="prices", label=None), "bad_label"),
    "number infinite": (label(model="prices", label=math.inf), "bad_label"),
    "number beyond floats": (label(model="prices", label=10**400), "bad_label"),
    "no id": ({"model": "loans", "ts": T, "label": 1}, "missing_field"),
    "empty id": (label(id=""), "missing_field"),
    "id an object": (label(id={}), "missing_field"),
    "no time": ({"id": 1, "model": "loans", "label": 1}, "missing_field"),
    "not a time": (label(ts="soon"), "bad_timestamp"),
    "time out of range": (label(ts=-1), "bad_timestamp"),
    "other model": (label(model="cards"), "unknown_model"),
    "model an object": (label(model={"name": "loans"}), "unknown_model"),
    "no model among two": ({"id": 1, "ts": T, "label": 1}, "unknown_model"),
    "a number": (3, "not_an_object"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused_with_its_reason(case: str) -> None:
    bad, reason = BAD[case]
    models = CLASSES if case == "label missing" else BOTH
    good, refused = lines([label(), bad])
    decoded = decode([good, refused, b"[" + good + b"," + refused + b"]"], models)
    assert [(r.record, r.reason, r.payload) for r in decoded.rejects] == [
        (1, reason, None),
        (2, reason, refused),
    ]
    assert decoded.batches["loans"].record.tolist() == [0, 2]
    assert reason in REASONS


def test_a_record_that_is_too_large_or_no_json() -> None:
    decoded = decode([b" " * (LIMIT + 1), b"{"])
    assert [(r.record, r.reason) for r in decoded.rejects] == [(0, "too_large"), (1, "not_json")]
    assert not decoded.batches


def test_a_mapping_finds_the_parts_elsewhere() -> None:
    mapping = LabelMapping(id="key.event", model="key.model", timestamp="known.at", label="y.true")
    payload = lines(
        [{"key": {"event": 5, "model": "loans"}, "known": {"at": "2023-11-14T22:13:20Z"},
          "y": {"true": "no"}}]
    )  # fmt: skip
    assert rows(decode(payload, BOTH, mapping)) == rows(decode(lines([label(id=5, label="no")])))


def test_the_record_timestamp_is_the_time_where_the_mapping_says_so() -> None:
    mapping = LabelMapping(timestamp=None)
    batch = decode(lines([label(ts="ignored")]), mapping=mapping).batches["loans"]
    assert batch.time.tolist() == batch.arrival.tolist() == [STAMP]
    for stamp in (None, -1):
        (reject,) = decode(lines([label()]), mapping=mapping, stamp=stamp).rejects
        assert reject.reason == "bad_timestamp"


# --- laws ---------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=4),
    st.sampled_from(["loans", "prices", "a", -0.0, 0, 1.0, T, "2023-11-14T22:13:20+01:00"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.none(), max_size=1),
)  # fmt: skip
anything = st.one_of(
    st.builds(
        lambda changes: label() | changes,
        st.dictionaries(st.sampled_from(["id", "model", "ts", "label"]), scalars, max_size=3),
    ),
    st.builds(lambda model, value: label(model=model, label=value),
              st.sampled_from(["loans", "prices"]), scalars),
    st.builds(
        lambda truth, puid, at: feedback(truth=truth, response={"meta": {"puid": puid}}, ts=at),
        st.one_of(
            scalars,
            st.builds(lambda v: {"data": {"ndarray": v}}, scalars),
            st.builds(lambda v: {"data": {"ndarray": [v]}}, scalars),
            st.builds(lambda v: {"data": {"ndarray": [[v]]}}, scalars),
            st.builds(lambda v: {"data": {"tensor": {"shape": [1], "values": [v]}}}, scalars),
        ),
        scalars,
        scalars,
    ),
    scalars.filter(lambda v: not isinstance(v, list)),
)  # fmt: skip
worlds = st.tuples(
    st.sampled_from([CLASSES, NUMBERS, BOTH]),
    st.sampled_from([NATIVE, SELDON, LabelMapping(timestamp=None)]),
    st.sampled_from([None, STAMP, -1]),
)


def expected(labels: list[Any], models: dict[str, bool]) -> dict[str, list[Any]]:
    """Labels of our own form, read by the rules and nothing of the package but its hashes."""
    found: dict[str, list[Any]] = {}
    for one in labels:
        if not isinstance(one, dict):
            continue
        name, value = one.get("model"), one.get("label")
        name = next(iter(models)) if name is None and len(models) == 1 else name
        time = moment(one.get("ts"))
        identity = text(one.get("id"))
        if not isinstance(name, str) or name not in models or time is None or not identity:
            continue
        if models[name]:
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            if not math.isfinite(value):
                continue
            (bits,) = struct.unpack("<Q", struct.pack("<d", value or 0.0))
        else:
            category = None if value != value else text(value)  # noqa: PLR0124
            if category is None:
                continue
            bits = xxhash.xxh3_64_intdigest(category.encode(errors="surrogatepass"))
        key = tuple(keyed(id_hashes([identity]), name)[0].tolist())
        found.setdefault(name, []).append((key, time, STAMP, bits))
    return found


def text(value: Any) -> str | None:
    match value:
        case str():
            return value
        case bool():
            return str(value).lower()
        case int() if -(2**63) <= value < 2**64:
            return str(value)
        case int() | float():
            number = float(value)
            return str(int(number)) if number.is_integer() else repr(number)
    return None


def moment(value: Any) -> int | None:
    if isinstance(value, str):
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            return None
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        size = abs(value)
        unit = next((u for limit, u in ((1e11, 1), (1e14, 1e3), (1e17, 1e6)) if size < limit), 1e9)
        seconds = value / unit
    else:
        return None
    micros = round(seconds * 1_000_000)
    return micros if 0 <= micros < 7_258_118_400_000_000 else None


plain_times = st.one_of(
    st.integers(-5, 2**40), st.integers(T * 1_000, T * 1_000 + 5), st.none(), st.just("soon"),
    st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1)).map(  # noqa: DTZ001
        lambda d: d.replace(microsecond=0).isoformat()
    ),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda times, changes: label(ts=times) | changes,
            plain_times,
            st.dictionaries(st.sampled_from(["id", "model", "label"]), scalars, max_size=2),
        ),
        max_size=6,
    ),
    st.sampled_from([CLASSES, NUMBERS, BOTH]),
)
def test_labels_are_what_a_plain_reading_gives(labels: list[Any], models: dict[str, bool]) -> None:
    decoded = decode(lines(labels), models)
    assert rows(decoded) == expected(labels, models)
    assert sum(map(len, decoded.batches.values())) + len(decoded.rejects) == len(labels)


@settings(max_examples=400, deadline=None)
@given(anything, worlds)
def test_the_typed_and_the_lenient_way_agree(
    one: Any, world: tuple[dict[str, bool], LabelMapping, int | None]
) -> None:
    (payload,) = lines([one])
    typed = decode([payload], *world)
    if not isinstance(one, dict):
        assert [r.reason for r in typed.rejects] == ["not_an_object"]
        return
    # a bare NaN, which only the lenient way reads, in a field that nobody looks at
    lenient = decode(lines([one | {"other": math.nan}]), *world)
    assert rows(typed) == rows(lenient)
    assert [r.reason for r in typed.rejects] == [r.reason for r in lenient.rejects]
    assert len(typed.rejects) + sum(map(len, typed.batches.values())) == 1
    assert {r.reason for r in typed.rejects} <= REASONS.keys()


@settings(max_examples=300, deadline=None)
@given(st.lists(anything, max_size=8), st.lists(st.integers(0, 8), max_size=3), worlds)
def test_any_split_into_records_gives_the_same_labels(
    labels: list[Any],
    cuts: list[int],
    world: tuple[dict[str, bool], LabelMapping, int | None],
) -> None:
    single = lines(labels)
    groups = [single[a:b] for a, b in pairwise(sorted({0, *cuts, 8}))]
    arrays = [b"[" + b", ".join(group) + b"]" for group in groups]
    one, many = decode(single, *world), decode(arrays, *world)
    assert rows(one) == rows(many)
    record_of = [i for i, group in enumerate(groups) for _ in group]
    for name, batch in one.batches.items():
        assert many.batches[name].record.tolist() == [record_of[r] for r in batch.record.tolist()]
    refused = [(record_of[r.record], r.reason, single[r.record]) for r in one.rejects]
    assert [(r.record, r.reason, r.payload) for r in many.rejects] == refused


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.binary(max_size=60), max_size=4), st.integers(0, 100), st.integers(0, 255), worlds
)
def test_any_bytes_are_decoded_or_refused(
    noise: list[bytes],
    place: int,
    byte: int,
    world: tuple[dict[str, bool], LabelMapping, int | None],
) -> None:
    for one in (label(), feedback(), [label(), label()]):
        spoilt = bytearray(orjson.dumps(one))
        spoilt[place % len(spoilt)] = byte
        payloads = [*noise, bytes(spoilt), b'{"label":' + b"[" * 1_005 + b"]" * 1_005 + b"}"]
        decoded = decode(payloads, *world)
        touched = {r.record for r in decoded.rejects}
        assert touched <= set(range(len(payloads)))
        assert len(payloads) - 1 in touched
        assert {r.reason for r in decoded.rejects} <= REASONS.keys()


@given(st.lists(st.integers(0, 5), max_size=5), st.lists(st.integers(0, 4), max_size=5))
def test_batches_are_cut_and_joined_like_lists(some: list[int], other: list[int]) -> None:
    def batch(numbers: list[int]) -> LabelBatch:
        column = np.array(numbers, dtype=np.int64)
        keys = np.stack([column, column + 1], axis=1).astype(np.uint64)
        return LabelBatch(keys, column, column, column.view(np.uint64), column)

    joined = LabelBatch.joined([batch(some), batch(other)])
    assert joined.record.tolist() == some + other
    joined.origin = np.arange(len(joined), dtype=np.uint64)
    back = joined.take(np.arange(len(joined))[::-1])
    assert back.keys[:, 1].tolist() == [n + 1 for n in reversed(some + other)]
    assert back.origin.tolist() == list(range(len(joined)))[::-1]


# --- Seldon -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "truth",
    [{"ndarray": [[1]]}, {"ndarray": [1]}, {"ndarray": [[1.0, 5], [2]]},
     {"tensor": {"shape": [1, 1], "values": [1]}}, {"names": ["y"], "ndarray": [[[1]]]}],
)  # fmt: skip
def test_the_first_value_of_the_truth_is_the_label(truth: Any) -> None:
    batch = decode(lines([feedback(truth={"data": truth})]), mapping=SELDON).batches["loans"]
    assert batch.value.tolist() == [label_value("1")]
    assert batch.keys.tolist() == keyed(id_hashes(["a"]), "loans").tolist()
    assert batch.time.tolist() == batch.arrival.tolist() == [STAMP]


@pytest.mark.parametrize("response", [None, {}, {"meta": {}}, {"meta": {"puid": ""}}])
def test_without_an_id_of_the_response_that_of_the_request_counts(response: Any) -> None:
    batch = decode(lines([feedback(response=response)]), mapping=SELDON).batches["loans"]
    assert batch.keys.tolist() == keyed(id_hashes(["asked"]), "loans").tolist()


def test_feedback_may_bring_model_and_time_where_the_mapping_points() -> None:
    mapping = LabelMapping(
        format="seldon", model="response.meta.tags.model", timestamp="request.meta.tags.at"
    )
    with_both = feedback(
        response={"meta": {"puid": "a", "tags": {"model": "prices"}}},
        request={"meta": {"tags": {"at": T}}},
    )
    decoded = decode(lines([with_both, feedback()]), BOTH, mapping)
    batch = decoded.batches["prices"]
    assert batch.time.tolist() == [T * 1_000_000]
    assert batch.value.view(np.float64).tolist() == [1.0]
    assert [(r.record, r.reason) for r in decoded.rejects] == [(1, "unknown_model")]


@pytest.mark.parametrize(
    ("changes", "stamp", "reason"),
    [
        ({"truth": None}, STAMP, "bad_label"),
        ({"truth": {"data": {"ndarray": []}}}, STAMP, "bad_label"),
        ({"truth": {"data": {"ndarray": [[]]}}}, STAMP, "bad_label"),
        ({"truth": {"strData": "yes"}}, STAMP, "bad_label"),
        ({"response": None, "request": None}, STAMP, "missing_field"),
        ({}, None, "bad_timestamp"),
        ({"ts": "soon"}, STAMP, "bad_timestamp"),
    ],
)
def test_feedback_without_truth_id_or_time_is_refused(
    changes: Any, stamp: int | None, reason: str
) -> None:
    decoded = decode(lines([feedback(**changes)]), mapping=SELDON, stamp=stamp)
    assert [r.reason for r in decoded.rejects] == [reason]


# --- tables -------------------------------------------------------------------------------------


def table(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    return [
        {
            "id": f"e{i}", "model": ["loans", "prices"][i % 2], "ts": T + i,
            "label": None if i % 7 == 0 else round(float(rng.normal()), 3) if i % 2 else i % 3,
        }
        for i in range(count)
    ]  # fmt: skip


def test_tables_give_the_same_labels_as_records(tmp_path: Path) -> None:
    plain = [*table(40), {"id": None, "model": "loans", "ts": T, "label": 1},
             {"id": "x", "model": "cards", "ts": T, "label": 1},
             {"id": "x", "model": "loans", "ts": None, "label": 1}]  # fmt: skip
    pa.parquet.write_table(pa.Table.from_pylist(plain), tmp_path / "a.parquet")
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, plain[0])
        writer.writeheader()
        writer.writerows(plain)
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines(plain)))
    wanted = decode(lines(plain), BOTH, stamp=None)
    for suffix in ("parquet", "csv", "jsonl"):
        (chunk,) = read_chunks([tmp_path / f"a.{suffix}"])
        decoded = decode_table(chunk, NATIVE, BOTH)
        assert rows(decoded) == rows(wanted), suffix
        for name, batch in wanted.batches.items():
            assert decoded.batches[name].record.tolist() == batch.record.tolist()
        assert [r.record for r in decoded.rejects] == [r.record for r in wanted.rejects]
    reasons = [r.reason for r in decoded.rejects]
    assert reasons == ["bad_label"] * 6 + ["missing_field", "unknown_model", "bad_timestamp"]


def test_a_csv_spells_booleans_as_it_likes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,ts,label\n1,1700000000,True\n2,1700000000,FALSE\n")
    (chunk,) = read_chunks([tmp_path / "a.csv"])
    values = [
        decode_table(chunk, NATIVE, CLASSES, boolean).batches["loans"].value.tolist()
        for boolean in ((), ("loans",))
    ]
    assert values[0] == [label_value("True"), label_value("FALSE")]
    assert values[1] == [label_value("true"), label_value("false")]


@pytest.mark.parametrize("name", ["id", "timestamp", "label"])
def test_a_table_without_a_column_is_an_error(tmp_path: Path, name: str) -> None:
    pa.parquet.write_table(pa.Table.from_pylist(table(3)), tmp_path / "a.parquet")
    (chunk,) = read_chunks([tmp_path / "a.parquet"])
    for column in ("other", None) if name == "timestamp" else ("other",):
        mapping = LabelMapping.model_validate({name: column})
        with pytest.raises(LabelError, match=f"labels.mapping.{name}"):
            decode_table(chunk, mapping, BOTH)
