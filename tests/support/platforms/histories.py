"""Recorded workflow histories: where they are kept, and how `--record-histories` writes them."""

from __future__ import annotations

import platform as machine
import sys

from temporalio.client import Client

from avatar_sessions import SessionReport
from avatar_sessions.contract import names
from avatar_sessions.contract.states import UtteranceOutcome
from deploy.local.settings import ROOT

HISTORIES = ROOT / "tests" / "system" / "histories"
SESSIONS = HISTORIES / "sessions"
JANITOR = HISTORIES / "janitor"


async def record_histories(client: Client, *, suffix: str = "") -> None:
    """Write one history of each way to end; the name also says what happened before the end."""
    SESSIONS.mkdir(parents=True, exist_ok=True)
    wanted = f"ExecutionStatus = 'Completed' AND WorkflowType = '{names.WORKFLOW_TYPE}'"
    async for execution in client.list_workflows(wanted):
        handle = client.get_workflow_handle(execution.id, run_id=execution.run_id)
        report = SessionReport.model_validate(await handle.result())
        history = await handle.fetch_history()
        name = report.end_reason.value
        if not suffix and len(report.generations) > 1:
            name += "+lost_start_reply"
        name += suffix
        if report.takeovers:
            name += "+taken_over"
        if report.reconnects:
            name += "+recovered"
        if any(one.outcome is UtteranceOutcome.INTERRUPTED for one in report.utterances):
            name += "+interrupted"
        # Stack traces and identities name the machine that recorded.
        text = history.to_json().replace(f"@{machine.node()}", "@host")
        for folder in (ROOT, sys.base_prefix):
            text = text.replace(f"{folder}/", "")
        (SESSIONS / f"{name}.json").write_text(text + "\n")
