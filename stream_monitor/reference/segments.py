"""Segments: which rows belong to which part of the traffic, chosen from the reference.

A segment is one combination of values of some categorical columns. Which ones there are is fixed
when the reference is built, the most frequent combinations there, so that replicas agree whatever
arrives first. A row belongs to at most one segment of each configured entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stream_monitor.batch import ColumnBatch
from stream_monitor.cells import Cells
from stream_monitor.config.model import SegmentConfig
from stream_monitor.errors import ProfileError
from stream_monitor.schema import IntArray, Schema


@dataclass(frozen=True, slots=True)
class SegmentSet:
    """The segments of one configured entry: columns, and the combinations of their values."""

    by: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]

    @property
    def labels(self) -> list[str]:
        """Such as ``country=FR, channel=web``."""
        return [
            ", ".join(f"{c}={v}" for c, v in zip(self.by, some, strict=True))
            for some in self.values
        ]


class Members:
    """Tells the segment of each row.

    Segments are numbered over all sets, in their order.
    """

    def __init__(
        self, sets: Sequence[SegmentSet], schema: Schema, cells: Mapping[str, Cells]
    ) -> None:
        self._sets = []
        first = 0
        for one in sets:
            combination = _Combination(one.by, schema, cells)
            wanted = np.array([combination.code_of(v) for v in one.values], dtype=np.int64)
            order = np.argsort(wanted)
            self._sets.append((combination, wanted[order], order + first))
            first += len(wanted)
        self.number = first

    def of(self, batch: ColumnBatch) -> list[IntArray]:
        """For each set int64[n]: the segment's number, -1 for rows that belong to none."""
        found = []
        for combination, wanted, numbers in self._sets:
            codes = combination.codes(batch)
            at = np.minimum(np.searchsorted(wanted, codes), len(wanted) - 1)
            found.append(np.where(wanted[at] == codes, numbers[at], -1))
        return found


class Chooser:
    """Counts the reference's combinations."""

    def __init__(
        self, configs: Sequence[SegmentConfig], schema: Schema, cells: Mapping[str, Cells]
    ) -> None:
        names = [c.name for c in schema.categorical]
        for i, config in enumerate(configs):
            for name in config.by:
                if name not in names:
                    raise ProfileError(
                        f"segments[{i}].by: {name!r} is no categorical column of the data; "
                        f"choose from {', '.join(names) or 'none: it has no such column'}"
                    )
        self._configs = configs
        self._combinations = [_Combination(tuple(c.by), schema, cells) for c in configs]
        self._counts: list[Counter[int]] = [Counter() for _ in configs]

    def update(self, batch: ColumnBatch) -> None:
        for combination, counts in zip(self._combinations, self._counts, strict=True):
            codes, numbers = np.unique(combination.codes(batch), return_counts=True)
            counts.update(dict(zip(codes.tolist(), numbers.tolist(), strict=True)))

    def finish(self) -> tuple[SegmentSet, ...]:
        """The most frequent combinations of known values, ties by name."""
        found = []
        for config, combination, counts in zip(
            self._configs, self._combinations, self._counts, strict=True
        ):
            named = [(n, combination.values_of(code)) for code, n in counts.items()]
            known = sorted((-n, values) for n, values in named if values is not None)
            chosen = tuple(values for _, values in known[: config.most])
            if not chosen:
                raise ProfileError(
                    f"segments by {', '.join(config.by)}: no row of the reference has values there"
                )
            found.append(SegmentSet(tuple(config.by), chosen))
        return tuple(found)


class _Combination:
    """Codes of some columns as one number, in mixed radix."""

    def __init__(self, by: tuple[str, ...], schema: Schema, cells: Mapping[str, Cells]) -> None:
        rows = {c.name: i for i, c in enumerate(schema.categorical)}
        self._rows = [rows[name] for name in by]
        self._names = [cells[name].categories for name in by]
        self._radix = [len(names) + 3 for names in self._names]  # unseen, missing, wrong type

    def codes(self, batch: ColumnBatch) -> IntArray:
        total = np.zeros(len(batch), dtype=np.int64)
        for row, radix in zip(self._rows, self._radix, strict=True):
            total *= radix
            total += batch.codes[row]
        return total

    def code_of(self, values: tuple[str, ...]) -> int:
        total = 0
        for value, names, radix in zip(values, self._names, self._radix, strict=True):
            total = total * radix + names.index(value)
        return total

    def values_of(self, code: int) -> tuple[str, ...] | None:
        """None where one of the columns has no value that the reference knows."""
        found = []
        for names, radix in zip(reversed(self._names), reversed(self._radix), strict=True):
            code, index = divmod(code, radix)
            if index >= len(names):
                return None
            found.append(names[index])
        return tuple(reversed(found))
