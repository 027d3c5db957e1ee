"""A session that this process owns, and the lease of the activity attempt that serves it.

An attempt of ``stream_audio`` may end while its session goes on: the server was away and timed the
attempt out. Socket and speech are kept for a while, and the next attempt adopts them if it comes to
this process. Decides nothing about speech, and calls nothing at LiveAvatar.
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

from activities.streaming.supervisor import StreamSupervisor
from avatar_sessions.contract.activities import Epoch, OwnerHeartbeat, StreamResult
from owner.session import OwnedSession

HEARTBEAT_TIMEOUT_S: Final = 3.0
UNSUPERVISED_AFTER_S: Final = 8.0
"""Without an acknowledged heartbeat for so long, another owner may be on its way: the server gives
up an attempt after 13 s, and no sooner."""
FLUSH_TIMEOUT_S: Final = 3.0
"""How long the last reports may take to reach the workflow."""
CLOSE_TIMEOUT_S: Final = 5.0


class HeartbeatAnswer(Enum):
    """The server's answer to a heartbeat."""

    ACCEPTED = auto()
    UNREACHABLE = auto()  # no answer: it may be away
    CANCELLED = auto()  # the workflow has cancelled this attempt
    NOT_FOUND = auto()  # another attempt was started, or the workflow is closed


class Lease:
    """An attempt's right to the session, renewed by heartbeats whose answer is awaited.

    `activity.heartbeat` only queues one, and the SDK does not report a server that does not answer:
    an attempt went on for a minute that way (measured, docs/internals/design.md).

    Attributes:
        epoch: the attempt, as a number that only grows.
        superseded: set when another attempt in this process has adopted the session.
    """

    def __init__(self, epoch: Epoch, attempt: AsyncActivityHandle) -> None:
        self.epoch = epoch
        self.superseded = asyncio.Event()
        self._attempt = attempt

    async def renew(self, details: OwnerHeartbeat) -> HeartbeatAnswer:
        """Send a heartbeat and wait for the server's answer. Bounded."""
        try:
            async with asyncio.timeout(HEARTBEAT_TIMEOUT_S):
                await self._attempt.heartbeat(
                    details, rpc_timeout=timedelta(seconds=HEARTBEAT_TIMEOUT_S)
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
        return HeartbeatAnswer.ACCEPTED


class Ownership:
    """One session of this process with its signals, and the lease under which it is served.

    Attributes:
        session: the session; `running` is its task.
        supervisor: receives its reports; `signals` are what it sends to the workflow.
        lease: of the attempt that serves it, or that did last.
        orphaned: True while that attempt is over and no other has adopted the session.
        acked_at_s: when the server last accepted a heartbeat.
    """

    def __init__(
        self, session: OwnedSession, supervisor: StreamSupervisor, lease: Lease, queue: str
    ) -> None:
        self.session = session
        self.supervisor = supervisor
        self.signals = supervisor.signals
        self.lease = lease
        self.orphaned = False
        self.acked_at_s = time.monotonic()
        supervisor.permit = self
        self.running: asyncio.Task[StreamResult] = asyncio.create_task(
            session.run(), name=f"session {session.key}"
        )
        self._queue = queue
        self._signal_tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(self.signals.deliver(), name="signals"),
            asyncio.create_task(self.signals.batch_reports(), name="utterance reports"),
        ]

    @property
    def adoptable(self) -> bool:
        """Whether a new attempt may go on with the session."""
        return not self.running.done() and self.session.is_open

    def adopt(self, lease: Lease) -> None:
        """Serve the session by a new attempt. The socket stays, and speakers do not notice."""
        self.lease.superseded.set()
        self.lease = lease
        self.orphaned = False
        self.signals.epoch = self.session.epoch = lease.epoch
        self._on_accepted()

    async def renew(self, lease: Lease) -> HeartbeatAnswer:
        """Renew a lease, and note whether the session is still supervised."""
        answer = await lease.renew(self.heartbeat_details)
        if lease is self.lease:
            if answer is HeartbeatAnswer.ACCEPTED:
                self._on_accepted()
            elif self.unacked_s > UNSUPERVISED_AFTER_S:
                self.session.supervised = False
        return answer

    async def may_reconnect(self) -> bool:
        """Whether a lost socket may be opened again: only by an owner whose lease is renewed."""
        while not self.orphaned:
            lease = self.lease
            match await self.renew(lease):
                case HeartbeatAnswer.ACCEPTED:
                    return True
                case HeartbeatAnswer.UNREACHABLE:
                    if not self.session.supervised:
                        self.session.disconnect_observers()
                    await asyncio.sleep(0.5)
                case HeartbeatAnswer.CANCELLED | HeartbeatAnswer.NOT_FOUND if lease is self.lease:
                    return False
                case _:
                    pass  # adopted meanwhile: renew the new attempt's lease
        return False

    @property
    def unacked_s(self) -> float:
        """For how long the server has not accepted a heartbeat."""
        return time.monotonic() - self.acked_at_s

    @property
    def heartbeat_details(self) -> OwnerHeartbeat:
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

    async def release(self, *, handover: bool) -> None:
        """Close the socket, end what is playing, send the last signals. Bounded; may be called
        twice.

        Args:
            handover: another owner may go on with the session.
        """
        await self.session.close(handover=handover)
        self.running.cancel()  # a socket that is being opened would close the next owner's
        await self.signals.flush(FLUSH_TIMEOUT_S)
        tasks = [self.running, *self._signal_tasks]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
        with contextlib.suppress(asyncio.CancelledError):
            if self.running.done():
                self.running.exception()  # retrieved, so that asyncio does not log it

    def _on_accepted(self) -> None:
        self.acked_at_s = time.monotonic()
        self.session.supervised = True
