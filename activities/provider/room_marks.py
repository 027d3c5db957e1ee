"""The mark on rooms of ours: who made a room, and for which run of which session.

It is the room's metadata, which everybody in the room can read: ids, and nothing secret.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

PRODUCT: Final = "liveavatar-sessions"


class RoomMark(BaseModel):
    """What the janitor goes by."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    made_by: Literal["liveavatar-sessions"]
    namespace: str
    """Of Temporal: other namespaces' rooms are other people's."""
    workflow_id: str
    run_id: str
    avatar_identity: str


def mark_on(metadata: str) -> RoomMark | None:
    """The mark in a room's metadata; None: the room is not ours."""
    try:
        return RoomMark.model_validate_json(metadata)
    except ValidationError:
        return None
