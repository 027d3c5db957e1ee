"""The janitor stops LiveAvatar sessions whose workflow has closed, and no others."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio import workflow
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from avatar_sessions.contract import names
from avatar_sessions.contract.janitor import MAX_LINES, Decision, JanitorRound
from avatar_sessions.janitor import JanitorFailed, run_round
from deploy.local.temporal import TemporalServer
from tests.support.platforms.janitor import (
    PROVIDER_SESSIONS,
    QUEUE_WITHOUT_WORKERS,
    JanitorEnvironment,
    client_like,
    decision_on,
)

OWNS_KEY: dict[str, object] = {
    "AVATAR_SESSIONS_JANITOR_OWNS_KEY": True,
    "AVATAR_SESSIONS_JANITOR_GRACE_S": 2,
}


async def test_an_orphan_of_a_terminated_workflow_is_stopped(
    environment: JanitorEnvironment,
) -> None:
    orphan = await environment.orphan()
    async with environment.janitor():
        finding = await environment.round()
        after = await environment.round()
    assert not environment.is_billed(orphan)
    line = finding.sessions[0]
    assert (line.provider_session_id, line.decision) == (orphan, Decision.STOPPED)
    assert line.workflow_id is not None
    assert line.workflow_id.startswith(names.WORKFLOW_ID_PREFIX)
    assert "terminated" in line.why
    assert finding.succeeded
    assert after.totals.sessions == 0


async def test_a_session_whose_workflow_timed_out_is_stopped(
    environment: JanitorEnvironment,
) -> None:
    """An execution timeout, which the client never sets, ends a workflow without cleanup."""
    provider_id = await environment.billed()
    pair = SearchAttributePair(PROVIDER_SESSIONS, [provider_id])
    timed_out = await environment.client.start_workflow(
        names.WORKFLOW_TYPE,
        id=names.workflow_id("timed-out"),
        task_queue=QUEUE_WITHOUT_WORKERS,
        execution_timeout=timedelta(seconds=1),
        search_attributes=TypedSearchAttributes([pair]),
    )
    async with environment.janitor():
        give_up = time.monotonic() + 30
        while decision_on(await environment.round(), provider_id) is Decision.RUNNING:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.2)
    assert not environment.is_billed(provider_id)
    assert (await timed_out.describe()).close_time is not None


async def test_a_running_session_is_left_alone(environment: JanitorEnvironment) -> None:
    older, newer = await environment.billed(), await environment.billed()
    await environment.opened_by_workflow(older, newer)
    async with environment.janitor(**OWNS_KEY):
        finding = await environment.round()
    assert {one.decision for one in finding.sessions} == {Decision.RUNNING}
    assert environment.is_billed(older)
    assert environment.is_billed(newer)


async def test_a_new_session_under_the_same_key_does_not_spare_the_orphan(
    environment: JanitorEnvironment,
) -> None:
    """The workflow id runs again, but it is another run: the orphan of the first is stopped."""
    orphan, alive = await environment.billed(), await environment.billed()
    await (await environment.opened_by_workflow(orphan, key="again")).terminate("test")
    await environment.opened_by_workflow(alive, key="again")
    async with environment.janitor():
        finding = await environment.round()
    assert decision_on(finding, orphan) is Decision.STOPPED
    assert decision_on(finding, alive) is Decision.RUNNING
    assert environment.is_billed(alive)


@workflow.defn(name=names.WORKFLOW_TYPE)
class Renewed:
    """A session that goes on in a new run, which search does not show yet."""

    @workflow.run
    async def run(self, rounds: int) -> None:
        if rounds:
            workflow.continue_as_new(rounds - 1, search_attributes=TypedSearchAttributes.empty)
        await workflow.wait_condition(lambda: False)


async def test_a_session_that_goes_on_in_another_run_is_left_alone(
    environment: JanitorEnvironment,
) -> None:
    provider_id = await environment.billed()
    pair = SearchAttributePair(PROVIDER_SESSIONS, [provider_id])
    async with (
        Worker(
            environment.client,
            task_queue="renewing",
            workflows=[Renewed],
            workflow_runner=UnsandboxedWorkflowRunner(),
        ),
        environment.janitor(),
    ):
        renewed = await environment.client.start_workflow(
            Renewed.run,
            1,
            id=names.workflow_id("renewed"),
            task_queue="renewing",
            search_attributes=TypedSearchAttributes([pair]),
        )
        give_up = time.monotonic() + 30
        latest = environment.client.get_workflow_handle(renewed.id)
        while (await latest.describe()).run_id == renewed.result_run_id:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.1)
        finding = await environment.round()
        await latest.terminate("test")
        after = await environment.round()
    assert decision_on(finding, provider_id) is Decision.RUNNING
    assert decision_on(after, provider_id) is Decision.STOPPED


async def test_a_stranger_is_left_alone(environment: JanitorEnvironment) -> None:
    stranger = await environment.billed()
    async with environment.janitor():
        findings = [await environment.round() for _ in range(2)]
    assert [decision_on(one, stranger) for one in findings] == [Decision.STRANGER] * 2
    assert environment.is_billed(stranger)


async def test_another_namespaces_session_is_a_stranger(
    environment: JanitorEnvironment, temporal: TemporalServer
) -> None:
    orphan = await environment.orphan()
    elsewhere = await temporal.new_namespace()
    there = JanitorEnvironment(
        elsewhere,
        environment.simulator,
        environment.livekit,
        environment.settings,
        environment.liveavatar,
    )
    async with there.janitor():
        finding = await there.round()
    assert decision_on(finding, orphan) is Decision.STRANGER
    assert environment.is_billed(orphan)


async def test_with_an_own_api_key_a_stranger_is_stopped_after_the_grace(
    environment: JanitorEnvironment,
) -> None:
    stranger = await environment.billed()
    async with environment.janitor(**OWNS_KEY):
        first = await environment.round()
        assert environment.is_billed(stranger)
        give_up = time.monotonic() + 30
        while decision_on(await environment.round(), stranger) is Decision.TOO_YOUNG:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.2)
    assert decision_on(first, stranger) is Decision.TOO_YOUNG
    assert not environment.is_billed(stranger)


async def test_a_manual_round_can_only_be_more_careful(
    environment: JanitorEnvironment,
) -> None:
    stranger, orphan = await environment.billed(), await environment.orphan()
    async with environment.janitor(AVATAR_SESSIONS_JANITOR_DRY_RUN=True, **OWNS_KEY):
        dry = await environment.round(dry_run=False, grace_s=1, spare_strangers=True)
    assert (dry.dry_run, dry.owns_key, dry.grace_s) == (True, False, 2)
    assert decision_on(dry, stranger) is Decision.STRANGER
    assert decision_on(dry, orphan) is Decision.WOULD_STOP
    assert environment.is_billed(stranger)
    assert environment.is_billed(orphan)


async def test_a_dry_run_touches_nothing(environment: JanitorEnvironment) -> None:
    orphan = await environment.orphan()
    async with environment.janitor():
        finding = await environment.round(dry_run=True)
    assert decision_on(finding, orphan) is Decision.WOULD_STOP
    assert environment.is_billed(orphan)


async def test_a_misspelt_dry_run_is_refused(environment: JanitorEnvironment) -> None:
    """A typed input would have dropped the field, and the round would have stopped sessions."""
    orphan = await environment.orphan()
    async with environment.janitor():
        misspelt = await environment.client.start_workflow(
            names.JANITOR_WORKFLOW_TYPE,
            {"dryrun": True},
            id="misspelt",
            task_queue=names.JANITOR_TASK_QUEUE,
        )
        with pytest.raises(WorkflowFailureError) as refused:
            await misspelt.result()
    assert "dryrun" in str(refused.value.cause)
    assert environment.is_billed(orphan)


async def test_a_failing_list_is_reported_and_the_next_round_works(
    environment: JanitorEnvironment,
) -> None:
    orphan = await environment.orphan()
    async with environment.janitor():
        environment.outage.list_fails = True
        blind = await environment.round()
        environment.outage.list_fails = False
        seeing = await environment.round()
    assert not blind.succeeded
    assert "could not be listed (none was seen): LiveAvatar answered 503" in blind.problems[0]
    assert decision_on(seeing, orphan) is Decision.STOPPED
    assert seeing.succeeded


async def test_a_stop_that_fails_once_is_repeated_in_the_round(
    environment: JanitorEnvironment,
) -> None:
    orphan = await environment.orphan()
    environment.simulator.faults.stop_failures = 1
    async with environment.janitor():
        finding = await environment.round()
    assert decision_on(finding, orphan) is Decision.STOPPED


async def test_a_stop_that_keeps_failing_is_reported_and_retried_in_the_next_round(
    environment: JanitorEnvironment,
) -> None:
    orphan = await environment.orphan()
    environment.simulator.faults.stop_failures = 1000
    async with environment.janitor():
        failed = await environment.round()
        environment.simulator.faults.stop_failures = 0
        after = await environment.round()
    assert decision_on(failed, orphan) is Decision.FAILED
    assert "503" in failed.sessions[0].why
    assert not failed.succeeded
    assert decision_on(after, orphan) is Decision.STOPPED


async def test_a_failed_search_leaves_everything_alone(environment: JanitorEnvironment) -> None:
    """Here: a namespace without the search attributes, and an API key of this system only."""
    orphan = await environment.orphan()
    elsewhere = await _bare_namespace(environment)
    there = JanitorEnvironment(
        elsewhere,
        environment.simulator,
        environment.livekit,
        environment.settings,
        environment.liveavatar,
    )
    async with there.janitor(**OWNS_KEY):
        finding = await there.round()
    assert decision_on(finding, orphan) is Decision.IN_DOUBT
    assert "the search for workflows failed" in finding.problems[0]
    assert environment.is_billed(orphan)


async def test_two_concurrent_janitors_do_no_harm(environment: JanitorEnvironment) -> None:
    orphans = [await environment.orphan() for _ in range(5)]
    alive = await environment.billed()
    await environment.opened_by_workflow(alive)
    async with environment.janitor(), environment.janitor():
        findings = await asyncio.gather(*(environment.round() for _ in range(4)))
    assert not any(environment.is_billed(one) for one in orphans)
    assert environment.is_billed(alive)
    assert all(one.succeeded for one in findings)
    assert sum(one.totals.sessions_by_decision.get(Decision.STOPPED, 0) for one in findings) >= 5


async def test_many_orphans_on_several_pages_are_all_stopped_and_the_finding_stays_small(
    environment: JanitorEnvironment,
) -> None:
    orphans = [await environment.billed() for _ in range(MAX_LINES + 30)]
    for begin in range(0, len(orphans), 20):
        await (await environment.opened_by_workflow(*orphans[begin : begin + 20])).terminate("test")
    async with environment.janitor():
        finding = await environment.round()
    assert not any(environment.is_billed(one) for one in orphans)
    assert len(finding.sessions) == MAX_LINES
    assert finding.totals.sessions_by_decision == {Decision.STOPPED: len(orphans)}


async def test_a_round_that_cannot_be_understood_fails_with_its_reason(
    environment: JanitorEnvironment,
) -> None:
    async with environment.janitor():
        with pytest.raises(JanitorFailed, match="grace_s"):
            await run_round(
                environment.client, JanitorRound.model_construct(grace_s=-1.0), timeout_s=30
            )


async def _bare_namespace(environment: JanitorEnvironment) -> Client:
    """A namespace without the search attributes."""
    name = f"bare-{time.monotonic_ns()}"
    await environment.client.workflow_service.register_namespace(
        RegisterNamespaceRequest(
            namespace=name, workflow_execution_retention_period=Duration(seconds=86_400)
        )
    )
    bare = await client_like(environment.client, name)
    give_up = time.monotonic() + 30
    while True:
        try:
            await bare.count_workflows()
        except RPCError as error:
            if time.monotonic() > give_up:
                raise AssertionError("the namespace does not appear") from error
            await asyncio.sleep(0.2)
        else:
            return bare
