"""LiveKit rooms of our own: created, entered by token, deleted. Hosted rooms need none of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import aiohttp
from livekit import api
from livekit.api import ServerError, ServerErrorCode
from pydantic import SecretStr
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities import failures
from activities.heartbeats import beating
from activities.provider.room_marks import PRODUCT, RoomMark, mark_on
from avatar_sessions.contract import names
from avatar_sessions.contract.activities import (
    CleanedRoom,
    CleanRoom,
    CreatedRoom,
    CreateRoom,
    GrantAccess,
    GrantedAccess,
)
from avatar_sessions.seal import Seal

EMPTY_ROOM_TIMEOUT_S: Final = 120
"""LiveKit deletes a room that nobody enters: the last ring when all else fails."""
TOKEN_MARGIN: Final = timedelta(minutes=10)
CALL_TIMEOUT: Final = aiohttp.ClientTimeout(total=8)


@dataclass(frozen=True)
class LiveKitSettings:
    """The LiveKit server that rooms of our own live on."""

    url: str
    api_key: str
    api_secret: SecretStr


def livekit_api(server: LiveKitSettings) -> api.LiveKitAPI:
    """The server's room service; every call is bounded."""
    return api.LiveKitAPI(
        server.url,
        server.api_key,
        server.api_secret.get_secret_value(),
        timeout=CALL_TIMEOUT,
        failover=False,
    )


class RoomActivities:
    """LiveKit's room service as activities."""

    def __init__(self, server: LiveKitSettings | None, seal: Seal) -> None:
        """Take the server, or None when this deployment has hosted rooms only."""
        self._server = server
        self._seal = seal

    @activity.defn(name=names.ACTIVITY_CREATE_ROOM)
    async def create_room(self, step: CreateRoom) -> CreatedRoom:
        """Create a room (again: the same room) and the avatar's token for it.

        A room that is made here bears our mark, by which the janitor finds it. One that somebody
        else made keeps what stands on it, and is never the janitor's.
        """
        server = self._required()
        async with beating(), livekit_api(server) as livekit:
            try:
                await _create_marked(livekit, step)
            except (ServerError, aiohttp.ClientError, TimeoutError) as error:
                raise _refused("create the room", error) from error
        token = self._token(server, step.room, step.avatar_identity, step.max_duration_s)
        return CreatedRoom(
            room=step.room, livekit_url=server.url, avatar_token=self._seal.seal(token)
        )

    @activity.defn(name=names.ACTIVITY_GRANT_ACCESS)
    async def grant_access(self, step: GrantAccess) -> GrantedAccess:
        """Mint tokens for a viewer and an agent; no call leaves the process."""
        server = self._required()
        return GrantedAccess(
            livekit_url=server.url,
            viewer_token=self._seal.seal(
                self._token(server, step.room, step.viewer_identity, step.valid_s)
            ),
            agent_token=self._seal.seal(
                self._token(server, step.room, step.agent_identity, step.valid_s)
            ),
        )

    @activity.defn(name=names.ACTIVITY_CLEAN_ROOM)
    async def clean_room(self, step: CleanRoom) -> CleanedRoom:
        """Delete the room, or make sure that the avatar has left it. Gone already is clean."""
        async with beating(), livekit_api(self._required()) as livekit:
            try:
                if step.delete:
                    await livekit.room.delete_room(api.DeleteRoomRequest(room=step.room))
                else:
                    for identity in (*step.earlier, step.avatar_identity):
                        await _remove(livekit, step.room, identity)
            except ServerError as error:
                if error.code != ServerErrorCode.NOT_FOUND:
                    raise _refused("clean the room", error) from error
            except (aiohttp.ClientError, TimeoutError) as error:
                raise _refused("clean the room", error) from error
        return CleanedRoom(result="gone" if step.delete else "left")

    def _required(self) -> LiveKitSettings:
        if self._server is None:
            raise failures.plain_error(
                "NoLiveKitServer",
                "the session asks for a room of our own, but the worker has no LiveKit server:"
                " set LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET",
            )
        return self._server

    def _token(
        self, server: LiveKitSettings, room: str, identity: str, valid_s: float
    ) -> SecretStr:
        """A token to publish and subscribe in one room (grants as in LiveAvatar's starter)."""
        token = (
            api.AccessToken(server.api_key, server.api_secret.get_secret_value())
            .with_identity(identity)
            .with_ttl(timedelta(seconds=valid_s) + TOKEN_MARGIN)
            .with_grants(
                api.VideoGrants(
                    room_join=True,
                    room=room,
                    can_publish=True,
                    can_subscribe=True,
                    can_publish_data=True,
                )
            )
        )
        return SecretStr(token.to_jwt())


async def _remove(livekit: api.LiveKitAPI, room: str, identity: str) -> None:
    """Put somebody out of a room, who may have left it."""
    try:
        await livekit.room.remove_participant(
            api.RoomParticipantIdentity(room=room, identity=identity)
        )
    except ServerError as error:
        if error.code != ServerErrorCode.NOT_FOUND:
            raise


async def _create_marked(livekit: api.LiveKitAPI, step: CreateRoom) -> None:
    """Make the room; mark it, unless it is somebody else's.

    The room of an earlier session of ours is taken over: it lives on for this one. While somebody
    is in it, LiveKit keeps its metadata whatever a second creation says (measured): it is changed.
    """
    info = activity.info()
    assert info.workflow_id is not None
    assert info.workflow_run_id is not None
    mark = RoomMark(
        made_by=PRODUCT,
        namespace=info.namespace,
        workflow_id=info.workflow_id,
        run_id=info.workflow_run_id,
        avatar_identity=step.avatar_identity,
    ).model_dump_json()
    found = (await livekit.room.list_rooms(api.ListRoomsRequest(names=[step.room]))).rooms
    await livekit.room.create_room(
        api.CreateRoomRequest(
            name=step.room,
            empty_timeout=EMPTY_ROOM_TIMEOUT_S,
            departure_timeout=60,
            metadata="" if found else mark,
        )
    )
    earlier = mark_on(found[0].metadata) if found else None
    if earlier is not None and earlier.namespace == info.namespace:
        await livekit.room.update_room_metadata(
            api.UpdateRoomMetadataRequest(room=step.room, metadata=mark)
        )


def _refused(what: str, error: Exception) -> ApplicationError:
    if isinstance(error, ServerError):
        retryable = error.code not in (
            ServerErrorCode.UNAUTHENTICATED,
            ServerErrorCode.PERMISSION_DENIED,
            ServerErrorCode.INVALID_ARGUMENT,
        )
        return failures.plain_error(
            "LiveKitRefused",
            f"LiveKit would not {what}: {error.code} {error.message}",
            retryable=retryable,
        )
    return failures.plain_error(
        "LiveKitUnreachable",
        f"LiveKit could not be reached to {what}: {type(error).__name__}",
        retryable=True,
    )
