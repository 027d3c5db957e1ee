"""Platforms with their own simulator, for sessions that outlive a LiveAvatar session."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from pydantic import SecretStr

from avatar_sessions import AvatarSessions, SessionReport
from avatar_sessions.seal import Seal
from deploy.local.livekit import LiveKitServer
from deploy.local.temporal import TemporalServer
from liveavatar_simulator import LiveAvatarSimulator, SessionLine
from tests.support.platforms.histories import record_histories
from tests.support.platforms.in_process import Platform, running_workers, simulator_settings

BRIEF_S = 24
"""How long a LiveAvatar session lasts in `brief`."""


@contextlib.asynccontextmanager
async def own_platform(
    temporal: TemporalServer,
    livekit: LiveKitServer,
    platform: Platform,
    seal_key: SecretStr,
    **settings: object,
) -> AsyncIterator[Platform]:
    """A platform with its own simulator, and workers that use it."""
    client = await temporal.new_namespace()
    wanted = simulator_settings(livekit, **{"join_rooms": False, **settings})
    async with LiveAvatarSimulator(wanted) as simulator:
        workers = platform.settings.model_copy(update={"liveavatar_api_url": simulator.url})
        async with running_workers(client, workers):
            yield replace(
                platform,
                simulator=simulator,
                client=client,
                settings=workers,
                sessions=AvatarSessions(client, Seal([seal_key])),
            )
        if platform.records:
            await record_histories(client, suffix="+generations")


def ledger_lines(platform: Platform) -> list[SessionLine]:
    return platform.simulator.ledger().sessions


def total_played_ms(platform: Platform) -> float:
    return sum(one.played_ms for line in ledger_lines(platform) for one in line.utterances)


def assert_nothing_left(platform: Platform, report: SessionReport) -> None:
    """Every LiveAvatar session has ended and is billed in the report as in the ledger."""
    ledger = platform.simulator.ledger()
    assert ledger.open == 0
    assert all(line.sockets_open == 0 for line in ledger.sessions)
    billed = {str(line.session_id): line.billed_s for line in ledger.sessions if line.started_at}
    reported = {
        one.provider_session_id: one.billed_s for one in report.generations if one.started_at
    }
    assert reported.keys() == billed.keys()
    for name, seconds in billed.items():
        assert reported[name] == pytest.approx(seconds, abs=1), name


@contextlib.asynccontextmanager
async def own_platform_without_workers(
    temporal: TemporalServer,
    livekit: LiveKitServer,
    platform: Platform,
    seal_key: SecretStr,
    **settings: object,
) -> AsyncIterator[Platform]:
    """A platform with its own simulator; the test starts worker processes."""
    client = await temporal.new_namespace()
    wanted = simulator_settings(livekit, **{"join_rooms": False, **settings})
    async with LiveAvatarSimulator(wanted) as simulator:
        yield replace(
            platform,
            simulator=simulator,
            client=client,
            settings=platform.settings.model_copy(update={"liveavatar_api_url": simulator.url}),
            sessions=AvatarSessions(client, Seal([seal_key])),
        )


def last_session_age_s(platform: Platform) -> float:
    """How long the newest LiveAvatar session has been billed."""
    return ledger_lines(platform)[-1].billed_s
