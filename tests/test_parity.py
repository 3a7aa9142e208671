"""`compat: nannyml` through the command line, against NannyML's own numbers and the definitions."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from scipy import stats
from scipy.spatial.distance import jensenshannon

from stream_monitor.methods import REGISTRY
from stream_monitor.schema import FloatArray, IntArray
from stream_monitor.values import DRIFT, ESTIMATED, QUALITY, REALIZED
from tests import definitions
from tests.nannyml_data import (
    DATASETS,
    FIGURES,
    PARTS,
    SHARED_DATA,
    Dataset,
    Part,
    figures,
    unpacked,
)
from tests.parity import CHUNK, Cell, Comparison, Rows, Truth, cell_of, compare, report, rows_of


def stream_monitor(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "stream_monitor", *arguments]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"COLUMNS": "200"},
        check=False,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(
    folder: Path,
    dataset: Dataset,
    data: Path,
    *,
    blocks: list[str],
    events: tuple[Part, ...] = ("analysis",),
) -> dict[Cell, dict[str, Any]]:
    """Builds the reference ``model.ref`` and backtests ``out.parquet``, as a user would."""
    config = {
        "compat": "nannyml",
        "models": [{"name": dataset.name, "reference": "model.ref"}],
        "mapping": dataset.mapping,
        "windows": [{"name": "chunk", "rows": CHUNK}],
        "methods": {"blocks": blocks, "outliers": False},  # NannyML has no outlier score
        "reference": {"columns": {name: {"kind": "ignore"} for name in dataset.ignored}},
    }
    (folder / "monitor.yaml").write_text(yaml.safe_dump(config))
    stream_monitor(
        folder, "reference", "build", str(dataset.path(data, "reference")),
        "--config", "monitor.yaml", "--output", "model.ref",
    )  # fmt: skip
    stream_monitor(
        folder, "backtest", "--config", "monitor.yaml",
        "--events", *(str(dataset.path(data, part)) for part in events),
        "--labels", str(dataset.path(data, "targets")), "--output", "out.parquet",
    )  # fmt: skip
    return rows_of(pyarrow.parquet.read_table(folder / "out.parquet"))


@pytest.fixture(scope="module")
def tables(
    nannyml_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[Cell, dict[str, Any]]]:
    """Our table of every data set, with all methods."""

    def table(dataset: Dataset) -> dict[Cell, dict[str, Any]]:
        blocks = [*REGISTRY.block, *REGISTRY.sketch]
        if not dataset.domain_classifier:
            blocks.remove("domain_classifier")
        folder = tmp_path_factory.mktemp(dataset.name)
        return run(folder, dataset, nannyml_data, blocks=blocks)

    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(DATASETS, pool.map(table, DATASETS.values()), strict=True))


@pytest.fixture(scope="module")
def comparisons(request: pytest.FixtureRequest) -> Iterator[dict[str, Comparison]]:
    """Collects the outcomes, and prints the table of worst differences past pytest's capture."""
    found: dict[str, Comparison] = {}
    yield found
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    with capture.global_and_fixture_disabled():
        print(f"\n{report(found)}")


def truth_of(name: str, data: Path) -> Truth:
    dataset = DATASETS[name]
    return Truth.of(dataset, dataset.read(data, "reference"), dataset.labelled(data))


@pytest.mark.parametrize("name", DATASETS)
def test_every_number_of_nannyml_is_ours(
    name: str,
    nannyml_data: Path,
    tables: dict[str, dict[Cell, dict[str, Any]]],
    comparisons: dict[str, Comparison],
) -> None:
    found = compare(truth_of(name, nannyml_data), figures(name), tables[name])
    comparisons[name] = found
    assert not found.failures, "\n".join(found.failures)


