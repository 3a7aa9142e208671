"""Decoding: the typed way, the lenient way and tables agree; nothing that arrives is lost."""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest
import xxhash
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stream_monitor.batch import ColumnBatch, Decoded
from stream_monitor.config.model import MappingConfig
from stream_monitor.decode import timestamps
from stream_monitor.decode.base import Target
from stream_monitor.decode.ids import NO_ID, id_hashes, keyed
from stream_monitor.decode.lenient import LenientDecoder
from stream_monitor.decode.native import NativeDecoder
from stream_monitor.decode.rejects import REASONS, RejectedError
from stream_monitor.decode.table import TableDecoder
from stream_monitor.schema import Column, Kind, Role, Schema, category_of
from stream_monitor.sources.base import Records
from stream_monitor.tables import read_chunks

SCHEMA = Schema(
    (
        Column("age", Kind.CONTINUOUS),
        Column("channel", Kind.CATEGORICAL),
        Column("income", Kind.CONTINUOUS),
        Column("member", Kind.BOOLEAN),
        Column("prediction", Kind.CATEGORICAL, Role.PREDICTION),
        Column("score", Kind.CONTINUOUS, Role.SCORE),
    )
)
TARGET = Target(
    "loans",
    "1",
    SCHEMA,
    {
        "channel": {"app": 0, "web": 1},
        "member": {"false": 0, "true": 1},
        "prediction": {"0": 0, "1": 1},
    },
)
LIMIT = 10_000


def decoder(mapping: MappingConfig | None = None, *targets: Target) -> NativeDecoder:
    return NativeDecoder(mapping or MappingConfig(), list(targets or [TARGET]), LIMIT)


def records(*payloads: bytes, stamps: list[int] | None = None) -> Records:
    return Records(
        "p",
        payloads,
        [f"p@{i}" for i in range(len(payloads))],
        "end",
        None if stamps is None else np.array(stamps, dtype=np.int64),
    )


def event(**changes: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "model": "loans",
        "version": "1",
        "ts": 1_700_000_000.5,
        "features": {"age": 33, "channel": "web", "income": 1.5, "member": True},
        "prediction": 1,
        "score": 0.25,
    } | changes


def rows(batch: ColumnBatch) -> list[Any]:
    """A batch as comparable Python values."""
    return [
        batch.event_time.tolist(),
        batch.arrival.tolist(),
        [[None if math.isnan(x) else x for x in row] for row in batch.numbers.tolist()],
        batch.codes.tolist(),
        sorted(zip(*(w.tolist() for w in batch.wrong_number), strict=True)),
        batch.record.tolist(),
        batch.ids.tolist(),
        sorted(zip(batch.unseen.column, batch.unseen.event, batch.unseen.name, strict=True)),
    ]


def test_an_event_becomes_its_columns() -> None:
    batch = decoder().decode(records(orjson.dumps(event()))).batches[0]
    assert rows(batch) == [
        [1_700_000_000_500_000],
        [1_700_000_000_500_000],
        [[33.0], [1.5], [0.25]],
        [[1], [1], [1]],
        [],
        [0],
        [list(divmod(xxhash.xxh3_128_intdigest(event()["id"].encode()), 2**64))],
        [],
    ]


BAD = {
    "too_large": b'{"pad": "' + b"x" * LIMIT + b'"}',
    "not_json": b'{"ts": ',
    "not_an_object": b"17",
    "missing_field": orjson.dumps({k: v for k, v in event().items() if k != "ts"}),
    "bad_timestamp": orjson.dumps(event(ts="yesterday")),
    "unknown_model": orjson.dumps(event(model="other")),
}


