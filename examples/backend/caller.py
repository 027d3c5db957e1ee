"""Identifies callers and checks requests. Your login goes into `caller_of`."""

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
    """A caller, who may have one session."""

    id: str
    tenant: str

    @property
    def session_key(self) -> str:
        """The key of the caller's session. Requests never name a key, so it cannot be another's."""
        return f"web-{self.id}"


def caller_of(request: Request) -> Caller:
    """The caller of a request. **In place of a login**: any browser that has opened the page.

    Raises:
        HTTPException: 401, the browser has not opened the page.
    """
    cookie = request.cookies.get(COOKIE)
    if not cookie or len(cookie) > 100:
        raise HTTPException(401, "Open the page first")
    # A digest: session keys are in Temporal's history and in logs, where the cookie must not be.
    digest = hashlib.sha256(cookie.encode()).hexdigest()[:20]
    tenant: str = request.state.backend.settings.backend_tenant
    return Caller(id=digest, tenant=tenant)


def set_cookie(request: Request, response: Response) -> None:
    """Set the cookie of a browser that has none."""
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
    """ASGI middleware: refuses other sites' requests, and bodies of unknown or excessive length."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        problem = _problem_with(scope) if scope["type"] == "http" else None
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await problem.response()(scope, receive, send)


def _problem_with(scope: Scope) -> ProblemAnswer | None:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    origin, host = headers.get(b"origin"), headers.get(b"host", b"")
    own = (b"http://" + host, b"https://" + host)
    if scope["method"] not in _SAFE_METHODS and origin is not None and origin not in own:
        return _FOREIGN
    if b"transfer-encoding" in headers:
        return _NO_LENGTH
    if int(headers.get(b"content-length", b"0")) > MAX_BODY_BYTES:
        return _TOO_LARGE
    return None


def hosts_of(host: str) -> Collection[str]:
    """The allowed Host headers: against DNS rebinding."""
    return {"127.0.0.1", "localhost", host} - {"0.0.0.0"}
