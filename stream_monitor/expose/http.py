"""The HTTP server: metrics, probes, the API and the status page, in a thread of its own."""

from __future__ import annotations

import csv
import io
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from stream_monitor.errors import StreamMonitorError
from stream_monitor.expose import status
from stream_monitor.expose.collector import SnapshotCollector, StepTimer
from stream_monitor.expose.snapshot import Snapshot
from stream_monitor.store.base import Store
from stream_monitor.values import COLUMNS, rfc3339, rows_of

_PAGE = Path(__file__).parent / "page"
_HEARTBEAT_SECONDS = 30.0
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_STATES = ("closed", "filling")
_FORMATS = {"json": "application/json", "csv": "text/csv", "jsonl": "application/jsonl"}


class Board:
    """Holds the newest snapshot; swapping a reference is atomic, so nobody waits."""

    def __init__(self) -> None:
        self.current: Snapshot | None = None

    def publish(self, snapshot: Snapshot) -> None:
        self.current = snapshot


class Server:
    """Serves a board and a store. ``timer`` times the loop's steps."""

    def __init__(self, board: Board, store: Store, host: str, port: int, max_series: int) -> None:
        self._board = board
        self._store = store
        self._host, self._port = host, port
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
        config = uvicorn.Config(self._app(), log_config=None, access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="http", daemon=True
        )
        self._thread.start()
        return int(listener.getsockname()[1])

    def stop(self) -> None:
        """Finish the requests under way and stop."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(5.0)

    def _app(self) -> Starlette:
        get = ["GET"]
        return Starlette(
            routes=[
                Route("/", self._page, methods=get),
                Route("/metrics", self._metrics, methods=get),
                Route("/-/healthy", self._healthy, methods=get),
                Route("/-/ready", self._ready, methods=get),
                Route("/api/v1/status", self._status, methods=get),
                Route("/api/v1/alerts", self._alerts, methods=get),
                Route("/api/v1/windows", self._windows, methods=get),
                Route("/api/v1/dead-letters", self._dead_letters, methods=get),
                Mount("/static", StaticFiles(directory=_PAGE)),
            ],
            middleware=[Middleware(GZipMiddleware, minimum_size=2_000)],
        )

    # Plain functions: Starlette runs them in threads, so a slow one holds up no probe.

    def _page(self, _request: Request) -> Response:
        return FileResponse(_PAGE / "index.html", headers=_HEADERS)

    def _metrics(self, request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), media_type=kind)

    def _healthy(self, _request: Request) -> Response:
        snapshot = self._board.current
        age = time.time() - (snapshot.service.heartbeat / 1e6 if snapshot else 0.0)
        if age > _HEARTBEAT_SECONDS:
            return PlainTextResponse("the loop has not come round for 30 s\n", 503)
        return PlainTextResponse("healthy\n")

    def _ready(self, _request: Request) -> Response:
        snapshot = self._board.current
        if snapshot is None or not snapshot.service.ready:
            return PlainTextResponse("restoring state or waiting for input\n", 503)
        return PlainTextResponse("ready\n")

    def _status(self, _request: Request) -> Response:
        snapshot = self._board.current
        return _json(status.status(snapshot) if snapshot else None)

    def _alerts(self, _request: Request) -> Response:
        snapshot = self._board.current
        return _json({"alerts": [status.alert(a) for a in snapshot.alerts] if snapshot else []})

    def _windows(self, request: Request) -> Response:
        filters = dict(request.query_params)
        state, form = filters.pop("state", None), filters.pop("format", "json")
        if state not in (None, *_STATES):
            return _bad(f"state: {state!r}: give closed or filling, or leave it out for both")
        if form not in _FORMATS:
            return _bad(f"format: {form!r}: give one of {', '.join(_FORMATS)}")
        try:
            # both are made before the first byte is sent, so that an error is an answer
            closed = list(self._store.results(filters)) if state != "filling" else []
        except ValueError as error:
            return _bad(str(error))
        rows = closed + (self._filling(filters) if state != "closed" else [])
        return StreamingResponse(
            self._rendered(rows, form), media_type=_FORMATS[form], headers=_HEADERS
        )

    def _filling(self, filters: dict[str, str]) -> list[dict[str, object]]:
        """Rows of the windows that collect now; they have no end yet to be filtered by."""
        snapshot = self._board.current
        chosen = {k: v.split(",") for k, v in filters.items() if k in COLUMNS}
        views = [w for m in snapshot.models for w in m.windows] if snapshot else []
        return [
            row
            for view in views
            if view.filling is not None
            for row in rows_of(view.filling)
            if all(row[name] in wanted for name, wanted in chosen.items())
        ]

    def _rendered(self, rows: list[dict[str, object]], form: str) -> Iterator[bytes]:
        if form == "csv":
            yield from _csv(rows)
            return
        lines = (orjson.dumps(row) for row in rows)
        if form == "jsonl":
            yield from (line + b"\n" for line in lines)
            return
        snapshot = self._board.current
        mark = snapshot.service.watermark if snapshot else 0
        head = {"columns": COLUMNS, "watermark": rfc3339(mark) if mark else None}
        yield orjson.dumps(head)[:-1] + b',"windows":['
        for i, line in enumerate(lines):
            yield b"," + line if i else line
        yield b"]}"

    def _dead_letters(self, request: Request) -> Response:
        limit = request.query_params.get("limit", "100")
        if not limit.isdecimal():
            return _bad(f"limit: {limit!r}: give a number")
        return _json(
            {
                "dead_letters": [
                    {
                        "partition": d.partition,
                        "place": d.place,
                        "reason": d.reason,
                        "detail": d.detail,
                        "payload_base64": b64encode(d.payload).decode(),
                        "key_base64": None if d.key is None else b64encode(d.key).decode(),
                        "headers": [[k, b64encode(v).decode()] for k, v in d.headers],
                        "timestamp": None if d.timestamp is None else rfc3339(d.timestamp),
                    }
                    for d in self._store.dead_letters(int(limit))
                ]
            }
        )


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json", headers=_HEADERS)


def _bad(message: str) -> Response:
    return Response(
        orjson.dumps({"error": message}), 400, media_type="application/json", headers=_HEADERS
    )


def _csv(rows: Iterable[dict[str, object]]) -> Iterator[bytes]:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS)
    writer.writeheader()
    for row in rows:
        writer.writerow(row)
        if buffer.tell() > 2**16:
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode()
