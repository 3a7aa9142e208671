"""Whatever bytes arrive, events and labels alike: one dead letter of a known reason, no exception.

Good neighbours in the run, and in the record where it can be told apart, are not harmed.
"""

from __future__ import annotations

import gzip
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from stream_monitor.batch import ColumnBatch, Reject
from stream_monitor.config.model import LabelMapping, MappingConfig
from stream_monitor.decode.base import Target
from stream_monitor.decode.label_batch import LabelBatch
from stream_monitor.decode.labels import LabelDecoder
from stream_monitor.decode.native import NativeDecoder
from stream_monitor.decode.rejects import REASONS
from stream_monitor.panes.partition import Partition
from stream_monitor.pipeline import Pipeline
from stream_monitor.sources.base import Records
from stream_monitor.watch import watch
from tests import worlds
from tests.late import labels_config, opened
from tests.test_decode import SECOND, TARGET, event
from tests.test_label_decode import label

LIMIT = 2**20
T = 1_700_000_000
STAMP = (T + 60) * 1_000_000
EVENT, LABEL = orjson.dumps(event()), orjson.dumps(label())
GOOD = {"events": EVENT, "labels": LABEL}
Found = tuple[list[ColumnBatch] | list[LabelBatch], list[Reject]]


class Decoders:
    """Both decoders, with one model or two."""

    def __init__(self, *targets: Target) -> None:
        self._events = NativeDecoder(MappingConfig(), [*targets], LIMIT)
        models = {target.name: False for target in targets}
        self._labels = LabelDecoder(LabelMapping(), models, LIMIT)

    def decode(self, kind: str, payloads: list[bytes], stamp: int | None = STAMP) -> Found:
        """Batches and rejects, which are always of known reasons and of bounded text."""
        n = len(payloads)
        stamps = None if stamp is None else np.full(n, stamp)
        records = Records("p", payloads, [f"p@{i}" for i in range(n)], "end", stamps)
        found = (self._events if kind == "events" else self._labels).decode(records)
        for reject in found.rejects:
            assert reject.reason in REASONS
            assert len(reject.detail) <= 300
            reject.detail.encode()  # no lone surrogates
        return [*found.batches.values()], found.rejects

    def alone(self, kind: str, payload: bytes) -> tuple[int, list[str]]:
        """Accepted and refused of a payload among good ones, which are all taken."""
        good = GOOD[kind]
        batches, rejects = self.decode(kind, [good, payload, good])
        taken = Counter(r for batch in batches for r in batch.record.tolist())
        assert taken[0] == taken[2] == 1
        assert {reject.record for reject in rejects} <= {1}
        return taken[1], [reject.reason for reject in rejects for _ in range(reject.count)]


@pytest.fixture(params=["one model", "two models"])
def decoders(request: pytest.FixtureRequest) -> Decoders:
    return Decoders(TARGET, *([SECOND] if request.param == "two models" else []))


