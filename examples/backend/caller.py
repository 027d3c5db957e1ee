"""Who asks, and what is let in at all. `caller_of` is where your login goes."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from fastapi import HTTPException, Request, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from examples.backend.problems import ProblemAnswer

COOKIE: Final = "caller"
COOKIE_TTL_S: Final = 24 * 3600
MAX_BODY_BYTES: Final = 16_384
_SAFE_METHODS: Final = {"GET", "HEAD", "OPTIONS"}
_FOREIGN: Final = ProblemAnswer(403, "foreign_origin", "This request came from another site.")
_NO_LENGTH: Final = ProblemAnswer(411, "no_length", "A body needs a Content-Length.")
_TOO_LARGE: Final = ProblemAnswer(413, "too_large", f"A body has {MAX_BODY_BYTES} bytes at most.")


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who may have one session."""

    id: str
    tenant: str

    @property
    def session_key(self) -> str:
        """The caller's own: nobody can name another's, for none is ever named in a request."""
        return f"web-{self.id}"


def caller_of(request: Request) -> Caller:
    """Who asks. **In place of a login**: a browser that has opened the page is somebody.

    Raises:
        HTTPException: 401, nobody.
    """
    cookie = request.cookies.get(COOKIE)
    if not cookie or len(cookie) > 100:
        raise HTTPException(401, "Open the page first")
    # A digest: session keys stand in Temporal's history and in logs, and the cookie must not.
    digest = hashlib.sha256(cookie.encode()).hexdigest()[:20]
    tenant: str = request.state.backend.settings.backend_tenant
    return Caller(id=digest, tenant=tenant)


def introduce(request: Request, response: Response) -> None:
    """Give a browser that has none its cookie."""
    if not request.cookies.get(COOKIE):
        response.set_cookie(
            COOKIE,
            secrets.token_urlsafe(32),
            max_age=COOKIE_TTL_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )


class RequestGate:
    """Turns away other sites' pages and bodies of unknown or great length, before any is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        problem = _problem_with(scope) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await problem.response()(scope, receive, send)


def _problem_with(scope: Scope) -> ProblemAnswer | None:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    origin, host = headers.get(b"origin"), headers.get(b"host", b"")
    ours = (b"http://" + host, b"https://" + host)
    if scope["method"] not in _SAFE_METHODS and origin is not None and origin not in ours:
        return _FOREIGN
    if b"transfer-encoding" in headers:
        return _NO_LENGTH
    if int(headers.get(b"content-length", b"0")) > MAX_BODY_BYTES:
        return _TOO_LARGE
    return None


def hosts_of(host: str) -> Collection[str]:
    """The names by which this server may be asked for: another site's name is not its own."""
    return {"127.0.0.1", "localhost", host} - {"0.0.0.0"}
