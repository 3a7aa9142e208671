"""``reference build`` and ``reference show``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stream_monitor.cells import Cells
from stream_monitor.checks import read_config
from stream_monitor.cli.common import (
    Commands,
    command,
    config_option,
    messages,
    output_file,
    progress_bar,
)
from stream_monitor.config.model import Config, ModelConfig
from stream_monitor.config.units import format_size
from stream_monitor.errors import ProfileError
from stream_monitor.methods import REGISTRY
from stream_monitor.reference.build import build_profile
from stream_monitor.reference.profile import Profile, load, save
from stream_monitor.schema import Role
from stream_monitor.tables import expand

_SHOWN_CATEGORIES = 4


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    group = commands.add_parser("reference", help="build or show a reference profile")
    parts = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    build = command(
        parts,
        "build",
        _build,
        summary="build a model's reference profile from training or validation data",
        example="stream-monitor reference build train/*.parquet --config monitor.yaml "
        "--output model.ref",
    )
    build.add_argument("data", nargs="+", metavar="DATA", help="Parquet, CSV or JSONL files")
    config_option(build)
    build.add_argument(
        "--output", type=output_file, required=True, metavar="REF", help="file to write"
    )
    build.add_argument("--model", help="which of the configured models; default: the only one")
    build.add_argument("--model-version", help="which of its versions; default: the only one")
    show = command(
        parts,
        "show",
        _show,
        summary="print a reference profile as a table",
        example="stream-monitor reference show model.ref",
    )
    show.add_argument("reference", type=Path, metavar="REF")


def _build(arguments: argparse.Namespace) -> int:
    config = read_config(arguments.config)
    model = _chosen(config, arguments.model, arguments.model_version)
    paths = expand(arguments.data)
    with progress_bar() as progress:
        profile = build_profile(
            paths,
            config,
            model=model.name,
            version=model.version,
            registry=REGISTRY,
            progress=progress,
        )
    save(profile, arguments.output)
    messages().print(
        f"wrote {arguments.output}: {profile.rows:,} rows, {len(profile.schema.columns)} columns, "
        f"{format_size(arguments.output.stat().st_size)}, fingerprint {profile.fingerprint}"
    )
    return 0


def _chosen(config: Config, name: str | None, version: str | None) -> ModelConfig:
    fits = [
        m
        for m in config.models
        if name in (None, m.name) and (version is None or version == m.version)
    ]
    if len(fits) == 1:
        return fits[0]
    configured = ", ".join(f"{m.name} {m.version}".strip() for m in config.models)
    raise ProfileError(
        f"--model {name} --model-version {version}: fits {len(fits)} of the configured models "
        f"({configured}); name one"
    )


def _show(arguments: argparse.Namespace) -> int:
    profile = load(arguments.reference)
    console = Console()
    console.print(
        f"[bold]{profile.model} {profile.version}[/bold]  {profile.rows:,} rows, "
        f"{len(profile.chunks):,} chunks of {profile.chunk_rows:,}, made {profile.created}\n"
        f"fingerprint {profile.fingerprint}"
    )
    console.print(_table(profile))
    return 0


def _table(profile: Profile) -> Table:
    table = Table()
    for heading in ("column", "kind", "role", "cells", "missing", "range or categories"):
        table.add_column(heading, justify="right" if heading in ("cells", "missing") else "left")
    for name, cells in profile.cells.items():
        derived = cells.column.role is Role.DERIVED
        missing = "" if derived else f"{cells.counts[cells.missing] / profile.rows:.2%}"
        table.add_row(
            name, cells.column.kind, cells.column.role, f"{cells.size:,}", missing, _content(cells)
        )
    return table


def _content(cells: Cells) -> str:
    if (s := cells.summary) is not None:
        if not s.n:
            return "no values"
        return f"{s.minimum:.4g} … {s.maximum:.4g}, mean {s.mean:.4g}, std {s.std:.4g}"
    names = list(cells.categories)
    more = f", … {len(names) - _SHOWN_CATEGORIES:,} more" if len(names) > _SHOWN_CATEGORIES else ""
    return ", ".join(names[:_SHOWN_CATEGORIES]) + more
