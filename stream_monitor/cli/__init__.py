"""The command line: ``stream-monitor COMMAND …``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from stream_monitor import __version__
from stream_monitor.errors import StreamMonitorError

_EPILOG = """\
examples:
  stream-monitor demo                                   see it work
  stream-monitor reference build train.parquet --config monitor.yaml --output model.ref
  stream-monitor check-config --config monitor.yaml
  stream-monitor run --config monitor.yaml              then open http://127.0.0.1:9877/
  stream-monitor backtest --config monitor.yaml --events may.parquet --output may.csv

exit status: 0 done, 1 failed (the message says why), 2 wrong usage
"""
_MODULES = {
    "run": "run", "check-config": "check", "reference": "reference", "backtest": "backtest",
    "rank": "rank", "replay": "replay", "methods": "methods", "demo": "demo",
}  # fmt: skip


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The whole command line, or one command's part of it, which imports no other command."""
    top = argparse.ArgumentParser(
        prog="stream-monitor",
        description="Online drift, outlier and data-quality monitor for model servers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in [command] if command in _MODULES else _MODULES:
        import_module(f"stream_monitor.cli.{_MODULES[name]}").add_to(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    chosen = parser(given[0] if given else None).parse_args(given)
    try:
        return int(chosen.run(chosen))
    except StreamMonitorError as error:
        print(f"stream-monitor: {error}", file=sys.stderr)  # noqa: T201 - the command's answer
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        sys.stderr.close()
        return 1
