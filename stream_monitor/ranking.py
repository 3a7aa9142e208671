"""Rankers: which features to look at first, from the windows of one series.

The three are functions of the same list of windows, that is of one model, version, segment and
window name, reference chunks included or not. Each gives the features that have a value of the
drift metric in some window; a feature whose score is NaN stands at the end.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isnan, nan

import numpy as np
from scipy import stats

from stream_monitor.schema import FloatArray
from stream_monitor.values import DRIFT, REALIZED, Value, WindowResult


@dataclass(frozen=True, slots=True)
class Ranked:
    """A feature's place.

    ``rank`` counts from 1, each rank once; ``p_value`` is that of a correlation, else NaN;
    ``has_drifted`` says whether any window had an alert on it.
    """

    feature: str
    score: float
    rank: int
    p_value: float
    has_drifted: bool


def rank_by_alerts(results: Sequence[WindowResult], *, metric: str) -> list[Ranked]:
    """By the number of windows with an alert of the drift metric.

    Source: NannyML 0.13.1, ``AlertCountRanker``; like there, equal counts stand in descending
    order of the features' names. Score: 0 to the number of windows; a value that was not judged
    is no alert.
    """
    found = [
        (name, float(sum(bool(v and v.alert) for v in values)), nan)
        for name, values in sorted(_series(results, DRIFT, metric).items(), reverse=True)
    ]
    return _ranked(results, metric, found)


def rank_by_correlation(
    results: Sequence[WindowResult],
    *,
    metric: str,
    performance: str,
    mean_reference_performance: float,
    family: str = REALIZED,
) -> list[Ranked]:
    """By how the drift goes along with changes in performance.

    Source: NannyML 0.13.1, ``CorrelationRanker``. Score: Pearson's r over the windows between the
    drift metric and |performance - its mean in the reference|, -1 to 1, not its absolute value;
    p value: two-sided, of r = 0 (Student's t with n - 2 degrees of freedom). Windows in which
    either is NaN or absent are left out of the feature's pairs; r and p are NaN with fewer than
    two pairs or where either side is constant. Equal scores stand in the order of the values.

    Parameters
    ----------
    performance
        Metric of the family, of the model as a whole, such as ``roc_auc``.
    mean_reference_performance
        Mean of it over the reference's chunks.
    family
        ``realized_performance`` or ``estimated_performance``.
    """
    own = _series(results, family, performance).get("", [None] * len(results))
    change = np.abs(_numbers(own) - mean_reference_performance)
    found = [
        (name, *_pearson(_numbers(values), change))
        for name, values in _series(results, DRIFT, metric).items()
    ]
    return _ranked(results, metric, found)


def rank_by_importance(
    results: Sequence[WindowResult], *, metric: str, importances: Mapping[str, float]
) -> list[Ranked]:
    """By drift beyond what is normal, on features that matter to the model.

    Score: importance × mean over the windows of value / upper threshold, 0 or more. The quotient
    is 1 where an alert begins, which makes features of different kinds comparable. Windows
    without a value or without an upper threshold above 0 are left out; the score is NaN where
    none is left and where the feature has no importance. Equal scores stand in the order of the
    values.

    Parameters
    ----------
    importances
        Of each feature to the monitored model, 0 or more, in any one unit: gain, mean |SHAP|,
        permutation importance.

    Raises
    ------
    ValueError
        An importance is negative or NaN.
    """
    for name, importance in importances.items():
        if not importance >= 0:
            raise ValueError(f"importance of {name!r} is {importance}; give numbers of 0 or more")
    found = []
    for name, values in _series(results, DRIFT, metric).items():
        ratios = [v.value / v.upper_threshold for v in values if v and v.upper_threshold > 0]
        known = [ratio for ratio in ratios if not isnan(ratio)]
        mean = float(np.mean(known)) if known else nan
        found.append((name, importances.get(name, nan) * mean, nan))
    return _ranked(results, metric, found)


def _series(
    results: Sequence[WindowResult], family: str, metric: str
) -> dict[str, list[Value | None]]:
    """A feature's values of a metric, one a window; None where a window has none.

    Raises
    ------
    ValueError
        The windows are of several series.
    """
    for one, other in pairwise((r.model, r.version, r.segment, r.window) for r in results):
        if one != other:
            raise ValueError(f"windows of several series: {one} and {other}; rank each by itself")
    found: dict[str, list[Value | None]] = {}
    for i, result in enumerate(results):
        for v in result.values:
            if v.family == family and v.metric == metric:
                found.setdefault(v.feature, [None] * len(results))[i] = v
    return found


def _numbers(values: Sequence[Value | None]) -> FloatArray:
    return np.array([nan if v is None else v.value for v in values])


def _pearson(drift: FloatArray, change: FloatArray) -> tuple[float, float]:
    both = np.isfinite(drift) & np.isfinite(change)
    if np.count_nonzero(both) < 2:
        return nan, nan
    with warnings.catch_warnings():
        # of constant series, whose r is NaN, and of nearly constant ones
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        found = stats.pearsonr(drift[both], change[both])
    return float(found.statistic), float(found.pvalue)


def _ranked(
    results: Sequence[WindowResult], metric: str, found: list[tuple[str, float, float]]
) -> list[Ranked]:
    """Greatest score first, NaN last, else in the given order."""
    drifted = {
        v.feature for r in results for v in r.values if v.family == DRIFT and v.metric == metric
        and v.alert
    }  # fmt: skip
    found = sorted(found, key=lambda one: (isnan(one[1]), -one[1]))
    return [
        Ranked(name, score, rank, p_value, name in drifted)
        for rank, (name, score, p_value) in enumerate(found, start=1)
    ]
