"""Live speech asks a real session for its owner and for its end."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from avatar_sessions import (
    AvatarSessions,
    AvatarTalking,
    LiveSpeech,
    Seal,
    SessionNotFound,
    SessionOver,
    SessionRequest,
    SpeechInterrupted,
    UtteranceOutcome,
)
from avatar_sessions.access import opened
from avatar_sessions.contract import reports
from avatar_sessions.session_owners import SessionOwners


async def interrupted_once_talking(live: LiveSpeech) -> SpeechInterrupted:
    """Interrupt as soon as the avatar talks."""
    async for event in live.events():
        if isinstance(event, AvatarTalking):
            return await live.interrupt()
    raise AssertionError("the avatar never talked")


async def test_speech_through_real_workers_is_played_to_its_end(
    sessions: AvatarSessions, key: str, request_: SessionRequest
) -> None:
    session = await sessions.start(key, request_)

    async with session.live(sample_rate_hz=48_000, channels=2) as live:
        async with live.utterance("Hello.") as speech:
            for _ in range(10):
                await speech.write(np.zeros((4_800, 2), np.float32))
        report = await speech.result()
        async with live.utterance() as endless:
            cutting = asyncio.create_task(interrupted_once_talking(live))
            while True:
                await endless.write(np.zeros((4_800, 2), np.float32))
        cut = await endless.result()
        interrupted = await cutting

    assert cut.outcome is UtteranceOutcome.INTERRUPTED
    assert interrupted.utterance_id == endless.id
    assert report.outcome is UtteranceOutcome.COMPLETED
    assert (report.source, report.text, report.heard_ms) == ("live", "Hello.", 1000)


async def test_a_live_owner_that_is_reported_as_lost_stays_the_owner(
    sessions: AvatarSessions, key: str, request_: SessionRequest
) -> None:
    session = await sessions.start(key, request_)
    await session.attach()
    status = await session.status()
    assert status.epoch is not None
    owners = SessionOwners(session)

    await owners.lost(status.epoch)

    assert await owners.ending() is None
    assert (await session.status()).epoch == status.epoch


async def test_a_sessions_end_is_raised_on_entering_and_is_its_ending(
    sessions: AvatarSessions, key: str, request_: SessionRequest
) -> None:
    session = await sessions.start(key, request_)
    await session.end()
    owners = SessionOwners(session)

    assert isinstance(await owners.ending(), SessionOver)
    with pytest.raises(SessionOver):
        await owners.lost((1, 1))
    with pytest.raises(SessionOver):
        async with session.live():
            pass


async def test_a_session_that_was_never_started_is_not_found(
    sessions: AvatarSessions, key: str
) -> None:
    session = sessions.get(key)
    assert isinstance(await SessionOwners(session).ending(), SessionNotFound)
    with pytest.raises(SessionNotFound):
        async with session.live():
            pass


def test_a_ticket_is_opened_and_never_shown(seal: Seal) -> None:
    sealed = {
        "session_key": "k",
        "state": "LIVE",
        "viewer": {"livekit_url": "wss://x", "sealed_token": seal.seal("obviously-fake-token")},
        "speaker": {
            "ingress_url": "wss://owner/live",
            "sealed_ticket": seal.seal("obviously-fake-ticket"),
            "epoch": [2, 1],
            "expires_at": "2030-01-01T00:00:00Z",
        },
    }

    speaker = opened(reports.SealedAccess.model_validate(sealed), seal).speaker

    assert speaker is not None
    assert (speaker.ticket, speaker.epoch) == ("obviously-fake-ticket", (2, 1))
    assert "obviously-fake-ticket" not in repr(speaker)
