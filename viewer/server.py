"""The viewer's web server: hands out the page and, for a one-time code, access to a room.

Serves `web/` on loopback. It knows no Temporal: a `ViewerSource` tells it how to get access to a
session's room and how the session stands. Not a server for the internet: put your own login in
front of your own page there (docs/viewer.md).

How a token reaches the page, and nobody else:

    invite(key) ──▶ http://127.0.0.1:8080/watch/<page>#<code>     the code stands in the fragment,
                                                                  which browsers never send
    page ── POST /watch/<page>/access {"code"} ──▶ room access    the code works once; the answer
                                                                  sets an HttpOnly cookie
    page ── POST /watch/<page>/access {} + cookie ──▶ access      a reload, a reconnect
    page ── GET  /watch/<page>/status + cookie ──▶ state          twice a second, to the end
    page ── POST /watch/<page>/say {"text"} + cookie ──▶ said     where there is a `ViewerSpeaker`

Each answer is the whole state, and the page asks again whatever became of the last one: there is no
event that could be lost, and no stream that holds one of a browser's few connections.

The cookie is valid for that page's path only, so several sessions can be watched in one browser.
It lasts `PASS_TTL_S`; codes and passes live in memory and die with the server.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Final, Protocol, Self
from urllib.parse import urlsplit

import uvicorn
from pydantic import BaseModel, ConfigDict, SecretStr, StringConstraints, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from avatar_sessions.contract.states import EndReason, Pose, SessionState
from viewer.errors import ViewerPortInUse
from viewer.invitations import (
    INVITATION_TTL_S,
    PASS_TTL_S,
    Invitation,
    InvitationRefused,
    Invitations,
)

WEB_FOLDER: Final = Path(__file__).with_name("static")
CDN_URL: Final = "https://cdn.jsdelivr.net"

ACCESS_TIMEOUT_S: Final = 15.0
STATUS_TIMEOUT_S: Final = 10.0
STATUS_INTERVAL_S: Final = 0.5
SAY_TIMEOUT_S: Final = 90.0
MAX_SAID_CHARS: Final = 300
"""Half a minute of speech. The page's own field ends there, too."""
START_TIMEOUT_S: Final = 10.0
STOP_TIMEOUT_S: Final = 5.0
MAX_BODY_BYTES: Final = 4096
LOOPBACK: Final = "127.0.0.1"
COOKIE: Final = "viewer_pass"
_TOO_LATE: Final = "The session did not answer in time."
_FOREIGN: Final = (403, "foreign_origin", "This request came from another site.")
_MALFORMED: Final = (400, "malformed", "The page sent something that is not a request.")

# A name without a slash or a leading dot cannot leave the folder.
_FILE_NAME: Final = re.compile(r"[a-z][a-z0-9-]*(\.[a-z]+)")
_MEDIA_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

REASONS: Final[dict[EndReason, str]] = {
    EndReason.REQUESTED: "The conversation was ended on request.",
    EndReason.CANCELLED: "The session was cancelled.",
    EndReason.MAX_DURATION: "The session reached its maximum duration.",
    EndReason.IDLE_TIMEOUT: "Nobody asked anything of the avatar for a while.",
    EndReason.PROVIDER_ENDED: "LiveAvatar ended the session.",
    EndReason.INVALID_REQUEST: "LiveAvatar cannot serve what was asked for.",
    EndReason.START_FAILED: "The avatar could not be started.",
    EndReason.START_TIMEOUT: "The avatar did not come up in time.",
    EndReason.CONNECTION_FAILED: "The connection to the avatar was lost and could not be restored.",
    EndReason.HISTORY_FULL: "The session took more commands than can be kept of one.",
    EndReason.INTERNAL_ERROR: "Something went wrong on our side.",
}


@dataclass(frozen=True)
class ViewerAccess:
    """What a browser needs to join the room."""

    livekit_url: str
    token: SecretStr
    generation: int | None = None
    """Which of the session's LiveAvatar sessions the room belongs to: with a later one the page
    asks for access anew. None: the room stays the same."""


