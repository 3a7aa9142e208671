"""Runs the real service as a process and asks it over HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import yaml

T = TypeVar("T")
WAIT = 60.0  # seconds; generous, for machines are shared


class Service:
    """``stream-monitor run`` on a configuration, on a free port; a context manager."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self._path = folder / "monitor.yaml"
        config = config | {"http": {"port": 0}, "log": {"format": "json"}}
        self._path.write_text(yaml.safe_dump(config))
        self._log_path = folder / "service.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def start(self) -> None:
        """Start the process and wait until it answers."""
        self.launch()
        self.url = self.wait_for("the service to say where it listens", self._announced)

    def launch(self) -> None:
        """Start the process."""
        self.url = ""
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "stream_monitor", "run", "--config", str(self._path)],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        """How it ended; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def ask(self) -> bool:
        """Whether the service answers by now; see :meth:`launch`."""
        self.url = self.url or self._announced() or ""
        return bool(self.url)

    def _announced(self) -> str | None:
        process = self._process
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the service ended:\n{self.log()}")
        found = re.search(r'"page": ?"(http://[^"]+)/"', self.log())
        return found[1] if found else None

    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    def keep_log(self, number: int) -> None:
        """Put what it said aside; the next start begins a new log."""
        self._log_path.rename(self._log_path.with_name(f"service-{number}.log"))

    def kill(self) -> None:
        """SIGKILL: nothing is committed, nothing said."""
        self._end(signal.SIGKILL)

    def end(self) -> None:
        """SIGKILL where it still runs."""
        if self.running:
            self.kill()

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        return self._end(signal.SIGTERM)

    def _end(self, number: int) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(WAIT)

    def get(self, path: str) -> Any:
        """JSON at a path of the API."""
        return json.loads(self.text(path))

    def text(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=10) as response:  # noqa: S310
            return str(response.read().decode())

    def refused(self, path: str) -> tuple[int, str]:
        """Status and text of an answer that is an error."""
        try:
            self.text(path)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        raise AssertionError(f"{path} was answered")

    def samples(self, name: str) -> list[float]:
        """All of a metric."""
        lines = self.text("/metrics").splitlines()
        return [float(x.rpartition(" ")[2]) for x in lines if re.match(rf"{name}({{| )", x)]

    def metric(self, name: str) -> float:
        """Sum of a metric's samples."""
        return sum(self.samples(name))

    def accepted(self) -> int:
        return int(self.metric("stream_monitor_events_total"))

    def wait_for(self, what: str, ask: Callable[[], T | None]) -> T:
        """Ask until the answer is neither None nor False."""
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:
            try:
                answer = ask()
            except (urllib.error.URLError, ConnectionError):
                answer = None
            if answer is not None and answer is not False:
                return answer
            time.sleep(0.05)
        raise AssertionError(f"waited {WAIT:.0f} s for {what}:\n{self.log()[-3000:]}")
