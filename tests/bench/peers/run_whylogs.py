"""whylogs' profiles of two Parquet files: ``python run_whylogs.py REFERENCE ANALYSIS CHUNK OUT``.

Runs in an environment of its own, see :mod:`tests.bench.peers.environment`. One profile of the
reference, one of each chunk of the analysis; their summaries go to OUT as Parquet files.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["WHYLOGS_NO_ANALYTICS"] = "True"  # before the import, at which it would phone home

import pandas as pd
import whylogs


def main(reference: Path, analysis: Path, chunk: int, out: Path) -> None:
    _profile(pd.read_parquet(reference), out / "reference.parquet")
    then = pd.read_parquet(analysis)
    for start in range(0, len(then), chunk):
        _profile(then[start : start + chunk], out / f"{start}.parquet")


def _profile(rows: pd.DataFrame, path: Path) -> None:
    found = whylogs.log(rows.drop(columns="ts")).view().to_pandas()
    found.select_dtypes("number").to_parquet(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
