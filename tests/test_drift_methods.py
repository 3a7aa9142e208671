"""Univariate drift methods against NumPy, SciPy and NannyML on the raw values."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import euclidean, jensenshannon
from scipy.special import rel_entr
from scipy.stats import chi2_contingency, ks_2samp, wasserstein_distance

from stream_monitor.cells import Cells
from stream_monitor.errors import ProfileError
from stream_monitor.methods import REGISTRY
from stream_monitor.methods.binning import bins_of, doane_edges, fine_edges
from stream_monitor.methods.stacked import Running, Stacked
from stream_monitor.schema import FloatArray, Kind
from tests.building import cells_of, counts_of, summary_of

CONTINUOUS = [m for m, d in REGISTRY.drift.items() if Kind.CONTINUOUS in d.kinds]
CATEGORICAL = [m for m, d in REGISTRY.drift.items() if Kind.CATEGORICAL in d.kinds]
RNG = np.random.Generator

SHAPES: dict[str, Callable[[RNG, int], FloatArray]] = {
    "normal": lambda r, n: r.normal(3, 2, n),
    "lognormal": lambda r, n: r.lognormal(1, 1.5, n),
    "cauchy": lambda r, n: r.standard_cauchy(n),
    "uniform": lambda r, n: r.random(n) * 1e-6 + 1,
    "integers": lambda r, n: r.poisson(4, n).astype(float),
    "many integers": lambda r, n: r.integers(0, 5000, n).astype(float),
    "binary": lambda r, n: (r.random(n) < 0.1).astype(float),
    "constant": lambda _, n: np.full(n, 7.25),
    "zero": lambda _, n: np.zeros(n),
    "zero-inflated": lambda r, n: np.where(r.random(n) < 0.6, 0.0, r.gamma(2, 100, n)),
    "two clusters": lambda r, n: r.normal(0, 1, n) + np.where(r.random(n) < 0.5, -1e4, 9),
    "rounded": lambda r, n: np.round(r.normal(0, 1, n), 2),
}  # fmt: skip

# how a window differs from the reference
CHANGES: dict[str, Callable[[RNG, FloatArray], FloatArray]] = {
    "none": lambda _, x: x,
    "shifted": lambda _, x: x + 0.8 * unit(x.std()),
    "scaled": lambda _, x: x * 1.7,
    "all below": lambda _, x: x - 3 * unit(np.ptp(x)),
    "sentinel": lambda r, x: np.where(r.random(len(x)) < 0.1, -9_999 * unit(np.ptp(x)), x),
    "other values": lambda r, x: r.normal(x.mean(), x.std() + 0.1, len(x)),
}


def unit(scale: Any) -> float:
    return float(scale) or 1.0


def distance(metric: str, cells: Cells, window: Any) -> float:
    counts = counts_of(cells, window)[: cells.size]
    return float(REGISTRY.drift[metric].bind(cells).distance(cells.values, counts))


def nannyml_shares(reference: FloatArray, window: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Shares in NumPy's Doane bins, and of all that lies outside."""
    edges = np.histogram_bin_edges(reference, "doane")
    p = np.histogram(reference, edges)[0] / len(reference)
    inside = np.histogram(window, edges)[0]
    outside = (len(window) - inside.sum()) / len(window)
    return np.append(p, 0.0), np.append(inside / len(window), outside)


def psi(p: FloatArray, q: FloatArray) -> float:
    return float(rel_entr(p, q).sum() + rel_entr(q, p).sum())


@pytest.fixture(params=sorted(SHAPES))
def reference(request: pytest.FixtureRequest) -> FloatArray:
    return SHAPES[request.param](np.random.default_rng(5), 8_000)


@pytest.fixture(params=sorted(CHANGES))
def window(request: pytest.FixtureRequest, reference: FloatArray) -> FloatArray:
    rng = np.random.default_rng(6)
    return CHANGES[request.param](rng, rng.choice(reference, 1_500))


def test_continuous_distances_equal_those_of_the_raw_values(
    reference: FloatArray, window: FloatArray
) -> None:
    cells = cells_of(reference)
    p, q = nannyml_shares(reference, window)
    js = float(jensenshannon(p, q, 2))
    # the square root makes 1e-9 of the rounding in a divergence of 1e-17
    assert distance("jensen_shannon", cells, window) == pytest.approx(js, rel=1e-9, abs=1e-8)
    hellinger = euclidean(np.sqrt(p), np.sqrt(q)) / np.sqrt(2)
    assert distance("hellinger", cells, window) == pytest.approx(hellinger, rel=1e-9, abs=1e-8)

    ks = ks_2samp(reference, window, method="asymp").statistic
    found = distance("kolmogorov_smirnov", cells, window)
    if cells.summary is not None and len(cells.summary.distinct):
        assert found == pytest.approx(ks, abs=1e-12)
    else:
        fullest = max(cells.values.max() / len(reference), counts_of(cells, window).max() / 1_500)
        assert ks - fullest - 1e-12 <= found <= ks + 1e-12


