"""What protects the page: response headers, its Content-Security-Policy, and the origin check.

Headers only; which browser may see which session is decided by `invitations`.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK: Final = "127.0.0.1"


class SecurityHeaders:
    """ASGI middleware: adds headers to every response; a header that a route has set wins."""

    HEADERS: Final = {
        "cache-control": "no-store",
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), microphone=(self), geolocation=()",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in self.HEADERS.items()
                        if name.encode() not in present
                    ),
                ]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def page_policy(*, inline_script: str, cdn_url: str | None, livekit_url: str | None) -> str:
    """The page's Content-Security-Policy: what it may load, and which servers it may reach.

    Args:
        inline_script: the one inline script that is allowed, by its hash.
        cdn_url: a CDN that scripts may come from; None: none.
        livekit_url: the only LiveKit server; None: any over wss, and those on this machine over ws.
    """
    digest = hashlib.sha256(inline_script.encode()).digest()
    scripts = ["'self'", f"'sha256-{base64.b64encode(digest).decode()}'"]
    if cdn_url is not None:
        scripts.append(cdn_url)
    directives = {
        "default-src": "'none'",
        "script-src": " ".join(scripts),
        "style-src": "'self'",
        "img-src": "'self' data:",
        "media-src": "'self' blob: mediastream:",
        "connect-src": " ".join(["'self'", *_livekit_sources(livekit_url)]),
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def _livekit_sources(livekit_url: str | None) -> list[str]:
    """Signalling is a WebSocket; livekit-client falls back to HTTP to explain a failure."""
    if livekit_url is None:
        local = [f"{scheme}://{LOOPBACK}:*" for scheme in ("ws", "http")]
        return ["wss:", "https:", *local, "ws://localhost:*", "http://localhost:*"]
    parts = urlsplit(livekit_url)
    schemes = ("wss", "https") if parts.scheme in {"wss", "https"} else ("ws", "http")
    return [f"{scheme}://{parts.netloc}" for scheme in schemes]


def is_foreign(request: Request) -> bool:
    """Whether a page of another origin sent the request."""
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")