def deep(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * depth + closing * depth


# of events and labels alike; None where there is nothing that could be lost
PAYLOADS: dict[str, tuple[bytes, str | None]] = {
    "empty": (b"", "not_json"),
    "white": (b" \n\t", "not_json"),
    "oversized": (b" " * (LIMIT + 1), "too_large"),
    "nested arrays": (deep(100_000), "not_json"),
    "nested objects": (deep(100_000, b'{"ts":', b"}"), "not_json"),
    "nested without end": (b"[" * 100_000, "not_json"),
    "objects without end": (b'{"ts":' * 100_000, "not_json"),
    "null": (b"null", "not_an_object"),
    "true": (b"true", "not_an_object"),
    "number": (b"17", "not_an_object"),
    "text": (b'"ts"', "not_an_object"),
    "NaN": (b"NaN", "not_an_object"),
    "Infinity": (b"-Infinity", "not_an_object"),
    "1e400": (b"1e400", "not_an_object"),
    "10,000 digits": (b"9" * 10_000, "not_an_object"),
    "empty array": (b"[]", None),
    "array in array": (b"[[]]", "not_an_object"),
    "only a model": (b'{"model":"loans"}', "missing_field"),
    "null bytes": (b"\0" * 100, "not_json"),
    "invalid UTF-8": (b"\xff\xc3\x28\xf0", "not_json"),
    "invalid UTF-8 in text": (b'{"ts": "\xc3\x28"}', "not_json"),
    "byte order marks": (b"\xff\xfe", "not_json"),
    "wrong types everywhere": (
        b'{"id": [], "model": 1, "version": {}, "ts": [], "features": 7, "label": {}}',
        "unknown_model",
    ),
}
COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "snappy": lambda raw: pa.compress(raw, codec="snappy", asbytes=True),
    "zstd": lambda raw: pa.compress(raw, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("name", PAYLOADS)
def test_bytes_that_are_no_event(decoders: Decoders, kind: str, name: str) -> None:
    payload, reason = PAYLOADS[name]
    assert decoders.alone(kind, payload) == (0, [] if reason is None else [reason])


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_payloads_are_no_json(decoders: Decoders, kind: str, name: str) -> None:
    assert decoders.alone(kind, COMPRESSED[name](GOOD[kind] * 50)) == (0, ["not_json"])


@pytest.mark.parametrize("kind", GOOD)
def test_no_beginning_of_an_event_is_one(decoders: Decoders, kind: str) -> None:
    good = GOOD[kind]
    cuts = [good[:end] for end in range(len(good))] + [good[start:] for start in range(1, 40)]
    batches, rejects = decoders.decode(kind, [*cuts, good])
    assert [batch.record.tolist() for batch in batches] == [[len(cuts)]]
    assert [reject.record for reject in rejects] == [*range(len(cuts))]


def test_what_python_reads_as_json_is_read(decoders: Decoders) -> None:
    for kind, good in GOOD.items():
        text = good.decode()
        for encoding in ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
            assert decoders.alone(kind, text.encode(encoding)) == (1, []), encoding
            both = f"[{text}, 1, {text}]".encode(encoding)
            assert decoders.alone(kind, both) == (2, ["not_an_object"]), encoding
        assert decoders.alone(kind, good + b"\0") == (0, ["not_json"])
        assert decoders.alone(kind, b"\0" + good) == (0, ["not_json"])


LONG = b'"' + b"x" * (LIMIT - 1_000) + b'"'
TIMES: dict[bytes, str | None] = {
    b"null": "missing_field",
    b'"0001-01-01T00:00:00Z"': "bad_timestamp",
    b'"9999-12-31T23:59:59Z"': "bad_timestamp",
    b'"300000-01-01T00:00:00Z"': "bad_timestamp",
    b'"2023-11-15T00:00:00+99:00"': "bad_timestamp",
    b"-62135596800": "bad_timestamp",
    b"-1": "bad_timestamp",
    b"-1e300": "bad_timestamp",
    b"1e300": "bad_timestamp",
    b"1e400": "bad_timestamp",
    b"NaN": "bad_timestamp",
    b"-Infinity": "bad_timestamp",
    b"9" * 400: "bad_timestamp",
    b"9" * 10_000: "bad_timestamp",
    b"9300000000000": "bad_timestamp",  # 2264
    b"true": "bad_timestamp",
    b'""': "bad_timestamp",
    b'"\\ud800"': "bad_timestamp",
    b'"\\u0000"': "bad_timestamp",
    b"[1700000000]": "bad_timestamp",
    b'{"ts": 1}': "bad_timestamp",
    LONG: "bad_timestamp",
    deep(900): "bad_timestamp",
    b"1700000000": None,
    b'"2023-11-14T22:13:20"': None,
    b"1700000000e-0": None,
}
NAMES: dict[bytes, str | None] = {
    b"null": None,
    b'"loans"': None,
    b'"nobody\'s"': "unknown_model",
    b'"LOANS"': "unknown_model",
    b'""': "unknown_model",
    b"[]": "unknown_model",
    b'{"model": "loans"}': "unknown_model",
    b"1e400": "unknown_model",
    b"9" * 10_000: "unknown_model",
    b"NaN": "unknown_model",
    b'"loans\\u0000"': "unknown_model",
    b'"\\ud800"': "unknown_model",
    LONG: "unknown_model",
}
NO_ID = (b"null", b'""', b"[]", b"{}", b'[{"id": "a"}]', deep(900))
IDS: dict[bytes, str | None] = dict.fromkeys(NO_ID, "missing_field") | dict.fromkeys(
    (b"0", b"true", b"1e300", b"1e400", b"9" * 10_000, b'"\\ud800"', b'"\\u0000"', LONG)
)
LABELS: dict[bytes, str | None] = {
    b"null": "bad_label",
    b"[]": "bad_label",
    b'{"a": 1}': "bad_label",
    b"NaN": "bad_label",
    deep(900): "bad_label",
    b"1e400": None,
    b"9" * 10_000: None,
    b'"\\ud800"': None,
    b'""': None,
    LONG: None,
}


def with_part(good: bytes, part: str, value: bytes) -> bytes:
    """A good event in which a value stands for a part, as bytes that need be no JSON."""
    found = orjson.loads(good) | {part: "HERE"}
    return orjson.dumps(found).replace(b'"HERE"', value)


def parts() -> Iterator[Any]:
    """(kind, part, value, reason)."""
    for kind in GOOD:
        for part, table in (("ts", TIMES), ("model", NAMES), ("id", IDS)):
            for value, reason in table.items():
                own = None if kind == "events" and part == "id" else reason
                if part == "model" and value == b"null":
                    continue  # with two models it is for neither
                yield pytest.param(kind, part, value, own, id=f"{kind}-{part}-{value[:25]!r}")
    for value, reason in NAMES.items():
        if value not in (b'"loans"', b"null"):
            yield pytest.param("events", "version", value, reason, id=f"version-{value[:25]!r}")
    for value, reason in LABELS.items():
        yield pytest.param("labels", "label", value, reason, id=f"label-{value[:25]!r}")
    for value in (b"null", b"[]", b"17", b'"age"'):
        yield pytest.param("events", "features", value, "missing_field", id=f"features-{value!r}")


@pytest.mark.parametrize(("kind", "part", "value", "reason"), [*parts()])
def test_parts_of_any_kind(
    decoders: Decoders, kind: str, part: str, value: bytes, reason: str | None
) -> None:
    payload = with_part(GOOD[kind], part, value)
    wanted = (1, []) if reason is None else (0, [reason])
    assert decoders.alone(kind, payload) == wanted
    # the same bytes as one event of an array
    good = GOOD[kind]
    if len(payload) + 2 * len(good) + 4 <= LIMIT:
        array = b"[" + b",".join([good, payload, good]) + b"]"
        assert decoders.alone(kind, array) == (2 + wanted[0], wanted[1])


VALUES = [
    b"null", b"true", b"-0.0", b"NaN", b"Infinity", b"1e400", b"-1e400", b"9" * 10_000, b'""',
    b'"\\ud800"', b'"\\u0000"', b"[]", b"{}", b'{"a": [NaN]}', LONG, deep(900), b"1e-400",
    b'"' + b"\\u00e9" * 100_000 + b'"',
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value[:25]))
@pytest.mark.parametrize("column", ["age", "channel", "member", "other"])
def test_an_event_survives_whatever_its_features_hold(
    decoders: Decoders, column: str, value: bytes
) -> None:
    features = {"age": 33, "channel": "web", "income": 1.5, "member": True}
    payload = EVENT.replace(
        orjson.dumps(features), with_part(orjson.dumps(features), column, value)
    )
    assert value in payload
    assert decoders.alone("events", payload) == (1, [])


@pytest.mark.parametrize("kind", GOOD)
def test_of_keys_that_come_twice_the_last_counts(decoders: Decoders, kind: str) -> None:
    good = GOOD[kind]
    first = good[:-1] + b',"ts":"never"}'
    last = b'{"ts":"never",' + good[1:]
    assert decoders.alone(kind, first) == (0, ["bad_timestamp"])
    assert decoders.alone(kind, last) == (1, [])
    assert decoders.alone(kind, good[:-1] + b',"ts":[NaN]' * 10_000 + b',"ts":1e9}') == (1, [])


@pytest.mark.parametrize("kind", GOOD)
def test_bytes_that_are_no_utf8_spoil_only_their_event(decoders: Decoders, kind: str) -> None:
    good = GOOD[kind]
    for odd in (b"1", b"NaN"):
        array = b"[" + b",".join([good, b'{"a\xff": "\xed\xa0\x80"}', odd, good]) + b"]"
        taken, reasons = decoders.alone(kind, array)
        assert taken == 2
        assert len(reasons) == 2


@pytest.mark.parametrize("kind", GOOD)
def test_an_array_as_deep_as_can_just_be_read_counts_each_event(
    decoders: Decoders, kind: str
) -> None:
    # how deep that is hangs on the stack, which is another when an event is read alone
    for depth in range(900, 1_000):
        unknown = with_part(GOOD[kind], "other", deep(depth))
        refused = with_part(with_part(GOOD[kind], "ts", b'"never"'), "other", deep(depth))
        taken, reasons = decoders.alone(kind, b"[" + unknown + b"," + refused + b"]")
        assert (taken, len(reasons)) in ((1, 1), (0, 1), (0, 2))


# --- many ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("element", [b"1", b"{}", b"NaN"])
def test_rejects_of_a_record_are_bounded_and_add_up(
    decoders: Decoders, kind: str, element: bytes
) -> None:
    number = 100_000
    array = b"[" + b",".join([element] * number + [GOOD[kind]] * 3) + b"]"
    batches, rejects = decoders.decode(kind, [array, b"[1, 2]"])
    assert sum(map(len, batches)) == 3
    whole = [r for r in rejects if r.record == 0]
    rest = b"[" + b",".join([element] * (number - 10)) + b"]"
    assert [(r.payload, r.count) for r in whole] == [(element, 1)] * 10 + [(rest, number - 10)]
    assert len({r.reason for r in whole}) == 1
    assert whole[-1].detail == "and 99,990 more events of this record like these"
    assert [(r.record, r.payload, r.count) for r in rejects if r.record == 1] == [
        (1, b"1", 1), (1, b"2", 1),
    ]  # fmt: skip


def test_each_reason_of_a_record_has_its_own_rejects(decoders: Decoders) -> None:
    some = [b"1", b'{"ts": "never", "features": {}, "model": "loans"}', b"{}"]
    _, rejects = decoders.decode("events", [b"[" + b",".join(some * 50) + b"]"])
    counts: Counter[str] = Counter()
    for reject in rejects:
        counts[reject.reason] += reject.count
    assert counts["not_an_object"] == counts["bad_timestamp"] == 50
    assert counts.total() == 150
    assert Counter(r.reason for r in rejects if r.count == 1) == dict.fromkeys(counts, 10)


@pytest.mark.parametrize("kind", GOOD)
def test_rejects_of_a_run_are_bounded_and_add_up(decoders: Decoders, kind: str) -> None:
    payloads = [b"[1,2,3]", b"{", b"{}", b"[" + b",".join([b"1"] * 20) + b"]"] * 4_000
    _, rejects = decoders.decode(kind, payloads)
    assert sum(reject.count for reject in rejects) == 25 * 4_000
    assert len(rejects) <= 10_000 + len(REASONS)
    by_reason: Counter[str] = Counter()
    for reject in rejects:
        by_reason[reject.reason] += reject.count
    assert by_reason["not_an_object"] == 23 * 4_000
    assert by_reason["not_json"] == 4_000


def test_an_oversized_record_is_kept_up_to_the_limit(decoders: Decoders) -> None:
    (reject,) = decoders.decode("events", [b"[" + b"1," * LIMIT + b"1]"])[1]
    assert (reject.reason, reject.count) == ("too_large", 1)
    assert reject.payload is not None
    assert len(reject.payload) == LIMIT


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize(
    "stamp", [-1_000, -(2**62), 2**62, 2**63 - 1, -(2**63), 7_258_118_400_000_000]
)
def test_a_record_timestamp_that_is_no_time_closes_no_window(
    decoders: Decoders, kind: str, stamp: int
) -> None:
    batches, rejects = decoders.decode(kind, [GOOD[kind], b"[1]"], stamp=stamp)
    assert not sum(map(len, batches))
    assert [r.reason for r in rejects] == ["bad_timestamp", "not_an_object"]


# --- memory -------------------------------------------------------------------------------------


def peak(kind: str, payloads: list[bytes], *targets: Target) -> tuple[int, int]:
    """Bytes that decoding takes at its most, and that it leaves behind."""
    own = Decoders(*targets)
    own.decode(kind, [GOOD[kind]])
    tracemalloc.start()
    own.decode(kind, payloads)
    left, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most, left


@pytest.mark.parametrize("kind", GOOD)
def test_one_long_text_as_a_time_does_not_widen_all_others(kind: str) -> None:
    good = GOOD[kind]
    most, _ = peak(kind, [good] * 5_000 + [with_part(good, "ts", LONG)], TARGET)
    assert most < 40 * 2**20  # NumPy's text would be 20 GB


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("part", ["model", "version", "label", "id"])
def test_long_names_are_not_remembered(kind: str, part: str) -> None:
    long = "x" * 20_000
    payloads = [with_part(GOOD[kind], part, b'"%d%s"' % (i, long.encode())) for i in range(1_500)]
    any_version = Target("loans", "", TARGET.schema, TARGET.categories)
    _, left = peak(kind, payloads, any_version, SECOND)
    assert left < 2 * 2**20  # all of them are 30 MB


@pytest.mark.parametrize(
    ("kind", "element"),
    [
        ("events", b"1"),
        ("events", b'{"ts":1700000000,"model":"loans","features":{"age":"x"}}'),
        ("labels", b"1"),
        ("labels", b'{"ts":1700000000,"model":"loans","id":true,"label":0}'),
    ],
)
def test_records_of_many_bad_events_take_bounded_memory(kind: str, element: bytes) -> None:
    size = 20_000
    array = b"[" + b",".join([element] * (size // len(element))) + b"]"
    one, _ = peak(kind, [array] * 2, TARGET, SECOND)
    more, _ = peak(kind, [array] * 8, TARGET, SECOND)
    assert more < one + 6 * size * 20  # about 20 bytes for one of input


# --- the pipeline -------------------------------------------------------------------------------


def test_events_that_are_ahead_are_one_reject_a_record(tmp_path: Any) -> None:
    world = worlds.build(tmp_path)
    config = world.config(labels=labels_config())
    watched, windows = watch(config, "test")
    pipeline: Pipeline = opened(config, watched, windows)[0]
    targets = [m.target for m in watched]
    lines = worlds.events(300, 3)
    labels = [orjson.dumps(label(id=i, ts=worlds.START + 10 * i)) for i in range(300)]
    stamps = np.array([worlds.START * 1_000_000, (worlds.START + 10**6) * 1_000_000])
    events = NativeDecoder(config.mapping, targets, LIMIT)
    late = LabelDecoder(LabelMapping(), {"loans": False}, LIMIT)
    for kind, some in (("events", lines), ("labels", labels)):
        array = b"[" + b",".join(some) + b"]"
        records = Records("p:0", [array, b"[1]"], ["a", "b"], "2", stamps, np.arange(2))
        partition = Partition("p:0")
        if kind == "events":
            decoded = events.decode(records)
            for batch in decoded.batches.values():
                batch.origin = np.zeros(len(batch), dtype=np.uint64)
            rejects = pipeline.ingest(partition, decoded)
        else:
            joined = late.decode(records)
            for own in joined.batches.values():
                own.origin = np.zeros(len(own), dtype=np.uint64)
            rejects = pipeline.ingest_labels(partition, joined)
        skewed = [r for r in rejects if r.reason == "clock_skew"]
        # 5 minutes are allowed: 31 of the events, which are 10 s apart, are not further ahead
        assert [(r.record, r.count, r.payload) for r in skewed] == [(0, 300 - 31, None)]
        assert partition.counters["rejected"] == {"clock_skew": 269, "not_an_object": 1}