@dataclass(frozen=True)
class ViewerStatus:
    """How a session stands, as far as someone who watches it wants to know."""

    state: SessionState
    speaking: bool = False
    """An utterance is being spoken. The page trusts its ears first; this helps while muted."""
    pose: Pose | None = None
    """What the avatar does while silent; None: not known."""
    generation: int = 0
    """Which LiveAvatar session it is that speaks, counted from 1; 0: not known."""
    live_at: datetime | None = None
    end_reason: EndReason | None = None
    detail: str | None = None
    """The failure in a sentence for a person; no secrets."""

    def public(self) -> dict[str, Any]:
        """The status as the page reads it, with the end reason in words."""
        return {
            "state": self.state,
            "speaking": self.speaking,
            "pose": self.pose,
            "generation": self.generation,
            "live_at": None if self.live_at is None else self.live_at.isoformat(),
            "end_reason": self.end_reason,
            "reason": None if self.end_reason is None else REASONS[self.end_reason],
            "detail": self.detail,
        }


class ViewerSourceError(Exception):
    """A source cannot answer at the moment; the text is one sentence for the viewer."""


class ViewerSource(Protocol):
    """Where access and status come from. Both are called with bounded waits."""

    async def access(self, session_key: str) -> ViewerAccess:
        """Access for one viewer, to the room where the session is now. Called only while it is
        LIVE, and again whenever a page has lost its room.

        Raises:
            ViewerSourceError: not at the moment; the page says so and tries again.
        """
        ...

    async def status(self, session_key: str) -> ViewerStatus:
        """The session's present state.

        Raises:
            ViewerSourceError: not at the moment; the page says so and tries again.
        """
        ...


class ViewerSpeaker(Protocol):
    """Makes a session's avatar say what a viewer typed."""

    async def say(self, session_key: str, text: str) -> None:
        """Say it; returns when it is over, heard to the end or not. Called with a bounded wait.

        Raises:
            ViewerSourceError: not at the moment; the page says so.
        """
        ...


class _AccessRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    code: SecretStr | None = None


class _SayRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    text: Annotated[str, StringConstraints(min_length=1, max_length=MAX_SAID_CHARS)]


@dataclass(frozen=True)
class _LiveKitClient:
    """Where the page gets livekit-client: from npm's folder if it is there, else from a CDN."""

    url: str
    integrity: str
    file: Path | None

    @classmethod
    def find(cls, web_folder: Path) -> _LiveKitClient:
        package = json.loads((web_folder / "package.json").read_text(encoding="utf-8"))
        version: str = package["dependencies"]["livekit-client"]
        integrity: str = package["livekitClientIntegrity"]
        file = web_folder / "node_modules" / "livekit-client" / "dist" / "livekit-client.esm.mjs"
        if file.is_file():
            return cls(f"/vendor/livekit-client-{version}.mjs", integrity, file)
        path = f"npm/livekit-client@{version}/dist/livekit-client.esm.mjs"
        return cls(f"{CDN_URL}/{path}", integrity, None)

    @property
    def import_map(self) -> str:
        """An import map that also pins what a CDN may answer (browsers of 2024 and later)."""
        return json.dumps(
            {
                "imports": {"livekit-client": self.url},
                "integrity": {self.url: self.integrity},
            }
        )