@pytest.mark.parametrize("metric", ["jensen_shannon", "hellinger"])
def test_all_that_lies_outside_the_bins_is_one_bin(metric: str) -> None:
    cells = cells_of([0.0, 1.0, 2.0])
    below, above = counts_of(cells, [-5.0])[: cells.size], counts_of(cells, [9.0])[: cells.size]
    bound = REGISTRY.drift[metric].bind(cells)
    assert float(bound.distance(below, above)) == 0
    assert float(bound.distance(below, cells.values)) == pytest.approx(1)


def test_psi_equals_the_sum_over_the_references_deciles(window: FloatArray) -> None:
    reference = np.random.default_rng(7).normal(0, 10, 4_000)
    inner = np.quantile(reference, np.arange(1, 10) / 10, method="inverted_cdf")
    bins = [-np.inf, *inner, np.inf]
    p = (np.histogram(reference, bins)[0] + 0.5) / (4_000 + 5)
    q = (np.histogram(window, bins)[0] + 0.5) / (len(window) + 5)
    assert distance("psi", cells_of(reference), window) == pytest.approx(psi(p, q), rel=1e-9)


def test_psi_without_drift_averages_what_theory_says() -> None:
    # E = (B − 1)(1/n + 1/m) to first order: Yurdakul & Naranjo (2020), J. of Risk Model Validation
    rng = np.random.default_rng(8)
    cells = cells_of(rng.normal(size=20_000))
    share = cells.values / cells.values.sum()
    method = REGISTRY.drift["psi"].bind(cells)
    found = method.distance(
        rng.multinomial(20_000, share, 4_000), rng.multinomial(1_000, share, 4_000)
    )
    assert found.mean() == pytest.approx(9 * (1 / 20_000 + 1 / 1_000), rel=0.03)


@pytest.mark.parametrize("shape", ["constant", "binary", "zero", "zero-inflated"])
def test_a_value_that_fills_deciles_is_told_from_larger_ones(shape: str) -> None:
    reference = SHAPES[shape](np.random.default_rng(9), 5_000)
    moved = np.where(reference == np.median(reference), reference + 1e-3, reference)
    cells = cells_of(reference)
    for metric in ("psi", "kolmogorov_smirnov", "wasserstein"):
        assert distance(metric, cells, moved) > 10 * distance(metric, cells, reference) + 1e-4, (
            metric
        )


def test_a_changed_sign_of_heavy_tailed_values_is_not_blown_up_by_the_range() -> None:
    rng = np.random.default_rng(14)
    reference = rng.lognormal(0, 3, 20_000)
    window = rng.lognormal(0, 3, 5_000)
    window[window < 100] *= -1
    raw = wasserstein_distance(reference, window)
    assert distance("wasserstein", cells_of(reference), window) == pytest.approx(raw, rel=0.2)


def test_wasserstein_is_scipys_of_the_cells_points(
    reference: FloatArray, window: FloatArray
) -> None:
    cells = cells_of(reference)
    counts = counts_of(cells, window)[: cells.size]
    expected = wasserstein_distance(cells.points, cells.points, cells.values, counts)
    found = distance("wasserstein", cells, window)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9 * unit(np.ptp(reference)))


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("change", ["shifted", "scaled", "all below", "sentinel"])
def test_wasserstein_of_drift_is_close_to_scipys_of_the_raw_values(shape: str, change: str) -> None:
    rng = np.random.default_rng(10)
    reference = SHAPES[shape](rng, 20_000)
    window = CHANGES[change](rng, rng.choice(reference, 5_000))
    low, high = reference.min(), reference.max()
    away = np.maximum(low - window, window - high) / unit(high - low)
    # how much of the way that values have moved lies beyond the range, in coarse and coarser cells
    beyond, far = away[away > 0].sum() / len(window), away[away > 16].sum() / len(window)
    raw = wasserstein_distance(reference, window)
    error = (0.01 * raw / unit(high - low) + 0.25 * beyond + far) * unit(high - low)
    if shape == "cauchy":  # nearly all of the range is nearly empty: 48 cells of equal width
        error += (high - low) / 96
    assert distance("wasserstein", cells_of(reference), window) == pytest.approx(raw, abs=error)


