"""Recorded histories of each way to end replay with the current workflow code.

The recorded ones are in ``tests/system/histories/sessions``; ``pytest tests/system
--record-histories`` writes them again when the workflow was changed on purpose and no session of
the old code runs any more.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from avatar_sessions.contract.states import EndReason
from tests.support.platforms.histories import SESSIONS
from tests.support.secret_scan import kinds_in
from workers.wiring import workflow_runner
from workflows.session import AvatarSession

RECORDED = sorted(SESSIONS.glob("*.json"))
RECORDED_ON = (3, 11)
"""Python's version. Seven of the histories do not replay on 3.12; docs/operate/run.md says why."""
UNREACHABLE = {EndReason.INTERNAL_ERROR, EndReason.CONNECTION_FAILED, EndReason.HISTORY_FULL}
"""Not recorded: they take a bug, three minutes without an owner, or thousands of commands."""


def replayer() -> Replayer:
    return Replayer(
        workflows=[AvatarSession],
        workflow_runner=workflow_runner(),
        data_converter=pydantic_data_converter,
    )


@pytest.mark.skipif(
    sys.version_info[:2] != RECORDED_ON,
    reason="asyncio.wait_for issues commands in another order on another minor version of Python",
)
@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
async def test_a_recorded_history_replays(path: Path) -> None:
    history = WorkflowHistory.from_json(f"avatar-session:{path.stem}", path.read_text())
    await replayer().replay_workflow(history)


def test_there_is_a_recording_of_every_way_to_end() -> None:
    recorded = {path.stem.partition("+")[0] for path in RECORDED}
    assert recorded >= {reason.value for reason in EndReason} - UNREACHABLE


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_a_recorded_history_holds_no_secret(path: Path) -> None:
    history = WorkflowHistory.from_json("any", path.read_text())
    assert not [kind for event in history.events for kind in kinds_in(event.SerializeToString())]
