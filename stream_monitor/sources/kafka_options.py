"""Options for kafka-python: names people copy from other clients, secrets, what is ours alone."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path

from kafka import KafkaConsumer

from stream_monitor.errors import SourceError

_SECRETS = ("sasl_plain_password", "ssl_password")
_CONNECTION = ("security_", "sasl_", "ssl_", "socks5_", "proxy_", "client_dns_", "api_version")
_OWN = {
    "bootstrap_servers": "write it as source.bootstrap_servers",
    "group_id": "write it as source.group_id",
    "auto_offset_reset": "write it as source.auto_offset_reset",
    "enable_auto_commit": "leave it out: positions are committed with the state they caused",
    "isolation_level": "leave it out: only committed records are read",
    "key_deserializer": "leave it out: payloads are decoded by `mapping`",
    "value_deserializer": "leave it out: payloads are decoded by `mapping`",
    "max_poll_records": "leave it out: fetch_max_bytes bounds a batch",
    "consumer_timeout_ms": "leave it out: the service waits for records",
}
# names of the Java client and of librdkafka that are not ours with dots for underscores
_ALIASES = {
    "sasl.username": "sasl_plain_username",
    "sasl.password": "sasl_plain_password",
    "sasl.mechanisms": "sasl_mechanism",
    "ssl.ca.location": "ssl_cafile",
    "ssl.certificate.location": "ssl_certfile",
    "ssl.key.location": "ssl_keyfile",
    "ssl.key.password": "ssl_password",
}


def client_problems(client: Mapping[str, object]) -> list[tuple[str, object, str]]:
    """What is wrong with ``source.client``: (key, value, remedy); secrets are not shown."""
    problems = []
    for key, value in client.items():
        name, shown = _name(key), "…" if _plain(_name(key)) in _SECRETS else value
        if name in _OWN:
            problems.append((key, shown, _OWN[name]))
        elif _plain(name) in _SECRETS and name != _plain(name):
            if not isinstance(value, str):
                problems.append((key, value, "give the name of a variable or a file"))
        elif name not in KafkaConsumer.DEFAULT_CONFIG:
            near = difflib.get_close_matches(name, KafkaConsumer.DEFAULT_CONFIG, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems.append((key, shown, f"kafka-python's consumer has no such option{hint}"))
    return problems


def client_options(client: Mapping[str, object]) -> dict[str, object]:
    """``source.client`` as kafka-python takes it, secrets read from where they are kept.

    ``sasl_plain_password`` and ``ssl_password`` may be given as ``…_env``, the name of an
    environment variable, or ``…_file``, a path.
    """
    options: dict[str, object] = {}
    for key, value in client.items():
        name = _name(key)
        plain = _plain(name)
        if plain in _SECRETS and name == f"{plain}_env":
            if str(value) not in os.environ:
                raise SourceError(f"source.client.{key}: the variable {value} is not set; set it")
            options[plain] = os.environ[str(value)]
        elif plain in _SECRETS and name == f"{plain}_file":
            try:
                options[plain] = Path(str(value)).read_text(encoding="utf-8").rstrip("\n")
            except OSError as error:
                raise SourceError(f"source.client.{key}: {error}; check the path") from None
        else:
            options[name] = value
    return options


def connection_options(client: Mapping[str, object]) -> dict[str, object]:
    """Those of ``source.client`` that any client needs to reach the brokers."""
    return {k: v for k, v in client_options(client).items() if k.startswith(_CONNECTION)}


def _name(key: str) -> str:
    return _ALIASES.get(key) or key.replace(".", "_")


def _plain(name: str) -> str:
    return name.removesuffix("_env").removesuffix("_file")
