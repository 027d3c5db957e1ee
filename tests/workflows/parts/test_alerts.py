"""Alerts name what is left behind and what happens next, with commands quoted for a shell."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime

from avatar_sessions.contract.reports import Failure
from avatar_sessions.contract.states import AlertKind
from workflows.parts.alerts import cleanup_alert, quoted, room_left, session_left

SINCE = datetime(2026, 1, 1, 12, 30, 5, tzinfo=UTC)


def test_a_session_s_alert_has_the_commands_to_stop_it() -> None:
    left = session_left("session-1", SINCE)
    assert left.kind is AlertKind.PROVIDER_NOT_STOPPED
    assert left.problem == (
        "LiveAvatar session session-1 may still be billed since 2026-01-01 12:30:05 UTC"
    )
    stop, listing, janitor = (shlex.split(one, comments=True) for one in left.commands)
    assert stop[-1] == '{"session_id": "session-1"}'
    assert listing[1].endswith("/v1/sessions?type=active")
    assert janitor == ["avatar-sessions", "janitor"]


def test_an_unknown_start_is_not_dated() -> None:
    assert session_left("session-1", None).problem.endswith("may still be billed")


def test_a_room_s_alert_deletes_the_room_or_removes_the_avatar() -> None:
    delete = room_left("a room", "avatar", delete=True)
    remove = room_left("a room", "avatar", delete=False)
    assert delete.kind is remove.kind is AlertKind.ROOM_NOT_CLEAN
    assert shlex.split(delete.commands[0], comments=True) == ["lk", "room", "delete", "a room"]
    assert shlex.split(remove.commands[0], comments=True)[-3:] == ["--room", "a room", "avatar"]


def test_the_text_has_problem_error_and_next_step() -> None:
    shown = cleanup_alert(
        room_left("room-1", "avatar", delete=True),
        Failure(type="LiveKitUnreachable", message="LiveKit could not be reached"),
        since=SINCE,
        next_step="no further attempt",
    )
    assert shown.kind is AlertKind.ROOM_NOT_CLEAN
    assert shown.text.split("\n\n")[:4] == [
        "### ⚠ ALERT `room_not_clean`",
        "room room-1 may still exist. Its cleanup has failed since 12:30:05 UTC.",
        "Last error: LiveKit could not be reached (`LiveKitUnreachable`)",
        "Next: no further attempt.",
    ]


def test_a_name_is_quoted_for_a_shell() -> None:
    assert quoted("room-1") == "room-1"
    assert shlex.split(quoted("it's; rm -rf /")) == ["it's; rm -rf /"]
    assert quoted("a\nb`c`'") == r"$'a\nb\x60c\x60\''"
