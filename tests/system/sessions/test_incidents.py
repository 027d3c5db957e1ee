"""What a hostile reading of the sessions' life found, each as it happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from temporalio.client import WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from activities import failures
from avatar_sessions import (
    AvatarSessions,
    Clip,
    CommandRejected,
    End,
    EndReason,
    SessionState,
    SetPose,
    Speak,
)
from avatar_sessions.contract.states import Pose, UtteranceOutcome
from avatar_sessions.seal import Seal
from deploy.local.stack import TemporalServer
from tests.support.waiting import until
from tests.system.sessions.conftest import Platform, new_key, own_namespace, running_workers, wayne
from workers.settings import WorkerSettings

SHORT, LONG = Clip(file="short.wav"), Clip(file="long.wav")


def open_in_ledger(platform: Platform, provider_session_id: str) -> bool:
    lines = platform.simulator.ledger().sessions
    line = next(one for one in lines if str(one.session_id) == provider_session_id)
    return line.ended_at is None


@pytest_asyncio.fixture
async def trickle() -> AsyncIterator[str]:
    """The address of a clip that never comes to its end."""

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(600):
            await response.write(b"x")
            await asyncio.sleep(0.1)
        return response

    app = web.Application()
    app.add_routes([web.get("/clip.wav", drip)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/clip.wav"
    await runner.cleanup()


@pytest_asyncio.fixture
async def open_minded(
    temporal: TemporalServer, platform: Platform, worker_settings: WorkerSettings
) -> AsyncIterator[Platform]:
    """Workers that fetch clips from loopback, too."""
    settings = worker_settings.model_copy(update={"clip_allow_private_addresses": True})
    client = await own_namespace(temporal)
    async with running_workers(client, settings):
        yield Platform(
            simulator=platform.simulator,
            sessions=AvatarSessions(client, Seal(settings.seal_keys)),
            client=client,
            settings=settings,
            clip_folder=platform.clip_folder,
        )


async def test_an_end_does_not_wait_for_a_clip_that_never_comes(
    open_minded: Platform, trickle: str
) -> None:
    """The cancel of the utterance was taken for its failure, and the workflow stayed in ENDING
    for ever: provider stopped, room left, key taken."""
    session = await open_minded.start()
    await session.attach()
    await session.send(Speak(clip=Clip(url=trickle)))
    await asyncio.sleep(1)
    report = await session.end(timeout_s=30)
    assert report.end_reason is EndReason.REQUESTED
    assert report.utterances[0].outcome is UtteranceOutcome.CANCELLED


async def test_an_interrupt_frees_the_mouth_from_a_clip_that_never_comes(
    open_minded: Platform, trickle: str
) -> None:
    """Speech asked for after the interrupt was not heard before the fetch had run out of time."""
    session = await open_minded.start()
    await session.attach()
    await session.send(Speak(clip=Clip(url=trickle), command_id="slow"))
    await asyncio.sleep(1)
    await session.interrupt()
    assert (await session.speak(SHORT)).outcome is UtteranceOutcome.COMPLETED
    report = await session.end()
    assert [line.outcome for line in report.utterances] == [
        UtteranceOutcome.INTERRUPTED,
        UtteranceOutcome.COMPLETED,
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"queue": "x" * 1500},
        {"queue": "/_sys/x"},
        {"queue": "avatar-owner:000000000000", "epoch": [7, 1]},
        {"queue": "avatar-owner:000000000000", "provider_session_id": "another"},
    ],
    ids=["long queue", "reserved queue", "other stream", "other session"],
)
async def test_a_strangers_owner_ready_changes_nothing(
    platform: Platform, change: dict[str, Any]
) -> None:
    """A bogus queue failed every workflow task from then on, and the session went on billing."""
    session = await platform.start()
    await session.attach()
    provider_id = (await session.status()).provider_session_id
    bogus = {
        "queue": "avatar-owner:000000000000",
        "epoch": [1, 2],
        "provider_session_id": provider_id,
        **change,
    }
    await platform.client.get_workflow_handle(session.workflow_id).signal("owner_ready", bogus)
    assert (await session.speak(SHORT)).outcome is UtteranceOutcome.COMPLETED
    report = await session.end()
    assert report.ignored_count == 1
    assert report.takeovers == 0


async def test_a_rejection_stays_small_whatever_was_wrong(platform: Platform) -> None:
    """60,000 unknown fields made a rejection of 3.7 MB, which the server refused again and again:
    the session answered nothing any more, and billed."""
    session = await platform.start()
    await session.attach()
    handle = platform.client.get_workflow_handle(session.workflow_id)
    bad = {"kind": "interrupt"} | {f"field{number}": 1 for number in range(60_000)}
    with pytest.raises(WorkflowUpdateFailedError) as caught:
        await handle.execute_update("perform", bad)
    assert isinstance(caught.value.cause, ApplicationError)
    assert len(caught.value.cause.message) < 2000
    assert "and 59990 more" in caught.value.cause.message
    assert (await session.end()).end_reason is EndReason.REQUESTED


async def test_an_end_that_waited_too_long_ends_the_session(platform: Platform) -> None:
    """It expired like any other command, and the session billed until it was idle."""
    platform.simulator.faults.slow_start_s = 3.0
    try:
        session = await platform.start()
        await session.send(End(finish_speaking=True, ttl_s=1))
        report = await session.report(timeout_s=40)
    finally:
        platform.simulator.faults.slow_start_s = 0.0
    assert report.end_reason is EndReason.REQUESTED
    assert report.cleanup.provider_stopped


async def test_one_id_is_one_command(platform: Platform) -> None:
    """`perform` answered a speak with the result of the pose that had the same id."""
    session = await platform.start()
    await session.attach()
    await session.perform(SetPose(pose=Pose.LISTENING, command_id="x"))
    with pytest.raises(CommandRejected, match="another command"):
        await session.speak(SHORT, command_id="x")
    await session.send(Speak(clip=SHORT, command_id="x"))
    await session.send(End(command_id="x"))
    report = await session.report(timeout_s=40)
    assert report.end_reason is EndReason.REQUESTED
    assert report.ignored_count == 1


async def test_a_workflow_terminated_during_its_start_leaves_nothing_open(
    platform: Platform,
) -> None:
    """The reply to the start came to nobody: the session billed until LiveAvatar reaped it."""
    platform.simulator.faults.slow_start_s = 2.0
    try:
        session = await platform.start()
        while (await session.status()).state is not SessionState.STARTING:
            await asyncio.sleep(0.05)
        provider_id = (await session.status()).provider_session_id
        await asyncio.sleep(0.5)
        await platform.client.get_workflow_handle(session.workflow_id).terminate("test")
        await asyncio.sleep(2.0)
    finally:
        platform.simulator.faults.slow_start_s = 0.0
    assert provider_id is not None
    await until(lambda: not open_in_ledger(platform, provider_id))


async def test_an_end_while_a_lost_start_is_stopped_raises_no_false_alarm(
    platform: Platform,
) -> None:
    """The stop that the end cut short was reported as "may still be billed" although the end
    itself had stopped the session."""
    platform.simulator.faults.lost_start_replies = 1
    platform.simulator.faults.stop_failures = 2
    try:
        session = await platform.start()
        while (await session.status()).state is not SessionState.STARTING:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        report = await session.end()
    finally:
        platform.simulator.faults.lost_start_replies = 0
        platform.simulator.faults.stop_failures = 0
    assert report.cleanup.provider_stopped
    assert report.cleanup.problems == []


async def test_a_viewer_cannot_take_the_avatars_place(platform: Platform) -> None:
    session = await platform.sessions.start(new_key(), wayne(room={}))
    with pytest.raises(CommandRejected, match="viewer_identity"):
        await session.attach(viewer_identity="avatar")
    await session.end()


def test_keys_that_differ_between_workers_are_told_at_once() -> None:
    """The stream was tried without end, and the report said only that the time was over."""
    with pytest.raises(ApplicationError) as caught:
        failures.opened(Seal([Seal.new_key()]), Seal([Seal.new_key()]).seal("fake"))
    assert caught.value.type == "SealMismatch"
    assert caught.value.non_retryable
