"""The first look at reference data: what each column holds, in constant memory."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from stream_monitor.cells import Summary
from stream_monitor.decode import tabular
from stream_monitor.errors import ProfileError
from stream_monitor.hashing import splitmix64
from stream_monitor.schema import FloatArray, Kind, Role

MAX_DISTINCT = 512
_MAX_CATEGORIES = 1_000_000  # distinct values counted before a column is refused
_SAMPLE = 100_000
_QUANTILES = 4_097  # order statistics of the sample that are kept
_FEW = 50  # a predicted class is one of at most this many whole numbers


class NumberStudy:
    """Moments, extremes, distinct values and a uniform sample of a column's finite numbers.

    The moments are those of Pébay (2008), "Formulas for robust, one-pass parallel computation of
    covariances and arbitrary-order statistical moments", equations 2.1 and 3.1 for orders 2 and 3.
    The sample keeps the rows whose row number has the smallest hash: the same whatever the chunks.
    """

    def __init__(self) -> None:
        self._n = 0
        self._mean = self._m2 = self._m3 = 0.0
        self._minimum, self._maximum = np.inf, -np.inf
        self._minimum_count = self._maximum_count = 0
        self.distinct: dict[float, int] | None = {}
        self._sample = np.empty(0)
        self._rank = np.empty(0, dtype=np.uint64)

    def update(self, numbers: FloatArray, row: int) -> None:
        """Take in float64[n]; ``row`` is the number of the first."""
        finite = np.isfinite(numbers)
        values = numbers[finite]
        if not len(values):
            return
        self._extremes(values)
        self._moments(values)
        if self.distinct is not None:
            found, counts = np.unique(values, return_counts=True)
            if len(found) <= MAX_DISTINCT:
                for value, count in zip(found.tolist(), counts.tolist(), strict=True):
                    self.distinct[value] = self.distinct.get(value, 0) + count
            if max(len(found), len(self.distinct)) > MAX_DISTINCT:
                self.distinct = None
        rank = splitmix64(np.arange(row, row + len(numbers), dtype=np.uint64)[finite])
        self._sample = np.concatenate([self._sample, values])
        self._rank = np.concatenate([self._rank, rank])
        if len(self._sample) > _SAMPLE:
            kept = np.argpartition(self._rank, _SAMPLE)[:_SAMPLE]
            self._sample, self._rank = self._sample[kept], self._rank[kept]

    def _extremes(self, values: FloatArray) -> None:
        low, high = float(values.min()), float(values.max())
        if low < self._minimum:
            self._minimum, self._minimum_count = low, 0
        if high > self._maximum:
            self._maximum, self._maximum_count = high, 0
        self._minimum_count += int(np.count_nonzero(values == self._minimum))
        self._maximum_count += int(np.count_nonzero(values == self._maximum))

    def _moments(self, values: FloatArray) -> None:
        n, mean = len(values), float(values.mean())
        offset = values - mean
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # beyond 1e103 there is no third moment in float64
            m2, m3 = float((offset**2).sum()), float((offset**3).sum())
        a, b, total = self._n, n, self._n + n
        delta = mean - self._mean
        self._m3 += (
            m3
            + delta**3 * a * b * (a - b) / total**2
            + 3.0 * delta * (a * m2 - b * self._m2) / total
        )
        self._m2 += m2 + delta**2 * a * b / total
        self._mean += delta * b / total
        self._n = total

    def summary(self) -> Summary:
        if not self._n:
            nan, none = float("nan"), np.empty(0)
            return Summary(0, nan, nan, nan, nan, nan, 0, 0, none, none)
        # rounding of the mean must not make a constant column vary
        constant = self._minimum == self._maximum
        mean = self._minimum if constant else self._mean
        std = 0.0 if constant else (self._m2 / self._n) ** 0.5
        skewness = self._m3 / self._n / std**3 if std**3 > 0 else 0.0
        sample = np.sort(self._sample)
        # the extremes belong to it although the sample may have missed them
        sample[0], sample[-1] = self._minimum, self._maximum
        if len(sample) > _QUANTILES:
            sample = sample[np.rint(np.linspace(0, len(sample) - 1, _QUANTILES)).astype(int)]
        distinct = np.array(sorted(self.distinct)) if self.distinct else np.empty(0)
        return Summary(
            self._n,
            self._minimum,
            self._maximum,
            mean,
            std,
            skewness,
            self._minimum_count,
            self._maximum_count,
            sample,
            distinct,
        )


class ColumnStudy:
    """What one file column holds, before its kind is decided."""

    def __init__(self, name: str, role: Role, forced: Kind | None) -> None:
        self.name = name
        self.role = role
        self._forced = forced
        self._observed: set[str] = set()
        self.numbers = NumberStudy()
        self._categories: Counter[str] = Counter()

    def update(self, column: Any, *, text: bool, row: int) -> None:
        """Take in one chunk's values; ``row`` is the number of its first row."""
        kinds = tabular.observed(column, text=text)
        self._observed |= kinds
        if self._forced is not Kind.CATEGORICAL and "number" in kinds:
            self.numbers.update(tabular.numbers(column, text=text)[0], row)
        if self._forced is Kind.CATEGORICAL or "text" in kinds:
            self._count(column, text=text)

    @property
    def counted(self) -> bool:
        """Whether every value was counted as a category: not so where text came after numbers."""
        return self._forced is Kind.CATEGORICAL or self._observed == {"text"}

    def _count(self, column: Any, *, text: bool) -> None:
        codes, names, _ = tabular.categories(column, text=text)
        for name, count in zip(names, np.bincount(codes[codes >= 0]).tolist(), strict=False):
            self._categories[name] += count
        if len(self._categories) > _MAX_CATEGORIES:
            raise ProfileError(
                f"column {self.name!r} has over {_MAX_CATEGORIES:,} distinct values, as an "
                f"identifier has; leave it out with reference.columns.{self.name}.kind: ignore"
            )

    def kind(self, *, scored: bool) -> Kind | None:
        """The column's kind; None where it holds nothing that can be compared.

        Numbers are continuous, booleans boolean, text (or text among numbers) categorical. A
        prediction or target beside a score is a class, so categorical, if it is one of a few whole
        numbers; a segment field is categorical whatever it holds.
        """
        if self._forced is not None or not self._observed:
            return self._forced
        mixed = "text" in self._observed or {"number", "boolean"} <= self._observed
        if mixed or self.role is Role.SEGMENT:
            return Kind.CATEGORICAL
        if "boolean" in self._observed:
            return Kind.BOOLEAN
        output = self.role in (Role.PREDICTION, Role.TARGET)
        return Kind.CATEGORICAL if output and scored and self._few_whole() else Kind.CONTINUOUS

    def _few_whole(self) -> bool:
        distinct = self.numbers.distinct or {}
        return 0 < len(distinct) <= _FEW and all(value.is_integer() for value in distinct)

    def categories(self, limit: int | None) -> tuple[str, ...]:
        """The ``limit`` most frequent categories (ties by name), or all of them, sorted."""
        counts = self._categories
        frequent = sorted(counts, key=lambda name: (-counts[name], name))[:limit]
        return tuple(sorted(frequent))