@pytest.mark.parametrize("reason", BAD)
def test_what_cannot_be_placed_is_refused_with_its_reason(reason: str) -> None:
    good = orjson.dumps(event())
    decoded = decoder().decode(records(good, BAD[reason], good))
    assert [(r.record, r.reason) for r in decoded.rejects] == [(1, reason)]
    assert reason in REASONS
    assert decoded.batches[0].record.tolist() == [0, 2]


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff\xfe", b"null", b"[" * 100_000, b'{"a":' * 100_000, b'{"ts": 1e999}',
     b'"' + b"a" * 50, b'{"ts": true, "features": {}}', b'{"ts": 1, "features": []}',
     b'{"ts": 1, "model": {"a": 1}, "features": {}}', b'{"ts": NaN, "features": {}}'],
)  # fmt: skip
def test_hostile_bytes_are_refused(payload: bytes) -> None:
    decoded = decoder().decode(records(payload))
    assert not decoded.batches
    assert [r.record for r in decoded.rejects] == [0]


def test_a_value_of_a_wrong_type_costs_only_itself() -> None:
    features = {"age": "33", "channel": ["web"], "income": True, "member": 1}
    batch = decoder().decode(records(orjson.dumps(event(features=features)))).batches[0]
    assert rows(batch)[2:5] == [[[None], [None], [0.25]], [[4], [4], [1]], [(0, 0), (1, 0)]]


def test_missing_unseen_and_infinite_values() -> None:
    features = '{"age": null, "channel": "fax", "income": Infinity}'
    text = json.dumps(event(score=math.nan, features={})).replace(
        '"features": {}', f'"features": {features}'
    )
    batch = decoder().decode(records(text.encode())).batches[0]
    assert rows(batch)[2:4] == [[[None], [math.inf], [None]], [[2], [3], [1]]]


def test_numbers_beyond_float_are_infinite() -> None:
    text = orjson.dumps(event()).replace(b'"income":1.5', b'"income":1' + b"0" * 400)
    batch = decoder().decode(records(text)).batches[0]
    assert batch.numbers[1, 0] == math.inf


values = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "age": values, "channel": st.one_of(st.sampled_from(["app", "web"]), values),
            "income": values, "member": values,
        },
    ),
    values,
    values,
)  # fmt: skip
def test_the_typed_and_the_lenient_way_agree(
    features: dict[str, Any], prediction: Any, score: Any
) -> None:
    text = json.dumps(event(features=features, prediction=prediction, score=score))
    payload = text.encode()
    typed = decoder().decode(records(payload))
    found = [rows(b) for b in typed.batches.values()], [r.reason for r in typed.rejects]
    assert found == leniently(payload)


def leniently(payload: bytes) -> tuple[list[Any], list[str]]:
    """The batch or the reason that the lenient way alone gives."""
    try:
        _, batch = LenientDecoder(MappingConfig(), [TARGET]).event(payload, 0, None)
    except RejectedError as error:
        return [], [error.reason]
    return [rows(batch)], []


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 200), st.integers(0, 255))
def test_any_bytes_are_counted_once(noise: bytes, place: int, byte: int) -> None:
    good = bytearray(orjson.dumps(event()))
    good[place % len(good)] = byte
    # an array holds as many events as it likes, and lines are an event each
    assume(not noise.lstrip().startswith(b"[") and byte != ord("\n"))
    decoded = decoder().decode(records(noise, bytes(good)))
    counted = sum(len(b) for b in decoded.batches.values())
    assert counted + len(decoded.rejects) == 2
    assert {r.reason for r in decoded.rejects} <= REASONS.keys()


def test_models_and_versions_are_told_apart() -> None:
    second = Target("loans", "2", SCHEMA, TARGET.categories)
    other = Target("cards", "", SCHEMA, TARGET.categories)
    chosen = [event(), event(version=2), event(model="cards", version="x"), event(version="3"),
              event(model="cards", version=None), event(version=None)]  # fmt: skip
    decoded = decoder(None, TARGET, second, other).decode(records(*map(orjson.dumps, chosen)))
    assert {i: b.record.tolist() for i, b in decoded.batches.items()} == {0: [0], 1: [1], 2: [2, 4]}
    assert [(r.record, r.reason) for r in decoded.rejects] == [
        (3, "unknown_model"), (5, "unknown_model"),
    ]  # fmt: skip


