"""The mark on a room that a session created: its product, namespace, workflow and run.

The mark is the room's metadata, which every participant can read: ids only, no secret.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

PRODUCT: Final = "liveavatar-sessions"


class RoomMark(BaseModel):
    """Which session a room belongs to; the janitor decides by it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    made_by: Literal["liveavatar-sessions"]
    namespace: str
    """The Temporal namespace: rooms of other namespaces belong to other deployments."""
    workflow_id: str
    run_id: str
    avatar_identity: str


def mark_on(metadata: str) -> RoomMark | None:
    """The mark in a room's metadata; None if no session created the room."""
    try:
        return RoomMark.model_validate_json(metadata)
    except ValidationError:
        return None
