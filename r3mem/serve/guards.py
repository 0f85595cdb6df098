"""What stands in front of the routes: who asks, from where, how large, and the count of it all."""

from __future__ import annotations

import time
from collections.abc import Collection
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from r3mem.serve.failures import answer, of_route
from r3mem.serve.keys import Keys
from r3mem.serve.limits import MIB, Limits
from r3mem.serve.metrics import Metrics

#: Where no key is asked for: nothing of a user's is told there.
OPEN = ("/health", "/ready", "/docs", "/openapi.json")
#: The only address that takes more than a request of JSON.
UPLOADS = "/v1/files"
#: What a form takes around its file.
FORM_BYTES = 1 << 16
USER = "r3mem.user"


class Counted:
    """Counts requests, and how long they took.

    Args:
        app: What is behind.
        metrics: Where it counts.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # A client that breaks off gets no status.
        begun, status = time.monotonic(), 499

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        finally:
            self.metrics.answered(scope["method"], of_route(scope), status, time.monotonic() - begun)


class NoStrangePages:
    """Without keys, refuses what pages of other sites let a browser send: their origin, or a name that is not ours.

    Args:
        app: What is behind.
        hosts: Names of this machine that a browser may use.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            ours = self._is_ours(f"//{headers.get('host', '')}") and (origin is None or self._is_ours(origin))
            if not ours:
                message = "without keys this server answers to programs of this machine only: start it with --keys"
                await answer(403, message)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _is_ours(self, address: str) -> bool:
        try:
            return urlsplit(address).hostname in self.hosts
        except ValueError:
            return False


class KeyCheck:
    """Lets those in who have a key, and notes whose request it is.

    Args:
        app: What is behind.
        keys: The keys.
    """

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and scope["path"] not in OPEN:
            user = self.keys.user_of(_bearer(Headers(scope=scope)))
            if user is None:
                message = "this key is not known here: send the header Authorization: Bearer KEY"
                await answer(401, message, WWW_Authenticate="Bearer")(scope, receive, send)
                return
            scope[USER] = user
        await self.app(scope, receive, send)


class BodyLimit:
    """Refuses bodies that are too large: at once where their length is told, else when they become so.

    Args:
        app: What is behind.
        limits: How large they may be.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        upload = scope["path"] == UPLOADS
        most = self.limits.upload_bytes + FORM_BYTES if upload else self.limits.body_bytes
        taken = self.limits.upload_bytes if upload else self.limits.body_bytes
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > most:
            await too_large(taken, upload)(scope, receive, send)
            return
        got = 0

        async def counted() -> Message:
            nonlocal got
            message = await receive()
            if message["type"] == "http.request":
                got += len(message.get("body", b""))
                if got > most:
                    raise HTTPException(413, told_too_large(taken, upload), {"Connection": "close"})
            return message

        await self.app(scope, counted, send)


def told_too_large(most: int, upload: bool) -> str:
    """The sentence that says so.

    Args:
        most: Bytes that are taken.
        upload: Whether it is an uploaded file.
    """
    size = f"{most / MIB:.3g} MiB" if most >= MIB else f"{most:,} bytes"
    if upload:
        return f"this server takes files of at most {size}: send the file in parts, one after the other"
    return f"this server takes requests of at most {size}: upload a longer text as a file, POST {UPLOADS}"


def too_large(most: int, upload: bool) -> JSONResponse:
    """The same as a response, after which the connection is closed: nobody reads what else comes.

    Args:
        most: Bytes that are taken.
        upload: Whether it is an uploaded file.
    """
    return answer(413, told_too_large(most, upload), Connection="close")


def _bearer(headers: Headers) -> str | None:
    kind, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" and key.strip() else None
