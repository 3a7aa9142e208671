"""The bars that the status page draws, against NumPy on the raw values."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_monitor.expose.histograms import BARS, bars
from stream_monitor.schema import FloatArray, Kind
from tests.building import cells_of, counts_of


def bounds(labels: list[str]) -> FloatArray:
    """Where the bars end, read from their names."""
    inner = [label.replace(",", "").split(" … ") for label in labels[1:-1]]
    assert all(a[1] == b[0] for a, b in pairwise(inner))
    return np.array([float(a) for a, _ in inner] + [float(inner[-1][1])])


def test_continuous_bars_are_numpys_histogram() -> None:
    rng = np.random.default_rng(1)
    reference, window = rng.normal(5, 2, 20_000), rng.normal(6, 3, 5_000)
    cells = cells_of(reference)
    found = bars(cells, {"closed": counts_of(cells, window)})
    edges = np.concatenate([[-np.inf], bounds(found["labels"]), [np.inf]])
    assert len(found["labels"]) == BARS
    for name, values in (("reference", reference), ("closed", window)):
        expected = np.histogram(values, edges)[0] / len(values)
        # cells that lie in two bars are split as if their values lay evenly
        np.testing.assert_allclose(found["shares"][name], expected, atol=0.006)


@pytest.mark.parametrize("most", [7, 60, 300])
def test_whole_numbers_are_never_split(most: int) -> None:
    rng = np.random.default_rng(2)
    reference = rng.integers(0, most + 1, 30_000).astype(float)
    reference[:2] = 0, most
    window = rng.integers(-20, most + 50, 4_000).astype(float)
    cells = cells_of(reference)
    found = bars(cells, {"closed": counts_of(cells, window)})
    if most < BARS:
        assert found["labels"] == ["< 0", *(str(i) for i in range(most + 1)), f"> {most}"]
        edges = np.concatenate([[-np.inf], np.arange(most + 1), [most + 0.5, np.inf]])
    else:
        edges = np.concatenate([[-np.inf], bounds(found["labels"]), [np.inf]])
        assert set(np.diff(edges[1:-1]) % 1) == {0}
    expected = np.histogram(reference, edges)[0] / len(reference)
    np.testing.assert_allclose(found["shares"]["reference"], expected, atol=1e-5)
    beyond = found["shares"]["closed"][0], found["shares"]["closed"][-1]
    expected = np.histogram(window, edges)[0] / len(window)
    np.testing.assert_allclose(beyond, (expected[0], expected[-1]), atol=0.004)


def test_the_most_frequent_categories_of_either_side_have_bars_of_their_own() -> None:
    rng = np.random.default_rng(3)
    names = np.array([f"c{i:02}" for i in range(30)])
    share = np.arange(30, 0, -1.0)
    reference = rng.choice(names, 5_000, p=share / share.sum())
    window = ["c29"] * 500 + ["c00"] * 300 + ["new"] * 200
    cells = cells_of(reference, Kind.CATEGORICAL)
    found = bars(cells, {"closed": counts_of(cells, window)})
    assert found["labels"][-2:] == ["others", "unseen"]
    assert len(found["labels"]) == 14
    closed = dict(zip(found["labels"], found["shares"]["closed"], strict=True))
    assert (closed["c29"], closed["c00"], closed["unseen"], closed["others"]) == (0.5, 0.3, 0.2, 0)
    counted = Counter(reference.tolist())
    by_name = dict(zip(found["labels"], found["shares"]["reference"], strict=True))
    for name in set(by_name) - {"others", "unseen"}:
        assert by_name[name] == pytest.approx(counted[name] / 5_000, abs=1e-5)
    assert sum(by_name.values()) == pytest.approx(1, abs=1e-4)


numbers = st.lists(st.floats(-1e6, 1e6) | st.integers(-3, 3).map(float), max_size=40)


@given(numbers, numbers)
def test_shares_are_of_all_values_whatever_they_are(
    reference: list[float], window: list[float]
) -> None:
    cells = cells_of(np.array([*reference, np.nan]))
    found = bars(cells, {"closed": counts_of(cells, np.array([*window, np.nan, np.inf]))})
    for name, values in (("reference", reference), ("closed", window)):
        shares = found["shares"][name]
        assert len(shares) == len(found["labels"]) <= BARS
        assert sum(shares) == pytest.approx(1 if values else 0, abs=1e-3)
        assert min(shares) >= 0
