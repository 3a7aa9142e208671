"""What right and wrong decisions are worth: the business value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_monitor.errors import ProfileError
from stream_monitor.methods.base import Arrays
from stream_monitor.methods.performance.problem import Problem
from stream_monitor.schema import FloatArray


@dataclass(frozen=True, slots=True)
class Worth:
    """What rows are worth by true and predicted class, float64[K, K] in the order of the classes.

    ``per_prediction``: summed over shares of each predicted class, NannyML's normalisation (of K
    columns, each weighs the same however many rows it has); a class that is not predicted is 0.
    """

    matrix: FloatArray
    per_prediction: bool

    @classmethod
    def of(cls, problem: Problem, arrays: Arrays) -> Worth | None:
        """What the arrays hold.

        business_value : float64[K, K]
        business_value_per_prediction : uint8[1], may be missing
        """
        matrix = arrays.get("business_value")
        if matrix is None:
            return None
        if matrix.shape != (problem.size, problem.size):
            raise ProfileError(
                f"methods.business_value has the shape {matrix.shape}; there are {problem.size} "
                f"classes, {problem.classes}: give a row each true class with a number each "
                "predicted one"
            )
        per_prediction = bool(np.any(arrays.get("business_value_per_prediction", 0)))
        return cls(np.asarray(matrix, dtype=np.float64), per_prediction)

    def value(self, matrix: FloatArray) -> float:
        if not self.per_prediction:
            return float((self.matrix * matrix).sum())
        predicted = matrix.sum(axis=0)
        part = np.divide(matrix, predicted, out=np.zeros_like(matrix), where=predicted > 0)
        return float((self.matrix * part).sum())

    def slopes(self, matrix: FloatArray) -> FloatArray:
        """Derivatives by the matrix, float64[K, K]."""
        if not self.per_prediction:
            return self.matrix
        predicted = matrix.sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = (self.matrix * matrix).sum(axis=0) / predicted
            slopes = (self.matrix - mean) / predicted
        return np.where(predicted > 0, slopes, 0.0)
