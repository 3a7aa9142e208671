"""Peers in environments of their own, and what a program costs."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[2] / ".cache" / "peers"
PYTHONS = ((3, 11), (3, 12))  # that NannyML's pins have wheels for


class Cost(NamedTuple):
    """Seconds: of the processor, user and system, and on the wall."""

    processor: float
    wall: float

    def __add__(self, other: object) -> Cost:
        if not isinstance(other, Cost):
            return NotImplemented
        return Cost(self.processor + other.processor, self.wall + other.wall)


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, made on the first call from ``<name>.txt``.

    Every version is pinned there, and the folder is called after what is in it.
    """
    if sys.version_info[:2] not in PYTHONS:
        raise SystemExit(
            f"the peers' versions have wheels for Python 3.11 and 3.12 only, and this is "
            f"{sys.version.split()[0]}; make the environment with one of those: PYTHON=python3.11"
        )
    pins = HERE / f"{name}.txt"
    mark = hashlib.sha256(pins.read_bytes()).hexdigest()[:12]
    folder = CACHE / f"{name}-{mark}"
    python, complete = folder / "bin" / "python", folder / "complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        options = ["--quiet", "--only-binary=:all:", "--no-deps"]  # the pins are all there is
        subprocess.run([python, "-m", "pip", "install", *options, "-r", pins], check=True)
        complete.touch()
    return python


def run(command: Sequence[str | Path]) -> Cost:
    """Run a program to its end; what it and its children took.

    Compiled modules are kept, as wherever a package has been installed, even if the environment of
    this process says otherwise.
    """
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(CACHE / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        started = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, used = os.wait4(started.pid, 0)
        wall = time.perf_counter() - began
        started.returncode = os.waitstatus_to_exitcode(status)
        if started.returncode:
            errors.seek(0)
            text = errors.read().decode(errors="replace")
            raise SystemExit(f"{' '.join(map(str, command))}: {started.returncode}\n{text}")
    return Cost(used.ru_utime + used.ru_stime, wall)
