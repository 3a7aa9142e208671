"""Which classification problem a model solves: its classes, and the columns that speak of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells
from stream_monitor.errors import ProfileError
from stream_monitor.schema import (
    PREDICTION,
    SCORE,
    TARGET,
    FloatArray,
    IntArray,
    Role,
    Schema,
    score_column,
)

NEGATIVE, POSITIVE = 0, 1  # the classes of a binary problem
_MOST_CLASSES = 100  # their pairs are counted
_BOOLEANS = {"false": "0", "true": "1"}


@dataclass(frozen=True, slots=True)
class Label:
    """A column of class names: its row among a batch's codes, and the class of each code.

    ``classes`` is int64[C + 3], -1 for what is none of the classes: another category, unseen,
    missing, wrong type.
    """

    row: int
    classes: IntArray

    def of(self, batch: ColumnBatch) -> IntArray:
        """int64[n], the class of each row or -1."""
        found: IntArray = self.classes[batch.codes[self.row]]
        return found


@dataclass(frozen=True, slots=True)
class Problem:
    """A classification problem of K classes.

    With one score column (of the positive class) or without any and two categories it is binary:
    its classes are the negative and the positive one. With a score column for each of several
    classes it is multiclass, also where these are two; so it is with more categories and no score.

    Attributes
    ----------
    classes
        Sorted names; of a binary problem the negative one is not needed and empty.
    scores : int64[1], int64[K] or int64[0]
        Rows of a batch's numbers, in the order of the classes.
    prediction, target
        None where there is no such column.
    """

    classes: tuple[str, ...]
    binary: bool
    scores: IntArray
    prediction: Label | None
    target: Label | None

    @property
    def size(self) -> int:
        """K."""
        return len(self.classes)

    @property
    def scored(self) -> tuple[int, ...]:
        """The class of each score column."""
        every = (POSITIVE,) if self.binary else tuple(range(self.size))
        return every[: len(self.scores)]

    def usable(self, batch: ColumnBatch) -> IntArray:
        """The rows with finite scores."""
        return np.flatnonzero(np.isfinite(batch.numbers[self.scores]).all(axis=0))

    def scores_of(self, batch: ColumnBatch, rows: IntArray) -> FloatArray:
        """float64[S, len(rows)]."""
        return batch.numbers[self.scores[:, None], rows]

    @classmethod
    def of(cls, schema: Schema, cells: Mapping[str, Cells], positive: str | None) -> Problem | None:
        """The problem of these columns; None where they are no classification.

        The positive class of a binary problem is the configured one; else the one that the score
        column is named after; else ``1`` or ``true`` where the categories of target and prediction
        are 0 and 1 or false and true; else the last of two categories. All others are negative;
        but without a configured one, more than two categories and a single score are none of our
        problems, nor are more than 100 classes.

        Raises
        ------
        ProfileError
            Where no category is the configured positive class.
        """
        names = [c.name for c in schema.categorical]
        known = {n: cells[n].categories for n in (TARGET, PREDICTION) if n in names}
        scores = [c.name for c in schema.continuous if c.role is Role.SCORE]
        every = sorted({category for categories in known.values() for category in categories})
        binary = len(scores) == 1 or (not scores and _two(every))
        if binary:
            named = scores[0].removeprefix(score_column("")) if scores else SCORE
            wanted = _positive(every, positive, named)
            if wanted is None:
                return None
            classes: tuple[str, ...] = ("", wanted)
        else:
            begin = len(score_column(""))
            classes = tuple(sorted(s[begin:] for s in scores) or every)
            scores = [score_column(c) for c in classes] if scores else []
            if not 2 <= len(classes) <= _MOST_CLASSES:
                return None
        numbers = [c.name for c in schema.continuous]
        labels = {
            name: Label(names.index(name), _classes_of(categories, classes, binary=binary))
            for name, categories in known.items()
        }
        return cls(
            classes,
            binary,
            np.array([numbers.index(s) for s in scores], dtype=np.int64),
            labels.get(PREDICTION),
            labels.get(TARGET),
        )


def class_name(category: str) -> str:
    """The same name for a boolean and for 0 and 1, which columns of one model may mix."""
    return _BOOLEANS.get(category, category)


def _two(categories: list[str]) -> bool:
    return len({class_name(c) for c in categories}) == 2


def _positive(categories: list[str], configured: str | None, named: str) -> str | None:
    plain = sorted({class_name(c) for c in categories})
    if configured is not None:
        if plain and class_name(configured) not in plain:
            raise ProfileError(
                f"reference.positive_class is {configured!r}; predictions and targets of the "
                f"reference are {', '.join(map(repr, categories))}: name one of these"
            )
        return class_name(configured)
    if class_name(named) in plain:
        return class_name(named)
    if set(plain) <= {"0", "1"}:
        return "1"
    return plain[-1] if len(plain) <= 2 else None


def _classes_of(categories: tuple[str, ...], classes: tuple[str, ...], *, binary: bool) -> IntArray:
    found = np.full(len(categories) + 3, -1, dtype=np.int64)
    index = {class_name(c): i for i, c in enumerate(classes)} | {
        c: i for i, c in enumerate(classes)
    }
    for code, category in enumerate(categories):
        if binary:
            found[code] = POSITIVE if class_name(category) == classes[POSITIVE] else NEGATIVE
        else:
            found[code] = index.get(category, index.get(class_name(category), -1))
    return found
