"""The rankers, against NannyML's own rankings and SciPy; and the command that prints them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from math import isnan, nan
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stream_monitor.backtest import write
from stream_monitor.cli import main
from stream_monitor.cli.rank import read_results
from stream_monitor.cli.rank import reference_mean as reference_mean_of
from stream_monitor.errors import ProfileError
from stream_monitor.ranking import Ranked, rank_by_alerts, rank_by_correlation, rank_by_importance
from stream_monitor.values import DRIFT, REALIZED, Value, WindowResult
from tests import worlds

JS = "jensen_shannon"
FEATURES = ("car_value", "salary_range", "debt_to_income_ratio", "loan_length",
            "repaid_loan_on_prev_car", "size_of_downpayment", "driver_tenure")  # fmt: skip


def window(index: int, values: Sequence[Value], **other: object) -> WindowResult:
    names = {"model": "m", "version": "1", "segment": "", "window": "w", **other}
    return WindowResult(
        str(names["model"]), str(names["version"]), str(names["segment"]), str(names["window"]),
        index, 0, 0, 5000, True, tuple(values),
    )  # fmt: skip


def drift(
    feature: str, value: float, *, alert: bool | None = None, threshold: float = nan
) -> Value:
    return Value(feature, DRIFT, JS, value, upper_threshold=threshold, alert=alert)


def auc(value: float) -> Value:
    return Value("", REALIZED, "roc_auc", value)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def car_loan(shared_data: Path) -> list[WindowResult]:
    """NannyML's chunks of the car loan data, reference first, as windows."""
    chunks: dict[tuple[int, int], list[Value]] = {}

    def place(row: dict[str, str]) -> list[Value]:
        return chunks.setdefault((row["period"] == "analysis", int(row["chunk_index"])), [])

    for row in rows_of(shared_data / "nannyml_car_loan_univariate_drift.csv"):
        if row["metric"] == JS and row["column"] in FEATURES:
            place(row).append(
                drift(
                    row["column"],
                    float(row["value"]),
                    alert=row["alert"] == "True",
                    threshold=float(row["upper_threshold"]),
                )
            )
    for row in rows_of(shared_data / "nannyml_car_loan_performance.csv"):
        if row["metric"] == "roc_auc":
            place(row).append(auc(float(row["value"])))
    return [window(i, chunks[key]) for i, key in enumerate(sorted(chunks))]


def reference_mean(results: list[WindowResult]) -> float:
    values = [v.value for r in results[:10] for v in r.values if v.metric == "roc_auc"]
    return float(np.mean(values))


def test_alert_counts_are_ordered_as_nannyml_orders_them(
    car_loan: list[WindowResult], shared_data: Path
) -> None:
    expected = rows_of(shared_data / "nannyml_car_loan_rank_alert_count.csv")
    ranked = rank_by_alerts(car_loan, metric=JS)
    assert [(r.feature, r.score, r.rank) for r in ranked] == [
        (row["column_name"], float(row["number_of_alerts"]), int(row["rank"])) for row in expected
    ]
    assert [r.has_drifted for r in ranked] == [r.score > 0 for r in ranked]


def test_correlations_are_nannymls(car_loan: list[WindowResult], shared_data: Path) -> None:
    expected = rows_of(shared_data / "nannyml_car_loan_rank_correlation.csv")
    ranked = rank_by_correlation(
        car_loan,
        metric=JS,
        performance="roc_auc",
        mean_reference_performance=reference_mean(car_loan),
    )
    assert [(r.feature, r.rank, r.has_drifted) for r in ranked] == [
        (row["column_name"], int(row["rank"]), row["has_drifted"] == "True") for row in expected
    ]
    # the tables have 12 digits; p near 1e-9 magnifies what they lack
    for r, row in zip(ranked, expected, strict=True):
        assert r.score == pytest.approx(float(row["pearsonr_correlation"]), abs=1e-9)
        assert r.p_value == pytest.approx(float(row["pearsonr_pvalue"]), rel=1e-6)


def test_importance_weighs_the_drift_beyond_its_threshold() -> None:
    results = [
        window(0, [drift("a", 0.2, threshold=0.1), drift("b", 0.5, threshold=0.1, alert=True)]),
        window(1, [drift("a", 0.4, threshold=0.1), drift("b", nan, threshold=0.1)]),
    ]
    ranked = rank_by_importance(results, metric=JS, importances={"a": 2.0, "b": 1.0})
    assert [(r.feature, r.rank, r.has_drifted) for r in ranked] == [("a", 1, False), ("b", 2, True)]
    assert [r.score for r in ranked] == pytest.approx([6.0, 5.0])


def test_a_feature_without_threshold_or_importance_stands_last() -> None:
    results = [window(0, [drift("a", 0.2), drift("b", 0.9, threshold=0.1), drift("c", 0.0,
               threshold=0.1), drift("d", 0.1, threshold=0.0)])]  # fmt: skip
    ranked = rank_by_importance(results, metric=JS, importances={"a": 1, "c": 1, "d": 1})
    assert [r.feature for r in ranked] == ["c", "a", "b", "d"]
    assert [isnan(r.score) for r in ranked] == [False, True, True, True]
    with pytest.raises(ValueError, match="importance of 'a' is -1"):
        rank_by_importance(results, metric=JS, importances={"a": -1})