@pytest.mark.parametrize("kind", [Kind.CATEGORICAL, Kind.BOOLEAN])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 400), m=st.integers(1, 400))
def test_categorical_distances_equal_those_of_the_raw_values(
    kind: Kind, seed: int, n: int, m: int
) -> None:
    rng = np.random.default_rng(seed)
    names = np.array([True, False] if kind is Kind.BOOLEAN else list("abcdefgh"), dtype=object)
    alpha = rng.choice([0.05, 0.5, 5.0])
    reference = rng.choice(names, n, p=rng.dirichlet(np.full(len(names), alpha)))
    window = rng.choice(names, m, p=rng.dirichlet(np.full(len(names), alpha)))
    if kind is Kind.CATEGORICAL:
        window[rng.random(m) < rng.choice([0.0, 0.1])] = "new"
    cells = cells_of(reference.tolist(), kind)

    known = names.tolist() if kind is Kind.BOOLEAN else sorted(set(reference.tolist()))
    a = np.array([*(np.sum(reference == c) for c in known), 0])
    b = np.array([np.sum(window == c) for c in known])
    b = np.append(b, m - b.sum())
    p, q = a / n, b / m
    size = len(a)
    table = np.array([a, b])[:, (a + b) > 0]
    expected = {
        "jensen_shannon": float(jensenshannon(p, q, 2)),
        "hellinger": euclidean(np.sqrt(p), np.sqrt(q)) / np.sqrt(2),
        "l_infinity": float(np.abs(p - q).max()),
        "chi2": float(chi2_contingency(table).statistic),
        "psi": psi((a + 0.5) / (n + size / 2), (b + 0.5) / (m + size / 2)),
    }
    assert sorted(expected) == sorted(CATEGORICAL)
    for metric, value in expected.items():
        found = distance(metric, cells, window.tolist())
        assert found == pytest.approx(value, rel=1e-9, abs=1e-8), metric


# --- laws of all methods ----------------------------------------------------------------------


def example(metric: str, seed: int, shape: str) -> tuple[Cells, np.ndarray[Any, Any]]:
    """Cells, and 12 windows int64[12, K] of which some are empty or outside."""
    rng = np.random.default_rng(seed)
    kind = Kind.CONTINUOUS if metric in CONTINUOUS else Kind.CATEGORICAL
    values: Any = SHAPES[shape](rng, 700)
    cells = cells_of(values if kind is Kind.CONTINUOUS else np.round(values).astype(int), kind)
    share = rng.dirichlet(np.full(cells.size, 0.1), 12)
    windows = np.array([rng.multinomial(int(rng.integers(0, 3) * 90), s) for s in share])
    windows[0] = 0
    return cells, windows


@settings(max_examples=40, deadline=None)
@given(
    columns=st.lists(
        st.tuples(
            st.sampled_from(sorted(REGISTRY.drift)),
            st.integers(0, 2**32 - 1),
            st.sampled_from(sorted(SHAPES)),
        ),
        min_size=1,
        max_size=6,
    ),
    beside=st.data(),
)
def test_columns_side_by_side_are_columns_by_themselves(
    columns: list[tuple[str, int, str]], beside: st.DataObject
) -> None:
    examples = {str(i): example(*column) for i, column in enumerate(columns)}
    cells = {name: own for name, (own, _) in examples.items()}
    drift = {
        (name, metric): method.bind(own)
        for name, own in cells.items()
        for metric, method in REGISTRY.drift.items()
        if own.column.kind in method.kinds
    }
    ends = np.cumsum(
        [3, *(own.slots + 2 for own in cells.values())]
    )  # with slots of others between
    starts = dict(zip(cells, ends.tolist(), strict=False))
    chosen = beside.draw(st.sets(st.sampled_from(sorted(drift)), min_size=1))
    fewer = {key: bound for key, bound in drift.items() if key in chosen}
    every, some = Stacked(drift, cells, starts), Stacked(fewer, cells, starts)
    for i in range(12):
        vector = np.random.default_rng(i).integers(1, 9, ends[-1])
        for name, (own, windows) in examples.items():
            vector[starts[name] :][: own.size] = windows[i]
        found = dict(zip(drift, every.distances(Running(vector)), strict=True))
        for (name, metric), bound in drift.items():
            alone = float(bound.distance(cells[name].values, examples[name][1][i]))
            assert found[name, metric] == pytest.approx(alone, rel=1e-9, abs=1e-12, nan_ok=True)
        # to the last bit
        again = some.distances(Running(vector))
        assert again.tobytes() == np.array([found[key] for key in fewer]).tobytes()


