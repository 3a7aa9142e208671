"""Records of many events beside one event a record: decoding alone, and all that follows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from stream_monitor.config.model import Config
from stream_monitor.decode.native import NativeDecoder
from stream_monitor.sources.base import Records
from stream_monitor.watch import watch
from tests.bench import world
from tests.bench.lines import Line, Section, Tell, microseconds, turns
from tests.bench.pipeline import Bench

EVENTS = 100_000
A_POLL = 10_000  # events
PAIRS = 9
LIMITS = {"memory": "256GiB", "max_record_size": "8MiB"}

Events = Sequence[dict[str, Any]]


def array(events: Events) -> bytes:
    return orjson.dumps([*events])


def lines(events: Events) -> bytes:
    return b"\n".join(map(orjson.dumps, events))


def arrow(events: Events) -> bytes:
    table = pa.Table.from_pylist([*events])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


FORMS: tuple[tuple[str, Callable[[Events], bytes], int, float | None], ...] = (
    ("a JSON array of 1,000", array, 1_000, None),
    ("NDJSON of 1,000", lines, 1_000, None),
    ("Arrow, 100 rows", arrow, 100, None),
    ("Arrow, 1,000 rows", arrow, 1_000, None),
    ("Arrow, 10,000 rows", arrow, 10_000, 8.0),
)


def measure(tell: Tell) -> Section:
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), events=EVENTS, limits=LIMITS)
        events = [orjson.loads(payload) for payload in bench.payloads]
        decode = Decode(bench.config())
        found = []
        for what, pack, size, least in FORMS:
            packed = [pack(events[i : i + size]) for i in range(0, EVENTS, size)]
            batch = A_POLL // size
            tell(what)
            for told, ours, theirs, target in (
                (
                    f"{what}: decoding",
                    lambda p=packed, b=batch: decode(p, b),
                    lambda: decode(bench.payloads, A_POLL),
                    least,
                ),
                (
                    f"{what}: the whole pipeline",
                    lambda p=packed, b=batch: bench.run(b, payloads=p),
                    lambda: bench.run(A_POLL),
                    None,
                ),
            ):
                mine, other = turns(ours, theirs, number=PAIRS, units=EVENTS, tell=tell)
                found.append(
                    Line(
                        what=told,
                        baseline="the same of a JSON object a record",
                        unit="µs an event",
                        ours=microseconds(mine),
                        theirs=microseconds(other),
                        least=target,
                        gain=True,
                    )
                )
    return Section(
        title="Records of many events", command="python -m tests.bench records", lines=found
    )


class Decode:
    """Seconds of the processor that it takes to decode records, so many at a time."""

    def __init__(self, config: Config) -> None:
        watched, _ = watch(config, "bench")
        limit = config.limits.max_record_size
        self._decoder = NativeDecoder(config.mapping, [m.target for m in watched], limit)

    def __call__(self, payloads: Sequence[bytes], batch: int) -> float:
        began = time.process_time()
        for start in range(0, len(payloads), batch):
            some = payloads[start : start + batch]
            stamps = np.full(len(some), world.START * 10**6)
            self._decoder.decode(Records("memory", some, [""] * len(some), "", stamps))
        return time.process_time() - began
