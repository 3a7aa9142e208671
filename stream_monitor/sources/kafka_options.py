"""Options of Kafka clients: names people copy from other clients, secrets, what is ours alone.

A name is kafka-python's, or a dotted one of the Java client or of librdkafka.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from stream_monitor.config.secrets import masked
from stream_monitor.errors import SourceError

_SECRETS = ("sasl_plain_password", "ssl_password")
_MECHANISM = "sasl_mechanism"
_CHOICES = {
    "security_protocol": ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    _MECHANISM: (
        "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI", "AWS_MSK_IAM",
    ),
}  # fmt: skip
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
    "enable_incremental_fetch_sessions": "leave it out: partitions' ends are told without",
    "consumer_timeout_ms": "leave it out: the service waits for records",
    "sasl_jaas_config": "it is Java's; write sasl_plain_username and sasl_plain_password_env",
    "ssl_keystore_location": "it is Java's; write PEM files, ssl_certfile and ssl_keyfile",
    "ssl_keystore_password": "it is Java's; write ssl_keyfile and ssl_password_env",
    "ssl_truststore_location": "it is Java's; write a PEM file, ssl_cafile",
    "ssl_truststore_password": "it is Java's; leave it out: ssl_cafile has no password",
    "ssl_endpoint_identification_algorithm": "it is Java's; write ssl_check_hostname",
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


# librdkafka's names where these are not kafka-python's with dots for underscores
_LIBRDKAFKA = {
    "sasl_plain_username": "sasl.username",
    "sasl_plain_password": "sasl.password",
    "sasl_mechanism": "sasl.mechanisms",
    "ssl_cafile": "ssl.ca.location",
    "ssl_certfile": "ssl.certificate.location",
    "ssl_keyfile": "ssl.key.location",
    "ssl_password": "ssl.key.password",
    "ssl_ciphers": "ssl.cipher.suites",
    "ssl_crlfile": "ssl.crl.location",
    "fetch_max_wait_ms": "fetch.wait.max.ms",
    "request_timeout_ms": "socket.timeout.ms",
    "metadata_max_age_ms": "topic.metadata.refresh.interval.ms",
    "ssl_check_hostname": "ssl.endpoint.identification.algorithm",
}


def client_problems(
    client: Mapping[str, object], library: str = "kafka-python"
) -> list[tuple[str, object, str]]:
    """What is wrong with ``source.options``: (key, value, remedy); secrets are not shown."""
    names = {_plain(_name(key)) for key in client}
    others = _of_librdkafka if library == "confluent" else _of_kafka_python
    found = [
        (key, value, _remedy(_name(key), value, names) or others(key, value))
        for key, value in client.items()
    ]
    return [(key, masked(value, key), remedy) for key, value, remedy in found if remedy]


def _of_kafka_python(key: str, _value: object) -> str | None:
    from kafka import KafkaConsumer  # noqa: PLC0415 - most commands need no Kafka

    name = _name(key)
    if _plain(name) in _SECRETS or name in KafkaConsumer.DEFAULT_CONFIG:
        return None
    near = difflib.get_close_matches(name, KafkaConsumer.DEFAULT_CONFIG, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"kafka-python's consumer has no such option{hint}"


def _of_librdkafka(key: str, value: object) -> str | None:
    """librdkafka knows best itself; what it reads from files is looked at when it connects."""
    name = _name(key)
    if name.startswith(_CONNECTION):
        return _of_kafka_python(key, value)
    library = import_module("confluent_kafka") if find_spec("confluent_kafka") else None
    if library is None:
        return None  # the service says so, once
    try:
        library.Consumer({"group.id": "none", **librdkafka_options({key: value})}).close()
    except library.KafkaException as error:
        return f"librdkafka says: {error.args[0].str()}"
    return None


def _remedy(name: str, value: object, names: Collection[str]) -> str | None:
    if name in _OWN:
        return _OWN[name]
    if _plain(name) in _SECRETS and not isinstance(value, str):
        return "write it in quotes, for it is text"
    if name in _CHOICES and value not in _CHOICES[name]:
        return f"choose from {', '.join(_CHOICES[name])}"
    missing = [n for n in _needed(name, str(value)) if n not in names]
    return f"add {' and '.join(missing)}: this does nothing alone" if missing else None


def _needed(name: str, value: str) -> list[str]:
    """The options that one does not work without."""
    needed = []
    if name.startswith(("sasl_", "ssl_")):
        needed.append("security_protocol")
    if name == "security_protocol" and value.startswith("SASL"):
        needed.append(_MECHANISM)
    if name == _MECHANISM and value.startswith(("PLAIN", "SCRAM")):
        needed += ["sasl_plain_username", "sasl_plain_password"]
    return needed


def client_options(client: Mapping[str, object]) -> dict[str, object]:
    """``source.options`` as kafka-python takes it, secrets read from where they are kept.

    ``sasl_plain_password`` and ``ssl_password`` may be given as ``…_env``, the name of an
    environment variable, or ``…_file``, a path.

    Raises
    ------
    SourceError
        A secret is not there.
    """
    options: dict[str, object] = {}
    for key, value in client.items():
        name = _name(key)
        plain = _plain(name)
        if plain in _SECRETS and name == f"{plain}_env":
            if str(value) not in os.environ:
                shown = masked(value, name)
                raise SourceError(f"source.options.{key}: the variable {shown} is not set; set it")
            options[plain] = os.environ[str(value)]
        elif plain in _SECRETS and name == f"{plain}_file":
            try:
                options[plain] = Path(str(value)).read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise SourceError(f"source.options.{key}: {error}; check the path") from None
        else:
            options[name] = value
    return options


def librdkafka_options(client: Mapping[str, object]) -> dict[str, object]:
    """The same as librdkafka takes it."""
    found = {
        _LIBRDKAFKA.get(name, name.replace("_", ".")): value
        for name, value in client_options(client).items()
    }
    algorithm = "ssl.endpoint.identification.algorithm"
    if algorithm in found:
        found[algorithm] = "https" if found[algorithm] else "none"
    return found


def connection_options(client: Mapping[str, object]) -> dict[str, object]:
    """Those of ``source.options`` that any client needs to reach the brokers."""
    return {k: v for k, v in client_options(client).items() if k.startswith(_CONNECTION)}


def _name(key: str) -> str:
    return _ALIASES.get(key) or key.replace(".", "_")


def _plain(name: str) -> str:
    return name.removesuffix("_env").removesuffix("_file")
