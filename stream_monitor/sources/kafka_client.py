"""Connecting kafka-python's clients, and saying why where that does not work.

kafka-python 3.0.12 only logs why a connection failed, and what its constructors raise is that
there was none in time. It also drops what a broker said last before it hung up, which is where
wrong credentials are named.
"""

from __future__ import annotations

import logging
import re
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import (
    IllegalSaslStateError,
    KafkaConfigurationError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from stream_monitor.errors import SourceError

ANSWER = 5_000  # milliseconds that a question to the brokers may take
_RETRY = 2_000  # milliseconds between tries to reach a broker; kafka-python's are up to 30,000
_KEPT = 20  # reasons, of the connections that failed last
_REFUSALS = (SaslAuthenticationFailedError, UnsupportedSaslMechanismError, IllegalSaslStateError)
# what the reason of a failure looks like, what is wrong then, and what to do
_FAULTS = (
    (
        r"(Hostname|IP address) mismatch",
        "the brokers' certificate has another name",
        "write the name that it has in bootstrap_servers",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "the brokers' certificate is not trusted",
        "give the certificate of the authority that signed it as ssl_cafile",
    ),
    (
        r"ALERT.*(CERTIFICATE|UNKNOWN_CA|HANDSHAKE_FAILURE)",
        "the brokers do not accept our certificate",
        "give one that they trust as ssl_certfile and ssl_keyfile",
    ),
    (
        r"Handshake failed",
        "the port speaks no TLS",
        "name the one that does in bootstrap_servers, or correct security_protocol",
    ),
    (
        r"Invalid frame length",
        "the port does not speak plain Kafka",
        "where it is one of TLS, write security_protocol: SSL or SASL_SSL",
    ),
    (
        r"socket disconnected",
        "the brokers hang up",
        "where the port is one of SASL or TLS, correct security_protocol",
    ),
)
# their debug lines are dumps of what is sent, a login's password as well as records
for _name in ("kafka.net.connection", "kafka.protocol.parser"):
    logging.getLogger(_name).setLevel(logging.INFO)


class UnreachableError(KafkaConnectionError):  # type: ignore[misc]
    """No broker was reached: what is ``wrong``, the ``reason`` of the client, a ``remedy``."""

    def __init__(self, reason: str, wrong: str, remedy: str) -> None:
        super().__init__(f"{wrong} ({reason}): {remedy}")
        self.reason, self.wrong, self.remedy = reason, wrong, remedy


def connected(kind: Callable[..., Any], **options: Any) -> Any:
    """A consumer, producer or admin client that has reached a broker.

    Raises
    ------
    SourceError
        Certificates cannot be read, or the brokers refuse the credentials. Time does not mend
        that, and an account that is tried again and again is locked; so it ends the service, and
        whoever started it hears why.
    UnreachableError
        No broker was reached: none is there, or it is spoken to in the wrong way. It may be mended
        where the brokers are, as a certificate that is renewed is, so it is worth trying again.
    """
    # a loop that waits longer is taken for stuck; it is tried again anyway
    options = {"bootstrap_timeout_ms": ANSWER, "reconnect_backoff_max_ms": _RETRY} | options
    if kind is not KafkaAdminClient:
        # what a broker makes by itself has settings of its own, in which state would not last
        options = {"allow_auto_create_topics": False} | options
    _check_certificates(options)
    clients: list[_Client] = []
    succeeded = False

    def client(**configs: Any) -> _Client:
        clients.append(_Client(**configs))
        return clients[-1]

    try:
        found = kind(kafka_client=client, **options)
        succeeded = True
        return found
    except (KafkaConfigurationError, ValueError) as error:
        raise SourceError(f"source.options: {error}; correct it") from None
    except KafkaError as error:
        failures = [failure for made in clients for failure in made.failures]
        raise _explained([*failures, error], options) from None
    finally:
        if not succeeded:
            for made in clients:
                made.close()  # kafka-python leaves its thread behind


def partitions_of(consumer: Any, topic: str) -> frozenset[int]:
    """Those of a topic; none where there is no such topic.

    kafka-python's own question waits for ever while no broker answers.

    Raises
    ------
    KafkaError
        Nobody answers in time.
    """
    cluster = consumer._cluster
    if cluster.partitions_for_topic(topic) is None:
        cluster.need_all_topic_metadata, before = True, cluster.need_all_topic_metadata
        try:
            asked = cluster.request_update()
            consumer._net.run(consumer._manager.wait_for, asked, ANSWER)
        finally:
            cluster.need_all_topic_metadata = before
    return frozenset(cluster.partitions_for_topic(topic) or ())


def _check_certificates(options: Mapping[str, Any]) -> None:
    """Read them once, for kafka-python would say nothing but that no broker answers.

    It reads them again with each connection, so certificates may be renewed while we run.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    checked = ["ssl_cafile"]
    try:
        if options.get("ssl_cafile"):
            context.load_verify_locations(options["ssl_cafile"])
        if options.get("ssl_certfile"):
            checked = ["ssl_certfile", "ssl_keyfile"]
            # with no password at all, OpenSSL would ask for it on the terminal
            password = options.get("ssl_password") or ""
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"), password)
    except OSError as error:
        files = ", ".join(f"{name} {options.get(name)}" for name in checked)
        also = " and ssl_password" if "ssl_keyfile" in checked else ""
        raise SourceError(
            f"source.options: {files}: {error}; check {', '.join(checked)}{also}"
        ) from None


def _explained(failures: Sequence[BaseException], options: dict[str, Any]) -> Exception:
    """What is wrong and what to do, from the most telling of some failures."""
    mechanism = options.get("sasl_mechanism")
    for failure in failures:
        if isinstance(failure, SaslAuthenticationFailedError):
            return SourceError(
                f"source.options: the brokers refuse {options.get('sasl_plain_username')} by "
                f"{mechanism} ({failure}); correct sasl_plain_username, sasl_plain_password or "
                "sasl_mechanism"
            )
        if isinstance(failure, UnsupportedSaslMechanismError):
            return SourceError(
                f"source.options.sasl_mechanism: the brokers do not offer {mechanism}; choose one "
                "that they have in sasl.enabled.mechanisms"
            )
        if isinstance(failure, IllegalSaslStateError):
            return SourceError(
                "source.options.security_protocol: this port takes no SASL; write PLAINTEXT or "
                "SSL, or name the port that does in bootstrap_servers"
            )
    for pattern, wrong, remedy in _FAULTS:
        for failure in failures:
            if re.search(pattern, str(failure)):
                return UnreachableError(str(failure), wrong, remedy)
    reason = f"{type(failures[0]).__name__}: {failures[0]}"
    return UnreachableError(reason, "no broker answers", "start them, or correct bootstrap_servers")


class _Client(KafkaNetClient):  # type: ignore[misc]
    """kafka-python's network client, with the reasons of connections that failed."""

    def __init__(self, **configs: Any) -> None:
        net = NetworkSelector(**configs)
        manager = _Manager(net, **configs)
        super().__init__(net=net, manager=manager, **configs)
        self.failures = manager.failures


class _Manager(KafkaConnectionManager):  # type: ignore[misc]
    """Notes failures, hears a broker's last words, and asks no second time until it was let in."""

    def __init__(self, net: NetworkSelector, **configs: Any) -> None:
        self.failures: deque[BaseException] = deque(maxlen=_KEPT)
        super().__init__(net, **configs)

    def get_connection(self, *args: Any, **options: Any) -> Any:
        if not self.bootstrapped and self.failures and isinstance(self.failures[-1], _REFUSALS):
            raise self.failures[-1]
        connection = super().get_connection(*args, **options)
        connection.close_future.add_errback(self.failures.append)
        return connection

    async def _build_transport(self, *args: Any, **options: Any) -> Any:
        transport = await super()._build_transport(*args, **options)
        receive = transport._sock_recv

        def received() -> tuple[bytes, BaseException | None]:
            data, error = receive()
            return data, None if data else error  # the next call has the error again

        transport._sock_recv = received
        return transport
