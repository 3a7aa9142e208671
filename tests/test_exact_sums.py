"""Sums a group and quantiles of sorted values, beside exact sums and NumPy's quantiles."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_monitor.methods.binning import sorted_quantiles
from stream_monitor.panes.exact import grouped


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(-(2**40), 2**40), st.integers(-5, 5)), max_size=60
    ),
    st.booleans(),
)
def test_sums_of_groups_are_exact_in_any_order(
    rows: list[tuple[int, int, int]], ordered: bool
) -> None:
    """Groups that nobody is in have sums of 0."""
    if ordered:
        rows = sorted(rows, key=lambda row: row[0])
    group = np.array([row[0] for row in rows], dtype=np.int64)
    values = np.array([row[1:] for row in rows], dtype=np.float64).reshape(-1, 2).T
    found = grouped(np.ascontiguousarray(values), group, 5)
    expected = [[sum(row[i] for row in rows if row[0] == g) for i in (1, 2)] for g in range(5)]
    assert found.tolist() == expected


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200),
    st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_quantiles_of_sorted_values_are_numpys(values: list[float], levels: list[float]) -> None:
    ordered = np.sort(values)
    expected = np.quantile(ordered, levels, method="inverted_cdf")
    np.testing.assert_array_equal(sorted_quantiles(ordered, np.array(levels)), expected)


@pytest.mark.parametrize("parts", [4, 320, 2_000])
@pytest.mark.parametrize("number", [1, 2, 3, 319, 1_000, 20_000])
def test_quantiles_are_the_least_values_that_reach_the_share(parts: int, number: int) -> None:
    levels = np.arange(1, parts) / parts
    found = sorted_quantiles(np.arange(number, dtype=np.float64), levels)
    expected = np.quantile(np.arange(number), levels, method="inverted_cdf")
    np.testing.assert_array_equal(found, expected)
    # by exact arithmetic, but for what a level's own rounding decides
    for place, level in zip(found[::97].tolist(), levels[::97].tolist(), strict=True):
        assert Fraction(int(place) + 1, number) >= Fraction(level) - Fraction(1, 10**12)
