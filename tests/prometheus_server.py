"""A real Prometheus and Alertmanager on free local ports, with this project's own files.

Only targets and intervals differ from what ``grafana/`` ships; the rules are used as they are.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import yaml

from tests.kafka_broker import free_port
from tests.observability import GRAFANA, RULES, load

T = TypeVar("T")
WAIT = 60.0  # seconds; generous, for machines are shared
INTERVAL = "1s"


class _Server:
    """A program that listens on a local port and is ready when ``/-/ready`` says so."""

    name = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.name
        self.folder.mkdir()
        self.address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.address}"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def __enter__(self) -> Self:
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self.command(), cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self.wait_for("it to be ready", lambda: fetch(f"{self.url}/-/ready"))
        except AssertionError:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(WAIT)

    def wait_for(self, what: str, ask: Callable[[], T | None]) -> T:
        """Ask until the answer is truthy."""
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            try:
                answer = ask()
            except (urllib.error.URLError, ConnectionError):
                answer = None
            if answer:
                return answer
            time.sleep(0.2)
        log = (self.folder / "log").read_text(errors="replace")
        raise AssertionError(f"{self.name}: waited {WAIT:.0f} s for {what}:\n{log[-3000:]}")


class Prometheus(_Server):
    """Prometheus with the shipped configuration and rules, scraping one monitor.

    Parameters
    ----------
    monitor_url
        ``http://host:port`` whose ``/metrics`` is scraped as the job ``stream-monitor``.
    alertmanager
        ``host:port`` that gets the alerts.
    """

    name = "prometheus"

    def __init__(self, folder: Path, monitor_url: str, alertmanager: str) -> None:
        super().__init__(folder)
        config = load(GRAFANA / "prometheus" / "prometheus.yml")
        config["global"] = dict.fromkeys(config["global"], INTERVAL)
        config["rule_files"] = [str(RULES)]
        config["alerting"]["alertmanagers"][0]["static_configs"] = [{"targets": [alertmanager]}]
        target = monitor_url.removeprefix("http://")
        config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        self._config = self.folder / "prometheus.yml"
        self._config.write_text(yaml.safe_dump(config))

    def command(self) -> list[str]:
        return [
            "prometheus",
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={self.address}",
            "--log.level=warn",
        ]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The instant vector of an expression now; AssertionError with Prometheus' own words."""
        body = urllib.parse.urlencode({"query": expr}).encode()
        try:
            answer = json.loads(fetch(f"{self.url}/api/v1/query", body))
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expr}: {error.read().decode()}") from None
        return list(answer["data"]["result"])

    def rules(self) -> list[dict[str, Any]]:
        """Rules as Prometheus sees them: name, query, health, lastError, alerts."""
        groups = json.loads(fetch(f"{self.url}/api/v1/rules"))["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


class Alertmanager(_Server):
    """Alertmanager with the shipped routes, which tells a webhook and waits for nothing."""

    name = "alertmanager"

    def __init__(self, folder: Path, webhook_url: str) -> None:
        super().__init__(folder)
        config = load(GRAFANA / "alertmanager" / "alertmanager.yml")
        config["route"] |= {"group_wait": "0s", "group_interval": INTERVAL}
        config["receivers"][0]["webhook_configs"] = [{"url": webhook_url}]
        self._config = self.folder / "alertmanager.yml"
        self._config.write_text(yaml.safe_dump(config))

    def command(self) -> list[str]:
        return [
            "prometheus-alertmanager",
            f"--config.file={self._config}",
            f"--storage.path={self.folder / 'data'}",
            f"--web.listen-address={self.address}",
            "--cluster.listen-address=",
            "--log.level=warn",
        ]


class Webhook:
    """Keeps the notifications that it is sent."""

    def __init__(self) -> None:
        self.notifications: list[dict[str, Any]] = []
        received = self.notifications

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Tests read what was received, not standard error."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join(WAIT)
        self._server.server_close()

    def alerts(self, name: str) -> list[dict[str, Any]]:
        """Firing alerts of this name, of all notifications so far."""
        return [
            alert
            for notification in list(self.notifications)
            for alert in notification["alerts"]
            if alert["labels"]["alertname"] == name and alert["status"] == "firing"
        ]


def fetch(url: str, body: bytes | None = None) -> bytes:
    with urllib.request.urlopen(url, body, timeout=10) as answer:  # noqa: S310 - our own servers
        return bytes(answer.read())
