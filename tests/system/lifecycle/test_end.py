"""An end, an interrupt or a termination that meets work under way leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from aiohttp import web

from avatar_sessions import (
    AvatarSessions,
    Clip,
    End,
    EndReason,
    SessionState,
    Speak,
)
from avatar_sessions.contract.states import UtteranceOutcome
from avatar_sessions.seal import Seal
from deploy.local.temporal import TemporalServer
from tests.support.platforms.in_process import SHORT, Platform, running_workers
from tests.support.waiting import until
from workers.settings import WorkerSettings


def open_in_ledger(platform: Platform, provider_session_id: str) -> bool:
    lines = platform.simulator.ledger().sessions
    line = next(one for one in lines if str(one.session_id) == provider_session_id)
    return line.ended_at is None


@pytest_asyncio.fixture
async def trickle() -> AsyncIterator[str]:
    """The URL of a clip whose download never ends."""

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
async def private_clips(
    temporal: TemporalServer, platform: Platform, worker_settings: WorkerSettings
) -> AsyncIterator[Platform]:
    """Workers that fetch clips from loopback, too."""
    settings = worker_settings.model_copy(update={"clip_allow_private_addresses": True})
    client = await temporal.new_namespace()
    async with running_workers(client, settings):
        yield Platform(
            simulator=platform.simulator,
            sessions=AvatarSessions(client, Seal(settings.seal_keys)),
            client=client,
            settings=settings,
            clip_folder=platform.clip_folder,
        )


async def test_an_end_does_not_wait_for_a_clip_that_never_comes(
    private_clips: Platform, trickle: str
) -> None:
    """The cancel of the utterance was taken for its failure, and the workflow stayed in ENDING
    for ever: LiveAvatar stopped, the room left behind, the key in use."""
    session = await private_clips.start()
    await session.attach()
    await session.send(Speak(clip=Clip(url=trickle)))
    await asyncio.sleep(1)
    report = await session.end(timeout_s=30)
    assert report.end_reason is EndReason.REQUESTED
    assert report.utterances[0].outcome is UtteranceOutcome.CANCELLED


async def test_an_interrupt_frees_playout_from_a_clip_that_never_comes(
    private_clips: Platform, trickle: str
) -> None:
    """Speech requested after the interrupt was not heard before the fetch had timed out."""
    session = await private_clips.start()
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


async def test_an_end_that_waited_too_long_ends_the_session(platform: Platform) -> None:
    """It expired like any other command, and the session was billed until it was idle."""
    platform.simulator.faults.slow_start_s = 3.0
    try:
        session = await platform.start()
        await session.send(End(finish_speaking=True, ttl_s=1))
        report = await session.report(timeout_s=40)
    finally:
        platform.simulator.faults.slow_start_s = 0.0
    assert report.end_reason is EndReason.REQUESTED
    assert report.cleanup.provider_stopped


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


async def test_a_workflow_terminated_during_its_start_leaves_nothing_open(
    platform: Platform,
) -> None:
    """No worker received the reply to the start: it was billed until LiveAvatar ended it."""
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
