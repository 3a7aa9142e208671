"""Values of any size as records: what is too large for one is cut, its key numbered.

A key is a JSON array of texts and numbers, the last one the number of the piece. A value begins
with how many pieces there are. Compaction may take the first pieces of an old value and leave its
last, so a value is whole only if its pieces come one after the other from 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from stream_monitor.errors import UnusableError

_MOST = 512 * 2**10  # bytes; brokers take 1 MiB by default
_COUNT = 2  # bytes of the number of pieces

Key = tuple[Any, ...]


def cut(key: Key, value: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Records of a value: keys and values."""
    count = max(1, -(-len(value) // _MOST))
    head = count.to_bytes(_COUNT, "little")
    for i in range(count):
        yield msgspec.json.encode([*key, i]), head + value[i * _MOST : (i + 1) * _MOST]


@contextmanager
def ours(record: Any) -> Iterator[None]:
    """Whoever reads a record of the service's topics relies on its being one of the service's.

    Raises
    ------
    UnusableError
        It is none.
    """
    try:
        yield
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise UnusableError(
            f"{record.topic}:{record.partition}@{record.offset} with the key "
            f"{(record.key or b'')[:80]!r} is no record of this service ({error}): does something "
            "else write to its topics? Choose another store.prefix and source.group_id to begin "
            "anew"
        ) from error


class Pieces:
    """Puts values together again; keeps what is not whole yet."""

    def __init__(self) -> None:
        self._parts: dict[Key, list[bytes]] = {}

    def take(self, raw: bytes, value: bytes | None) -> tuple[Key, bytes] | None:
        """A record; the key and the value that it makes whole, if it does.

        Raises
        ------
        msgspec.DecodeError, TypeError, ValueError
            It is none of ours; see :func:`ours`.
        """
        *name, i = msgspec.json.decode(raw, type=list[Any])
        key = tuple(name)
        if value is None:  # deleted
            self._parts.pop(key, None)
            return None
        count, part = int.from_bytes(value[:_COUNT], "little"), value[_COUNT:]
        if i == 0:
            self._parts[key] = []
        parts = self._parts.get(key)
        if parts is None or len(parts) != i:
            self._parts.pop(key, None)
            return None
        parts.append(part)
        if len(parts) < count:
            return None
        del self._parts[key]
        return key, b"".join(parts)
