"""Maintains the Temporal Schedule that starts the janitor's rounds: creates and updates it.

Every janitor process does so; several at the same time do no harm. A paused schedule stays paused:
that is the operator's decision. A failure here does not stop the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from avatar_sessions.contract import names
from avatar_sessions.contract.janitor import JanitorRound

logger = logging.getLogger(__name__)

RPC_TIMEOUT: Final = timedelta(seconds=10)
CATCH_UP: Final = timedelta(seconds=10)
"""Rounds that were missed while Temporal was away are not caught up on: the next round checks
everything. This is the shortest window that Temporal takes."""
RUN_TIMEOUT: Final = timedelta(minutes=2)
"""After this time, a round that no worker has taken gives way to the next one."""
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
CHECK_EVERY_S: Final = 300.0
"""How often the schedule is checked, and created again if it was deleted."""
NOTE: Final = (
    "stops LiveAvatar sessions and deletes rooms whose workflow has closed; created by the worker"
    " (docs/operate/janitor.md)"
)


def janitor_schedule(interval_s: int) -> Schedule:
    """Return the schedule as it should be."""
    return Schedule(
        action=ScheduleActionStartWorkflow(
            names.JANITOR_WORKFLOW_TYPE,
            JanitorRound(),
            id=names.JANITOR_WORKFLOW_ID,
            task_queue=names.JANITOR_TASK_QUEUE,
            run_timeout=RUN_TIMEOUT,
            task_timeout=timedelta(seconds=names.WORKFLOW_TASK_TIMEOUT_S),
            static_summary="end sessions and rooms whose workflow has closed",
            static_details=(
                "Lists LiveAvatar's active sessions and the rooms on the workers' LiveKit server,"
                " looks up the workflow of each, and ends those whose workflow has closed. The"
                " result lists the decisions."
            ),
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=interval_s))]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCH_UP),
        state=ScheduleState(note=NOTE),
    )


@contextlib.asynccontextmanager
async def maintained_schedule(client: Client, interval_s: int) -> AsyncIterator[None]:
    """Maintain the schedule in the background while the block runs."""
    task = asyncio.create_task(_maintain(client, interval_s), name="janitor's schedule")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        if task.done() and not task.cancelled() and task.exception() is not None:
            logger.error("maintaining the janitor's schedule failed", exc_info=task.exception())


async def _maintain(client: Client, interval_s: int) -> None:
    pause_s, checked = FIRST_PAUSE_S, False
    while True:
        try:
            # Settings are applied once, at the start: two processes with different ones (during a
            # deploy) must not change the schedule back and forth.
            await ensure_schedule(client, interval_s, update=not checked)
        except (RPCError, RuntimeError, TimeoutError) as error:
            logger.error(
                "the janitor's schedule %r cannot be created or read (%s): without it, only"
                " LiveAvatar's own limits end sessions that dead workers leave running. Retrying"
                " in %.0f s; run a round by hand with `avatar-sessions janitor`",
                names.JANITOR_SCHEDULE_ID,
                _text(error),
                pause_s,
            )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        else:
            pause_s, checked = FIRST_PAUSE_S, True
            await asyncio.sleep(CHECK_EVERY_S)


async def ensure_schedule(client: Client, interval_s: int, *, update: bool = True) -> None:
    """Create the schedule if it is missing; with ``update``, change one that differs.

    A pause and its note stay.

    Raises:
        RPCError: Temporal does not answer, or refuses.
    """
    wanted = janitor_schedule(interval_s)
    handle = client.get_schedule_handle(names.JANITOR_SCHEDULE_ID)
    try:
        described = await handle.describe(rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        try:
            await client.create_schedule(names.JANITOR_SCHEDULE_ID, wanted, rpc_timeout=RPC_TIMEOUT)
        except ScheduleAlreadyRunningError:
            return  # another process created the same one meanwhile
        logger.info("janitor's schedule created: every %d s", interval_s)
        return
    if not update or _same(described.schedule, wanted):
        return

    def change(now: ScheduleUpdateInput) -> ScheduleUpdate:
        return ScheduleUpdate(replace(wanted, state=now.description.schedule.state))

    await handle.update(change, rpc_timeout=RPC_TIMEOUT)
    logger.info("janitor's schedule updated: every %d s", interval_s)


def _same(found: Schedule, wanted: Schedule) -> bool:
    return _decided_parts(found) == _decided_parts(wanted)


def _decided_parts(schedule: Schedule) -> tuple[Any, ...]:
    """The parts of a schedule that this project decides, without the server's defaults."""
    action, spec, policy = schedule.action, schedule.spec, schedule.policy
    if not isinstance(action, ScheduleActionStartWorkflow):
        return ()
    return (
        action.workflow,
        action.id,
        action.task_queue,
        action.run_timeout,
        action.task_timeout,
        [one.every for one in spec.intervals],
        len(spec.calendars) + len(spec.cron_expressions),
        policy.overlap,
        policy.catchup_window,
    )


def _text(error: Exception) -> str:
    if isinstance(error, RPCError):
        return f"{error.status.name} {error.message}"[:200]
    return str(error).split("\n", 1)[0][:200] or type(error).__name__
