"""The viewer's HTTP routes, as a Starlette application.

Redeems codes, hands out room access, reports status, passes typed text on. Knows no Temporal: a
`ViewerSource` provides access and status. Opens no port: `server` does.

How a token reaches one browser and no other:

    invite(key) ──▶ http://127.0.0.1:8080/watch/<page>#<code>     browsers never send the fragment,
                                                                  which holds the code
    page ── POST /watch/<page>/access {"code"} ──▶ room access    the code works once; the response
                                                                  sets an HttpOnly cookie (the pass)
    page ── POST /watch/<page>/access {} + cookie ──▶ access      after a reload, or a lost room
    page ── GET  /watch/<page>/status + cookie ──▶ state          polled twice a second
    page ── POST /watch/<page>/say {"text"} + cookie ──▶ {}       where there is a `ViewerSpeaker`

Each response is the whole state, so a lost one costs nothing. A stream of events would occupy one
of the six connections that a browser opens to a server over HTTP/1.1.

The cookie is valid for that page's path only, so one browser can watch several sessions. It expires
after `PASS_TTL_S`; codes and passes are kept in memory and end with the server.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, SecretStr, StringConstraints, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from avatar_sessions.contract.states import SessionState
from viewer.invitations import Invitation, InvitationRefused, Invitations
from viewer.page import PageFiles
from viewer.security import LOOPBACK, SecurityHeaders, is_foreign
from viewer.source import ViewerSource, ViewerSourceError, ViewerSpeaker, ViewerStatus

ACCESS_TIMEOUT_S: Final = 15.0
STATUS_TIMEOUT_S: Final = 10.0
SAY_TIMEOUT_S: Final = 90.0
MAX_TEXT_CHARS: Final = 300
"""About 30 s of speech. The page's input field has the same limit."""
MAX_BODY_BYTES: Final = 4096
COOKIE: Final = "viewer_pass"
_TOO_LATE: Final = "The session did not answer in time."
_FOREIGN: Final = (403, "foreign_origin", "This request came from another site.")
_MALFORMED: Final = (400, "malformed", "The request is malformed.")


class _AccessRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    code: SecretStr | None = None


class _SayRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)

    text: Annotated[str, StringConstraints(min_length=1, max_length=MAX_TEXT_CHARS)]


class ViewerApp:
    """The routes of one viewer server.

    Args:
        source: provides access and status.
        speaker: speaks typed text; None: the page shows no input field.
        invitations: which browser may watch which session.
        page: the page's files.
        status_interval_s: how often each open page polls the status.
    """

    def __init__(
        self,
        source: ViewerSource,
        speaker: ViewerSpeaker | None,
        *,
        invitations: Invitations,
        page: PageFiles,
        status_interval_s: float,
    ) -> None:
        self._source = source
        self._speaker = speaker
        self._invitations = invitations
        self._page = page
        self._status_interval_s = status_interval_s
        self._speaking_pages: set[str] = set()

    def starlette(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/", self._index),
            Route("/watch/{page}", self._index),
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
                # Against DNS rebinding: another site's name that resolves to 127.0.0.1 is refused.
                Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"]),
                Middleware(SecurityHeaders),
            ],
        )

    # ------------------------------------------------------------ files

    async def _index(self, _: Request) -> Response:
        return self._page.index()

    async def _static(self, request: Request) -> Response:
        return self._page.static(request.path_params["name"])

    async def _vendor(self, request: Request) -> Response:
        return self._page.vendor(request.url.path)

    # ------------------------------------------------------------ access

    async def _access(self, request: Request) -> Response:
        if is_foreign(request):
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
        """The invitation that the cookie or the code belongs to; for a code also a new cookie."""
        page: str = request.path_params["page"]
        cookie = request.cookies.get(COOKIE)
        if code is None or (cookie is not None and self._invitations.is_pass(page, cookie)):
            return self._invitations.show_pass(page, cookie), None
        return self._invitations.redeem(page, code)

    async def _grant(self, session_key: str) -> dict[str, Any]:
        status = await self._source_status(session_key)
        answer: dict[str, Any] = {
            "session_key": session_key,
            "status": status.public(),
            "can_say": self._speaker is not None,
            "livekit_url": None,
            "token": None,
            "generation": None,
        }
        # Not while RECOVERING: `access` would wait for the next generation, and the number of such
        # waiting calls is limited.
        if status.state is SessionState.LIVE:
            async with asyncio.timeout(ACCESS_TIMEOUT_S):
                access = await self._source.access(session_key)
            answer["livekit_url"] = access.livekit_url
            answer["token"] = access.token.get_secret_value()
            answer["generation"] = access.generation
        return answer

    # ------------------------------------------------------------ status

    async def _status(self, request: Request) -> Response:
        """The session's current state, and when to poll again."""
        page: str = request.path_params["page"]
        invitation = self._invitations.show_pass(page, request.cookies.get(COOKIE))
        try:
            status = await self._source_status(invitation.session_key)
        except ViewerSourceError as error:
            return _problem(503, "unavailable", str(error))
        return JSONResponse({"status": status.public(), "next_in_s": self._status_interval_s})

    async def _source_status(self, session_key: str) -> ViewerStatus:
        """The session's state, within `STATUS_TIMEOUT_S`.

        Raises:
            ViewerSourceError: not available now, or not in time.
        """
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                return await self._source.status(session_key)
        except TimeoutError as error:
            raise ViewerSourceError(_TOO_LATE) from error

    # ------------------------------------------------------------ typed text

    async def _say(self, request: Request) -> Response:
        """Have the avatar speak the text; responds when playback is over."""
        if is_foreign(request):
            return _problem(*_FOREIGN)
        page: str = request.path_params["page"]
        invitation = self._invitations.show_pass(page, request.cookies.get(COOKIE))
        if self._speaker is None:
            return _problem(404, "no_speech", "This viewer has no text to speech.")
        try:
            asked = _SayRequest.model_validate_json(await _body(request))
        except ValidationError:
            sentence = f"The avatar takes 1 to {MAX_TEXT_CHARS} characters at a time."
            return _problem(400, "malformed", sentence)
        if page in self._speaking_pages:
            return _problem(429, "busy", "The avatar is still speaking your last text.")
        self._speaking_pages.add(page)
        try:
            async with asyncio.timeout(SAY_TIMEOUT_S):
                await self._speaker.say(invitation.session_key, asked.text)
        except ViewerSourceError as error:
            return _problem(503, "unavailable", str(error))
        except TimeoutError:
            return _problem(503, "unavailable", "The avatar did not finish speaking in time.")
        finally:
            self._speaking_pages.discard(page)
        return JSONResponse({})


async def _body(request: Request) -> bytes:
    """The request's body, cut at `MAX_BODY_BYTES`: a longer one is no longer valid JSON."""
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