def test_a_mapping_finds_the_parts_elsewhere() -> None:
    mapping = MappingConfig(
        timestamp="meta.at", arrival="meta.logged", features=".", prediction="out.label",
        score="out.p", model="meta.model", version="meta.version",
    )  # fmt: skip
    line = orjson.dumps(
        {
            "meta": {
                "at": "2023-11-14T22:13:20.500+00:00", "logged": 1_700_000_060, "model": "loans",
            },
            "age": 33, "channel": "web", "income": 1.5, "member": True,
            "out": {"label": "1", "p": 0.25},
        }
    )  # fmt: skip
    batch = decoder(mapping).decode(records(line)).batches[0]
    assert rows(batch)[:2] == [[1_700_000_000_500_000], [1_700_000_060_000_000]]
    assert rows(batch)[2:4] == [[[33.0], [1.5], [0.25]], [[1], [1], [1]]]


def test_the_record_timestamp_is_the_arrival_unless_the_event_time_is_to_play_it() -> None:
    line = orjson.dumps(event())
    stamped = records(line, stamps=[77])
    assert decoder().decode(stamped).batches[0].arrival.tolist() == [77]
    own = decoder(MappingConfig(arrival="event_time"))
    assert own.decode(stamped).batches[0].arrival.tolist() == [1_700_000_000_500_000]


@given(st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31)), st.integers(-840, 840))  # noqa: DTZ001
def test_times_are_read_in_every_form(moment: datetime, offset: int) -> None:
    utc = moment.replace(tzinfo=UTC)
    micros = (utc - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    local = utc + timedelta(minutes=offset)
    sign, minutes = "+-"[offset < 0], abs(offset)
    text = local.replace(tzinfo=None).isoformat() + f"{sign}{minutes // 60:02}:{minutes % 60:02}"
    assert timestamps.of_text(text) == micros
    assert timestamps.of_text(moment.isoformat()) == micros
    seconds = micros // 1_000_000
    assert timestamps.of_number(seconds) == seconds * 1_000_000
    if seconds >= 100_000_000:
        assert timestamps.of_number(seconds * 1_000) == seconds * 1_000_000


@given(st.lists(st.floats(), max_size=20))
def test_one_time_and_many_agree(values: list[float]) -> None:
    times, usable = timestamps.of_numbers(values)
    expected = [timestamps.of_number(v) for v in values]
    assert usable.tolist() == [e is not None for e in expected]
    assert times[usable].tolist() == [e for e in expected if e is not None]


def flat(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(2)
    return [
        {
            "ts": 1_700_000_000 + i,
            "age": int(rng.integers(18, 80)),
            "channel": ["app", "web", "fax", None][i % 4],
            "income": None if i % 7 == 0 else float(rng.normal()),
            "member": bool(i % 3),
            "prediction": i % 2,
            "score": float(rng.random()),
        }
        for i in range(count)
    ]


def test_parquet_csv_and_jsonl_give_the_same_columns_as_events(tmp_path: Path) -> None:
    plain = flat(50)
    pa.parquet.write_table(pa.Table.from_pylist(plain), tmp_path / "a.parquet")
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, plain[0])
    writer.writeheader()
    writer.writerows(plain)
    (tmp_path / "a.csv").write_text(buffer.getvalue())
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(map(orjson.dumps, plain)))
    mapping = MappingConfig(features=".")
    expected = rows(decoder(mapping).decode(records(*map(orjson.dumps, plain))).batches[0])
    for suffix in ("parquet", "csv", "jsonl"):
        (chunk,) = read_chunks([tmp_path / f"a.{suffix}"])
        decoded = TableDecoder(mapping, [TARGET]).decode(chunk)
        assert not decoded.rejects, suffix
        assert rows(decoded.batches[0]) == expected, suffix


