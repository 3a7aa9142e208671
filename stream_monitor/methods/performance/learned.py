"""What both methods learn from a reference's rows, and keep as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stream_monitor.cells import Cells
from stream_monitor.errors import ProfileError
from stream_monitor.methods.base import Arrays, Study
from stream_monitor.methods.performance.errors import ranking_deviation, shares, together
from stream_monitor.methods.performance.metrics import Sums
from stream_monitor.methods.performance.problem import Problem
from stream_monitor.methods.performance.scores import ScoreCells
from stream_monitor.schema import FloatArray, IntArray, Schema


def options(study: Study) -> dict[str, np.ndarray[Any, Any]]:
    """positive : uint8[…], the configured positive class, empty for none; compat : uint8[1]."""
    return {
        "positive": np.frombuffer((study.positive or "").encode(), dtype=np.uint8),
        "compat": np.array([study.compat], dtype=np.uint8),
    }


def problem_of(schema: Schema, cells: Mapping[str, Cells], arrays: Arrays) -> Problem:
    """The problem that was learned from, in the columns of this schema."""
    problem = Problem.of(schema, cells, arrays["positive"].tobytes().decode() or None)
    if problem is None:
        raise ProfileError(
            "the reference's columns are no classification's, but its performance was learned; "
            "build it anew with `stream-monitor reference build`"
        )
    return problem


def ranking_sums(labels: FloatArray, codes: IntArray, cells: ScoreCells) -> Sums:
    """The sums of rows with scores, without a confusion matrix.

    Parameters
    ----------
    labels : float64[S, n]
        1, or a probability, where a row is of a score column's class.
    codes : int64[S, n]
    """
    totals = cells.sums(codes, np.ones(codes.shape))
    positives = cells.sums(codes, labels)
    split = cells.split
    return Sums(np.empty((0, 0)), 0, tuple(split(positives)), tuple(split(totals)), labels.shape[1])


def ranking_factors(
    sums: Sums, labels: FloatArray, codes: IntArray, cells: ScoreCells, *, estimated: bool
) -> FloatArray:
    """Deviations of ROC AUC and average precision over those that the sums alone tell, float64[2].

    Below 1 where score columns do not move together; 1 for a binary problem.
    """
    if not sums.ranked:
        return np.zeros(2)
    part = shares(sums)
    alike = ranking_deviation(part, estimated=estimated)
    known = together(part, labels, codes, cells.starts)
    return np.divide(known, alike, out=np.zeros(2), where=alike > 0)
