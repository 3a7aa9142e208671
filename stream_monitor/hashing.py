"""Hashes that decide what is kept: the same on every machine and in every version."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HashArray = NDArray[np.uint64]


def splitmix64(z: HashArray) -> HashArray:
    """One step of SplitMix64 (Steele, Lea & Flood 2014): uint64[n] → uint64[n], a bijection."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