class ViewerServer:
    """The page, on loopback, while the context is open.

        async with ViewerServer(source, port=8080) as viewer:
            print(viewer.invite("support-42"))

    Args:
        source: where access and status come from.
        speaker: says what viewers type. None: the page has no field for it.
        port: 0 takes a free one.
        livekit_url: the only LiveKit server the page may talk to. None: any, by wss, and those
            on this machine, by ws; hosted rooms live on servers that are known only after start.
        invitation_ttl_s: how long a code may wait for its first use.
        pass_ttl_s: how long a page that used its code may be reloaded.
        status_interval_s: how often each open page asks, and with it the source is asked.

    Raises:
        PortInUse: on entering, when somebody else listens on the port.
    """

    def __init__(
        self,
        source: ViewerSource,
        *,
        speaker: ViewerSpeaker | None = None,
        port: int = 8080,
        livekit_url: str | None = None,
        invitation_ttl_s: float = INVITATION_TTL_S,
        pass_ttl_s: float = PASS_TTL_S,
        status_interval_s: float = STATUS_INTERVAL_S,
        web_folder: Path = WEB_FOLDER,
    ) -> None:
        self._source = source
        self._speaker = speaker
        self._saying: set[str] = set()
        self._port = port
        self._web_folder = web_folder
        self._status_interval_s = status_interval_s
        self._invitations = Invitations(invitation_ttl_s=invitation_ttl_s, pass_ttl_s=pass_ttl_s)
        self._livekit_client = _LiveKitClient.find(web_folder)
        self._page_policy = _page_policy(self._livekit_client, livekit_url)
        self._server: _EmbeddedServer | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The server's address, without a trailing slash."""
        return f"http://{LOOPBACK}:{self._port}"

    def invite(self, session_key: str) -> str:
        """A link for one viewer of the session: opens once, in one browser."""
        page, code = self._invitations.invite(session_key)
        return f"{self.url}/watch/{page}#{code}"

    async def __aenter__(self) -> Self:
        try:
            listener = socket.create_server((LOOPBACK, self._port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise ViewerPortInUse(
                f"port {self._port}, which the viewer needs, is in use: end that program, "
                "or choose another port by VIEWER_PORT."
            ) from error
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app(),
            lifespan="off",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=int(STOP_TIMEOUT_S),
            server_header=False,
        )
        self._server = _EmbeddedServer(config)
        self._serving = asyncio.create_task(
            self._server.serve(sockets=[listener]), name="viewer-server"
        )
        async with asyncio.timeout(START_TIMEOUT_S):
            while not self._server.started and not self._serving.done():
                await asyncio.sleep(0.005)
        if self._serving.done():
            await self._serving
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        assert self._serving is not None
        self._server.should_exit = True
        async with asyncio.timeout(2 * STOP_TIMEOUT_S):
            await self._serving

    # ------------------------------------------------------------ routes

    def _app(self) -> Starlette:
        routes = [
            Route("/", self._page),
            Route("/watch/{page}", self._page),
            Route("/watch/{page}/access", self._access, methods=["POST"]),
            Route("/watch/{page}/status", self._status),
            Route("/watch/{page}/say", self._say, methods=["POST"]),
            Route("/static/{name}", self._static),
            Route("/vendor/{name}", self._vendor),
        ]
        return Starlette(
            routes=routes,
            exception_handlers={InvitationRefused: _refuse},
            middleware=[
                # A page of another site that points its own name at 127.0.0.1 gets nothing.
                Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"]),
                Middleware(_SecurityHeaders),
            ],
        )

    async def _page(self, _: Request) -> Response:
        html = (self._web_folder / "index.html").read_text(encoding="utf-8")
        head = f'<script type="importmap">{self._livekit_client.import_map}</script>'
        return Response(
            html.replace("<!-- import map -->", head),
            media_type="text/html",
            headers={"content-security-policy": self._page_policy},
        )

    async def _static(self, request: Request) -> Response:
        name: str = request.path_params["name"]
        match = _FILE_NAME.fullmatch(name)
        media_type = _MEDIA_TYPES.get(match[1]) if match else None
        file = self._web_folder / name
        if media_type is None or not file.is_file():
            return Response(status_code=404)
        return FileResponse(file, media_type=media_type)

    async def _vendor(self, request: Request) -> Response:
        client = self._livekit_client
        if client.file is None or request.url.path != client.url:
            return Response(status_code=404)
        return FileResponse(
            client.file,
            media_type=_MEDIA_TYPES[".js"],
            headers={"cache-control": "max-age=31536000, immutable"},
        )

    async def _access(self, request: Request) -> Response:
        if _is_foreign(request):
            return _problem(*_FOREIGN)
        try:
            asked = _AccessRequest.model_validate_json(await _body(request))
        except ValidationError:
            return _problem(*_MALFORMED)
        invitation, cookie = self._admit(request, asked.code)
        try:
            answer = await self._grant(invitation.session_key)
        except ViewerSourceError as error:
            response = _problem(503, "unavailable", str(error))
        except TimeoutError:
            response = _problem(503, "unavailable", _TOO_LATE)
        else:
            response = JSONResponse(answer)
        if cookie is not None:
            response.set_cookie(
                COOKIE,
                cookie.get_secret_value(),
                path=f"/watch/{invitation.page}",
                max_age=int(self._invitations.pass_ttl_s),
                httponly=True,
                samesite="strict",
            )
        return response

    def _admit(
        self, request: Request, code: SecretStr | None
    ) -> tuple[Invitation, SecretStr | None]:
        """Whom this is, by cookie or by code; with a code also the new cookie's value."""
        page: str = request.path_params["page"]
        cookie = request.cookies.get(COOKIE)
        if code is None or (cookie is not None and self._invitations.is_pass(page, cookie)):
            return self._invitations.show_pass(page, cookie), None
        return self._invitations.redeem(page, code)

    async def _grant(self, session_key: str) -> dict[str, Any]:
        status = await self._look(session_key)
        answer: dict[str, Any] = {
            "session_key": session_key,
            "status": status.public(),
            "can_say": self._speaker is not None,
            "livekit_url": None,
            "token": None,
            "generation": None,
        }
        # Not while it is RECOVERING: the answer would wait for what comes next, and few may.
        if status.state is SessionState.LIVE:
            async with asyncio.timeout(ACCESS_TIMEOUT_S):
                access = await self._source.access(session_key)
            answer["livekit_url"] = access.livekit_url
            answer["token"] = access.token.get_secret_value()
            answer["generation"] = access.generation
        return answer

    async def _status(self, request: Request) -> Response:
        """The session's present state, and when to ask again."""
        page: str = request.path_params["page"]
        invitation = self._invitations.show_pass(page, request.cookies.get(COOKIE))
        try:
            status = await self._look(invitation.session_key)
        except ViewerSourceError as error:
            return _problem(503, "unavailable", str(error))
        return JSONResponse({"status": status.public(), "next_in_s": self._status_interval_s})

    async def _say(self, request: Request) -> Response:
        """Let the avatar say what was typed; answers when that is over."""
        if _is_foreign(request):
            return _problem(*_FOREIGN)
        page: str = request.path_params["page"]
        invitation = self._invitations.show_pass(page, request.cookies.get(COOKIE))
        if self._speaker is None:
            return _problem(404, "no_speech", "There is nothing here that makes speech of words.")
        try:
            asked = _SayRequest.model_validate_json(await _body(request))
        except ValidationError:
            sentence = f"The avatar takes 1 to {MAX_SAID_CHARS} characters at a time."
            return _problem(400, "malformed", sentence)
        if page in self._saying:
            return _problem(429, "busy", "The avatar has not said your last words yet.")
        self._saying.add(page)
        try:
            async with asyncio.timeout(SAY_TIMEOUT_S):
                await self._speaker.say(invitation.session_key, asked.text)
        except ViewerSourceError as error:
            return _problem(503, "unavailable", str(error))
        except TimeoutError:
            return _problem(503, "unavailable", "The avatar did not say it in time.")
        finally:
            self._saying.discard(page)
        return JSONResponse({})

    async def _look(self, session_key: str) -> ViewerStatus:
        """How the session stands.

        Raises:
            ViewerSourceError: not at the moment, or not in time.
        """
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                return await self._source.status(session_key)
        except TimeoutError as error:
            raise ViewerSourceError(_TOO_LATE) from error


class _EmbeddedServer(uvicorn.Server):
    """Signals belong to the program that the server is part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _SecurityHeaders:
    """Headers that every answer carries; a route's own value wins."""

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


def _page_policy(client: _LiveKitClient, livekit_url: str | None) -> str:
    """What the page may load and whom it may talk to."""
    digest = hashlib.sha256(client.import_map.encode()).digest()
    scripts = ["'self'", f"'sha256-{base64.b64encode(digest).decode()}'"]
    if client.file is None:
        scripts.append(CDN_URL)
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
    """Signalling is a WebSocket; livekit-client also asks over HTTP when that fails."""
    if livekit_url is None:
        local = [f"{scheme}://{LOOPBACK}:*" for scheme in ("ws", "http")]
        return ["wss:", "https:", *local, "ws://localhost:*", "http://localhost:*"]
    parts = urlsplit(livekit_url)
    schemes = ("wss", "https") if parts.scheme in {"wss", "https"} else ("ws", "http")
    return [f"{scheme}://{parts.netloc}" for scheme in schemes]


def _is_foreign(request: Request) -> bool:
    """Whether another site's page sent this."""
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")


async def _body(request: Request) -> bytes:
    """The request's body; one that is too long is cut, and so is not JSON any more."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            break
    return bytes(body[:MAX_BODY_BYTES])


def _problem(status: int, error: str, message: str) -> JSONResponse:
    return JSONResponse({"error": error, "message": message}, status_code=status)


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, InvitationRefused)
    return _problem(error.http_status, error.error, str(error))
