"""`reference build` and `backtest` on NannyML's car loan data, against NannyML's own tables."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import yaml
from scipy import stats

EXACT = ("jensen_shannon", "hellinger", "l_infinity", "chi2", "missing_values", "unseen_values",
         "numerical_range")  # fmt: skip
NAMES = {"y_pred": "prediction", "y_pred_proba": "score"}
MAPPING = {
    "timestamp": "timestamp", "features": ".", "prediction": "y_pred", "score": "y_pred_proba",
    "label": "repaid",
}  # fmt: skip

Table = dict[tuple[str, str, int], dict[str, Any]]


def stream_monitor(folder: Path, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "stream_monitor", *arguments], cwd=folder, check=True, timeout=300
    )


def backtest(folder: Path, data: Path, prefix: str, *, events: Path | None = None) -> Table:
    """Our table of the analysis rows, through the command line."""
    config = {
        "models": [{"name": "car_loan", "version": "1", "reference": f"{prefix}.ref"}],
        "windows": [{"name": "chunk", "rows": 5_000}],
        "mapping": MAPPING,
        "alerts": {"threshold": "chunks"},
    }
    (folder / "monitor.yaml").write_text(yaml.safe_dump(config))
    stream_monitor(
        folder, "reference", "build", str(data / f"{prefix}_reference.parquet"),
        "--config", "monitor.yaml", "--output", f"{prefix}.ref",
    )  # fmt: skip
    stream_monitor(
        folder, "backtest", "--config", "monitor.yaml",
        "--events", str(events or data / f"{prefix}_analysis.parquet"), "--output", "out.parquet",
    )  # fmt: skip
    rows = pa.parquet.read_table(folder / "out.parquet").to_pylist()
    return {(r["feature"], r["metric"], r["window_index"]): r for r in rows}


def peers(data: Path, prefix: str, *calculators: str) -> Table:
    """NannyML's values of the analysis chunks."""
    found: Table = {}
    for calculator in calculators:
        with (data / f"{prefix}_{calculator}.csv").open() as file:
            for row in csv.DictReader(file):
                if row["period"] == "analysis":
                    feature = NAMES.get(row["column"], row["column"])
                    found[feature, row["metric"], int(row["chunk_index"])] = row
    return found


@pytest.fixture(scope="module")
def ours(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Table:
    return backtest(tmp_path_factory.mktemp("car"), shared_data, "nannyml_car_loan")


def difference(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / abs(theirs) if theirs else abs(ours)


def compare(ours: Table, theirs: Table) -> dict[str, float]:
    """The worst relative difference a metric; every cell of ours that NannyML has too."""
    worst: dict[str, float] = {}
    for key, row in theirs.items():
        if key[1] in EXACT and key in ours:
            gap = difference(float(ours[key]["value"]), float(row["value"]))
            worst[key[1]] = max(worst.get(key[1], 0.0), gap)
    print(worst)
    return worst


def test_values_equal_nannymls(ours: Table, shared_data: Path) -> None:
    tables = ("univariate_drift", "missing_values", "unseen_values", "numerical_range")
    theirs = peers(shared_data, "nannyml_car_loan", *tables)
    compared = [k for k in theirs if k in ours and k[1] in EXACT]
    assert len({k[0] for k in compared}) == 9
    assert all(gap <= 1e-9 for gap in compare(ours, theirs).values())


def test_alerts_by_nannymls_rule_are_nannymls(ours: Table, shared_data: Path) -> None:
    theirs = peers(shared_data, "nannyml_car_loan", "univariate_drift", "missing_values")
    keys = [k for k in theirs if k in ours and k[1] in EXACT]
    different = [k for k in keys if (theirs[k]["alert"] == "True") is not ours[k]["alert"]]
    assert len(keys) > 300
    assert different == []


def test_missing_and_unseen_values_are_told(shared_data: Path, tmp_path: Path) -> None:
    prefix = "nannyml_car_loan_dq"
    found = backtest(tmp_path, shared_data, prefix)
    theirs = peers(shared_data, prefix, "univariate_drift", "missing_values", "numerical_range")
    worst = compare(found, theirs)
    assert {"jensen_shannon", "missing_values", "numerical_range"} <= worst.keys()
    assert all(gap <= 1e-9 for gap in worst.values())
    assert any(r["alert"] for k, r in found.items() if k[1] == "unseen_values")


def test_distances_of_raw_values_are_scipys(ours: Table, shared_data: Path) -> None:
    reference, analysis = (
        pa.parquet.read_table(shared_data / f"nannyml_car_loan_{part}.parquet")
        for part in ("reference", "analysis")
    )
    theirs = peers(shared_data, "nannyml_car_loan", "univariate_drift")
    drifted = 0
    for source in (
        "car_value",
        "debt_to_income_ratio",
        "driver_tenure",
        "loan_length",
        "y_pred_proba",
    ):
        feature = NAMES.get(source, source)
        whole = reference[source].to_numpy()
        for index in range(10):
            part = analysis[source].to_numpy()[index * 5_000 : (index + 1) * 5_000]
            exact = stats.ks_2samp(whole, part).statistic
            assert abs(ours[feature, "kolmogorov_smirnov", index]["value"] - exact) < 1e-3
            if theirs[feature, "wasserstein", index]["alert"] == "True":
                drifted += 1
                distance = stats.wasserstein_distance(whole, part)
                found = ours[feature, "wasserstein", index]["value"]
                assert difference(found, distance) < 0.01, (source, index)
    assert drifted >= 10


def test_rows_in_any_order_give_the_same_table(
    ours: Table, shared_data: Path, tmp_path: Path
) -> None:
    table = pa.parquet.read_table(shared_data / "nannyml_car_loan_analysis.parquet")
    order = np.random.default_rng(4).permutation(table.num_rows)
    pa.csv.write_csv(table.take(order), tmp_path / "shuffled.csv")
    found = backtest(tmp_path, shared_data, "nannyml_car_loan", events=tmp_path / "shuffled.csv")
    assert found.keys() == ours.keys()
    for key, row in found.items():
        same = row == ours[key] or (math.isclose(row["value"], ours[key]["value"], rel_tol=1e-12))
        assert same, key
