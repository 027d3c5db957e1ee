"""LiveAvatar's REST routes, and the simulator's own under ``/simulator``.

HTTP only; what a call does is `lifecycle`'s part. It uses FastAPI because LiveAvatar does, so that
422 and 405 have the same shape.
"""

# Without `from __future__ import annotations`: FastAPI could not resolve local names in them.

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse

from liveavatar_lite.models import SessionEndReason
from liveavatar_simulator.faults import Faults
from liveavatar_simulator.ledger import BillingLedger, SessionLine
from liveavatar_simulator.session import SimulatedSession
from liveavatar_simulator.settings import CATALOGUE, SimulatorSettings

from . import error_replies
from .error_replies import Refusal, ReplyLost
from .rate_limits import RateLimits
from .schemas import (
    AvatarEntry,
    EndedSessionEntry,
    EndRequest,
    KeepAliveRequest,
    SessionEntrySchema,
    StopRequest,
    TokenRequestSchema,
    envelope,
)
from .sessions import LiveAvatarService

Abort = Callable[[Request], None]
_Row = TypeVar("_Row")
Reply = dict[str, Any]


class Callers:
    """Authenticates calls by API key or session token."""

    def __init__(self, settings: SimulatorSettings, service: LiveAvatarService) -> None:
        self._keys = [key.get_secret_value().encode() for key in settings.api_keys]
        self._service = service

    def with_key(self, x_api_key: Annotated[str | None, Header()] = None) -> None:
        """Require a known API key.

        Raises:
            Refusal: 401.
        """
        if not self._knows(x_api_key):
            raise error_replies.unauthorized("A valid X-API-KEY is required")

    def with_token(self, authorization: Annotated[str | None, Header()] = None) -> SimulatedSession:
        """Require a session token; returns its session.

        Raises:
            Refusal: 401.
        """
        session = self._session_of(authorization)
        if session is None:
            raise error_replies.unauthorized("A valid session token is required")
        return session

    def with_either(
        self,
        x_api_key: Annotated[str | None, Header()] = None,
        authorization: Annotated[str | None, Header()] = None,
    ) -> SimulatedSession | None:
        """Require a session token, whose session is returned, or an API key.

        Raises:
            Refusal: 401.
        """
        session = self._session_of(authorization)
        if session is None and not self._knows(x_api_key):
            raise error_replies.unauthorized("A valid X-API-KEY or session token is required")
        return session

    def _knows(self, key: str | None) -> bool:
        offered = (key or "").encode()
        return any(secrets.compare_digest(offered, known) for known in self._keys)

    def _session_of(self, authorization: str | None) -> SimulatedSession | None:
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        session_id = self._service.tokens.session_id(token)
        return None if session_id is None else self._service.find(session_id)


def create_app(
    settings: SimulatorSettings,
    service: LiveAvatarService,
    *,
    ws_url: Callable[[SimulatedSession], str],
    abort: Abort,
) -> FastAPI:
    """The REST API as a FastAPI application.

    Args:
        ws_url: the media address of a started session.
        abort: cuts the connection of a request, without a reply.
    """
    app = FastAPI(title="LiveAvatar simulator", docs_url=None, redoc_url=None)
    _answer_refusals(app, abort)
    _limit_rates(app, settings.calls_per_s)
    app.add_middleware(
        CORSMiddleware,
        allow_origin_regex=".*",  # the exact origin is echoed: the web SDK calls with credentials
        allow_credentials=True,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["authorization", "content-type", "x-api-key"],
    )
    callers = Callers(settings, service)
    _add_lifecycle(app, service, callers, ws_url)
    _add_listing(app, service, callers)
    _add_simulator(app, service)
    return app


def _answer_refusals(app: FastAPI, abort: Abort) -> None:
    @app.exception_handler(Refusal)
    async def refuse(request: Request, refusal: Refusal) -> Response:
        body = {"code": refusal.code, "data": None, "message": refusal.message}
        return JSONResponse(body, refusal.status, refusal.headers)

    @app.exception_handler(ReplyLost)
    async def lose(request: Request, _: ReplyLost) -> Response:
        abort(request)
        await asyncio.sleep(0)  # let the server notice that the connection is closed
        return Response(status_code=500)


