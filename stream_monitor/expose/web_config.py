"""TLS, passwords and headers of the HTTP server, in a file as Prometheus' exporters take it.

https://prometheus.io/docs/prometheus/latest/configuration/https/ is the format, so that one file
serves the exporters of a machine and the monitor. What this server cannot keep is refused rather
than passed over: whoever asks for protection gets it or is told. No error shows a hash or a key.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import ErrorDetails

from stream_monitor.config.model import Section
from stream_monitor.errors import ConfigError, Problem

_HIDDEN = "…"
_TLS = "tls_server_config"
_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_CLIENTS = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_HASH = re.compile(r"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_HEADER = re.compile(r"[!-~]([ -~]*[!-~])?")
# keys of the format for what Python's ssl module or this server has no counterpart
_UNSUPPORTED = {
    "cipher_suites",
    "prefer_server_cipher_suites",
    "curve_preferences",
    "client_allowed_sans",
    "rate_limit",
}
# keys whose values no error shows, nor those of keys that are not known
_SHOWN = re.compile(r"(_file|_version|_type|http2)$|^http_server_config\.headers\.")
_LOOKS_SECRET = re.compile(r"\$2\w?\$|-----|\n|.{200}")


def _user(name: str) -> str:
    if ":" in name:
        raise ValueError("no client can send a name with a colon: give another")
    return name


def _hash(text: str) -> str:
    if not _HASH.fullmatch(text):
        raise ValueError("give a bcrypt hash, as `htpasswd -nBC 10 NAME` prints it after the colon")
    return text


def _header(text: str) -> str:
    if not _HEADER.fullmatch(text):
        raise ValueError("give printable ASCII on one line, or leave the header out")
    return text


_Header = Annotated[str, AfterValidator(_header)]


class TlsSection(Section):
    """Certificates and versions. Each certificate and key is a file or a text, not both."""

    cert_file: Path | None = None
    key_file: Path | None = None
    client_ca_file: Path | None = None
    cert: str | None = None
    key: str | None = Field(default=None, repr=False)
    client_ca: str | None = None
    client_auth_type: Literal[
        "NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"
    ] = "NoClientCert"
    min_version: Literal["TLS12", "TLS13"] = "TLS12"
    max_version: Literal["TLS12", "TLS13"] = "TLS13"


class HeadersSection(Section):
    """The headers that the format knows; they take the place of the server's own."""

    content_security_policy: _Header | None = Field(default=None, alias="Content-Security-Policy")
    frames: Literal["deny", "sameorigin"] | None = Field(default=None, alias="X-Frame-Options")
    sniffing: Literal["nosniff"] | None = Field(default=None, alias="X-Content-Type-Options")
    scripts: _Header | None = Field(default=None, alias="X-XSS-Protection")
    transport: _Header | None = Field(default=None, alias="Strict-Transport-Security")


class HttpSection(Section):
    """How HTTP is spoken: version 1.1."""

    http2: Literal[False] = False
    headers: HeadersSection = HeadersSection()


class WebConfig(Section):
    """The whole file."""

    tls_server_config: TlsSection | None = None
    http_server_config: HttpSection = HttpSection()
    basic_auth_users: (
        dict[Annotated[str, AfterValidator(_user)], Annotated[str, AfterValidator(_hash)]] | None
    ) = Field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Web:
    """What the server makes of the file: a TLS context, bcrypt hashes by user, headers."""

    tls: ssl.SSLContext | None = None
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)


OPEN = Web()  # no TLS, no passwords


def load_web_config(path: Path | None) -> Web:
    """The file and the certificates that it names, which are read now and not again.

    Raises
    ------
    ConfigError
        With every problem that was found.
    """
    if path is None:
        return OPEN
    place = str(path)
    try:
        config = WebConfig.model_validate(_read(path))
    except ValidationError as error:
        raise ConfigError(place, [_problem(e) for e in error.errors()]) from None
    tls, problems = None, list[Problem]()
    if config.tls_server_config is not None:
        tls, problems = _context(config.tls_server_config, path.resolve().parent)
    if problems:
        raise ConfigError(place, problems)
    headers = config.http_server_config.headers.model_dump(by_alias=True, exclude_none=True)
    return Web(tls, config.basic_auth_users or {}, headers)


def _read(path: Path) -> object:
    """What YAML gives; of what it cannot read only the place is told, for it may be a secret."""
    try:
        with path.open(encoding="utf-8") as file:
            found = yaml.safe_load(file)
    except OSError as error:
        remedy = "give the path of a readable YAML file"
        raise ConfigError(str(path), [Problem("(file)", str(error), remedy)]) from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "not YAML" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}"
        raise ConfigError(str(path), [Problem("(file)", where, "mend the YAML")]) from None
    return {} if found is None else found


