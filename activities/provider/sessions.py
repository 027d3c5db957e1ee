"""Short calls that create and end LiveAvatar sessions. All are safe to repeat."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from pydantic import SecretStr
from temporalio import activity

from activities import failures
from activities.heartbeats import beating
from activities.streaming.orphans import stop_if_terminated, stop_if_unwanted
from avatar_sessions.contract import names
from avatar_sessions.contract.activities import (
    CreatedRoom,
    MintedSession,
    MintToken,
    SessionStarted,
    StartSession,
    StoppedSession,
    StopSession,
)
from avatar_sessions.contract.messages import SessionRequest
from avatar_sessions.seal import Seal
from liveavatar_lite import (
    DurationOverPlan,
    LiteError,
    LiveAvatar,
    LiveKitConfig,
    MintedToken,
    OutcomeUnknown,
    SessionEndReason,
    SessionEntry,
    StopOutcome,
    TokenRequest,
    VideoEncoding,
    VideoQuality,
    VideoSettings,
)

Result = TypeVar("Result")

MINT_TIMEOUT_S: Final = 6.0
"""A token that comes later is not waited for: another one costs nothing."""
STOP_TIMEOUT_S: Final = 8.0
"""A stop may be repeated at will, so its reply is not waited for long."""
BOOKS_TIMEOUT_S: Final = 4.0
BOOKS_PAUSES_S: Final = (0.0, 0.5, 1.0)
"""Before each look into LiveAvatar's books: a session that was just stopped may still run there."""


class ProviderActivities:
    """LiveAvatar's REST API as activities."""

    def __init__(self, liveavatar: LiveAvatar, seal: Seal) -> None:
        self._liveavatar = liveavatar
        self._seal = seal

    @activity.defn(name=names.ACTIVITY_MINT_TOKEN)
    async def mint_token(self, step: MintToken) -> MintedSession:
        """Ask for a session that exists and is not billed yet.

        One whose reply is lost stays without a start: its token is nowhere, so it never bills.
        """
        async with beating():
            try:
                async with asyncio.timeout(MINT_TIMEOUT_S):
                    minted = await self._create_token(step)
            except (LiteError, TimeoutError) as error:
                told = _in_words(error, "/v1/sessions/token", MINT_TIMEOUT_S)
                raise failures.application_error(told) from error
        return MintedSession(
            provider_session_id=minted.session_id,
            session_token=self._seal.seal(minted.session_token),
        )

    async def _create_token(self, step: MintToken) -> MintedToken:
        asked = self._token_request(step)
        try:
            return await self._liveavatar.create_token(asked)
        except DurationOverPlan as error:
            if not step.request.rotate:
                raise
            # One session cannot last that long: the next ones go on.
            shorter = asked.model_copy(update={"max_session_duration": error.maximum_s})
            return await self._liveavatar.create_token(shorter)

    def _token_request(self, step: MintToken) -> TokenRequest:
        request = step.request
        return TokenRequest(
            avatar_id=str(request.avatar_id),
            is_sandbox=request.sandbox,
            # The sandbox ends after a minute whatever is asked, and refuses to hear of more.
            max_session_duration=None if request.sandbox else request.max_duration_s,
            video_settings=_video(request),
            livekit_config=None if step.room is None else self._room(step.room),
        )

    def _room(self, room: CreatedRoom) -> LiveKitConfig:
        return LiveKitConfig(
            livekit_url=room.livekit_url,
            livekit_room=room.room,
            livekit_client_token=failures.opened(self._seal, room.avatar_token),
        )

    @activity.defn(name=names.ACTIVITY_START_SESSION)
    async def start_session(self, step: StartSession) -> SessionStarted:
        """Start billing for a minted session; wait for its turn, if the step has patience.

        Raises:
            StartOutcomeUnknown: the reply was lost; the session may be live and must be stopped
                by its id.
        """
        token = failures.opened(self._seal, step.session_token)
        give_up_s = time.monotonic() + step.patience_s
        async with beating():
            await _pause(step.after_s)
            while True:
                try:
                    return await _to_its_end(self._start(step.provider_session_id, token))
                except LiteError as error:
                    delay = failures.turn_delay(error)
                    delay_s = 0.0 if delay is None else delay.total_seconds()
                    late = time.monotonic() + delay_s > give_up_s
                    if delay is None or late or not await _pause(delay_s):
                        raise failures.application_error(error) from error

    async def _start(self, provider_session_id: str, token: SecretStr) -> SessionStarted:
        """Start once. If nobody hears of the outcome any more, the session is stopped."""
        started_at = datetime.now(UTC)
        try:
            started = await self._liveavatar.start_session(token)
        except LiteError as error:
            if not error.maybe_billed:
                raise
            await stop_if_unwanted(self._liveavatar, provider_session_id)
            raise failures.start_outcome_unknown(error) from error
        await stop_if_unwanted(self._liveavatar, provider_session_id)
        if started.ws_url is None:
            raise failures.plain_error(
                "StartOutcomeUnknown",
                "LiveAvatar started the session without a WebSocket: is it in LITE mode?",
            )
        seal = self._seal.seal
        viewer, agent = started.livekit_client_token, started.livekit_agent_token
        return SessionStarted(
            provider_session_id=started.session_id,
            started_at=started_at,
            ws_url=seal(started.ws_url),
            livekit_url=started.livekit_url,
            viewer_token=None if viewer is None else seal(viewer),
            agent_token=None if agent is None else seal(agent),
            max_duration_s=started.max_session_duration,
        )

    @activity.defn(name=names.ACTIVITY_STOP_SESSION)
    async def stop_session(self, step: StopSession) -> StoppedSession:
        """Stop a session by its id; one that is gone already is stopped, too.

        Goes on to its end also when its workflow is terminated meanwhile.
        """
        async with beating():
            return await _to_its_end(self._stop(step))

    async def _stop(self, step: StopSession) -> StoppedSession:
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                outcome = await self._liveavatar.stop_session(
                    step.provider_session_id, SessionEndReason(step.reason)
                )
        except (LiteError, TimeoutError) as error:
            told = _in_words(error, "/v1/sessions/stop", STOP_TIMEOUT_S)
            activity.logger.warning("not stopped yet: %s", told)
            # This try was the last one, if the workflow is closed: nobody would ask again.
            await stop_if_terminated(self._liveavatar, step.provider_session_id)
            raise failures.to_be_repeated(told) from error
        stopped_at = datetime.now(UTC)
        account = await self._account(step.provider_session_id)
        if outcome is StopOutcome.ALREADY_GONE and account.runs:
            raise failures.plain_error(
                "StillRunning",
                "LiveAvatar says that there is no such session, and lists it as running",
                retryable=True,
            )
        return StoppedSession(
            stop="stopped" if outcome is StopOutcome.STOPPED else "already_gone",
            stopped_at=stopped_at,
            provider_end_reason=account.end_reason,
            credits_consumed=account.credits_consumed,
            ended_at=account.ended_at,
            ran_s=account.ran_s,
        )

    async def _account(self, provider_session_id: str) -> BilledSession:
        """What LiveAvatar's books say of a session; nothing, if they cannot be read now."""
        account = BilledSession()
        try:
            async with asyncio.timeout(BOOKS_TIMEOUT_S):
                for pause_s in BOOKS_PAUSES_S:
                    await asyncio.sleep(pause_s)
                    try:
                        entry = await self._liveavatar.get_session(provider_session_id)
                    except LiteError as error:
                        activity.logger.info("session's account is not to be had: %s", error)
                        continue
                    account = BilledSession.of(entry)
                    if not account.runs:
                        break
        except TimeoutError:
            activity.logger.info("session's account is not to be had in time")
        return account


