"""What the workflow grants to viewers, agents and speakers: tokens, addresses, tickets.

Room tokens come from LiveAvatar (hosted rooms) or from the deployment's LiveKit server; a speaker's
ticket comes from the owner. All secrets are sealed. When to grant is decided by the workflow.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, Protocol

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from avatar_sessions.contract import names
    from avatar_sessions.contract.activities import (
        GrantAccess,
        GrantedAccess,
        GrantedSpeaker,
        GrantSpeaker,
        OwnerReady,
        SessionStarted,
    )
    from avatar_sessions.contract.messages import Attach, OwnRoom
    from avatar_sessions.contract.reports import RoomAccess, SealedAccess, SpeakerAccess

from workflows.parts import options
from workflows.parts.execute_activity import execute
from workflows.parts.session_state import SessionRecord

AGENT_IDENTITY: Final = "agent"
GENERATION_MARK: Final = "-generation-"
"""Between the avatar's identity and a number, from a session's second generation on."""
MIN_TOKEN_TIME: Final = timedelta(seconds=60)


class RoomSource(Protocol):
    """What access needs to know of the room."""

    @property
    def room_name(self) -> str | None:
        """The room on the deployment's LiveKit server; None for a room that LiveAvatar hosts."""

    @property
    def started(self) -> SessionStarted:
        """LiveAvatar's answer to the start of the generation that speaks."""


class AccessGrants:
    """Grants access to a live session."""

    def __init__(self, record: SessionRecord, rooms: RoomSource) -> None:
        self._record = record
        self._rooms = rooms

    async def grant(self, request: Attach) -> SealedAccess:
        """Grant access to the room for a viewer and an agent, and to the owner for a speaker.

        Raises:
            ActivityError: LiveKit tokens could not be minted, or the owner gave no ticket.
            ApplicationError: LiveAvatar gave no token for the room it hosts.
        """
        access = await self._room_access(request)
        if not request.speaker:
            return access
        return access.model_copy(update={"speaker": await self._speaker_access()})

    async def _room_access(self, request: Attach) -> SealedAccess:
        started, room = self._rooms.started, self._rooms.room_name
        if room is None:
            return hosted_access(self._record, started)
        viewer = request.viewer_identity or f"viewer-{workflow.uuid4().hex[:8]}"
        granted: GrantedAccess = await execute(
            names.ACTIVITY_GRANT_ACCESS,
            GrantAccess(
                session_key=self._record.session_key,
                room=room,
                viewer_identity=viewer,
                agent_identity=AGENT_IDENTITY,
                valid_s=token_time(self._record.ends_at, workflow.now()).total_seconds(),
            ),
            GrantedAccess,
            options.SHORT_CALL,
            summary="grant room access",
        )
        url = granted.livekit_url
        return SealedAccess(
            session_key=self._record.session_key,
            state=self._record.state,
            room=room,
            viewer=RoomAccess(livekit_url=url, sealed_token=granted.viewer_token, identity=viewer),
            agent=RoomAccess(
                livekit_url=url, sealed_token=granted.agent_token, identity=AGENT_IDENTITY
            ),
        )

    async def _speaker_access(self) -> SpeakerAccess | None:
        owner = self._record.owner
        assert owner is not None
        if not owner.speakers:
            return None
        granted = owner.speaker
        if granted is None or granted.expires_at - workflow.now() < options.FRESH_TICKET:
            granted = await self._grant_speaker(owner)
        return SpeakerAccess(
            ingress_url=granted.ingress_url,
            sealed_ticket=granted.ticket,
            epoch=owner.epoch,
            expires_at=granted.expires_at,
        )

    async def _grant_speaker(self, owner: OwnerReady) -> GrantedSpeaker:
        return await execute(
            names.ACTIVITY_GRANT_SPEAKER,
            GrantSpeaker(session_key=self._record.session_key, epoch=owner.epoch),
            GrantedSpeaker,
            options.PROBE,
            summary="grant speaker ticket",
            task_queue=owner.queue,
        )


def hosted_access(record: SessionRecord, started: SessionStarted) -> SealedAccess:
    """Access to the room that LiveAvatar hosts, with the tokens of its start.

    Raises:
        ApplicationError: LiveAvatar gave no token.
    """
    url = started.livekit_url
    if url is None or started.viewer_token is None:
        raise ApplicationError("LiveAvatar gave no access to its room", type="NoRoomAccess")
    agent = (
        RoomAccess(livekit_url=url, sealed_token=started.agent_token)
        if started.agent_token
        else None
    )
    return SealedAccess(
        session_key=record.session_key,
        state=record.state,
        viewer=RoomAccess(livekit_url=url, sealed_token=started.viewer_token),
        agent=agent,
    )


def token_time(ends_at: datetime | None, now: datetime) -> timedelta:
    """How long a token must be valid: until the session's end, and at least a minute."""
    return MIN_TOKEN_TIME if ends_at is None else max(MIN_TOKEN_TIME, ends_at - now)


def avatar_identity(room: OwnRoom, generation: int) -> str:
    """The avatar's identity in the session's room, for its n-th generation there.

    LiveKit disconnects a participant whose identity joins again, so each generation has its own.
    """
    return room.avatar_identity + (f"{GENERATION_MARK}{generation}" if generation > 1 else "")


def is_reserved(identity: str | None, room: OwnRoom | None) -> bool:
    """Whether a viewer must not join under this identity: the avatar or the agent has it."""
    if room is None or identity is None:
        return False
    avatar, _, number = identity.partition(GENERATION_MARK)
    return identity == AGENT_IDENTITY or (
        avatar == room.avatar_identity and (not number or number.isdigit())
    )