def _problem(error: ErrorDetails) -> Problem:
    names = [_shown(p) for p in error["loc"] if p != "[key]"]
    key, kind = ".".join(map(str, names)), error["type"]
    remedy = error["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        supported = names[-1] not in _UNSUPPORTED
        remedy = "no such key" if supported else "this server does not support it"
        remedy += f"; there are {', '.join(_keys(names[:-1]))}"
    elif names[-1:] == ["http2"]:
        remedy = "this server speaks HTTP/1.1: write false, or leave it out"
    elif kind == "model_type":
        remedy = f"write a mapping; there are {', '.join(_keys(names))}"
    shown = kind != "extra_forbidden" and _SHOWN.search(key)
    return Problem(key or "(file)", _shown(error["input"]) if shown else _HIDDEN, remedy)


def _keys(names: list[Any]) -> list[str]:
    """The keys that may stand in a section."""
    sections: dict[tuple[Any, ...], type[Section]] = {
        (): WebConfig,
        (_TLS,): TlsSection,
        ("http_server_config",): HttpSection,
    }
    section = sections.get(tuple(names), HeadersSection)
    return [f.alias or name for name, f in section.model_fields.items()]


def _shown(value: object) -> object:
    """The value as an error may show it: nothing that looks like a hash or a key."""
    if isinstance(value, Mapping | list):
        return _HIDDEN
    return _HIDDEN if _LOOKS_SECRET.search(str(value)) else value


def _context(tls: TlsSection, folder: Path) -> tuple[ssl.SSLContext, list[Problem]]:
    """How TLS is spoken; and what is in the way of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version]
    context.maximum_version = _VERSIONS[tls.max_version]
    context.verify_mode = _CLIENTS[tls.client_auth_type]
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # any listed authority, as exporters do
    problems = []
    if tls.min_version > tls.max_version:
        remedy = "must not exceed `max_version`"
        problems.append(Problem(f"{_TLS}.min_version", tls.min_version, remedy))
    with ExitStack() as stack:
        cert = _Pem("cert", tls, folder, stack)
        key = _Pem("key", tls, folder, stack)
        authority = _Pem("client_ca", tls, folder, stack)
        for pem in (cert, key):
            if pem.path is None and not pem.problems:
                remedy = f"add this key, or `{pem.part}` with the text itself"
                problems.append(Problem(f"{_TLS}.{pem.part}_file", None, remedy))
        if authority.path is None and not authority.problems and context.verify_mode:
            remedy = "name the authority that signs the clients' certificates"
            problems.append(Problem(f"{_TLS}.client_ca_file", None, remedy))
        if authority.path is not None and not context.verify_mode:
            remedy = "no client is asked for a certificate: `RequireAndVerifyClientCert` asks"
            problems.append(Problem(f"{_TLS}.client_auth_type", tls.client_auth_type, remedy))
        problems += cert.problems + key.problems + authority.problems
        if authority.path is not None:
            problems += authority.certificates(context)
        if cert.path is not None:
            wrong = cert.certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
            problems += wrong
            if key.path is not None and not wrong:
                problems += key.key_of(cert.path, context)
    return context, problems


class _Pem:
    """A certificate or a key as a file; where its text is given, a passing one of our own."""

    def __init__(self, part: str, tls: TlsSection, folder: Path, stack: ExitStack) -> None:
        file: Path | None = getattr(tls, f"{part}_file")
        text: str | None = getattr(tls, part)
        self.part, self.problems = part, list[Problem]()
        self.path: Path | None = None
        self._key = f"{_TLS}.{part}" if file is None else f"{_TLS}.{part}_file"
        self._value = _HIDDEN if file is None else _shown(str(file))
        try:
            if file is not None and text is not None:
                self.problems.append(self._problem(f"`{part}` stands there, too: leave one out"))
            elif file is not None:
                (folder / file).open("rb").close()
                self.path = folder / file
            elif text is not None:
                # mode 0600, and gone when the stack is left
                copy = stack.enter_context(NamedTemporaryFile("w", encoding="utf-8"))  # noqa: SIM115
                copy.write(text)
                copy.flush()
                self.path = Path(copy.name)
        except OSError as error:
            self.problems.append(self._problem(f"{error.strerror}: give a readable PEM file"))

    def certificates(self, context: ssl.SSLContext) -> list[Problem]:
        """Let a context trust these certificates, for which they must be some."""
        try:
            context.load_verify_locations(self.path)
        except ssl.SSLError:
            return [self._problem("give a certificate in PEM")]
        return []

    def key_of(self, cert: Path, context: ssl.SSLContext) -> list[Problem]:
        """Let a context use this key and its certificate."""
        try:
            context.load_cert_chain(cert, self.path, password=lambda: "")  # or OpenSSL would ask
        except ssl.SSLError as error:
            remedy = "give the certificate's own key in PEM, without a passphrase"
            return [self._problem(f"{error.reason or error.strerror}: {remedy}")]
        return []

    def _problem(self, remedy: str) -> Problem:
        return Problem(self._key, self._value, remedy)
