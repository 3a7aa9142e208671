"""`backtest` without `compat`, through the command line, on NannyML's car loan data."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import yaml

from tests.nannyml_data import DATASETS, figures
from tests.parity import CHUNK, Cell, Truth, cell_of, compare, rows_of

CAR_LOAN = DATASETS["car_loan"]
# what NannyML's quirks do not touch
PLAIN = ("jensen_shannon", "hellinger", "l_infinity", "chi2", "missing_values", "unseen_values",
         "numerical_range", "mean", "sum", "std")  # fmt: skip


def stream_monitor(folder: Path, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "stream_monitor", *arguments], cwd=folder, check=True, timeout=300
    )


def backtest(folder: Path, events: Path) -> dict[Cell, dict[str, Any]]:
    """The table of some events, the reference lying in the folder."""
    arguments = "--config", "monitor.yaml", "--events", str(events), "--output", "out.parquet"
    stream_monitor(folder, "backtest", *arguments)
    return rows_of(pyarrow.parquet.read_table(folder / "out.parquet"))


@pytest.fixture(scope="module")
def folder(nannyml_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and the reference."""
    folder = tmp_path_factory.mktemp("car")
    config = {
        "models": [{"name": "car_loan", "version": "1", "reference": "car_loan.ref"}],
        "windows": [{"name": "chunk", "rows": CHUNK}],
        "mapping": CAR_LOAN.mapping,
        "methods": {"blocks": ["statistics"]},
        "alerts": {"threshold": "chunks"},
    }
    (folder / "monitor.yaml").write_text(yaml.safe_dump(config))
    reference = str(CAR_LOAN.path(nannyml_data, "reference"))
    arguments = "--config", "monitor.yaml", "--output", "car_loan.ref"
    stream_monitor(folder, "reference", "build", reference, *arguments)
    return folder


@pytest.fixture(scope="module")
def ours(folder: Path, nannyml_data: Path) -> dict[Cell, dict[str, Any]]:
    return backtest(folder, CAR_LOAN.path(nannyml_data, "analysis"))


def test_what_has_no_quirk_equals_nannyml_without_compat_too(
    ours: dict[Cell, dict[str, Any]], nannyml_data: Path
) -> None:
    truth = Truth.of(
        CAR_LOAN, CAR_LOAN.read(nannyml_data, "reference"), CAR_LOAN.labelled(nannyml_data)
    )
    plain = [f for f in figures("car_loan") if cell_of(CAR_LOAN, f).metric in PLAIN]
    plain = [f for f in plain if f.column != CAR_LOAN.label]  # no labels are given here
    found = compare(truth, plain, ours)
    assert len(plain) > 500
    assert not found.failures, "\n".join(found.failures)


def test_a_reference_learned_on_the_spot_gives_the_same_table(
    folder: Path, nannyml_data: Path
) -> None:
    """The file that the configuration names is not read then."""
    reference, events = (str(CAR_LOAN.path(nannyml_data, p)) for p in ("reference", "analysis"))
    backtest(folder, Path(events))
    (folder / "elsewhere").mkdir()
    shutil.copy(folder / "monitor.yaml", folder / "elsewhere")
    stream_monitor(
        folder, "backtest", "--config", str(folder / "elsewhere" / "monitor.yaml"), "--reference",
        reference, "--events", events, "--output", "learned.parquet",
    )  # fmt: skip
    assert (folder / "learned.parquet").read_bytes() == (folder / "out.parquet").read_bytes()


def test_rows_in_any_order_give_the_same_table(
    folder: Path, ours: dict[Cell, dict[str, Any]], nannyml_data: Path, tmp_path: Path
) -> None:
    table = CAR_LOAN.read(nannyml_data, "analysis")
    order = np.random.default_rng(4).permutation(table.num_rows)
    pyarrow.csv.write_csv(table.take(order), tmp_path / "shuffled.csv")
    found = backtest(folder, tmp_path / "shuffled.csv")
    assert found.keys() == ours.keys()
    for cell, row in found.items():
        other = ours[cell]
        assert row == other or math.isclose(row["value"], other["value"], rel_tol=1e-12), cell
