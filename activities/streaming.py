"""Owning sessions, as activities: the hours-long stream, and what reaches it on its own queue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from temporalio import activity
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from activities import failures
from activities.clips import Clips
from activities.news import News
from activities.orphans import stop_if_terminated
from activities.owned import (
    NotReady,
    OwnedSession,
    OwnedSessions,
    OwnedState,
    OwnerLimits,
    ProviderEnd,
)
from activities.tickets import Tickets
from avatar_sessions.contract import names
from avatar_sessions.contract.messages import UtteranceReport
from avatar_sessions.contract.states import CommandOutcome, Pose
from avatar_sessions.contract.steps import (
    DeliverCommand,
    Delivered,
    Epoch,
    ErrorType,
    GrantedSpeaker,
    GrantSpeaker,
    OwnerBeat,
    OwnerReady,
    OwnerRecovering,
    SaidClip,
    SpeakClip,
    StreamAudio,
    StreamResult,
)
from avatar_sessions.seal import Seal
from liveavatar_lite import ConnectionFailed, LiteError, LiveAvatar

logger = logging.getLogger(__name__)

BEAT_S: Final = 5.0
"""A heartbeat costs about 0.7 ms of worker and 2 ms of server CPU (measured): every 5 s."""
FLUSH_TIMEOUT_S: Final = 3.0
"""How long the last lines of the ledger may take to reach the workflow."""
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
        tickets: Tickets,
        ingress_url: Callable[[], str | None],
        seal_texts: bool = False,
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

    # --------------------------------------------------------------- stream

    @activity.defn(name=names.ACTIVITY_STREAM_AUDIO)
    async def stream_audio(self, step: StreamAudio) -> StreamResult:
        """Own a session until it ends; heartbeats carry where it stands.

        Raises:
            Disconnected: the socket could not be had.
            WorkerDraining: this process is going away; the next attempt takes over at once.
        """
        epoch = (step.stream, activity.info().attempt)
        news = News(step.session_key, epoch)
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
                    speakers=self._ingress_url() is not None,
                ),
            ),
            on_lost=lambda: news.put(names.SIGNAL_OWNER_RECOVERING, OwnerRecovering(epoch=epoch)),
            on_line=lambda line, may_go_on: news.put_line(self._sealed(line), may_go_on),
            on_pose=news.put_pose,
            provider_end=lambda: self._provider_end(step.provider_session_id),
            owner=self._queue,
            generation=step.generation,
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

    async def _hold(self, session: OwnedSession, news: News, step: StreamAudio) -> StreamResult:
        """Run the session beside its heartbeat and its news, until it ends or we drain."""
        moving = True
        running = asyncio.create_task(session.run(), name=f"session {session.key}")
        draining = asyncio.create_task(activity.wait_for_worker_shutdown(), name="drain")
        beating = asyncio.create_task(self._beat(session), name="beat")
        telling = asyncio.create_task(news.tell(), name="news")
        batching = asyncio.create_task(news.batch(), name="ledger lines")
        tasks = [running, draining, beating, telling, batching]
        try:
            await asyncio.wait({running, draining, beating}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                moving = running.exception() is not None
                return running.result()
            if beating.done():
                beating.result()  # a heartbeat that cannot be made is a bug: raise it
            if session.state is OwnedState.LETTING_GO:
                # Nearly over: let the end run its course instead of moving it.
                moving = False
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
            await session.close(moving=moving)
            await news.flush(FLUSH_TIMEOUT_S)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)

    def _sealed(self, line: UtteranceReport) -> UtteranceReport:
        """The line as history may have it."""
        if line.text is None or not self._seal_texts:
            return line
        return line.model_copy(update={"text": None, "sealed_text": self._seal.seal(line.text)})

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
            if step.kind == "tell_idle":
                return Delivered(outcome=CommandOutcome.SENT, idle_s=session.idle_s())
            return Delivered(outcome=await _do(session, step))
        except (NotReady, LiteError) as error:
            raise failures.not_owner(str(error)) from error

    @activity.defn(name=names.ACTIVITY_SPEAK)
    async def speak(self, step: SpeakClip) -> SaidClip:
        """Say a clip; lasts until it is heard, cut, lost or refused.

        Raises:
            NotOwner: this process does not own the session in that epoch, or has no socket now.
        """
        session = self._session(step.session_key, step.epoch)
        beating = asyncio.create_task(_keep_beating(), name="beat")
        try:
            return await session.speak(
                step.utterance_id, step.order, lambda: self._clips.open(step.clip)
            )
        except NotReady as error:
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
        ticket, expires_at = self._tickets.issue(step.session_key, step.epoch)
        return GrantedSpeaker(
            ingress_url=url, ticket=self._seal.seal(ticket), expires_at=expires_at
        )

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
        case "tell_idle":
            raise AssertionError("answered before")


async def _keep_beating() -> None:
    while True:
        activity.heartbeat()
        await asyncio.sleep(BEAT_S)
