"""Rooms of our own LiveKit whose session is over: found by their mark, and left as its end would.

A session's end deletes its room whoever is in it, unless ``OwnRoom.delete_at_end`` is false: then
only the avatar leaves. Where the workflow could not, the same is done here. Rooms without our mark
are never touched.
"""

from __future__ import annotations

import aiohttp
from livekit import api
from livekit.api import ServerError, ServerErrorCode

from activities.janitor.round import NO_TIME_LEFT, JanitorSweep, for_each
from activities.janitor.workflow_status import (
    RunStatus,
    StatusUnknown,
    WorkflowRun,
    fate_of,
    request_of,
)
from activities.provider.room_marks import RoomMark, mark_on
from activities.provider.rooms import LiveKitSettings, livekit_api
from avatar_sessions.contract.janitor import Decision, RoomFinding


class RoomSweep:
    """Ends rooms that nobody lives in."""

    def __init__(self, server: LiveKitSettings) -> None:
        self._server = server

    async def reap(self, round_: JanitorSweep) -> list[RoomFinding]:
        """Judge every room that bears our mark and this namespace."""
        async with livekit_api(self._server) as livekit:
            try:
                listed = await livekit.room.list_rooms(api.ListRoomsRequest())
            except (ServerError, aiohttp.ClientError, TimeoutError) as error:
                round_.tell(f"LiveKit's rooms could not be listed: {_text(error)}")
                return []
            ours = [
                (room, mark)
                for room in listed.rooms
                if (mark := mark_on(room.metadata)) is not None
                and mark.namespace == round_.client.namespace
            ]
            settled = await for_each(ours, lambda one: self._settle(round_, livekit, *one))
            return list(settled)

    async def _settle(
        self, round_: JanitorSweep, livekit: api.LiveKitAPI, room: api.Room, mark: RoomMark
    ) -> RoomFinding:
        if round_.time_is_up:
            round_.tell(NO_TIME_LEFT)
            return _finding(room, mark, Decision.IN_DOUBT, NO_TIME_LEFT)
        known = await fate_of(round_.client, WorkflowRun(mark.workflow_id, mark.run_id))
        if known.fate is RunStatus.LIVES:
            return _finding(room, mark, Decision.RUNNING, known.why)
        if known.fate is RunStatus.GONE:
            # A mark is only what somebody wrote: another Temporal may have a namespace of this
            # name. LiveKit itself deletes the room when it has been empty for a while.
            return _finding(room, mark, Decision.IN_DOUBT, known.why)
        if known.fate is RunStatus.UNKNOWN:
            round_.tell(known.why)
            return _finding(room, mark, Decision.IN_DOUBT, known.why)
        try:
            request = await request_of(round_.client, WorkflowRun(mark.workflow_id, mark.run_id))
            if request.room is None:
                raise StatusUnknown("its workflow has asked for no room")
        except StatusUnknown as error:
            round_.tell(f"room {room.name}: {error}")
            return _finding(room, mark, Decision.IN_DOUBT, f"{known.why}; {error}")
        try:
            if request.room.delete_at_end:
                return await self._delete(round_, livekit, room, mark, known.why)
            return await self._remove_avatar(round_, livekit, room, mark, known.why)
        except (ServerError, aiohttp.ClientError, TimeoutError) as error:
            if isinstance(error, ServerError) and error.code == ServerErrorCode.NOT_FOUND:
                return _finding(room, mark, Decision.ALREADY_GONE, known.why)
            return _finding(room, mark, Decision.FAILED, f"{known.why}; {_text(error)}")

    async def _delete(
        self,
        round_: JanitorSweep,
        livekit: api.LiveKitAPI,
        room: api.Room,
        mark: RoomMark,
        why: str,
    ) -> RoomFinding:
        if round_.rules.dry_run:
            return _finding(room, mark, Decision.WOULD_DELETE, why)
        # The next session under this room's name may have taken it over meanwhile.
        now = await livekit.room.list_rooms(api.ListRoomsRequest(names=[room.name]))
        if not now.rooms:
            return _finding(room, mark, Decision.ALREADY_GONE, why)
        if mark_on(now.rooms[0].metadata) != mark:
            return _finding(room, mark, Decision.IN_DOUBT, "another session has taken it over")
        await livekit.room.delete_room(api.DeleteRoomRequest(room=room.name))
        return _finding(room, mark, Decision.DELETED, why)

    async def _remove_avatar(
        self,
        round_: JanitorSweep,
        livekit: api.LiveKitAPI,
        room: api.Room,
        mark: RoomMark,
        why: str,
    ) -> RoomFinding:
        inside = await livekit.room.list_participants(api.ListParticipantsRequest(room=room.name))
        if mark.avatar_identity not in {one.identity for one in inside.participants}:
            return _finding(room, mark, Decision.ROOM_STAYS, f"{why}; no avatar is in it")
        if round_.rules.dry_run:
            return _finding(room, mark, Decision.WOULD_REMOVE_AVATAR, why)
        await livekit.room.remove_participant(
            api.RoomParticipantIdentity(room=room.name, identity=mark.avatar_identity)
        )
        return _finding(room, mark, Decision.AVATAR_REMOVED, why)


def _finding(room: api.Room, mark: RoomMark, decision: Decision, why: str) -> RoomFinding:
    return RoomFinding(
        room=room.name,
        workflow_id=mark.workflow_id,
        run_id=mark.run_id,
        participants=room.num_participants,
        decision=decision,
        why=why,
    )


def _text(error: Exception) -> str:
    if isinstance(error, ServerError):
        return f"LiveKit answered {error.code} {error.message}"
    return f"LiveKit could not be reached ({type(error).__name__})"