@pytest.mark.parametrize(
    "values", [[0.1, 0.1, 0.1, 0.1], [nan, nan, 0.2, nan], [nan] * 4, [1e-17 + 0.1] * 4]
)
def test_what_has_no_correlation_is_nan_and_stands_last(values: list[float]) -> None:
    performance = [0.9, 0.8, 0.7, 0.5]
    results = [
        window(i, [drift("odd", v), drift("even", -p), auc(p)])
        for i, (v, p) in enumerate(zip(values, performance, strict=True))
    ]
    ranked = rank_by_correlation(
        results, metric=JS, performance="roc_auc", mean_reference_performance=0.9
    )
    assert [r.feature for r in ranked] == ["even", "odd"]
    assert ranked[0].score == pytest.approx(1.0)
    assert isnan(ranked[1].score)
    assert isnan(ranked[1].p_value)


def test_without_windows_or_performance_there_is_nothing_to_correlate() -> None:
    def ranked(results: list[WindowResult]) -> list[Ranked]:
        return rank_by_correlation(
            results, metric=JS, performance="roc_auc", mean_reference_performance=0.5
        )

    assert ranked([]) == []
    assert rank_by_alerts([], metric=JS) == []
    (alone,) = ranked([window(0, [drift("a", 0.1)]), window(1, [drift("a", 0.2)])])
    assert isnan(alone.score)


def test_windows_of_several_series_are_refused() -> None:
    mixed = [window(0, [drift("a", 0.1)]), window(0, [drift("a", 0.1)], segment="eu")]
    with pytest.raises(ValueError, match="several series"):
        rank_by_alerts(mixed, metric=JS)


finite = st.floats(-1, 1, allow_subnormal=False)


@given(
    st.lists(st.tuples(finite | st.just(nan), finite | st.just(nan)), max_size=12),
    st.floats(0, 1),
)
def test_correlation_is_scipys_on_the_windows_that_have_both(
    pairs: list[tuple[float, float]], mean: float
) -> None:
    results = [window(i, [drift("a", v), auc(p)]) for i, (v, p) in enumerate(pairs)]
    ranked = rank_by_correlation(
        results, metric=JS, performance="roc_auc", mean_reference_performance=mean
    )
    both = [(v, abs(p - mean)) for v, p in pairs if not (isnan(v) or isnan(p))]
    assert len(ranked) == bool(pairs)
    if pairs and (len(both) < 2 or any(len(set(side)) == 1 for side in zip(*both, strict=True))):
        assert isnan(ranked[0].score)
    elif pairs:
        drifts, changes = np.array(both).T
        if np.ptp(drifts) > 1e-9 and np.ptp(changes) > 1e-9:
            expected = stats.linregress(drifts, changes)
            assert ranked[0].score == pytest.approx(expected.rvalue, abs=1e-9)


@given(st.lists(st.lists(st.sampled_from([True, False, None]), min_size=3, max_size=3)))
def test_alert_counts_do_not_depend_on_the_order_of_windows_or_values(
    alerts: list[list[bool | None]],
) -> None:
    windows = [
        [drift(feature, 0.1, alert=alert) for feature, alert in zip("abc", row, strict=True)]
        for row in alerts
    ]

    def results(step: int) -> list[WindowResult]:
        return [window(i, values[::step]) for i, values in enumerate(windows[::step])]

    assert rank_by_alerts(results(1), metric=JS) == rank_by_alerts(results(-1), metric=JS)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_table_gives_back_its_windows(
    car_loan: list[WindowResult], tmp_path: Path, suffix: str
) -> None:
    timed = [
        WindowResult("m", "", "", "hour", 3, 1_500_000, 3_600_000_000, 7, True,
                     (drift("a,b", nan, alert=None), auc(0.5)), 2),
        WindowResult("m", "", "", "hour", 4, 0, 0, 7, True, (drift("a,b", 1.0, alert=False),), 0),
    ]  # fmt: skip
    path = tmp_path / f"table.{suffix}"
    write([*car_loan, *timed], path)
    assert repr(read_results(str(path))) == repr([*car_loan, *timed])


