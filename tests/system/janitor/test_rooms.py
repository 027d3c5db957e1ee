"""What the janitor does with rooms of our own LiveKit, and how a room is known to be ours."""

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
from tests.system.janitor.conftest import JanitorWorld, Workflow, livekit_at


@pytest.fixture
def room() -> str:
    return f"room-{uuid.uuid4().hex[:12]}"


@pytest_asyncio.fixture
async def closed(world: JanitorWorld, room: str) -> Workflow:
    """A session's workflow that asked for the room, and was terminated."""
    workflow = await world.opened_by_workflow(room=OwnRoom(name=room))
    await workflow.terminate("test")
    return workflow


def mark(world: JanitorWorld, workflow: Workflow, **changes: object) -> RoomMark:
    return RoomMark(
        made_by=PRODUCT,
        namespace=world.client.namespace,
        workflow_id=workflow.id,
        run_id=workflow.result_run_id or "",
        avatar_identity="avatar",
    ).model_copy(update=changes)


async def make_room(world: JanitorWorld, room: str, metadata: str = "") -> None:
    async with livekit_at(world.livekit) as livekit:
        await livekit.room.create_room(
            api.CreateRoomRequest(name=room, empty_timeout=300, metadata=metadata)
        )


async def metadata_of(world: JanitorWorld, room: str) -> str:
    async with livekit_at(world.livekit) as livekit:
        found = await livekit.room.list_rooms(api.ListRoomsRequest(names=[room]))
    return found.rooms[0].metadata


async def enter(world: JanitorWorld, room: str, identity: str) -> rtc.Room:
    """Be in the room."""
    token = (
        api.AccessToken(world.livekit.api_key, world.livekit.api_secret)
        .with_identity(identity)
        .with_grants(api.VideoGrants(room_join=True, room=room))
    )
    inside = rtc.Room()
    await inside.connect(world.livekit.url, token.to_jwt())
    return inside


def line_on(finding: JanitorFinding, room: str) -> RoomFinding:
    return next(one for one in finding.rooms if one.room == room)


# ------------------------------------------------------------------ reaping


async def test_the_room_of_a_closed_workflow_is_deleted(
    world: JanitorWorld, room: str, closed: Workflow
) -> None:
    await make_room(world, room, mark(world, closed).model_dump_json())
    async with world.janitor():
        finding = await world.round()
    assert line_on(finding, room).decision is Decision.DELETED
    assert not await world.room_exists(room)


async def test_a_person_in_it_does_not_keep_it(
    world: JanitorWorld, room: str, closed: Workflow
) -> None:
    """A session's own end deletes its room whoever is in it; so does the janitor's."""
    await make_room(world, room, mark(world, closed).model_dump_json())
    person = await enter(world, room, "alice")
    async with world.janitor():
        finding = await world.round()
    await person.disconnect()
    assert line_on(finding, room).decision is Decision.DELETED


async def test_a_room_that_is_not_to_be_deleted_loses_the_avatar_only(
    world: JanitorWorld, room: str
) -> None:
    workflow = await world.opened_by_workflow(room=OwnRoom(name=room, delete_at_end=False))
    await workflow.terminate("test")
    await make_room(world, room, mark(world, workflow).model_dump_json())
    avatar, person = await enter(world, room, "avatar"), await enter(world, room, "alice")
    async with world.janitor():
        told = await world.round(dry_run=True)
        done = await world.round()
        async with livekit_at(world.livekit) as livekit:
            inside = await livekit.room.list_participants(api.ListParticipantsRequest(room=room))
        after = await world.round()
    await avatar.disconnect()
    await person.disconnect()
    decisions = [line_on(one, room).decision for one in (told, done, after)]
    assert decisions == [
        Decision.WOULD_REMOVE_AVATAR,
        Decision.AVATAR_REMOVED,
        Decision.ROOM_STAYS,
    ]
    assert [one.identity for one in inside.participants] == ["alice"]


async def test_a_room_that_is_lived_in_is_left_alone(world: JanitorWorld, room: str) -> None:
    workflow = await world.opened_by_workflow(room=OwnRoom(name=room))
    await make_room(world, room, mark(world, workflow).model_dump_json())
    async with world.janitor():
        finding = await world.round()
    assert line_on(finding, room).decision is Decision.RUNNING
    assert await world.room_exists(room)


