"""TLS and passwords on the real server: who gets in, who does not, what is said, what never is."""

from __future__ import annotations

import base64
import http.client
import re
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import structlog
import yaml

from stream_monitor.checks import read_config
from stream_monitor.cli import main
from stream_monitor.errors import ConfigError
from stream_monitor.expose import basic_auth
from stream_monitor.expose.http import Board, Server
from stream_monitor.expose.web_config import OPEN, load_web_config
from stream_monitor.store.sqlite import SqliteStore
from tests import worlds
from tests.prometheus_server import Prometheus
from tests.service import Service

PASSWORD, OTHER, WRONG = "hush: söme 3f9a", "hush-bob", "hush-wrong"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
# as htpasswd writes it
OTHER_HASH = bcrypt.hashpw(OTHER.encode(), bcrypt.gensalt(5)).decode().replace("$2b$", "$2y$")
USERS = {"alice": HASH, "bob": OTHER_HASH}
SERVED = {"cert_file": "server.pem", "key_file": "server.key"}
MUTUAL = SERVED | {
    "client_ca_file": "authority.pem",
    "client_auth_type": "RequireAndVerifyClientCert",
}
PATHS = ("/", "/metrics", "/-/healthy", "/-/ready", "/api/v1/status", "/static/app.js", "/nowhere")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PEM files: an authority, a stranger, and by the authority the server's and a client's."""
    folder = tmp_path_factory.mktemp("certificates")

    def make(name: str, *arguments: str) -> None:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
             "ec_paramgen_curve:prime256v1", "-days", "2", "-subj", f"/CN={name}", *arguments,
             "-keyout", f"{name}.key", "-out", f"{name}.pem"],
            cwd=folder, check=True, capture_output=True,
        )  # fmt: skip

    signed = ("-CA", "authority.pem", "-CAkey", "authority.key",
              "-addext", "basicConstraints=critical,CA:FALSE")  # fmt: skip
    make("authority", "-noenc")
    make("stranger", "-noenc")
    make("server", "-noenc", "-addext", "subjectAltName=IP:127.0.0.1", *signed)
    make("client", "-noenc", *signed)
    make("locked", "-passout", "pass:hush-key", *signed)
    return folder


def write(folder: Path, content: object, name: str = "web.yml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


class Site:
    """A running server behind a web configuration file."""

    def __init__(self, folder: Path, content: object, host: str = "127.0.0.1") -> None:
        self.folder = folder
        self.store = SqliteStore(None, results_retention_windows=1, max_dead_letters=1)
        web = load_web_config(write(folder, content))
        self.server = Server(Board(), self.store, host, 0, 10, web=web)
        self.server.start()
        self.url = self.server.url

    def client(self, own: str = "") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.folder / "authority.pem")
        if own:
            context.load_cert_chain(self.folder / f"{own}.pem", self.folder / f"{own}.key")
        return context

    def get(
        self,
        path: str = "/metrics",
        login: tuple[str, str] | None = None,
        *,
        client: ssl.SSLContext | None = None,
        **headers: str,
    ) -> tuple[int, str, Message]:
        if login is not None:
            headers["Authorization"] = "Basic " + encoded(*login)
        request = urllib.request.Request(self.url + path, headers=headers)  # noqa: S310
        client = client or self.client()
        try:
            with urllib.request.urlopen(request, timeout=20, context=client) as answer:  # noqa: S310
                return answer.status, answer.read().decode(), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode(), error.headers

    def refuses(self, client: ssl.SSLContext) -> bool:
        try:
            self.get(client=client)
        except (OSError, http.client.HTTPException):
            return True
        return False


@contextmanager
def site(folder: Path, content: object, host: str = "127.0.0.1") -> Iterator[Site]:
    running = Site(folder, content, host)
    yield running
    running.server.stop()
    running.store.close()


def encoded(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def problem(folder: Path, content: object) -> str:
    """The one problem with a file; every text of the error and its causes is free of secrets."""
    with pytest.raises(ConfigError) as caught:
        load_web_config(write(folder, content))
    error = caught.value
    assert error.__suppress_context__ or error.__context__ is None
    assert str(error).count("\n") == 1, str(error)
    assert free_of_secrets(str(error))
    return str(error).partition("\n  ")[2]


def free_of_secrets(text: str) -> bool:
    hidden = (PASSWORD, OTHER, WRONG, HASH, OTHER_HASH, HASH[:20], "hush", "PRIVATE KEY", "MIGH")
    return not any(secret in text for secret in hidden)


# --- TLS ----------------------------------------------------------------------------------------


def test_tls_is_served_and_plain_http_is_not(folder: Path) -> None:
    with site(folder, {"tls_server_config": SERVED}) as running:
        assert running.url.startswith("https://127.0.0.1:")
        status, _, headers = running.get()
        assert status == 200
        assert headers["X-Content-Type-Options"] == "nosniff"
        running.url = running.url.replace("https", "http")
        with pytest.raises((OSError, http.client.HTTPException)):
            running.get()


def test_certificates_may_stand_in_the_file_itself(folder: Path) -> None:
    def text(name: str) -> str:
        return (folder / name).read_text()

    tls = {
        "cert": text("server.pem"),
        "key": text("server.key"),
        "client_ca": text("authority.pem"),
        "client_auth_type": "RequireAndVerifyClientCert",
    }
    with site(folder, {"tls_server_config": tls}) as running:
        assert running.get(client=running.client("client"))[0] == 200
        assert running.refuses(running.client())


def test_clients_need_a_certificate_of_the_authority_where_one_is_required(folder: Path) -> None:
    with site(folder, {"tls_server_config": MUTUAL}) as running:
        assert running.refuses(running.client())
        assert running.refuses(running.client("stranger"))
        assert running.get(client=running.client("client"))[0] == 200


def test_a_certificate_that_is_given_is_verified(folder: Path) -> None:
    tls = MUTUAL | {"client_auth_type": "VerifyClientCertIfGiven"}
    with site(folder, {"tls_server_config": tls}) as running:
        assert running.get()[0] == 200
        assert running.get(client=running.client("client"))[0] == 200
        assert running.refuses(running.client("stranger"))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_outside_the_bounds_are_refused(folder: Path, version: ssl.TLSVersion) -> None:
    name = "TLS12" if version is ssl.TLSVersion.TLSv1_2 else "TLS13"
    tls = SERVED | {"min_version": name, "max_version": name}
    with site(folder, {"tls_server_config": tls}) as running:
        for spoken in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            client = running.client()
            client.minimum_version = client.maximum_version = spoken
            assert running.refuses(client) == (spoken is not version)


# --- passwords ----------------------------------------------------------------------------------


def test_passwords_guard_every_path(folder: Path) -> None:
    with site(folder, {"tls_server_config": SERVED, "basic_auth_users": USERS}) as running:
        open_to_all = {path: running.get(path, ("alice", PASSWORD))[0] for path in PATHS}
        assert open_to_all["/metrics"] == open_to_all["/static/app.js"] == 200
        assert open_to_all["/nowhere"] == 404
        for path in PATHS:
            for login in (None, ("alice", WRONG), ("alice", ""), ("carol", PASSWORD)):
                status, text, headers = running.get(path, login)
                assert (status, text) == (401, "Unauthorized\n")
                assert headers["WWW-Authenticate"].startswith("Basic")
                assert headers["Cache-Control"] == "no-store"
        assert running.get("/metrics", ("bob", OTHER))[0] == 200
        assert running.get("/metrics", ("bob", PASSWORD))[0] == 401


def test_without_tls_passwords_work_too(folder: Path) -> None:
    with site(folder, {"basic_auth_users": USERS}) as running:
        assert running.url.startswith("http://")
        assert running.get(login=("alice", PASSWORD))[0] == 200
        assert running.get(login=("alice", WRONG))[0] == 401


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic ===",
        "Basic " + base64.b64encode(b"no colon").decode(),
        "Basic " + base64.b64encode(b"alice:\xff\x00" + b"x" * 5_000).decode(),
        "Basic " + base64.b64encode(b"\xff:" + PASSWORD.encode()).decode(),
        "Bearer " + encoded("alice", PASSWORD),
        "Basic séame",
    ],
)
def test_what_is_no_login_is_refused(folder: Path, header: str) -> None:
    with site(folder, {"basic_auth_users": USERS}) as running:
        assert running.get(Authorization=header)[0] == 401


def test_the_scheme_is_written_in_any_case_and_long_passwords_count_to_72_bytes(
    folder: Path,
) -> None:
    long = "x" * 72
    users = {"alice": bcrypt.hashpw(long.encode(), bcrypt.gensalt(4)).decode()}
    with site(folder, {"basic_auth_users": users}) as running:
        assert running.get(Authorization=f"bAsIc  {encoded('alice', long)}")[0] == 200
        assert running.get(login=("alice", long + "y"))[0] == 200  # as bcrypt everywhere has it
        assert running.get(login=("alice", long[:-1]))[0] == 401


class Slow:
    """bcrypt that waits until it may go on, and tells which hashes it was asked about."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = threading.Event()
        self.go.set()
        self._check = bcrypt.checkpw

    def __call__(self, password: bytes, expected: bytes) -> bool:
        self.asked.append(expected.decode())
        assert self.go.wait(30)
        return self._check(password, expected)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    slow = Slow()
    monkeypatch.setattr(bcrypt, "checkpw", slow)
    return slow


