"""Looks up the workflow of a LiveAvatar session and its status in Temporal.

Without an answer the status is `RunStatus.UNKNOWN`: the janitor then stops and deletes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import SearchAttributeKey
from temporalio.service import RPCError, RPCStatusCode

from avatar_sessions.contract import names
from avatar_sessions.contract.messages import SessionRequest

RPC_TIMEOUT: Final = timedelta(seconds=4)
MAX_RUNS: Final = 500
"""Executions that one search may return; with more, the status of its sessions is unknown."""
_PROVIDER_SESSIONS: Final = SearchAttributeKey.for_keyword_list(
    names.SEARCH_ATTRIBUTE_PROVIDER_SESSIONS
)
_SEARCHABLE: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
_CLOSED: Final = frozenset(
    {
        WorkflowExecutionStatus.COMPLETED,
        WorkflowExecutionStatus.FAILED,
        WorkflowExecutionStatus.CANCELED,
        WorkflowExecutionStatus.TERMINATED,
        WorkflowExecutionStatus.TIMED_OUT,
        WorkflowExecutionStatus.CONTINUED_AS_NEW,
    }
)


class StatusUnknown(Exception):
    """Temporal or LiveAvatar gave no usable answer; the message says which request failed."""


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """One execution of a workflow."""

    workflow_id: str
    run_id: str


class RunStatus(StrEnum):
    """Status of a workflow run, as the janitor needs it."""

    OPEN = "open"  # the run, or a later run of its chain, is not closed
    CLOSED = "closed"
    GONE = "gone"  # Temporal has no such run: deleted, or of another Temporal cluster
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class StatusAnswer:
    """A run's status, and the reason in words for an operator."""

    status: RunStatus
    why: str


def searchable(provider_session_id: str) -> bool:
    """Whether an id can be quoted in a visibility query."""
    return _SEARCHABLE.fullmatch(provider_session_id) is not None


async def find_runs(
    client: Client, provider_session_ids: Iterable[str]
) -> dict[str, list[WorkflowRun]]:
    """The runs that opened these LiveAvatar sessions; a session without a run has no key.

    One query covers all ids: pass a few dozen at most, each `searchable`. Visibility is eventually
    consistent.

    Raises:
        StatusUnknown: the query failed; no id has an answer.
    """
    wanted: dict[str, list[WorkflowRun]] = {one: [] for one in provider_session_ids}
    quoted = ", ".join(f"'{one}'" for one in wanted)
    found = 0
    try:
        async for execution in client.list_workflows(
            f"{_PROVIDER_SESSIONS.name} IN ({quoted})", rpc_timeout=RPC_TIMEOUT
        ):
            found += 1
            if found > MAX_RUNS:
                raise StatusUnknown(f"more than {MAX_RUNS} workflows opened {len(wanted)} sessions")
            run = WorkflowRun(execution.id, execution.run_id)
            for one in execution.typed_search_attributes.get(_PROVIDER_SESSIONS, ()):
                if one in wanted:
                    wanted[one].append(run)
    except RPCError as error:
        raise StatusUnknown(f"the search for workflows failed: {_text(error)}") from error
    return {one: runs for one, runs in wanted.items() if runs}


async def status_of(client: Client, run: WorkflowRun) -> StatusAnswer:
    """The status of a run, from DescribeWorkflowExecution, which is strongly consistent."""
    try:
        described = await client.get_workflow_handle(run.workflow_id, run_id=run.run_id).describe(
            rpc_timeout=RPC_TIMEOUT
        )
        if described.status is WorkflowExecutionStatus.RUNNING:
            return StatusAnswer(RunStatus.OPEN, "its workflow is running and cleans up itself")
        if described.status not in _CLOSED:
            return StatusAnswer(RunStatus.UNKNOWN, f"its workflow's status is {described.status}")
        # Continued as new, reset or retried: a later run of the same chain owns the session.
        latest = await client.get_workflow_handle(run.workflow_id).describe(rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return StatusAnswer(RunStatus.GONE, "Temporal no longer knows its workflow")
        return StatusAnswer(RunStatus.UNKNOWN, f"its workflow cannot be described: {_text(error)}")
    chain = described.raw_description.workflow_execution_info.first_run_id
    same_chain = latest.raw_description.workflow_execution_info.first_run_id == chain
    if chain and same_chain and latest.status not in _CLOSED:
        return StatusAnswer(RunStatus.OPEN, f"its workflow continues as run {latest.run_id}")
    closed_at = f" at {described.close_time:%H:%M:%S} UTC" if described.close_time else ""
    return StatusAnswer(
        RunStatus.CLOSED, f"its workflow is {described.status.name.lower()}{closed_at}"
    )


async def request_of(client: Client, run: WorkflowRun) -> SessionRequest:
    """The session's request: the input of its workflow.

    Raises:
        StatusUnknown: the input cannot be read.
    """
    handle: WorkflowHandle[object, object] = client.get_workflow_handle(
        run.workflow_id, run_id=run.run_id
    )
    try:
        async for event in handle.fetch_history_events(page_size=1, rpc_timeout=RPC_TIMEOUT):
            payloads = event.workflow_execution_started_event_attributes.input.payloads
            inputs = await client.data_converter.decode(payloads)
            return SessionRequest.model_validate(inputs[0] if inputs else None)
    except RPCError as error:
        raise StatusUnknown(f"its workflow's input cannot be read: {_text(error)}") from error
    except (ValueError, RuntimeError) as error:  # another release, or another codec
        raise StatusUnknown(
            f"its workflow's input is not a request of this release: {type(error).__name__}"
        ) from error
    raise StatusUnknown("its workflow has no history")


def _text(error: RPCError) -> str:
    return f"{error.status.name} {error.message}"[:200]
