"""Creates and deletes rooms on the deployment's LiveKit server, and mints tokens for them.

Sessions in a room that LiveAvatar hosts need none of it.
"""

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
from activities.heartbeats import heartbeating
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
"""LiveKit deletes a room that stays empty: the last resort if every other cleanup fails."""
TOKEN_MARGIN: Final = timedelta(minutes=10)
CALL_TIMEOUT: Final = aiohttp.ClientTimeout(total=8)


@dataclass(frozen=True)
class LiveKitSettings:
    """The deployment's own LiveKit server."""

    url: str
    api_key: str
    api_secret: SecretStr


def livekit_api(server: LiveKitSettings) -> api.LiveKitAPI:
    """A client of the server's room service, with a timeout on every call."""
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
        """``server`` is None in a deployment without a LiveKit server: hosted rooms only."""
        self._server = server
        self._seal = seal

    @activity.defn(name=names.ACTIVITY_CREATE_ROOM)
    async def create_room(self, step: CreateRoom) -> CreatedRoom:
        """Create a room and the avatar's token for it. Idempotent: a retry gets the same room.

        A new room gets the mark by which the janitor finds it. A room that another program created
        keeps its metadata, and the janitor never touches it.
        """
        server = self._required()
        async with heartbeating(), livekit_api(server) as livekit:
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
        """Mint tokens for a viewer and an agent. Makes no request."""
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
        """Delete the room, or remove the avatar from it. A room that is gone already is clean."""
        async with heartbeating(), livekit_api(self._required()) as livekit:
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
                "the session asks for its own LiveKit room, but the worker has no LiveKit server:"
                " set LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET",
            )
        return self._server

    def _token(
        self, server: LiveKitSettings, room: str, identity: str, valid_s: float
    ) -> SecretStr:
        """A token to publish and subscribe in one room, with the grants of LiveAvatar's starter."""
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
    """Remove a participant from a room; one who has left already is no error."""
    try:
        await livekit.room.remove_participant(
            api.RoomParticipantIdentity(room=room, identity=identity)
        )
    except ServerError as error:
        if error.code != ServerErrorCode.NOT_FOUND:
            raise


async def _create_marked(livekit: api.LiveKitAPI, step: CreateRoom) -> None:
    """Create the room and mark it, unless another program created it.

    A room that carries the mark of an earlier session gets the mark of this one. While a room has
    participants, LiveKit ignores the metadata of a second creation (measured), so the mark is
    updated explicitly.
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