@dataclass(frozen=True)
class BilledSession:
    """A session in LiveAvatar's books. The default: they could not be read."""

    runs: bool = False
    """They say that it runs."""
    ended_at: datetime | None = None
    end_reason: str | None = None
    ran_s: float | None = None
    credits_consumed: float | None = None

    @classmethod
    def of(cls, entry: SessionEntry | None) -> BilledSession:
        """Read an entry; there is none for a session that never began."""
        if entry is None:
            return cls(ran_s=0.0)
        reason = None if entry.end_reason is None else str(entry.end_reason)
        return cls(
            runs=not entry.ended,
            ended_at=entry.end_at,
            end_reason=reason,
            ran_s=_ran_s(entry),
            credits_consumed=entry.credits_consumed,
        )


def _ran_s(entry: SessionEntry) -> float | None:
    """How long a session ran.

    From its entry's creation to its end, which is finer than the entry's whole seconds; those
    are believed where the two differ, for a session may wait between its token and its start.
    Sandbox entries were seen with a duration of 0.
    """
    if entry.end_at is None:
        return None
    ran_s = max(0.0, (entry.end_at - entry.created_at).total_seconds())
    return entry.duration if entry.duration and ran_s - entry.duration > 1.5 else ran_s


def _video(request: SessionRequest) -> VideoSettings | None:
    if request.video is None:
        return None
    return VideoSettings(
        quality=VideoQuality(request.video.quality), encoding=VideoEncoding(request.video.encoding)
    )


def _in_words(error: LiteError | TimeoutError, path: str, limit_s: float) -> LiteError:
    """The error of a call that was given less time here than the LITE library gives it."""
    if isinstance(error, LiteError):
        return error
    return OutcomeUnknown(f"POST {path} was sent, but no reply came within {limit_s:g} s")


async def _pause(delay_s: float) -> bool:
    """Wait before asking again; whether there is still somebody to ask for.

    A cancel that came during a call was held back: it counts now. A worker that shuts down asks
    no more: the workflow will, elsewhere.

    Raises:
        CancelledError: nobody wants the session any more; nothing was begun.
    """
    if activity.is_cancelled() and not activity.is_worker_shutdown():
        raise asyncio.CancelledError("nobody waits for a start any more")
    if delay_s <= 0:
        return True
    try:
        async with asyncio.timeout(delay_s):
            await activity.wait_for_worker_shutdown()
    except TimeoutError:
        return True
    return False


async def _to_its_end(call: Coroutine[Any, Any, Result]) -> Result:
    """Await a call that must not be cut: a cancel is held back until its reply is here.

    A start whose reply is thrown away leaves a session that bills and that nobody stops; so does
    a stop that is given up because its workflow was terminated.
    The call has a time limit of its own, so this ends.
    """
    task = asyncio.ensure_future(call)
    while True:
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            activity.logger.info("cancelled during a call that is not cut: waiting for its reply")
            continue
        return task.result()
