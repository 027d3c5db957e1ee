"""Activities are executed under named options, with a summary that the server accepts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from temporalio import workflow

from avatar_sessions.contract.activities import CleanedRoom, CleanRoom
from workflows.parts import options
from workflows.parts.execute_activity import SUMMARY_MAX_CHARS, execute

PAYLOAD = CleanRoom(room="room-1", avatar_identity="avatar", delete=True)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The options of the activity that was executed last."""
    taken: dict[str, Any] = {}

    async def execute_activity(name: str, payload: object, **kwargs: Any) -> CleanedRoom:
        taken.update(kwargs, name=name, payload=payload)
        return CleanedRoom(result="gone")

    monkeypatch.setattr(workflow, "execute_activity", execute_activity)
    return taken


async def test_an_activity_has_the_named_options_and_a_summary(executed: dict[str, Any]) -> None:
    result = await execute(
        "clean_room", PAYLOAD, CleanedRoom, options.CLEANUP, summary="clean room room-1"
    )
    assert result.result == "gone"
    assert (executed["name"], executed["payload"]) == ("clean_room", PAYLOAD)
    assert executed["summary"] == "clean room room-1"
    assert executed["retry_policy"] is options.CLEANUP["retry_policy"]


async def test_one_call_s_timeout_does_not_change_the_named_options(
    executed: dict[str, Any],
) -> None:
    before = options.CLEANUP.copy()
    await execute(
        "clean_room",
        PAYLOAD,
        CleanedRoom,
        options.CLEANUP,
        summary="clean room",
        task_queue="some-queue",
        schedule_to_close_timeout=timedelta(seconds=1),
    )
    assert executed["schedule_to_close_timeout"] == timedelta(seconds=1)
    assert executed["task_queue"] == "some-queue"
    assert before == options.CLEANUP


async def test_a_long_summary_is_cut(executed: dict[str, Any]) -> None:
    """The server refuses a summary of more than 400 bytes, and with it the workflow's task."""
    await execute("clean_room", PAYLOAD, CleanedRoom, options.CLEANUP, summary="x" * 1000)
    assert executed["summary"] == "x" * SUMMARY_MAX_CHARS