@pytest.fixture(scope="module")
def whole_history(nannyml_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a backtest of the reference's rows and those after it: NannyML ranks both."""
    folder = tmp_path_factory.mktemp("history")
    blocks = ["realized_performance"]
    events: tuple[Part, ...] = ("reference", "analysis")
    run(folder, DATASETS["car_loan"], nannyml_data, blocks=blocks, events=events)
    return folder


@pytest.mark.parametrize(
    ("ranker", "score", "options"),
    [
        ("alert_count", "number_of_alerts", ["--by", "alerts"]),
        (
            "correlation",
            "pearsonr_correlation",
            ["--by", "correlation", "--performance", "roc_auc", "--reference", "model.ref"],
        ),
    ],
)
def test_features_are_ranked_as_by_nannyml(
    ranker: str, score: str, options: list[str], whole_history: Path
) -> None:
    with (FIGURES / f"nannyml_car_loan_rank_{ranker}.csv").open() as file:
        theirs = {row["column_name"]: float(row[score]) for row in csv.DictReader(file)}
    printed = stream_monitor(
        whole_history, "rank", "out.parquet", "--metric", "jensen_shannon", *options
    )
    rows = [[cell.strip() for cell in line.split("│")] for line in printed.splitlines()]
    ours = {r[2]: float(r[3]) for r in rows if len(r) > 4 and r[2] in theirs}
    assert list(ours) == list(theirs)
    assert ours == pytest.approx(theirs, abs=1e-6)


# the comparison itself


def theirs_as_ours(name: str) -> dict[Cell, dict[str, Any]]:
    """NannyML's numbers in the form of our table."""
    rows = {}
    for f in figures(name):
        rows[cell_of(DATASETS[name], f)] = {
            "rows": f.rows,
            "window_start": f"{f.start_date}Z",
            "window_end": f"{f.end_date}Z",
            "value": f.value,
            "sampling_error": f.sampling_error,
            "lower_confidence": f.lower_confidence,
            "upper_confidence": f.upper_confidence,
            "lower_threshold": f.lower_threshold,
            "upper_threshold": f.upper_threshold,
            "alert": f.alert,
        }
    return rows


def failures(truth: Truth, ours: Rows, metric: str) -> list[str]:
    name = truth.dataset.name
    chosen = [f for f in figures(name) if cell_of(truth.dataset, f).metric == metric]
    return compare(truth, chosen, ours).failures


@pytest.mark.parametrize("name", DATASETS)
def test_the_comparison_accepts_nannymls_own_tables(name: str, nannyml_data: Path) -> None:
    truth = truth_of(name, nannyml_data)
    ours = theirs_as_ours(name)
    for cell, row in ours.items():
        if cell.metric == "wasserstein" and row["alert"]:
            row["value"] = truth.wasserstein(cell)  # which theirs only estimates
    found = compare(truth, figures(name), ours)
    assert found.failures == []
    assert found.excused == []
    assert sum(worst.cells for worst in found.worst.values()) == len(figures(name))


@pytest.mark.parametrize("metric", ["jensen_shannon", "mean", "recall", "median", "roc_auc"])
@pytest.mark.parametrize("number", ["value", "upper_threshold", "lower_threshold"])
def test_the_comparison_finds_a_number_that_is_off(
    metric: str, number: str, nannyml_data: Path
) -> None:
    truth, ours = truth_of("car_loan", nannyml_data), theirs_as_ours("car_loan")
    cell = next(c for c in ours if c.metric == metric and c.window == 3)
    row = ours[cell]
    if np.isnan(row[number]):
        row[number] = 0.1
        assert len(failures(truth, ours, metric)) == 1
        return
    allowed = truth.tolerance(cell).at(row[number])
    ours[cell] = row | {number: row[number] + 0.9 * allowed}
    assert failures(truth, ours, metric) == []
    ours[cell] = row | {number: row[number] - 1.2 * allowed}
    assert len(failures(truth, ours, metric)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"alert": None},
        {"rows": 4_999},
        {"window_start": "2018-10-30T18:00:01Z"},
        {"window_end": None},
        {"value": None},
    ],
)
def test_the_comparison_finds_a_cell_that_differs(
    change: dict[str, Any], nannyml_data: Path
) -> None:
    truth, ours = truth_of("car_loan", nannyml_data), theirs_as_ours("car_loan")
    cell = next(c for c, row in ours.items() if c.metric == "chi2" and row["alert"])
    ours[cell] |= change
    assert len(failures(truth, ours, "chi2")) == 1
    del ours[cell]
    assert failures(truth, ours, "chi2")[0].endswith("not in our table")


