"""The Temporal Schedule that starts the janitor's rounds: made, kept up to date, never resumed.

Any of the janitor's processes does it, several at once if need be. Whether it is paused is the
operator's business, and no failure in here is the worker's.
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
"""Rounds missed while Temporal was away are not made up for: the next one sees all. The least
that Temporal takes."""
RUN_TIMEOUT: Final = timedelta(minutes=2)
"""A round that no worker took makes room for the next one."""
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
LOOK_AGAIN_S: Final = 300.0
"""How soon a schedule that somebody deleted is made again."""
NOTE: Final = (
    "stops LiveAvatar sessions and deletes rooms whose workflow has closed; made by the worker"
    " (docs/operate/janitor.md)"
)


def janitor_schedule(interval_s: int) -> Schedule:
    """The schedule as it should be."""
    return Schedule(
        action=ScheduleActionStartWorkflow(
            names.JANITOR_WORKFLOW_TYPE,
            JanitorRound(),
            id=names.JANITOR_WORKFLOW_ID,
            task_queue=names.JANITOR_TASK_QUEUE,
            run_timeout=RUN_TIMEOUT,
            task_timeout=timedelta(seconds=names.WORKFLOW_TASK_TIMEOUT_S),
            static_summary="end what nobody lives in",
            static_details=(
                "Lists LiveAvatar's active sessions and our LiveKit rooms, looks up the workflow"
                " of each, and ends those whose workflow is closed. The result tells all of them."
            ),
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=interval_s))]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCH_UP),
        state=ScheduleState(note=NOTE),
    )


@contextlib.asynccontextmanager
async def maintained_schedule(client: Client, interval_s: int) -> AsyncIterator[None]:
    """See to it that the schedule exists, beside the worker's work."""
    keeping = asyncio.create_task(_keep(client, interval_s), name="janitor's schedule")
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.wait({keeping}, timeout=5)
        if keeping.done() and not keeping.cancelled() and keeping.exception() is not None:
            logger.error("the janitor's schedule was not kept", exc_info=keeping.exception())


async def _keep(client: Client, interval_s: int) -> None:
    pause_s, was_there = FIRST_PAUSE_S, False
    while True:
        try:
            # A change of settings is made once, at the start: two processes with different ones
            # (a deploy) do not set it to and fro.
            await ensure_schedule(client, interval_s, update=not was_there)
        except (RPCError, RuntimeError, TimeoutError) as error:
            logger.error(
                "the janitor's schedule %r cannot be made or read (%s): until it is there, nothing"
                " ends what dead workers leave behind but LiveAvatar's own limits. Trying again in"
                " %.0f s; by hand: `avatar-sessions janitor`",
                names.JANITOR_SCHEDULE_ID,
                _text(error),
                pause_s,
            )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        else:
            pause_s, was_there = FIRST_PAUSE_S, True
            await asyncio.sleep(LOOK_AGAIN_S)


async def ensure_schedule(client: Client, interval_s: int, *, update: bool = True) -> None:
    """Create the schedule if it is missing; ``update``: change one that differs.

    A pause, and the note of who made it, stay.

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
            return  # another process was quicker, and knows no less
        logger.info("janitor's schedule created: every %d s", interval_s)
        return
    if not update or _same(described.schedule, wanted):
        return

    def change(now: ScheduleUpdateInput) -> ScheduleUpdate:
        return ScheduleUpdate(replace(wanted, state=now.description.schedule.state))

    await handle.update(change, rpc_timeout=RPC_TIMEOUT)
    logger.info("janitor's schedule updated: every %d s", interval_s)


def _same(found: Schedule, wanted: Schedule) -> bool:
    return _essence(found) == _essence(wanted)


def _essence(schedule: Schedule) -> tuple[Any, ...]:
    """What of a schedule is ours to decide, without what the server fills in."""
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
