"""Count a file of events in a fresh process: ``python -m tests.bench.one_case CONFIG EVENTS``.

The last events fill one pane each, all others lie in one; see :mod:`tests.bench.costs`. Prints what
it took as JSON.
"""

from __future__ import annotations

import itertools
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import msgspec
import numpy as np

from stream_monitor.checks import read_config
from stream_monitor.intake import Intake
from stream_monitor.pipeline import Pipeline
from stream_monitor.sources.base import Places, Records
from stream_monitor.watch import watch
from tests.bench import world

BATCH = 2_000
PANES = 30
EVALUATIONS = 3
_NAME = "events:0"


class Taken(msgspec.Struct):
    """What a case took.

    Attributes
    ----------
    count, evaluate
        Seconds of the processor for an event, decoded and counted; and for all windows once.
    resident, pane
        Bytes: of the process with 30 panes, and of all counts of one pane.
    """

    count: float
    evaluate: float
    resident: int
    pane: int


def main(place: Path, events: Path) -> None:
    config = read_config(place)
    watched, windows = watch(config, str(place))
    pipeline = Pipeline(watched, windows, config)
    intake = Intake(config, watched, pipeline, None, timed=lambda _step: nullcontext())
    intake.begin({_NAME: None})
    spent = []
    for records in _batches(events):
        began = time.process_time()
        intake.take(records)
        if len(records.payloads) == BATCH:
            spent.append((time.process_time() - began) / BATCH)
    evaluations = []
    for _ in range(EVALUATIONS):
        began = time.process_time()
        pipeline.publisher.filling(judged=True)
        evaluations.append(time.process_time() - began)
    sizes: Counter[int] = Counter()
    for key, pane in pipeline.partitions[_NAME].panes.items():
        sizes[key.number] += pane.counts.nbytes
    status = Path("/proc/self/status").read_text(encoding="ascii")
    resident = re.search(r"VmRSS:\s+(\d+) kB", status)
    taken = Taken(
        statistics.median(spent),
        statistics.median(evaluations),
        int(resident[1]) * 1_024 if resident else 0,
        max(sizes.values()),
    )
    sys.stdout.write(msgspec.json.encode(taken).decode())


def _batches(events: Path) -> Iterator[Records]:
    """Lines of a file, 2,000 at a time; only these are in memory."""
    with events.open("rb") as lines:
        numbers = itertools.count()
        while payloads := [line[:-1] for line in itertools.islice(lines, BATCH)]:
            offsets = list(itertools.islice(numbers, len(payloads)))
            stamp = int((world.START + 60 * PANES) * 1e6)
            yield Records(
                _NAME,
                payloads,
                Places("events@{}", offsets),
                str(offsets[-1] + 1),
                np.full(len(payloads), stamp, dtype=np.int64),
                np.array(offsets, dtype=np.int64),
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
