"""Explanations of drift: where a column has changed, against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from stream_monitor.explain import changes, sentence
from stream_monitor.schema import Kind
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
