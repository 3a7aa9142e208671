"""Cells from raw values, for tests of what is computed on cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from stream_monitor.cells import Cells, Summary, codes_of
from stream_monitor.methods import REGISTRY
from stream_monitor.methods.base import DriftMethod
from stream_monitor.reference.study import NumberStudy
from stream_monitor.schema import Column, FloatArray, IntArray, Kind, Role, category_of


def summary_of(values: FloatArray) -> Summary:
    """The summary that building a reference from these values gives."""
    study = NumberStudy()
    study.update(values, 0)
    return study.summary()


def cells_of(
    values: Sequence[Any] | np.ndarray[Any, Any],
    kind: Kind = Kind.CONTINUOUS,
    *,
    name: str = "x",
    role: Role = Role.FEATURE,
    edges_from: Iterable[DriftMethod] | None = None,
) -> Cells:
    """The cells of a column whose reference values are ``values``.

    Numbers for a continuous column (NaN is missing, ±inf not finite), else scalars (None is
    missing). The edges are the union of those of ``edges_from``, by default all registered drift
    methods.
    """
    column = Column(name, kind, role)
    none, zero = np.empty(0), np.empty(0, np.int64)
    if kind is not Kind.CONTINUOUS:
        names = {category_of(v) for v in _scalars(values)} - {None}
        if kind is Kind.BOOLEAN:
            names = {"false", "true"}
        empty = Cells(column, none, none, tuple(sorted(map(str, names))), zero, None)
        return _counted(empty, none, values)
    numbers = np.asarray(values, dtype=np.float64)
    summary = summary_of(numbers)
    methods = REGISTRY.drift.values() if edges_from is None else edges_from
    wanted = [m.edges(summary) for m in methods if kind in m.kinds]
    edges: FloatArray = np.unique(np.concatenate([none, *wanted]))
    edges = edges[np.isfinite(edges)]
    finite = numbers[np.isfinite(numbers)]
    codes = codes_of(edges, finite)
    number = np.bincount(codes, minlength=len(edges) + 1)
    sums = np.bincount(codes, finite, len(edges) + 1)
    points = np.zeros(1)
    if len(edges):
        points = np.concatenate([edges[:1], edges[:-1] / 2 + edges[1:] / 2, edges[-1:]])
    points[number > 0] = sums[number > 0] / number[number > 0]
    if len(edges):
        points[:-1] = np.minimum(points[:-1], edges)
        points[1:] = np.maximum(points[1:], edges)
    return _counted(Cells(column, edges, points, (), zero, summary), points, values)


def _counted(cells: Cells, points: FloatArray, values: Any) -> Cells:
    return Cells(
        cells.column,
        cells.edges,
        points,
        cells.categories,
        counts_of(cells, values),
        cells.summary,
    )


def counts_of(cells: Cells, values: Sequence[Any] | np.ndarray[Any, Any]) -> IntArray:
    """The counts int64[slots] of a window with these values."""
    if cells.column.continuous:
        codes = codes_of(cells.edges, np.asarray(values, dtype=np.float64))
    else:
        index = {category: i for i, category in enumerate(cells.categories)}
        codes = np.array(
            [
                cells.missing if v is None else index.get(str(category_of(v)), cells.unseen)
                for v in _scalars(values)
            ],
            dtype=np.int64,
        )
    return np.bincount(codes, minlength=cells.slots)


def _scalars(values: Sequence[Any] | np.ndarray[Any, Any]) -> Sequence[Any]:
    """Python's own scalars, as a decoder gives them."""
    return values.tolist() if isinstance(values, np.ndarray) else values
