"""Names and passwords by HTTP's basic authentication, against bcrypt hashes."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import os
from collections.abc import Mapping
from hashlib import blake2b

import bcrypt
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_LONGEST = 72  # bytes of a password that bcrypt looks at
_WAITING = 50  # requests that may wait for bcrypt: about as many as it does in a scrape's timeout
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="stream-monitor", charset="UTF-8"'}


class BasicAuth:
    """Lets in, on every path, who knows the password of a user.

    bcrypt is slow on purpose. Each user's last right password is therefore remembered, as a hash
    under a key that only this process has, so that scrapes cost nothing; everything else is
    compared off the event loop and one at a time, so that guessing takes no more than a core. An
    unknown user costs as much as a wrong password, so that no clock tells which names there are.
    """

    def __init__(self, app: ASGIApp, users: Mapping[str, str]) -> None:
        self._app = app
        self._hashes = {name.encode(): text.encode() for name, text in users.items()}
        cost = max(text.split("$")[2] for text in users.values())
        self._nobody = f"$2b${cost}${'.' * 53}".encode()  # of no password
        self._secret = os.urandom(32)
        self._proofs: dict[bytes, bytes] = {}
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        credentials = _credentials(Headers(scope=scope).get("authorization", ""))
        if credentials is not None and self._proven(*credentials):
            await self._app(scope, receive, send)
        elif credentials is not None and self._waiting >= _WAITING:
            busy = PlainTextResponse("too many passwords to check\n", 429, {"Retry-After": "1"})
            await busy(scope, receive, send)
        elif credentials is not None and await self._prove(*credentials):
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse("Unauthorized\n", 401, _CHALLENGE)(scope, receive, send)

    def _proven(self, user: bytes, password: bytes) -> bool:
        """Whether bcrypt has found this password right before."""
        proof = self._proofs.get(user, bytes(32))
        return hmac.compare_digest(proof, self._proof(user, password))

    async def _prove(self, user: bytes, password: bytes) -> bool:
        """Whether the password is right; it is proven from then on."""
        self._waiting += 1
        try:
            async with self._turn:
                if self._proven(user, password):  # a browser asks for several things at once
                    return True
                expected = self._hashes.get(user, self._nobody)
                right = await run_in_threadpool(bcrypt.checkpw, password, expected)
        finally:
            self._waiting -= 1
        if right and user in self._hashes:
            self._proofs[user] = self._proof(user, password)
            return True
        return False

    def _proof(self, user: bytes, password: bytes) -> bytes:
        return blake2b(user + b":" + password, key=self._secret, digest_size=32).digest()


def _credentials(header: str) -> tuple[bytes, bytes] | None:
    """User and password, as much of it as counts."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (user, password[:_LONGEST]) if colon else None
