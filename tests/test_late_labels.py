"""Car loan with its targets as a stream of labels: `backtest` and the service, against sklearn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet
import pytest
import yaml
from sklearn import metrics

from tests.nannyml_data import DATASETS
from tests.service import Service

CAR_LOAN = DATASETS["car_loan"]
DAY = 86_400
SIZE = 30 * DAY
MATURITIES = {"1d": DAY, "30d": 30 * DAY, "120d": 120 * DAY}
Rows = list[dict[str, Any]]


def stream_monitor(folder: Path, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "stream_monitor", *arguments], cwd=folder, check=True, timeout=300
    )


def write_lines(path: Path, found: Rows) -> None:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in found))


@pytest.fixture(scope="module")
def folder(nannyml_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with configuration, reference, events and labels."""
    folder = tmp_path_factory.mktemp("late")
    (folder / "monitor.yaml").write_text(yaml.safe_dump(config()))
    reference = str(CAR_LOAN.path(nannyml_data, "reference"))
    stream_monitor(
        folder, "reference", "build", reference, "--config", "monitor.yaml", "--output", "car.ref"
    )
    write_lines(folder / "events.jsonl", events(nannyml_data))
    write_lines(folder / "labels.jsonl", labels(nannyml_data))
    return folder


def config() -> dict[str, Any]:
    return {
        "models": [{"name": "car_loan", "version": "1", "reference": "car.ref"}],
        "windows": [{"name": "month", "size": "30d"}],
        "source": {"type": "files", "path": "events.jsonl"},
        "labels": {
            "source": {"type": "files", "path": "labels.jsonl"},
            "maturities": list(MATURITIES),
            # the file is shuffled, so a label may stand anywhere in it
            "allowed_lateness": "800d",
        },
        "mapping": CAR_LOAN.mapping,
        "methods": {"continuous": ["jensen_shannon"], "categorical": ["jensen_shannon"]},
    }


def events(data: Path) -> Rows:
    found: Rows = CAR_LOAN.read(data, "analysis").to_pylist()
    found.sort(key=lambda row: row["timestamp"])
    return found


def labels(data: Path) -> Rows:
    """Shuffled, by a heavy-tailed law, 5 % twice, 2 % corrected, 3 % missing."""
    rng = np.random.default_rng(11)
    targets = CAR_LOAN.read(data, "targets").to_pylist()
    rows = CAR_LOAN.read(data, "analysis").select(["id", "timestamp"]).to_pylist()
    times = {row["id"]: row["timestamp"] for row in rows}
    found: Rows = []
    for row in targets:
        chance = rng.random()
        if chance < 0.03:
            continue
        ts = seconds(times[row["id"]]) + min(float(rng.pareto(0.8)) * DAY / 4, 100 * DAY)
        one = {"id": row["id"], "ts": ts, "label": row["repaid"]}
        found.append(one)
        if chance < 0.08:
            found.append(one | {"ts": ts + float(rng.random()) * 3 * DAY})
        elif chance < 0.10:
            found.append(one | {"ts": ts + DAY, "label": 1 - row["repaid"]})
    # what comes last says that everything has come
    end = max(one["ts"] for one in found) + 200 * DAY
    order = rng.permutation(len(found)).tolist()
    return [*(found[i] for i in order), {"id": "nobody's", "ts": end, "label": 0}]


def seconds(text: str) -> float:
    return float(np.datetime64(text, "us").astype(np.int64)) / 1e6


@pytest.fixture(scope="module")
def table(folder: Path) -> Rows:
    stream_monitor(
        folder, "backtest", "--config", "monitor.yaml", "--events", "events.jsonl",
        "--labels", "labels.jsonl", "--output", "out.parquet",
    )  # fmt: skip
    found: Rows = pyarrow.parquet.read_table(folder / "out.parquet").to_pylist()
    return found


