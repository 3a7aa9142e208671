"""``demo``."""

from __future__ import annotations

import argparse
from pathlib import Path

from stream_monitor.cli.common import Commands, command
from stream_monitor.demo import run as demo
from stream_monitor.demo.scenario import SCENARIOS


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = command(
        commands,
        "demo",
        _run,
        summary="a model's traffic in which drift sets in, with the real service watching it",
        example="stream-monitor demo --duration 60 --seed 1 --scenario drift",
    )
    parser.add_argument(
        "--duration", type=float, metavar="SECONDS", help="end by itself; default: run until ^C"
    )
    parser.add_argument("--seed", type=int, default=1, help="other numbers, other traffic")
    parser.add_argument(
        "--scenario", choices=list(SCENARIOS), default="drift", help="what sets in (default: drift)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("demo-output"), metavar="FOLDER",
        help="where everything is written (default: demo-output); made anew",
    )  # fmt: skip
    parser.add_argument(
        "--bootstrap-servers", metavar="HOST:PORT", help="send the traffic through this Kafka"
    )
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument(
        "--traffic-only", action="store_true", help="send to Kafka and start no service"
    )
    parts.add_argument(
        "--reference-only", action="store_true", help="build the model's reference and end"
    )


def _run(arguments: argparse.Namespace) -> int:
    if arguments.reference_only:
        return demo.make_reference(arguments.output, seed=arguments.seed)
    if arguments.traffic_only:
        return demo.send_traffic(
            arguments.bootstrap_servers, seed=arguments.seed, scenario=arguments.scenario
        )
    return demo.run_demo(
        duration=arguments.duration,
        seed=arguments.seed,
        scenario=arguments.scenario,
        output=arguments.output,
        bootstrap_servers=arguments.bootstrap_servers,
    )
