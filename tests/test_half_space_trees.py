"""Half-Space Trees against River, whose scores they must equal to the last bit."""

from __future__ import annotations

import csv
import io
from itertools import pairwise
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river.anomaly import HalfSpaceTrees as RiverTrees
from sklearn.metrics import roc_auc_score

from stream_monitor.batch import ColumnBatch, empty_wrong
from stream_monitor.cells import Cells, Summary, codes_of
from stream_monitor.errors import ProfileError
from stream_monitor.methods.base import REGISTRY, RowScorer
from stream_monitor.methods.half_space_forest import HalfSpaceForest
from stream_monitor.methods.half_space_trees import HalfSpaceTrees, OutlierShare
from stream_monitor.methods.trees import grow
from stream_monitor.schema import Column, FloatArray, IntArray, Kind, Role, Schema

METHOD = HalfSpaceTrees()
SHARE = OutlierShare()


# --- the streaming forest ---------------------------------------------------------------------


def unit(features: int) -> FloatArray:
    return np.tile([0.0, 1.0], (features, 1))


def as_dict(row: FloatArray) -> dict[str, float]:
    """What River is given: names that sort in column order, missing keys left out."""
    return {f"f{i:02d}": x for i, x in enumerate(row.tolist()) if not isnan(x)}


def river_scores(model: Any, rows: FloatArray) -> FloatArray:
    scores = []
    for row in rows:
        scores.append(model.score_one(as_dict(row)))
        model.learn_one(as_dict(row))
    return np.array(scores, dtype=np.float64)


def in_batches(forest: HalfSpaceForest, rows: FloatArray, seed: int) -> FloatArray:
    """The forest's scores of rows that come in batches of random sizes."""
    cuts = np.sort(np.random.default_rng(seed).integers(0, len(rows) + 1, size=9)).tolist()
    return np.concatenate([forest.score_learn(rows[a:b]) for a, b in pairwise([0, *cuts, None])])


@pytest.mark.parametrize(
    ("file", "column"),
    [
        ("river_hst_elec2.parquet", "score_10x8"),
        ("river_hst_elec2.parquet", "score_25x8"),
        ("river_hst_elec2.parquet", "score_25x15"),
        ("river_hst_elec2_missing.parquet", "score_10x8"),
        ("river_hst_phishing.parquet", "score_10x8"),
    ],
)
def test_scores_recorded_from_river_come_out_bit_for_bit(
    shared_data: Path, file: str, column: str
) -> None:
    table = pq.read_table(shared_data / file)
    names = sorted(name for name in table.column_names if not name.startswith("score"))
    rows = np.column_stack([table[n].to_numpy(zero_copy_only=False) for n in names])
    number, height = (int(n) for n in column.removeprefix("score_").split("x"))
    forest = HalfSpaceForest(unit(len(names)), number=number, height=height)
    assert np.array_equal(in_batches(forest, rows.astype(float), 0), table[column].to_numpy())


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    features=st.integers(1, 5),
    number=st.integers(1, 4),
    height=st.integers(1, 6),
    window=st.integers(1, 60),
    missing=st.sampled_from([0.0, 0.02, 0.3, 0.9]),
)
def test_any_stream_in_any_batches_scores_as_in_river(
    *, seed: int, features: int, number: int, height: int, window: int, missing: float
) -> None:
    rng = np.random.default_rng(seed)
    low = rng.normal(size=features) * 10.0 ** rng.integers(-3, 4, size=features)
    limits = np.column_stack([low, low + rng.exponential(size=features)])
    rows = low + rng.normal(0.5, 0.7, size=(150, features)) * (limits[:, 1] - low)
    rows = np.where(rng.random(rows.shape) < 0.2, np.round(rows, 1), rows)
    rows = np.where(rng.random(rows.shape) < 0.02, rng.choice([-np.inf, np.inf], rows.shape), rows)
    # on the cuts themselves
    trees = grow(limits, number=number, height=height, seed=seed)
    on, at = trees.feature.ravel()[:20], trees.threshold.ravel()[:20]
    rows[rng.integers(0, 150, size=len(on)), on] = at
    # River's trees have the features of the first event that it learns
    rows[1:][rng.random((149, features)) < missing] = np.nan
    river: Any = RiverTrees(
        n_trees=number, height=height, window_size=window, seed=seed,
        limits={f"f{i:02d}": (a, b) for i, (a, b) in enumerate(limits.tolist())},
    )  # fmt: skip
    forest = HalfSpaceForest(limits, number=number, height=height, window=window, seed=seed)
    assert np.array_equal(in_batches(forest, rows, seed), river_scores(river, rows))
    # and between two learned rows, where masses of an unfinished window route what is missing
    assert np.array_equal(
        forest.score(rows), [float(river.score_one(as_dict(row))) for row in rows]
    )