@pytest.mark.parametrize("metric", sorted(REGISTRY.drift))
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from(sorted(SHAPES)))
def test_laws(metric: str, seed: int, shape: str) -> None:
    cells, windows = example(metric, seed, shape)
    bound = REGISTRY.drift[metric].bind(cells)
    kept_reference, kept_windows = cells.counts.copy(), windows.copy()

    found = bound.distance(cells.values, windows)
    assert found.shape == (12,)
    assert found.dtype == np.float64
    empty = windows.sum(axis=1) == 0
    np.testing.assert_array_equal(np.isnan(found), empty)
    assert np.isnan(bound.distance(np.zeros_like(windows), windows)).all()
    assert (found[~empty] >= 0).all()
    if metric not in ("psi", "chi2", "wasserstein"):
        assert (found[~empty] <= 1 + 1e-12).all()

    # a window like the reference has distance 0, also with twice its rows
    assert float(bound.distance(cells.values, cells.values)) == 0
    if metric != "psi":  # its pseudo-counts weigh less in the longer window
        assert float(bound.distance(cells.values, 2 * cells.values)) == pytest.approx(0, abs=1e-7)

    # batches, and grids of references and windows, are single comparisons
    single = [float(bound.distance(cells.values, w)) for w in windows]
    np.testing.assert_allclose(found, single, rtol=1e-12, atol=1e-15)
    grid = bound.distance(windows[:4, None, :], windows[None, :, :])
    assert grid.shape == (4, 12)
    pairs = [[float(bound.distance(a, b)) for b in windows] for a in windows[:4]]
    np.testing.assert_allclose(grid, pairs, rtol=1e-12, atol=1e-15)

    np.testing.assert_array_equal(cells.counts, kept_reference)
    np.testing.assert_array_equal(windows, kept_windows)


@pytest.mark.parametrize("metric", CONTINUOUS)
def test_a_reference_without_numbers_gives_nan(metric: str) -> None:
    cells = cells_of([np.nan, np.nan, np.inf])
    assert len(REGISTRY.drift[metric].edges(summary_of(np.empty(0)))) == 0
    assert np.isnan(distance(metric, cells, [1.0, 2.0]))


def test_methods_say_how_their_tails_grow() -> None:
    powers = {metric: method.tail_power for metric, method in REGISTRY.drift.items()}
    assert {m for m, power in powers.items() if power == 1} == {"psi", "chi2"}
    assert set(powers.values()) == {1, 2}


# --- the edges ----------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 3_000) | st.sampled_from([2, 4, 64, 1024, 2048]),
    shape=st.sampled_from(sorted(SHAPES)),
)
def test_doane_edges_are_numpys_bit_for_bit(seed: int, n: int, shape: str) -> None:
    values = SHAPES[shape](np.random.default_rng(seed), n)
    expected = np.histogram_bin_edges(values, "doane")
    found = doane_edges(summary_of(values))
    assert np.array_equal(found[:-1], expected[:-1])
    assert found[-1] == np.nextafter(expected[-1], np.inf)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=40)
    | st.lists(st.sampled_from([0.0, 5e-324, -1e100, 1e100, 1.0, 1 + 2**-52]), min_size=1)
)
def test_any_reference_has_usable_edges_and_its_extremes_among_them(raw: list[float]) -> None:
    values = np.array(raw)
    cells = cells_of(values)
    assert {values.min(), np.nextafter(values.max(), np.inf)} <= set(cells.edges.tolist())
    assert np.isfinite(cells.edges).all()
    assert (np.diff(cells.edges) > 0).all()
    for metric in CONTINUOUS:
        assert distance(metric, cells, values) == 0, metric
        assert np.isfinite(distance(metric, cells, values[:1])), metric


