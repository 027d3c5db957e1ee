"""A round's history: it replays, holds no secret, and tells its story.

The recorded one is written anew by ``pytest tests/sessions tests/janitor --record-histories``.
"""

from __future__ import annotations

import platform as machine
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from avatar_sessions.contract import names
from tests.support.secret_scan import kinds_in
from tests.system.janitor.conftest import JanitorWorld
from workers.wiring import workflow_runner
from workflows.janitor import AvatarJanitor

RECORDED = Path(__file__).parent / "histories" / "round.json"


def replayer() -> Replayer:
    return Replayer(
        workflows=[AvatarJanitor],
        workflow_runner=workflow_runner(),
        data_converter=pydantic_data_converter,
    )


async def rounds_history(world: JanitorWorld) -> WorkflowHistory:
    """The history of a round that stopped something."""
    await world.orphan()
    async with world.janitor():
        await world.round()
    async for execution in world.client.list_workflows(
        f"WorkflowType = '{names.JANITOR_WORKFLOW_TYPE}'"
    ):
        handle = world.client.get_workflow_handle(execution.id, run_id=execution.run_id)
        return await handle.fetch_history()
    raise AssertionError("no round is visible")


async def test_a_round_replays_holds_no_secret_and_is_one_activity(
    world: JanitorWorld, pytestconfig: pytest.Config
) -> None:
    history = await rounds_history(world)
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
