"""``check-config``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from stream_monitor.checks import read_config
from stream_monitor.cli.common import Commands, command, config_option
from stream_monitor.config.budget import OutcomeBudget
from stream_monitor.config.units import format_size
from stream_monitor.watch import budgets, watch
from stream_monitor.watch_outcome import outcome_budgets, watch_outcomes


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = command(
        commands,
        "check-config",
        _run,
        summary="check a configuration and its references, and print the worst case in bytes",
        example="stream-monitor check-config --config monitor.yaml",
    )
    config_option(parser)


def _run(arguments: argparse.Namespace) -> int:
    config = read_config(arguments.config, serves=True)
    watched, windows = watch(config, str(arguments.config))
    table = Table(title="worst case")
    for heading in ("model", "slots a pane", "panes", "in memory", "on disk", "a commit"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for b in budgets(config, watched, windows):
        table.add_row(
            b.model,
            f"{b.slots:,}",
            f"{b.panes:,}",
            format_size(b.memory),
            format_size(b.disk),
            format_size(b.commit),
        )
    console = Console()
    console.print(table)
    outcomes = watch_outcomes(config, watched, windows, str(arguments.config))
    if outcomes is not None:
        console.print(_outcomes(outcome_budgets(config, outcomes.joined, windows)))
    console.print(f"{arguments.config}: fine (limits.memory {format_size(config.limits.memory)})")
    return 0


def _outcomes(budgets: Sequence[OutcomeBudget]) -> Table:
    """What labels that come late need."""
    table = Table(title="late labels, worst case")
    for heading in ("model", "panes", "stored predictions", "in memory", "on disk"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for b in budgets:
        table.add_row(
            b.model,
            f"{b.panes:,}",
            f"{b.predictions:,}",
            format_size(b.memory),
            format_size(b.disk),
        )
    return table
