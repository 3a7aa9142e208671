"""What the aggregator tells the workers: how far it is, and which panes nobody needs any more."""

from __future__ import annotations

import msgspec

PROGRESS = ("progress",)  # its key in the control topic


class Progress(msgspec.Struct, frozen=True):
    """Times are microseconds, None while there is none.

    Attributes
    ----------
    slowest
        How far that partition is of all replicas' which has unread records and is furthest behind;
        where none has any, the furthest.
    floors, outcome_floors
        The first pane that is still needed, by model part and clock.
    past
        No label of predictions before this time will count any more.
    """

    slowest: int | None = None
    floors: list[tuple[str, str, int]] = []
    outcome_floors: list[tuple[str, str, int]] = []
    past: int | None = None
