"""What this process holds of a session, beyond the attempt of ``stream_audio`` that serves it.

An attempt may end while its session goes on: the server was away and timed it out. Socket and
speech are kept for a while; the next attempt adopts them if it comes to this process. Decides
nothing about speech, and asks LiveAvatar nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import timedelta
from enum import Enum, auto
from typing import Any, Final

from temporalio.client import AsyncActivityCancelledError, AsyncActivityHandle
from temporalio.service import RPCError, RPCStatusCode

from activities.streaming.signals import SignalQueue
from avatar_sessions.contract.activities import Epoch, OwnerHeartbeat, StreamResult
from owner.session import OwnedSession

BEAT_TIMEOUT_S: Final = 3.0
UNSUPERVISED_AFTER_S: Final = 8.0
"""Without an acknowledged heartbeat for so long, another owner may be on its way: the server gives
up an attempt after 13 s, and no sooner."""
FLUSH_TIMEOUT_S: Final = 3.0
"""How long the last lines of the ledger may take to reach the workflow."""
CLOSE_TIMEOUT_S: Final = 5.0


class HeartbeatAnswer(Enum):
    """What the server said to a heartbeat."""

    GIVEN = auto()
    UNREACHABLE = auto()  # nothing: it may be away
    CANCELLED = auto()  # the workflow wants no more of this attempt
    NOT_FOUND = auto()  # another attempt was begun, or the workflow is closed


class Lease:
    """An attempt's right to the session, renewed by heartbeats that are waited for.

    `activity.heartbeat` only queues one, and the SDK does not tell when the server does not answer:
    an attempt went on for a minute that way (measured, docs/internals/design.md).
    """

    def __init__(self, epoch: Epoch, attempt: AsyncActivityHandle) -> None:
        self.epoch = epoch
        self.taken = asyncio.Event()
        """Another attempt in this process has adopted the session."""
        self._attempt = attempt

    async def beat(self, details: OwnerHeartbeat) -> HeartbeatAnswer:
        """Tell the server that the session is held, and wait for its word. Bounded."""
        try:
            async with asyncio.timeout(BEAT_TIMEOUT_S):
                await self._attempt.heartbeat(
                    details, rpc_timeout=timedelta(seconds=BEAT_TIMEOUT_S)
                )
        except AsyncActivityCancelledError:
            return HeartbeatAnswer.CANCELLED
        except RPCError as error:
            return (
                HeartbeatAnswer.NOT_FOUND
                if error.status is RPCStatusCode.NOT_FOUND
                else HeartbeatAnswer.UNREACHABLE
            )
        except TimeoutError:
            return HeartbeatAnswer.UNREACHABLE
        return HeartbeatAnswer.GIVEN


class Ownership:
    """One session of this process: its socket, its speech, its news, and who serves it."""

    def __init__(self, session: OwnedSession, news: SignalQueue, lease: Lease, queue: str) -> None:
        self.session = session
        self.news = news
        self.lease = lease
        """The attempt that serves it, or that did last."""
        self.orphaned = False
        """That attempt is over, and nobody has come yet."""
        self.acked_at_s = time.monotonic()
        self.running: asyncio.Task[StreamResult] = asyncio.create_task(
            session.run(), name=f"session {session.key}"
        )
        self._queue = queue
        self._chores: list[asyncio.Task[Any]] = [
            asyncio.create_task(news.tell(), name="news"),
            asyncio.create_task(news.batch(), name="ledger lines"),
        ]

    @property
    def adoptable(self) -> bool:
        """Whether a new attempt may go on with it."""
        return not self.running.done() and self.session.is_open

    def adopt(self, lease: Lease) -> None:
        """Serve it by a new attempt. The socket stays, and nobody hears of it."""
        self.lease.taken.set()
        self.lease = lease
        self.orphaned = False
        self.news.epoch = self.session.epoch = lease.epoch
        self._acked()

    async def beat(self, lease: Lease) -> HeartbeatAnswer:
        """Renew the lease, and note whether it holds."""
        ack = await lease.beat(self.details)
        if lease is self.lease:
            if ack is HeartbeatAnswer.GIVEN:
                self._acked()
            elif self.unacked_s > UNSUPERVISED_AFTER_S:
                self.session.supervised = False
        return ack

    async def may_reconnect(self) -> bool:
        """Whether a lost socket may be opened again: only by whoever is the owner for certain."""
        while not self.orphaned:
            lease = self.lease
            match await self.beat(lease):
                case HeartbeatAnswer.GIVEN:
                    return True
                case HeartbeatAnswer.UNREACHABLE:
                    if not self.session.supervised:
                        self.session.disconnect_observers()
                    await asyncio.sleep(0.5)
                case HeartbeatAnswer.CANCELLED | HeartbeatAnswer.NOT_FOUND if lease is self.lease:
                    return False
                case _:
                    pass  # adopted meanwhile: the new attempt is asked for
        return False

    @property
    def unacked_s(self) -> float:
        """For how long the server has not acknowledged a heartbeat."""
        return time.monotonic() - self.acked_at_s

    @property
    def details(self) -> OwnerHeartbeat:
        """Where the session stands, for the Temporal UI and the next attempt."""
        session = self.session
        return OwnerHeartbeat(
            epoch=session.epoch,
            queue=self._queue,
            state=session.state.name,
            speaking=session.speaking,
            spoken_ms=session.spoken_ms,
            connects=session.connects,
        )

    async def let_go(self, *, moving: bool) -> None:
        """Close the socket, end what is said, tell the last news. Bounded; may be called twice.

        Args:
            moving: another owner may go on with the session.
        """
        await self.session.close(moving=moving)
        self.running.cancel()  # a socket that is being opened would put out the next owner's
        await self.news.flush(FLUSH_TIMEOUT_S)
        tasks = [self.running, *self._chores]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
        with contextlib.suppress(asyncio.CancelledError):
            if self.running.done():
                self.running.exception()  # whoever cares has looked

    def _acked(self) -> None:
        self.acked_at_s = time.monotonic()
        self.session.supervised = True