def test_an_alert_may_differ_only_next_to_its_threshold(nannyml_data: Path) -> None:
    truth, ours = truth_of("car_loan", nannyml_data), theirs_as_ours("car_loan")
    figure = next(f for f in figures("car_loan") if f.metric == "f1" and f.calculator == "cbpe")
    cell = cell_of(truth.dataset, figure)
    for distance, excused in ((0.5e-6, 1), (2e-6, 0)):
        theirs = replace(figure, value=figure.lower_threshold * (1 - distance), alert=True)
        ours[cell] |= {"value": theirs.value, "alert": False}
        found = compare(truth, [theirs], ours)
        assert len(found.excused) == excused
        assert len(found.failures) == 1 - excused


# the data


@pytest.mark.parametrize("name", DATASETS)
def test_the_wheels_data_are_those_that_the_figures_belong_to(name: str) -> None:
    if not SHARED_DATA.is_dir():
        pytest.skip("the wheel's data are the only ones here")
    dataset = DATASETS[name]
    for part in PARTS:
        assert dataset.read(unpacked(), part).equals(dataset.read(SHARED_DATA, part)), part


# against the definitions


def codes_of(table: pa.Table, column: str, names: tuple[str, ...]) -> IntArray:
    values = table[column].to_pylist()
    return np.array([names.index(v if isinstance(v, str) else str(int(v))) for v in values])


def problem(
    dataset: Dataset, table: pa.Table
) -> tuple[FloatArray, IntArray, IntArray, tuple[str, ...]]:
    """Scores, predictions and labels as the definitions take them, and the classes' names."""
    names = dataset.classes or ("0", "1")
    columns = [f"y_pred_proba_{c}" for c in dataset.classes] or ["y_pred_proba"]
    scores = np.stack([table[c].to_numpy() for c in columns], axis=1)
    return scores, codes_of(table, "y_pred", names), codes_of(table, dataset.label, names), names


