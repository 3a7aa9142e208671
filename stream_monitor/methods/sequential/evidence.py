"""Evidence that a mean has left its place, gathered for as long as a stream lives."""

from __future__ import annotations

import math

import numpy as np

from stream_monitor.schema import FloatArray

# strengths of the bets, per unit: from changes that show in some ten thousand rows to large ones
_BETS = np.geomspace(0.005, 1.0, 12)


class Evidence:
    """An e-detector for residuals that are at most 1 in size and have mean 0, for both signs.

    For residuals with conditional mean at most τ and variance v that are at most 1,
    exp(λ(Σ(r − τ)) − V(e^λ − 1 − λ)), with V = Σv, is a supermartingale for every λ > 0 (Freedman
    1975; Howard, Ramdas, McAuliffe and Sekhon 2021 have it as the sub-Poisson case), whatever
    decides which residuals come, as long as that does not look at them. Let L be a pane's factor.
    R ← (R + 1) L sums the evidence over all panes since which the mean may have been off (Shin,
    Ramdas and Rinaldo 2022, "E-detectors"; the Shiryaev–Roberts form), so an old good life does not
    hide a new change. R averages the bets λ and both signs. While nothing is off, E R after T panes
    is at most T, so by Doob's inequality an R of 1/α is reached within T panes with a probability
    of at most αT: a false alarm in 1/α panes at most, on average.

    R is held at most at ten times the threshold, which only makes it less: so once the mean is back
    it falls below soon.
    """

    def __init__(self, rate: float) -> None:
        self.threshold = -math.log10(rate)
        self._most = self.threshold * math.log(10) + math.log(10)
        self._logs: FloatArray = np.full((2, len(_BETS)), -np.inf)

    def feed(self, total: float, variance: float, slack: float) -> None:
        """Take a pane's Σr, Σv and Στ."""
        growth = np.expm1(_BETS) - _BETS
        for sign, logs in zip((1.0, -1.0), self._logs, strict=True):
            factor = _BETS * (sign * total - slack) - variance * growth
            np.minimum(np.logaddexp(logs, 0.0) + factor, self._most, out=logs)

    @property
    def value(self) -> float:
        """log10 R; -inf before the first pane."""
        return float(np.logaddexp.reduce(self._logs, axis=None) - math.log(self._logs.size)) / (
            math.log(10)
        )

    def state(self) -> list[list[float | None]]:
        """As JSON, which has no infinity: None."""
        return [[x if math.isfinite(x) else None for x in row] for row in self._logs.tolist()]

    def restore(self, state: list[list[float | None]]) -> None:
        self._logs = np.array([[-math.inf if x is None else x for x in row] for row in state])


def half_width(variance: float, rows: int, level: float) -> float:
    """Half of a confidence sequence's width about a mean of residuals.

    The normal mixture's boundary (Robbins 1970; Howard et al. 2021, eq. 14), over the rows:
    √((V + ρ) log((V + ρ) / (ρ α²))), with ρ such that it is narrowest about V = 1,000. It covers
    the mean at all times at once with a probability of 1 − α, as far as the sums are normal. NaN
    without rows.
    """
    if not rows:
        return math.nan
    tuned = 1_000 / (2 * math.log(1 / level) + math.log(1 + 2 * math.log(1 / level)))
    whole = variance + tuned
    return math.sqrt(whole * math.log(whole / (tuned * level**2))) / rows
