"""What an event of one model looks like: its columns, their kinds and roles."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import inf

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
CodeArray = NDArray[np.int32]
BoolArray = NDArray[np.bool_]


class Kind(StrEnum):
    """How a column's values are compared.

    Booleans are categorical with the two categories ``false`` and ``true``; the kind of its own
    exists so that the decoder can tell a wrong type.
    """

    CONTINUOUS = "continuous"
    CATEGORICAL = "categorical"
    BOOLEAN = "boolean"


class Role(StrEnum):
    FEATURE = "feature"
    PREDICTION = "prediction"
    SCORE = "score"
    TARGET = "target"  # the true label, where events or a label file bring it
    SEGMENT = "segment"  # a field that only says which part of the traffic an event belongs to
    DERIVED = "derived"  # computed from the other columns of the same row, e.g. the outlier score


PREDICTION = "prediction"
SCORE = "score"
TARGET = "target"
SEGMENT = "segment."  # what the names of segment fields begin with


def score_column(class_label: str | None) -> str:
    """The column name of a score: ``score``, or ``score_<class>`` where there are several."""
    return SCORE if class_label is None else f"{SCORE}_{class_label}"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: ``name`` is unique in its schema and is the ``feature`` label of every metric."""

    name: str
    kind: Kind
    role: Role = Role.FEATURE

    @property
    def continuous(self) -> bool:
        return self.kind is Kind.CONTINUOUS


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of a model's events, features in name order, then all others."""

    columns: tuple[Column, ...]

    @property
    def continuous(self) -> tuple[Column, ...]:
        return tuple(c for c in self.columns if c.continuous)

    @property
    def categorical(self) -> tuple[Column, ...]:
        """Categorical and boolean columns."""
        return tuple(c for c in self.columns if not c.continuous)


def category_of(value: object) -> str | None:
    """The category that a scalar stands for, or None where the value is no scalar.

    ``true``/``false`` for booleans; whole numbers without a fraction (``3`` for 3 and 3.0), so
    that a column which became float because of a missing value keeps its categories.
    """
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            # beyond 64 bits JSON readers give a float
            return str(value) if -(2**63) <= value < 2**64 else category_of(_float(value))
        case float():
            return str(int(value)) if value.is_integer() else repr(value)
        case _:
            return None


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return inf if value > 0 else -inf