def test_nested_parquet_columns_are_features(tmp_path: Path) -> None:
    nested = [event(ts=1_700_000_000 + i) for i in range(5)]
    pa.parquet.write_table(pa.Table.from_pylist(nested), tmp_path / "a.parquet")
    (chunk,) = read_chunks([tmp_path / "a.parquet"])
    decoded = TableDecoder(MappingConfig(), [TARGET]).decode(chunk)
    expected = decoder().decode(records(*map(orjson.dumps, nested)))
    assert rows(decoded.batches[0]) == rows(expected.batches[0])


def test_wrong_types_in_files_count_as_in_events(tmp_path: Path) -> None:
    odd = [r | {"age": "old", "member": "maybe"} if i == 2 else r for i, r in enumerate(flat(4))]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(map(orjson.dumps, odd)))
    (chunk,) = read_chunks([tmp_path / "a.jsonl"])
    mapping = MappingConfig(features=".")
    found = rows(TableDecoder(mapping, [TARGET]).decode(chunk).batches[0])
    assert found == rows(decoder(mapping).decode(records(*map(orjson.dumps, odd))).batches[0])
    assert found[4] == [(0, 2)]


# --- records of many events ---------------------------------------------------------------------

SECOND = Target("cards", "", SCHEMA, TARGET.categories)
odd_events = st.one_of(
    st.builds(
        lambda features, changes: event(features=features) | changes,
        st.dictionaries(st.sampled_from(["age", "channel", "member", "other"]), values, max_size=3),
        st.dictionaries(
            st.sampled_from(["id", "model", "ts", "score", "features"]),
            st.one_of(values, st.sampled_from(["loans", "cards"])),
            max_size=1,
        ),
    ),
    st.just(event()),
    st.sampled_from([17, None, "text", {}]),
)


def contents(decoded: Decoded, payloads: list[bytes]) -> list[Any]:
    """All that was decoded, apart from the records it came from; rejects with their own bytes."""
    batches = {
        i: [part for k, part in enumerate(rows(b)) if k != 5] for i, b in decoded.batches.items()
    }
    refused = [
        (r.reason, payloads[r.record] if r.payload is None else r.payload) for r in decoded.rejects
    ]
    return [batches, sorted(refused)]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(odd_events, max_size=8),
    st.lists(st.integers(0, 8), max_size=3),
    st.sampled_from([b",", b" ,\n"]),
    st.booleans(),
)
def test_any_split_into_records_gives_the_same_events(
    some: list[Any], cuts: list[int], comma: bytes, two: bool
) -> None:
    own = decoder(None, TARGET, SECOND) if two else decoder()
    single = [json.dumps(e).encode() for e in some]
    ends = sorted({0, *cuts, 8})
    groups = [single[a:b] for a, b in pairwise(ends)]
    arrays = [b" [" + comma.join(group) + b"]" for group in groups]
    assert contents(own.decode(records(*arrays)), arrays) == contents(
        own.decode(records(*single)), single
    )


def test_the_events_of_a_record_share_its_index_and_timestamp() -> None:
    some = [orjson.dumps(event(id=i)) for i in range(6)]
    spoilt = orjson.dumps(event(id=6, score="high"))
    arrays = [b"[" + b",".join(some[:3]) + b"]", some[3], b"[]",
              b"[" + b",".join([some[4], spoilt, some[5]]) + b"]"]  # fmt: skip
    decoded = decoder().decode(records(*arrays, stamps=[10, 11, 12, 13]))
    batch = decoded.batches[0]
    assert batch.record.tolist() == [0, 0, 0, 1, 3, 3, 3]
    assert batch.arrival.tolist() == [10, 10, 10, 11, 13, 13, 13]
    assert batch.ids.tolist() == id_hashes([0, 1, 2, 3, 4, 6, 5]).tolist()
    assert batch.wrong_number[1].tolist() == [5]
    assert not decoded.rejects


