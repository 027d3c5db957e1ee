"""Cleans up LiveKit rooms whose workflow has closed, found by their mark.

A session's end deletes its room with all participants, or removes only the avatar where
``OwnRoom.delete_at_end`` is false. The janitor does the same where the workflow could not. It never
touches a room without a mark.
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
    request_of,
    status_of,
)
from activities.provider.room_marks import RoomMark, mark_on
from activities.provider.rooms import LiveKitSettings, livekit_api
from avatar_sessions.contract.janitor import Decision, RoomFinding


class RoomSweep:
    """Deletes rooms, or removes avatars from them, whose workflow has closed."""

    def __init__(self, server: LiveKitSettings) -> None:
        self._server = server

    async def run(self, sweep: JanitorSweep) -> list[RoomFinding]:
        """Decide on every room that carries the mark and this namespace."""
        async with livekit_api(self._server) as livekit:
            try:
                listed = await livekit.room.list_rooms(api.ListRoomsRequest())
            except (ServerError, aiohttp.ClientError, TimeoutError) as error:
                sweep.add_problem(f"LiveKit's rooms could not be listed: {_text(error)}")
                return []
            marked = [
                (room, mark)
                for room in listed.rooms
                if (mark := mark_on(room.metadata)) is not None
                and mark.namespace == sweep.client.namespace
            ]
            findings = await for_each(marked, lambda one: self._clean_up(sweep, livekit, *one))
            return list(findings)

    async def _clean_up(
        self, sweep: JanitorSweep, livekit: api.LiveKitAPI, room: api.Room, mark: RoomMark
    ) -> RoomFinding:
        if sweep.time_is_up:
            sweep.add_problem(NO_TIME_LEFT)
            return _finding(room, mark, Decision.IN_DOUBT, NO_TIME_LEFT)
        answer = await status_of(sweep.client, WorkflowRun(mark.workflow_id, mark.run_id))
        if answer.status is RunStatus.OPEN:
            return _finding(room, mark, Decision.RUNNING, answer.why)
        if answer.status is RunStatus.GONE:
            # The mark may come from another Temporal cluster with a namespace of the same name.
            # LiveKit deletes the room after it has been empty for a while.
            return _finding(room, mark, Decision.IN_DOUBT, answer.why)
        if answer.status is RunStatus.UNKNOWN:
            sweep.add_problem(answer.why)
            return _finding(room, mark, Decision.IN_DOUBT, answer.why)
        try:
            request = await request_of(sweep.client, WorkflowRun(mark.workflow_id, mark.run_id))
            if request.room is None:
                raise StatusUnknown("its workflow did not ask for a room")
        except StatusUnknown as error:
            sweep.add_problem(f"room {room.name}: {error}")
            return _finding(room, mark, Decision.IN_DOUBT, f"{answer.why}; {error}")
        try:
            if request.room.delete_at_end:
                return await self._delete(sweep, livekit, room, mark, answer.why)
            return await self._remove_avatar(sweep, livekit, room, mark, answer.why)
        except (ServerError, aiohttp.ClientError, TimeoutError) as error:
            if isinstance(error, ServerError) and error.code == ServerErrorCode.NOT_FOUND:
                return _finding(room, mark, Decision.ALREADY_GONE, answer.why)
            return _finding(room, mark, Decision.FAILED, f"{answer.why}; {_text(error)}")

    async def _delete(
        self,
        sweep: JanitorSweep,
        livekit: api.LiveKitAPI,
        room: api.Room,
        mark: RoomMark,
        why: str,
    ) -> RoomFinding:
        if sweep.rules.dry_run:
            return _finding(room, mark, Decision.WOULD_DELETE, why)
        # The next session with this room name may have taken the room over meanwhile.
        present = await livekit.room.list_rooms(api.ListRoomsRequest(names=[room.name]))
        if not present.rooms:
            return _finding(room, mark, Decision.ALREADY_GONE, why)
        if mark_on(present.rooms[0].metadata) != mark:
            return _finding(
                room, mark, Decision.IN_DOUBT, "another session has taken the room over"
            )
        await livekit.room.delete_room(api.DeleteRoomRequest(room=room.name))
        return _finding(room, mark, Decision.DELETED, why)

    async def _remove_avatar(
        self,
        sweep: JanitorSweep,
        livekit: api.LiveKitAPI,
        room: api.Room,
        mark: RoomMark,
        why: str,
    ) -> RoomFinding:
        listed = await livekit.room.list_participants(api.ListParticipantsRequest(room=room.name))
        if mark.avatar_identity not in {one.identity for one in listed.participants}:
            return _finding(room, mark, Decision.ROOM_STAYS, f"{why}; no avatar is in it")
        if sweep.rules.dry_run:
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
