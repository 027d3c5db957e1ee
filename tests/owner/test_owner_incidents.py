"""An owned session between two owners: what went wrong once, told one by one."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta

from temporalio.client import AsyncActivityHandle, Client

from activities.streaming.ownership import HeartbeatAnswer, Lease, Ownership
from activities.streaming.signals import SignalQueue
from avatar_sessions.contract.activities import OwnerHeartbeat, StreamEnd
from avatar_sessions.contract.live_dialect import LiveBegin
from avatar_sessions.contract.states import UtteranceOutcome
from owner.clip_queue import ClipJob
from owner.session import OwnedState
from owner.utterance import Utterance
from tests.owner.conftest import OwnerUnderTest
from tests.owner.test_session import clip, tone
from tests.support.waiting import until


async def test_a_session_that_was_let_go_opens_no_socket_any_more(owner: OwnerUnderTest) -> None:
    """It was handed over while its socket was being got back: it opened one all the same, which
    would put out the next owner's, failed on its own state, and left that socket open."""
    owner.simulator.faults.never_connected = 1
    owner.simulator.sessions[owner.provider_session_id].drop_socket()
    await until(lambda: owner.session.state is OwnedState.RECONNECTING)
    await until(lambda: owner.line.sockets_total == 2)
    await owner.session.close(moving=True)
    assert owner.running is not None
    result = await asyncio.wait_for(owner.running, 20)
    assert result.end is StreamEnd.RELEASED
    await until(lambda: owner.line.sockets_open == 0)
    assert owner.line.sockets_total == 2


async def test_an_interrupt_cuts_what_an_earlier_owner_had_begun(owner: OwnerUnderTest) -> None:
    """The owner died in the middle of live speech, and the interrupt waited for the next one. It
    came before the speaker did: the speaker went on with what had been cut."""
    await owner.session.interrupt(0, delayed_s=3.0)
    earlier = LiveBegin(utterance_id="u1", offset_bytes=96_000, unplayed_ms=500)
    utterance = owner.session.live.begin(earlier)
    assert isinstance(utterance, Utterance)
    utterance.write(tone(1), time.monotonic())
    utterance.finish()
    await until(lambda: len(owner.lines) == 1)
    (line,) = owner.lines
    assert (line.outcome, line.sent_ms) == (UtteranceOutcome.INTERRUPTED, 2000)
    assert [one.type for one in owner.line.commands] == ["agent.interrupt"]


async def test_an_interrupt_cuts_what_goes_on_from_an_earlier_owner(owner: OwnerUnderTest) -> None:
    """The speaker came first: its utterance had begun here later than the interrupt was asked for,
    and was spared."""
    earlier = LiveBegin(utterance_id="u1", offset_bytes=96_000, unplayed_ms=500)
    utterance = owner.session.live.begin(earlier)
    assert isinstance(utterance, Utterance)
    utterance.write(tone(5), time.monotonic())
    await until(lambda: utterance.sent_bytes > 96_000)
    await owner.session.interrupt(0, delayed_s=3.0)
    await until(lambda: len(owner.lines) == 1)
    assert owner.lines[0].outcome is UtteranceOutcome.INTERRUPTED


async def test_another_owners_clock_does_not_hold_up_a_clip(owner: OwnerUnderTest) -> None:
    """The owner before ran a minute ahead: its clip was gone on with after a minute of silence."""
    ahead = ClipJob(
        "u1",
        1,
        clip(tone(90)),
        offset_bytes=89 * 48_000,
        played_out_at=datetime.now(UTC) + timedelta(seconds=60),
    )
    said = await asyncio.wait_for(owner.session.speak(ahead), 15)
    assert (said.report.outcome, said.report.sent_ms) == (UtteranceOutcome.COMPLETED, 90_000)


class SlowLease(Lease):
    """The server takes its time to say that it has given an attempt up."""

    def __init__(self, attempt: AsyncActivityHandle, says: HeartbeatAnswer) -> None:
        super().__init__((1, 1), attempt)
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()
        self._says = says

    async def beat(self, details: OwnerHeartbeat) -> HeartbeatAnswer:
        self.asked.set()
        await self.answers.wait()
        return self._says


async def test_an_adopted_session_gets_its_lost_socket_back(owner: OwnerUnderTest) -> None:
    """The old attempt's "not found" came when the new one had adopted the session: it was read as
    the new one's, and the session was given up, and another one started in its place."""
    client = await Client.connect("127.0.0.1:9", lazy=True)
    attempt = client.get_async_activity_handle(task_token=b"any")
    old, new = (
        SlowLease(attempt, HeartbeatAnswer.NOT_FOUND),
        SlowLease(attempt, HeartbeatAnswer.GIVEN),
    )
    news = SignalQueue("test", (1, 1), client.get_workflow_handle("any"))
    holding = Ownership(owner.session, news, old, "avatar-owner:000000000000")
    holding.running.cancel()  # the fixture runs it already
    asking = asyncio.create_task(holding.may_reconnect())
    await old.asked.wait()
    holding.adopt(new)
    new.answers.set()
    old.answers.set()
    assert await asyncio.wait_for(asking, 5)
    await holding.let_go(moving=True)