def truth(folder: Path) -> Iterator[tuple[int, str, Rows]]:
    """Predictions of each month, those with a label within each maturity with it."""
    read = [
        [orjson.loads(line) for line in (folder / name).read_bytes().splitlines()]
        for name in ("events.jsonl", "labels.jsonl")
    ]
    last: dict[Any, dict[str, Any]] = {}
    for label in read[1]:
        known = last.get(label["id"])
        if known is None or label["ts"] > known["ts"]:
            last[label["id"]] = label
    months: dict[int, Rows] = {}
    for event in read[0]:
        months.setdefault(int(seconds(event["timestamp"]) // SIZE), []).append(event)
    for month, own in months.items():
        for name, age in MATURITIES.items():
            labelled = [
                event | {"label": last[event["id"]]["label"]}
                for event in own
                if event["id"] in last
                and last[event["id"]]["ts"] - seconds(event["timestamp"]) <= age
            ]
            yield month * SIZE, name, labelled


def test_realized_performance_equals_scikit_learn_on_the_labels_that_exist(
    folder: Path, table: Rows
) -> None:
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for row in table:
        if row["family"] == "realized_performance":
            key = (
                round(seconds(row["window_start"].removesuffix("+00:00").rstrip("Z"))),
                row["maturity"],
            )
            found.setdefault(key, {})[row["metric"]] = row
    compared = 0
    for start, maturity, known in truth(folder):
        values = found[start, maturity]
        true, predicted = [e["label"] for e in known], [e["y_pred"] for e in known]
        scores = [e["y_pred_proba"] for e in known]
        share = values["accuracy"]["label_share"]
        assert share == pytest.approx(len(known) / values["accuracy"]["rows"], abs=1e-12)
        for name, value, tolerance in (
            ("accuracy", metrics.accuracy_score(true, predicted), 1e-9),
            ("f1", metrics.f1_score(true, predicted), 1e-9),
            ("precision", metrics.precision_score(true, predicted), 1e-9),
            ("recall", metrics.recall_score(true, predicted), 1e-9),
            ("roc_auc", metrics.roc_auc_score(true, scores), 1e-4),
            ("average_precision", metrics.average_precision_score(true, scores), 1e-3),
        ):
            assert values[name]["value"] == pytest.approx(value, abs=tolerance), (start, name)
            compared += 1
    assert compared > 150
    assert {row["maturity"] for row in table} == {None, *MATURITIES}


@pytest.mark.parametrize("order", ["shuffled", "as they came"])
def test_the_service_and_a_backtest_say_the_same(folder: Path, table: Rows, order: str) -> None:
    section: Rows = [orjson.loads(x) for x in (folder / "labels.jsonl").read_bytes().splitlines()]
    if order == "as they came":
        section.sort(key=lambda label: label["ts"])
    write_lines(folder / "live.jsonl", section)
    chosen = config() | {"store": {"path": f"{order}.db"}}
    chosen["labels"]["source"]["path"] = "live.jsonl"
    # what takes panes in their order needs labels that come in theirs
    left_out = {"estimator"} if order == "shuffled" else set()

    def closed(rows: Rows) -> dict[tuple[Any, ...], dict[str, Any]]:
        return mature([row for row in rows if row["family"] not in left_out])

    wanted = closed(table)
    with Service(folder, chosen) as service:
        service.wait_for("the same windows", lambda: closed(windows(service)) == wanted)
        assert service.metric("stream_monitor_labels_without_prediction") == 1
        assert service.stop() == 0


def windows(service: Service) -> Rows:
    return list(service.get("/api/v1/windows?state=closed")["windows"])


def mature(rows: Rows) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Rows by name, but for the last window of events, which is never closed."""
    names = ("window", "window_index", "maturity", "feature", "family", "metric")
    last = max((r["window_index"] for r in rows), default=0)
    return {
        tuple(row[n] for n in names): {k: v for k, v in row.items() if k != "revision"}
        for row in rows
        if row["maturity"] is not None or row["window_index"] < last
    }


def test_a_regressions_effects_add_up_to_its_change(nannyml_data: Path, tmp_path: Path) -> None:
    """Car price, whose labels come by an exponential law; errors as scikit-learn has them."""
    price = DATASETS["car_price"]
    chosen = {
        "models": [{"name": "car_price", "version": "1", "reference": "price.ref"}],
        "windows": [{"name": "chunk", "rows": 5_000}],
        "labels": {"maturities": ["1d", "90d"], "max_predictions": 100_000},
        "mapping": price.mapping,
        "methods": {"continuous": [], "blocks": ["realized_losses", "dle"], "outliers": False},
    }
    (tmp_path / "monitor.yaml").write_text(yaml.safe_dump(chosen))
    reference = price.path(nannyml_data, "reference")
    stream_monitor(tmp_path, "reference", "build", str(reference), "--config", "monitor.yaml",
                   "--output", "price.ref")  # fmt: skip
    rows = price.read(nannyml_data, "analysis").to_pylist()
    random = np.random.default_rng(2)
    found: Rows = [
        {"id": row["id"], "ts": seconds(row["timestamp"]) + float(random.exponential(2 * DAY)),
         "label": target[price.label]}
        for row, target in zip(rows, price.read(nannyml_data, "targets").to_pylist(), strict=True)
    ]  # fmt: skip
    end = max(one["ts"] for one in found) + 200 * DAY
    write_lines(tmp_path / "labels.jsonl", [*found, {"id": "nobody's", "ts": end, "label": 1.0}])
    stream_monitor(
        tmp_path, "backtest", "--config", "monitor.yaml", "--events",
        str(price.path(nannyml_data, "analysis")), "--labels", "labels.jsonl",
        "--output", "out.parquet",
    )  # fmt: skip
    out: Rows = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    own = price.read(nannyml_data, "reference")
    then = metrics.mean_absolute_error(own[price.label].to_numpy(), own["y_pred"].to_numpy())
    windows = {row["window_index"] for row in out}
    assert len(windows) == 12
    for index in windows:
        values = {(r["family"], r["metric"]): r["value"] for r in out
                  if r["window_index"] == index and r["maturity"] == "90d"}  # fmt: skip
        now = values["realized_performance", "mae"]
        part = slice(index * 5_000, (index + 1) * 5_000)
        true = [one["label"] for one in found[part]]
        predicted = [row["y_pred"] for row in rows[part]]
        assert now == pytest.approx(metrics.mean_absolute_error(true, predicted), rel=1e-9)
        total = values["covariate_effect", "mae"] + values["concept_effect", "mae"]
        assert total == pytest.approx(now - then, abs=1e-3 * then)
        assert values["labels", "share"] == 1.0
