"""The demo: traffic, the real service watching it, and what came of it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from stream_monitor.config.load import parse_config
from stream_monitor.demo.scenario import SCENARIOS, Scenario
from stream_monitor.demo.traffic import DAY, HOUR, MODEL, START, VERSION, Traffic
from stream_monitor.demo.writer import TOPIC, KafkaSink, LogSink, Writer
from stream_monitor.errors import StreamMonitorError
from stream_monitor.methods import REGISTRY
from stream_monitor.reference.build import build_profile
from stream_monitor.reference.profile import save
from stream_monitor.values import rfc3339

_REFERENCE_DAYS = 12
_DAYS = 30  # of traffic in a demo that ends by itself
_ONSET_DAY = 15
_MATURITIES = ["6h", "1d", "4d"]
_SETTLE_SECONDS = 20.0  # left of the duration for starting, and for the last windows
_ENDLESS_SPEED = DAY / 2.0  # event seconds a second where the demo runs until stopped
_PORT = 9877

console = Console(stderr=True)


def configuration(
    reference: str, source: dict[str, Any], labels: dict[str, Any] | None, port: int
) -> dict[str, Any]:
    """The demo's ``monitor.yaml``: windows of whole days, for the traffic has a daily rhythm."""
    late = {"source": labels, "mapping": {"arrival": "label_time"}, "maturities": _MATURITIES}
    return ({"labels": late} if labels else {}) | {
        "models": [{"name": MODEL, "version": VERSION, "reference": reference}],
        "source": source,
        "mapping": {"arrival": "event_time"},
        "windows": [{"name": "day", "size": "1d"}],
        "http": {"port": port},
    }


def make_reference(output: Path, *, seed: int) -> int:
    """Build the model's reference profile from twelve days before the traffic begins."""
    output.parent.mkdir(parents=True, exist_ok=True)
    data = output.with_suffix(".parquet")
    traffic = Traffic(seed, SCENARIOS["none"], np.inf)
    hours = [traffic.hour(n).table() for n in range(-_REFERENCE_DAYS * 24, 0)]
    columns = {name: np.concatenate([h[name] for h in hours]) for name in hours[0]}
    pa.parquet.write_table(
        pa.table({n: pa.array(v, from_pandas=True) for n, v in columns.items()}), data
    )
    config = parse_config(
        configuration(output.name, {"type": "stdin"}, None, 0), place="demo", folder=output.parent
    )
    text = TextColumn("building the reference: {task.description}")
    with Progress(text, BarColumn(), console=console) as bars:
        task = bars.add_task("", total=1.0)
        profile = build_profile(
            [data],
            config,
            model=MODEL,
            version=VERSION,
            registry=REGISTRY,
            progress=lambda phase, done: bars.update(task, description=phase, completed=done),
        )
    save(profile, output)
    return 0


def send_traffic(bootstrap_servers: str | None, *, seed: int, scenario: str) -> int:
    """Only the traffic, to Kafka, until stopped."""
    if bootstrap_servers is None:
        raise StreamMonitorError("--traffic-only: name the broker with --bootstrap-servers")
    traffic = Traffic(seed, SCENARIOS[scenario], START + _ONSET_DAY * DAY)
    console.print(f"sending to topic {TOPIC} on {bootstrap_servers}, a day every 2 s")
    Writer(traffic, KafkaSink(bootstrap_servers, TOPIC), _ENDLESS_SPEED, None).run()
    return 0


@dataclass(frozen=True, slots=True)
class Plan:
    """How fast event time runs, how long, and when the scenario sets in."""

    speed: float
    hours: int | None
    onset: float

    @classmethod
    def of(cls, duration: float | None) -> Plan:
        onset = START + _ONSET_DAY * DAY
        if duration is None:
            return cls(_ENDLESS_SPEED, None, onset)
        if duration <= _SETTLE_SECONDS:
            raise StreamMonitorError(
                f"--duration {duration:g}: starting and the last windows take "
                f"{_SETTLE_SECONDS:.0f} s of it; give at least {_SETTLE_SECONDS + 10:.0f}"
            )
        # an hour more than whole days, so that the watermark passes the last one
        hours = _DAYS * 24 + 1
        return cls(hours * HOUR / (duration - _SETTLE_SECONDS), hours, onset)