def test_a_right_password_is_hashed_once_and_a_wrong_one_each_time(
    folder: Path, slow: Slow
) -> None:
    with site(folder, {"basic_auth_users": USERS}) as running:
        assert [running.get(login=("alice", PASSWORD))[0] for _ in range(5)] == [200] * 5
        assert slow.asked == [HASH]
        assert [running.get(login=("alice", WRONG))[0] for _ in range(2)] == [401] * 2
        assert slow.asked == [HASH] * 3
        assert running.get(login=("alice", PASSWORD))[0] == 200
        assert slow.asked == [HASH] * 3


def test_an_unknown_user_costs_as_much_as_a_wrong_password(folder: Path, slow: Slow) -> None:
    with site(folder, {"basic_auth_users": {"bob": OTHER_HASH}}) as running:
        assert running.get(login=("bob", WRONG))[0] == 401
        assert [running.get(login=("carol", OTHER))[0] for _ in range(2)] == [401] * 2
    assert len(slow.asked) == 3
    assert {x[3:7] for x in slow.asked} == {"$05$"}


def test_guessing_holds_nobody_up_who_is_known_and_is_bounded(
    folder: Path, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(basic_auth, "_WAITING", 1)
    with site(folder, {"basic_auth_users": USERS}) as running, ThreadPoolExecutor(1) as guesser:
        assert running.get(login=("alice", PASSWORD))[0] == 200
        slow.go.clear()
        guess = guesser.submit(running.get, login=("bob", WRONG))
        while len(slow.asked) < 2:
            time.sleep(0.01)
        status, _, headers = running.get(login=("bob", OTHER))
        assert (status, headers["Retry-After"]) == (429, "1")
        assert running.get(login=("alice", PASSWORD))[0] == 200
        assert running.get()[0] == 401
        slow.go.set()
        assert guess.result()[0] == 401
        assert running.get(login=("bob", OTHER))[0] == 200


def test_what_a_browser_asks_for_at_once_is_hashed_once(folder: Path, slow: Slow) -> None:
    with site(folder, {"basic_auth_users": USERS}) as running, ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(running.get, login=("alice", PASSWORD)) for _ in range(5)]
        assert [answer.result()[0] for answer in answers] == [200] * 5
    assert slow.asked == [HASH]


