"""Client and workers of different releases: answers that the client does not expect."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from temporalio.worker import Worker

from avatar_sessions import (
    AccessFailed,
    AnswerTimedOut,
    AvatarSessions,
    Clip,
    CommandRejected,
    LiveSpeechUnavailable,
    Seal,
    SessionOver,
    SessionState,
    TooManyAwaited,
    UnexpectedAnswer,
)
from avatar_sessions.contract.names import SESSIONS_TASK_QUEUE
from deploy.local.temporal import TemporalServer
from tests.support.other_release import OtherRelease
from tests.support.platforms.sandbox import wanted


@pytest_asyncio.fixture(scope="module")
async def others(temporal: TemporalServer, seal: Seal) -> AsyncIterator[AvatarSessions]:
    """A client in front of workers of another release."""
    client = await temporal.new_namespace("other")
    async with Worker(client, task_queue=SESSIONS_TASK_QUEUE, workflows=[OtherRelease]):
        yield AvatarSessions(client, seal)


async def test_fields_that_are_not_known_yet_are_ignored(others: AvatarSessions, key: str) -> None:
    session = await others.start(key, wanted(tenant="nothing"))

    assert (await session.status()).state is SessionState.LIVE


async def test_an_answer_of_another_shape_raises_an_error_that_names_the_fields(
    others: AvatarSessions, key: str
) -> None:
    session = await others.start(key, wanted(tenant="gibberish"))

    with pytest.raises(UnexpectedAnswer, match=r"not a SealedAccess.*viewer"):
        await session.attach()
    with pytest.raises(UnexpectedAnswer, match=r"not a CommandResult.*outcome"):
        await session.interrupt()
    with pytest.raises(UnexpectedAnswer, match=r"not a SessionReport.*end_reason"):
        await session.end()


async def test_failed_access_to_a_running_session_is_not_a_failed_session(
    others: AvatarSessions, key: str
) -> None:
    session = await others.start(key, wanted(tenant="ServiceUnreachable"))

    with pytest.raises(AccessFailed, match="as the test wants it"):
        await session.attach()


async def test_workers_without_live_speech_raise_live_speech_unavailable(
    others: AvatarSessions, seal: Seal, key: str
) -> None:
    session = await others.start(key, wanted(tenant=seal.seal("obviously-fake-token")))

    assert (await session.attach()).speaker is None
    with pytest.raises(LiveSpeechUnavailable, match=key):
        async with session.live():
            pass


async def test_a_refusal_lists_its_problems(others: AvatarSessions, key: str) -> None:
    session = await others.start(key, wanted(tenant="CommandRejected"))

    with pytest.raises(CommandRejected) as refusal:
        await session.keep_alive()

    assert refusal.value.problems == ["as the test wants it"]


async def test_speech_that_cannot_be_awaited_times_out(others: AvatarSessions, key: str) -> None:
    session = await others.start(key, wanted(tenant="TooManyAwaited"))

    with pytest.raises((TooManyAwaited, AnswerTimedOut)):
        await session.speak(Clip(file="any.wav"), timeout_s=1.0)


async def test_a_missing_answer_raises_answer_timed_out(others: AvatarSessions, key: str) -> None:
    session = await others.start(key, wanted(tenant="nothing"))

    with pytest.raises(AnswerTimedOut, match=r"attach within 0\.3 s"):
        await session.attach(timeout_s=0.3)
    with pytest.raises(AnswerTimedOut, match=r"interrupt within 0\.3 s"):
        await session.interrupt(timeout_s=0.3)


async def test_an_update_cut_off_by_the_sessions_end_raises_session_over(
    others: AvatarSessions, key: str
) -> None:
    """The server fails an accepted update of a workflow that closes with a type of its own."""
    session = await others.start(key, wanted(tenant="nothing"))
    with pytest.raises(AnswerTimedOut):
        await session.interrupt(timeout_s=0.3)

    with pytest.raises(UnexpectedAnswer):
        await session.end()
    with pytest.raises((SessionOver, UnexpectedAnswer)):
        await session.interrupt()
