"""What decoders share: the reasons for a refusal, and what they know of each model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stream_monitor.schema import Schema

# Every reason for which an event becomes a dead letter; a bounded set, for it is a metric's label.
REASONS = {
    "too_large": "the record exceeds limits.max_record_size",
    "not_json": "the payload is no JSON",
    "not_an_object": "the payload is JSON but no object",
    "missing_field": "a part that every event needs is not there",
    "bad_timestamp": "the event time or arrival is no time between 1970 and 2200",
    "unknown_model": "no configured model has this name and version",
    "clock_skew": "the event time is further ahead of the record timestamp than time.allowed_skew",
}


@dataclass(frozen=True, slots=True)
class Target:
    """A model that events are decoded for.

    ``version`` is empty where any version fits. ``categories`` maps each categorical column to the
    codes of its categories.
    """

    name: str
    version: str
    schema: Schema
    categories: Mapping[str, Mapping[str, int]]


def choose(targets: list[Target], name: str | None, version: str | None) -> int | None:
    """The index of the model that an event names, or None.

    An event without a name or version fits if that leaves no choice: one model configured, one
    version of the model.
    """
    fits = [
        i
        for i, t in enumerate(targets)
        if (name is None or t.name == name)
        and (version is None or not t.version or t.version == version)
    ]
    exact = [i for i in fits if version is not None and targets[i].version == version]
    if len(exact) == 1:
        return exact[0]
    return fits[0] if len(fits) == 1 else None
