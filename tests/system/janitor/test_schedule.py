"""The janitor's schedule: made by any worker, changed with its settings, paused by people only."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import pytest
from temporalio.client import ScheduleActionStartWorkflow, ScheduleHandle, ScheduleOverlapPolicy
from temporalio.service import RPCError

from avatar_sessions.contract import names
from tests.support.platforms.janitor import JanitorEnvironment, client_like
from tests.support.waiting import until
from workers.janitor_schedule import ensure_schedule, maintained_schedule


def schedule_of(environment: JanitorEnvironment) -> ScheduleHandle:
    return environment.client.get_schedule_handle(names.JANITOR_SCHEDULE_ID)


async def every(environment: JanitorEnvironment) -> timedelta:
    described = await schedule_of(environment).describe()
    return described.schedule.spec.intervals[0].every


async def exists(environment: JanitorEnvironment) -> bool:
    try:
        await schedule_of(environment).describe()
    except RPCError:
        return False
    return True


async def test_a_missing_schedule_is_created(environment: JanitorEnvironment) -> None:
    await ensure_schedule(environment.client, 30)
    schedule = (await schedule_of(environment).describe()).schedule
    assert await every(environment) == timedelta(seconds=30)
    assert schedule.policy.overlap is ScheduleOverlapPolicy.SKIP
    assert schedule.policy.catchup_window == timedelta(seconds=10)
    assert isinstance(schedule.action, ScheduleActionStartWorkflow)
    assert schedule.action.task_queue == names.JANITOR_TASK_QUEUE
    assert not schedule.state.paused


async def test_a_scheduled_round_runs(environment: JanitorEnvironment) -> None:
    orphan = await environment.orphan()
    async with environment.janitor():
        await ensure_schedule(environment.client, 1)
        await until(lambda: not environment.is_billed(orphan), 40)


async def test_changed_settings_update_the_schedule(environment: JanitorEnvironment) -> None:
    await ensure_schedule(environment.client, 30)
    await ensure_schedule(environment.client, 12)
    assert await every(environment) == timedelta(seconds=12)


async def test_unchanged_settings_do_not_update_it(environment: JanitorEnvironment) -> None:
    await ensure_schedule(environment.client, 30)
    before = (await schedule_of(environment).describe()).info.last_updated_at
    await ensure_schedule(environment.client, 30)
    assert (await schedule_of(environment).describe()).info.last_updated_at == before


async def test_a_pause_outlives_a_restart_and_a_change(environment: JanitorEnvironment) -> None:
    await ensure_schedule(environment.client, 30)
    await schedule_of(environment).pause(note="the operator looks into something")
    await ensure_schedule(environment.client, 30)
    await ensure_schedule(environment.client, 12)
    state = (await schedule_of(environment).describe()).schedule.state
    assert state.paused
    assert state.note == "the operator looks into something"
    assert await every(environment) == timedelta(seconds=12)


async def test_several_processes_may_create_it_concurrently(
    environment: JanitorEnvironment,
) -> None:
    clients = [
        await client_like(environment.client, environment.client.namespace) for _ in range(4)
    ]
    await asyncio.gather(*(ensure_schedule(one, 30) for one in clients))
    assert await every(environment) == timedelta(seconds=30)


async def test_a_worker_maintains_the_schedule(environment: JanitorEnvironment) -> None:
    async with maintained_schedule(environment.client, 30):
        async with asyncio.timeout(30):
            while not await exists(environment):
                await asyncio.sleep(0.1)


async def test_a_schedule_that_cannot_be_created_is_logged_and_retried(
    environment: JanitorEnvironment, caplog: pytest.LogCaptureFixture
) -> None:
    """Here: a namespace that does not exist. The worker retries while it runs."""
    nowhere = await client_like(environment.client, "no-such-namespace")
    with caplog.at_level(logging.ERROR, logger="workers.janitor_schedule"):
        async with maintained_schedule(nowhere, 30):
            await until(lambda: len(caplog.records) >= 2, 30)
    assert "cannot be created or read" in caplog.text
    assert "Retrying" in caplog.text
    assert "Traceback" not in caplog.text
