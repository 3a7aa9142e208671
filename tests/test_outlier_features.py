"""Which features isolate outliers: against a walk down each tree, and planted outliers."""

from __future__ import annotations

from math import isnan, log2
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from stream_monitor.cells import Cells, codes_of
from stream_monitor.methods.base import Study
from stream_monitor.methods.half_space_trees import HalfSpaceTrees, OutlierShare
from stream_monitor.methods.outlier_features import CONTRIBUTION, NAME, OutlierFeatures
from stream_monitor.methods.trees import grow
from stream_monitor.panes.layout import Counted
from stream_monitor.schema import Column, IntArray, Kind, Role, Schema
from stream_monitor.watch import WatchedPart, watch
from tests import worlds
from tests.blocks import Columns, Counting, cells_from, learned, parts

METHOD = OutlierFeatures()


def lognormal(rows: int, seed: int, features: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"x{i}": rng.lognormal(size=rows) for i in range(features)}


@pytest.fixture(scope="module")
def counting() -> Counting:
    return learned(METHOD, lognormal(5_000, 0))


def shares(counting: Counting, columns: Columns) -> dict[str, float]:
    return {m.feature: m.value for m in counting.values(columns).values()}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 5), features=st.integers(1, 4))
def test_the_isolating_cut_is_that_of_a_walk_down_the_tree(
    seed: int, height: int, features: int
) -> None:
    rng = np.random.default_rng(seed)
    trees = grow(np.tile([0.0, 1.0], (features, 1)), number=3, height=height, seed=seed)
    columns = rng.beta(0.5, 3, size=(features, 400))
    leaves = trees.leaves(columns)
    mass = np.bincount(leaves.ravel(), minlength=trees.leaf_count)
    feature, bits = trees.isolation(mass, 400)
    for tree in range(3):
        for row in range(0, 400, 29):
            inside, node = np.ones(400, np.bool_), 0
            best = (0, 0.0)
            while node < 2**height - 1 and inside.sum() >= 0.1 * 400:
                on, at = int(trees.feature[tree, node]), trees.threshold[tree, node]
                right = columns[on, row] >= at
                below = inside & ((columns[on] >= at) == right)
                apart = log2((inside.sum() + 2) / (2 * (below.sum() + 1)))
                if apart > best[1] + 1e-12:
                    best = (on, apart)
                inside, node = below, 2 * node + 1 + right
            leaf = leaves[tree, row]
            assert (feature[leaf], bits[leaf]) == (best[0], pytest.approx(best[1], abs=1e-12))


def test_the_outliers_are_those_of_the_outlier_share(counting: Counting) -> None:
    trees = HalfSpaceTrees()
    learner = trees.learner(counting.schema, counting.cells)
    assert learner is not None
    reference = counting.batch(counting.reference)
    learner.update(reference)
    scorer = trees.load(counting.schema, learner.finish())
    slots = np.bincount(
        codes_of(scorer.edges, scorer.score(reference)), minlength=len(scorer.edges) + 4
    )
    column = Column("outlier_score", Kind.CONTINUOUS, Role.DERIVED)
    mask = OutlierShare().mask(Cells(column, scorer.edges, np.empty(0), (), slots, None))
    assert mask is not None
    window = lognormal(3_000, 1)
    outlying = int(mask[codes_of(scorer.edges, scorer.score(counting.batch(window)))].sum())
    assert 10 < outlying < 100
    assert counting.window(window).block(NAME)[-1] == outlying
    assert {m.rows for m in counting.values(window).values()} == {outlying}


@pytest.mark.parametrize("planted", ["x0", "x3", "x5"])
def test_a_feature_with_planted_outliers_is_named(counting: Counting, planted: str) -> None:
    window = lognormal(4_000, 2)
    normal = shares(counting, window)
    wild = np.random.default_rng(3).random(4_000) < 0.05
    far = float(np.max(np.asarray(counting.reference[planted]))) * 1.2
    found = shares(counting, window | {planted: np.where(wild, far, window[planted])})
    assert max(found, key=lambda name: found[name]) == planted
    assert found[planted] > max(0.7, normal[planted] + 0.2)
    assert sum(found.values()) == pytest.approx(1, abs=1e-12)


