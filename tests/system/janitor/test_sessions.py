"""What the janitor does with LiveAvatar sessions: it ends what is over, and nothing else."""

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
from avatar_sessions.janitor import JanitorFailed, make_round
from deploy.local.stack import TemporalServer
from tests.system.janitor.conftest import (
    NOBODYS_QUEUE,
    PROVIDER_SESSIONS,
    JanitorWorld,
    client_like,
    decision_on,
)
from tests.system.sessions.conftest import own_namespace

OWNS_KEY: dict[str, object] = {
    "AVATAR_SESSIONS_JANITOR_OWNS_KEY": True,
    "AVATAR_SESSIONS_JANITOR_GRACE_S": 2,
}


async def test_an_orphan_of_a_terminated_workflow_is_stopped(world: JanitorWorld) -> None:
    orphan = await world.orphan()
    async with world.janitor():
        finding = await world.round()
        after = await world.round()
    assert not world.is_billed(orphan)
    line = finding.sessions[0]
    assert (line.provider_session_id, line.decision) == (orphan, Decision.STOPPED)
    assert line.workflow_id is not None
    assert line.workflow_id.startswith(names.WORKFLOW_ID_PREFIX)
    assert "terminated" in line.why
    assert finding.succeeded
    assert after.totals.sessions == 0


async def test_a_session_whose_workflow_timed_out_is_stopped(world: JanitorWorld) -> None:
    """An execution timeout, which our own clients never set, ends a workflow without cleanup."""
    provider_id = await world.billed()
    pair = SearchAttributePair(PROVIDER_SESSIONS, [provider_id])
    timed_out = await world.client.start_workflow(
        names.WORKFLOW_TYPE,
        id=names.workflow_id("timed-out"),
        task_queue=NOBODYS_QUEUE,
        execution_timeout=timedelta(seconds=1),
        search_attributes=TypedSearchAttributes([pair]),
    )
    async with world.janitor():
        give_up = time.monotonic() + 30
        while decision_on(await world.round(), provider_id) is Decision.RUNNING:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.2)
    assert not world.is_billed(provider_id)
    assert (await timed_out.describe()).close_time is not None


async def test_a_running_session_is_left_alone(world: JanitorWorld) -> None:
    older, newer = await world.billed(), await world.billed()
    await world.opened_by_workflow(older, newer)
    async with world.janitor(**OWNS_KEY):
        finding = await world.round()
    assert {one.decision for one in finding.sessions} == {Decision.RUNNING}
    assert world.is_billed(older)
    assert world.is_billed(newer)


async def test_the_next_session_under_the_same_key_is_no_excuse(world: JanitorWorld) -> None:
    """The workflow id runs again, but it is another run: the orphan of the first is stopped."""
    orphan, alive = await world.billed(), await world.billed()
    await (await world.opened_by_workflow(orphan, key="again")).terminate("test")
    await world.opened_by_workflow(alive, key="again")
    async with world.janitor():
        finding = await world.round()
    assert decision_on(finding, orphan) is Decision.STOPPED
    assert decision_on(finding, alive) is Decision.RUNNING
    assert world.is_billed(alive)


@workflow.defn(name=names.WORKFLOW_TYPE)
class Renewed:
    """A session that goes on in a new run, which search does not show yet."""

    @workflow.run
    async def run(self, rounds: int) -> None:
        if rounds:
            workflow.continue_as_new(rounds - 1, search_attributes=TypedSearchAttributes.empty)
        await workflow.wait_condition(lambda: False)


async def test_a_session_that_goes_on_in_another_run_is_left_alone(world: JanitorWorld) -> None:
    provider_id = await world.billed()
    pair = SearchAttributePair(PROVIDER_SESSIONS, [provider_id])
    async with (
        Worker(
            world.client,
            task_queue="renewing",
            workflows=[Renewed],
            workflow_runner=UnsandboxedWorkflowRunner(),
        ),
        world.janitor(),
    ):
        renewed = await world.client.start_workflow(
            Renewed.run,
            1,
            id=names.workflow_id("renewed"),
            task_queue="renewing",
            search_attributes=TypedSearchAttributes([pair]),
        )
        give_up = time.monotonic() + 30
        latest = world.client.get_workflow_handle(renewed.id)
        while (await latest.describe()).run_id == renewed.result_run_id:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.1)
        finding = await world.round()
        await latest.terminate("test")
        after = await world.round()
    assert decision_on(finding, provider_id) is Decision.RUNNING
    assert decision_on(after, provider_id) is Decision.STOPPED


async def test_a_stranger_is_left_alone(world: JanitorWorld) -> None:
    stranger = await world.billed()
    async with world.janitor():
        findings = [await world.round() for _ in range(2)]
    assert [decision_on(one, stranger) for one in findings] == [Decision.STRANGER] * 2
    assert world.is_billed(stranger)


async def test_another_namespaces_session_is_a_stranger(
    world: JanitorWorld, temporal: TemporalServer
) -> None:
    orphan = await world.orphan()
    elsewhere = await own_namespace(temporal)
    there = JanitorWorld(
        elsewhere, world.simulator, world.livekit, world.settings, world.liveavatar
    )
    async with there.janitor():
        finding = await there.round()
    assert decision_on(finding, orphan) is Decision.STRANGER
    assert world.is_billed(orphan)


async def test_a_stranger_is_stopped_after_the_grace_where_the_key_is_ours_alone(
    world: JanitorWorld,
) -> None:
    stranger = await world.billed()
    async with world.janitor(**OWNS_KEY):
        first = await world.round()
        assert world.is_billed(stranger)
        give_up = time.monotonic() + 30
        while decision_on(await world.round(), stranger) is Decision.TOO_YOUNG:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.2)
    assert decision_on(first, stranger) is Decision.TOO_YOUNG
    assert not world.is_billed(stranger)