def test_the_newest_revision_of_a_window_counts(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    old, new = window(0, [drift("a", 0.1)]), window(0, [drift("a", 0.2)])
    write([old, replace(new, revision=1), old], path)
    (read,) = read_results(str(path))
    assert (read.revision, [v.value for v in read.values]) == (1, [0.2])


def test_the_command_prints_a_ranking(
    car_loan: list[WindowResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, importances = tmp_path / "table.parquet", tmp_path / "importances.json"
    write(car_loan, table)
    assert main(["rank", str(table)]) == 0
    printed = capsys.readouterr().out
    assert [name for line in printed.splitlines() for name in FEATURES if name in line] == [
        "car_value", "salary_range", "repaid_loan_on_prev_car", "loan_length",
        "debt_to_income_ratio", "size_of_downpayment", "driver_tenure",
    ]  # fmt: skip
    assert "█" in printed
    importances.write_text('{"driver_tenure": 1000, "car_value": 1}')
    by_importance = ["--by", "importance", "--importances", str(importances)]
    assert main(["rank", str(table), *by_importance]) == 0
    printed = capsys.readouterr().out
    assert printed.index("driver_tenure") < printed.index("car_value")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--by", "correlation"], "--reference"),
        (["--by", "importance"], "--importances"),
        (["--metric", "psi"], "no drift/psi"),
        (["--model", "other"], "fit 0 of its series; choose from --model 'm'"),
        (["--by", "correlation", "--reference", "x", "--performance", "f1"],
         "no realized_performance/f1"),
        (["--by", "correlation", "--reference", "x", "--estimated"],
         "no estimated_performance/roc_auc"),
    ],
)  # fmt: skip
def test_the_command_says_what_is_wrong(
    options: list[str],
    message: str,
    car_loan: list[WindowResult],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = tmp_path / "table.csv"
    write(car_loan, table)
    assert main(["rank", str(table), *options]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", ["[1]", '{"a": -1}', '{"a": "x"}', "{", '{"a": true}'])
def test_importances_of_another_shape_are_refused(
    content: str,
    car_loan: list[WindowResult],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    table, importances = tmp_path / "table.csv", tmp_path / "importances.json"
    write(car_loan, table)
    importances.write_text(content)
    options = ["--by", "importance", "--importances", str(importances)]
    assert main(["rank", str(table), *options]) == 1
    assert "write an object of numbers" in capsys.readouterr().err


def test_a_file_of_another_kind_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "events.csv"
    table.write_text("a,b\n1,2\n")
    assert main(["rank", str(table)]) == 1
    assert "has no column model" in capsys.readouterr().err


def test_a_backtest_is_ranked_by_its_correlation_with_realised_performance(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "monitor.yaml"
    config.write_text("""
models: [{name: price, reference: price.ref}]
compat: nannyml
mapping: {features: ., prediction: y_pred, score: null, scores: null, label: y_true, \
timestamp: timestamp}
windows: [{name: chunk, rows: 5000}]
methods: {continuous: [jensen_shannon], categorical: [jensen_shannon], quality: [], \
outliers: false, blocks: [realized_losses]}
""")
    data = shared_data / "nannyml_car_price"
    reference, table = tmp_path / "price.ref", tmp_path / "table.parquet"
    command = ["--config", str(config), "--output"]
    assert main(["reference", "build", f"{data}_reference.parquet", *command, str(reference)]) == 0
    events = ["--events", f"{data}_analysis.parquet", "--labels", f"{data}_targets.parquet"]
    assert main(["backtest", *events, *command, str(table)]) == 0
    own = reference_performance(shared_data)
    assert reference_mean_of(reference, REALIZED, "mae") == pytest.approx(own, rel=1e-9)
    capsys.readouterr()
    by = ["--by", "correlation", "--performance", "mae", "--reference", str(reference)]
    assert main(["rank", str(table), *by]) == 0
    printed = capsys.readouterr().out
    ranked = rank_by_correlation(
        read_results(str(table)), metric=JS, performance="mae", mean_reference_performance=own
    )
    order = [r.feature for r in ranked]
    assert "correlation_with_realized_mae" in printed
    assert sorted(order, key=lambda name: printed.index(f" {name} ")) == order
    assert main(["rank", str(table), *by[:3], "bias", *by[4:]]) == 1
    with pytest.raises(ProfileError, match="no realized_performance/bias"):
        reference_mean_of(reference, REALIZED, "bias")


def reference_performance(data: Path) -> float:
    rows = rows_of(data / "nannyml_car_price_performance.csv")
    own = [row for row in rows if row["metric"] == "mae" and row["period"] == "reference"]
    return float(np.mean([float(row["value"]) for row in own]))


def test_a_reference_brings_importances(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worlds.build(tmp_path, reference={"importances": {"channel": 5.0, "age": 0.1}})
    (tmp_path / "events.jsonl").write_bytes(b"\n".join(worlds.events(2_000, 2, shift=0.5)))
    (tmp_path / "monitor.yaml").write_bytes(
        orjson.dumps(worlds.raw_config(windows=[{"name": "batch", "rows": 1_000}]))
    )
    arguments = ["--config", str(tmp_path / "monitor.yaml"), "--output", str(tmp_path / "t.csv")]
    assert main(["backtest", "--events", str(tmp_path / "events.jsonl"), *arguments]) == 0
    reference = ["--reference", str(tmp_path / "loans.ref")]
    assert main(["rank", str(tmp_path / "t.csv"), "--by", "importance", *reference]) == 0
    lines = capsys.readouterr().out.splitlines()
    ranked = [line.split("│")[2].strip() for line in lines if "│" in line]
    assert set(ranked[:2]) == {"channel", "age"}


def test_an_importance_of_what_is_no_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"reference\.importances\.nothing: .* it has age"):
        worlds.build(tmp_path, reference={"importances": {"nothing": 1.0}})