# --- headers ------------------------------------------------------------------------------------


def test_headers_take_the_place_of_our_own(folder: Path) -> None:
    headers = {"X-Frame-Options": "deny", "Strict-Transport-Security": "max-age=31536000",
               "Content-Security-Policy": "default-src 'none'"}  # fmt: skip
    with site(folder, {"http_server_config": {"http2": False, "headers": headers}}) as running:
        given = running.get()[2]
    assert {name: given.get_all(name) for name in headers} == {k: [v] for k, v in headers.items()}
    assert given["Referrer-Policy"] == "no-referrer"


# --- files that are wrong -----------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "{}", "basic_auth_users:\ntls_server_config:\n"])
def test_an_empty_file_asks_for_nothing(folder: Path, content: str) -> None:
    assert load_web_config(write(folder, content)) == OPEN
    assert load_web_config(None) is OPEN


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"basic_auth_user": USERS}, "basic_auth_user: '…': no such key; there are tls_server_c"),
        ({"rate_limit": {"burst": 5}}, "rate_limit: '…': this server does not support it"),
        ({"tls_server_config": SERVED | {"cypher": "x"}}, "tls_server_config.cypher: '…': no such"),
        (
            {"tls_server_config": SERVED | {"client_allowed_sans": ["a"]}},
            "tls_server_config.client_allowed_sans: '…': this server does not support it; there",
        ),
        (
            {"tls_server_config": SERVED | {"client_auth_type": "RequireAnyClientCert"}},
            "client_auth_type: 'RequireAnyClientCert': Input should be 'NoClientCert', 'Verify",
        ),
        (
            {"tls_server_config": SERVED | {"min_version": "TLS10"}},
            "tls_server_config.min_version: 'TLS10': Input should be 'TLS12' or 'TLS13'",
        ),
        (
            {"tls_server_config": SERVED | {"min_version": "TLS13", "max_version": "TLS12"}},
            "tls_server_config.min_version: 'TLS13': must not exceed `max_version`",
        ),
        (
            {"tls_server_config": {"cert_file": "server.pem"}},
            "tls_server_config.key_file: None: add this key",
        ),
        (
            {"tls_server_config": {"key_file": "server.key"}},
            "tls_server_config.cert_file: None: add this key",
        ),
        (
            {"tls_server_config": SERVED | {"key_file": "none.key"}},
            "tls_server_config.key_file: 'none.key': No such file or directory: give a readable",
        ),
        (
            {"tls_server_config": SERVED | {"cert_file": ""}},
            "tls_server_config.cert_file: '.': Is a directory: give",
        ),
        (
            {"tls_server_config": SERVED | {"cert_file": "server.key"}},
            "tls_server_config.cert_file: 'server.key': give a certificate in PEM",
        ),
        (
            {"tls_server_config": SERVED | {"key_file": "client.key"}},
            "tls_server_config.key_file: 'client.key': KEY_VALUES_MISMATCH: give the certificate's",
        ),
        (
            {"tls_server_config": {"cert_file": "locked.pem", "key_file": "locked.key"}},
            "without a passphrase",
        ),
        ({"tls_server_config": SERVED | {"key": "MIGH"}}, "'server.key': `key` stands there, too"),
        (
            {"tls_server_config": {"cert_file": "server.pem", "key": "MIGH"}},
            "server_config.key: '…'",
        ),
        (
            {"tls_server_config": SERVED | {"client_auth_type": "RequireAndVerifyClientCert"}},
            "tls_server_config.client_ca_file: None: name the authority",
        ),
        (
            {"tls_server_config": SERVED | {"client_ca_file": "authority.pem"}},
            "tls_server_config.client_auth_type: 'NoClientCert': no client is asked",
        ),
        (
            {"tls_server_config": MUTUAL | {"client_ca_file": "client.key"}},
            "tls_server_config.client_ca_file: 'client.key': give a certificate in PEM",
        ),
        ({"basic_auth_users": {"alice": PASSWORD}}, "alice: '…': give a bcrypt hash, as `htpasswd"),
        ({"basic_auth_users": {"alice": HASH[:-1]}}, "basic_auth_users.alice: '…': give a bcrypt"),
        ({"basic_auth_users": {"alice": HASH + "\n"}}, "basic_auth_users.alice: '…': give a bcry"),
        (
            {"basic_auth_users": {"alice": 31415}},
            "basic_auth_users.alice: '…': Input should be a v",
        ),
        ({"basic_auth_users": {HASH: HASH[:-1]}}, "basic_auth_users.…: '…': give a bcrypt hash"),
        ({"basic_auth_users": {"a:b": HASH}}, "basic_auth_users.a:b: '…': no client can send"),
        ({"basic_auth_users": [HASH]}, "basic_auth_users: '…': Input should be a valid dictionary"),
        ({"http_server_config": {"http2": True}}, "http2: True: this server speaks HTTP/1.1"),
        (
            {"http_server_config": {"headers": {"X-Powered-By": "us"}}},
            "X-Powered-By: '…': no such key; there are Content-Security-Policy, X-Frame-Options",
        ),
        (
            {"http_server_config": {"headers": {"X-XSS-Protection": "1\r\nSet-Cookie: a=b"}}},
            "http_server_config.headers.X-XSS-Protection: '…': give printable ASCII on one line",
        ),
        (
            {"http_server_config": {"headers": {"X-Frame-Options": "allow"}}},
            "X-Frame-Options: 'allow': Input should be 'deny' or 'sameorigin'",
        ),
        ([HASH], "(file): '…': write a mapping; there are tls_server_config"),
        ("basic_auth_users:\n  alice: *hush-bob\n", "(file): 'line 2, column 10': mend the YAML"),
        ("tls_server_config: 2024-99-99", "(file): 'not YAML': mend the YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_remedy(folder: Path, content: object, said: str) -> None:
    assert said in problem(folder, content)


def test_a_key_in_the_place_of_its_file_is_not_shown(folder: Path) -> None:
    key = (folder / "server.key").read_text()
    said = problem(folder, {"tls_server_config": SERVED | {"key_file": key}})
    assert said.startswith("tls_server_config.key_file: '…': ")


def test_every_problem_is_told_at_once(folder: Path) -> None:
    content = {"tls_server_config": {"cert_file": "a.pem", "key_file": "b.key", "client_ca": "c"}}
    with pytest.raises(ConfigError) as caught:
        load_web_config(write(folder, content))
    assert [p.key for p in caught.value.problems] == [
        f"tls_server_config.{key}"
        for key in ("client_auth_type", "cert_file", "key_file", "client_ca")
    ]


def test_nothing_shows_hashes_or_keys(folder: Path) -> None:
    content = {"tls_server_config": SERVED, "basic_auth_users": USERS}
    assert free_of_secrets(repr(load_web_config(write(folder, content))))


# --- the command line ---------------------------------------------------------------------------


def monitored(folder: Path, web: object) -> Path:
    """A configuration with references and a web configuration file in a folder of its own."""
    worlds.build(folder)
    (folder / "web").mkdir(exist_ok=True)
    write(folder / "web", web)
    (folder / "events.jsonl").touch()
    source = {"type": "follow", "path": "events.jsonl"}
    http = {"port": 0, "web_config": "web/web.yml"}
    return write(folder, worlds.raw_config(source=source, http=http), "monitor.yaml")


def test_check_config_checks_the_file_and_a_backtest_does_without(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = monitored(tmp_path, {"basic_auth_users": {"alice": PASSWORD}})
    for command in ("check-config", "run"):
        assert main([command, "--config", str(path)]) == 1
        said = capsys.readouterr().err
        assert "http.web_config: basic_auth_users.alice: '…': give a bcrypt hash" in said
        assert free_of_secrets(said)
    assert read_config(path).http.web_config == tmp_path / "web" / "web.yml"
    (tmp_path / "web" / "web.yml").unlink()
    assert main(["check-config", "--config", str(path)]) == 1
    assert "web.yml" in capsys.readouterr().err
    read_config(path)
    for name in ("server.pem", "server.key"):
        (tmp_path / "web" / name).write_bytes((folder / name).read_bytes())
    monitored(tmp_path, {"tls_server_config": SERVED, "basic_auth_users": USERS})
    assert main(["check-config", "--config", str(path)]) == 0


class SecuredService(Service):
    """The service behind a web configuration file."""

    def __init__(self, folder: Path, web: object) -> None:
        path = monitored(folder, web)
        config = yaml.safe_load(path.read_text())
        super().__init__(folder, config)
        write(folder, config | {"log": {"format": "json"}}, "monitor.yaml")

    def _announced(self) -> str | None:
        found = re.search(r'"page": ?"(https://[^"]+)/"', self.log())
        return found[1] if found else None


def test_prometheus_scrapes_the_service_over_tls_with_a_password(
    tmp_path: Path, folder: Path
) -> None:
    tls = {key: str(folder / name) for key, name in MUTUAL.items() if key.endswith("_file")}
    tls["client_auth_type"] = MUTUAL["client_auth_type"]
    (tmp_path / "service").mkdir()
    web = {"tls_server_config": tls, "basic_auth_users": USERS}
    with SecuredService(tmp_path / "service", web) as service:
        assert service.url.startswith("https://127.0.0.1:")
        server = Prometheus(tmp_path, service.url.removeprefix("https://"), "127.0.0.1:9")
        path = tmp_path / "prometheus" / "prometheus.yml"
        config: dict[str, Any] = yaml.safe_load(path.read_text())
        job, *_ = config["scrape_configs"]
        job |= {
            "scheme": "https",
            "basic_auth": {"username": "alice", "password": PASSWORD},
            "tls_config": {
                "ca_file": str(folder / "authority.pem"),
                "cert_file": str(folder / "client.pem"),
                "key_file": str(folder / "client.key"),
            },
        }
        wrong = job | {
            "job_name": "wrong",
            "basic_auth": {"username": "alice", "password": WRONG},
        }
        config["scrape_configs"].append(wrong)
        path.write_text(yaml.safe_dump(config))
        with server:
            ready = 'up{job="stream-monitor"} == 1 and on() up{job="wrong"} == 0'
            server.wait_for("a scrape", lambda: server.query(ready))
            assert server.query("stream_monitor_ready")
        assert service.stop() == 0
        log = service.log()
    assert free_of_secrets(log)
    assert encoded("alice", PASSWORD) not in log
    assert "warning" not in log


# --- the warning --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "content", "warned"),
    [
        ("0.0.0.0", "", True),  # noqa: S104
        ("0.0.0.0", {"basic_auth_users": USERS}, False),  # noqa: S104
        ("0.0.0.0", {"tls_server_config": SERVED}, False),  # noqa: S104
        ("127.0.0.1", "", False),
        ("localhost", "", False),
    ],
)
def test_an_open_server_beyond_loopback_is_warned_of(
    folder: Path, host: str, content: object, warned: bool
) -> None:
    with structlog.testing.capture_logs() as logs, site(folder, content, host):
        pass
    assert [line["log_level"] for line in logs] == ["warning"] * warned
    assert all("http.web_config" in line["remedy"] for line in logs)


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="needs IPv6")
def test_an_address_of_version_6_is_a_url(folder: Path) -> None:
    with structlog.testing.capture_logs() as logs, site(folder, "", "::1") as running:
        assert running.url.startswith("http://[::1]:")
        assert running.get()[0] == 200
    assert not logs
