"""Which rooms of the own LiveKit the janitor deletes, and how it knows the rooms of sessions."""

from __future__ import annotations

import dataclasses
import uuid

import pytest
import pytest_asyncio
from livekit import api, rtc
from pydantic import SecretStr
from temporalio.testing import ActivityEnvironment

from activities.provider.room_marks import PRODUCT, RoomMark, mark_on
from activities.provider.rooms import LiveKitSettings, RoomActivities
from avatar_sessions.contract.activities import CreateRoom
from avatar_sessions.contract.janitor import Decision, JanitorFinding, RoomFinding
from avatar_sessions.contract.messages import OwnRoom
from avatar_sessions.seal import Seal
from tests.support.platforms.janitor import JanitorEnvironment, Workflow, livekit_at


@pytest.fixture
def room() -> str:
    return f"room-{uuid.uuid4().hex[:12]}"


@pytest_asyncio.fixture
async def closed(environment: JanitorEnvironment, room: str) -> Workflow:
    """A session's workflow that asked for the room, and was terminated."""
    workflow = await environment.opened_by_workflow(room=OwnRoom(name=room))
    await workflow.terminate("test")
    return workflow


def mark(environment: JanitorEnvironment, workflow: Workflow, **changes: object) -> RoomMark:
    return RoomMark(
        made_by=PRODUCT,
        namespace=environment.client.namespace,
        workflow_id=workflow.id,
        run_id=workflow.result_run_id or "",
        avatar_identity="avatar",
    ).model_copy(update=changes)


async def make_room(environment: JanitorEnvironment, room: str, metadata: str = "") -> None:
    async with livekit_at(environment.livekit) as livekit:
        await livekit.room.create_room(
            api.CreateRoomRequest(name=room, empty_timeout=300, metadata=metadata)
        )


async def metadata_of(environment: JanitorEnvironment, room: str) -> str:
    async with livekit_at(environment.livekit) as livekit:
        found = await livekit.room.list_rooms(api.ListRoomsRequest(names=[room]))
    return found.rooms[0].metadata


async def enter(environment: JanitorEnvironment, room: str, identity: str) -> rtc.Room:
    """Join the room."""
    token = (
        api.AccessToken(environment.livekit.api_key, environment.livekit.api_secret)
        .with_identity(identity)
        .with_grants(api.VideoGrants(room_join=True, room=room))
    )
    inside = rtc.Room()
    await inside.connect(environment.livekit.url, token.to_jwt())
    return inside


def line_on(finding: JanitorFinding, room: str) -> RoomFinding:
    return next(one for one in finding.rooms if one.room == room)


# ------------------------------------------------------------------ reaping


async def test_the_room_of_a_closed_workflow_is_deleted(
    environment: JanitorEnvironment, room: str, closed: Workflow
) -> None:
    await make_room(environment, room, mark(environment, closed).model_dump_json())
    async with environment.janitor():
        finding = await environment.round()
    assert line_on(finding, room).decision is Decision.DELETED
    assert not await environment.room_exists(room)


async def test_a_participant_does_not_keep_a_room(
    environment: JanitorEnvironment, room: str, closed: Workflow
) -> None:
    """The end of a session deletes its room with the participants in it; so does the janitor."""
    await make_room(environment, room, mark(environment, closed).model_dump_json())
    person = await enter(environment, room, "alice")
    async with environment.janitor():
        finding = await environment.round()
    await person.disconnect()
    assert line_on(finding, room).decision is Decision.DELETED


async def test_a_room_that_is_not_to_be_deleted_loses_the_avatar_only(
    environment: JanitorEnvironment, room: str
) -> None:
    workflow = await environment.opened_by_workflow(room=OwnRoom(name=room, delete_at_end=False))
    await workflow.terminate("test")
    await make_room(environment, room, mark(environment, workflow).model_dump_json())
    avatar, person = (
        await enter(environment, room, "avatar"),
        await enter(environment, room, "alice"),
    )
    async with environment.janitor():
        asked = await environment.round(dry_run=True)
        done = await environment.round()
        async with livekit_at(environment.livekit) as livekit:
            inside = await livekit.room.list_participants(api.ListParticipantsRequest(room=room))
        after = await environment.round()
    await avatar.disconnect()
    await person.disconnect()
    decisions = [line_on(one, room).decision for one in (asked, done, after)]
    assert decisions == [
        Decision.WOULD_REMOVE_AVATAR,
        Decision.AVATAR_REMOVED,
        Decision.ROOM_STAYS,
    ]
    assert [one.identity for one in inside.participants] == ["alice"]


async def test_a_room_of_a_running_session_is_left_alone(
    environment: JanitorEnvironment, room: str
) -> None:
    workflow = await environment.opened_by_workflow(room=OwnRoom(name=room))
    await make_room(environment, room, mark(environment, workflow).model_dump_json())
    async with environment.janitor():
        finding = await environment.round()
    assert line_on(finding, room).decision is Decision.RUNNING
    assert await environment.room_exists(room)