@pytest.mark.parametrize("metadata", ["", "words", '{"made_by": "somebody"}', "[1]", "null"])
async def test_rooms_without_our_mark_are_not_even_looked_at(
    world: JanitorWorld, room: str, metadata: str
) -> None:
    await make_room(world, room, metadata)
    async with world.janitor():
        finding = await world.round()
    assert room not in {one.room for one in finding.rooms}
    assert await world.room_exists(room)


async def test_another_namespaces_room_is_not_ours(
    world: JanitorWorld, room: str, closed: Workflow
) -> None:
    await make_room(world, room, mark(world, closed, namespace="elsewhere").model_dump_json())
    async with world.janitor():
        finding = await world.round()
    assert finding.totals.rooms == 0
    assert await world.room_exists(room)


async def test_a_mark_that_names_a_workflow_nobody_knows_proves_nothing(
    world: JanitorWorld, room: str, closed: Workflow
) -> None:
    """Two Temporals, each with a namespace of the same name, on one LiveKit server."""
    unknown = mark(world, closed, run_id=str(uuid.uuid4()))
    await make_room(world, room, unknown.model_dump_json())
    async with world.janitor():
        finding = await world.round()
    assert line_on(finding, room).decision is Decision.IN_DOUBT
    assert await world.room_exists(room)


async def test_a_dry_run_deletes_no_room(world: JanitorWorld, room: str, closed: Workflow) -> None:
    await make_room(world, room, mark(world, closed).model_dump_json())
    async with world.janitor():
        finding = await world.round(dry_run=True)
    assert line_on(finding, room).decision is Decision.WOULD_DELETE
    assert await world.room_exists(room)


async def test_without_a_livekit_of_ours_there_are_no_rooms_to_look_at(world: JanitorWorld) -> None:
    orphan = await world.orphan()
    nothing = dict.fromkeys(("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"))
    async with world.janitor(**nothing):
        finding = await world.round()
    assert (finding.checks_rooms, finding.succeeded) == (False, True)
    assert not world.is_billed(orphan)


async def test_a_livekit_that_is_away_is_told_and_sessions_are_stopped_all_the_same(
    world: JanitorWorld,
) -> None:
    orphan = await world.orphan()
    async with world.janitor(LIVEKIT_URL="ws://127.0.0.1:9"):
        finding = await world.round()
    assert "LiveKit's rooms could not be listed" in finding.problems[0]
    assert not world.is_billed(orphan)


# ------------------------------------------------------------------ marking


async def create(world: JanitorWorld, room: str, workflow: Workflow) -> None:
    """The activity ``create_room``, as the workflow's."""
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(
        environment.info,
        namespace=world.client.namespace,
        workflow_id=workflow.id,
        workflow_run_id=workflow.result_run_id,
    )
    server = LiveKitSettings(
        world.livekit.url, world.livekit.api_key, SecretStr(world.livekit.api_secret)
    )
    step = CreateRoom(session_key="any", room=room, avatar_identity="avatar", max_duration_s=60)
    await environment.run(RoomActivities(server, Seal([Seal.new_key()])).create_room, step)


async def test_a_room_that_we_make_bears_our_mark(
    world: JanitorWorld, room: str, closed: Workflow
) -> None:
    await create(world, room, closed)
    assert mark_on(await metadata_of(world, room)) == mark(world, closed)


async def test_a_room_of_somebody_else_keeps_what_stands_on_it(
    world: JanitorWorld, room: str, closed: Workflow
) -> None:
    await make_room(world, room, "theirs")
    await create(world, room, closed)
    assert await metadata_of(world, room) == "theirs"


async def test_a_bare_room_of_somebody_else_stays_bare(
    world: JanitorWorld, room: str, closed: Workflow
) -> None:
    await make_room(world, room)
    await create(world, room, closed)
    assert await metadata_of(world, room) == ""


@pytest.mark.parametrize("inhabited", [True, False])
async def test_the_next_session_takes_over_a_room_of_ours(
    world: JanitorWorld, room: str, closed: Workflow, inhabited: bool
) -> None:
    """Else the janitor would delete the room of the earlier session, and the later one with it.

    To create the room again does not do: LiveKit kept the earlier mark while somebody was inside.
    """
    await create(world, room, closed)
    person = await enter(world, room, "alice") if inhabited else None
    later = await world.opened_by_workflow(room=OwnRoom(name=room))
    await create(world, room, later)
    async with world.janitor():
        finding = await world.round()
    assert mark_on(await metadata_of(world, room)) == mark(world, later)
    assert line_on(finding, room).decision is Decision.RUNNING
    if person is not None:
        await person.disconnect()
