"""What decoders share: models, times, structs made of paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from stream_monitor.decode import timestamps
from stream_monitor.decode.paths import Path
from stream_monitor.schema import BoolArray, IntArray, Schema


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


def spellings(text: str) -> tuple[str | int, ...]:
    """A name as JSON may bring it: version 3 is "3" or 3."""
    return (text, int(text)) if text.isdecimal() and str(int(text)) == text else (text,)


def times_of(values: Iterable[float | str]) -> tuple[IntArray, BoolArray]:
    """Times as JSON brings them: (int64[n] microseconds, bool[n] usable); 0 where not usable."""
    found = list(values)
    if str not in {*map(type, found)}:  # as an array of text all would be as wide as the longest
        return timestamps.of_numbers(np.array(found, dtype=np.float64))
    times = [
        timestamps.of_text(v) if isinstance(v, str) else timestamps.of_number(v) for v in found
    ]
    usable = np.array([t is not None for t in times], dtype=np.bool_)
    return np.array([t or 0 for t in times], dtype=np.int64), usable


def plant(tree: dict[str, Any], path: Path, kind: Any) -> None:
    """Put a leaf of a type into a tree of fields."""
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = kind


def struct_of(
    tree: dict[str, Any], at: Path, names: dict[Path, str], required: set[Path]
) -> type[msgspec.Struct]:
    """A struct type for a tree of fields, all optional but for the ``required`` ones.

    ``names`` receives each field's attribute path. Attributes are numbered, for JSON keys need not
    be Python names.
    """
    fields: list[Any] = []
    rename: dict[str, str] = {}
    prefix = names.get(at)
    for i, (key, node) in enumerate(tree.items()):
        attribute, path = f"f{i}", (*at, key)
        rename[attribute] = key
        names[path] = f"{prefix}.{attribute}" if prefix else attribute
        if not isinstance(node, dict):
            fields.append((attribute, node) if path in required else (attribute, node, None))
            continue
        inner = struct_of(node, path, names, required)
        if path in required or any(f.required for f in msgspec.structs.fields(inner)):
            fields.append((attribute, inner))
        else:
            fields.append((attribute, inner, msgspec.field(default_factory=inner)))
    fields.sort(key=len)  # required ones first
    return msgspec.defstruct("Event", fields, rename=rename, gc=False)
