"""Owning sessions, as activities: the hours-long stream, and what reaches it on its own queue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import timedelta
from typing import Any, Final

from pydantic import BaseModel
from temporalio import activity
from temporalio.client import WorkflowHandle
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory
from temporalio.service import RPCError, RPCStatusCode

from activities import failures
from activities.clips import ClipError, Clips
from activities.orphans import stop_if_terminated
from activities.owned import (
    NotReady,
    OwnedSession,
    OwnedSessions,
    OwnedState,
    OwnerLimits,
    ProviderEnd,
)
from avatar_sessions.contract import names
from avatar_sessions.contract.messages import Failure, UtteranceReport
from avatar_sessions.contract.states import CommandOutcome, Pose, UtteranceOutcome
from avatar_sessions.contract.steps import (
    DeliverCommand,
    Delivered,
    Epoch,
    ErrorType,
    OwnerBeat,
    OwnerReady,
    OwnerRecovering,
    SpeakClip,
    StreamAudio,
    StreamResult,
)
from avatar_sessions.seal import Seal
from liveavatar_lite import ConnectionFailed, LiteError, LiveAvatar

logger = logging.getLogger(__name__)

BEAT_S: Final = 5.0
"""A heartbeat costs about 0.7 ms of worker and 2 ms of server CPU (measured): every 5 s."""
SIGNAL_TRIES: Final = 20
SIGNAL_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 5.0
DESCRIBE_TRIES: Final = 10


class Streaming:
    """The activities of one owner process."""

    def __init__(
        self,
        *,
        owned: OwnedSessions,
        clips: Clips,
        liveavatar: LiveAvatar,
        seal: Seal,
        queue: str,
        limits: OwnerLimits,
    ) -> None:
        self._owned = owned
        self._clips = clips
        self._liveavatar = liveavatar
        self._seal = seal
        self._queue = queue
        self._limits = limits

    # --------------------------------------------------------------- stream

    @activity.defn(name=names.ACTIVITY_STREAM_AUDIO)
    async def stream_audio(self, step: StreamAudio) -> StreamResult:
        """Own a session until it ends; heartbeats carry where it stands.

        Raises:
            Disconnected: the socket could not be had.
            WorkerDraining: this process is going away; the next attempt takes over at once.
        """
        epoch = (step.stream, activity.info().attempt)
        news = _News(step.session_key)
        session = OwnedSession(
            key=step.session_key,
            epoch=epoch,
            ws_url=failures.opened(self._seal, step.ws_url),
            limits=self._limits,
            on_ready=lambda gap_ms: news.put(
                names.SIGNAL_OWNER_READY,
                OwnerReady(
                    queue=self._queue,
                    epoch=epoch,
                    provider_session_id=step.provider_session_id,
                    gap_ms=gap_ms,
                ),
            ),
            on_lost=lambda: news.put(names.SIGNAL_OWNER_RECOVERING, OwnerRecovering(epoch=epoch)),
            provider_end=lambda: self._provider_end(step.provider_session_id),
        )
        self._owned.add(session)
        try:
            return await self._hold(session, news, step)
        except asyncio.CancelledError:
            await self._cancelled(session, step)
            raise
        except ConnectionFailed as error:
            raise failures.plain_error(ErrorType.DISCONNECTED, str(error)) from error
        finally:
            self._owned.remove(session)
            await session.close()

    async def _hold(self, session: OwnedSession, news: _News, step: StreamAudio) -> StreamResult:
        """Run the session beside its heartbeat and its news, until it ends or we drain."""
        running = asyncio.create_task(session.run(), name=f"session {session.key}")
        draining = asyncio.create_task(activity.wait_for_worker_shutdown(), name="drain")
        beating = asyncio.create_task(self._beat(session), name="beat")
        telling = asyncio.create_task(news.tell(), name="news")
        tasks = [running, draining, beating, telling]
        try:
            await asyncio.wait({running, draining, beating}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return running.result()
            if beating.done():
                beating.result()  # a heartbeat that cannot be made is a bug: raise it
            if session.state is OwnedState.LETTING_GO:
                # Nearly over: let the end run its course instead of moving it.
                return await asyncio.wait_for(running, self._limits.release_timeout_s + 2)
            # Nobody after us would.
            await stop_if_terminated(self._liveavatar, step.provider_session_id)
            activity.heartbeat(self._details(session))
            raise ApplicationError(
                "the worker is draining: another takes over",
                type=ErrorType.WORKER_DRAINING,
                # Zero would be dropped silently by the SDK, and the policy's backoff apply.
                next_retry_delay=timedelta(milliseconds=1),
                category=ApplicationErrorCategory.BENIGN,
            )
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)

    async def _beat(self, session: OwnedSession) -> None:
        while True:
            activity.heartbeat(self._details(session))
            await asyncio.sleep(BEAT_S)

    def _details(self, session: OwnedSession) -> OwnerBeat:
        return OwnerBeat(
            epoch=session.epoch,
            queue=self._queue,
            state=session.state.name,
            speaking=session.speaking,
            spoken_ms=session.spoken_ms,
            connects=session.connects,
        )

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

    async def _cancelled(self, session: OwnedSession, step: StreamAudio) -> None:
        """Decide what a cancel means: "not found" is either a successor, or a closed workflow."""
        details = activity.cancellation_details()
        if details is None or not (details.not_found or details.timed_out):
            return
        await session.close()
        await stop_if_terminated(self._liveavatar, step.provider_session_id, tries=DESCRIBE_TRIES)

    # ---------------------------------------------------- on the private queue

    @activity.defn(name=names.ACTIVITY_DELIVER_COMMAND)
    async def deliver_command(self, step: DeliverCommand) -> Delivered:
        """Do a command; the answer means that it is on the wire.

        Raises:
            NotOwner: this process does not own the session in that epoch, or has no socket now.
        """
        session = self._session(step.session_key, step.epoch)
        try:
            return Delivered(outcome=await _do(session, step))
        except (NotReady, LiteError) as error:
            raise failures.not_owner(str(error)) from error

    @activity.defn(name=names.ACTIVITY_SPEAK)
    async def speak(self, step: SpeakClip) -> UtteranceReport:
        """Say a clip; lasts until it is heard, cut, lost or refused.

        Raises:
            NotOwner: this process does not own the session in that epoch, or has no socket now.
        """
        session = self._session(step.session_key, step.epoch)
        beating = asyncio.create_task(_keep_beating(), name="beat")
        try:
            pcm = await self._load_unless_cut(session, step)
            return await session.speak(step.utterance_id, step.order, pcm)
        except ClipError as error:
            failure = Failure(type=error.type, message=str(error))
            activity.logger.warning("clip refused: %s", failure.type)
            return UtteranceReport(
                id=step.utterance_id, outcome=UtteranceOutcome.REJECTED, failure=failure
            )
        except NotReady as error:
            raise failures.not_owner(str(error)) from error
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating

    async def _load_unless_cut(self, session: OwnedSession, step: SpeakClip) -> bytes:
        """The clip's PCM; nothing, once an interrupt has made it needless."""
        loading = asyncio.create_task(self._clips.load(step.clip), name="load clip")
        cut = asyncio.create_task(session.until_cut(step.order), name="until cut")
        try:
            await asyncio.wait({loading, cut}, return_when=asyncio.FIRST_COMPLETED)
            return loading.result() if loading.done() else b""
        finally:
            for task in (loading, cut):
                task.cancel()
            await asyncio.wait({loading, cut})

    def _session(self, key: str, epoch: Epoch) -> OwnedSession:
        session = self._owned.get(key, epoch)
        if session is None:
            raise failures.not_owner(f"epoch {epoch[0]}.{epoch[1]} is not owned here")
        return session