def test_real_outliers_are_isolated_by_the_feature_that_tells_them_apart_best(
    shared_data: Path,
) -> None:
    table = pq.read_table(shared_data / "real_shuttle.parquet")
    outlier = table["outlier"].to_numpy() != 0
    rows = {n: table[n].to_numpy().astype(float) for n in table.column_names if n != "outlier"}
    inliers = np.flatnonzero(~outlier)
    counting = learned(METHOD, {n: v[inliers[::2][:10_000]] for n, v in rows.items()})
    chosen = np.concatenate([inliers[1::2][:5_000], np.flatnonzero(outlier)[:1_000]])
    window = {n: v[chosen] for n, v in rows.items()}
    apart = {n: abs(roc_auc_score(outlier[chosen], v) - 0.5) for n, v in window.items()}
    found = shares(counting, window)
    assert max(found, key=lambda n: found[n]) == max(apart, key=lambda n: apart[n])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1_000), rows=st.integers(0, 400), size=st.integers(1, 150))
def test_any_batches_order_and_grouping_give_the_same_counts(
    counting: Counting, seed: int, rows: int, size: int
) -> None:
    rng = np.random.default_rng(seed)
    columns = {n: v * 4 for n, v in lognormal(rows, seed).items()}
    for values in columns.values():
        values[rng.random(rows) < 0.1] = np.nan
        values[rng.random(rows) < 0.1] = rng.choice([-np.inf, np.inf, 1e300, -1e300])
    batch = counting.batch(columns)
    before = batch.numbers.copy()
    group = rng.integers(0, 3, rows)
    whole = counting.block.addends(batch).counts(group, 3)
    assert np.array_equal(batch.numbers, before, equal_nan=True)
    order = rng.permutation(rows)
    pieces = np.zeros_like(whole)
    for part in parts(rows, size):
        own = counting.block.addends(batch.take(order[part]))
        pieces += own.counts(group[order[part]], 3)
    assert whole.dtype == np.int64
    assert np.array_equal(pieces, whole)
    one = counting.block.addends(batch).counts(np.zeros(rows, np.int64), 1)
    assert np.array_equal(whole.sum(axis=0), one[0])


def test_a_window_without_outliers_has_no_shares(counting: Counting) -> None:
    empty = Counted(counting.layout, np.zeros(counting.layout.size, np.int64))
    (found,) = counting.measure(empty)
    assert len(found) == 6
    assert all(isnan(m.value) and isnan(m.expected) and m.rows == 0 for m in found.values())
    middle = {n: np.full(50, np.median(np.asarray(v))) for n, v in counting.reference.items()}
    assert all(isnan(v) for v in shares(counting, middle).values())


def test_learning_depends_on_no_batching() -> None:
    first, second = (learned(METHOD, lognormal(3_000, 4), rows=n).arrays for n in (3_000, 77))
    assert first.keys() == second.keys()
    assert all(first[n].tobytes() == second[n].tobytes() for n in first)
    assert (first["steps"].dtype, first["isolating"].dtype) == (np.int64, np.int64)


def test_a_reference_whose_rows_all_score_alike_has_no_outliers() -> None:
    reference = {"x": np.repeat([0.0, 1.0], 500), "y": np.tile([0.0, 1.0], 500)}
    counting = learned(METHOD, reference)
    assert counting.window(reference).block(NAME)[-1] == 0


def test_it_does_not_apply_without_features_that_vary() -> None:
    cells = cells_from({"x": np.ones(10), "text": ["a"] * 5 + ["b"] * 5})
    schema = Schema(tuple(c.column for c in cells.values()))
    assert METHOD.learner(Study(schema, cells)) is None


def test_values_are_shown_under_their_feature(counting: Counting) -> None:
    found = counting.values(lognormal(2_000, 5))
    assert [(m.metric, m.feature) for m in found.values()] == [
        (CONTRIBUTION, f"x{i}") for i in range(6)
    ]
    assert all(0 <= m.value <= 1 for m in found.values())


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> tuple[WatchedPart, IntArray]:
    (model,), _ = watch(worlds.build(tmp_path_factory.mktemp("w")).config(), "test")
    return model.parts[0], model.profile.chunks[0]


def test_contributions_are_not_judged_however_many_outliers(
    part: tuple[WatchedPart, IntArray],
) -> None:
    whole, chunk = part
    window = Counted(whole.reference.layout, chunk.copy())
    window.block("outlier_features")[:] *= 100
    found = whole.judge.values(whole.evaluator.measure(window), window, closed=True)
    own = [v for v in found if v.metric == "outlier_contribution"]
    assert own
    assert all(v.alert is None and isnan(v.upper_threshold) for v in own)
