"""The FastAPI application: its routes, and what lives as long as it does."""

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
from examples.backend.lines import Lines
from examples.backend.problems import answer_errors
from examples.backend.settings import BackendSettings, voice_of
from examples.tts import StreamingTts

MAX_TEXT_CHARS: Final = 1000
END_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Backend:
    """What the routes work with; made once, by the lifespan."""

    sessions: AvatarSessions
    lines: Lines
    settings: BackendSettings

    def session_of(self, caller: Caller) -> Session:
        """The caller's session. Whether there is one shows when it is used."""
        return self.sessions.get(caller.session_key)


class BackendState(TypedDict):
    """What each request finds in ``request.state``."""

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
        host: the name by which it is reached, besides loopback's.
        connect: makes the one client of avatar sessions.
        tts: None: the voice that the settings choose.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[BackendState]:
        async with contextlib.AsyncExitStack() as stack:
            voice = tts
            if voice is None:
                voice = await stack.enter_async_context(voice_of(settings))
            sessions = await connect()
            lines = Lines(voice, max_lines=settings.backend_max_lines)
            await stack.enter_async_context(lines)
            yield {"backend": Backend(sessions, lines, settings)}

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


def _not_kept(response: Response) -> None:
    response.headers["cache-control"] = "no-store"


Ours = Annotated[Backend, Depends(_backend)]
Theirs = Annotated[Caller, Depends(caller_of)]
routes = APIRouter(prefix="/api/session", dependencies=[Depends(_not_kept)])


class Words(BaseModel):
    """What the avatar is to say."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[
        str, StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_TEXT_CHARS)
    ]


class Started(BaseModel):
    """A session was asked for; it may not be live yet."""

    session_key: str


class PageAccess(BaseModel):
    """What the page joins the room with. Whoever has the token is in the room."""

    livekit_url: str
    token: str
    generation: int
    """Whose room it is: LiveAvatar's next session has another one (docs/guide/viewer.md)."""


class SaidWords(BaseModel):
    """What became of some words."""

    outcome: UtteranceOutcome
    heard_ms: int
    broke_off: bool
    """The voice failed in the middle: the rest of the words was never made."""


class Cut(BaseModel):
    """What an interrupt cut, as far as this process knows."""

    utterance_id: str | None = None
    heard_ms: int | None = None


class SessionStanding(BaseModel):
    """How a session stands."""

    state: SessionState
    generation: int
    speaking: bool
    live_at: datetime | None
    ends_at: datetime | None
    end_reason: EndReason | None


class Ended(BaseModel):
    """How a session went."""

    end_reason: EndReason
    utterances: int
    heard_ms: int
    billed_s: float


@routes.post("", status_code=202)
async def start(backend: Ours, caller: Theirs) -> Started:
    """Start the caller's session, or find the one that runs. Waits for nothing."""
    request = backend.settings.session_request(caller.tenant)
    session = await backend.sessions.start(caller.session_key, request)
    return Started(session_key=session.key)


@routes.post("/access")
async def access(backend: Ours, caller: Theirs) -> PageAccess:
    """Wait until the avatar is live, and give the page access to its room.

    A token is handed out once, in this answer: it is kept nowhere here and stands in no address.
    A page that is loaded again asks again, and gets another.
    """
    session = backend.session_of(caller)
    before = (await session.status()).generation
    while True:
        granted = await session.attach()
        after = (await session.status()).generation
        if after == before:
            break
        before = after  # it has just moved on: whose room that was is not certain
    return PageAccess(
        livekit_url=granted.viewer.livekit_url, token=granted.viewer.token, generation=after
    )


@routes.post("/say")
async def say(words: Words, backend: Ours, caller: Theirs) -> SaidWords:
    """Say some words, after those asked for before; answers when that is over."""
    line = await backend.lines.to(backend.session_of(caller))
    said = await line.say(words.text)
    return SaidWords(outcome=said.outcome, heard_ms=said.heard_ms, broke_off=said.broke_off)


@routes.post("/interrupt")
async def interrupt(backend: Ours, caller: Theirs) -> Cut:
    """Fall silent, whatever other requests have under way; answers when it is on the wire."""
    line = backend.lines.open_to(caller.session_key)
    if line is None:  # another process may be speaking
        await backend.session_of(caller).interrupt()
        return Cut()
    cut = await line.interrupt()
    return Cut(utterance_id=cut.utterance_id, heard_ms=cut.heard_ms)


@routes.get("")
async def status(backend: Ours, caller: Theirs) -> SessionStanding:
    """How the caller's session stands; the last one's end, where it is over."""
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
async def end(backend: Ours, caller: Theirs) -> Ended:
    """End the caller's session, and wait for its cleanup. Repeated, it answers the same."""
    report = await backend.session_of(caller).end(timeout_s=END_TIMEOUT_S)
    await backend.lines.close(caller.session_key)
    return Ended(
        end_reason=report.end_reason,
        utterances=report.totals.count,
        heard_ms=report.totals.heard_ms,
        billed_s=sum(one.billed_s for one in report.generations),
    )
