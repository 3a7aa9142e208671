"""The table finds what binary search finds, for any edges and any numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_monitor.cells import Cells, codes_of
from stream_monitor.panes.grid import Grid
from stream_monitor.schema import Column, FloatArray, Kind, Role

SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 5e-324, 1.7e308, -1.7e308]


def cells(edges: FloatArray, counts: Any) -> Cells:
    """Of a continuous column with these edges, and the reference's count of each cell."""
    return Cells(
        Column("x", Kind.CONTINUOUS, Role.FEATURE),
        edges,
        np.zeros(len(edges) + 1),
        (),
        np.concatenate([np.asarray(counts, dtype=np.int64), np.zeros(3, dtype=np.int64)]),
        None,
    )


def searched(columns: list[tuple[Cells, int]], numbers: FloatArray) -> Any:
    return np.array(
        [codes_of(c.edges, row) + start for (c, start), row in zip(columns, numbers, strict=True)]
    )


def found(columns: list[tuple[Cells, int]], numbers: FloatArray) -> Any:
    out = np.empty(numbers.shape, dtype=np.int64)
    Grid(columns).find(numbers, out)
    return out


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[tuple[Cells, int]], FloatArray]:
    """Columns of any range, and numbers on their edges, beside them, and anywhere."""
    columns, numbers = [], []
    for i in range(draw(st.integers(1, 4))):
        seed = draw(st.integers(0, 2**32 - 1))
        rng = np.random.default_rng(seed)
        scale = 10.0 ** draw(st.integers(-300, 300))
        center = scale * draw(st.sampled_from([0.0, 1.0, -1e6, 1e15]))
        drawn: Any = draw(st.sampled_from([rng.normal, rng.standard_cauchy, rng.random]))
        values = center + scale * drawn(size=draw(st.integers(0, 400)))
        edges = np.unique(values[np.isfinite(values)])
        counts = rng.integers(0, draw(st.sampled_from([1, 2, 1_000])), len(edges) + 1)
        columns.append((cells(edges, counts), 1_000 * i))
        near = rng.choice(edges, 100) if len(edges) else np.zeros(100)
        numbers.append(
            np.concatenate(
                [
                    near,
                    np.nextafter(near, -np.inf),
                    np.nextafter(near, np.inf),
                    rng.permutation([*SPECIAL, *near[:92]]),
                ]
            )
        )
    return columns, np.array(numbers)


@given(worlds())
def test_codes_are_those_of_binary_search(
    world: tuple[list[tuple[Cells, int]], FloatArray],
) -> None:
    columns, numbers = world
    assert (found(columns, numbers) == searched(columns, numbers)).all()


@pytest.mark.parametrize("number", [10, 512, 513, 3_300, 20_000])
def test_any_number_of_edges(number: int) -> None:
    rng = np.random.default_rng(number)
    edges = np.sort(rng.normal(size=number))
    columns = [(cells(edges, np.ones(number + 1)), 7)]
    numbers = np.concatenate([edges, np.nextafter(edges, -np.inf), rng.normal(size=5_000)])[None]
    assert (found(columns, numbers) == searched(columns, numbers)).all()


@pytest.mark.parametrize("rows", [0, 1, 2_047, 2_049, 10_000])
def test_any_number_of_rows(rows: int) -> None:
    rng = np.random.default_rng(1)
    edges = np.sort(rng.normal(size=300))
    columns = [(cells(edges, np.full(301, 10)), 0), (cells(edges * 1e9, np.full(301, 10)), 500)]
    numbers = rng.normal(size=(2, rows)) * [[1.0], [1e9]]
    assert (found(columns, numbers) == searched(columns, numbers)).all()


def test_most_numbers_are_found_by_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    values = rng.lognormal(1, 0.5, 100_000)
    edges = np.quantile(values, np.linspace(0, 1, 300)[1:-1])
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=299)
    asked = 0

    def counted(edges: FloatArray, numbers: FloatArray) -> Any:
        nonlocal asked
        asked += len(numbers)
        return codes_of(edges, numbers)

    monkeypatch.setattr("stream_monitor.panes.grid.codes_of", counted)
    found([(cells(edges, counts), 0)], values[np.newaxis])
    assert asked < 0.03 * len(values)
