"""Names and ids that cross processes."""

from __future__ import annotations

import pytest

import liveavatar_lite
from avatar_sessions import WAYNE_AVATAR_ID, AvatarSessionsError, InvalidSessionKey
from avatar_sessions.contract import names

WIRE_NAMES = {
    "WAYNE_AVATAR_ID": "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a",
    "WORKFLOW_TYPE": "AvatarSession",
    "WORKFLOW_ID_PREFIX": "avatar-session:",
    "SESSIONS_TASK_QUEUE": "avatar-sessions",
    "JANITOR_TASK_QUEUE": "avatar-janitor",
    "JANITOR_WORKFLOW_TYPE": "AvatarJanitor",
    "JANITOR_SCHEDULE_ID": "avatar-janitor",
    "JANITOR_WORKFLOW_ID": "avatar-janitor",
    "JANITOR_BY_HAND_PREFIX": "avatar-janitor-by-hand:",
    "STREAMS_TASK_QUEUE": "avatar-streams",
    "OWNER_TASK_QUEUE_PREFIX": "avatar-owner:",
    "SIGNAL_SPEAK": "speak",
    "SIGNAL_INTERRUPT": "interrupt",
    "SIGNAL_SET_POSE": "set_pose",
    "SIGNAL_KEEP_ALIVE": "keep_alive",
    "SIGNAL_END": "end",
    "SIGNAL_OWNER_READY": "owner_ready",
    "SIGNAL_OWNER_RECOVERING": "owner_recovering",
    "SIGNAL_OWNER_LOST": "owner_lost",
    "SIGNAL_UTTERANCES": "utterances",
    "UPDATE_ATTACH": "attach",
    "UPDATE_PERFORM": "perform",
    "QUERY_STATUS": "status",
    "ACTIVITY_CREATE_ROOM": "create_room",
    "ACTIVITY_MINT_TOKEN": "mint_token",
    "ACTIVITY_START_SESSION": "start_session",
    "ACTIVITY_STREAM_AUDIO": "stream_audio",
    "ACTIVITY_DELIVER_COMMAND": "deliver_command",
    "ACTIVITY_SPEAK": "speak",
    "ACTIVITY_GRANT_ACCESS": "grant_access",
    "ACTIVITY_GRANT_SPEAKER": "grant_speaker",
    "ACTIVITY_STOP_SESSION": "stop_session",
    "ACTIVITY_CLEAN_ROOM": "clean_room",
    "ACTIVITY_REAP": "reap",
    "SEARCH_ATTRIBUTE_STATE": "AvatarState",
    "SEARCH_ATTRIBUTE_PROVIDER_SESSION_ID": "AvatarProviderSessionId",
    "SEARCH_ATTRIBUTE_PROVIDER_SESSIONS": "AvatarProviderSessions",
    "SEARCH_ATTRIBUTE_TENANT": "AvatarTenant",
    "SEARCH_ATTRIBUTE_ALERT": "AvatarAlert",
}
"""Running sessions, recorded histories and clients in other languages depend on these."""


def test_the_names_on_the_wire_are_these() -> None:
    named = {
        name: value
        for name, value in vars(names).items()
        if name.isupper() and isinstance(value, str)
    }

    assert named == WIRE_NAMES


@pytest.mark.parametrize("key", ["", " ", "-x", "a b", "x" * 201, "a'b"])
def test_a_key_that_cannot_name_a_session_raises_the_trees_own_error(key: str) -> None:
    with pytest.raises(InvalidSessionKey, match="session key") as error:
        names.workflow_id(key)

    assert isinstance(error.value, AvatarSessionsError)
    assert isinstance(error.value, ValueError)


def test_a_workflow_id_holds_the_session_key() -> None:
    workflow_id = names.workflow_id("support-42")

    assert workflow_id == "avatar-session:support-42"
    assert names.session_key_of(workflow_id) == "support-42"


def test_a_default_room_name_is_readable_and_of_one_run() -> None:
    assert names.default_room_name("a/b c", "0123456789") == "avatar-a-b-c-01234567"


def test_the_sandboxs_avatar_is_the_same_as_in_the_lite_library() -> None:
    assert WAYNE_AVATAR_ID == liveavatar_lite.WAYNE_AVATAR_ID