def test_the_largest_floats_have_usable_edges() -> None:
    top = float(np.finfo(float).max)
    summary = summary_of(np.array([1.0, 2.0, 4.0]))
    for low in (-top, 0.0, top):
        wide = type(summary)(
            2, low, top, 0.0, top / 2, float("nan"), 1, 1, np.array([low, top]), np.empty(0)
        )
        fine, doane = fine_edges(wide), doane_edges(wide)
        assert np.isfinite(fine).all()
        assert {low, top} <= {*fine.tolist(), low if low == top else top}
        assert not np.isnan(doane).any()


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_cells_stay_few(shape: str) -> None:
    cells = cells_of(SHAPES[shape](np.random.default_rng(3), 100_000))
    assert cells.summary is not None
    assert cells.size <= 500 + 2 * len(cells.summary.distinct)


def test_cells_without_a_needed_edge_are_refused_with_the_remedy() -> None:
    cells = cells_of([1.0, 2.0, 3.0])
    with pytest.raises(ProfileError, match=r"'x'.*no edge at 2\.51.*reference build"):
        bins_of(cells, np.array([1.0, 2.51]))


# --- NannyML's own results and real data ----------------------------------------------------------

CHUNK = 5_000


def column_of(path: Path, name: str) -> Any:
    return pq.read_table(path, columns=[name])[name]


@pytest.mark.parametrize("data", ["car_loan", "car_loan_dq", "binary", "multiclass", "car_price"])
def test_values_are_nannymls(shared_data: Path, data: str) -> None:
    expected: dict[str, dict[tuple[str, str, int, int], float]] = defaultdict(dict)
    with (shared_data / f"nannyml_{data}_univariate_drift.csv").open() as file:
        for row in csv.DictReader(file):
            at = (row["metric"], row["period"], int(row["start_index"]), int(row["end_index"]) + 1)
            expected[row["column"]][at] = float(row["value"])
    files = {p: shared_data / f"nannyml_{data}_{p}.parquet" for p in ("reference", "analysis")}
    available = pq.read_schema(files["analysis"]).names
    compared = set()
    for name in sorted(expected.keys() & set(available)):
        values = {p: column_of(file, name).combine_chunks() for p, file in files.items()}
        categorical = any(metric == "chi2" for metric, *_ in expected[name])
        raw: dict[str, Any] = {
            p: v.to_pylist() if categorical else v.to_numpy(zero_copy_only=False).astype(float)
            for p, v in values.items()
        }
        cells = cells_of(raw["reference"], Kind.CATEGORICAL if categorical else Kind.CONTINUOUS)
        for (metric, period, start, end), value in expected[name].items():
            if metric in ("kolmogorov_smirnov", "wasserstein"):
                continue  # NannyML's are estimates; SciPy's exact ones are compared with below
            found = distance(metric, cells, raw[period][start:end])
            assert found == pytest.approx(value, rel=1e-9, abs=1e-11), (name, metric, period, start)
            compared.add(metric)
    continuous_only = {"jensen_shannon", "hellinger"}
    assert compared >= continuous_only | {"l_infinity", "chi2"}


REAL = [
    ("nannyml_car_loan", ["car_value", "debt_to_income_ratio", "driver_tenure", "y_pred_proba"]),
    ("nannyml_car_price", ["km_driven", "price_new", "car_age", "y_pred"]),
    ("nannyml_binary", ["distance_from_office", "gas_price_per_litre", "tenure"]),
    ("real_elec2_full", ["nswprice", "nswdemand", "transfer"]),
    ("real_beijing_air_quality", ["PM2.5", "CO", "O3", "TEMP", "DEWP", "RAIN"]),
]


@pytest.mark.parametrize(("file", "names"), REAL)
def test_real_windows_are_close_to_scipy_on_raw_values(
    shared_data: Path, file: str, names: list[str]
) -> None:
    for name in names:
        if file.startswith("nannyml"):
            parts = [shared_data / f"{file}_{p}.parquet" for p in ("reference", "analysis")]
            reference, analysis = (column_of(p, name).to_numpy().astype(float) for p in parts)
        else:
            whole = column_of(shared_data / f"{file}.parquet", name).drop_null().to_numpy()
            half = len(whole) // 2
            reference, analysis = whole[:half].astype(float), whole[half:].astype(float)
        cells = cells_of(reference)
        for start in range(0, min(len(analysis), 30_000) - CHUNK + 1, CHUNK):
            window = analysis[start : start + CHUNK]
            ks = ks_2samp(reference, window, method="asymp").statistic
            assert distance("kolmogorov_smirnov", cells, window) == pytest.approx(ks, abs=1.1e-3), (
                name
            )
            raw = wasserstein_distance(reference, window)
            if raw > 0.1 * reference.std():
                found = distance("wasserstein", cells, window)
                assert found == pytest.approx(raw, rel=0.01), (name, start)
