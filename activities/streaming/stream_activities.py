"""Owning sessions, as activities: the hours-long stream, and commands on the process's own queue.

`stream_audio` keeps one session for as long as its attempt holds the lease. What happens to the
session when an attempt ends without it is decided here, too: adopted, handed over, or stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from activities import failures
from activities.streaming.ownership import HeartbeatAnswer, Lease, Ownership
from activities.streaming.supervisor import SpeakerGrants, StreamSupervisor
from activities.streaming.workflow_gone import (
    AttemptStatus,
    attempt_status,
    stop_if_terminated,
    stop_with_retries,
)
from activities.streaming.workflow_signals import SignalQueue
from avatar_sessions.contract import names
from avatar_sessions.contract.activities import (
    ClipCursor,
    ClipSpoken,
    CommandDelivered,
    DeliverCommand,
    Epoch,
    ErrorType,
    GrantedSpeaker,
    GrantSpeaker,
    OwnerHeartbeat,
    SpeakClip,
    StreamAudio,
    StreamEnd,
    StreamResult,
)
from avatar_sessions.contract.states import CommandOutcome, Pose
from avatar_sessions.seal import Seal
from liveavatar_lite import ConnectionFailed, LiteError, LiveAvatar
from owner.clip_queue import ClipJob
from owner.clips.source import ClipSource
from owner.ingress.tickets import Tickets
from owner.registry import SessionRegistry
from owner.session import OwnedSession, OwnedState, OwnerLimits, OwnerNotReady

logger = logging.getLogger(__name__)

HEARTBEAT_S: Final = 5.0
"""A heartbeat costs about 0.7 ms of worker and 2 ms of server CPU (measured): every 5 s."""
SDK_HEARTBEAT_EVERY: Final = 2
"""Every second one goes by the SDK, too, which otherwise takes the attempt for dead after 18 s."""
UNACKED_PAUSE_S: Final = 1.0
"""Between two heartbeats while the server does not answer."""
CLIP_HEARTBEAT_S: Final = 1.0
"""A clip reports its position at least so often, and at each chunk: what a dead owner leaves is at
most one chunk old, and its death is noticed in three seconds."""
SUCCESSOR_TIMEOUT_S: Final = 20.0
"""How long a session whose attempt is over waits here for the next one, while the server answers:
the heartbeat timeout, and a moment for the retry."""
ORPHAN_CHECK_S: Final = 2.0
DRAIN_SIGNAL_TIMEOUT_S: Final = 1.0
HANDOVER_PAUSE_S: Final = 0.1
"""Between two sessions that a draining process hands over, or less where it has many."""


class StreamActivities:
    """The activities of one owner process."""

    def __init__(
        self,
        *,
        owned: SessionRegistry,
        clips: ClipSource,
        liveavatar: LiveAvatar,
        seal: Seal,
        queue: str,
        limits: OwnerLimits,
        tickets: Tickets,
        ingress_url: Callable[[], str | None],
        seal_texts: bool = False,
        unsupervised_limit_s: float = 120.0,
        drain_within_s: float = 5.0,
    ) -> None:
        self._owned = owned
        self._clips = clips
        self._liveavatar = liveavatar
        self._seal = seal
        self._queue = queue
        self._limits = limits
        self._grants = SpeakerGrants(tickets, seal, ingress_url)
        self._text_seal = seal if seal_texts else None
        self._unsupervised_limit_s = unsupervised_limit_s
        self._drain_within_s = drain_within_s
        self._handover_turn = asyncio.Lock()
        self._ownerships: dict[str, Ownership] = {}  # by LiveAvatar's id of the session
        self._awaiting: set[asyncio.Task[None]] = set()  # orphaned sessions' tasks

    # --------------------------------------------------------------- stream

    @activity.defn(name=names.ACTIVITY_STREAM_AUDIO)
    async def stream_audio(self, step: StreamAudio) -> StreamResult:
        """Own a session until it ends; heartbeats carry where it stands.

        A session that this process owns already, because the server lost sight of the attempt
        before, is adopted: its socket stays, and its speech goes on.

        Raises:
            Disconnected: no socket could be opened, or the server lost sight of this attempt.
            WorkerDraining: this process is stopping; the next attempt takes over immediately.
        """
        info = activity.info()
        attempt = activity.client().get_async_activity_handle(task_token=info.task_token)
        lease = Lease((step.stream, info.attempt), attempt)
        # A process that was stopped for minutes may hold a task that the server has given up.
        first = OwnerHeartbeat(
            epoch=lease.epoch, queue=self._queue, state=OwnedState.CONNECTING.name
        )
        if await lease.renew(first) is not HeartbeatAnswer.ACCEPTED:
            raise _superseded()
        logger.info("%s: owned in epoch %d.%d", step.session_key, *lease.epoch)
        ownership = self._adopt(step, lease) or self._open(step, lease)
        try:
            return await self._serve(ownership, lease, step)
        except asyncio.CancelledError:
            await self._orphan(ownership, lease, step)
            raise
        except ConnectionFailed as error:
            raise failures.plain_error(ErrorType.DISCONNECTED, str(error)) from error

    def _adopt(self, step: StreamAudio, lease: Lease) -> Ownership | None:
        ownership = self._ownerships.get(step.provider_session_id)
        if ownership is None or not ownership.adoptable:
            return None
        logger.info("%s: adopted", step.session_key)
        ownership.adopt(lease)
        if ownership.session.state is OwnedState.READY:
            ownership.supervisor.on_ready(0)
        return ownership

    def _open(self, step: StreamAudio, lease: Lease) -> Ownership:
        info = activity.info()
        assert info.workflow_id is not None
        workflow = activity.client().get_workflow_handle(
            info.workflow_id, run_id=info.workflow_run_id
        )
        signals = SignalQueue(step.session_key, lease.epoch, workflow)
        supervisor = StreamSupervisor(
            step,
            queue=self._queue,
            signals=signals,
            grants=self._grants,
            liveavatar=self._liveavatar,
            text_seal=self._text_seal,
        )
        session = OwnedSession(
            key=step.session_key,
            epoch=lease.epoch,
            ws_url=failures.opened(self._seal, step.ws_url),
            limits=self._limits,
            supervisor=supervisor,
            owner=self._queue,
            generation=step.generation,
        )
        ownership = Ownership(session, supervisor, lease, self._queue)
        self._owned.add(session)
        self._ownerships[step.provider_session_id] = ownership
        return ownership

    async def _serve(self, ownership: Ownership, lease: Lease, step: StreamAudio) -> StreamResult:
        """Serve a session by this attempt: until it ends, a drain, or the loss of the lease.

        Raises:
            ConnectionFailed: no socket could be opened.
        """
        running = ownership.running
        draining = asyncio.create_task(activity.wait_for_worker_shutdown(), name="drain")
        renewing = asyncio.create_task(self._renew(ownership, lease), name="lease")
        superseded = asyncio.create_task(lease.superseded.wait(), name="superseded")
        tasks: set[asyncio.Task[Any]] = {draining, renewing, superseded}
        try:
            await asyncio.wait({running, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            if lease.superseded.is_set():
                raise _superseded()
            if running.done():
                return await self._finish(ownership, step)
            if renewing.done():
                if renewing.result() is HeartbeatAnswer.UNREACHABLE:
                    logger.warning("%s: the server is away for too long", step.session_key)
                    await self._release(ownership, step, handover=True)
                else:
                    await self._orphan(ownership, lease, step)
                raise _superseded()
            return await self._on_drain(ownership, step)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _renew(self, ownership: Ownership, lease: Lease) -> HeartbeatAnswer:
        """Renew the lease until that fails; returns the server's last answer.

        A server that does not answer is no reason to stop speaking: `UNREACHABLE` is returned only
        after `unsupervised_limit_s`.
        """
        for number in itertools.count(1):
            # The first one was sent before the session was owned.
            acked = ownership.unacked_s < HEARTBEAT_S
            await asyncio.sleep(HEARTBEAT_S if acked else UNACKED_PAUSE_S)
            if number % SDK_HEARTBEAT_EVERY == 0:
                activity.heartbeat(ownership.heartbeat_details)
            answer = await ownership.renew(lease)
            if answer in (HeartbeatAnswer.CANCELLED, HeartbeatAnswer.NOT_FOUND):
                return answer
            if ownership.unacked_s > self._unsupervised_limit_s:
                return HeartbeatAnswer.UNREACHABLE
        raise AssertionError("unreachable")

    async def _finish(self, ownership: Ownership, step: StreamAudio) -> StreamResult:
        """The session has ended here: release it, and return why."""
        failed = ownership.running.exception() is not None
        # Unless the workflow itself ended it, the session may go on with another socket.
        handover = failed or ownership.running.result().end is not StreamEnd.RELEASED
        await self._release(ownership, step, handover=handover)
        return ownership.running.result()

    async def _on_drain(self, ownership: Ownership, step: StreamAudio) -> StreamResult:
        """This process is stopping: hand the session over, wherever it stands."""
        if not ownership.session.is_open:
            # Nearly over: let it end instead of moving it.
            await asyncio.wait({ownership.running}, timeout=self._limits.release_timeout_s + 2)
            if ownership.running.done():
                return await self._finish(ownership, step)
        await self._wait_for_handover_turn(ownership)
        if ownership.running.done():
            return await self._finish(ownership, step)
        # Sent first, while speech goes on: speakers and commands then wait for the next owner.
        ownership.supervisor.on_drain()
        await ownership.signals.flush(DRAIN_SIGNAL_TIMEOUT_S)
        # No later attempt runs for a terminated workflow: this is the last chance to stop it.
        await stop_if_terminated(self._liveavatar, step.provider_session_id)
        await self._release(ownership, step, handover=True)
        logger.info("%s: handed over", step.session_key)
        raise ApplicationError(
            "the worker is draining: another takes over",
            type=ErrorType.WORKER_DRAINING,
            # The SDK drops a zero silently, and the policy's backoff would apply.
            next_retry_delay=timedelta(milliseconds=1),
            category=ApplicationErrorCategory.BENIGN,
        )

    async def _wait_for_handover_turn(self, ownership: Ownership) -> None:
        """Hand sessions over one after the other: each is served until its turn comes.

        Fifty together kept Temporal busy for four seconds, twice what LiveAvatar has buffered.
        """
        pause_s = min(HANDOVER_PAUSE_S, self._drain_within_s / max(1, len(self._ownerships)))
        async with self._handover_turn:
            await asyncio.wait({ownership.running}, timeout=pause_s)

    async def _release(self, ownership: Ownership, step: StreamAudio, *, handover: bool) -> None:
        self._owned.remove(ownership.session)
        if self._ownerships.get(step.provider_session_id) is ownership:
            del self._ownerships[step.provider_session_id]
        await ownership.release(handover=handover)

    # ------------------------------------------------------ without an attempt

    async def _orphan(self, ownership: Ownership, lease: Lease, step: StreamAudio) -> None:
        """This attempt is over and the session is not: keep it for a successor, or release it."""
        if lease is not ownership.lease or ownership.orphaned:
            return
        if activity.is_worker_shutdown():
            await self._release(ownership, step, handover=True)
            return
        ownership.orphaned = True
        ownership.session.supervised = False  # no speaker is let in until it is adopted
        task = asyncio.create_task(
            self._await_successor(ownership, step), name=f"await successor of {step.session_key}"
        )
        self._awaiting.add(task)
        task.add_done_callback(self._awaiting.discard)

    async def _await_successor(self, ownership: Ownership, step: StreamAudio) -> None:
        """Keep an orphaned session until it is adopted, its workflow is closed, or time is up.

        "Not found" means a closed workflow, or one whose server was away: the server has to be
        asked.
        """
        answered_since_s: float | None = None
        while ownership.orphaned and not ownership.running.done():
            status = await attempt_status()
            if not ownership.orphaned:
                return
            if status is AttemptStatus.CLOSED:
                logger.warning("workflow is closed: stopping %s", step.provider_session_id)
                await ownership.session.close()
                await stop_with_retries(self._liveavatar, step.provider_session_id)
                break
            if status is not AttemptStatus.UNKNOWN:
                answered_since_s = answered_since_s or time.monotonic()
                if time.monotonic() - answered_since_s > SUCCESSOR_TIMEOUT_S:
                    break
            elif ownership.unacked_s > self._unsupervised_limit_s:
                break
            await asyncio.wait({ownership.running}, timeout=ORPHAN_CHECK_S)
        if ownership.orphaned:
            logger.info("%s: released", step.session_key)
            await self._release(ownership, step, handover=True)

    async def close(self) -> None:
        """Release the sessions that no attempt serves; for a process that stops. Bounded."""
        for task in list(self._awaiting):
            task.cancel()
        left = list(self._ownerships.values())
        self._ownerships.clear()
        for ownership in left:
            self._owned.remove(ownership.session)
        await asyncio.gather(*(ownership.release(handover=True) for ownership in left))

    # ----------------------------------------- on the process's own queue

    @activity.defn(name=names.ACTIVITY_DELIVER_COMMAND)
    async def deliver_command(self, step: DeliverCommand) -> CommandDelivered:
        """Execute a command; the answer means that it is on the wire.

        Raises:
            NotOwner: this process does not own the session in that epoch, or has no socket now.
        """
        session = self._session(step.session_key, step.epoch)
        try:
            if step.kind == "tell_idle":
                return CommandDelivered(outcome=CommandOutcome.SENT, idle_s=session.idle_s())
            return CommandDelivered(outcome=await _execute(session, step))
        except (OwnerNotReady, LiteError) as error:
            raise failures.not_owner(str(error)) from error

    @activity.defn(name=names.ACTIVITY_SPEAK)
    async def speak(self, step: SpeakClip) -> ClipSpoken:
        """Play a clip; returns when it is heard, interrupted, lost or rejected.

        Raises:
            NotOwner: this process does not own the session in that epoch, or has no socket now.
        """
        session = self._session(step.session_key, step.epoch)
        clip = ClipJob(
            utterance_id=step.utterance_id,
            sequence=step.order,
            open=lambda: self._clips.open(step.clip),
            offset_bytes=step.offset_bytes,
            played_out_at=step.dry_at,
        )
        heartbeat = ClipHeartbeat()
        beating = asyncio.create_task(heartbeat.run(), name="clip heartbeat")
        try:
            return await session.speak(clip, heartbeat.on_progress)
        except OwnerNotReady as error:
            raise failures.not_owner(str(error)) from error
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating

    @activity.defn(name=names.ACTIVITY_GRANT_SPEAKER)
    async def grant_speaker(self, step: GrantSpeaker) -> GrantedSpeaker:
        """A ticket to this process's ingress, for one session in one epoch.

        Raises:
            NotOwner: this process does not own the session in that epoch.
            NoIngress: it takes no live speech.
        """
        self._session(step.session_key, step.epoch)
        granted = self._grants.grant(step.session_key, step.epoch)
        if granted is None:
            raise failures.plain_error(ErrorType.NO_INGRESS, "this worker takes no live speech")
        return granted

    def _session(self, key: str, epoch: Epoch) -> OwnedSession:
        session = self._owned.get(key, epoch)
        if session is None:
            raise failures.not_owner(f"epoch {epoch[0]}.{epoch[1]} is not owned here")
        return session


async def _execute(session: OwnedSession, step: DeliverCommand) -> CommandOutcome:
    match step.kind:
        case "interrupt":
            return await session.interrupt(step.up_to_order, step.delayed_s)
        case "set_pose":
            return await session.set_pose(step.pose or Pose.IDLE)
        case "keep_alive":
            return await session.keep_alive()
        case "stop_feeding":
            return session.stop_feeding(step.up_to_order)
        case "retire":
            return await session.retire(step.patience_s)
        case "hand_over":
            return await session.hand_over()
        case "tell_idle":
            raise AssertionError("answered by the caller")


def _superseded() -> ApplicationError:
    """Discarded: the server has already timed this attempt out."""
    return ApplicationError(
        "the session goes on without this attempt",
        type=ErrorType.DISCONNECTED,
        category=ApplicationErrorCategory.BENIGN,
    )


class ClipHeartbeat:
    """Heartbeats of a clip that is playing, with its position."""

    def __init__(self) -> None:
        self._cursor: ClipCursor | None = None
        self._advanced = asyncio.Event()

    def on_progress(self, cursor: ClipCursor) -> None:
        """A chunk was sent to LiveAvatar: heartbeat immediately, for this process may die."""
        self._cursor = cursor
        self._advanced.set()

    async def run(self) -> None:
        """Send heartbeats until cancelled."""
        while True:
            details = () if self._cursor is None else (self._cursor,)
            activity.heartbeat(*details)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLIP_HEARTBEAT_S):
                    await self._advanced.wait()
            self._advanced.clear()
