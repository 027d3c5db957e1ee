"""Names and ids that cross processes."""

from __future__ import annotations

import pytest

import liveavatar_lite
from avatar_sessions import WAYNE_AVATAR_ID, AvatarSessionsError, InvalidSessionKey
from avatar_sessions.contract import names


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
