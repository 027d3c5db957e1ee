"""Owning sessions, as activities: the hours-long stream, and what reaches it on its own queue."""

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
from activities.streaming.orphans import (
    AttemptStatus,
    standing_of_attempt,
    stop_for_good,
    stop_if_terminated,
)
from activities.streaming.ownership import HeartbeatAnswer, Lease, Ownership
from activities.streaming.signals import SignalQueue
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
    OwnerReady,
    OwnerRecovering,
    SpeakClip,
    StreamAudio,
    StreamEnd,
    StreamResult,
)
from avatar_sessions.contract.messages import UtteranceReport
from avatar_sessions.contract.states import CommandOutcome, Pose
from avatar_sessions.seal import Seal
from liveavatar_lite import ConnectionFailed, LiteError, LiveAvatar
from owner.clip_queue import ClipJob
from owner.clips.source import ClipSource
from owner.ingress.tickets import Tickets
from owner.registry import SessionRegistry
from owner.session import OwnedSession, OwnedState, OwnerLimits, OwnerNotReady, ProviderEnd

logger = logging.getLogger(__name__)

BEAT_S: Final = 5.0
"""A heartbeat costs about 0.7 ms of worker and 2 ms of server CPU (measured): every 5 s."""
SDK_BEAT_EVERY: Final = 2
"""Every second one goes by the SDK, too, which else takes the attempt for dead after 18 s."""
UNACKED_PAUSE_S: Final = 1.0
"""Between two heartbeats while the server does not answer."""
CLIP_BEAT_S: Final = 1.0
"""An utterance tells how far it has come at least so often, and at each chunk: what a dead owner
leaves is at most one chunk old, and its death is noticed in three seconds."""
SUCCESSOR_PATIENCE_S: Final = 20.0
"""How long a session whose attempt is over waits here for the next one, while the server answers:
the heartbeat timeout, and a moment for the retry."""
ORPHAN_LOOK_S: Final = 2.0
LEAVING_TIMEOUT_S: Final = 1.0
LEAVE_EVERY_S: Final = 0.1
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
        leave_within_s: float = 5.0,
    ) -> None:
        self._owned = owned
        self._clips = clips
        self._liveavatar = liveavatar
        self._seal = seal
        self._queue = queue
        self._limits = limits
        self._tickets = tickets
        self._ingress_url = ingress_url
        self._seal_texts = seal_texts
        self._unsupervised_limit_s = unsupervised_limit_s
        self._leave_within_s = leave_within_s
        self._leaving = asyncio.Lock()
        self._holdings: dict[str, Ownership] = {}  # by LiveAvatar's id of the session
        self._keeping: set[asyncio.Task[None]] = set()

    # --------------------------------------------------------------- stream

    @activity.defn(name=names.ACTIVITY_STREAM_AUDIO)
    async def stream_audio(self, step: StreamAudio) -> StreamResult:
        """Own a session until it ends; heartbeats carry where it stands.

        A session that this process holds already, because the server lost sight of the attempt
        before, is adopted: its socket stays, and its speech goes on.

        Raises:
            Disconnected: the socket could not be had, or the server lost sight of us.
            WorkerDraining: this process is going away; the next attempt takes over at once.
        """
        info = activity.info()
        attempt = activity.client().get_async_activity_handle(task_token=info.task_token)
        lease = Lease((step.stream, info.attempt), attempt)
        # A task may have been picked up by a process that was stopped for minutes since.
        first = OwnerHeartbeat(
            epoch=lease.epoch, queue=self._queue, state=OwnedState.CONNECTING.name
        )
        if await lease.beat(first) is not HeartbeatAnswer.GIVEN:
            raise _served_by_another()
        logger.info("%s: owned in epoch %d.%d", step.session_key, *lease.epoch)
        holding = self._adopted(step, lease) or self._begun(step, lease)
        try:
            return await self._serve(holding, lease, step)
        except asyncio.CancelledError:
            await self._part(holding, lease, step)
            raise
        except ConnectionFailed as error:
            raise failures.plain_error(ErrorType.DISCONNECTED, str(error)) from error

    def _adopted(self, step: StreamAudio, lease: Lease) -> Ownership | None:
        holding = self._holdings.get(step.provider_session_id)
        if holding is None or not holding.adoptable:
            return None
        logger.info("adopted: %s goes on", step.session_key)
        holding.adopt(lease)
        if holding.session.state is OwnedState.READY:
            self._tell_ready(holding, step, 0)
        return holding

    def _begun(self, step: StreamAudio, lease: Lease) -> Ownership:
        info = activity.info()
        assert info.workflow_id is not None
        workflow = activity.client().get_workflow_handle(
            info.workflow_id, run_id=info.workflow_run_id
        )
        news = SignalQueue(step.session_key, lease.epoch, workflow)
        session = OwnedSession(
            key=step.session_key,
            epoch=lease.epoch,
            ws_url=failures.opened(self._seal, step.ws_url),
            limits=self._limits,
            on_ready=lambda gap_ms: self._tell_ready(holding, step, gap_ms),
            on_lost=lambda: news.put(
                names.SIGNAL_OWNER_RECOVERING, OwnerRecovering(epoch=news.epoch)
            ),
            on_line=lambda line, may_go_on: news.put_line(self._sealed(line), may_go_on),
            on_pose=news.put_pose,
            provider_end=lambda: self._provider_end(step.provider_session_id),
            may_reconnect=lambda: holding.may_reconnect(),
            owner=self._queue,
            generation=step.generation,
        )
        holding = Ownership(session, news, lease, self._queue)
        self._owned.add(session)
        self._holdings[step.provider_session_id] = holding
        return holding

    def _tell_ready(self, holding: Ownership, step: StreamAudio, gap_ms: int) -> None:
        url = self._ingress_url()
        speaker = None if url is None else self._granted(url, step.session_key, holding.lease.epoch)
        holding.news.put(
            names.SIGNAL_OWNER_READY,
            OwnerReady(
                queue=self._queue,
                epoch=holding.lease.epoch,
                provider_session_id=step.provider_session_id,
                gap_ms=gap_ms,
                speakers=speaker is not None,
                speaker=speaker,
            ),
        )

    def _granted(self, url: str, session_key: str, epoch: Epoch) -> GrantedSpeaker:
        ticket, expires_at = self._tickets.issue(session_key, epoch)
        return GrantedSpeaker(
            ingress_url=url, ticket=self._seal.seal(ticket), expires_at=expires_at
        )

    async def _serve(self, holding: Ownership, lease: Lease, step: StreamAudio) -> StreamResult:
        """Serve a session by this attempt: until it ends, we drain, or the server wants us no more.

        Raises:
            ConnectionFailed: the socket could not be had (again).
        """
        running = holding.running
        draining = asyncio.create_task(activity.wait_for_worker_shutdown(), name="drain")
        beating = asyncio.create_task(self._beat(holding, lease), name="beat")
        taken = asyncio.create_task(lease.taken.wait(), name="taken")
        tasks: set[asyncio.Task[Any]] = {draining, beating, taken}
        try:
            await asyncio.wait({running, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            if lease.taken.is_set():
                raise _served_by_another()
            if running.done():
                return await self._over(holding, step)
            if beating.done():
                if beating.result() is HeartbeatAnswer.UNREACHABLE:
                    logger.warning("%s: the server is away for too long", step.session_key)
                    await self._leave(holding, step, moving=True)
                else:
                    await self._part(holding, lease, step)
                raise _served_by_another()
            return await self._drained(holding, step)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _over(self, holding: Ownership, step: StreamAudio) -> StreamResult:
        """The session is over here: let go of it, and tell why."""
        failed = holding.running.exception() is not None
        # Whatever ended it but the workflow itself: it may go on with another socket or session.
        moving = failed or holding.running.result().end is not StreamEnd.RELEASED
        await self._leave(holding, step, moving=moving)
        return holding.running.result()

    async def _drained(self, holding: Ownership, step: StreamAudio) -> StreamResult:
        """This process goes: hand the session over, wherever it stands."""
        if not holding.session.is_open:
            # Nearly over: let the end run its course instead of moving it.
            await asyncio.wait({holding.running}, timeout=self._limits.release_timeout_s + 2)
            if holding.running.done():
                return await self._over(holding, step)
        await self._turn_to_leave(holding)
        if holding.running.done():
            return await self._over(holding, step)
        # Said first, while speech goes on: whoever looks for an owner waits for the next one.
        leaving = OwnerRecovering(epoch=holding.lease.epoch, leaving=True)
        holding.news.put(names.SIGNAL_OWNER_RECOVERING, leaving)
        await holding.news.flush(LEAVING_TIMEOUT_S)
        # Nobody after us would.
        await stop_if_terminated(self._liveavatar, step.provider_session_id)
        await self._leave(holding, step, moving=True)
        logger.info("%s: handed over", step.session_key)
        raise ApplicationError(
            "the worker is draining: another takes over",
            type=ErrorType.WORKER_DRAINING,
            # Zero would be dropped silently by the SDK, and the policy's backoff apply.
            next_retry_delay=timedelta(milliseconds=1),
            category=ApplicationErrorCategory.BENIGN,
        )

    async def _turn_to_leave(self, holding: Ownership) -> None:
        """One session after the other: each is served until its turn comes.

        Fifty at once kept Temporal busy for four seconds, twice what LiveAvatar has buffered.
        """
        pause_s = min(LEAVE_EVERY_S, self._leave_within_s / max(1, len(self._holdings)))
        async with self._leaving:
            await asyncio.wait({holding.running}, timeout=pause_s)

    async def _leave(self, holding: Ownership, step: StreamAudio, *, moving: bool) -> None:
        self._owned.remove(holding.session)
        if self._holdings.get(step.provider_session_id) is holding:
            del self._holdings[step.provider_session_id]
        await holding.let_go(moving=moving)

    # ------------------------------------------------------ without an attempt

    async def _part(self, holding: Ownership, lease: Lease, step: StreamAudio) -> None:
        """This attempt is over, not the session: keep it for the next one, or let go."""
        if lease is not holding.lease or holding.orphaned:
            return
        if activity.is_worker_shutdown():
            await self._leave(holding, step, moving=True)
            return
        holding.orphaned = True
        holding.session.supervised = False  # nobody new is let in, until it is adopted
        keeping = asyncio.create_task(self._keep(holding, step), name=f"keep {step.session_key}")
        self._keeping.add(keeping)
        keeping.add_done_callback(self._keeping.discard)

    async def _keep(self, holding: Ownership, step: StreamAudio) -> None:
        """Hold a session that no attempt serves, for as long as that makes sense.

        "Not found" means a closed workflow, or one whose server was away: it has to be asked.
        """
        answered_since_s: float | None = None
        while holding.orphaned and not holding.running.done():
            standing = await standing_of_attempt()
            if not holding.orphaned:
                return
            if standing is AttemptStatus.CLOSED:
                logger.warning("workflow is closed: stopping %s", step.provider_session_id)
                await holding.session.close()
                await stop_for_good(self._liveavatar, step.provider_session_id)
                break
            if standing is not AttemptStatus.UNKNOWN:
                answered_since_s = answered_since_s or time.monotonic()
                if time.monotonic() - answered_since_s > SUCCESSOR_PATIENCE_S:
                    break
            elif holding.unacked_s > self._unsupervised_limit_s:
                break
            await asyncio.wait({holding.running}, timeout=ORPHAN_LOOK_S)
        if holding.orphaned:
            logger.info("%s: let go", step.session_key)
            await self._leave(holding, step, moving=True)

    async def close(self) -> None:
        """Let go of what no attempt serves; for a process that goes. Bounded."""
        for keeping in list(self._keeping):
            keeping.cancel()
        left = list(self._holdings.values())
        self._holdings.clear()
        for holding in left:
            self._owned.remove(holding.session)
        await asyncio.gather(*(holding.let_go(moving=True) for holding in left))

    def _sealed(self, line: UtteranceReport) -> UtteranceReport:
        """The line as history may have it."""
        if line.text is None or not self._seal_texts:
            return line
        return line.model_copy(update={"text": None, "sealed_text": self._seal.seal(line.text)})

    async def _beat(self, holding: Ownership, lease: Lease) -> HeartbeatAnswer:
        """Renew the lease until it cannot be; the server's last word.

        A server that does not answer is no reason to fall silent: that is for `UNREACHABLE` after
        the limit.
        """
        for number in itertools.count(1):
            # The first one went before the session was taken.
            await asyncio.sleep(BEAT_S if holding.unacked_s < BEAT_S else UNACKED_PAUSE_S)
            if number % SDK_BEAT_EVERY == 0:
                activity.heartbeat(holding.details)
            ack = await holding.beat(lease)
            if ack in (HeartbeatAnswer.CANCELLED, HeartbeatAnswer.NOT_FOUND):
                return ack
            if holding.unacked_s > self._unsupervised_limit_s:
                return HeartbeatAnswer.UNREACHABLE
        raise AssertionError("unreachable")

    async def _provider_end(self, provider_session_id: str) -> ProviderEnd | None:
        """Ask LiveAvatar's books whether the session is over; None if not, or not to be known."""
        try:
            entry = await self._liveavatar.get_session(provider_session_id)
        except LiteError as error:
            logger.info("session's state is not to be had: %s", error)
            return None
        if entry is None:
            return ProviderEnd(None)
        if entry.end_at is None and entry.end_reason is None:
            return None
        return ProviderEnd(None if entry.end_reason is None else str(entry.end_reason))

    # ---------------------------------------------------- on the private queue

    @activity.defn(name=names.ACTIVITY_DELIVER_COMMAND)
    async def deliver_command(self, step: DeliverCommand) -> CommandDelivered:
        """Do a command; the answer means that it is on the wire.

        Raises:
            NotOwner: this process does not own the session in that epoch, or has no socket now.
        """
        session = self._session(step.session_key, step.epoch)
        try:
            if step.kind == "tell_idle":
                return CommandDelivered(outcome=CommandOutcome.SENT, idle_s=session.idle_s())
            return CommandDelivered(outcome=await _do(session, step))
        except (OwnerNotReady, LiteError) as error:
            raise failures.not_owner(str(error)) from error

    @activity.defn(name=names.ACTIVITY_SPEAK)
    async def speak(self, step: SpeakClip) -> ClipSpoken:
        """Say a clip; lasts until it is heard, cut, lost or refused.

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
        beat = ClipHeartbeat()
        beating = asyncio.create_task(beat.run(), name="beat")
        try:
            return await session.speak(clip, beat.progressed)
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
        url = self._ingress_url()
        if url is None:
            raise failures.plain_error(ErrorType.NO_INGRESS, "this worker takes no live speech")
        return self._granted(url, step.session_key, step.epoch)

    def _session(self, key: str, epoch: Epoch) -> OwnedSession:
        session = self._owned.get(key, epoch)
        if session is None:
            raise failures.not_owner(f"epoch {epoch[0]}.{epoch[1]} is not owned here")
        return session


async def _do(session: OwnedSession, step: DeliverCommand) -> CommandOutcome:
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
            raise AssertionError("answered before")


def _served_by_another() -> ApplicationError:
    """Nobody hears it: the server has given this attempt up."""
    return ApplicationError(
        "the session goes on without this attempt",
        type=ErrorType.DISCONNECTED,
        category=ApplicationErrorCategory.BENIGN,
    )


class ClipHeartbeat:
    """The heartbeat of a clip that is said: a sign of life, and how far it has come."""

    def __init__(self) -> None:
        self._cursor: ClipCursor | None = None
        self._came = asyncio.Event()

    def progressed(self, cursor: ClipCursor) -> None:
        """Speech went on to LiveAvatar: told at once, for this process may die."""
        self._cursor = cursor
        self._came.set()

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            details = () if self._cursor is None else (self._cursor,)
            activity.heartbeat(*details)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLIP_BEAT_S):
                    await self._came.wait()
            self._came.clear()
