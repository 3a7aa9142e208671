"""Run benchmarks and write ``docs/performance.md``: ``python -m tests.bench [NAME …]``.

Each name is a module of :mod:`tests.bench` with a function ``measure``. Without one all are run,
which takes long. What was measured goes to ``docs/performance.json``, so that a part can be
measured anew, and from there into the tables and the picture of ``docs/performance.md``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from datetime import UTC, datetime

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tests.bench import report
from tests.bench.lines import Section

NAMES = (
    "pipeline", "records", "half_space_trees", "kafka", "rebalance", "replicas", "memory", "peers",
    "costs",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--render", action="store_true", help="only write the page anew")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    found = report.read()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns) as progress:
        for name in () if options.render else options.names or NAMES:
            task = progress.add_task(name, total=None)
            module = importlib.import_module(f"tests.bench.{name}")

            def tell(what: str, name: str = name, task: object = task) -> None:
                progress.update(task, description=f"{name}: {what}")  # type: ignore[arg-type]

            section: Section = module.measure(tell)
            section.machine, section.date = report.machine(), f"{datetime.now(UTC):%Y-%m-%d}"
            found[name] = section
            report.write(found)  # so that what comes after may fail
            progress.update(task, description=f"{name}: done", total=1, completed=1)
    report.render(found, NAMES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