def test_a_long_stream_with_missing_values_scores_as_in_river() -> None:
    rng = np.random.default_rng(3)
    rows = rng.random((2_600, 6)) ** 2
    rows[1:][rng.random((2_599, 6)) < 0.1] = np.nan
    rows[1_100:1_300] = rng.random((200, 6))  # complete rows between
    river: Any = RiverTrees(n_trees=5, height=8, window_size=700, seed=9)
    forest = HalfSpaceForest(unit(6), number=5, height=8, window=700, seed=9)
    first, second = rows[:1_500], rows[1_500:]
    forest.learn(first)
    river_scores(river, first)
    assert np.array_equal(forest.score_learn(second), river_scores(river, second))


@pytest.mark.parametrize(
    "limits", [[[0.0, 0.0]], [[1.0, 0.0], [0.0, 5.0]], [[0.0, np.inf]], [[0.0, np.nan]]]
)
def test_limits_without_a_finite_box_are_refused(limits: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="no finite box"):
        grow(np.array(limits), number=1, height=2, seed=0)


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="3 features, the trees 2"):
        HalfSpaceForest(unit(2)).score_learn(np.zeros((4, 3)))


# --- the outlier score ------------------------------------------------------------------------


def column_cells(column: Column, values: FloatArray) -> Cells:
    """Cells as they are when the learner is made: a summary or categories, nothing counted."""
    none, counts = np.empty(0), np.empty(0, dtype=np.int64)
    if not column.continuous:
        return Cells(column, none, none, ("false", "true"), counts, None)
    low, high = float(values.min()), float(values.max())
    summary = Summary(len(values), low, high, 0.0, 1.0, 0.0, 1, 1, np.sort(values), none)
    return Cells(column, none, none, (), counts, summary)


def batch_of(numbers: FloatArray, codes: IntArray | None = None) -> ColumnBatch:
    """A batch of float64[n, k] and int[n, m]."""
    n = len(numbers)
    if codes is None:
        codes = np.empty((n, 0), dtype=np.int64)
    time = np.zeros(n, dtype=np.int64)
    return ColumnBatch(time, time, numbers.T, codes.T.astype(np.int32), empty_wrong(), time)


def numeric_schema(k: int) -> Schema:
    return Schema(tuple(Column(f"x{i:03d}", Kind.CONTINUOUS) for i in range(k)))


def learned(
    schema: Schema, numbers: FloatArray, codes: IntArray | None = None, *, batches: int = 1
) -> dict[str, np.ndarray[Any, Any]]:
    cells = {
        c.name: column_cells(c, numbers[:, schema.continuous.index(c)] if c.continuous else numbers)
        for c in schema.columns
    }
    learner = METHOD.learner(schema, cells)
    assert learner is not None
    for part in np.array_split(np.arange(len(numbers)), batches):
        learner.update(batch_of(numbers, codes).take(part))
    return learner.finish()


