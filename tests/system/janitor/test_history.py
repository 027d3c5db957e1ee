"""A round's history: it replays, holds no secret, and is one activity with a summary.

The recorded one is written by ``pytest tests/system/janitor --record-histories``.
"""

from __future__ import annotations

import platform as machine

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from avatar_sessions.contract import names
from tests.support.platforms.histories import JANITOR
from tests.support.platforms.janitor import JanitorEnvironment
from tests.support.secret_scan import kinds_in
from workers.wiring import workflow_runner
from workflows.janitor import AvatarJanitor

RECORDED = JANITOR / "round.json"


def replayer() -> Replayer:
    return Replayer(
        workflows=[AvatarJanitor],
        workflow_runner=workflow_runner(),
        data_converter=pydantic_data_converter,
    )


async def rounds_history(environment: JanitorEnvironment) -> WorkflowHistory:
    """The history of a round that stopped something."""
    await environment.orphan()
    async with environment.janitor():
        await environment.round()
    async for execution in environment.client.list_workflows(
        f"WorkflowType = '{names.JANITOR_WORKFLOW_TYPE}'"
    ):
        handle = environment.client.get_workflow_handle(execution.id, run_id=execution.run_id)
        return await handle.fetch_history()
    raise AssertionError("no round is visible")


async def test_a_round_replays_holds_no_secret_and_is_one_activity(
    environment: JanitorEnvironment, pytestconfig: pytest.Config
) -> None:
    history = await rounds_history(environment)
    if pytestconfig.getoption("--record-histories", default=False):
        RECORDED.parent.mkdir(exist_ok=True)
        text = history.to_json().replace(f"@{machine.node()}", "@host")
        RECORDED.write_text(text + "\n")
    await replayer().replay_workflow(history)
    assert not [kind for event in history.events for kind in kinds_in(event.SerializeToString())]
    scheduled = [
        event
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
    ]
    assert len(scheduled) == 1
    assert (
        b"stop sessions and delete rooms of closed workflows"
        in scheduled[0].user_metadata.summary.data
    )


async def test_a_round_of_an_earlier_release_replays() -> None:
    history = WorkflowHistory.from_json("avatar-janitor-recorded", RECORDED.read_text())
    await replayer().replay_workflow(history)
