"""The FastAPI application: routes, and the objects with its lifespan."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, TypedDict

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, StringConstraints
from starlette.middleware.trustedhost import TrustedHostMiddleware

from avatar_sessions import (
    AvatarSessions,
    EndReason,
    Session,
    SessionState,
    UtteranceOutcome,
)
from examples.backend import page
from examples.backend.caller import Caller, RequestGate, caller_of, hosts_of
from examples.backend.problems import answer_errors
from examples.backend.settings import BackendSettings, voice_of
from examples.backend.speech import SpeechPool
from examples.tts import StreamingTts

MAX_TEXT_CHARS: Final = 1000
END_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Backend:
    """The objects that the routes use; created once, by the lifespan."""

    sessions: AvatarSessions
    speech: SpeechPool
    settings: BackendSettings

    def session_of(self, caller: Caller) -> Session:
        """The caller's session; using it raises if there is none."""
        return self.sessions.get(caller.session_key)


class BackendState(TypedDict):
    """The content of ``request.state``."""

    backend: Backend


def create_app(
    settings: BackendSettings,
    *,
    host: str = "127.0.0.1",
    connect: Callable[[], Awaitable[AvatarSessions]] = AvatarSessions.connect,
    tts: StreamingTts | None = None,
) -> FastAPI:
    """The application.

    Args:
        settings: read once, at the edge.
        host: its host name, besides loopback's.
        connect: creates the client of avatar sessions.
        tts: None: the voice of the settings.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[BackendState]:
        async with contextlib.AsyncExitStack() as stack:
            voice = tts
            if voice is None:
                voice = await stack.enter_async_context(voice_of(settings))
            sessions = await connect()
            speech = SpeechPool(voice, max_sessions=settings.backend_max_lines)
            await stack.enter_async_context(speech)
            yield {"backend": Backend(sessions, speech, settings)}

    app = FastAPI(title="Avatar sessions: a backend", lifespan=lifespan, docs_url=None)
    answer_errors(app)
    app.include_router(routes)
    app.include_router(page.routes)
    app.add_middleware(RequestGate)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts_of(host)))
    return app


def _backend(request: Request) -> Backend:
    backend: Backend = request.state.backend
    return backend


def _no_store(response: Response) -> None:
    response.headers["cache-control"] = "no-store"


ThisBackend = Annotated[Backend, Depends(_backend)]
ThisCaller = Annotated[Caller, Depends(caller_of)]
routes = APIRouter(prefix="/api/session", dependencies=[Depends(_no_store)])


class SayRequest(BaseModel):
    """A text for the avatar to speak."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_TEXT_CHARS)
    ]


class Started(BaseModel):
    """The session was requested; it may not be live yet."""

    session_key: str


class PageAccess(BaseModel):
    """The page's access to the room. The token is a credential."""

    livekit_url: str
    token: str
    generation: int
    """The generation of the room: LiveAvatar's next session has another room."""


class SayResult(BaseModel):
    """The outcome of a text."""

    outcome: UtteranceOutcome
    heard_ms: int
    broke_off: bool
    """The voice failed during the text: the rest was not synthesized."""


class InterruptResult(BaseModel):
    """The utterance that was interrupted, as far as this process knows."""

    utterance_id: str | None = None
    heard_ms: int | None = None


class SessionStanding(BaseModel):
    """The state of a session."""

    state: SessionState
    generation: int
    speaking: bool
    live_at: datetime | None
    ends_at: datetime | None
    end_reason: EndReason | None


class Ended(BaseModel):
    """The result of an ended session."""

    end_reason: EndReason
    utterances: int
    heard_ms: int
    billed_s: float


@routes.post("", status_code=202)
async def start(backend: ThisBackend, caller: ThisCaller) -> Started:
    """Start the caller's session, or return the running one. Does not wait until it is live."""
    request = backend.settings.session_request(caller.tenant)
    session = await backend.sessions.start(caller.session_key, request)
    return Started(session_key=session.key)


@routes.post("/access")
async def access(backend: ThisBackend, caller: ThisCaller) -> PageAccess:
    """Wait until the avatar is live, and return access to its room.

    The token is only in this response: it is not stored, and not in an address. A reloaded page
    requests another one.
    """
    session = backend.session_of(caller)
    before = (await session.status()).generation
    while True:
        granted = await session.attach()
        after = (await session.status()).generation
        if after == before:
            break
        before = after  # the session moved meanwhile: the room may be either generation's
    return PageAccess(
        livekit_url=granted.viewer.livekit_url, token=granted.viewer.token, generation=after
    )


@routes.post("/say")
async def say(request: SayRequest, backend: ThisBackend, caller: ThisCaller) -> SayResult:
    """Speak a text, after earlier ones; responds when playback is over."""
    speech = await backend.speech.of(backend.session_of(caller))
    spoken = await speech.say(request.text)
    return SayResult(outcome=spoken.outcome, heard_ms=spoken.heard_ms, broke_off=spoken.broke_off)


@routes.post("/interrupt")
async def interrupt(backend: ThisBackend, caller: ThisCaller) -> InterruptResult:
    """Interrupt the speech of all requests; responds when the interrupt was sent."""
    speech = backend.speech.open_of(caller.session_key)
    if speech is None:  # another process may be speaking
        await backend.session_of(caller).interrupt()
        return InterruptResult()
    interrupted = await speech.interrupt()
    return InterruptResult(utterance_id=interrupted.utterance_id, heard_ms=interrupted.heard_ms)


@routes.get("")
async def status(backend: ThisBackend, caller: ThisCaller) -> SessionStanding:
    """The state of the caller's session, or the end of the last one."""
    now = await backend.session_of(caller).status()
    return SessionStanding(
        state=now.state,
        generation=now.generation,
        speaking=now.speaking is not None,
        live_at=now.live_at,
        ends_at=now.ends_at,
        end_reason=now.end_reason,
    )


@routes.delete("")
async def end(backend: ThisBackend, caller: ThisCaller) -> Ended:
    """End the caller's session, and wait for its cleanup. Safe to repeat."""
    report = await backend.session_of(caller).end(timeout_s=END_TIMEOUT_S)
    await backend.speech.close(caller.session_key)
    return Ended(
        end_reason=report.end_reason,
        utterances=report.totals.count,
        heard_ms=report.totals.heard_ms,
        billed_s=sum(each.billed_s for each in report.generations),
    )