def test_frozen_scores_are_rivers_with_the_reference_as_its_window() -> None:
    rng = np.random.default_rng(0)
    schema = Schema(
        (
            Column("b", Kind.CONTINUOUS),
            Column("a", Kind.CONTINUOUS),
            Column("flag", Kind.BOOLEAN),
            Column("Z", Kind.CONTINUOUS),
        )
    )
    numbers = rng.normal(size=(2_500, 3)) * [1e6, 1e-3, 1.0]
    flags = rng.integers(0, 2, size=(2_500, 1))
    arrays = learned(schema, numbers, flags, batches=4)
    new = rng.normal(size=(1_500, 3)) * [2e6, 1e-3, 1.5]
    new[:3] = [[np.inf, 0, 0], [-np.inf, 0, 0], [1e300, 0, -1e300]]
    new_flags = rng.integers(0, 2, size=(1_500, 1))
    scores = METHOD.load(schema, arrays).score(batch_of(new, new_flags))

    low, high = numbers.min(axis=0), numbers.max(axis=0)

    def event(row: FloatArray, flag: IntArray) -> dict[str, float]:
        b, a, z = ((row - low) / (high - low)).tolist()
        return {"b": b, "a": a, "flag": float(flag[0]), "Z": z}

    river: Any = RiverTrees(n_trees=10, height=8, window_size=2_500, seed=42)
    for row, flag in zip(numbers, flags, strict=True):
        river.learn_one(event(row, flag))
    expected = [river.score_one(event(r, f)) for r, f in zip(new, new_flags, strict=True)]
    assert np.array_equal(scores, expected)
    assert len(set(expected)) > 100  # so that equality says something


def test_what_is_learned_depends_on_no_order_and_no_batching() -> None:
    rng = np.random.default_rng(1)
    schema, numbers = numeric_schema(4), rng.normal(size=(3_000, 4))
    numbers[rng.random(numbers.shape) < 0.1] = np.nan
    numbers[0], numbers[1] = -9.0, 9.0  # NumPy's extremes of a column with NaN are NaN
    whole = np.nan_to_num(numbers)
    cells = {c.name: column_cells(c, whole[:, i]) for i, c in enumerate(schema.columns)}
    found = []
    for order, size in ((np.arange(3_000), 3_000), (rng.permutation(3_000), 77)):
        learner = METHOD.learner(schema, cells)
        assert learner is not None
        for start in range(0, 3_000, size):
            learner.update(batch_of(numbers).take(order[start : start + size]))
        found.append(learner.finish())
    assert found[0].keys() == found[1].keys()
    for name, array in found[0].items():
        assert array.tobytes() == found[1][name].tobytes(), name
    assert found[0]["mass"].sum(axis=1).tolist() == [3_000] * 10


def test_the_scorer_comes_back_from_arrays_without_objects() -> None:
    rng = np.random.default_rng(2)
    schema, numbers = numeric_schema(3), rng.normal(size=(500, 3))
    arrays = learned(schema, numbers)
    restored = {}
    for name, array in arrays.items():
        file = io.BytesIO()
        np.lib.format.write_array(file, array, allow_pickle=False)
        file.seek(0)
        restored[name] = np.lib.format.read_array(file, allow_pickle=False)
    new = batch_of(rng.normal(size=(200, 3)))
    before, after = METHOD.load(schema, arrays), METHOD.load(schema, restored)
    assert np.array_equal(before.score(new), after.score(new))
    assert before.score(batch_of(np.empty((0, 3)))).shape == (0,)


