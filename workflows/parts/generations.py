"""One LiveAvatar session after the other, for as long as the session is to live.

The next one is opened when LiveAvatar ends one, and before its limit does: then it stands ready
when the other falls silent, and takes over between two utterances. Who holds a socket is `streams`'
business, what a start is `provider`'s.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from avatar_sessions.contract.activities import ErrorType, OwnerReady, StreamEnd, StreamResult
    from avatar_sessions.contract.messages import Failure, SessionRequest
    from avatar_sessions.contract.states import EndReason, SessionState

from workflows.parts import options
from workflows.parts.failures import failure_of, is_type, limit_waited_for
from workflows.parts.owner_monitor import OwnerMonitor
from workflows.parts.provisioning import Provisioning
from workflows.parts.record import EndCause, SessionRecord
from workflows.parts.streams import Stream

MAX_DURATION_REACHED: Final = "MAX_DURATION_REACHED"
ENDED_ON_PURPOSE: Final = frozenset(
    {
        "USER_CLOSED",
        "USER_DISCONNECTED",
        "AGENT_HANG_UP",
        "IDLE_TIMEOUT",
        "NO_CREDITS",
        "AVATAR_DELETED",
    }
)
"""LiveAvatar's reasons after which a new session would be unwanted, or could not be had."""


@dataclass(eq=False)
class HeldGeneration:
    """A generation and whoever holds it."""

    stream: Stream
    task: asyncio.Task[StreamResult]


