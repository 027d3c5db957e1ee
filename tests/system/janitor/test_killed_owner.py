"""The promise: workflow terminated and owner killed at the same moment, stopped within 60 s."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from livekit import api

from avatar_sessions import AvatarSessions, Session
from avatar_sessions.contract import names
from avatar_sessions.contract.janitor import Decision, JanitorFinding
from avatar_sessions.contract.messages import OwnRoom
from avatar_sessions.seal import Seal
from deploy.local.livekit import LiveKitServer
from deploy.local.processes import Child
from deploy.local.simulator import LiveAvatarEndpoint
from deploy.local.temporal import TemporalServer
from deploy.local.worker import worker_settings
from liveavatar_simulator import LiveAvatarSimulator
from tests.support.platforms.in_process import new_key, simulator_settings, wayne
from tests.support.platforms.janitor import JanitorEnvironment, livekit_at
from tests.support.platforms.worker_process import killable_worker
from tests.support.secret_scan import kinds_in
from tests.support.waiting import until
from workers.wiring import Role

PROMISED_S = 60.0


def worker_process(
    environment: JanitorEnvironment,
    temporal: TemporalServer,
    api_url: str,
    role: Role,
    log: Path,
    **variables: str,
) -> AbstractAsyncContextManager[Child]:
    """A worker process that is ready; killed at the end if it still runs."""
    settings = worker_settings(
        LiveAvatarEndpoint(api_url, environment.settings.liveavatar_api_key),
        environment.livekit,
        environment.settings.seal_keys[0],
        **variables,
    )
    there = replace(temporal, namespace=environment.client.namespace)
    return killable_worker(role, settings, there, log)


async def findings(environment: JanitorEnvironment) -> list[JanitorFinding]:
    """The results of all rounds so far; their histories hold no secret."""
    found = []
    running = f"WorkflowType = '{names.JANITOR_WORKFLOW_TYPE}' AND ExecutionStatus = 'Completed'"
    async for execution in environment.client.list_workflows(running):
        handle = environment.client.get_workflow_handle(execution.id, run_id=execution.run_id)
        found.append(JanitorFinding.model_validate(await handle.result()))
        history = await handle.fetch_history()
        assert not [
            kind for event in history.events for kind in kinds_in(event.SerializeToString())
        ]
    return found


async def findings_with(environment: JanitorEnvironment, provider_id: str) -> list[JanitorFinding]:
    """The same, once the round that stopped this session is over and visible."""
    give_up = time.monotonic() + 30
    while True:
        rounds = await findings(environment)
        lines = [line for one in rounds for line in one.sessions]
        if (provider_id, Decision.STOPPED) in [
            (line.provider_session_id, line.decision) for line in lines
        ]:
            return rounds
        assert time.monotonic() < give_up
        await asyncio.sleep(0.5)


async def live_session(sessions: AvatarSessions, **request: object) -> tuple[Session, str]:
    """A live session, and the id of its LiveAvatar session."""
    session = await sessions.start(new_key(), wayne(sandbox=False, **request))
    await session.attach()
    provider_id = (await session.status()).provider_session_id
    assert provider_id is not None
    return session, provider_id


def acted_on(rounds: list[JanitorFinding]) -> list[tuple[str, Decision]]:
    """The LiveAvatar sessions whose workflow does not run, and the decisions on them."""
    return [
        (line.provider_session_id, line.decision)
        for one in rounds
        for line in one.sessions
        if line.decision is not Decision.RUNNING
    ]


async def until_deleted(livekit: LiveKitServer, room: str) -> None:
    """Wait until a room is deleted."""
    async with livekit_at(livekit) as livekit_api:
        listing = api.ListRoomsRequest(names=[room])
        give_up = time.monotonic() + 20
        while (await livekit_api.room.list_rooms(listing)).rooms:
            assert time.monotonic() < give_up
            await asyncio.sleep(0.1)


@pytest.mark.timeout(180)
async def test_a_session_terminated_and_killed_together_is_stopped_in_time(
    environment: JanitorEnvironment,
    temporal: TemporalServer,
    livekit: LiveKitServer,
    run_folder: Path,
) -> None:
    """No process was left to stop it: it was billed for 200 s, until LiveAvatar's own limit.

    The janitor runs as its own process on its schedule; every owner is dead.
    """
    logs = [run_folder / f"janitor-{name}.log" for name in ("sessions", "streams", "janitor")]
    sessions = AvatarSessions(environment.client, Seal(environment.settings.seal_keys))
    room = f"room-{new_key()}"
    async with LiveAvatarSimulator(simulator_settings(livekit)) as liveavatar:
        url = liveavatar.url
        async with (
            worker_process(environment, temporal, url, Role.SESSIONS, logs[0]) as first,
            worker_process(environment, temporal, url, Role.STREAMS, logs[1]) as second,
            worker_process(
                environment,
                temporal,
                url,
                Role.JANITOR,
                logs[2],
                AVATAR_SESSIONS_JANITOR_INTERVAL_S="5",
            ) as janitor,
        ):
            session, provider_id = await live_session(
                sessions, room=OwnRoom(name=room).model_dump()
            )
            other, other_id = await live_session(sessions)

            for owner in (first, second):
                owner.send_signal(signal.SIGKILL)
            terminated_at = time.monotonic()
            await environment.client.get_workflow_handle(session.workflow_id).terminate("test")

            await until(lambda: not liveavatar.sessions[provider_id].billing, PROMISED_S)
            took_s = time.monotonic() - terminated_at
            assert liveavatar.sessions[other_id].billing, "its workflow runs"
            await until_deleted(livekit, room)
            await environment.client.get_workflow_handle(other.workflow_id).terminate("test")
            await until(lambda: not liveavatar.sessions[other_id].billing, PROMISED_S)
            rounds = await findings_with(environment, other_id)
            janitor.send_signal(signal.SIGTERM)
            status = await janitor.wait(40)
    print(f"stopped {took_s:.1f} s after it was terminated")
    assert status == 0
    assert "Traceback" not in logs[2].read_text()
    assert sorted(acted_on(rounds)) == sorted(
        [(provider_id, Decision.STOPPED), (other_id, Decision.STOPPED)]
    )
    assert [
        (line.room, line.decision)
        for one in rounds
        for line in one.rooms
        if line.decision is not Decision.RUNNING
    ] == [(room, Decision.DELETED)]
