"""PCA reconstruction error against NannyML's tables and scikit-learn, and its laws."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from stream_monitor.methods.base import Chunks, Study
from stream_monitor.methods.reconstruction import ReconstructionError
from stream_monitor.panes.layout import Counted
from stream_monitor.schema import FloatArray, IntArray, Role, Schema
from tests.blocks import (
    Columns,
    Counting,
    assert_any_parts_count_the_same,
    cells_from,
    data_set,
    differences,
    learned,
    nannyml_table,
    parts,
)

METHOD = ReconstructionError()
ERROR = ("reconstruction_error", "")
CLIPPED = ("reconstruction_clipped", "")
FEATURES = {
    "car_loan": "car_value salary_range debt_to_income_ratio loan_length repaid_loan_on_prev_car "
    "size_of_downpayment driver_tenure",
    "binary": "distance_from_office salary_range gas_price_per_litre public_transportation_cost "
    "wfh_prev_workday workday tenure",
    "multiclass": "acq_channel app_behavioral_score requested_credit_limit app_channel "
    "credit_bureau_score stated_income is_customer",
    "car_price": "car_age km_driven price_new accident_count door_count fuel transmission",
}


def mixed(rows: int, seed: int, *, gaps: float = 0.05) -> dict[str, Any]:
    """Related numbers and categories, some of them missing."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(rows, 2))
    numbers = hidden @ rng.normal(size=(2, 4)) + rng.normal(size=(rows, 4))
    numbers *= [1.0, 1e3, 1e-4, 20.0]
    numbers += [0.0, 1e5, 1.0, -7.0]
    numbers[rng.random(numbers.shape) < gaps] = np.nan
    names = np.array(["a", "b", "c", "d"], dtype=object)
    color = names[np.digitize(hidden[:, 0], [-0.5, 0.2, 1.4])]
    flag = np.array(["no", "yes"], dtype=object)[(hidden[:, 1] > 0.3).astype(int)]
    color[rng.random(rows) < gaps] = None
    found: dict[str, Any] = {f"x{i}": column for i, column in enumerate(numbers.T)}
    return found | {"color": list(color), "flag": list(flag)}


class Peer:
    """The same with scikit-learn, from NannyML's description."""

    def __init__(self, reference: Columns) -> None:
        self._fill: dict[str, float] = {}
        self._share: dict[str, dict[str, float]] = {}
        for name, values in reference.items():
            if isinstance(values, np.ndarray):
                self._fill[name] = float(np.nanmean(values))
                continue
            known = sorted({v for v in values if v is not None})
            counts = {v: list(values).count(v) for v in known}
            mode = max(known, key=counts.__getitem__)
            counts[mode] += list(values).count(None)
            share = {v: c / len(values) for v, c in counts.items()}
            self._share[name] = share | {"": share[mode]}
        encoded = self._encoded(reference)
        self._scaler = StandardScaler().fit(encoded)
        self._pca = PCA(n_components=0.65).fit(self._scaler.transform(encoded))

    def _encoded(self, columns: Columns) -> FloatArray:
        found = []
        for name, values in columns.items():
            if name in self._fill:
                own = np.asarray(values, dtype=np.float64)
                found.append(np.where(np.isnan(own), self._fill[name], own))
            else:
                share = self._share[name]
                found.append(np.array([share.get("" if v is None else v, 0.0) for v in values]))
        return np.column_stack(found)

    def residuals(self, columns: Columns) -> FloatArray:
        z = self._scaler.transform(self._encoded(columns))
        found: FloatArray = z - self._pca.inverse_transform(self._pca.transform(z))
        return found


@pytest.mark.parametrize("name", FEATURES)
def test_equals_nannyml(name: str, shared_data: Path) -> None:
    names, prefix = FEATURES[name].split(), f"nannyml_{name}"
    counting = learned(
        METHOD, data_set(shared_data, prefix, "reference", names), rows=7_000, compat=True
    )
    table = nannyml_table(shared_data, f"{prefix}_reconstruction.csv")
    analysis = data_set(shared_data, prefix, "analysis", names)
    worst = differences(counting, analysis, table, ERROR[0])
    assert max(worst.pop("sampling_error").values()) < 5e-7
    for field, columns in worst.items():
        assert max(columns.values()) < 1e-8, field


