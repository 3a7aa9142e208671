"""SASL and TLS to a real broker: what works, what is said where it does not, what is never said."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from stream_monitor.assembly import member
from stream_monitor.cli import main
from stream_monitor.config import model
from stream_monitor.config.load import load_config, parse_config
from stream_monitor.errors import ConfigError, SourceError
from stream_monitor.sources.kafka import KafkaSource
from stream_monitor.sources.kafka_client import UnreachableError, connected
from stream_monitor.sources.kafka_options import client_options, client_problems
from tests import worlds
from tests.kafka_broker import KafkaBroker, create_topic
from tests.service import Service

USER, PASSWORD, KEY_PASSWORD, WRONG = "watcher", "hush-3f9a", "hush-of-the-key", "hush-wrong"
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
LISTENERS = {"SASL": "SASL_PLAINTEXT", "SASL_TLS": "SASL_SSL", "TLS": "SSL", "MUTUAL": "SSL"}
TOPIC = "secured"
PAYLOADS = [b"%d" % i for i in range(20)]
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2")
Client = dict[str, Any]


def certificates(folder: Path) -> None:
    """PEM files: an authority, a stranger, and by the authority the broker's and a client's."""

    def make(name: str, *arguments: str) -> None:
        subprocess.run(
            ["openssl", "req", "-x509", *_KEY, "-subj", f"/CN={name}", *arguments,
             "-keyout", f"{name}.key", "-out", f"{name}.pem"],
            cwd=folder, check=True, capture_output=True,
        )  # fmt: skip

    signed = ("-CA", "authority.pem", "-CAkey", "authority.key",
              "-addext", "basicConstraints=critical,CA:FALSE")  # fmt: skip
    make("authority", "-noenc")
    make("stranger", "-noenc")
    make("broker", "-noenc", "-addext", "subjectAltName=IP:127.0.0.1", *signed)
    make("client", "-passout", f"pass:{KEY_PASSWORD}", *signed)
    both = [(folder / f"broker.{kind}").read_text() for kind in ("key", "pem")]
    (folder / "keystore.pem").write_text("".join(both))


@dataclass(frozen=True)
class Secured:
    """A broker with a listener of every kind, and what a client needs for each."""

    broker: KafkaBroker
    folder: Path

    def sasl(self, mechanism: str = "PLAIN", **options: Any) -> Client:
        return {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": mechanism,
            "sasl_plain_username": USER,
            "sasl_plain_password": PASSWORD,
        } | options

    def tls(self, **options: Any) -> Client:
        return {"security_protocol": "SSL", "ssl_cafile": self.file("authority.pem")} | options

    def own(self) -> Client:
        """Our certificate, for who wants one."""
        return {
            "ssl_certfile": self.file("client.pem"),
            "ssl_keyfile": self.file("client.key"),
            "ssl_password": KEY_PASSWORD,
        }

    def file(self, name: str) -> str:
        return str(self.folder / name)

    def source(self, listener: str, client: Client) -> dict[str, Any]:
        return {
            "type": "kafka",
            "bootstrap_servers": self.broker.servers(listener),
            "topics": [TOPIC],
            "group_id": f"group-{uuid.uuid4()}",
            "options": client,
        }

    def read(self, listener: str, client: Client, library: Any = "kafka-python") -> list[bytes]:
        """All records of the topic through the real source."""
        source = member(model.KafkaSource(**self.source(listener, client), client=library))
        payloads: list[bytes] = []
        deadline = time.monotonic() + 30
        while len(payloads) < len(PAYLOADS) and time.monotonic() < deadline:
            poll = source.poll(0.2)
            for name in poll.assigned:
                source.seek(name, None)
            payloads += [p for records in poll.records for p in records.payloads]
        source.close()
        return payloads

    def refused(self, listener: str, client: Client) -> None:
        """One attempt to connect."""
        short = {"bootstrap_timeout_ms": 3_000} | client
        source = KafkaSource(model.KafkaSource(**self.source(listener, short)))
        assert not source.poll(0.01).assigned
        source.close()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("certificates")
    certificates(folder)
    logins = "org.apache.kafka.common.security"
    plain = f'{logins}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
    jaas = {
        f"listener.name.{listener}.{mechanism.lower()}.sasl.jaas.config": plain
        if mechanism == "PLAIN"
        else f"{logins}.scram.ScramLoginModule required;"
        for listener in ("sasl", "sasl_tls")
        for mechanism in MECHANISMS
    }
    properties = {
        "sasl.enabled.mechanisms": ",".join(MECHANISMS),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(folder / "keystore.pem"),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "authority.pem"),
        "listener.name.mutual.ssl.client.auth": "required",
    }
    broker = KafkaBroker(
        listeners=LISTENERS,
        scram=[f"{m}=[name={USER},password={PASSWORD}]" for m in MECHANISMS[1:]],
        **properties,
        **jaas,
    )
    broker.start()
    create_topic(broker, TOPIC, partitions=1)
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap_servers)
    for payload in PAYLOADS:
        producer.send(TOPIC, payload)
    producer.flush()
    producer.close()
    yield Secured(broker, folder)
    broker.stop()


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_sasl_reads_and_not_even_debug_lines_have_the_password(
    secured: Secured, mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert secured.read("SASL", secured.sasl(mechanism)) == PAYLOADS
    assert "Authenticated as watcher" in caplog.text
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("library", ["kafka-python", "confluent"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_sasl_over_tls_reads(secured: Secured, mechanism: str, library: str) -> None:
    client = secured.tls() | secured.sasl(mechanism, security_protocol="SASL_SSL")
    assert secured.read("SASL_TLS", client, library) == PAYLOADS


def test_tls_reads(secured: Secured) -> None:
    assert secured.read("TLS", secured.tls()) == PAYLOADS


@pytest.mark.parametrize("library", ["kafka-python", "confluent"])
def test_mutual_tls_reads_and_not_even_debug_lines_have_the_password(
    secured: Secured, library: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert secured.read("MUTUAL", secured.tls() | secured.own(), library) == PAYLOADS
    assert KEY_PASSWORD not in caplog.text


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize(
    "wrong", [{"sasl_plain_password": WRONG}, {"sasl_plain_username": "nobody"}]
)
def test_wrong_credentials_are_fatal_at_once(
    secured: Secured, mechanism: str, wrong: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    began = time.monotonic()
    client = secured.sasl(mechanism, bootstrap_timeout_ms=30_000, **wrong)
    with pytest.raises(SourceError, match=f"refuse {client['sasl_plain_username']} by") as error:
        secured.refused("SASL", client)
    assert time.monotonic() - began < 10
    assert "correct sasl_plain_username, sasl_plain_password" in str(error.value)
    assert "hush" not in str(error.value) + caplog.text


@pytest.mark.parametrize("kind", [KafkaAdminClient, KafkaConsumer, KafkaProducer])
def test_clients_of_every_kind_are_connected_and_hear_why_not(
    secured: Secured, kind: type[Any]
) -> None:
    servers = {"bootstrap_servers": secured.broker.servers("SASL")}
    client = connected(kind, **servers, **secured.sasl())
    client.close()
    threads = threading.active_count()
    with pytest.raises(SourceError, match="the brokers refuse"):
        connected(kind, **servers, **secured.sasl(sasl_plain_password=WRONG))
    with pytest.raises(SourceError, match="correct it"):
        connected(kind, **servers, client_dns_lookup="none such")
    nobody = {"bootstrap_servers": "127.0.0.1:1", "bootstrap_timeout_ms": 300}
    with pytest.raises(UnreachableError, match="no broker answers"):
        connected(kind, **nobody)
    assert threading.active_count() == threads


def test_a_mechanism_that_brokers_do_not_offer_is_fatal(secured: Secured) -> None:
    with pytest.raises(SourceError, match="do not offer AWS_MSK_IAM"):
        secured.refused("SASL", secured.sasl("AWS_MSK_IAM"))


def test_sasl_on_a_port_without_is_fatal(secured: Secured) -> None:
    with pytest.raises(SourceError, match="takes no SASL; write PLAINTEXT or SSL"):
        secured.refused("PLAINTEXT", secured.sasl())


@pytest.mark.parametrize(
    ("listener", "client", "said"),
    [
        ("TLS", {"ssl_cafile": "stranger.pem"}, "certificate is not trusted|ssl_cafile"),
        ("TLS", {"security_protocol": "PLAINTEXT"}, "not speak plain Kafka|SSL or SASL_SSL"),
        ("PLAINTEXT", {}, "the port speaks no TLS|correct security_protocol"),
        ("SASL", {"security_protocol": "PLAINTEXT"}, "hang up|correct security_protocol"),
        ("MUTUAL", {}, "do not accept our certificate|ssl_certfile and ssl_keyfile"),
    ],
)
def test_a_connection_of_the_wrong_kind_is_named_and_tried_again(
    secured: Secured, listener: str, client: Client, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client = secured.tls(**client)
    client["ssl_cafile"] = secured.file(client["ssl_cafile"])
    secured.refused(listener, client)
    log = capsys.readouterr().out
    wrong, _, remedy = said.partition("|")
    assert f"{wrong}, trying again" in log
    assert remedy in log
    assert "no broker answers" not in log


@pytest.mark.parametrize(
    "wrong",
    [{"ssl_password": WRONG}, {"ssl_password": None}, {"ssl_keyfile": "/nowhere"}],
)
def test_a_key_that_cannot_be_used_is_fatal_and_no_password_is_asked_for(
    secured: Secured, wrong: Client
) -> None:
    with pytest.raises(SourceError, match="check ssl_certfile, ssl_keyfile and") as error:
        secured.refused("MUTUAL", secured.tls() | secured.own() | wrong)
    assert "hush" not in str(error.value)


def test_the_service_reads_with_a_password_from_the_environment_and_shows_it_nowhere(
    secured: Secured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    key_password = tmp_path / "key-password"
    key_password.write_text(f"{KEY_PASSWORD}\n")
    client = secured.tls() | secured.own() | secured.sasl("SCRAM-SHA-512")
    del client["sasl_plain_password"], client["ssl_password"]
    client |= {
        "security_protocol": "SASL_SSL",
        "sasl_plain_password_env": "KAFKA_PASSWORD",
        "ssl_password_file": str(key_password),
    }
    worlds.build(tmp_path)
    config = worlds.raw_config(source=secured.source("SASL_TLS", client))
    with Service(tmp_path, config) as service:
        service.wait_for(
            "all records",  # which are no events
            lambda: service.metric("stream_monitor_events_rejected_total") == len(PAYLOADS),
        )
        shown = service.log() + "".join(
            service.text(path)
            for path in ("/", "/metrics", "/api/v1/status", "/api/v1/windows",
                         "/api/v1/alerts", "/api/v1/dead-letters")
        )  # fmt: skip
        assert service.stop() == 0
    assert "hush" not in shown + service.log()


def stream_monitor(command: str, folder: Path, config: dict[str, Any]) -> tuple[int, str]:
    """A command on a configuration: its exit status and everything it said."""
    (folder / "monitor.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "stream_monitor", command, "--config", "monitor.yaml"],
        cwd=folder, capture_output=True, timeout=120, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_the_service_ends_when_its_password_is_wrong(secured: Secured, tmp_path: Path) -> None:
    worlds.build(tmp_path)
    client = secured.sasl(sasl_plain_password=WRONG)
    config = worlds.raw_config(
        source=secured.source("SASL", client), http={"port": 0}, log={"level": "debug"}
    )
    status, said = stream_monitor("run", tmp_path, config)
    assert status != 0
    assert "the brokers refuse watcher by PLAIN" in said
    assert "Traceback" not in said
    assert "hush" not in said
    status, said = stream_monitor("check-config", tmp_path, config)
    assert status == 0, said
    assert "hush" not in said


# ways in which a password may be wrong in the file
@pytest.mark.parametrize(
    "source",
    [
        {"options": {"sasl_plain_password": "hush"}},
        {"options": {"sasl.password": "hush", "ssl.key.password": "hush", "colour": "red"}},
        {"options": {"sasl.jaas.config": 'Module required password="hush";'}},
        {"options": {"ssl.keystore.password": "hush", "ssl_truststore_password": "hush"}},
        {"options": {"ssl.keystore.key": "hush", "basic.auth.credentials.source": "hush"}},
        {"options": {"proxy_url": "socks5://me:hush@proxy:1080", "colour": "red"}},
        {"options": {"proxy": "socks5://me:hush@proxy:1080"}},
        {"options": {"sasl_plain_password": ["hush"]}},
        {"options": {"sasl_plain_password_env": ["hush"]}},
        {"sasl_plain_password": "hush"},
        {"type": "kafak", "options": {"sasl_plain_password": "hush"}},
        {"topics": [], "options": {"sasl_plain_password": "hush"}},
    ],
)
def test_problems_of_a_file_do_not_show_its_secrets(
    tmp_path: Path, source: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    source = {"type": "kafka", "bootstrap_servers": "127.0.0.1:1", "topics": ["t"]} | source
    path = tmp_path / "monitor.yaml"
    path.write_text(yaml.safe_dump(worlds.raw_config(source=source)))
    assert main(["check-config", "--config", str(path)]) != 0
    said = "".join(capsys.readouterr())
    assert "source" in said
    assert "hush" not in said


@pytest.mark.parametrize("value", ["@hush", "%hush", '"hush', "*hush", "!hush", "[hush"])
def test_yaml_that_cannot_be_read_does_not_show_the_line(tmp_path: Path, value: str) -> None:
    path = tmp_path / "monitor.yaml"
    path.write_text(f"source:\n  options:\n    sasl_plain_password: {value}\n")
    with pytest.raises(ConfigError, match=r"line [34]") as error:
        load_config(path)
    assert "hush" not in str(error.value)


def test_a_config_shows_its_secrets_to_who_asks_by_name_only(tmp_path: Path) -> None:
    client = {"sasl.password": "hush", "ssl_password": "hush", "sasl_plain_username": "me",
              "sasl_plain_password_env": "KAFKA", "proxy_url": "http://me:hush@proxy"}  # fmt: skip
    config = model.KafkaSource(
        type="kafka", bootstrap_servers="x:1", topics=["t"], options=dict(client)
    )
    assert config.options == client
    for shown in (repr(config), str(config), f"{config.options}", str(config.model_dump()),
                  config.model_dump_json(), repr(config.model_copy().options)):  # fmt: skip
        assert "hush" not in shown
        assert "KAFKA" in shown
        assert "me" in shown


def test_relative_paths_are_taken_from_the_folder_of_the_file(tmp_path: Path) -> None:
    client = {"ssl_cafile": "ca.pem", "ssl.key.location": "/key.pem", "ssl_password": "hush",
              "sasl_plain_password_file": "password", "client_id": "me"}  # fmt: skip
    source = {"type": "kafka", "bootstrap_servers": "x:1", "topics": ["t"], "options": client}
    raw = worlds.raw_config(source=source, store={"type": "kafka", "options": client})
    config = parse_config(raw, place="test", folder=tmp_path)
    for section in (config.source, config.store):
        assert isinstance(section, model.KafkaSource | model.KafkaStore)
        assert section.options == client | {
            "ssl_cafile": f"{tmp_path}/ca.pem", "sasl_plain_password_file": f"{tmp_path}/password",
        }  # fmt: skip
    assert "hush" not in repr(config)


def test_a_variable_that_is_not_set_is_named_unless_it_may_be_the_password() -> None:
    with pytest.raises(SourceError, match="the variable KAFKA_NOWHERE is not set"):
        client_options({"sasl_plain_password_env": "KAFKA_NOWHERE"})
    with pytest.raises(SourceError, match="password_env: the variable … is not set"):
        client_options({"sasl_plain_password_env": "hush!"})


@pytest.mark.parametrize(
    ("client", "key", "remedy"),
    [
        ({"sasl.jaas.config": "x"}, "sasl.jaas.config", "sasl_plain_username and sasl_plain_pass"),
        ({"bootstrap.servers": "x"}, "bootstrap.servers", "source.bootstrap_servers"),
        ({"ssl.truststore.location": "x"}, "ssl.truststore.location", "ssl_cafile"),
        ({"ssl.keystore.location": "x"}, "ssl.keystore.location", "ssl_certfile and ssl_keyfile"),
        ({"security.protocol": "SASL"}, "security.protocol", "PLAINTEXT, SSL, SASL_PLAINTEXT"),
        ({"security.protocol": "SASL_SSL"}, "security.protocol", "add sasl_mechanism"),
        ({"security.protocol": "SSL", "sasl.mechanism": "SCRAM"}, "sasl.mechanism", "SHA-256"),
        ({"sasl_plain_username": "me"}, "sasl_plain_username", "add security_protocol"),
        ({"ssl_cafile": "x"}, "ssl_cafile", "add security_protocol"),
        (
            {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN"},
            "sasl_mechanism",
            "add sasl_plain_username and sasl_plain_password",
        ),
        (
            {"security_protocol": "SSL", "ssl_password": 1234},
            "ssl_password",
            "in quotes",
        ),
    ],
)
def test_options_that_cannot_work_have_a_remedy(client: Client, key: str, remedy: str) -> None:
    ((found, _, said),) = client_problems(client)
    assert found == key
    assert remedy in said
