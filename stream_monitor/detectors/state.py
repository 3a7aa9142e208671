"""The state of River's detectors as plain JSON, and back, without pickle.

A detector is a tree of objects whose leaves are numbers. Its state is written attribute by
attribute and read into a new detector of the same options, so it names no class and can't make
one: whatever stands in it, only numbers are set. Parts in Rust (ADWIN's window, the weighted means
of HDDM_W) hand out their fields as a string of bytes and take it back. Their layout belongs to
River's version, so a state is for one version only.

Sizes, as JSON: Page-Hinkley, DDM, EDDM and HDDM_A below 1 kB, HDDM_W below 2 kB, KSWIN 8 kB (its
generator) and 25 bytes a value of its window; ADWIN 200 bytes and 24 × (max_buckets + 3) for each
doubling of its window, so 8 kB at River's five buckets for any number of panes that can occur.
"""

from __future__ import annotations

import math
import random
from base64 import b64decode, b64encode
from collections import deque
from typing import Any

_RUST = "river._river_rust"


def state_of(part: Any) -> Any:
    """Numbers, lists and dicts of them; what is not finite stands as text."""
    match part:
        case None | bool() | int():
            return part
        case float():
            return float(part) if math.isfinite(part) else repr(float(part))
        case deque():
            return [state_of(value) for value in part]
        case random.Random():
            version, words, gauss = part.getstate()
            return [version, list(words), gauss]
        case _ if type(part).__module__.startswith(_RUST):
            return b64encode(part.__getstate__()).decode()
        case _:
            return {name: state_of(value) for name, value in _parts(part).items()}


def restored(part: Any, state: Any) -> Any:
    """A new part with a state: the part itself, changed in place, or the number in its stead."""
    match part:
        case None | bool() | int() | float():
            return float(state) if isinstance(state, str) else state
        case deque():
            part.clear()
            part.extend(restored(0.0, value) for value in state)
        case random.Random():
            version, words, gauss = state
            part.setstate((version, tuple(words), gauss))
        case _ if type(part).__module__.startswith(_RUST):
            part.__setstate__(b64decode(state, validate=True))
        case _:
            for name, value in _parts(part).items():
                setattr(part, name, restored(value, state[name]))
    return part


def _parts(part: Any) -> dict[str, Any]:
    """An object's attributes but for texts and functions, which the options decide."""
    return {n: v for n, v in vars(part).items() if not isinstance(v, str) and not callable(v)}
