"""Explanations of drift: where a column has changed, against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from stream_monitor.explain import broken, changes, isolated, sentence, unseen
from stream_monitor.methods import REGISTRY
from stream_monitor.methods.performance.realized import RealizedBlock
from stream_monitor.methods.unseen_names import NAME, Entry, Names
from stream_monitor.panes.layout import Counted, Layout
from stream_monitor.schema import Kind, Role
from stream_monitor.values import Value
from tests.blocks import learned
from tests.building import cells_of, counts_of


def test_parts_are_those_of_scipys_divergence() -> None:
    reference = ["a"] * 50 + ["b"] * 30 + ["c"] * 20
    window = ["a"] * 20 + ["b"] * 32 + ["c"] * 20 + ["new"] * 28
    cells = cells_of(reference, Kind.CATEGORICAL)
    found = changes(cells, counts_of(cells, window))
    p, q = np.array([0.5, 0.3, 0.2, 0.0]), np.array([0.2, 0.32, 0.2, 0.28])
    m = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.nan_to_num(p * np.log2(p / m)) + np.nan_to_num(q * np.log2(q / m))
    assert terms.sum() / 2 == pytest.approx(jensenshannon(p, q, base=2) ** 2, rel=1e-12)
    assert [c.label for c in found[:2]] == ["unseen", "a"]
    assert found[0].explains == pytest.approx(terms[3] / terms.sum(), rel=1e-6)
    assert (found[1].reference, found[1].window) == (0.5, 0.2)
    assert sentence(found).startswith("unseen: 0.0% → 28.0% (")


def test_a_moved_bulk_is_told_as_the_range_that_lost_and_the_one_that_gained() -> None:
    rng = np.random.default_rng(1)
    cells = cells_of(rng.normal(0, 1, 20_000))
    found = changes(cells, counts_of(cells, rng.normal(1, 1, 20_000)))
    lost, gained = sorted(found[:2], key=lambda c: c.window - c.reference)
    assert lost.label.startswith("< 0.")
    assert gained.label.startswith("≥ 0.")
    assert lost.explains + gained.explains > 0.95


@settings(max_examples=50, deadline=None)
@given(
    kind=st.sampled_from([Kind.CONTINUOUS, Kind.CATEGORICAL]),
    seed=st.integers(0, 1_000),
    rows=st.integers(0, 300),
)
def test_parts_are_shares_of_one_whole(kind: Kind, seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    if kind is Kind.CONTINUOUS:
        cells = cells_of(rng.exponential(size=500).round(rng.integers(0, 3)))
        counts = counts_of(cells, rng.normal(size=rows))
    else:
        names = np.array(list("abcdefghijklmnopq"))
        cells = cells_of(names[rng.integers(0, 15, 500)], kind)
        counts = counts_of(cells, names[rng.integers(3, 17, rows)])
    before = counts.copy()
    found = changes(cells, counts, most=100)
    assert np.array_equal(counts, before)
    assert all(0 < c.explains <= 1 and 0 <= c.reference <= 1 and 0 <= c.window <= 1 for c in found)
    assert [c.explains for c in found] == sorted((c.explains for c in found), reverse=True)
    total = sum(c.explains for c in found)
    assert total == pytest.approx(1, abs=0.2) if found else total == 0


def test_nothing_to_say_of_the_same_counts_or_none() -> None:
    cells = cells_of(["a", "b", "a"], Kind.CATEGORICAL)
    assert changes(cells, cells.counts) == []
    assert changes(cells, np.zeros_like(cells.counts)) == []
    assert sentence([]) == ""


def test_unseen_categories_are_named_by_frequency() -> None:
    counts = {"b": 5, "a": 7, "c": 2, "d": 1}
    found = [("x", Entry(i, name, count)) for i, (name, count) in enumerate(counts.items())]
    window = Counted(Layout.of({}, {}), np.zeros(1, np.int64), {NAME: Names.of(found)})
    assert unseen(window, "x") == "new: 'a' (7 rows), 'b' (5 rows), 'c' (2 rows) and 1 more"
    assert unseen(window, "y") == ""


def test_the_score_range_that_broke_is_told_and_noise_is_not() -> None:
    rng = np.random.default_rng(2)
    score = rng.random(20_000)
    reference = {"score": score, "target": np.where(rng.random(20_000) < score, "1", "0")}
    roles = {"score": Role.SCORE, "target": Role.TARGET}
    method = learned(REGISTRY.block["realized_performance"], reference, roles=roles)
    assert isinstance(method.block, RealizedBlock)
    fresh = rng.random(5_000)
    turned = np.where((fresh > 0.8) & (rng.random(5_000) < 0.5), 1 - fresh, fresh)
    for truth, says in ((fresh, False), (turned, True)):
        window = {"score": fresh, "target": np.where(rng.random(5_000) < truth, "1", "0")}
        text = broken(method.block.ranges(method.window(reference), method.window(window)))
        assert bool(text) == says
        if says:
            low = float(text.removeprefix("scores ").split(" ")[0])
            assert low > 0.75


def test_the_features_that_set_outliers_apart_are_named_by_their_part() -> None:
    parts = {"a": 0.1, "b": 0.6, "c": 0.25, "d": 0.05}
    values = [Value(name, "outliers", "outlier_contribution", part) for name, part in parts.items()]
    assert isolated([*values, Value("", "outliers", "outlier_share", 0.3)]) == (
        "set apart by b (60%), c (25%), a (10%)"
    )
    assert isolated([]) == ""
