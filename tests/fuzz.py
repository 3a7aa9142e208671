"""Fuzzes the decoders, the pipeline and the service with mutated events and labels.

``python -m tests.fuzz --payloads 1000000 [--seed 7] [--wire]`` runs as many as asked for: in this
process, or with ``--wire`` through a real Kafka into the real service. What must hold:

- nothing raises;
- of every payload, as many events are accepted, late, expired or rejected as it holds. That number
  (:func:`held`) is the length of the list that Python's own json reads, or how many values it reads
  one after the other; of Arrow the rows that pyarrow finds in order; else one. Four things are
  defined in addition: numbers of any size are numbers; bytes that are no UTF-8 spoil only the
  element in which they stand, for the others are as good as before; what is no JSON is as many
  events as it has lines, if a line looks like an object; and beyond the limits nobody looks, it is
  one event. NaN and Infinity are read by Python, repeated keys change no count;
- the state and the process stay as large as they were after a warm-up.

A failure names the payload; the same seed gives it again.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from kafka import KafkaProducer
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from stream_monitor.config.model import Config
from stream_monitor.decode.labels import LabelDecoder
from stream_monitor.decode.native import NativeDecoder
from stream_monitor.decode.rejects import REASONS
from stream_monitor.labels.join import TOLD
from stream_monitor.labels.rows import origins
from stream_monitor.panes.partition import Partition
from stream_monitor.sources.base import Records
from stream_monitor.values import rfc3339
from stream_monitor.watch import watch
from tests import worlds
from tests.kafka_broker import ExternalBroker, KafkaBroker, create_topic
from tests.late import opened
from tests.service import Service

LIMIT = 64 * 1_024  # bytes of a record
BATCH = 500
ERA = 2_000  # payloads until the clock goes on by an hour, and new ids come
HOUR = 3_600
# bytes that a process may grow after a third of the payloads, however many they are; a limit that
# is worked out for the first time takes 20 MiB
GROWTH = 32 * 2**20
KINDS = ("events", "labels")
DEEP = 3_000  # far more than anybody reads; what is nested so deep is one event

Sent = tuple[str, bytes, int]  # kind, payload, record timestamp in microseconds


# --- what is sent -------------------------------------------------------------------------------

TOKENS = [
    b"[", b"]", b"{", b"}", b'"', b",", b":", b"null", b"true", b"NaN", b"-Infinity", b"1e999",
    b"-0.0", b"1e-999", b"9" * 25, b"9" * 5_000, b"\\u0000", b"\\ud800", b"\\ud83d\\ude00", b"\\q",
    b"\0", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\n", b" ", b"/*", b"'",
    b"[]", b"{}", b'""', b"[1,1]", b'{"ts":', b'"features":{}', b'"id":[]', b'"ts":"never"',
    b"[" * 60 + b"]" * 60, b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP, b"1970-01-01T00:00:00Z",
    b'"300000-01-01T00:00:00Z"', b"-62135596800", b"x" * 300,
]  # fmt: skip
NUMBERS = [
    b"0", b"-1", b"1", b"1e308", b"1e999", b"-1e999", b"9223372036854775808", b"1700006400000",
    b"1700006400000000", b"0.1", b"1e-320", b"NaN", b"00", b"1.", b"4102444800", b'"7"', b"null",
]  # fmt: skip
DIGITS = b"0123456789"


def seeds(seed: int, later: int) -> dict[str, list[list[bytes]]]:
    """Good payloads of each kind, in corpora that differ in their shape, so many seconds later."""
    rng = Random(seed)  # noqa: S311 - a seeded test, no secret
    events = [orjson.loads(line) for line in worlds.events(200, seed, seconds=1.0)]
    for event in events:
        event["ts"] += later
    labels = [
        {"id": e["id"], "model": "loans", "ts": e["ts"] + rng.random() * 60, "label": e["label"]}
        for e in events
    ]

    def lines(found: Iterable[Any]) -> list[bytes]:
        return [orjson.dumps(one) for one in found]

    def arrays(found: list[Any]) -> list[bytes]:
        return lines([rng.sample(found, rng.randrange(12)) for _ in range(60)])

    def ndjson(found: list[Any]) -> list[bytes]:
        return [b"\n".join(lines(rng.sample(found, rng.randrange(1, 12)))) for _ in range(60)]

    def arrow(found: list[Any]) -> list[bytes]:
        some = (rng.sample(found, rng.randrange(1, 12)) for _ in range(60))
        return [written(part, rng.choice([None, None, "zstd", "lz4"])) for part in some]

    def flat(name: str) -> Iterator[Any]:
        return ({k: v for k, v in e.items() if k != name} for e in events)

    iso = [e | {"ts": rfc3339(round(e["ts"] * 1e6) + 5)} for e in events]
    odd = [e | {"features": e["features"] | {"age": "33", "channel": [1], "other": {"a": [{}]}}}
           for e in events]  # fmt: skip
    unseen = [e | {"features": e["features"] | {"channel": f"kiosk {i} é😀"}}
              for i, e in enumerate(events)]  # fmt: skip
    feedback = [{"response": {"meta": {"puid": e["id"]}}, "truth": {"data": {"ndarray": [[1]]}}}
                for e in events]  # fmt: skip
    foreign = [b"", b"null", b"17", b'"text"', b"[]", b"[[]]", b"{}", b"<html>", b"a,b\n1,2",
               b"\x00\x00\x00\x00\x01\x02loans", bytes(range(256))]  # fmt: skip
    return {
        "events": [
            lines(events), lines(flat("id")), lines(flat("version")), lines(iso), lines(odd),
            lines(unseen), arrays(events), arrays([*odd, *iso]), lines(labels), foreign,
            [json.dumps(e, indent=1).encode() for e in events], ndjson(events),
            ndjson([*odd, *iso]), arrow(events), arrow(unseen),
        ],
        "labels": [
            lines(labels), lines({**one, "id": i} for i, one in enumerate(labels)),
            lines({k: v for k, v in one.items() if k != "model"} for one in labels),
            lines(one | {"label": str(one["label"])} for one in labels), arrays(labels),
            lines(feedback), lines(events), foreign, ndjson(labels), arrow(labels),
            lines(one | {"ts": rfc3339(round(one["ts"] * 1e6))} for one in labels),
        ],
    }  # fmt: skip


def written(found: list[Any], compression: str | None) -> bytes:
    """As an Arrow stream."""
    rows = pa.Table.from_pylist(found)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, rows.schema, options=options) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


class Mutator:
    """Draws payloads; a pure function of the seed."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed)  # noqa: S311 - a seeded test, no secret
        self._seed = seed
        self._number = 0
        self._corpora: dict[str, list[list[bytes]]] = {}
        self._mutations: list[Callable[[bytes, str], bytes]] = [
            self._flip, self._flip, self._cut, self._splice, self._insert, self._insert,
            self._number_for, self._number_for, self._repeat, self._drop, self._array, self._again,
            self._encode, self._blow,
        ]  # fmt: skip

    def draw(self, count: int) -> list[Sent]:
        """The next payloads, of both kinds."""
        rng = self._rng
        found = []
        for _ in range(count):
            if self._number % ERA == 0:
                self._corpora = seeds(self._seed + self._number, self._number // ERA * HOUR)
            kind = KINDS[rng.random() < 0.3]
            payload = self._good(kind)
            while rng.random() < 0.6:
                payload = rng.choice(self._mutations)(payload, kind)[: 2 * LIMIT]
            self._number += 1
            found.append((kind, payload, self._stamp()))
        return found

    def _stamp(self) -> int:
        stamp = (worlds.START + self._number // ERA * HOUR + 60) * 1_000_000 + self._number
        chance = self._rng.random()
        if chance < 0.97:
            return stamp
        if chance < 0.99:
            return stamp - self._rng.randrange(2 * 3_600_000_000)
        return self._rng.choice([-1_000, 0, 2**62, -(2**63), 2**63 - 1_000])

    def _good(self, kind: str) -> bytes:
        return self._rng.choice(self._rng.choice(self._corpora[kind]))

    def _place(self, payload: bytes) -> int:
        return self._rng.randrange(len(payload) + 1)

    def _flip(self, payload: bytes, _kind: str) -> bytes:
        if not payload:
            return payload
        found = bytearray(payload)
        for _ in range(self._rng.choice([1, 1, 1, 2, 8])):
            found[self._rng.randrange(len(found))] ^= 1 << self._rng.randrange(8)
        return bytes(found)

    def _cut(self, payload: bytes, _kind: str) -> bytes:
        at = self._place(payload)
        return payload[:at] if self._rng.random() < 0.7 else payload[at:]

    def _splice(self, payload: bytes, kind: str) -> bytes:
        other = self._good(kind)
        return payload[: self._place(payload)] + other[self._place(other) :]

    def _insert(self, payload: bytes, _kind: str) -> bytes:
        at = self._place(payload)
        return payload[:at] + self._rng.choice(TOKENS) + payload[at:]

    def _number_for(self, payload: bytes, _kind: str) -> bytes:
        """Another number for one."""
        at = self._place(payload)
        while at < len(payload) and payload[at] not in DIGITS:
            at += 1
        end = at
        while end < len(payload) and payload[end] in b"0123456789.eE+-":
            end += 1
        return payload[:at] + self._rng.choice(NUMBERS) + payload[end:]

    def _repeat(self, payload: bytes, _kind: str) -> bytes:
        start = self._place(payload)
        piece = payload[start : start + self._rng.choice([1, 5, 40])]
        return payload[:start] + piece * self._rng.choice([2, 3, 50]) + payload[start:]

    def _drop(self, payload: bytes, _kind: str) -> bytes:
        start = self._place(payload)
        return payload[:start] + payload[start + self._rng.choice([1, 2, 20]) :]

    def _array(self, payload: bytes, kind: str) -> bytes:
        """A record of many: itself, good ones, and the smallest that there are."""
        some = [payload, self._good(kind), *self._rng.sample([b"1", b"NaN", b"{}", b"null"], 2)]
        count = self._rng.choice([1, 2, 5, 30])
        return b"[" + b",".join(self._rng.choices(some, k=count)) + b"]"

    def _again(self, payload: bytes, _kind: str) -> bytes:
        """A key that comes twice."""
        key = self._rng.choice([b"ts", b"id", b"features", b"model", b"label", b"a"])
        value = self._rng.choice([b"1", b"null", b"[]", b'"x"', b"{}", b"NaN", b"1700006400"])
        return payload.replace(b"{", b'{"' + key + b'":' + value + b",", 1)

    def _encode(self, payload: bytes, _kind: str) -> bytes:
        choice = self._rng.randrange(8)
        if choice == 0:
            return gzip.compress(payload, mtime=0)
        if choice == 1:
            return b"\xef\xbb\xbf" + payload
        if choice in (2, 3, 4):
            text = payload.decode(errors="replace")
            return text.encode(["utf-16", "utf-16-le", "utf-32-be"][choice - 2])
        return b" \n\t" + payload + b"\r\n"

    def _blow(self, payload: bytes, _kind: str) -> bytes:
        if self._rng.random() < 0.97:
            return payload
        return payload + b" " * LIMIT


def held(payload: bytes) -> int:
    """How many events a payload holds; see the module."""
    if len(payload) > LIMIT:
        return 1
    if payload[:4] == b"\xff\xff\xff\xff" or payload[:6] == b"ARROW1":
        return _rows(payload[8:] if payload[:6] == b"ARROW1" else payload)
    try:
        encoding = json.detect_encoding(payload)
        errors = "surrogateescape" if encoding.startswith("utf-8") else "surrogatepass"
        values = [*_values(payload.decode(encoding, errors))]
    except (ValueError, RecursionError):
        values = []
    if len(values) == 1 and isinstance(values[0], list):
        return len(values[0])
    if not values and payload.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1] != b"[":
        lines = [line.strip() for line in payload.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
        if any(line.startswith(b"{") and line.endswith(b"}") for line in lines):
            return sum(map(bool, lines))
    if values and isinstance(values[0], list):
        return 1  # more than an array
    return max(len(values), 1)


def _values(text: str) -> Iterator[Any]:
    decoder, white = json.JSONDecoder(parse_int=str, parse_float=str), " \t\n\r"
    text = text.strip(white)
    while text:
        value, end = decoder.raw_decode(text)
        yield value
        text = text[end:].lstrip(white)


def _rows(payload: bytes) -> int:
    try:
        table = pa.ipc.open_stream(payload).read_all()
        table.validate(full=True)
        rows = int(table.num_rows)
    except (pa.ArrowException, OSError, ValueError):
        return 1
    return 1 if rows > LIMIT // 8 or (rows and not table.num_columns) else rows


# --- in this process ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the payloads; bytes of the process and of the state, warm and at the end."""

    payloads: int
    events: int
    counts: Counter[str]
    resident: tuple[int, int]
    state: tuple[int, int]
    seconds: float

    def bounded(self) -> Outcome:
        """Itself; AssertionError where process or state have grown since the warm-up."""
        (warm, end), (state, later) = self.resident, self.state
        assert end < warm + GROWTH, f"the process grew: {self}"
        assert later < state * 1.2 + 10_000, f"the state grew: {self}"
        return self

    def __str__(self) -> str:
        shares = ", ".join(f"{n:,} {what}" for what, n in sorted(self.counts.items()) if n)
        (warm, end), (state, later) = self.resident, self.state
        return (
            f"{self.payloads:,} payloads, {self.events:,} events: {shares}; no exception, none "
            f"lost; RSS {warm >> 20} → {end >> 20} MiB, state {state >> 10} → {later >> 10} KiB; "
            f"{self.seconds:.0f} s"
        )


def resident() -> int:
    """Bytes of this process in memory now."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4_096


class Fuzzed:
    """Decoders and a pipeline that take what the mutator draws, and the books of it."""

    def __init__(self, config: Config, folder: Path) -> None:
        watched, windows = watch(config, "fuzz")
        self.pipeline, _ = opened(config, watched, windows, folder=folder)
        assert config.labels is not None
        self._events = NativeDecoder(config.mapping, [m.target for m in watched], LIMIT)
        self._labels = LabelDecoder(config.labels.mapping, {"loans": False}, LIMIT)
        self.pipeline.partitions["events:0"] = Partition("events:0")
        self.pipeline.label_partitions["truth:0"] = Partition("truth:0")
        self._offset = 0
        self.sent: Counter[str] = Counter()

    def feed(self, some: list[Sent]) -> None:
        """Hand payloads to the pipeline, events first."""
        for kind in KINDS:
            own = [(payload, stamp) for k, payload, stamp in some if k == kind]
            if own:
                self._take(kind, own)
                assert self.counted(kind) == self.sent[kind], f"{kind} do not add up"
        self.pipeline.close()
        for join in self.pipeline.joins.values():
            join.prepare()
            join.committed()

    def _take(self, kind: str, own: list[tuple[bytes, int]]) -> None:
        n = len(own)
        payloads = [payload for payload, _ in own]
        records = Records(
            "events:0" if kind == "events" else "truth:0",
            payloads,
            [""] * n,
            "end",
            np.array([stamp for _, stamp in own], dtype=np.int64),
            np.arange(self._offset, self._offset + n),
        )
        self._offset += n
        wanted = [*map(held, payloads)]
        self.sent[kind] += sum(wanted)
        partition = (self.pipeline.partitions | self.pipeline.label_partitions)[records.partition]
        decoded: Any = (self._events if kind == "events" else self._labels).decode(records)
        found = Counter(r for batch in decoded.batches.values() for r in batch.record.tolist())
        for reject in decoded.rejects:
            found[reject.record] += reject.count
        for i, number in enumerate(wanted):
            assert found[i] == number, f"{found[i]} events, not {number}, in {payloads[i]!r}"
        for batch in decoded.batches.values():
            batch.origin = origins(0, records.offsets, batch.record)
        if kind == "events":
            rejects = self.pipeline.ingest(partition, decoded)
        else:
            rejects = self.pipeline.ingest_labels(partition, decoded)
        for reject in rejects:
            assert reject.reason in REASONS
            assert len(reject.detail) <= 300

    def counts(self, kind: str) -> Counter[str]:
        """What became of the events or the labels so far."""
        partitions = [*self.pipeline.partitions.values()]
        told = ["accepted", "late", "expired", "rejected"]
        if kind == "labels":
            told = ["rejected", *(what for what in TOLD if what.startswith("labels_"))]
            partitions = [*self.pipeline.label_partitions.values(),
                          *(join.partition for join in self.pipeline.joins.values())]  # fmt: skip
        return Counter(
            {what: sum(p.counters.get(what, Counter()).total() for p in partitions)
             for what in told}
        )  # fmt: skip

    def counted(self, kind: str) -> int:
        return self.counts(kind).total()

    def state(self) -> int:
        """Bytes of all panes, sketches and counters."""
        partitions = (
            *self.pipeline.partitions.values(), *self.pipeline.label_partitions.values(),
            *(join.partition for join in self.pipeline.joins.values()),
        )  # fmt: skip
        return sum(
            sum(
                pane.counts.nbytes + sum(len(s.to_bytes()) for s in pane.sketches.values())
                for pane in partition.panes.values()
            )
            + sum(len(key) + 8 for counter in partition.counters.values() for key in counter)
            for partition in partitions
        )


def configured(world: worlds.World, **sections: Any) -> Config:
    """A configuration in which events bring no labels of their own, so that labels add up."""
    return world.config(**settings(**sections))


def settings(**sections: Any) -> dict[str, Any]:
    """The sections of that configuration."""
    return {
        "mapping": {"label": "nowhere.to.be.found"},
        "labels": {"maturities": ["10m", "1h"], "allowed_lateness": "2h"},
        "limits": {"max_record_size": f"{LIMIT >> 10}KiB", "max_rejected": 1.0},
        "time": {"allowed_lateness": "10m", "allowed_skew": "5m"},
    } | sections


def fuzz(world: worlds.World, payloads: int, seed: int, progress: Callable[[int], None]) -> Outcome:
    """Feed so many payloads; AssertionError where something does not hold."""
    began = time.monotonic()
    mutator = Mutator(seed)
    with TemporaryDirectory() as folder:
        fuzzed = Fuzzed(configured(world), Path(folder))
        warm = max(payloads // 3 // BATCH, 1) * BATCH
        most = state = before = done = 0
        while done < payloads:
            some = mutator.draw(min(BATCH, payloads - done))
            try:
                fuzzed.feed(some)
            except Exception as error:
                number = f"payloads {done} to {done + len(some)} of seed {seed}"
                raise AssertionError(f"{number}: {_offender(world, some)}: {error}") from error
            done += len(some)
            if done <= warm:
                before, state = resident(), max(state, fuzzed.state())
            elif done % (50 * BATCH) == 0 or done >= payloads:
                most = max(most, fuzzed.state())
            progress(len(some))
        counts = fuzzed.counts("events") + fuzzed.counts("labels")
        return Outcome(
            done, sum(fuzzed.sent.values()), counts, (before, resident()), (state, most),
            time.monotonic() - began,
        ).bounded()  # fmt: skip


def _offender(world: worlds.World, some: list[Sent]) -> str:
    """Which of the payloads fails alone."""
    for sent in some:
        with TemporaryDirectory() as folder:
            try:
                Fuzzed(configured(world), Path(folder)).feed([sent])
            except Exception as error:
                return f"{sent!r} alone: {type(error).__name__}: {error}"
    return "none of them fails alone"


# --- over the wire ------------------------------------------------------------------------------

_METRICS = (
    "events_total", "events_late_total", "events_expired_total", "events_rejected_total",
    "labels_total", "labels_without_prediction",
)  # fmt: skip
_LOST = "stream_monitor_records_lost_total"
_PATIENCE = 120.0  # seconds without any progress


def fuzz_wire(
    broker: KafkaBroker | ExternalBroker,
    folder: Path,
    payloads: int,
    seed: int,
    progress: Callable[[int], None],
) -> Outcome:
    """The same through Kafka into the service, whose world is built in the folder."""
    began = time.monotonic()
    mutator = Mutator(seed)
    worlds.build(folder)
    name = f"fuzz-{time.time_ns()}"
    for topic, partitions in ((name, 3), (f"{name}-labels", 2)):
        create_topic(broker, topic, partitions=partitions)
    kafka = {"type": "kafka", "bootstrap_servers": broker.bootstrap_servers}
    config = worlds.raw_config(
        source=kafka | {"topics": [name], "group_id": name},
        **settings(
            labels={
                "source": {"type": "kafka", "topics": [f"{name}-labels"]},
                "maturities": ["10m", "1h"],
                "allowed_lateness": "2h",
            }
        ),
    )
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    refused: list[BaseException] = []
    sent, memory, state, counts = 0, [0, 0, 0], [0, 0, 0], Counter[str]()
    with Service(folder, config) as service:
        for part in range(3):
            for i in range(payloads * part // 3, payloads * (part + 1) // 3):
                ((kind, payload, stamp),) = mutator.draw(1)
                sent += held(payload)
                topic = name if kind == "events" else f"{name}-labels"
                # a broker takes no timestamps that cannot be
                millisecond = max(stamp, 0) // 1_000 if stamp < 2**60 else 0
                producer.send(
                    topic, payload, key=payload[:9] or None, headers=[("h", payload[-9:])],
                    partition=i % 2, timestamp_ms=millisecond,
                ).add_errback(refused.append)  # fmt: skip
                progress(1)
            producer.flush()
            assert not refused, f"the broker refused {len(refused)} records: {refused[0]!r}"
            counts = _settled(service, sent)
            assert not service.metric(_LOST), "records were deleted before they were read"
            memory[part] = int(service.metric("process_resident_memory_bytes"))
            state[part] = int(service.metric("stream_monitor_state_bytes"))
        producer.close()
        assert service.text("/-/healthy").strip() == "healthy"
        assert service.stop() == 0
    seconds = time.monotonic() - began
    (_, warm, end), (_, before, after) = memory, state
    return Outcome(payloads, sent, counts, (warm, end), (before, after), seconds).bounded()


def _settled(service: Service, sent: int) -> Counter[str]:
    """The service's counters as soon as they add up to what was sent."""
    counts, total, since = Counter[str](), -1, time.monotonic()
    while total != sent:
        counts = Counter({what: int(service.metric(f"stream_monitor_{what}")) for what in _METRICS})
        if counts.total() != total:
            total, since = counts.total(), time.monotonic()
        if time.monotonic() - since > _PATIENCE:
            raise AssertionError(
                f"{total} of {sent} events counted: {counts}\n{service.log()[-3000:]}"
            )
        time.sleep(0.2)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--payloads", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--wire", action="store_true", help="through Kafka, into the service")
    arguments = parser.parse_args()
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with TemporaryDirectory() as text, Progress(*columns, transient=True) as bar:
        task = bar.add_task("payloads", total=arguments.payloads)
        folder = Path(text)

        def advance(number: int) -> None:
            bar.advance(task, number)

        if arguments.wire:
            broker = KafkaBroker()
            broker.start()
            try:
                outcome = fuzz_wire(broker, folder, arguments.payloads, arguments.seed, advance)
            finally:
                broker.stop()
        else:
            world = worlds.build(folder)
            outcome = fuzz(world, arguments.payloads, arguments.seed, advance)
    print(outcome)
    return 0


if __name__ == "__main__":
    sys.exit(main())
