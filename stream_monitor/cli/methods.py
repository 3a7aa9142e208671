"""``methods``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from math import isinf

from rich.console import Console
from rich.table import Table

from stream_monitor.alerts import unexplained
from stream_monitor.cli.common import Commands, command
from stream_monitor.methods import REGISTRY
from stream_monitor.methods.base import Definition
from stream_monitor.methods.evaluate import ROWS_COUNT
from stream_monitor.methods.outcomes.base import OUTCOMES
from stream_monitor.methods.sequential import estimate


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = command(
        commands,
        "methods",
        _run,
        summary="list everything that can be measured, and where it is chosen",
        example="stream-monitor methods --family drift",
    )
    parser.add_argument("--family", choices=sorted({d.family for _, d in definitions()}))


def definitions() -> Iterator[tuple[str, Definition]]:
    """Every definition, with the configuration's key under which it is chosen."""
    yield "always", ROWS_COUNT
    for metric, method in REGISTRY.drift.items():
        continuous = any(kind.value == "continuous" for kind in method.kinds)
        categorical = any(kind.value != "continuous" for kind in method.kinds)
        keys = ["continuous"] * continuous + ["categorical"] * categorical
        yield " ".join(f"methods.{key}: {metric}" for key in keys), method.definition
    for metric, share in REGISTRY.share.items():
        quality = share.definition.family == "quality"
        yield f"methods.quality: {metric}" if quality else "methods.outliers", share.definition
    for row in REGISTRY.row.values():
        yield "methods.outliers", row.definition
    for name, block in REGISTRY.block.items():
        yield from ((f"methods.blocks: {name}", d) for d in block.definitions)
    for name, sketch in REGISTRY.sketch.items():
        yield from ((f"methods.blocks: {name}", d) for d in sketch.definitions)
    for outcome in OUTCOMES.values():
        yield from (("labels", d) for d in outcome.definitions)
    yield from (("labels", d) for d in estimate.DEFINITIONS)
    yield "always", unexplained.DEFINITION


def _run(arguments: argparse.Namespace) -> int:
    table = Table(title="metrics", title_justify="left")
    for heading in ("family", "metric", "range", "chosen by", "meaning"):
        table.add_column(heading, overflow="fold")
    for key, definition in sorted(definitions(), key=lambda pair: pair[1].family):
        if arguments.family in (None, definition.family):
            low, high = (_bound(x) for x in (definition.low, definition.high))
            table.add_row(
                definition.family, definition.metric, f"{low} … {high}", key, definition.help
            )
    Console().print(table)
    return 0


def _bound(value: float) -> str:
    return ("∞" if value > 0 else "−∞") if isinf(value) else f"{value:g}"