@pytest.mark.parametrize("metadata", ["", "words", '{"made_by": "another program"}', "[1]", "null"])
async def test_rooms_without_the_mark_are_not_examined(
    environment: JanitorEnvironment, room: str, metadata: str
) -> None:
    await make_room(environment, room, metadata)
    async with environment.janitor():
        finding = await environment.round()
    assert room not in {one.room for one in finding.rooms}
    assert await environment.room_exists(room)


async def test_a_room_of_another_namespace_is_left_alone(
    environment: JanitorEnvironment, room: str, closed: Workflow
) -> None:
    await make_room(
        environment, room, mark(environment, closed, namespace="elsewhere").model_dump_json()
    )
    async with environment.janitor():
        finding = await environment.round()
    assert finding.totals.rooms == 0
    assert await environment.room_exists(room)


async def test_a_mark_that_names_an_unknown_workflow_proves_nothing(
    environment: JanitorEnvironment, room: str, closed: Workflow
) -> None:
    """Two Temporals, each with a namespace of the same name, on one LiveKit server."""
    unknown = mark(environment, closed, run_id=str(uuid.uuid4()))
    await make_room(environment, room, unknown.model_dump_json())
    async with environment.janitor():
        finding = await environment.round()
    assert line_on(finding, room).decision is Decision.IN_DOUBT
    assert await environment.room_exists(room)


async def test_a_dry_run_deletes_no_room(
    environment: JanitorEnvironment, room: str, closed: Workflow
) -> None:
    await make_room(environment, room, mark(environment, closed).model_dump_json())
    async with environment.janitor():
        finding = await environment.round(dry_run=True)
    assert line_on(finding, room).decision is Decision.WOULD_DELETE
    assert await environment.room_exists(room)


async def test_without_an_own_livekit_no_rooms_are_examined(
    environment: JanitorEnvironment,
) -> None:
    orphan = await environment.orphan()
    nothing = dict.fromkeys(("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"))
    async with environment.janitor(**nothing):
        finding = await environment.round()
    assert (finding.checks_rooms, finding.succeeded) == (False, True)
    assert not environment.is_billed(orphan)


async def test_an_unreachable_livekit_is_reported_and_sessions_are_stopped(
    environment: JanitorEnvironment,
) -> None:
    orphan = await environment.orphan()
    async with environment.janitor(LIVEKIT_URL="ws://127.0.0.1:9"):
        finding = await environment.round()
    assert "LiveKit's rooms could not be listed" in finding.problems[0]
    assert not environment.is_billed(orphan)


# ------------------------------------------------------------------ marking


async def create(environment: JanitorEnvironment, room: str, workflow: Workflow) -> None:
    """The activity ``create_room``, as the workflow's."""
    activity_environment = ActivityEnvironment()
    activity_environment.info = dataclasses.replace(
        activity_environment.info,
        namespace=environment.client.namespace,
        workflow_id=workflow.id,
        workflow_run_id=workflow.result_run_id,
    )
    server = LiveKitSettings(
        environment.livekit.url,
        environment.livekit.api_key,
        SecretStr(environment.livekit.api_secret),
    )
    step = CreateRoom(session_key="any", room=room, avatar_identity="avatar", max_duration_s=60)
    await activity_environment.run(RoomActivities(server, Seal([Seal.new_key()])).create_room, step)


async def test_a_room_that_a_worker_creates_bears_the_mark(
    environment: JanitorEnvironment, room: str, closed: Workflow
) -> None:
    await create(environment, room, closed)
    assert mark_on(await metadata_of(environment, room)) == mark(environment, closed)


async def test_a_room_of_another_program_keeps_its_metadata(
    environment: JanitorEnvironment, room: str, closed: Workflow
) -> None:
    await make_room(environment, room, "theirs")
    await create(environment, room, closed)
    assert await metadata_of(environment, room) == "theirs"


async def test_a_room_of_another_program_without_metadata_gets_none(
    environment: JanitorEnvironment, room: str, closed: Workflow
) -> None:
    await make_room(environment, room)
    await create(environment, room, closed)
    assert await metadata_of(environment, room) == ""


@pytest.mark.parametrize("inhabited", [True, False])
async def test_the_next_session_takes_over_a_marked_room(
    environment: JanitorEnvironment, room: str, closed: Workflow, inhabited: bool
) -> None:
    """Otherwise the janitor would delete the earlier session's room, which the later one uses.

    Creating the room again is not enough: LiveKit kept the earlier mark while a participant
    was in it.
    """
    await create(environment, room, closed)
    person = await enter(environment, room, "alice") if inhabited else None
    later = await environment.opened_by_workflow(room=OwnRoom(name=room))
    await create(environment, room, later)
    async with environment.janitor():
        finding = await environment.round()
    assert mark_on(await metadata_of(environment, room)) == mark(environment, later)
    assert line_on(finding, room).decision is Decision.RUNNING
    if person is not None:
        await person.disconnect()
