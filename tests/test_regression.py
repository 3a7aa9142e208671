"""Realized and estimated losses of a regression: NannyML's tables, scikit-learn, and the laws."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from stream_monitor.errors import ProfileError
from stream_monitor.methods import gradient_boosting
from stream_monitor.methods.base import BlockMethod, Chunks, Study
from stream_monitor.methods.regression.direct_loss_estimation import DirectLossEstimation
from stream_monitor.methods.regression.losses import METRICS
from stream_monitor.methods.regression.realized_losses import RealizedLosses
from stream_monitor.panes.layout import Counted
from stream_monitor.schema import FloatArray, Role, Schema
from stream_monitor.values import REALIZED
from tests.blocks import (
    Columns,
    Counting,
    assert_any_parts_count_the_same,
    cells_from,
    data_set,
    learned,
    nannyml_table,
    parts,
)

DLE, REALIZED_LOSSES = DirectLossEstimation(), RealizedLosses()
ROLES = {"prediction": Role.PREDICTION, "target": Role.TARGET, "score": Role.SCORE}
NAMES = [metric.name for metric in METRICS]
CAR_PRICE = [
    *("car_age", "km_driven", "price_new", "accident_count", "door_count"),
    *("fuel", "transmission"),
]
PEERS = {
    "mae": metrics.mean_absolute_error,
    "mape": metrics.mean_absolute_percentage_error,
    "mse": metrics.mean_squared_error,
    "rmse": metrics.root_mean_squared_error,
    "msle": metrics.mean_squared_log_error,
    "rmsle": metrics.root_mean_squared_log_error,
}


def houses(rows: int, seed: int, *, gaps: float = 0.0) -> dict[str, Any]:
    """Prices with an error that grows with the size and depends on the kind."""
    rng = np.random.default_rng(seed)
    size = rng.gamma(4, 20, rows)
    kind = rng.integers(0, 3, rows)
    price = 1_000 * size * (1 + kind)
    error = rng.normal(size=rows) * size * (100 + 200 * kind)
    columns: dict[str, Any] = {
        "size": size,
        "noise": rng.normal(size=rows),
        "kind": [["flat", "house", "villa"][k] for k in kind.tolist()],
        "prediction": price,
        "target": np.abs(price + error),
    }
    for name in ("size", "prediction", "target"):
        columns[name][rng.random(rows) < gaps] = np.nan
    return columns


def learned_from(method: BlockMethod, reference: Columns, **more: Any) -> Counting:
    return learned(method, reference, roles=ROLES, **more)


def counted_in_chunks(counting: Counting, columns: Columns) -> list[Counted]:
    return [Counted(counting.layout, c) for c in counting.chunks(columns, 5_000)]


def car_price(folder: Path) -> dict[str, dict[str, Any]]:
    """The data set with our names; the targets of the analysis lie in a file of their own."""
    prefix = "nannyml_car_price"
    found = {
        "reference": data_set(folder, prefix, "reference", [*CAR_PRICE, "y_pred", "y_true"]),
        "analysis": data_set(folder, prefix, "analysis", [*CAR_PRICE, "y_pred"])
        | data_set(folder, prefix, "targets", ["y_true"]),
    }
    for columns in found.values():
        columns["prediction"] = columns.pop("y_pred")
        columns["target"] = columns.pop("y_true")
    return found


@pytest.mark.parametrize(
    ("method", "table", "tolerance"),
    [(REALIZED_LOSSES, "performance", 1e-9), (DLE, "dle", 1e-2)],
    ids=["realized", "dle"],
)
def test_equals_nannyml(
    method: BlockMethod, table: str, tolerance: float, shared_data: Path
) -> None:
    data = car_price(shared_data)
    ours = learned_from(method, data["reference"], compat=True)
    true = learned_from(REALIZED_LOSSES, data["reference"], compat=True)
    found = {
        period: ours.measure(*counted_in_chunks(ours, columns)) for period, columns in data.items()
    }
    # estimates are judged by bounds from the realized values
    chunks = true.measure(*counted_in_chunks(true, data["reference"]))
    worst: dict[str, float] = {}
    judged = 0
    for row in nannyml_table(shared_data, f"nannyml_car_price_{table}.csv"):
        own = found[row["period"]][row["chunk_index"]][row["metric"], ""]
        assert own.definition.chunks is Chunks.BOTH
        assert own.definition.chunk_family == REALIZED
        realized = [c[row["metric"], ""].value for c in chunks]
        reach = 3 * float(np.std(realized))
        middle = float(np.mean(realized))
        lower, upper = middle - reach, middle + reach
        fields = {
            "value": own.value,
            "sampling_error": own.sampling_error,
            "lower_threshold": lower,
            "upper_threshold": upper,
        }
        if table == "dle":
            fields["lower_confidence"] = own.lower_confidence
            fields["upper_confidence"] = own.upper_confidence
        for field, value in fields.items():
            worst[field] = max(worst.get(field, 0.0), abs(value / row[field] - 1))
        assert (own.value < lower or own.value > upper) is row["alert"], row
        judged += 1
    print(table, {field: f"{difference:.1e}" for field, difference in worst.items()})
    assert judged == 24 * len(METRICS)
    assert worst.pop("sampling_error") < 1e-7
    assert max(worst["lower_threshold"], worst["upper_threshold"]) < 1e-9
    assert max(worst.values()) < tolerance


@pytest.mark.parametrize("seed", range(3))
def test_realized_losses_equal_scikit_learn(seed: int) -> None:
    counting = learned_from(REALIZED_LOSSES, houses(2_000, seed))
    window = houses(700, seed + 10, gaps=0.2)
    found = counting.values(window)
    both = np.isfinite(window["target"]) & np.isfinite(window["prediction"])
    for name, peer in PEERS.items():
        expected = peer(window["target"][both], window["prediction"][both])
        assert found[name, ""].value == pytest.approx(expected, rel=1e-11)
        assert found[name, ""].rows == both.sum()


def test_targets_of_zero_are_as_exact_as_others() -> None:
    reference, window = houses(1_000, 1), houses(300, 2)
    window["target"][:7] = 0.0
    window["target"][7:9] = 1e-20, -1e-20
    found = learned_from(REALIZED_LOSSES, reference).values(window)
    expected = PEERS["mape"](window["target"], window["prediction"])
    assert found["mape", ""].value == pytest.approx(expected, rel=1e-11)
    assert found["extreme_losses", ""].value == 0
    reference["target"][:50] = 0.0
    found = learned_from(REALIZED_LOSSES, reference).values(window)
    relative = np.abs(reference["target"] - reference["prediction"]) / np.maximum(
        np.abs(reference["target"]), np.finfo(float).eps
    )
    assert found["mape", ""].sampling_error == pytest.approx(relative.std() / math.sqrt(300))


def test_negative_numbers_have_no_logarithmic_loss() -> None:
    counting = learned_from(REALIZED_LOSSES, houses(1_000, 3))
    window = houses(200, 4)
    window["target"][:3] *= -1
    window["prediction"][3] = -0.5
    found = counting.values(window)
    assert found["negative_rows", ""].value == 4
    assert math.isnan(found["msle", ""].value)
    assert math.isnan(found["rmsle", ""].value)
    for name in ("mae", "mape", "mse", "rmse"):
        expected = PEERS[name](window["target"], window["prediction"])
        assert found[name, ""].value == pytest.approx(expected, rel=1e-11)


def test_an_extreme_error_is_clipped_and_counted() -> None:
    reference = houses(1_000, 5)
    counting = learned_from(REALIZED_LOSSES, reference)
    window = houses(100, 6)
    window["prediction"][:3] = 1e300, -1e300, 1.7e308
    found = counting.values(window)
    assert found["extreme_losses", ""].value == 3
    mean = np.abs(reference["target"] - reference["prediction"]).mean()
    assert 3 * 2**18 < 100 * found["mae", ""].value / mean < 3 * 2**19 + 1_000
    assert math.isfinite(found["rmse", ""].value)


def test_perfect_predictions_have_no_loss() -> None:
    reference = houses(500, 7)
    reference["target"] = reference["prediction"].copy()
    counting = learned_from(REALIZED_LOSSES, reference)
    found = counting.values(reference)
    assert [found[name, ""].value for name in NAMES] == [0.0] * 6
    window = houses(100, 8)
    found = counting.values(window)
    for name, peer in PEERS.items():
        expected = peer(window["target"], window["prediction"])
        assert found[name, ""].value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("method", [REALIZED_LOSSES, DLE], ids=["realized", "dle"])
def test_windows_like_the_reference_are_spread_as_stated(method: BlockMethod) -> None:
    counting = learned_from(method, houses(10_000, 9))
    chunks = counting.chunks(houses(60_000, 10), 200)
    measured = counting.measure(*(Counted(counting.layout, c) for c in chunks))
    for name in NAMES:
        values = [found[name, ""] for found in measured]
        z = [(m.value - m.expected) / m.spread for m in values]
        assert np.mean(z) == pytest.approx(0, abs=0.3), name
        assert np.std(z) == pytest.approx(1, abs=0.15), name


def test_estimates_follow_the_inputs() -> None:
    counting = learned_from(DLE, houses(10_000, 11))
    true = learned_from(REALIZED_LOSSES, houses(10_000, 11))
    rows = houses(20_000, 12)
    villas = np.flatnonzero(np.array(rows["kind"]) == "villa")[:2_000].tolist()
    window = {name: np.array(values)[villas] for name, values in rows.items()}
    for name in ("mae", "mape", "mse", "rmse"):
        realized, estimated = (c.values(window)[name, ""] for c in (true, counting))
        assert estimated.value == pytest.approx(realized.value, rel=0.12)
        assert estimated.value > 1.15 * estimated.expected


def test_estimates_equal_lightgbm_itself() -> None:
    from lightgbm import LGBMRegressor

    reference, window = houses(3_000, 13, gaps=0.05), houses(400, 14, gaps=0.05)
    reference["size"][:3], window["size"][:2] = np.inf, (np.inf, -np.inf)
    reference["kind"][:100], window["kind"][:9] = [None] * 100, [None] * 9
    window["kind"][9:30] = ["never seen"] * 21
    codes = {"never seen": 0, "flat": 1, "house": 2, "villa": 3, None: 4}

    def inputs(columns: Columns) -> FloatArray:
        size = np.where(np.isinf(columns["size"]), np.nan, columns["size"])
        kind = [float(codes[k]) for k in columns["kind"]]
        # numbers in schema order, then categories
        return np.column_stack([size, columns["noise"], columns["prediction"], kind])

    both = np.isfinite(reference["target"]) & np.isfinite(reference["prediction"])
    loss = np.abs(reference["target"] - reference["prediction"])[both]
    peer = LGBMRegressor(n_jobs=1, verbosity=-1)
    peer.fit(inputs(reference)[both], loss, categorical_feature=[3])
    expected = np.maximum(peer.predict(inputs(window)), 0)
    own = learned_from(DLE, reference).values(window)["mae", ""]
    there = np.isfinite(window["prediction"])
    assert own.value == pytest.approx(expected[there].mean(), rel=1e-9)
    assert own.rows == there.sum()
    compat = learned_from(DLE, reference, compat=True).values(window)["mae", ""]
    assert compat.value == pytest.approx(expected.mean(), rel=1e-9)
    assert compat.rows == 400
    assert own.sampling_error == compat.sampling_error == loss.std() / math.sqrt(there.sum())


def test_the_same_reference_gives_the_same_models() -> None:
    one, other = (learned_from(DLE, houses(2_000, 15), rows=r).arrays for r in (2_000, 13))
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_negative_references_have_no_estimate_of_logarithmic_losses() -> None:
    reference = houses(500, 16)
    reference["target"][0] = -1.0
    found = learned_from(DLE, reference).values(houses(50, 17))
    assert [name for name, _ in found] == ["mae", "mape", "mse", "rmse"]


@pytest.fixture(scope="module", params=[REALIZED_LOSSES, DLE], ids=["realized", "dle"])
def counting(request: pytest.FixtureRequest) -> Counting:
    return learned_from(request.param, houses(2_000, 18, gaps=0.05))


@given(
    rows=st.integers(1, 60),
    groups=st.integers(1, 5),
    size=st.integers(1, 60),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=50)
def test_any_batches_order_and_groups_count_the_same(
    counting: Counting, rows: int, groups: int, size: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    columns = houses(rows, seed, gaps=0.2)
    columns["target"] *= 10.0 ** rng.integers(-12, 12, rows)
    columns["prediction"][rng.random(rows) < 0.1] = np.inf
    assert_any_parts_count_the_same(counting, columns, groups=groups, size=size, rng=rng)


def test_a_long_batch_counts_as_its_rows(counting: Counting) -> None:
    batch = counting.batch(houses(9_001, 19, gaps=0.1))
    group = np.arange(9_001) % 3
    expected = counting.block.addends(batch).counts(group, 3)
    found = sum(
        counting.block.addends(batch.take(part)).counts(group[part], 3)
        for part in parts(9_001, 500)
    )
    np.testing.assert_array_equal(found, expected)


def test_counting_leaves_the_batch_as_it_was(counting: Counting) -> None:
    columns = houses(300, 20, gaps=0.1)
    columns["size"][:2] = np.inf, -np.inf
    batch = counting.batch(columns)
    numbers, codes = batch.numbers.copy(), batch.codes.copy()
    counting.counts(batch, np.zeros(300, dtype=np.int64), 1)
    np.testing.assert_array_equal(batch.numbers, numbers)
    np.testing.assert_array_equal(batch.codes, codes)


@pytest.mark.parametrize("rows", [0, 30])
def test_a_window_without_predictions_has_no_values(counting: Counting, rows: int) -> None:
    columns = houses(rows, 21)
    columns["prediction"][:] = np.nan
    found = counting.values(columns)
    assert list(found) == list(counting.values(houses(50, 22)))
    assert all(math.isnan(m.value) and math.isnan(m.spread) for m in found.values())
    assert all(m.rows == 0 for m in found.values())


def test_one_row_is_a_window(counting: Counting) -> None:
    found = counting.values(houses(1, 23))
    assert math.isfinite(found["rmse", ""].value)
    assert found["rmse", ""].value ** 2 == pytest.approx(found["mse", ""].value)


@pytest.mark.parametrize("method", [REALIZED_LOSSES, DLE], ids=["realized", "dle"])
def test_applies_to_labelled_regressions_only(method: BlockMethod) -> None:
    columns = houses(20, 24)

    def applies(some: Columns) -> bool:
        cells = cells_from(some, ROLES)
        schema = Schema(tuple(c.column for c in cells.values()))
        return method.learner(Study(schema, cells)) is not None

    assert applies(columns)
    assert not applies(columns | {"score": np.linspace(0, 1, 20)})
    assert not applies(columns | {"target": np.full(20, np.nan)})
    assert not applies(columns | {"prediction": ["yes", "no"] * 10})
    assert not applies({n: v for n, v in columns.items() if n != "target"})


def test_labels_without_predictions_are_an_error() -> None:
    columns = houses(20, 25)
    columns["prediction"][::2] = np.nan
    columns["target"][1::2] = np.nan
    with pytest.raises(ProfileError, match="no row of the reference has both"):
        learned_from(DLE, columns)
    found = learned_from(REALIZED_LOSSES, columns).values(houses(9, 26))
    assert math.isnan(found["mae", ""].spread)


def test_without_lightgbm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    def broken(name: str) -> None:
        raise OSError("libgomp.so.1: cannot open shared object file")

    for importing, remedy in ((missing, r"stream-monitor\[lightgbm\]"), (broken, "libgomp1")):
        gradient_boosting._lightgbm.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(gradient_boosting, "import_module", importing)
            with pytest.raises(ProfileError, match=remedy):
                learned_from(DLE, houses(50, 27))
    gradient_boosting._lightgbm.cache_clear()
