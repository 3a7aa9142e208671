"""Event ids as numbers: what labels are joined by and duplicates are told by."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from xxhash import xxh3_64_intdigest

from stream_monitor.batch import IdArray
from stream_monitor.schema import category_of

NO_ID = 0


def id_hashes(ids: Iterable[object], n: int) -> IdArray:
    """64-bit XXH3 hashes of ids as text, so that ``17`` and ``"17"`` are the same id.

    Among ten million ids, two share a hash with a probability of 3 in a million.

    Returns
    -------
    uint64[n]; :data:`NO_ID` for None and for what is no scalar.
    """
    return np.fromiter(map(_hash, ids), np.uint64, n)


def _hash(value: object) -> int:
    text = value if isinstance(value, str) else category_of(value)
    if not text:
        return NO_ID
    # a lone surrogate, which JSON can bring, is no UTF-8
    return xxh3_64_intdigest(text.encode(errors="surrogatepass")) or 1
