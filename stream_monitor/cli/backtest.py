"""``backtest``."""

from __future__ import annotations

import argparse
from pathlib import Path

from stream_monitor.backtest import OUTPUTS, backtest, write
from stream_monitor.checks import read_config
from stream_monitor.cli.common import (
    Commands,
    command,
    config_option,
    messages,
    output_file,
    progress_bar,
)
from stream_monitor.config.model import ModelConfig
from stream_monitor.labels.table import LabelTable
from stream_monitor.late_labels import LateLabels
from stream_monitor.methods import REGISTRY
from stream_monitor.reference.build import build_profile
from stream_monitor.reference.profile import Profile, load
from stream_monitor.tables import expand
from stream_monitor.watch import watch


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = command(
        commands,
        "backtest",
        _run,
        summary="push files of events through the pipeline and write a table, one row a value",
        example="stream-monitor backtest --config monitor.yaml --reference train.parquet "
        "--events may.parquet --output drift.parquet",
    )
    config_option(parser)
    parser.add_argument(
        "--events", nargs="+", required=True, metavar="FILE", help="Parquet, CSV or JSONL files"
    )
    parser.add_argument(
        "--reference",
        nargs="+",
        default=[],
        metavar="FILE",
        help="learn the references from these files first, instead of reading those that "
        "`reference build` wrote to models[].reference",
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        default=[],
        metavar="FILE",
        help="files with the true labels by event id, in the columns mapping.id and mapping.label; "
        "with a `labels` section in the configuration, in those of labels.mapping, and each counts "
        "from its own time on",
    )
    parser.add_argument(
        "--output",
        type=_output,
        required=True,
        metavar="OUT",
        help=f"table to write: {', '.join(OUTPUTS)}",
    )


def _output(text: str) -> Path:
    path = output_file(text)
    if path.suffix not in OUTPUTS:
        raise argparse.ArgumentTypeError(f"{text}: end it in {', '.join(OUTPUTS)}")
    return path


def _run(arguments: argparse.Namespace) -> int:
    config = read_config(arguments.config)
    in_use = [model for model in config.models if not model.candidate]
    config = config.model_copy(update={"models": in_use})
    paths = expand(arguments.events)
    with progress_bar() as progress:
        reference = expand(arguments.reference)

        def profile_of(model: ModelConfig) -> Profile:
            if not reference:
                return load(model.reference)
            names = {"model": model.name, "version": model.version}
            return build_profile(reference, config, **names, registry=REGISTRY, progress=progress)

        watched, windows = watch(config, str(arguments.config), profile_of)
        labels = late = None
        targets = [m.target for m in watched]
        if arguments.labels and config.labels is not None:
            files = expand(arguments.labels)
            late = LateLabels(files, config, targets, lambda done: progress("labels", done))
        elif arguments.labels:
            files = expand(arguments.labels)
            labels = LabelTable(
                files, config.mapping, targets, lambda done: progress("labels", done)
            )
        results, summary = backtest(
            paths,
            config,
            watched,
            windows,
            lambda done: progress("events", done),
            labels=labels,
            late=late,
        )
    rows = write(results, arguments.output)
    rejected = ", ".join(f"{n:,} {reason}" for reason, n in sorted(summary.rejected.items()))
    messages().print(
        f"{summary.accepted:,} events in {summary.windows:,} windows, {summary.late:,} late, "
        f"{summary.expired:,} expired, rejected: {rejected or 'none'}\n"
        f"wrote {arguments.output}: {rows:,} values, {summary.alerts:,} alerts"
    )
    return 0