def test_equals_scikit_learn_with_gaps_and_unseen_categories() -> None:
    reference, window = mixed(4_000, 1), mixed(900, 2)
    window["color"][5] = window["color"][17] = "never seen"
    residuals = Peer(reference).residuals(window)
    norms = np.linalg.norm(residuals, axis=1)
    found = learned(METHOD, reference).values(window)
    error = found[ERROR]
    assert error.value == pytest.approx(norms.mean(), rel=1e-7)
    assert error.sampling_error == pytest.approx(norms.std(ddof=1) / math.sqrt(900), rel=1e-6)
    assert error.upper_confidence == pytest.approx(error.value + 3 * error.sampling_error)
    assert error.lower_confidence == pytest.approx(error.value - 3 * error.sampling_error)
    squares = (residuals**2).mean(axis=0)
    for name, square in zip(reference, squares, strict=True):
        contribution = found["reconstruction_contribution", name]
        assert contribution.value == pytest.approx(square / squares.sum(), abs=1e-6)
        assert contribution.definition.chunks is Chunks.NONE


def test_windows_like_the_reference_are_spread_as_stated() -> None:
    rows = mixed(40_000, 3)
    order = np.random.default_rng(4).permutation(40_000)

    def chosen(places: IntArray) -> dict[str, Any]:
        return {
            name: values[places]
            if isinstance(values, np.ndarray)
            else [values[i] for i in places.tolist()]
            for name, values in rows.items()
        }

    counting = learned(METHOD, chosen(order[:10_000]))
    chunks = counting.chunks(chosen(order[10_000:]), 100)
    measured = counting.measure(*(Counted(counting.layout, c) for c in chunks))
    z = [(m.value - m.expected) / m.spread for values in measured for m in [values[ERROR]]]
    assert np.mean(z) == pytest.approx(0, abs=0.3)
    assert np.std(z) == pytest.approx(1, abs=0.15)


def test_the_reference_in_any_batches_gives_the_same_subspace() -> None:
    reference = mixed(3_000, 5)
    whole, pieces = learned(METHOD, reference, rows=3_000), learned(METHOD, reference, rows=7)
    assert whole.arrays.keys() == pieces.arrays.keys()
    for name in ("columns", "center", "scale", "encoding"):
        np.testing.assert_allclose(whole.arrays[name], pieces.arrays[name], rtol=1e-12)
    one, other = (c.arrays["components"] for c in (whole, pieces))
    np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-12)


@pytest.fixture(scope="module")
def counting() -> Counting:
    return learned(METHOD, mixed(2_000, 6))


@given(
    rows=st.integers(1, 60),
    groups=st.integers(1, 5),
    size=st.integers(1, 60),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=60)
