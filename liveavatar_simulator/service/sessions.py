"""The LiveAvatar service behind the REST routes: mints, starts, stops and lists sessions.

Applies the plan (credits, concurrency, durations) and the faults. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from liveavatar_lite.models import WAYNE_AVATAR_ID, SessionEndReason
from liveavatar_simulator.faults import Faults
from liveavatar_simulator.ledger import BillingLedger
from liveavatar_simulator.media.avatar import (
    HOSTED_IDENTITY,
    HostedRooms,
    LiveKitAvatar,
    RoomUnreachable,
)
from liveavatar_simulator.media.recording import AudioRecording
from liveavatar_simulator.session import SimulatedPhase, SimulatedSession
from liveavatar_simulator.settings import CATALOGUE, SimulatorSettings

from . import error_replies
from .credits import CreditAccount
from .error_replies import ReplyLost
from .rate_limits import over_limit_headers
from .schemas import TokenRequestSchema, VideoSettingsSchema
from .tokens import SessionTokens

log = logging.getLogger(__name__)

ONE_CREDIT: Final = Decimal(1)
_RUNNING: Final = frozenset({SimulatedPhase.STARTING, SimulatedPhase.LIVE})


@dataclass(frozen=True, slots=True)
class IssuedAccess:
    """The result of a start. Holds secrets, for that caller only."""

    session: SimulatedSession
    livekit_url: str
    client_token: str
    agent_token: str


class LiveAvatarService:
    """All sessions of one account."""

    def __init__(self, settings: SimulatorSettings, rooms: HostedRooms) -> None:
        self.faults = Faults()
        self.tokens = SessionTokens(settings.session_token_ttl_s)
        self.account = CreditAccount(Decimal(str(settings.credits)))
        self.sessions: OrderedDict[str, SimulatedSession] = OrderedDict()
        """By id, oldest first."""
        self._settings = settings
        self._rooms = rooms
        self._minted = 0
        self._dropped_started = 0
        self._peak_open = 0

    # --- calls ------------------------------------------------------------------------------------

    def mint(self, request: TokenRequestSchema) -> tuple[SimulatedSession, str]:
        """Mint a session: returns it, and its token.

        Raises:
            Refusal: it could never be started, or a fault is injected.
            ReplyLost: it was minted, and the reply is to be dropped.
        """
        self._limit_rate("rate_limited_tokens")
        if self.faults.take("token_failures"):
            raise error_replies.injected(self.faults.token_failure_status)
        maximum_s = self._check_avatar(request)
        asked_s = request.max_session_duration
        if asked_s is not None and asked_s > maximum_s:
            raise error_replies.duration_over_plan(asked_s, maximum_s)
        # Observed: a shorter limit does not shorten a sandbox session.
        limit_s = maximum_s if asked_s is None or request.is_sandbox else asked_s
        session = SimulatedSession(
            request,
            max_duration_s=limit_s,
            settings=self._settings,
            faults=lambda: self.faults,
            account=self.account,
        )
        self.sessions[session.session_id] = session
        self._minted += 1
        self._drop_old_sessions()
        self._drop_old_recordings()
        if self.faults.take("lost_token_replies"):
            raise ReplyLost
        return session, self.tokens.mint(session)

    async def start(self, session: SimulatedSession) -> IssuedAccess:
        """Start a session: create its room, begin billing, have the avatar join.

        Raises:
            Refusal: it may not start, or the start failed; nothing is billed.
            ReplyLost: it runs, and the reply is to be dropped.
        """
        self._limit_rate("rate_limited_starts")
        if self.faults.take("start_failures"):
            raise error_replies.injected(self.faults.start_failure_status)
        self._check_may_start(session)
        session.become(SimulatedPhase.STARTING)
        try:
            await asyncio.sleep(self._settings.start_delay_s + self.faults.slow_start_s)
            access, avatar, join = await self._prepare(session)
        except RoomUnreachable as error:
            log.warning("session %s did not start: LiveKit: %s", session.session_id, error)
            raise error_replies.start_failed() from None
        else:
            if session.phase is SimulatedPhase.STARTING:
                session.go_live(avatar, join)
                self._peak_open = max(self._peak_open, self._open)
            elif avatar is not None and join is not None:
                join.close()
                await avatar.leave()
        finally:
            if session.phase is SimulatedPhase.STARTING:
                session.become(SimulatedPhase.MINTED)
        if session.phase is SimulatedPhase.ENDED:
            raise error_replies.bad_request("Session has been stopped")
        log.info("session %s started in room %s", session.session_id, session.room)
        if self.faults.take("lost_start_replies"):
            raise ReplyLost
        return access

    async def stop(self, session: SimulatedSession, reason: SessionEndReason) -> None:
        """End a session; no effect on one that has ended.

        Raises:
            Refusal: it was never started, or a fault is injected.
            ReplyLost: it was stopped, and the reply is to be dropped.
        """
        self._limit_rate("rate_limited_stops")
        if self.faults.take("stop_failures"):
            raise error_replies.injected(self.faults.stop_failure_status)
        if session.phase is SimulatedPhase.MINTED:
            raise error_replies.session_not_found()
        await session.end(reason)
        if self.faults.take("lost_stop_replies"):
            raise ReplyLost

    def check_listing(self) -> None:
        """Apply the faults of listing.

        Raises:
            Refusal: a fault is injected.
        """
        if self.faults.take("list_failures"):
            raise error_replies.injected(self.faults.list_failure_status)

    def find(self, session_id: str) -> SimulatedSession | None:
        """The session with this id, in any phase; None if unknown."""
        return self.sessions.get(session_id)

    def started(self, session_id: str) -> SimulatedSession:
        """The session with this id, running or ended.

        Raises:
            Refusal: the session is unknown, or was never started.
        """
        session = self.find(session_id)
        if session is None:
            raise error_replies.session_not_found()
        if session.started_at is None:
            raise error_replies.not_running()
        return session

    def freeze(self, session_id: str) -> SimulatedSession:
        """Freeze a session, as at the maximum duration of a paid one. Safe to repeat.

        Raises:
            Refusal: the session is unknown, or not running.
        """
        session = self.started(session_id)
        if session.phase is SimulatedPhase.LIVE:
            session.freeze()
        elif session.phase is not SimulatedPhase.FROZEN:
            raise error_replies.not_running()
        return session

    def heard(self, session_id: str) -> AudioRecording:
        """The recording of what a session has played.

        Raises:
            Refusal: the session is unknown or was never started, or there is no recording.
        """
        recording = self.started(session_id).heard()
        if recording is None:
            raise error_replies.not_recorded()
        return recording

    def drop_sockets(self) -> int:
        """Cut the socket of every session; returns how many there were."""
        return sum(session.drop_socket() for session in self.sessions.values())

    def credits_left(self) -> Decimal:
        """The balance after the charges of running sessions."""
        return self.account.balance

    def ledger(self) -> BillingLedger:
        """Totals and sessions."""
        sessions = list(self.sessions.values())
        started = [each for each in sessions if each.started_at is not None]
        open_ = self._open
        total = len(started) + self._dropped_started
        return BillingLedger(
            minted=self._minted,
            started=total,
            stopped=total - open_,
            open=open_,
            peak_open=self._peak_open,
            sessions=[each.line() for each in sessions],
        )

    async def close(self) -> None:
        """End all running sessions. Bounded by the bound of a session's end."""
        running = [each for each in self.sessions.values() if each.started_at is not None]
        await asyncio.gather(*(each.end(SessionEndReason.SERVER_ERROR) for each in running))

    # --- inside -----------------------------------------------------------------------------------

    @property
    def _open(self) -> int:
        return sum(each.billing for each in self.sessions.values())

    def _limit_rate(self, fault: str) -> None:
        if self.faults.take(fault):
            limit = self._settings.calls_per_s or 1
            raise error_replies.rate_limited(over_limit_headers(limit, self.faults.retry_after_s))

    def _check_avatar(self, request: TokenRequestSchema) -> int:
        if request.is_sandbox:
            if request.avatar_id != UUID(WAYNE_AVATAR_ID):
                raise error_replies.bad_request("Avatar is not supported in sandbox mode")
            return self._settings.sandbox_max_duration_s
        if request.avatar_id not in CATALOGUE and not self._settings.any_avatar:
            raise error_replies.bad_request("Avatar not found or not available to this API key")
        return self._settings.plan_max_duration_s

    def _check_may_start(self, session: SimulatedSession) -> None:
        if session.phase is not SimulatedPhase.MINTED:
            raise error_replies.bad_request("Session has already been started")
        running = sum(each.phase in _RUNNING for each in self.sessions.values())
        if running >= self._settings.concurrency_limit:
            raise error_replies.concurrency_limit()
        if not session.request.is_sandbox and self.account.balance < ONE_CREDIT:
            raise error_replies.no_credits()

    async def _prepare(
        self, session: SimulatedSession
    ) -> tuple[IssuedAccess, LiveKitAvatar | None, Coroutine[Any, Any, None] | None]:
        """Prepare the room: returns access, the avatar, and the coroutine that joins it.

        Raises:
            RoomUnreachable: the room could not be created.
        """
        own = session.request.livekit_config
        if own is not None:
            session.room, session.room_kind, url = own.livekit_room, "own", own.livekit_url
        else:
            session.room, session.room_kind = session.session_id, "hosted"
            url = self._settings.livekit_url
        room = session.room
        # Also for a room of the caller's own, because clients insist on both tokens. Never the
        # avatar's token: a client that joined with it would disconnect the avatar. The tokens are
        # valid if the caller's LiveKit is the simulator's.
        access = IssuedAccess(
            session=session,
            livekit_url=url,
            client_token=self._rooms.token(room, "client"),
            agent_token=self._rooms.token(room, "agent", agent=True),
        )
        if not self._settings.join_rooms or session.request.agora_config is not None:
            return access, None, None
        avatar = LiveKitAvatar(
            self._settings, session.request.video_settings or VideoSettingsSchema()
        )
        if own is not None:
            return access, avatar, avatar.join(url, own.livekit_client_token.get_secret_value())
        await self._rooms.create(room)
        avatar.delete_on_leave(self._rooms, room)
        return access, avatar, avatar.join(url, self._rooms.token(room, HOSTED_IDENTITY))

    def _drop_old_recordings(self) -> None:
        """Drop recordings of ended sessions beyond `heard_total_mb`, oldest first."""
        left_bytes = self._settings.heard_total_mb * 1_000_000
        for session in reversed(self.sessions.values()):
            if session.recorder is not None and session.phase is SimulatedPhase.ENDED:
                left_bytes -= session.recorder.sound_bytes
                if left_bytes < 0:
                    session.recorder = None

    def _drop_old_sessions(self) -> None:
        excess = len(self.sessions) - self._settings.sessions_kept
        if excess <= 0:
            return
        idle = (SimulatedPhase.MINTED, SimulatedPhase.ENDED)
        old = [each for each in self.sessions.values() if each.phase in idle][:excess]
        for session in old:
            del self.sessions[session.session_id]
            self._dropped_started += session.started_at is not None