def _limit_rates(app: FastAPI, calls_per_s: int) -> None:
    if calls_per_s == 0:
        return
    limits = RateLimits(calls_per_s)

    @app.middleware("http")
    async def limit(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        if not request.url.path.startswith("/v1/") or request.method == "OPTIONS":
            return await call_next(request)
        decision = limits.count(request)
        if not decision.allowed:
            refusal = error_replies.rate_limited(decision.headers)
            body = {"code": refusal.code, "data": None, "message": refusal.message}
            return JSONResponse(body, refusal.status, refusal.headers)
        response = await call_next(request)
        for name, value in decision.headers.items():
            response.headers.setdefault(name, value)  # an injected 429 has its own headers
        return response


def _add_lifecycle(
    app: FastAPI,
    service: LiveAvatarService,
    callers: Callers,
    ws_url: Callable[[SimulatedSession], str],
) -> None:
    @app.post("/v1/sessions/token", dependencies=[Depends(callers.with_key)])
    async def create_token(request: TokenRequestSchema) -> Reply:
        session, token = service.mint(request)
        return envelope({"session_id": session.session_id, "session_token": token})

    @app.post("/v1/sessions/start", status_code=201)
    async def start(session: Annotated[SimulatedSession, Depends(callers.with_token)]) -> Reply:
        access = await service.start(session)
        started = {
            "session_id": session.session_id,
            "livekit_url": access.livekit_url,
            "livekit_client_token": access.client_token,
            "livekit_agent_token": access.agent_token,
            "max_session_duration": session.max_duration_s,
        }
        if not session.request.has_connector:
            started["ws_url"] = ws_url(session)
        return envelope(started)

    @app.post("/v1/sessions/stop")
    async def stop(
        caller: Annotated[SimulatedSession | None, Depends(callers.with_either)],
        body: StopRequest | None = None,
    ) -> Reply:
        session = _named(service, caller, body.session_id if body else None)
        reason = SessionEndReason.USER_CLOSED if body is None else SessionEndReason(body.reason)
        await service.stop(session, reason)
        return envelope(None)

    @app.post("/v1/sessions/keep-alive")
    async def keep_alive(
        caller: Annotated[SimulatedSession | None, Depends(callers.with_either)],
        body: KeepAliveRequest | None = None,
    ) -> Reply:
        session = _named(service, caller, body.session_id if body else None)
        if not session.billing:
            raise error_replies.session_not_found()
        session.touch()
        return envelope(None)


def _named(
    service: LiveAvatarService, caller: SimulatedSession | None, session_id: UUID | None
) -> SimulatedSession:
    """The session that a call names.

    Raises:
        Refusal: the call names none, or an unknown one, or the token is another session's.
    """
    if session_id is None:
        if caller is None:
            raise error_replies.bad_request("session_id is required with an API key")
        return caller
    session = service.find(str(session_id))
    if session is None or (caller is not None and caller is not session):
        raise error_replies.session_not_found()
    return session


def _add_listing(app: FastAPI, service: LiveAvatarService, callers: Callers) -> None:
    with_key = [Depends(callers.with_key)]

    @app.get("/v1/sessions", dependencies=with_key)
    async def list_sessions(
        request: Request,
        type: Annotated[Literal["active", "historic"], Query()],
        page: Annotated[int, Query(ge=1)] = 1,
        page_size: Annotated[int, Query(ge=1, le=100)] = 20,
        avatar_id: UUID | None = None,
    ) -> Reply:
        service.check_listing()
        wanted = [
            session
            for session in reversed(service.sessions.values())
            if session.started_at is not None
            and session.billing == (type == "active")
            and avatar_id in (None, session.request.avatar_id)
        ]
        rows = [_row(session) for session in wanted]
        return envelope(_page(request, rows, page, page_size))

    @app.get("/v1/sessions/{session_id}", dependencies=with_key)
    async def get_session(session_id: UUID) -> Reply:
        service.check_listing()
        session = service.find(str(session_id))
        if session is None:
            raise error_replies.session_not_found()
        return envelope(_row(session))

    @app.get("/v1/sessions/{session_id}/transcript", dependencies=with_key)
    async def get_transcript(session_id: UUID) -> Reply:
        session = service.find(str(session_id))
        if session is None:
            raise error_replies.session_not_found()
        # LITE mode receives audio, not text.
        return envelope({"session_active": session.billing, "transcript_data": []})

    @app.delete("/v1/sessions/{session_id}/events", dependencies=with_key)
    async def delete_events(session_id: UUID) -> Reply:
        if service.find(str(session_id)) is None:
            raise error_replies.session_not_found()
        return envelope(None)

    @app.get("/v1/users/credits", dependencies=with_key)
    async def credits_left() -> Reply:
        return envelope({"credits_left": str(service.credits_left())})

    @app.get("/v1/avatars/public")
    async def public_avatars(
        request: Request,
        page: Annotated[int, Query(ge=1)] = 1,
        page_size: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Reply:
        rows = [AvatarEntry(id=str(each), name=name) for each, name in CATALOGUE.items()]
        return envelope(_page(request, rows, page, page_size))


def _page(request: Request, rows: list[_Row], page: int, page_size: int) -> Reply:
    def address(of_page: int) -> str:
        return str(request.url.include_query_params(page=of_page, page_size=page_size))

    begin, end = (page - 1) * page_size, page * page_size
    return {
        "count": len(rows),
        "next": address(page + 1) if end < len(rows) else None,
        "previous": address(page - 1) if page > 1 else None,
        "results": rows[begin:end],
    }


def _row(session: SimulatedSession) -> SessionEntrySchema | None:
    """The session's row in the list; None before it is started."""
    if session.started_at is None:
        return None
    ended_at = session.ended_at
    # Observed: sandbox rows have duration 0 although video was streamed.
    duration_s = 0 if session.request.is_sandbox else round(session.lasted_s)
    common = {
        "id": session.session_id,
        "created_at": session.started_at,
        "updated_at": ended_at or session.started_at,
        "duration": duration_s,
        "is_sandbox": session.request.is_sandbox,
        "credits_consumed": session.credits_consumed,
    }
    if ended_at is None:
        return SessionEntrySchema.model_validate(common)
    return EndedSessionEntry.model_validate(
        common | {"end_at": ended_at, "end_reason": session.end_reason}
    )


def _add_simulator(app: FastAPI, service: LiveAvatarService) -> None:
    @app.get("/simulator/ledger")
    async def ledger() -> BillingLedger:
        return service.ledger()

    @app.get("/simulator/faults")
    async def get_faults() -> Faults:
        return service.faults

    @app.post("/simulator/faults")
    async def set_faults(faults: Faults) -> Faults:
        service.faults = faults
        return faults

    @app.post("/simulator/sessions/{session_id}/end")
    async def end_session(session_id: UUID, body: EndRequest | None = None) -> SessionLine:
        session = service.started(str(session_id))
        await session.end(SessionEndReason((body or EndRequest()).reason))
        return session.line()

    @app.post("/simulator/sessions/{session_id}/freeze")
    async def freeze_session(session_id: UUID) -> SessionLine:
        return service.freeze(str(session_id)).line()

    @app.get("/simulator/sessions/{session_id}/heard.wav")
    async def heard(session_id: UUID) -> Response:
        recording = service.heard(str(session_id))
        headers = {"X-Heard-From": recording.began_at.isoformat()}
        return Response(recording.wav(), media_type="audio/wav", headers=headers)

    @app.post("/simulator/sockets/drop")
    async def drop_sockets() -> dict[str, int]:
        return {"dropped": service.drop_sockets()}
