"""Event ids as numbers: what labels are joined by and duplicates are told by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from xxhash import xxh3_128_digest

from stream_monitor.batch import IdArray
from stream_monitor.hashing import splitmix64
from stream_monitor.schema import category_of

NO_ID = (0, 0)

_EMPTY = np.frombuffer(xxh3_128_digest(b""), ">u8").astype(np.uint64)
_NOTHING = bytes(16)


def id_hashes(ids: Iterable[object]) -> IdArray:
    """128-bit XXH3 hashes of n ids as text, so that ``17`` and ``"17"`` are the same id.

    Among ten million ids, two share a hash with a probability of 10⁻²⁵, so ids are not compared
    in any other way.

    Returns
    -------
    uint64[n, 2], the hash's high and low half; :data:`NO_ID` for None, for the empty text and for
    what is no scalar.
    """
    texts: list[Any] = list(ids)
    try:
        digests = b"".join(map(xxh3_128_digest, map(str.encode, texts)))
    except (TypeError, UnicodeEncodeError):
        # not all of them are text, or one has a lone surrogate, which JSON can bring
        digests = b"".join(map(_digest, texts))
    return _hashes(digests)


def text_hashes(ids: Iterable[bytes]) -> IdArray:
    """The same of ids as UTF-8, empty where there is none."""
    return _hashes(b"".join(map(xxh3_128_digest, ids)))


def _hashes(digests: bytes) -> IdArray:
    hashes = np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)
    hashes[(hashes[:, 0] == _EMPTY[0]) & (hashes[:, 1] == _EMPTY[1])] = NO_ID
    return hashes


def no_ids(n: int) -> IdArray:
    """:data:`NO_ID` for each of ``n`` events: uint64[n, 2]."""
    return np.zeros((n, 2), dtype=np.uint64)


def keyed(ids: IdArray, model: str) -> IdArray:
    """Ids of a model as keys of the join, where models may give the same id to different events.

    Each half goes through a bijection of its own for each model name, so no two ids of a model
    come to share a key.

    Returns
    -------
    uint64[n, 2]; :data:`NO_ID` stays what it is.
    """
    salt = np.frombuffer(xxh3_128_digest(model.encode()), ">u8").astype(np.uint64)
    keys: IdArray = splitmix64(ids ^ salt)
    keys[(ids[:, 0] | ids[:, 1]) == 0] = NO_ID
    return keys


def _digest(value: Any) -> bytes:
    text = value if isinstance(value, str) else category_of(value)
    return xxh3_128_digest(text.encode(errors="surrogatepass")) if text else _NOTHING