class Generations:
    """All LiveAvatar sessions of one session."""

    def __init__(self, record: SessionRecord, provider: Provisioning, owner: OwnerMonitor) -> None:
        self._record = record
        self._provider = provider
        self._owner = owner
        self._tasks: list[asyncio.Task[Any]] = []
        self._short_generations = 0  # generations in a row that LiveAvatar ended soon

    async def run(self, request: SessionRequest) -> EndCause:
        """Open one generation after the other until there is a reason to end.

        Raises:
            ActivityError: LiveAvatar, LiveKit or an owner could not be had.
            asyncio.CancelledError: the session ends.
        """
        try:
            stream = await self._provider.open(request)
            self._record.ends_at = _session_ends_at(request, stream)
            held = self._start_stream(stream)
            again_at: datetime | None = None
            while True:
                await self._wait(held, again_at or self._rotation_due_at(request, stream))
                if held.task.done():
                    end_cause = self._end_cause_of(request, held)
                    if end_cause is not None:
                        return end_cause
                    held = await self._recover(request, held)
                elif self._record.live_at is not None:
                    held = await self._rotate(request, held)
                # One that did not work, or that came before the session was live, is tried again,
                # until the limit ends this generation.
                again_at = (
                    workflow.now() + options.ROTATE_RETRY_PAUSE if held.stream is stream else None
                )
                stream = held.stream
        except asyncio.CancelledError:
            ends_by_itself = self._record.end_cause is not None and not _is_cancelled_from_outside()
            if ends_by_itself and self._record.owner is not None and self._tasks:
                # The end lets the owners go: their last words are waited for, until it cancels.
                await workflow.wait(self._tasks)
            raise
        finally:
            for task in self._tasks:
                task.cancel()

    def _start_stream(self, stream: Stream, *, waits: bool = False) -> HeldGeneration:
        """Have a generation held; ``waits``: another one speaks meanwhile."""
        if waits:
            self._provider.successor = stream
        else:
            self._provider.stream = stream
            self._record.active_generation = stream.generation
            if self._record.state is SessionState.STARTING:
                self._record.transition_to(SessionState.CONNECTING)
        task = asyncio.create_task(stream.run(), name=f"generation {stream.generation.number}")
        self._track(task)
        return HeldGeneration(stream, task)

    def _track(self, task: asyncio.Task[Any]) -> None:
        self._tasks = [one for one in self._tasks if not one.done()]
        self._tasks.append(task)

    async def _wait(self, held: HeldGeneration, until: datetime | None) -> None:
        """Wait until the generation is over, or it is time for the next one."""
        if until is None:
            await workflow.wait([held.task])
            return
        left = until - workflow.now()
        if left > timedelta(0) and not held.task.done():
            await workflow.wait([held.task], timeout=left.total_seconds())

    # --------------------------------------------------------------- its end

    def _end_cause_of(self, request: SessionRequest, held: HeldGeneration) -> EndCause | None:
        """What it means that a generation is over by itself; None: the next one is to come.

        Raises:
            ActivityError: it could not be held, for a reason that the next one would meet, too.
        """
        lived = workflow.now() - held.stream.started.started_at
        self._short_generations = (
            self._short_generations + 1 if lived < options.SHORT_GENERATION else 0
        )
        may_go_on = self._short_generations <= options.MAX_SHORT_GENERATIONS
        error = held.task.exception()
        if error is not None:
            lost = isinstance(error, ActivityError) and is_type(error, ErrorType.DISCONNECTED)
            if lost and may_go_on:
                return None
            raise error
        result = held.task.result()
        if result.end is StreamEnd.RELEASED:
            return EndCause(EndReason.REQUESTED)
        reason = result.provider_end_reason
        if reason == MAX_DURATION_REACHED and not (request.rotate and self._is_worth_another()):
            return EndCause(EndReason.MAX_DURATION)
        if may_go_on and reason not in ENDED_ON_PURPOSE:
            return None
        told = reason or f"it closed the WebSocket with code {result.close_code}"
        failure = Failure(type="ProviderEnded", message=f"LiveAvatar ended the session: {told}")
        return EndCause(EndReason.PROVIDER_ENDED, failure)

    async def _recover(self, request: SessionRequest, held: HeldGeneration) -> HeldGeneration:
        """LiveAvatar's session is gone: open another one, and go on there."""
        self._provider.stream = None
        if self._record.owner is not None:
            self._owner.mark_unreachable(self._record.owner)
        # It is gone already, or may be billed: at most one is, for longer than a stop takes.
        await self._stop(held, within=options.STOP_TIMEOUT)
        pause = options.START_PAUSE
        while True:
            try:
                return self._start_stream(await self._provider.open(request))
            except ActivityError as error:
                if is_cancelled_exception(error) or not _may_pass(error):
                    raise
                workflow.logger.warning("no next generation yet: %s", failure_of(error).message)
            await workflow.sleep(pause, summary="before the next generation is tried again")
            pause = min(2 * pause, options.RECOVERY_PAUSE_MAX)

    async def _stop(self, held: HeldGeneration, *, within: timedelta | None = None) -> None:
        """Stop a generation that speaks no more; one that cannot be is tried on in background."""
        stopping = asyncio.create_task(
            self._provider.stop_generation(held.stream.generation),
            name=f"stop generation {held.stream.generation.number}",
        )
        self._track(stopping)
        if within is not None:
            await workflow.wait([stopping], timeout=within.total_seconds())

    # -------------------------------------------------------------- rotation

    def _rotation_due_at(self, request: SessionRequest, stream: Stream) -> datetime | None:
        """When the next generation is to be opened; None: this one is the last."""
        ends_at, limit = stream.ends_at, stream.limit
        if not request.rotate or ends_at is None or limit is None:
            return None
        if self._record.ends_at is None or self._record.ends_at <= ends_at:
            return None
        return ends_at - min(options.ROTATE_AHEAD, limit / 3)

    def _is_worth_another(self) -> bool:
        ends_at = self._record.ends_at
        return ends_at is not None and ends_at - workflow.now() > options.MIN_GENERATION_TIME

    async def _rotate(self, request: SessionRequest, held: HeldGeneration) -> HeldGeneration:
        """Open the next generation, and let it take over at an utterance's border.

        Returns:
            The one that speaks now: the old one, if there is no other yet.
        """
        try:
            stream = await self._provider.open(request, wait_at_limit=False)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            if limit_waited_for(error) is not None:
                # Only one may run at a time: stop, then start.
                await self._retire(held)
                await self._owner.hand_over()
                return await self._recover(request, held)
            self._provider.problem = failure_of(error).message
            workflow.logger.warning("no rotation now: %s", self._provider.problem)
            return held
        successor = self._start_stream(stream, waits=True)
        ready = await self._until_ready(held, successor)
        if ready is None and not held.task.done():
            return await self._discard(successor, held)
        if not held.task.done():
            await self._retire(held)
        if _was_ended_on_purpose(held):
            return await self._discard(successor, held)
        is_there = not held.task.done()
        self._record.switching = True
        try:
            if is_there:
                await self._owner.hand_over()
            self._provider.stream, self._provider.successor = stream, None
            self._record.switch_to(stream.generation, stream.ready)
        finally:
            self._record.switching = False
        if request.room is None and is_there:
            # Whoever watches goes over to the new room, before the old one is deleted.
            await workflow.sleep(options.FOLLOW_PAUSE, summary="viewers follow")
        else:
            await workflow.wait([held.task], timeout=options.FOLLOW_PAUSE.total_seconds())
        await self._stop(held)
        if _was_ended_on_purpose(held):
            # It came to light only now: the owner's answer was here before its result.
            end_cause = self._end_cause_of(request, held)
            assert end_cause is not None
            self._record.end(end_cause)
            raise asyncio.CancelledError("the session ends")
        return successor

    async def _discard(self, successor: HeldGeneration, held: HeldGeneration) -> HeldGeneration:
        """Do without the next generation; returns the other one."""
        self._provider.successor = None
        successor.task.cancel()
        await self._stop(successor)
        return held

    async def _until_ready(
        self, held: HeldGeneration, successor: HeldGeneration
    ) -> OwnerReady | None:
        """Wait for the next generation's owner."""
        ends_at = held.stream.ends_at
        assert ends_at is not None
        left = ends_at - options.HAND_OVER_MARGIN - workflow.now()
        try:
            await workflow.wait_condition(
                lambda: (
                    successor.stream.ready is not None
                    or successor.task.done()
                    or self._record.end_cause is not None
                ),
                timeout=max(left, timedelta(seconds=1)),
                timeout_summary="the next generation must be there by now",
            )
        except TimeoutError:
            return None
        if self._record.end_cause is not None:
            raise asyncio.CancelledError("the session ends")
        return successor.stream.ready

    async def _retire(self, held: HeldGeneration) -> None:
        """Let the one that speaks come to an utterance's end, as far as its limit allows."""
        ends_at = held.stream.ends_at
        assert ends_at is not None
        left = ends_at - options.HAND_OVER_MARGIN - workflow.now()
        if left > timedelta(0):
            await self._owner.retire(left)
        if self._record.end_cause is not None:
            raise asyncio.CancelledError("the session ends")


def _session_ends_at(request: SessionRequest, first: Stream) -> datetime | None:
    """When the session's own limit ends it; without one LiveAvatar's is."""
    began_at, asked_s = first.started.started_at, request.max_duration_s
    if asked_s is None:
        return began_at + (first.limit or options.DURATION_WITHOUT_A_LIMIT)
    asked = timedelta(seconds=asked_s)
    if request.rotate or first.limit is None:
        return began_at + asked
    return began_at + min(asked, first.limit)


def _was_ended_on_purpose(held: HeldGeneration) -> bool:
    """Whether LiveAvatar, or somebody there, has ended it in a way that ends ours."""
    if not held.task.done() or held.task.exception() is not None:
        return False
    return held.task.result().provider_end_reason in ENDED_ON_PURPOSE


def _is_cancelled_from_outside() -> bool:
    """Whether this task was cancelled, and has not only raised that by itself.

    To wait again after a cancel would lose it: a second one in the same step counts for nothing.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _may_pass(error: ActivityError) -> bool:
    """Whether the same could work a little later."""
    return not (isinstance(error.cause, ApplicationError) and error.cause.non_retryable)