async def _do(session: OwnedSession, step: DeliverCommand) -> CommandOutcome:
    match step.kind:
        case "interrupt":
            return await session.interrupt(step.up_to_order)
        case "set_pose":
            return await session.set_pose(step.pose or Pose.IDLE)
        case "keep_alive":
            return await session.keep_alive()
        case "stop_feeding":
            return session.stop_feeding(step.up_to_order)


async def _keep_beating() -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(BEAT_S)


class _News:
    """What an owner tells its workflow, in order, without ever waiting for it itself."""

    def __init__(self, session_key: str) -> None:
        self._session_key = session_key
        self._pending: asyncio.Queue[tuple[str, BaseModel]] = asyncio.Queue(maxsize=100)

    def put(self, signal: str, message: BaseModel) -> None:
        """Queue a signal. A hundred that could not be told are a dead server: the oldest goes."""
        if self._pending.full():
            self._pending.get_nowait()
        self._pending.put_nowait((signal, message))

    async def tell(self) -> None:
        """Send what is queued, each until the server has it."""
        info = activity.info()
        assert info.workflow_id is not None
        workflow = activity.client().get_workflow_handle(
            info.workflow_id, run_id=info.workflow_run_id
        )
        while True:
            await self._send(workflow, *await self._pending.get())

    async def _send(
        self, workflow: WorkflowHandle[Any, Any], signal: str, message: BaseModel
    ) -> None:
        for tries in range(SIGNAL_TRIES):
            try:
                # The client retries inside: the timeout of one RPC does not bound the whole.
                async with asyncio.timeout(SIGNAL_TIMEOUT_S * 2):
                    await workflow.signal(
                        signal, message, rpc_timeout=timedelta(seconds=SIGNAL_TIMEOUT_S)
                    )
            except (RPCError, TimeoutError) as error:
                if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND:
                    return  # the workflow is closed: the next heartbeat tells
                logger.warning(
                    "signal %s of %s failed, try %d: %s",
                    signal,
                    self._session_key,
                    tries + 1,
                    type(error).__name__,
                )
                await asyncio.sleep(min(5.0, 0.2 * 2**tries))
            else:
                return
