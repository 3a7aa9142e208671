"""Options of Kafka clients: passwords in them are used and never shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, PlainSerializer

_HIDDEN = "…"
# by the names that kafka-python, the Java client and librdkafka have for them
_SECRET = re.compile(r"(password|passwd|secret|jaas|token|credential|keystore.key|\.pem$)", re.I)
_REFERENCE = re.compile(r"(_env|_file|location|_provider)$")
_PATH = re.compile(r"(file|location)$")
_IN_URL = re.compile(r"(?<=//)[^/@\s]*@")


def masked(value: Any, key: str = "") -> Any:
    """The value as it may be shown under its key; secrets within it are not.

    Where a secret is read from, ``…_file`` or ``…_env``, is none itself, but what stands for a
    variable and is not named like one may be the secret in the wrong place.
    """
    if isinstance(value, Mapping):
        return {k: masked(v, str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [masked(v, key) for v in value]
    if _SECRET.search(key) and value is not None:
        misplaced = key.endswith("_env") and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", str(value))
        return _HIDDEN if misplaced or not _REFERENCE.search(key) else value
    return _IN_URL.sub(f"{_HIDDEN}@", value) if isinstance(value, str) else value


def anchored(client: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The same options with the paths of files taken from a folder."""
    return _Options(
        (k, str(folder / v) if isinstance(v, str) and _PATH.search(k) else v)
        for k, v in client.items()
    )


class _Options(dict[str, Any]):
    def __repr__(self) -> str:
        return repr(masked(self))


# a mapping whose secrets are there for who asks by name, and in no repr, log line or dump
ClientOptions = Annotated[dict[str, Any], AfterValidator(_Options), PlainSerializer(masked)]