def run_demo(
    *,
    duration: float | None,
    seed: int,
    scenario: str,
    output: Path,
    bootstrap_servers: str | None,
) -> int:
    """Run the scene; with a duration, end with a table and ``summary.json``."""
    started = time.monotonic()
    plan = Plan.of(duration)
    if output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True)
    make_reference(output / "payments.ref", seed=seed)
    source: dict[str, Any] = {"type": "follow", "path": "events.jsonl"}
    labels: dict[str, Any] = {"type": "follow", "path": "labels.jsonl"}
    topic = f"{TOPIC}-{time.time_ns():x}"  # of its own, for this demo's days begin anew
    if bootstrap_servers:
        source = {"type": "kafka", "bootstrap_servers": bootstrap_servers, "topics": [topic],
                  "group_id": topic}  # fmt: skip
        labels = {"type": "kafka", "topics": [f"{topic}-labels"]}
    config = configuration("payments.ref", source, labels, _free(_PORT))
    (output / "monitor.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    sink = KafkaSink(bootstrap_servers, topic) if bootstrap_servers else LogSink(output)
    writer = Writer(Traffic(seed, SCENARIOS[scenario], plan.onset), sink, plan.speed, plan.hours)
    with _Service(output) as service:
        console.print(_where(service.url, scenario, plan, output), highlight=False)
        writer.start()
        try:
            _watch(service, writer, plan, duration, started)
        finally:
            writer.stop()
        if duration is None:
            return 0
        windows = service.get("/api/v1/windows?state=closed")["windows"]
        counted = service.get("/api/v1/status")["service"]["accepted"]
    summary = summarise(windows, seed, scenario, plan.onset)
    summary |= {"events_sent": writer.sent, "events_counted": counted}
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    console.print(_table(summary, SCENARIOS[scenario]))
    print(json.dumps(summary))  # noqa: T201 - the command's output
    return 0


def _where(url: str, scenario: str, plan: Plan, output: Path) -> str:
    speed = plan.speed / DAY
    return (
        f"\n  status page  {url}/\n  metrics      {url}/metrics\n  files        {output}/\n\n"
        f"  {speed:.2g} days of event time a second; scenario [bold]{scenario}[/bold] "
        f"({SCENARIOS[scenario].summary}) sets in after {_ONSET_DAY} days\n"
    )


def _watch(
    service: _Service, writer: Writer, plan: Plan, duration: float | None, started: float
) -> None:
    """Show progress until everything was sent and judged, or for ever."""
    last = START + _DAYS * DAY
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console
    ) as bars:
        task = bars.add_task("", total=last - START if duration else None)
        while True:
            status = service.get("/api/v1/status")["service"]
            phase = "as before" if writer.now < plan.onset else "the scenario is on"
            bars.update(
                task,
                completed=writer.now - START,
                description=f"{rfc3339(int(writer.now * 1e6))[:10]}  {phase}  "
                f"{status['accepted']:,} events",
            )
            if duration and writer.done and service.judged_until() >= rfc3339(last * 1_000_000):
                return
            if duration and time.monotonic() - started > duration + 60:
                raise StreamMonitorError(
                    f"the service has not come to the end of the traffic; see {service.log}"
                )
            time.sleep(0.3)


def summarise(
    windows: list[dict[str, Any]], seed: int, scenario: str, onset: float
) -> dict[str, Any]:
    """What was flagged, and when. A feature is flagged by any alert of its own."""
    begin = rfc3339(int(onset * 1e6))
    first_index = min(
        (w["window_index"] for w in windows if w["window_start"] >= begin), default=None
    )
    flagged: dict[str, int] = {}
    # what labels tell comes later, and is about the model
    inputs = [w for w in windows if w["maturity"] is None]
    alerts = sorted(
        (w for w in inputs if w["alert"] and w["feature"]), key=lambda w: w["window_index"]
    )
    for row in alerts:
        flagged.setdefault(row["feature"], row["window_index"])
    disturbed = SCENARIOS[scenario].disturbed
    early = sorted({w["feature"] for w in alerts if w["window_end"] <= begin})
    return {
        "seed": seed,
        "scenario": scenario,
        "onset": begin,
        "first_alert": alerts[0]["window_end"] if alerts else None,
        "features_flagged": sorted(flagged),
        "features_disturbed": sorted(disturbed),
        "windows_to_flag": {
            f: flagged[f] - first_index + 1
            for f in sorted(disturbed)
            if f in flagged and first_index is not None
        },
        "flagged_before_onset": early,
        "false_alarms": sorted(set(flagged) - set(disturbed)),
        "windows": len({w["window_index"] for w in windows}),
    }


def _table(summary: dict[str, Any], scenario: Scenario) -> Table:
    table = Table(title=f"scenario {summary['scenario']}, onset {summary['onset']}")
    for heading in ("feature", "what happened", "flagged in window after the onset"):
        table.add_column(heading)
    for feature, what in scenario.disturbed.items():
        table.add_row(feature, what, str(summary["windows_to_flag"].get(feature, "not flagged")))
    for feature in summary["false_alarms"]:
        table.add_row(feature, "nothing", "[red]false alarm[/red]")
    return table


def _free(port: int) -> int:
    """The port, or 0 (any) where something listens there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


class _Service:
    """``stream-monitor run`` as a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "service.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "stream_monitor", "run", "--config",
                 str(folder / "monitor.yaml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self.url = ""

    def __enter__(self) -> _Service:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            if found := re.search(r'"page": ?"(http://[^"]+)/"', self.log.read_text()):
                self.url = found[1]
                return self
            time.sleep(0.1)
        self.__exit__()
        raise StreamMonitorError(f"the service did not start:\n{self.log.read_text()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(25)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def judged_until(self) -> str:
        """End of the newest window in the results log."""
        rows = self.get("/api/v1/windows?state=closed&metric=rows_count&limit=1")["windows"]
        return str(rows[0]["window_end"]) if rows else ""

    def get(self, path: str) -> Any:
        """JSON of the API."""
        for attempt in range(5):
            try:
                with urllib.request.urlopen(self.url + path, timeout=30) as answer:  # noqa: S310
                    return json.load(answer) or {"service": {"accepted": 0, "watermark": None}}
            except urllib.error.URLError:
                if attempt == 4 or self._process.poll() is not None:
                    raise StreamMonitorError(
                        f"the service does not answer; its log is {self.log}"
                    ) from None
                time.sleep(0.5)
        raise AssertionError
