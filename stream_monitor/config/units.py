"""Durations and sizes as people write them: ``15m``, ``7d``, ``512MiB``."""

from __future__ import annotations

import re

SECOND = 1_000_000  # event times are microseconds
_DURATION = {"ms": 1_000, "s": SECOND, "m": 60 * SECOND, "h": 3_600 * SECOND,
             "d": 86_400 * SECOND, "w": 604_800 * SECOND}  # fmt: skip
_SIZE = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def parse_duration(text: object) -> int:
    """Microseconds of a duration such as ``1h30m``, ``7d``, ``250ms``; ValueError otherwise."""
    if isinstance(text, str):
        parts = re.findall(r"(\d+)(ms|s|m|h|d|w)", text)
        if parts and "".join(n + u for n, u in parts) == text:
            return sum(int(n) * _DURATION[u] for n, u in parts)
    raise ValueError("write a duration with its unit, such as 30s, 10m, 1h, 7d")


def format_duration(microseconds: int) -> str:
    """A text that :func:`parse_duration` reads back as the same number; days are the greatest."""
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, microseconds = divmod(microseconds, _DURATION[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_size(text: object) -> int:
    """Bytes of a size such as ``512MiB``; ValueError otherwise."""
    if isinstance(text, str) and (match := re.fullmatch(r"(\d+)(B|KiB|MiB|GiB)", text)):
        return int(match[1]) * _SIZE[match[2]]
    raise ValueError("write a size with its unit, such as 256MiB or 2GiB")


def format_size(count: int) -> str:
    """A size for people, three digits: ``1.95 MiB``."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.3g} {unit}"