def test_a_missing_value_scores_as_the_median_and_an_empty_row_has_a_score() -> None:
    rng = np.random.default_rng(4)
    schema = Schema((*numeric_schema(3).columns, Column("yes", Kind.BOOLEAN)))
    numbers = rng.lognormal(size=(1_001, 3))
    scorer = METHOD.load(schema, learned(schema, numbers, rng.integers(0, 2, size=(1_001, 1))))
    rows, flags = rng.lognormal(size=(300, 3)), rng.integers(0, 2, size=(300, 1))
    gaps, filled = rows.copy(), rows.copy()
    gaps[:, 1], filled[:, 1] = np.nan, np.median(numbers[:, 1])
    assert np.array_equal(
        scorer.score(batch_of(gaps, flags)), scorer.score(batch_of(filled, flags))
    )
    # unseen, missing and wrong type are one and the same to the trees
    empty = [scorer.score(batch_of(np.full((1, 3), np.nan), np.array([[c]]))) for c in (2, 3, 4)]
    assert np.isfinite(empty).all()
    assert empty[0] == empty[1] == empty[2]


def test_any_finite_range_can_be_learned() -> None:
    schema = numeric_schema(2)
    numbers = np.array([[-1.7e308, 0.0], [1.7e308, 1e-300], [0.0, 5e-301]] * 40)
    scorer = METHOD.load(schema, learned(schema, numbers))
    scores = scorer.score(batch_of(np.array([[1.7e308, 1e308], [-1.7e308, -1e308], [0.0, 0.0]])))
    assert ((scores >= 0) & (scores < 1)).all()


def test_a_reference_of_a_billion_rows_scores_as_its_millionth_part() -> None:
    rng = np.random.default_rng(5)
    schema, numbers = numeric_schema(4), rng.normal(size=(1_000, 4))
    arrays = learned(schema, numbers)
    large = arrays | {"mass": arrays["mass"] * 10**6}
    new = batch_of(rng.normal(size=(500, 4)))
    assert np.array_equal(
        METHOD.load(schema, arrays).score(new), METHOD.load(schema, large).score(new)
    )


def test_only_features_that_vary_are_used() -> None:
    schema = Schema(
        (
            Column("constant", Kind.CONTINUOUS),
            Column("empty", Kind.CONTINUOUS),
            Column("text", Kind.CATEGORICAL),
            Column("used", Kind.CONTINUOUS),
            Column("always", Kind.BOOLEAN),
            Column("flag", Kind.BOOLEAN),
            Column("prediction", Kind.CONTINUOUS, Role.PREDICTION),
            Column("score", Kind.CONTINUOUS, Role.SCORE),
        )
    )
    none, counts = np.empty(0), np.empty(0, dtype=np.int64)
    nan = float("nan")
    varying = np.arange(5.0)
    cells = {c.name: column_cells(c, varying) for c in schema.columns}
    cells["constant"] = column_cells(schema.columns[0], np.ones(5))
    nothing = Summary(0, nan, nan, nan, nan, nan, 0, 0, none, none)
    cells["empty"] = Cells(schema.columns[1], none, none, (), counts, nothing)
    cells["always"] = Cells(schema.columns[4], none, none, ("true",), counts, None)
    learner = METHOD.learner(schema, cells)
    assert learner is not None
    with pytest.raises(ProfileError, match="empty"):
        learner.finish()
    codes = np.zeros((5, 3), dtype=np.int64)
    learner.update(batch_of(np.tile(varying[:, None], 5), codes))
    chosen = [schema.columns[i].name for i in learner.finish()["columns"].tolist()]
    assert chosen == ["flag", "used"]

    rest = Schema(tuple(c for c in schema.columns if c.name not in chosen))
    assert METHOD.learner(rest, cells) is None


def test_the_edges_resolve_every_score_and_are_the_same_for_every_reference() -> None:
    rng = np.random.default_rng(6)
    schema = numeric_schema(3)
    scorers: list[RowScorer] = [
        METHOD.load(schema, learned(schema, rng.normal(size=(n, 3)) * n)) for n in (50, 2_000)
    ]
    edges = scorers[0].edges
    assert edges.tolist() == scorers[1].edges.tolist()
    assert (np.diff(edges) > 0).all()
    assert 0 < edges[0] < 0.03
    steps = (1 - edges[1:]) / (1 - edges[:-1])
    assert np.abs(steps - 511 ** (-1 / 240)).max() < 0.001
    # the least and the greatest score that there can be
    far = scorers[0].score(batch_of(np.full((1, 3), 1e9)))
    one = np.full((200, 3), 0.5)
    one[0], one[1] = 0.0, 1.0
    packed = METHOD.load(schema, learned(schema, one)).score(batch_of(one[2:3]))
    assert 0 <= packed[0] < edges[0]
    assert 0.5 < far[0] <= 1 - 1 / 511


