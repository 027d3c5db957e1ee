"""Leases and adoption: one session between two attempts of its activity."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from temporalio.client import AsyncActivityHandle, Client

from activities.streaming.ownership import (
    UNSUPERVISED_AFTER_S,
    HeartbeatAnswer,
    Lease,
    Ownership,
)
from activities.streaming.supervisor import SpeakerGrants, StreamSupervisor
from activities.streaming.workflow_signals import SignalQueue
from avatar_sessions.contract.activities import (
    OwnerHeartbeat,
    StreamAudio,
    StreamEnd,
    StreamResult,
)
from avatar_sessions.seal import Seal
from liveavatar_lite import LiveAvatar
from owner.ingress.tickets import Tickets
from owner.session import OwnedSession, OwnerLimits

QUEUE = "avatar-owner:000000000000"


class ScriptedLease(Lease):
    """A lease whose heartbeats get one answer, when the test says so."""

    def __init__(self, attempt: AsyncActivityHandle, answer: HeartbeatAnswer) -> None:
        super().__init__((1, 1), attempt)
        self.asked = asyncio.Event()
        self.answered = asyncio.Event()
        self._answer = answer

    async def renew(self, details: OwnerHeartbeat) -> HeartbeatAnswer:
        self.asked.set()
        await self.answered.wait()
        return self._answer


class IdleSession(OwnedSession):
    """A session that opens no socket."""

    async def run(self) -> StreamResult:
        await asyncio.Event().wait()
        return StreamResult(end=StreamEnd.RELEASED, connects=0)


@contextlib.asynccontextmanager
async def ownership_under(lease: Lease, client: Client) -> AsyncIterator[Ownership]:
    """A session without a socket, owned under that lease; nothing is sent anywhere."""
    seal = Seal([Seal.new_key()])
    step = StreamAudio(
        session_key="test",
        provider_session_id="any",
        generation=0,
        stream=1,
        ws_url=seal.seal("ws://127.0.0.1:9"),
    )
    async with LiveAvatar(SecretStr("obviously-fake"), base_url="http://127.0.0.1:9") as liveavatar:
        supervisor = StreamSupervisor(
            step,
            queue=QUEUE,
            signals=SignalQueue("test", (1, 1), client.get_workflow_handle("any")),
            grants=SpeakerGrants(Tickets(60.0), seal, lambda: None),
            liveavatar=liveavatar,
            text_seal=None,
        )
        session = IdleSession(
            key="test",
            epoch=(1, 1),
            ws_url=SecretStr("ws://127.0.0.1:9"),
            limits=OwnerLimits(),
            supervisor=supervisor,
        )
        ownership = Ownership(session, supervisor, lease, QUEUE)
        yield ownership
        await ownership.release(handover=True)


async def lazy_client() -> tuple[Client, AsyncActivityHandle]:
    """A client that connects to no server before it is used."""
    client = await Client.connect("127.0.0.1:9", lazy=True)
    return client, client.get_async_activity_handle(task_token=b"any")


async def test_an_adopted_session_gets_its_lost_socket_back() -> None:
    """The old attempt's "not found" came when the new one had adopted the session: it was read as
    the new one's: the session was released, and another one started in its place."""
    client, attempt = await lazy_client()
    old = ScriptedLease(attempt, HeartbeatAnswer.NOT_FOUND)
    new = ScriptedLease(attempt, HeartbeatAnswer.ACCEPTED)
    async with ownership_under(old, client) as ownership:
        asking = asyncio.create_task(ownership.may_reconnect())
        await old.asked.wait()
        ownership.adopt(new)
        new.answered.set()
        old.answered.set()
        assert await asyncio.wait_for(asking, 5)
        assert old.superseded.is_set()


@pytest.mark.parametrize("answer", [HeartbeatAnswer.NOT_FOUND, HeartbeatAnswer.CANCELLED])
async def test_an_owner_whose_lease_is_lost_does_not_reconnect(answer: HeartbeatAnswer) -> None:
    client, attempt = await lazy_client()
    lease = ScriptedLease(attempt, answer)
    lease.answered.set()
    async with ownership_under(lease, client) as ownership:
        assert not await asyncio.wait_for(ownership.may_reconnect(), 5)


async def test_an_orphaned_session_does_not_reconnect() -> None:
    client, attempt = await lazy_client()
    async with ownership_under(
        ScriptedLease(attempt, HeartbeatAnswer.ACCEPTED), client
    ) as ownership:
        ownership.orphaned = True
        assert not await asyncio.wait_for(ownership.may_reconnect(), 5)


async def test_a_session_is_unsupervised_while_no_heartbeat_is_accepted() -> None:
    client, attempt = await lazy_client()
    lease = ScriptedLease(attempt, HeartbeatAnswer.UNREACHABLE)
    lease.answered.set()
    async with ownership_under(lease, client) as ownership:
        await ownership.renew(lease)
        assert ownership.session.supervised, "one heartbeat without an answer decides nothing"
        ownership.acked_at_s -= UNSUPERVISED_AFTER_S
        await ownership.renew(lease)
        assert not ownership.session.supervised
        ownership.adopt(ScriptedLease(attempt, HeartbeatAnswer.ACCEPTED))
        assert ownership.session.supervised
