"""The HTTP server: metrics, probes, the API and the status page, in a thread of its own."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import structlog
import uvicorn
from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stream_monitor.errors import StreamMonitorError
from stream_monitor.expose.api import HANDLERS, Api
from stream_monitor.expose.basic_auth import BasicAuth
from stream_monitor.expose.collector import SnapshotCollector, StepTimer
from stream_monitor.expose.snapshot import Snapshot
from stream_monitor.expose.web_config import OPEN, Web
from stream_monitor.store.base import Store

_PAGE = Path(__file__).parent / "page"
_HEARTBEAT_SECONDS = 30.0
_STOP_SECONDS = 3
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

log = structlog.get_logger()


class Board:
    """Holds the newest snapshot; swapping a reference is atomic, so nobody waits."""

    def __init__(self) -> None:
        self.current: Snapshot | None = None

    def publish(self, snapshot: Snapshot) -> None:
        self.current = snapshot


class Server:
    """Serves a board and a store. ``timer`` times the loop's steps, ``url`` is where it listens."""

    def __init__(
        self,
        board: Board,
        store: Store,
        host: str,
        port: int,
        max_series: int,
        *,
        web: Web = OPEN,
    ) -> None:
        self._board = board
        self._api = Api(lambda: board.current, store)
        self._host, self._port, self._web = host, port, web
        self.url = ""
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self.timer = StepTimer(self._registry)
        self._registry.register(SnapshotCollector(lambda: board.current, max_series))
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Listen; the port, which is another than asked for only if 0 was asked for.

        Raises
        ------
        StreamMonitorError
            Where the address cannot be used.
        """
        listener = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._host, self._port))
            listener.listen()  # from now on a request waits instead of being refused
        except OSError as error:
            listener.close()
            raise StreamMonitorError(
                f"http.host, http.port: {self._host}:{self._port}: {error.strerror}; "
                f"choose another, or stop what listens there"
            ) from None
        address, port = listener.getsockname()[:2]
        tls = self._web.tls
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"{'https' if tls else 'http'}://{host}:{port}"
        if not (tls or self._web.users or ipaddress.ip_address(address).is_loopback):
            log.warning(
                "whoever reaches this address reads everything",
                address=self.url,
                remedy="http.web_config: TLS and passwords, see docs/operations.md; "
                "or http.host: 127.0.0.1",
            )
        config = uvicorn.Config(
            self._app(),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=_STOP_SECONDS,
            ssl_context_factory=None if tls is None else (lambda *_: tls),
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="http", daemon=True
        )
        self._thread.start()
        return int(port)

    def stop(self) -> None:
        """Finish the requests under way, for three seconds at most, and stop."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(_STOP_SECONDS + 2.0)

    def _app(self) -> Starlette:
        middleware = [Middleware(_Headers, headers={**_HEADERS, **self._web.headers})]
        if self._web.users:
            middleware.append(Middleware(BasicAuth, users=self._web.users))
        middleware.append(Middleware(GZipMiddleware, minimum_size=2_000))
        return Starlette(
            routes=[
                Route("/", self._page, methods=["GET"]),
                Route("/metrics", self._metrics, methods=["GET"]),
                Route("/-/healthy", self._healthy, methods=["GET"]),
                Route("/-/ready", self._ready, methods=["GET"]),
                *self._api.routes(),
                Mount("/static", StaticFiles(directory=_PAGE)),
            ],
            middleware=middleware,
            exception_handlers=HANDLERS,
        )

    def _page(self, _request: Request) -> Response:
        return FileResponse(_PAGE / "index.html")

    def _metrics(self, request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), media_type=kind)

    # Coroutines, so that they need no thread and answer while all threads are busy.

    async def _healthy(self, _request: Request) -> Response:
        snapshot = self._board.current
        if snapshot is None:
            return PlainTextResponse("the loop has not come round yet\n", 503)
        age = time.time() - snapshot.service.heartbeat / 1e6
        if age > _HEARTBEAT_SECONDS:
            return PlainTextResponse(f"the loop has not come round for {age:.0f} s\n", 503)
        return PlainTextResponse("healthy\n")

    async def _ready(self, _request: Request) -> Response:
        snapshot = self._board.current
        if snapshot is None or not snapshot.service.ready:
            return PlainTextResponse("restoring state or waiting for input\n", 503)
        return PlainTextResponse("ready\n")


class _Headers:
    """Puts the security headers on every answer."""

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        self._app, self._headers = app, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await self._app(scope, receive, send_with)
