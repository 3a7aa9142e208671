"""What is remembered of windows that were published, by the key of a part and a window's name."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

_HISTORY = 60  # closed windows whose rows are remembered


class Published(msgspec.Struct):
    """Which windows of one part and window name were published.

    ``origin`` is the number of the first window and ``base`` its index, ``next`` the first that is
    not closed, ``revisions`` how often closed windows that may still change were published anew,
    ``rows`` the rows of the last 60 closed windows of time by number.
    """

    origin: int
    next: int
    revisions: dict[int, int] = {}
    base: int = 0
    rows: dict[int, int] = {}

    def index(self, number: int) -> int:
        return number - self.origin + self.base

    def remember(self, number: int, rows: int) -> None:
        """The rows of a window that is closed."""
        self.rows[number] = rows
        self.rows = {n: self.rows[n] for n in sorted(self.rows)[-_HISTORY:]}

    def before(self, number: int) -> list[int]:
        """The rows of the windows before one."""
        return [rows for other, rows in self.rows.items() if other < number]

    def forget(self, oldest: int) -> None:
        """Windows before this one change no more."""
        if self.revisions:
            self.revisions = {n: r for n, r in self.revisions.items() if n >= oldest}


class Saved(msgspec.Struct):
    """What a publisher keeps in the store, as JSON.

    ``bases`` are how many windows references before this one have had, by a part's label.
    """

    published: list[tuple[str, str, Published]]
    floors: list[tuple[str, str, int]]
    bases: list[tuple[str, str, int]] = []
    detectors: dict[str, Any] = {}


class Books:
    """Everything that was published."""

    def __init__(self) -> None:
        self._published: dict[tuple[str, str], Published] = {}
        self._bases: dict[tuple[str, str], int] = {}

    def get(self, part: str, window: str) -> Published | None:
        return self._published.get((part, window))

    def new(self, part: str, window: str, origin: int) -> Published:
        """Of a part whose first window this is; it is not kept before it is put."""
        return Published(origin, origin, base=self._bases.get((_label(part), window), 0))

    def put(self, part: str, window: str, state: Published) -> None:
        self._published[part, window] = state

    def saved(self, floors: list[tuple[str, str, int]], detectors: dict[str, Any]) -> bytes:
        published = [(*key, state) for key, state in sorted(self._published.items())]
        bases = [(*key, base) for key, base in sorted(self._bases.items())]
        return msgspec.json.encode(Saved(published, floors, bases, detectors))

    def restore(self, stored: Saved, known: Collection[str], in_use: Collection[str]) -> None:
        """The inverse of :meth:`saved`; what is not of a ``known`` part is forgotten.

        All but how many windows they had: a model's windows are numbered on when its reference
        changes, for the results log tells them apart by number. So are those of parts ``in_use``
        that were candidates.
        """
        self._published = {(key, name): s for key, name, s in stored.published if key in known}
        self._bases = {(label, name): base for label, name, base in stored.bases}
        for key, name, state in stored.published:
            if key not in known:
                place = _label(key), name
                self._bases[place] = max(self._bases.get(place, 0), state.index(state.next))
        for (key, name), state in self._published.items():
            # what was a candidate goes on after the windows of the reference before it
            after = self._bases.get((_label(key), name), 0) if key in in_use else 0
            state.base += max(0, after - state.index(state.next))


def _label(key: str) -> str:
    """What of a part's key stays when its reference changes."""
    return key.rpartition("@")[0]
