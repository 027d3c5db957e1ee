"""Calls to LiveAvatar that mint, start and stop sessions. All are safe to repeat."""

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
from activities.heartbeats import heartbeating
from activities.streaming.workflow_gone import stop_if_terminated, stop_if_unwanted
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
"""A slower token is abandoned: minting another one costs nothing."""
STOP_TIMEOUT_S: Final = 8.0
"""Short, because a stop may be repeated freely."""
BILLING_TIMEOUT_S: Final = 4.0
BILLING_PAUSES_S: Final = (0.0, 0.5, 1.0)
"""Pause before each read of the billing entry: it may lag behind a session's stop."""


class ProviderActivities:
    """LiveAvatar's REST API as activities."""

    def __init__(self, liveavatar: LiveAvatar, seal: Seal) -> None:
        self._liveavatar = liveavatar
        self._seal = seal

    @activity.defn(name=names.ACTIVITY_MINT_TOKEN)
    async def mint_token(self, step: MintToken) -> MintedSession:
        """Mint a session that exists and is not billed yet.

        If the reply is lost, the session never bills: no one has the token to start it.
        """
        async with heartbeating():
            try:
                async with asyncio.timeout(MINT_TIMEOUT_S):
                    minted = await self._create_token(step)
            except (LiteError, TimeoutError) as error:
                failure = _lite_error(error, "/v1/sessions/token", MINT_TIMEOUT_S)
                raise failures.application_error(failure) from error
        return MintedSession(
            provider_session_id=minted.session_id,
            session_token=self._seal.seal(minted.session_token),
        )

    async def _create_token(self, step: MintToken) -> MintedToken:
        token_request = self._token_request(step)
        try:
            return await self._liveavatar.create_token(token_request)
        except DurationOverPlan as error:
            if not step.request.rotate:
                raise
            # The plan allows no session that long: the session rotates to the next generation.
            shorter = token_request.model_copy(update={"max_session_duration": error.maximum_s})
            return await self._liveavatar.create_token(shorter)

    def _token_request(self, step: MintToken) -> TokenRequest:
        request = step.request
        return TokenRequest(
            avatar_id=str(request.avatar_id),
            is_sandbox=request.sandbox,
            # The sandbox ends every session after a minute, and refuses a longer duration.
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
        """Start billing for a minted session; at a limit, ask again for ``patience_s``.

        Raises:
            StartOutcomeUnknown: the reply was lost; the session may be live and must be stopped
                by its id.
        """
        token = failures.opened(self._seal, step.session_token)
        deadline = time.monotonic() + step.patience_s
        async with heartbeating():
            await _pause(step.after_s)
            while True:
                try:
                    return await _uninterrupted(self._start(step.provider_session_id, token))
                except LiteError as error:
                    delay = failures.limit_delay(error)
                    delay_s = 0.0 if delay is None else delay.total_seconds()
                    late = time.monotonic() + delay_s > deadline
                    if delay is None or late or not await _pause(delay_s):
                        raise failures.application_error(error) from error

    async def _start(self, provider_session_id: str, token: SecretStr) -> SessionStarted:
        """Start once; stop the session if the workflow no longer waits for the outcome."""
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
        """Stop a session by its id; a session that is gone already counts as stopped.

        The call completes even if its workflow is terminated meanwhile.
        """
        async with heartbeating():
            return await _uninterrupted(self._stop(step))

    async def _stop(self, step: StopSession) -> StoppedSession:
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                outcome = await self._liveavatar.stop_session(
                    step.provider_session_id, SessionEndReason(step.reason)
                )
        except (LiteError, TimeoutError) as error:
            failure = _lite_error(error, "/v1/sessions/stop", STOP_TIMEOUT_S)
            activity.logger.warning("session not stopped yet: %s", failure)
            # If the workflow is closed, no retry follows this attempt.
            await stop_if_terminated(self._liveavatar, step.provider_session_id)
            raise failures.cleanup_error(failure) from error
        stopped_at = datetime.now(UTC)
        billed = await self._billed_session(step.provider_session_id)
        if outcome is StopOutcome.ALREADY_GONE and billed.running:
            raise failures.plain_error(
                "StillRunning",
                "LiveAvatar reports that the session does not exist, but lists it as running",
                retryable=True,
            )
        return StoppedSession(
            stop="stopped" if outcome is StopOutcome.STOPPED else "already_gone",
            stopped_at=stopped_at,
            provider_end_reason=billed.end_reason,
            credits_consumed=billed.credits_consumed,
            ended_at=billed.ended_at,
            ran_s=billed.ran_s,
        )

    async def _billed_session(self, provider_session_id: str) -> BilledSession:
        """LiveAvatar's billing entry of a session; the default if it cannot be read now."""
        billed = BilledSession()
        try:
            async with asyncio.timeout(BILLING_TIMEOUT_S):
                for pause_s in BILLING_PAUSES_S:
                    await asyncio.sleep(pause_s)
                    try:
                        entry = await self._liveavatar.get_session(provider_session_id)
                    except LiteError as error:
                        activity.logger.info("billing entry not available: %s", error)
                        continue
                    billed = BilledSession.of(entry)
                    if not billed.running:
                        break
        except TimeoutError:
            activity.logger.info("billing entry not available in time")
        return billed


@dataclass(frozen=True)
class BilledSession:
    """What LiveAvatar has billed for a session. The default: not known."""

    running: bool = False
    """LiveAvatar still lists the session as running."""
    ended_at: datetime | None = None
    end_reason: str | None = None
    ran_s: float | None = None
    credits_consumed: float | None = None

    @classmethod
    def of(cls, entry: SessionEntry | None) -> BilledSession:
        """Read an entry; a session that never started has none."""
        if entry is None:
            return cls(ran_s=0.0)
        reason = None if entry.end_reason is None else str(entry.end_reason)
        return cls(
            running=not entry.ended,
            ended_at=entry.end_at,
            end_reason=reason,
            ran_s=_ran_s(entry),
            credits_consumed=entry.credits_consumed,
        )


def _ran_s(entry: SessionEntry) -> float | None:
    """How long a session ran, in seconds.

    The span from the entry's creation to its end is finer than the entry's whole seconds. Where the
    two differ, the entry's duration counts: a session may wait between its token and its start.
    Sandbox entries with a duration of 0 have been seen.
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


def _lite_error(error: LiteError | TimeoutError, path: str, limit_s: float) -> LiteError:
    """The LITE error of a call whose timeout here is shorter than the LITE library's own."""
    if isinstance(error, LiteError):
        return error
    return OutcomeUnknown(f"POST {path} was sent, but no reply came within {limit_s:g} s")


async def _pause(delay_s: float) -> bool:
    """Wait before the next attempt. False: this worker shuts down, so the workflow must retry.

    A cancellation that arrived during a call was deferred; it takes effect here.

    Raises:
        CancelledError: the workflow no longer wants the session; nothing was started.
    """
    if activity.is_cancelled() and not activity.is_worker_shutdown():
        raise asyncio.CancelledError("the workflow no longer waits for the start")
    if delay_s <= 0:
        return True
    try:
        async with asyncio.timeout(delay_s):
            await activity.wait_for_worker_shutdown()
    except TimeoutError:
        return True
    return False


async def _uninterrupted(call: Coroutine[Any, Any, Result]) -> Result:
    """Await a call to its reply; a cancellation is deferred until then.

    A start whose reply is discarded leaves a session that bills and is never stopped. So does a
    stop that is abandoned because its workflow was terminated. The call has its own time limit,
    which bounds the wait.
    """
    task = asyncio.ensure_future(call)
    while True:
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            activity.logger.info("cancelled during a call: waiting for its reply")
            continue
        return task.result()