@pytest.mark.parametrize("name", ["odds_cardio", "odds_satellite", "shuttle"])
def test_outliers_are_separated_about_as_well_as_by_river(shared_data: Path, name: str) -> None:
    with (shared_data / "river_hst_auc.csv").open() as file:
        river = next(
            float(line["auc_after_first_window"])
            for line in csv.DictReader(file)
            if line["dataset"] == name and (line["n_trees"], line["height"]) == ("10", "8")
        )
    table = pq.read_table(shared_data / f"real_{name}.parquet")
    outlier = table["outlier"].to_numpy() != 0
    names = [n for n in table.column_names if n != "outlier"]
    rows = np.column_stack([table[n].to_numpy() for n in names]).astype(float)
    inliers = np.random.default_rng(0).permutation(np.flatnonzero(~outlier))
    reference, held_out = np.array_split(inliers, 2)
    test = np.concatenate([held_out, np.flatnonzero(outlier)])
    schema = numeric_schema(len(names))
    scorer = METHOD.load(schema, learned(schema, rows[reference]))
    scores = scorer.score(batch_of(rows[test]))
    assert roc_auc_score(outlier[test], scores) > river - 0.03

    # and the share: about one held-out inlier in a hundred, many of the outliers
    counts = np.bincount(
        codes_of(scorer.edges, scorer.score(batch_of(rows[reference]))),
        minlength=len(scorer.edges) + 4,
    )
    mask = SHARE.mask(score_cells(scorer.edges, counts))
    assert mask is not None
    caught = mask[codes_of(scorer.edges, scores)]
    assert caught[~outlier[test]].mean() < 0.02
    assert caught[outlier[test]].mean() > 0.2


# --- the share of outliers --------------------------------------------------------------------


def score_cells(edges: FloatArray, counts: IntArray) -> Cells:
    column = Column("outlier_score", Kind.CONTINUOUS, Role.DERIVED)
    return Cells(column, edges, np.zeros(len(edges) + 1), (), counts, None)


@given(st.lists(st.integers(0, 40) | st.integers(0, 100_000), min_size=3, max_size=30))
def test_the_share_begins_at_the_smallest_edge_with_a_hundredth_above(values: list[int]) -> None:
    k, n = len(values), sum(values)
    cells = score_cells(np.arange(1.0, k), np.array([*values, 0, 0, 0]))
    begins = next((i for i in range(1, k) if sum(values[i:]) * 100 <= n), k)
    mask = SHARE.mask(cells)
    assert mask is not None
    assert np.flatnonzero(mask).tolist() == list(range(begins, k))
    inside = sum(values[begins:])
    assert SHARE.expected(cells) == (inside + 0.5, n - inside + 0.5)


def test_the_share_is_of_the_outlier_score_only() -> None:
    counts = np.array([99, 1, 0, 0, 0])
    for column in (
        Column("outlier_score", Kind.CONTINUOUS),
        Column("residual", Kind.CONTINUOUS, Role.DERIVED),
    ):
        cells = Cells(column, np.array([0.5]), np.zeros(2), (), counts, None)
        assert SHARE.mask(cells) is None
        with pytest.raises(ValueError, match="does not apply"):
            SHARE.expected(cells)


def test_both_methods_are_registered() -> None:
    assert isinstance(REGISTRY.row["outlier_score"], HalfSpaceTrees)
    assert isinstance(REGISTRY.share["outlier_share"], OutlierShare)
