"""Evidently on two Parquet files: ``python run_evidently.py REFERENCE ANALYSIS CHUNK OUT``.

Runs in an environment of its own, see :mod:`tests.bench.peers.environment`. One report of its
preset for each chunk of the analysis; their values go to OUT as JSON files.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

os.environ["DO_NOT_TRACK"] = "1"  # before the import

import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset


def main(reference: Path, analysis: Path, chunk: int, out: Path) -> None:
    warnings.simplefilter("ignore")
    first = pd.read_parquet(reference).drop(columns="ts")
    then = pd.read_parquet(analysis).drop(columns="ts")
    for start in range(0, len(then), chunk):
        found = Report([DataDriftPreset()]).run(then[start : start + chunk], first)
        (out / f"{start}.json").write_text(found.json(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
