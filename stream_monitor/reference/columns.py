"""Deciding what the columns are and which cells they have; filling the cells."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from stream_monitor.cells import Cells, Summary
from stream_monitor.config.model import Config
from stream_monitor.errors import ProfileError
from stream_monitor.methods.base import Registry
from stream_monitor.reference.study import ColumnStudy
from stream_monitor.schema import Column, FloatArray, IntArray, Kind, Role, Schema

_PARTS = 32  # of a column's mass that a segment can tell apart at least


def decided(
    studies: dict[str, ColumnStudy], config: Config, registry: Registry
) -> tuple[Schema, dict[str, Cells]]:
    """The schema and the cells, before anything is counted."""
    scored = any(s.role is Role.SCORE for s in studies.values())
    columns, cells = [], {}
    for study in studies.values():
        kind = study.kind(scored=scored)
        if kind is None:
            continue
        column = Column(study.name, kind, study.role)
        columns.append(column)
        none, counts = np.empty(0), np.empty(0, dtype=np.int64)
        if column.continuous:
            summary = study.numbers.summary()
            edges = _edges(summary, registry, compat=config.compat is not None)
            cells[column.name] = Cells(column, edges, none, (), counts, summary)
        else:
            names = (
                study.categories(config.reference.max_categories if config.compat is None else None)
                if kind is Kind.CATEGORICAL
                else ("false", "true")
            )
            cells[column.name] = Cells(column, none, none, names, counts, None)
    if not any(c.role is Role.FEATURE for c in columns):
        raise ProfileError("the data has no feature column; check `mapping.features`")
    return Schema(tuple(columns)), cells


def check_names(names: Collection[str], config: Config) -> None:
    for section in ("columns", "importances"):
        for name in getattr(config.reference, section):
            if name not in names:
                raise ProfileError(
                    f"reference.{section}.{name}: the data has no such column; it has "
                    f"{', '.join(names)}"
                )


def _edges(summary: Summary, registry: Registry, *, compat: bool) -> FloatArray:
    """The union of all cuts that the methods need."""
    wanted = [
        m.edges(summary, compat=compat)
        for m in registry.drift.values()
        if Kind.CONTINUOUS in m.kinds
    ]
    edges: FloatArray = np.unique(np.concatenate([np.empty(0), *wanted]))
    return edges[np.isfinite(edges)]


def coarse_edges(cells: Cells, registry: Registry) -> FloatArray:
    """The edges that a segment's cells keep.

    Those that methods need exactly, the range's ends, 31 that share the reference's mass evenly,
    and every fourth beyond the range.
    """
    if cells.summary is None or not cells.summary.n:
        return cells.edges
    low, high = cells.summary.minimum, np.nextafter(cells.summary.maximum, np.inf)
    below = np.cumsum(cells.values)[:-1] / cells.summary.n
    even = cells.edges[
        np.searchsorted(below, np.arange(1, _PARTS) / _PARTS).clip(max=len(below) - 1)
    ]
    beyond = cells.edges[(cells.edges < low) | (cells.edges > high)][::4]
    exact = [m for m in registry.drift.values() if not m.fine and cells.column.kind in m.kinds]
    wanted = [[low, high], even, beyond, *(m.edges(cells.summary) for m in exact)]
    return np.intersect1d(np.concatenate(wanted), cells.edges)


def filled_cells(cells: Cells, counts: IntArray, sums: FloatArray | None) -> Cells:
    """The cells with what was counted in them."""
    points: np.ndarray[Any, np.dtype[np.float64]] = np.empty(0)
    if sums is not None:
        edges, number = cells.edges, counts[: cells.size]
        if len(edges):
            middle = np.concatenate([edges[:1], (edges[1:] + edges[:-1]) / 2, edges[-1:]])
        else:
            middle = np.zeros(1)
        points = np.where(number > 0, sums / np.maximum(number, 1), middle)
        if len(edges):  # rounding must not carry a mean out of its cell
            points[:-1] = np.minimum(points[:-1], edges)
            points[1:] = np.maximum(points[1:], edges)
    return Cells(
        cells.column, cells.edges, points, cells.categories, np.array(counts), cells.summary
    )
