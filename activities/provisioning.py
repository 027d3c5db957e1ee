"""Short calls that create and end LiveAvatar sessions. All are safe to repeat."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

from temporalio import activity

from activities import failures
from activities.orphans import stop_if_terminated
from avatar_sessions.contract import names
from avatar_sessions.contract.messages import SessionRequest
from avatar_sessions.contract.steps import (
    CreatedRoom,
    MintedSession,
    MintToken,
    StartedSession,
    StartSession,
    StoppedSession,
    StopSession,
)
from avatar_sessions.seal import Seal
from liveavatar_lite import (
    LiteError,
    LiveAvatar,
    LiveKitConfig,
    SessionEndReason,
    StopOutcome,
    TokenRequest,
    VideoEncoding,
    VideoQuality,
    VideoSettings,
)

Result = TypeVar("Result")


class Provisioning:
    """LiveAvatar's REST API as activities."""

    def __init__(self, liveavatar: LiveAvatar, seal: Seal) -> None:
        self._liveavatar = liveavatar
        self._seal = seal

    @activity.defn(name=names.ACTIVITY_MINT_TOKEN)
    async def mint_token(self, step: MintToken) -> MintedSession:
        """Ask for a session that exists and is not billed yet."""
        try:
            minted = await self._liveavatar.create_token(self._token_request(step))
        except LiteError as error:
            raise failures.application_error(error) from error
        return MintedSession(
            provider_session_id=minted.session_id,
            session_token=self._seal.seal(minted.session_token),
        )

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
    async def start_session(self, step: StartSession) -> StartedSession:
        """Start billing for a minted session.

        Raises:
            StartOutcomeUnknown: the reply was lost; the session may be live and must be stopped
                by its id.
        """
        token = failures.opened(self._seal, step.session_token)
        started_at = datetime.now(UTC)
        try:
            started = await _to_its_end(self._liveavatar.start_session(token))
        except LiteError as error:
            if error.maybe_billed:
                raise failures.start_outcome_unknown(error) from error
            raise failures.application_error(error) from error
        await stop_if_terminated(self._liveavatar, step.provider_session_id)
        if started.ws_url is None:
            raise failures.plain_error(
                "StartOutcomeUnknown",
                "LiveAvatar started the session without a WebSocket: is it in LITE mode?",
            )
        seal = self._seal.seal
        viewer, agent = started.livekit_client_token, started.livekit_agent_token
        return StartedSession(
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
        """Stop a session by its id; one that is gone already is stopped, too."""
        try:
            outcome = await self._liveavatar.stop_session(
                step.provider_session_id, SessionEndReason(step.reason)
            )
        except LiteError as error:
            activity.logger.warning("not stopped yet: %s", error)
            raise failures.to_be_repeated(error) from error
        stopped_at = datetime.now(UTC)
        end_reason, credits_consumed = await self._account(step.provider_session_id)
        return StoppedSession(
            stop="stopped" if outcome is StopOutcome.STOPPED else "already_gone",
            stopped_at=stopped_at,
            provider_end_reason=end_reason,
            credits_consumed=credits_consumed,
        )

    async def _account(self, provider_session_id: str) -> tuple[str | None, float | None]:
        """What LiveAvatar's books say of a session; nothing, if they cannot be read now."""
        try:
            async with asyncio.timeout(3):
                entry = await self._liveavatar.get_session(provider_session_id)
        except (LiteError, TimeoutError) as error:
            activity.logger.info("session's account is not to be had: %s", error)
            return None, None
        if entry is None:
            return None, None
        reason = entry.end_reason
        return None if reason is None else str(reason), entry.credits_consumed


def _video(request: SessionRequest) -> VideoSettings | None:
    if request.video is None:
        return None
    return VideoSettings(
        quality=VideoQuality(request.video.quality), encoding=VideoEncoding(request.video.encoding)
    )


async def _to_its_end(call: Coroutine[Any, Any, Result]) -> Result:
    """Await a call that must not be cut: a cancel is held back until its reply is here.

    A start whose reply is thrown away leaves a session that bills and that nobody stops.
    The call has a time limit of its own, so this ends.
    """
    task = asyncio.ensure_future(call)
    while True:
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            activity.logger.info("cancelled while starting: waiting for the reply")
            continue
        return task.result()
