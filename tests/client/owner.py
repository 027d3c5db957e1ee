"""An owner of sessions that holds no socket: every activity the session workflow calls, by name.

For the client's tests. LiveAvatar and LiveKit are outside; workflow, Temporal and messages are
real. What LiveAvatar would refuse is asked for by the tenant, so that a request carries it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import UTC, datetime
from typing import Final

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from avatar_sessions.contract import names
from avatar_sessions.contract.messages import Failure, UtteranceReport
from avatar_sessions.contract.states import CommandOutcome, UtteranceOutcome
from avatar_sessions.contract.steps import (
    CleanedRoom,
    CleanRoom,
    CreatedRoom,
    CreateRoom,
    DeliverCommand,
    Delivered,
    GrantAccess,
    GrantedAccess,
    MintedSession,
    MintToken,
    OwnerReady,
    SpeakClip,
    StartedSession,
    StartSession,
    StoppedSession,
    StopSession,
    StreamAudio,
    StreamEnd,
    StreamResult,
)
from avatar_sessions.seal import Seal

OWNER_QUEUE: Final = names.owner_task_queue("client-tests")
LIVEKIT_URL: Final = "ws://127.0.0.1:7880"
VIEWER_TOKEN: Final = "viewer-token-not-a-real-one"
AGENT_TOKEN: Final = "agent-token-not-a-real-one"
LONG_CLIP: Final = "long.wav"
NEVER_LIVE: Final = "never-live"
"""Tenant whose sessions nobody connects."""
NO_ACCESS: Final = "no-access"
"""Tenant to whom access to a room of our own cannot be granted."""


class Owner:
    """Pretends to speak: a clip is over at once, the long one at an interrupt or the end."""

    def __init__(self, client: Client, seal: Seal) -> None:
        self._client = client
        self._seal = seal
        self._silenced: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._released: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._unconnected: set[str] = set()
        self.said: list[str] = []
        """Clips in the order in which they were begun, as ``key clip``."""

    @activity.defn(name=names.ACTIVITY_CREATE_ROOM)
    async def create_room(self, step: CreateRoom) -> CreatedRoom:
        return CreatedRoom(
            room=step.room, livekit_url=LIVEKIT_URL, avatar_token=self._seal.seal("avatar-token")
        )

    @activity.defn(name=names.ACTIVITY_MINT_TOKEN)
    async def mint_token(self, step: MintToken) -> MintedSession:
        """Refuse, with the tenant's name as the failure's type, what the test wants refused."""
        tenant = step.request.tenant or ""
        if tenant.startswith("refuse:"):
            failure = Failure(type=tenant.removeprefix("refuse:"), message="no, said LiveAvatar")
            raise ApplicationError(
                failure.message,
                failure.model_dump(mode="json"),
                type=failure.type,
                non_retryable=True,
            )
        session_id = activity.info().workflow_run_id or ""
        if tenant == NEVER_LIVE:
            self._unconnected.add(session_id)
        return MintedSession(
            provider_session_id=session_id, session_token=self._seal.seal("session-token")
        )

    @activity.defn(name=names.ACTIVITY_START_SESSION)
    async def start_session(self, step: StartSession) -> StartedSession:
        return StartedSession(
            provider_session_id=step.provider_session_id,
            started_at=datetime.now(UTC),
            ws_url=self._seal.seal("wss://media.invalid/"),
            livekit_url=LIVEKIT_URL,
            viewer_token=self._seal.seal(VIEWER_TOKEN),
            agent_token=self._seal.seal(AGENT_TOKEN),
            max_duration_s=3600,
        )

    @activity.defn(name=names.ACTIVITY_STREAM_AUDIO)
    async def stream_audio(self, step: StreamAudio) -> StreamResult:
        activity.heartbeat()
        if step.provider_session_id not in self._unconnected:
            ready = OwnerReady(
                queue=OWNER_QUEUE, epoch=(step.stream, 1), provider_session_id=step.session_key
            )
            handle = self._client.get_workflow_handle(names.workflow_id(step.session_key))
            await handle.signal(names.SIGNAL_OWNER_READY, ready.model_dump(mode="json"))
        await self._released[step.provider_session_id].wait()
        return StreamResult(end=StreamEnd.RELEASED)

    @activity.defn(name=names.ACTIVITY_DELIVER_COMMAND)
    async def deliver_command(self, step: DeliverCommand) -> Delivered:
        if step.kind in ("interrupt", "stop_feeding"):
            self._silenced[step.session_key].set()
        return Delivered(outcome=CommandOutcome.SENT)

    @activity.defn(name=names.ACTIVITY_SPEAK)
    async def speak(self, step: SpeakClip) -> UtteranceReport:
        clip = step.clip.file or step.clip.url or ""
        self.said.append(f"{step.session_key} {clip}")
        silenced = self._silenced[step.session_key]
        silenced.clear()
        if clip == LONG_CLIP:
            await silenced.wait()
        outcome = UtteranceOutcome.INTERRUPTED if clip == LONG_CLIP else UtteranceOutcome.SPOKEN
        return UtteranceReport(
            id=step.utterance_id, outcome=outcome, duration_ms=1000, sent_ms=900, heard_ms=800
        )

    @activity.defn(name=names.ACTIVITY_GRANT_ACCESS)
    async def grant_access(self, step: GrantAccess) -> GrantedAccess:
        if NO_ACCESS in step.room:
            raise ApplicationError("LiveKit is away", type="ServiceUnreachable", non_retryable=True)
        return GrantedAccess(
            livekit_url=LIVEKIT_URL,
            viewer_token=self._seal.seal(f"token-of-{step.viewer_identity}"),
            agent_token=self._seal.seal(AGENT_TOKEN),
        )

    @activity.defn(name=names.ACTIVITY_STOP_SESSION)
    async def stop_session(self, step: StopSession) -> StoppedSession:
        self._released[step.provider_session_id].set()
        return StoppedSession(stop="stopped", stopped_at=datetime.now(UTC))

    @activity.defn(name=names.ACTIVITY_CLEAN_ROOM)
    async def clean_room(self, step: CleanRoom) -> CleanedRoom:
        return CleanedRoom(result="gone" if step.delete else "left")
