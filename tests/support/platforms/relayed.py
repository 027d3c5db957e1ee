"""A platform behind relays, for tests of faults: calls to LiveAvatar and LiveKit can be held up.

Each has its own simulator, namespace and, unless a test starts worker processes, workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from temporalio.api.sdk.v1 import WorkflowMetadata

from avatar_sessions import AvatarSessions, Session, SessionReport, SessionState, SessionStatus
from avatar_sessions.seal import Seal
from deploy.local.livekit import LiveKitServer
from deploy.local.relay import TcpRelay
from deploy.local.temporal import TemporalServer
from liveavatar_simulator import LiveAvatarSimulator, SimulatorSettings
from liveavatar_simulator.faults import Faults
from liveavatar_simulator.ledger import SessionLine
from tests.support.platforms.in_process import API_KEY, Platform, new_key, running_workers, wayne
from workers.settings import WorkerSettings

WITHIN_S = 1.0
"""How far a report's billed seconds may be from the ledger's."""


@dataclass
class RelayedPlatform(Platform):
    """A platform whose workers reach LiveAvatar and LiveKit through relays."""

    liveavatar: TcpRelay
    livekit: TcpRelay

    @property
    def faults(self) -> Faults:
        return self.simulator.faults

    async def begin(self, **request: object) -> Session:
        """Start a billed session under a new key."""
        return await self.sessions.start(new_key(), wayne(sandbox=False, **request))

    def lines(self, report: SessionReport) -> list[SessionLine]:
        """The ledger's lines of a session's generations, in their order."""
        ledger = {one.session_id: one for one in self.simulator.ledger().sessions}
        return [ledger[one.provider_session_id] for one in report.generations]

    def started_lines(self) -> list[SessionLine]:
        return [one for one in self.simulator.ledger().sessions if one.started_at is not None]

    def line(self, provider_session_id: str | None) -> SessionLine:
        lines = self.simulator.ledger().sessions
        return next(one for one in lines if one.session_id == provider_session_id)


@contextlib.asynccontextmanager
async def relayed_platform(
    temporal: TemporalServer,
    livekit: LiveKitServer,
    settings: WorkerSettings,
    *,
    workers: bool = True,
    **simulator_settings: object,
) -> AsyncIterator[RelayedPlatform]:
    """A simulator that joins no room, relays before it and LiveKit, and a new namespace."""
    mine = SimulatorSettings.model_validate(
        {
            "api_keys": [API_KEY],
            "port": 0,
            "media_port": 0,
            "join_rooms": False,
            "start_delay_s": 0.0,
            "connect_delay_s": 0.0,
            "calls_per_s": 0,
            **simulator_settings,
        }
    )
    async with contextlib.AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(LiveAvatarSimulator(mine))
        before_liveavatar = await stack.enter_async_context(_relay(simulator.url))
        before_livekit = await stack.enter_async_context(_relay(livekit.url))
        settings = settings.model_copy(
            update={
                "liveavatar_api_url": f"http://127.0.0.1:{before_liveavatar.port}",
                "livekit_url": f"ws://127.0.0.1:{before_livekit.port}",
            }
        )
        client = await temporal.new_namespace()
        if workers:
            await stack.enter_async_context(running_workers(client, settings))
        yield RelayedPlatform(
            simulator=simulator,
            sessions=AvatarSessions(client, Seal(settings.seal_keys)),
            client=client,
            settings=settings,
            clip_folder=settings.clip_folder or Path(),
            liveavatar=before_liveavatar,
            livekit=before_livekit,
        )


def _relay(url: str) -> contextlib.AbstractAsyncContextManager[TcpRelay]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return TcpRelay(parts.hostname, parts.port).listening()


async def until_status(
    session: Session, condition: Callable[[SessionStatus], object], within_s: float = 40
) -> SessionStatus:
    """Wait until a condition holds of a session's status."""
    give_up = time.monotonic() + within_s
    while True:
        status = await session.status()
        if condition(status):
            return status
        assert time.monotonic() < give_up, status
        await asyncio.sleep(0.05)


async def until_state(session: Session, state: SessionState) -> None:
    await until_status(session, lambda status: status.state is state)


async def page(platform: Platform, session: Session) -> str:
    """The current details of the workflow, as the Temporal UI shows them."""
    handle = platform.client.get_workflow_handle(session.workflow_id)
    metadata: WorkflowMetadata = await handle.query(
        "__temporal_workflow_metadata", result_type=WorkflowMetadata
    )
    return metadata.current_details


def assert_books_agree(platform: RelayedPlatform, *reports: SessionReport) -> None:
    """Every started LiveAvatar session has ended, and one report bills it as the ledger does.

    No other session uses this simulator.
    """
    reported = [one for report in reports for one in report.generations]
    ids = [one.provider_session_id for one in reported]
    assert len(ids) == len(set(ids))
    ledger = {one.session_id: one for one in platform.simulator.ledger().sessions}
    for one in reported:
        line = ledger[one.provider_session_id]
        if line.started_at is None:
            assert one.billed_s <= WITHIN_S, one
            continue
        assert line.ended_at is not None, line
        assert abs(one.billed_s - line.billed_s) <= WITHIN_S, (one, line.billed_s)
        assert one.provider_end_reason == line.end_reason
        assert one.stop in ("stopped", "already_gone")
    started = {one.session_id for one in ledger.values() if one.started_at is not None}
    assert started <= set(ids), "a billed session is in no report"
