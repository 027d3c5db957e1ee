"""Client and workers are released apart: what the client makes of answers it does not expect."""

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


async def test_an_answer_of_another_shape_is_told_field_by_field(
    others: AvatarSessions, key: str
) -> None:
    session = await others.start(key, wanted(tenant="gibberish"))

    with pytest.raises(UnexpectedAnswer, match=r"not a SealedAccess.*viewer"):
        await session.attach()
    with pytest.raises(UnexpectedAnswer, match=r"not a CommandResult.*outcome"):
        await session.interrupt()
    with pytest.raises(UnexpectedAnswer, match=r"not a SessionReport.*end_reason"):
        await session.end()


async def test_access_that_fails_while_the_session_lives_is_not_a_failed_session(
    others: AvatarSessions, key: str
) -> None:
    session = await others.start(key, wanted(tenant="ServiceUnreachable"))

    with pytest.raises(AccessFailed, match="as the test wants it"):
        await session.attach()


async def test_workers_that_do_not_know_live_speech_are_told_from_a_fault(
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


async def test_who_finds_no_room_to_wait_for_speech_is_told_in_time(
    others: AvatarSessions, key: str
) -> None:
    session = await others.start(key, wanted(tenant="TooManyAwaited"))

    with pytest.raises((TooManyAwaited, AnswerTimedOut)):
        await session.speak(Clip(file="any.wav"), timeout_s=1.0)


async def test_an_answer_that_does_not_come_ends_the_wait_in_time(
    others: AvatarSessions, key: str
) -> None:
    session = await others.start(key, wanted(tenant="nothing"))

    with pytest.raises(AnswerTimedOut, match=r"attach within 0\.3 s"):
        await session.attach(timeout_s=0.3)
    with pytest.raises(AnswerTimedOut, match=r"interrupt within 0\.3 s"):
        await session.interrupt(timeout_s=0.3)


async def test_an_answer_cut_off_by_the_sessions_end_is_its_end(
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
