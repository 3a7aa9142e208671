"""Gradient-boosted trees by LightGBM: the only module that knows it, an optional extra.

Everything is made so that the same rows give the same trees: one thread, fixed seeds, LightGBM's
deterministic mode. A model is kept as LightGBM's own text, which reads back to the same
predictions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells
from stream_monitor.errors import ProfileError
from stream_monitor.schema import BoolArray, FloatArray, IntArray, Role, Schema

USERS = ("dle", "domain_classifier")  # in `methods.blocks`

_TREES = 100
_SEED = 13
# LightGBM's own defaults but for what makes the outcome certain and the machine's cores irrelevant
_PARAMETERS = {
    "verbosity": -1,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "seed": _SEED,
}
# Labels are float32 inside LightGBM, and their squares must not overflow float64.
_GREATEST_LABEL = 2.0**100


@cache
def _lightgbm() -> Any:
    """The library.

    Raises
    ------
    ProfileError
        Where it or the OpenMP runtime that it needs is not installed.
    """
    try:
        return import_module("lightgbm")
    except ImportError as error:
        raise ProfileError(
            f"{', '.join(USERS)} need LightGBM, which is not installed: pip install "
            "'stream-monitor[lightgbm]', or take them out of methods.blocks"
        ) from error
    except OSError as error:
        raise ProfileError(
            f"LightGBM cannot be loaded ({error}); it needs the OpenMP runtime, which is in the "
            "system package libgomp1 (Debian, Ubuntu) or libgomp (Fedora, Alpine)"
        ) from error


@dataclass(frozen=True, slots=True)
class Features:
    """Which columns of a batch the trees see, and how.

    Attributes
    ----------
    numbers, codes
        Rows of the batch's ``numbers`` and ``codes``.
    starts : int64[m, 1]
        Where each categorical column begins in ``encoding``.
    encoding : float64[s]
        What each category becomes.
    """

    numbers: IntArray
    codes: IntArray
    starts: IntArray
    encoding: FloatArray

    @classmethod
    def of(cls, schema: Schema, cells: Mapping[str, Cells], roles: Collection[Role]) -> Features:
        """The columns with one of these roles."""
        numbers = [i for i, c in enumerate(schema.continuous) if c.role in roles]
        codes = [i for i, c in enumerate(schema.categorical) if c.role in roles]
        encoding, starts = [np.empty(0)], [0]
        for i in codes:
            own = cells[schema.categorical[i].name]
            known = np.arange(1.0, own.unseen + 1)
            # unseen 0; missing and wrong type are a category of their own
            encoding.append(np.concatenate([known, [0.0], np.full(2, own.unseen + 1.0)]))
            starts.append(starts[-1] + own.slots)
        return cls(
            np.array(numbers, dtype=np.int64),
            np.array(codes, dtype=np.int64),
            np.array(starts[:-1], dtype=np.int64)[:, None],
            np.concatenate(encoding),
        )

    @property
    def categorical(self) -> BoolArray:
        """bool[F]: which columns of the matrix are categories."""
        return np.arange(len(self.numbers) + len(self.codes)) >= len(self.numbers)

    def matrix(self, batch: ColumnBatch) -> FloatArray:
        """float64[n, F], C-contiguous: numbers, then categories, each in schema order.

        A number that is missing, of a wrong type or infinite is NaN; the i-th category is i + 1,
        an unseen one 0, a missing one as well as a wrong type the number after the last category.
        """
        found = np.empty((len(batch), len(self.numbers) + len(self.codes)))
        own = found[:, : len(self.numbers)]
        own[:] = batch.numbers[self.numbers].T
        own[np.isinf(own)] = np.nan
        found[:, len(self.numbers) :] = self.encoding[batch.codes[self.codes] + self.starts].T
        return found


class Model:
    """Trained trees."""

    def __init__(self, text: NDArray[np.uint8]) -> None:
        """Read back what :func:`trained` gave."""
        self._booster = _lightgbm().Booster(model_str=text.tobytes().decode("ascii"))

    def predict(self, matrix: FloatArray) -> FloatArray:
        """float64[n] from float64[n, F]: a regression's value, or a classifier's log-odds.

        A row's value does not depend on the rows beside it.
        """
        if not len(matrix):
            return np.empty(0)
        found: FloatArray = self._booster.predict(matrix, raw_score=True, num_threads=1)
        return found

    @property
    def upper_bound(self) -> float:
        """No prediction is above it: the sum of each tree's greatest leaf."""
        return float(self._booster.upper_bound())


def trained(
    objective: str, matrix: FloatArray, label: FloatArray, categorical: BoolArray
) -> NDArray[np.uint8]:
    """Trees with LightGBM's defaults (100 of at most 31 leaves, learning rate 0.1), as text.

    Parameters
    ----------
    objective
        ``regression`` (squared error) or ``binary`` (log loss).
    matrix : float64[n, F], at least one row
    label : float64[n], finite, not negative
        Taken at most at 2¹⁰⁰; for ``binary`` 0 or 1.
    categorical : bool[F]
        Which features are whole numbers that stand for categories.

    Returns
    -------
    uint8[b], ASCII
    """
    lightgbm = _lightgbm()
    data = lightgbm.Dataset(
        matrix,
        np.minimum(label, _GREATEST_LABEL),
        categorical_feature=np.flatnonzero(categorical).tolist(),
        params=_PARAMETERS,
    )
    booster = lightgbm.train(_PARAMETERS | {"objective": objective}, data, num_boost_round=_TREES)
    return np.frombuffer(booster.model_to_string().encode("ascii"), dtype=np.uint8)