def test_any_batches_order_and_groups_count_the_same(
    counting: Counting, rows: int, groups: int, size: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    columns = mixed(rows, seed)
    columns["x0"] = columns["x0"] * 10.0 ** rng.integers(0, 12)
    assert_any_parts_count_the_same(counting, columns, groups=groups, size=size, rng=rng)


def test_a_long_batch_counts_as_its_rows_one_by_one(counting: Counting) -> None:
    batch = counting.batch(mixed(9_001, 7))
    nothing = np.zeros(9_001, dtype=np.int64)
    expected = counting.block.addends(batch).counts(nothing, 1)
    found = sum(
        counting.block.addends(batch.take(part)).counts(nothing[part], 1)
        for part in parts(9_001, 1)
    )
    np.testing.assert_array_equal(found, expected)


def test_counting_leaves_the_batch_as_it_was(counting: Counting) -> None:
    columns = mixed(500, 8)
    columns["x1"][:3] = np.inf, -np.inf, 1e300
    batch = counting.batch(columns)
    numbers, codes = batch.numbers.copy(), batch.codes.copy()
    counting.counts(batch, np.zeros(500, dtype=np.int64), 1)
    np.testing.assert_array_equal(batch.numbers, numbers)
    np.testing.assert_array_equal(batch.codes, codes)


def test_what_is_no_number_counts_as_missing(counting: Counting) -> None:
    gaps, infinite = mixed(300, 9), mixed(300, 9)
    gaps["x2"][:50] = np.nan
    infinite["x2"][:25], infinite["x2"][25:50] = np.inf, -np.inf
    assert counting.values(gaps)[ERROR] == counting.values(infinite)[ERROR]
    assert counting.values(infinite)[CLIPPED].value == 0


def test_a_value_far_away_is_clipped_and_counted(counting: Counting) -> None:
    columns = mixed(100, 10)
    columns["x0"][:4] = 1e9, -1e9, 1e300, -1.7e308
    found = counting.values(columns)
    assert found[CLIPPED].value == 4
    assert math.isfinite(found[ERROR].value)
    assert found["reconstruction_contribution", "x0"].value > 0.5


def test_a_window_without_rows_has_no_values(counting: Counting) -> None:
    empty = {name: values[:0] for name, values in mixed(5, 11).items()}
    found = counting.values(empty)
    assert all(math.isnan(m.value) for m in found.values())
    assert math.isnan(found[ERROR].sampling_error)
    assert math.isnan(found[ERROR].lower_confidence)
    assert math.isnan(found[ERROR].spread)
    assert list(found) == list(counting.values(mixed(50, 12)))


def test_equal_rows_have_no_sampling_error(counting: Counting) -> None:
    columns = {name: [values[3]] * 50 for name, values in mixed(5, 13, gaps=0).items()}
    found = counting.values(columns)[ERROR]
    assert found.value > 0
    assert found.sampling_error == 0
    assert math.isnan(counting.values(mixed(1, 14))[ERROR].sampling_error)


def test_constant_columns_are_scaled_by_one() -> None:
    reference = mixed(1_000, 15) | {"one": np.full(1_000, 0.1), "only": ["same"] * 1_000}
    counting = learned(METHOD, reference)
    for number, category in ((0.1, "same"), (3.1, "other")):
        window = mixed(200, 16) | {"one": np.full(200, number), "only": [category] * 200}
        norms = np.linalg.norm(Peer(reference).residuals(window), axis=1)
        assert counting.values(window)[ERROR].value == pytest.approx(norms.mean(), rel=1e-7)


def test_equally_frequent_categories_are_a_constant() -> None:
    reference = mixed(999, 17) | {"third": ["a", "b", "c"] * 333}
    counting = learned(METHOD, reference)
    window = mixed(300, 18) | {"third": ["c"] * 300}
    norms = np.linalg.norm(Peer(reference).residuals(window), axis=1)
    assert counting.values(window)[ERROR].value == pytest.approx(norms.mean(), rel=1e-7)


def test_nothing_varies_nothing_is_lost() -> None:
    reference: dict[str, Any] = {"a": np.ones(50), "b": ["x"] * 50}
    found = learned(METHOD, reference).values(reference)
    assert found[ERROR].value == 0
    assert math.isnan(found["reconstruction_contribution", "a"].value)


def test_numbers_only_and_categories_only() -> None:
    rows = mixed(2_000, 19)
    for names in (["x0", "x1", "x2"], ["color", "flag", "other"]):
        reference = {n: v for n, v in (rows | {"other": rows["color"][::-1]}).items() if n in names}
        window = {n: v[:500] for n, v in reference.items()}
        norms = np.linalg.norm(Peer(reference).residuals(window), axis=1)
        assert learned(METHOD, reference).values(window)[ERROR].value == pytest.approx(
            norms.mean(), rel=1e-6
        )


def test_only_usable_features_enter() -> None:
    columns = mixed(500, 20) | {
        "empty": np.full(500, np.nan),
        "blank": [None] * 500,
        "score": np.linspace(0, 1, 500),
    }
    counting = learned(METHOD, columns, roles={"score": Role.SCORE})
    shown = {feature for metric, feature in counting.values(columns) if feature}
    assert shown == {"x0", "x1", "x2", "x3", "color", "flag"}


def test_one_usable_feature_is_too_few() -> None:
    numbers = np.arange(9.0)
    cells = cells_from({"x": numbers, "y": numbers, "score": numbers}, {"score": Role.SCORE})
    schema = Schema(tuple(c.column for c in cells.values()))
    assert METHOD.learner(Study(schema, cells)) is not None
    assert cells["y"].summary is not None
    vast = replace(cells["y"].summary, maximum=1e200, std=math.inf)
    cells["y"] = replace(cells["y"], summary=vast)
    assert METHOD.learner(Study(schema, cells)) is None


def test_many_features_keep_the_projection_exact() -> None:
    rng = np.random.default_rng(21)
    values = rng.normal(size=(600, 8)) @ rng.normal(size=(8, 150)) + rng.normal(size=(600, 150))
    reference = {f"f{i:03}": column for i, column in enumerate(values.T)}
    counting = learned(METHOD, reference)
    norms = np.linalg.norm(Peer(reference).residuals(reference), axis=1)
    assert counting.values(reference)[ERROR].value == pytest.approx(norms.mean(), rel=1e-6)
    batch = counting.batch(reference)
    expected = counting.counts(batch, np.zeros(600, dtype=np.int64), 1)
    found = sum(
        counting.counts(batch.take(p), np.zeros(len(p), dtype=np.int64), 1) for p in parts(600, 13)
    )
    np.testing.assert_array_equal(found, expected)
