"""The JSON API: windows, alerts, explanations, dead letters, and what the status page draws."""

from __future__ import annotations

import csv
import io
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from itertools import chain, islice
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from stream_monitor.errors import StoreError
from stream_monitor.explain import changes
from stream_monitor.expose.snapshot import Snapshot
from stream_monitor.expose.status import Selection, SelectionError, alert, status
from stream_monitor.store.base import DeadLetter, Store
from stream_monitor.values import COLUMNS, WindowResult, rfc3339, rows_of

_JSON = "application/json"
_FORMATS = {"json": _JSON, "csv": "text/csv", "jsonl": "application/jsonl"}
_STATES = ("closed", "filling")
_EXPLAINED = ("model", "version", "segment", "window", "feature")
_MOST_LETTERS = 10_000
_ROWS_A_PIECE = 500

Row = dict[str, object]


class Api:
    """Answers about the newest snapshot and the store.

    The handlers are plain functions: Starlette runs them in threads, so a slow one holds up
    neither the others nor the probes.
    """

    def __init__(self, current: Callable[[], Snapshot | None], store: Store) -> None:
        self._current = current
        self._store = store

    def routes(self) -> list[Route]:
        return [
            Route("/api/v1/status", self._status, methods=["GET"]),
            Route("/api/v1/alerts", self._alerts, methods=["GET"]),
            Route("/api/v1/explanations", self._explanations, methods=["GET"]),
            Route("/api/v1/windows", self._windows, methods=["GET"]),
            Route("/api/v1/dead-letters", self._dead_letters, methods=["GET"]),
        ]

    def _status(self, request: Request) -> Response:
        known = {f.name for f in fields(Selection)}
        if unknown := sorted(request.query_params.keys() - known):
            raise HTTPException(400, f"{unknown[0]}: there are {', '.join(sorted(known))}")
        snapshot = self._current()
        if snapshot is None:
            return _json(None)
        try:
            selection = Selection(**request.query_params)
            return _json(status(snapshot, selection, time.time_ns() // 1_000))
        except SelectionError as error:
            raise HTTPException(400, str(error)) from None

    def _alerts(self, _request: Request) -> Response:
        self._needs_evaluation()
        snapshot = self._current()
        return _json({"alerts": [alert(a) for a in snapshot.alerts] if snapshot else []})

    def _explanations(self, request: Request) -> Response:
        chosen = {name: text.split(",") for name, text in request.query_params.items()}
        if unknown := sorted(chosen.keys() - set(_EXPLAINED)):
            raise HTTPException(400, f"{unknown[0]}: there are {', '.join(_EXPLAINED)}")
        return _json({"explanations": list(_explained(self._current(), chosen))})

    def _windows(self, request: Request) -> Response:
        filters = dict(request.query_params)
        self._needs_evaluation()
        state, form = filters.pop("state", None), filters.pop("format", "json")
        if state not in (None, *_STATES):
            raise HTTPException(400, f"state: {state!r}: give closed or filling, or leave it out")
        if form not in _FORMATS:
            raise HTTPException(400, f"format: {form!r}: give one of {', '.join(_FORMATS)}")
        snapshot = self._current()
        parts: list[Iterable[Row]] = []
        try:
            closed = self._store.results(filters)  # checks the filters whatever the state
            if state != "filling":
                # the query runs before the first byte is sent, so that its failure is an answer
                parts += [list(islice(closed, 1)), closed]
        except (ValueError, OverflowError) as error:
            raise HTTPException(400, str(error)) from None
        if state != "closed":
            parts.append(_filling(snapshot, filters))
        mark = snapshot.service.watermark if snapshot else 0
        return StreamingResponse(
            _rendered(chain.from_iterable(parts), form, mark), media_type=_FORMATS[form]
        )

    def _needs_evaluation(self) -> None:
        """Only the active aggregator knows what windows say; elsewhere there are none to show."""
        snapshot = self._current()
        if snapshot is not None and not snapshot.service.active:
            raise HTTPException(
                503, "this replica does not evaluate: ask the one whose aggregator_active is 1"
            )

    def _dead_letters(self, request: Request) -> Response:
        limit = request.query_params.get("limit", "100")
        if not limit.isdecimal() or int(limit) > _MOST_LETTERS:
            raise HTTPException(400, f"limit: {limit!r}: give a number up to {_MOST_LETTERS}")
        return _json({"dead_letters": [_letter(d) for d in self._store.dead_letters(int(limit))]})


def _failed(_request: Request, error: Exception) -> Response:
    """A question that cannot be answered as it was asked, or a store that does not work now."""
    if isinstance(error, HTTPException):
        return _json({"error": error.detail}, error.status_code)
    return _json({"error": str(error)}, 503)


HANDLERS = {HTTPException: _failed, StoreError: _failed}


def _moment(microseconds: int | None) -> str | None:
    """A record timestamp, which may be any number."""
    try:
        return None if microseconds is None else rfc3339(microseconds)
    except OverflowError:
        return f"{(microseconds or 0) / 1e6:.3f} s since 1970"


def _json(content: Any, code: int = 200) -> Response:
    return Response(orjson.dumps(content), code, media_type=_JSON)


def _filling(snapshot: Snapshot | None, filters: Mapping[str, str]) -> Iterator[Row]:
    """Rows of the windows that collect now; limits of time and number are for closed ones."""
    chosen = {k: v.split(",") for k, v in filters.items() if k in COLUMNS}
    for model in snapshot.models if snapshot else ():
        for view in model.windows:
            for row in rows_of(view.filling) if view.filling else ():
                if _fits(row, chosen):
                    yield row


def _explained(snapshot: Snapshot | None, chosen: Mapping[str, list[str]]) -> Iterator[Row]:
    """What is noted and what changed, a feature of a newest closed or filling window.

    Features of which there is nothing to say are left out; the feature is empty where a note is on
    the model as a whole.
    """
    for model in snapshot.models if snapshot else ():
        for view in model.windows:
            states = (view.closed, view.closed_counts), (view.filling, view.filling_counts)
            for state, (result, counts) in zip(_STATES, states, strict=True):
                for feature in ("", *model.cells) if result else ():
                    key = model.name, model.version, model.segment, view.name, feature
                    place = dict(zip(_EXPLAINED, key, strict=True))
                    if _fits(place, chosen) and result is not None:
                        cells = model.cells.get(feature)
                        changed = changes(cells, counts[feature]) if cells and counts else []
                        notes = {f: n for (f, name), n in _notes(result) if name == feature}
                        if notes or changed:
                            yield place | {
                                "state": state,
                                "window_end": rfc3339(result.end) if result.end > 0 else None,
                                "rows": result.rows,
                                "notes": notes,
                                "changes": [asdict(change) for change in changed],
                            }


def _notes(result: WindowResult) -> Iterator[tuple[tuple[str, str], str]]:
    """The notes of a window, by family and feature."""
    for key, note in result.notes.items():
        family, _, feature = key.partition("/")
        yield (family, feature), note


def _fits(row: Mapping[str, object], chosen: Mapping[str, list[str]]) -> bool:
    return all(row[name] in wanted for name, wanted in chosen.items())


def _rendered(rows: Iterator[Row], form: str, watermark: int) -> Iterator[bytes]:
    """Rows as text, some hundred a piece."""
    pieces = iter(lambda: list(islice(rows, _ROWS_A_PIECE)), [])
    if form == "csv":
        yield _csv([dict(zip(COLUMNS, COLUMNS, strict=True))])
        yield from map(_csv, pieces)
    elif form == "jsonl":
        for piece in pieces:
            yield b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in piece)
    else:
        head = {"columns": COLUMNS, "watermark": rfc3339(watermark) if watermark else None}
        yield orjson.dumps(head)[:-1] + b',"windows":['
        comma = b""
        for piece in pieces:
            yield comma + b",".join(map(orjson.dumps, piece))
            comma = b","
        yield b"]}"


def _csv(rows: Iterable[Mapping[str, object]]) -> bytes:
    text = io.StringIO()
    csv.DictWriter(text, COLUMNS).writerows(rows)
    return text.getvalue().encode()


def _letter(letter: DeadLetter) -> dict[str, Any]:
    return {
        "partition": letter.partition,
        "place": letter.place,
        "reason": letter.reason,
        "detail": letter.detail,
        "payload_base64": b64encode(letter.payload).decode(),
        "key_base64": None if letter.key is None else b64encode(letter.key).decode(),
        "headers": [[k, b64encode(v).decode()] for k, v in letter.headers],
        "timestamp": _moment(letter.timestamp),
    }
