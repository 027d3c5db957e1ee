"""What viewers, agents and speakers are granted: the parts that need no activity."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError

from avatar_sessions.contract.activities import GrantedSpeaker, OwnerReady, SessionStarted
from avatar_sessions.contract.messages import Attach, OwnRoom
from tests.support.workflow_stub import WorkflowStub
from workflows.parts.access import (
    AGENT_IDENTITY,
    AccessGrants,
    avatar_identity,
    hosted_access,
    is_reserved,
    token_time,
)
from workflows.parts.session_state import SessionRecord

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
VIEWER, AGENT, TICKET = "gAAAA-viewer", "gAAAA-agent", "gAAAA-ticket"
ROOM = OwnRoom(avatar_identity="wayne")


def started(**fields: Any) -> SessionStarted:
    return SessionStarted(
        **{
            "provider_session_id": "session-1",
            "started_at": NOW,
            "ws_url": "gAAAA-address",
            "livekit_url": "wss://livekit.example",
            "viewer_token": VIEWER,
            "agent_token": AGENT,
        }
        | fields
    )


class HostedRoom:
    """A room that LiveAvatar hosts."""

    room_name = None
    started = started()


def record(owner: OwnerReady | None = None) -> SessionRecord:
    return SessionRecord("key", None, requested_at=NOW, owner=owner)


def owner(*, speakers: bool, ticket_valid_s: float = 600) -> OwnerReady:
    ticket = GrantedSpeaker(
        ingress_url="wss://owner.example",
        ticket=TICKET,
        expires_at=NOW + timedelta(seconds=ticket_valid_s),
    )
    return OwnerReady(
        queue="avatar-owner:0123456789ab",
        epoch=(1, 1),
        provider_session_id="session-1",
        speakers=speakers,
        speaker=ticket if speakers else None,
    )


# --------------------------------------------------------------------- hosted rooms


def test_a_hosted_room_is_entered_with_liveavatar_s_tokens() -> None:
    access = hosted_access(record(), started())
    assert access.room is None
    assert access.viewer.sealed_token == VIEWER
    assert access.agent is not None
    assert access.agent.sealed_token == AGENT


def test_a_hosted_room_may_have_no_agent_token() -> None:
    assert hosted_access(record(), started(agent_token=None)).agent is None


@pytest.mark.parametrize("missing", ["livekit_url", "viewer_token"])
def test_a_hosted_room_without_a_token_is_an_error(missing: str) -> None:
    with pytest.raises(ApplicationError, match="no access to its room") as caught:
        hosted_access(record(), started(**{missing: None}))
    assert caught.value.type == "NoRoomAccess"


# ------------------------------------------------------------------------- speakers


async def test_a_speaker_gets_the_owner_s_fresh_ticket_without_a_call(stub: WorkflowStub) -> None:
    grants = AccessGrants(record(owner(speakers=True)), HostedRoom())
    access = await grants.grant(Attach(speaker=True))
    assert access.speaker is not None
    assert access.speaker.sealed_ticket == TICKET
    assert access.speaker.epoch == (1, 1)


async def test_an_owner_without_live_speech_grants_no_speaker_access(stub: WorkflowStub) -> None:
    grants = AccessGrants(record(owner(speakers=False)), HostedRoom())
    assert (await grants.grant(Attach(speaker=True))).speaker is None


async def test_a_viewer_gets_no_ticket(stub: WorkflowStub) -> None:
    grants = AccessGrants(record(owner(speakers=True)), HostedRoom())
    assert (await grants.grant(Attach())).speaker is None


# ----------------------------------------------------------------------- identities


def test_each_generation_s_avatar_has_its_own_identity() -> None:
    """LiveKit disconnects a participant whose identity joins again."""
    assert [avatar_identity(ROOM, number) for number in (1, 2, 3)] == [
        "wayne",
        "wayne-generation-2",
        "wayne-generation-3",
    ]


@pytest.mark.parametrize(
    ("identity", "reserved"),
    [
        (AGENT_IDENTITY, True),
        ("wayne", True),
        ("wayne-generation-2", True),
        ("wayne-generation-two", False),
        ("viewer-1", False),
        (None, False),
    ],
)
def test_the_avatar_s_and_the_agent_s_identities_are_reserved(
    identity: str | None, reserved: bool
) -> None:
    assert is_reserved(identity, ROOM) is reserved
    assert not is_reserved(identity, None)


def test_a_token_is_valid_until_the_session_ends_and_at_least_a_minute() -> None:
    assert token_time(NOW + timedelta(minutes=5), NOW) == timedelta(minutes=5)
    assert token_time(NOW + timedelta(seconds=5), NOW) == timedelta(minutes=1)
    assert token_time(None, NOW) == timedelta(minutes=1)