async def test_a_round_by_hand_can_be_more_careful_and_never_less(world: JanitorWorld) -> None:
    stranger, orphan = await world.billed(), await world.orphan()
    async with world.janitor(AVATAR_SESSIONS_JANITOR_DRY_RUN=True, **OWNS_KEY):
        told = await world.round(dry_run=False, grace_s=1, spare_strangers=True)
    assert (told.dry_run, told.owns_key, told.grace_s) == (True, False, 2)
    assert decision_on(told, stranger) is Decision.STRANGER
    assert decision_on(told, orphan) is Decision.WOULD_STOP
    assert world.is_billed(stranger)
    assert world.is_billed(orphan)


async def test_a_dry_run_touches_nothing(world: JanitorWorld) -> None:
    orphan = await world.orphan()
    async with world.janitor():
        finding = await world.round(dry_run=True)
    assert decision_on(finding, orphan) is Decision.WOULD_STOP
    assert world.is_billed(orphan)


async def test_a_misspelt_dry_run_is_refused(world: JanitorWorld) -> None:
    """A typed input would have dropped the word, and made a real round of it."""
    orphan = await world.orphan()
    async with world.janitor():
        misspelt = await world.client.start_workflow(
            names.JANITOR_WORKFLOW_TYPE,
            {"dryrun": True},
            id="misspelt",
            task_queue=names.JANITOR_TASK_QUEUE,
        )
        with pytest.raises(WorkflowFailureError) as refused:
            await misspelt.result()
    assert "dryrun" in str(refused.value.cause)
    assert world.is_billed(orphan)


async def test_a_list_that_fails_is_told_and_the_next_round_works(world: JanitorWorld) -> None:
    orphan = await world.orphan()
    async with world.janitor():
        world.outage.list_fails = True
        blind = await world.round()
        world.outage.list_fails = False
        seeing = await world.round()
    assert not blind.succeeded
    assert "could not be listed (none was seen): LiveAvatar answered 503" in blind.problems[0]
    assert decision_on(seeing, orphan) is Decision.STOPPED
    assert seeing.succeeded


async def test_a_stop_that_fails_once_is_repeated_in_the_round(world: JanitorWorld) -> None:
    orphan = await world.orphan()
    world.simulator.faults.stop_failures = 1
    async with world.janitor():
        finding = await world.round()
    assert decision_on(finding, orphan) is Decision.STOPPED


async def test_a_stop_that_keeps_failing_is_told_and_tried_in_the_next_round(
    world: JanitorWorld,
) -> None:
    orphan = await world.orphan()
    world.simulator.faults.stop_failures = 1000
    async with world.janitor():
        failed = await world.round()
        world.simulator.faults.stop_failures = 0
        after = await world.round()
    assert decision_on(failed, orphan) is Decision.FAILED
    assert "503" in failed.sessions[0].why
    assert not failed.succeeded
    assert decision_on(after, orphan) is Decision.STOPPED


async def test_a_failed_search_leaves_everything_alone(world: JanitorWorld) -> None:
    """Here: a namespace without our search attributes, and a key said to be ours alone."""
    orphan = await world.orphan()
    elsewhere = await _bare_namespace(world)
    there = JanitorWorld(
        elsewhere, world.simulator, world.livekit, world.settings, world.liveavatar
    )
    async with there.janitor(**OWNS_KEY):
        finding = await there.round()
    assert decision_on(finding, orphan) is Decision.IN_DOUBT
    assert "the search for workflows failed" in finding.problems[0]
    assert world.is_billed(orphan)


async def test_two_janitors_at_once_do_no_harm(world: JanitorWorld) -> None:
    orphans = [await world.orphan() for _ in range(5)]
    alive = await world.billed()
    await world.opened_by_workflow(alive)
    async with world.janitor(), world.janitor():
        findings = await asyncio.gather(*(world.round() for _ in range(4)))
    assert not any(world.is_billed(one) for one in orphans)
    assert world.is_billed(alive)
    assert all(one.succeeded for one in findings)
    assert sum(one.totals.sessions_by_decision.get(Decision.STOPPED, 0) for one in findings) >= 5


async def test_many_orphans_on_several_pages_are_all_stopped_and_the_finding_stays_small(
    world: JanitorWorld,
) -> None:
    orphans = [await world.billed() for _ in range(MAX_LINES + 30)]
    for begin in range(0, len(orphans), 20):
        await (await world.opened_by_workflow(*orphans[begin : begin + 20])).terminate("test")
    async with world.janitor():
        finding = await world.round()
    assert not any(world.is_billed(one) for one in orphans)
    assert len(finding.sessions) == MAX_LINES
    assert finding.totals.sessions_by_decision == {Decision.STOPPED: len(orphans)}


async def test_a_round_that_cannot_be_understood_fails_with_its_reason(world: JanitorWorld) -> None:
    async with world.janitor():
        with pytest.raises(JanitorFailed, match="grace_s"):
            await make_round(world.client, JanitorRound.model_construct(grace_s=-1.0), timeout_s=30)


async def _bare_namespace(world: JanitorWorld) -> Client:
    """A namespace without search attributes of ours."""
    name = f"bare-{time.monotonic_ns()}"
    await world.client.workflow_service.register_namespace(
        RegisterNamespaceRequest(
            namespace=name, workflow_execution_retention_period=Duration(seconds=86_400)
        )
    )
    bare = await client_like(world.client, name)
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