def test_a_bad_event_of_a_record_is_refused_alone_with_its_own_bytes() -> None:
    good, bad = orjson.dumps(event()), orjson.dumps(event(ts="never"))
    array = b"\n[" + b", ".join([good, bad, b"[1]", good, b"null", b"[]"]) + b"]"
    whole = b"[" + good + b"," + good  # has no end
    for own in (decoder(), decoder(None, TARGET, SECOND)):
        decoded = own.decode(records(good, array, whole))
        assert decoded.batches[0].record.tolist() == [0, 1, 1]
        assert [(r.record, r.reason, r.payload) for r in decoded.rejects] == [
            (1, "bad_timestamp", bad), (1, "not_an_object", b"[1]"), (1, "not_an_object", b"null"),
            (1, "not_an_object", b"[]"), (2, "not_json", None),
        ]  # fmt: skip


def test_a_dead_letter_holds_the_event_and_not_its_whole_record() -> None:
    from stream_monitor.reading import _dead_letter

    array = b"[" + orjson.dumps(event()) + b', {"ts": "never"}]'
    found = records(array, b"{", stamps=[10, 11])
    letters = [_dead_letter(found, reject) for reject in decoder().decode(found).rejects]
    assert [(x.place, x.payload, x.timestamp) for x in letters] == [
        ("p@0", b'{"ts": "never"}', 10), ("p@1", b"{", 11),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "payload",
    [b"[" * 100_000, b"[" + b"[" * 50_000 + b"]" * 50_000 + b"]", b"[1,", b"[1 2]", b"[,]", b"[1,]",
     b"[1]]", b"[\xff]", b'["\xed\xa0\x80", NaN]', b"[NaN", b"[NaN,]", b"[NaN] 1",
     b"[" + b"9" * 9_000 + b"]",
     b"[NaN, " + b"9" * 9_000 + b"]", "[1, NaN]".encode("utf-16-le")],
)  # fmt: skip
def test_hostile_arrays_are_refused(payload: bytes) -> None:
    for own in (decoder(), decoder(None, TARGET, SECOND)):
        decoded = own.decode(records(payload[:LIMIT]))
        assert not decoded.batches
        assert decoded.rejects
        assert {r.record for r in decoded.rejects} == {0}


@pytest.mark.parametrize("part", ["model", "version", "ts", "id", "score", "features"])
def test_a_part_that_is_nested_too_deep_is_no_reason_to_stop(part: str) -> None:
    # beyond what Python prints, within what the parser reads
    text = orjson.dumps(event(**{part: "here"})).replace(b'"here"', b"[" * 1_010 + b"]" * 1_010)
    decoded = decoder().decode(records(text))
    assert sum(map(len, decoded.batches.values())) + len(decoded.rejects) == 1


# --- ids ----------------------------------------------------------------------------------------

id_values = st.one_of(
    st.none(), st.text(st.characters(exclude_categories=[])), st.integers(-5, 5),
    st.booleans(), st.floats(allow_nan=False), st.just([1]),
)  # fmt: skip


@given(st.lists(id_values))
def test_ids_are_hashes_of_their_text(ids: list[Any]) -> None:
    hashes = id_hashes(ids)
    assert hashes.shape == (len(ids), 2)
    assert hashes.dtype == np.uint64
    for value, (high, low) in zip(ids, hashes.tolist(), strict=True):
        text = category_of(value)
        wanted = xxhash.xxh3_128_intdigest(text.encode(errors="surrogatepass")) if text else 0
        assert (high << 64) + low == wanted
    # by itself or among others, an id is the same
    alone = [id_hashes([value])[0].tolist() for value in ids]
    assert alone == hashes.tolist()


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), unique=True))
def test_keys_tell_ids_and_models_apart(ids: list[tuple[int, int]]) -> None:
    halves = np.array([NO_ID, *ids], dtype=np.uint64)
    keys = [keyed(halves, name) for name in ("loans", "cards")]
    for some in keys:
        assert some[0].tolist() == [0, 0]
        assert len(np.unique(some, axis=0)) == len(np.unique(halves, axis=0))
    named = halves.any(axis=1)
    assert (keys[0][named] != keys[1][named]).all()