def by_definition(dataset: Dataset, reference: pa.Table, analysis: pa.Table) -> dict[Cell, float]:
    """Estimated and realised performance of each chunk."""
    scores, _, labels, names = problem(dataset, reference)
    fitted = definitions.calibrators(scores, labels)
    scores, predicted, labels, _ = problem(dataset, analysis)
    found: dict[Cell, float] = {}
    for window in range(len(scores) // CHUNK):
        rows = slice(window * CHUNK, (window + 1) * CHUNK)
        estimate = definitions.estimated(scores[rows], predicted[rows], fitted, names)
        truth = definitions.realized(scores[rows], predicted[rows], labels[rows], names)
        found |= {Cell(ESTIMATED, "", m, window): v for m, v in estimate.items()}
        found |= {Cell(REALIZED, "", m, window): v for m, v in truth.items()}
    return found


CLASSIFICATION = ["car_loan", "binary", "multiclass"]


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_the_definitions_give_nannymls_numbers(name: str, nannyml_data: Path) -> None:
    dataset, truth = DATASETS[name], truth_of(name, nannyml_data)
    found = by_definition(
        dataset, dataset.read(nannyml_data, "reference"), dataset.labelled(nannyml_data)
    )
    theirs = {cell_of(dataset, f): f.value for f in figures(name)}
    theirs = {c: v for c, v in theirs.items() if c.family in (ESTIMATED, REALIZED)}
    assert found.keys() == theirs.keys()
    for cell, value in found.items():
        assert abs(value - theirs[cell]) <= truth.tolerance(cell).at(theirs[cell]), cell


def with_noise(dataset: Dataset, data: Path, folder: Path) -> None:
    """The data set with scores that are continuous: uniform noise of ± 0.005."""
    random = np.random.default_rng(17)
    for part in PARTS:
        table = dataset.read(data, part)
        for index, name in enumerate(table.column_names):
            if name.startswith("y_pred_proba"):
                noisy = table[name].to_numpy() + random.uniform(-0.005, 0.005, table.num_rows)
                table = table.set_column(index, name, pa.array(noisy.clip(0, 1)))
        pyarrow.parquet.write_table(table, dataset.path(folder, part))


@pytest.mark.parametrize("name", ["car_loan", "multiclass"])
def test_performance_on_continuous_scores_is_that_of_the_definitions(
    name: str, nannyml_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = DATASETS[name]
    with_noise(dataset, nannyml_data, tmp_path)
    ours = run(tmp_path, dataset, tmp_path, blocks=["cbpe", "realized_performance"])
    truth = truth_of(name, tmp_path)
    assert truth.tolerance(Cell(REALIZED, "", "roc_auc", 0)).relative == 1e-4
    exact = by_definition(dataset, dataset.read(tmp_path, "reference"), dataset.labelled(tmp_path))
    assert {c for c in ours if c.family in (ESTIMATED, REALIZED)} >= exact.keys()
    worst: dict[tuple[str, str], float] = {}
    for cell, value in exact.items():
        gap = abs(float(ours[cell]["value"]) - value) / abs(value)
        worst[cell.family, cell.metric] = max(gap, worst.get((cell.family, cell.metric), 0.0))
    with capsys.disabled():
        print(f"\n{name} with noise on its scores, worst relative differences")
        print("\n".join(f"{' '.join(key):70} {gap:.1e}" for key, gap in worst.items()))
    for cell, value in exact.items():
        gap = abs(float(ours[cell]["value"]) - value)
        assert gap <= truth.tolerance(cell).at(value), cell


def test_unseen_categories_count_singly(nannyml_data: Path, tmp_path: Path) -> None:
    dataset, column = DATASETS["car_loan"], "size_of_downpayment"
    tables = {part: dataset.read(nannyml_data, part) for part in PARTS}
    tables["analysis"] = tables["analysis"].slice(0, CHUNK)
    values = tables["analysis"][column].to_pylist()
    unseen = np.repeat(["a", "b", "c", "d", "e"], [400, 300, 200, 100, 50]).tolist()
    places = np.random.default_rng(5).permutation(CHUNK)[: len(unseen)].tolist()
    for row, value in zip(places, unseen, strict=True):
        values[row] = value
    index = tables["analysis"].column_names.index(column)
    tables["analysis"] = tables["analysis"].set_column(index, column, pa.array(values))
    for part, table in tables.items():
        pyarrow.parquet.write_table(table, dataset.path(tmp_path, part))
    ours = run(tmp_path, dataset, tmp_path, blocks=[])

    whole, window = np.array(tables["reference"][column].to_pylist()), np.array(values)
    names = np.union1d(whole, window)
    table = np.array([[np.sum(side == n) for n in names] for side in (whole, window)])
    p, q = table / table.sum(axis=1, keepdims=True)
    seen = p > 0
    pooled_p, pooled_q = np.append(p[seen], 0.0), np.append(q[seen], q[~seen].sum())
    test = stats.chi2_contingency(table)
    expected = {
        (DRIFT, "chi2"): test.statistic,
        (DRIFT, "l_infinity"): np.abs(p - q).max(),
        (DRIFT, "jensen_shannon"): jensenshannon(pooled_p, pooled_q, base=2),
        (DRIFT, "hellinger"): np.linalg.norm(np.sqrt(pooled_p) - np.sqrt(pooled_q)) / np.sqrt(2),
        (QUALITY, "unseen_values"): len(unseen) / CHUNK,
    }
    assert np.argmax(np.abs(p - q)) == names.tolist().index("a")
    for (family, metric), value in expected.items():
        row = ours[Cell(family, column, metric, 0)]
        assert row["value"] == pytest.approx(value, rel=1e-9), metric
        assert row["alert"] is True, metric
    assert ours[Cell(DRIFT, column, "chi2", 0)]["p_value"] == pytest.approx(test.pvalue, rel=1e-9)
