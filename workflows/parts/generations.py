"""Runs a session's generations: one LiveAvatar session after the other.

The next generation is opened when LiveAvatar ends the present one, and before LiveAvatar's limit
does: it then stands by, and takes over between two utterances. A generation's start is in
`provisioning`, its stream in `streams`.
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
    from avatar_sessions.contract.messages import SessionRequest
    from avatar_sessions.contract.reports import Failure
    from avatar_sessions.contract.states import EndReason, SessionState

from workflows.parts import options
from workflows.parts.audio_streams import Stream, Streams
from workflows.parts.cleanup import Cleanup
from workflows.parts.failures import failure_of, is_type, limit_waited_for
from workflows.parts.owner_commands import OwnerCommands
from workflows.parts.owner_monitor import OwnerMonitor
from workflows.parts.provisioning import Provisioning
from workflows.parts.session_state import EndCause, SessionRecord

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
"""LiveAvatar's end reasons after which a new LiveAvatar session is unwanted, or not possible."""


@dataclass(eq=False)
class HeldGeneration:
    """A generation's stream, and the task that runs it."""

    stream: Stream
    task: asyncio.Task[StreamResult]

    @property
    def ended_on_purpose(self) -> bool:
        """Whether LiveAvatar has ended it for a reason that ends the whole session."""
        if not self.task.done() or self.task.exception() is not None:
            return False
        return self.task.result().provider_end_reason in ENDED_ON_PURPOSE


class Generations:
    """All LiveAvatar sessions of one session."""

    def __init__(
        self,
        record: SessionRecord,
        streams: Streams,
        provisioning: Provisioning,
        cleanup: Cleanup,
        monitor: OwnerMonitor,
        commands: OwnerCommands,
    ) -> None:
        self._record = record
        self._streams = streams
        self._provisioning = provisioning
        self._cleanup = cleanup
        self._monitor = monitor
        self._commands = commands
        self._tasks: list[asyncio.Task[Any]] = []
        self._short_generations = 0
        """Generations in a row that LiveAvatar ended soon after their start."""

    async def run(self, request: SessionRequest) -> EndCause:
        """Run one generation after the other until there is a cause to end.

        Raises:
            ActivityError: LiveAvatar or LiveKit refused, or no worker became owner.
            asyncio.CancelledError: the session ends.
        """
        try:
            stream = await self._provisioning.open(request)
            self._record.ends_at = session_ends_at(request, stream)
            held = self._run_stream(stream)
            retry_at: datetime | None = None
            while True:
                due_at = retry_at or rotation_due_at(request, stream, self._record.ends_at)
                await self._until_over_or_due(held, due_at)
                if held.task.done():
                    end_cause = self._end_cause_of(request, held)
                    if end_cause is not None:
                        return end_cause
                    held = await self._recover(request, held)
                elif self._record.live_at is not None:
                    held = await self._rotate(request, held)
                # A rotation that failed, or was due before the session was live, is tried again
                # until LiveAvatar's limit ends this generation.
                pause = options.ROTATE_RETRY_PAUSE
                retry_at = workflow.now() + pause if held.stream is stream else None
                stream = held.stream
        except asyncio.CancelledError:
            is_ending = self._record.end_cause is not None and not _is_cancelled_from_outside()
            if is_ending and self._record.owner is not None and self._tasks:
                # The end releases the owners: wait for their results until it cancels this task.
                await workflow.wait(self._tasks)
            raise
        finally:
            for task in self._tasks:
                task.cancel()

    def _run_stream(self, stream: Stream, *, standby: bool = False) -> HeldGeneration:
        """Start a generation's stream; ``standby``: another generation speaks meanwhile."""
        if standby:
            self._streams.standby = stream
        else:
            self._streams.current = stream
            self._record.active_generation = stream.generation
            if self._record.state is SessionState.STARTING:
                self._record.transition_to(SessionState.CONNECTING)
        task = asyncio.create_task(stream.run(), name=f"generation {stream.generation.number}")
        self._track(task)
        return HeldGeneration(stream, task)

    def _track(self, task: asyncio.Task[Any]) -> None:
        self._tasks = [one for one in self._tasks if not one.done()]
        self._tasks.append(task)

    async def _until_over_or_due(self, held: HeldGeneration, due_at: datetime | None) -> None:
        """Wait until the generation has ended, or its rotation is due."""
        if due_at is None:
            await workflow.wait([held.task])
            return
        left = due_at - workflow.now()
        if left > timedelta(0) and not held.task.done():
            await workflow.wait([held.task], timeout=left.total_seconds())

    # --------------------------------------------------------- after an end

    def _end_cause_of(self, request: SessionRequest, held: HeldGeneration) -> EndCause | None:
        """Why the end of this generation ends the session; None: the next generation is opened.

        Raises:
            ActivityError: the stream failed, for a reason that the next one would meet, too.
        """
        lasted = workflow.now() - held.stream.started.started_at
        is_short = lasted < options.SHORT_GENERATION
        self._short_generations = self._short_generations + 1 if is_short else 0
        may_reopen = self._short_generations <= options.MAX_SHORT_GENERATIONS
        error = held.task.exception()
        if error is None:
            may_rotate = request.rotate and time_for_another(self._record.ends_at, workflow.now())
            return end_cause_of(held.task.result(), may_reopen=may_reopen, may_rotate=may_rotate)
        lost = isinstance(error, ActivityError) and is_type(error, ErrorType.DISCONNECTED)
        if lost and may_reopen:
            return None
        raise error

    async def _recover(self, request: SessionRequest, held: HeldGeneration) -> HeldGeneration:
        """Open another generation after LiveAvatar ended the present one."""
        self._streams.current = None
        if self._record.owner is not None:
            self._monitor.mark_unreachable(self._record.owner)
        # It has ended, or may be billed: two are billed for no longer than the stop takes.
        await self._stop(held, within=options.STOP_TIMEOUT)
        pause = options.START_PAUSE
        while True:
            try:
                return self._run_stream(await self._provisioning.open(request))
            except ActivityError as error:
                if is_cancelled_exception(error) or not may_pass(error):
                    raise
                workflow.logger.warning("no next generation yet: %s", failure_of(error).message)
            await workflow.sleep(pause, summary="pause before opening next generation")
            pause = min(2 * pause, options.RECOVERY_PAUSE_MAX)

    async def _stop(self, held: HeldGeneration, *, within: timedelta | None = None) -> None:
        """Stop a generation in the background; ``within``: wait so long for it."""
        generation = held.stream.generation
        stopping = asyncio.create_task(
            self._cleanup.stop(generation), name=f"stop generation {generation.number}"
        )
        self._track(stopping)
        if within is not None:
            await workflow.wait([stopping], timeout=within.total_seconds())

    # -------------------------------------------------------------- rotation

    async def _rotate(self, request: SessionRequest, held: HeldGeneration) -> HeldGeneration:
        """Open the next generation, and let it take over between two utterances.

        Returns:
            The generation that speaks now: the present one, if the rotation failed.
        """
        try:
            stream = await self._provisioning.open(request, wait_at_limit=False)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            if limit_waited_for(error) is not None:
                # The plan allows one LiveAvatar session at a time: stop, then start.
                await self._finish_utterance(held)
                await self._commands.hand_over()
                return await self._recover(request, held)
            self._provisioning.problem = failure_of(error).message
            workflow.logger.warning("rotation failed: %s", self._provisioning.problem)
            return held
        successor = self._run_stream(stream, standby=True)
        ready = await self._until_ready(held, successor)
        if ready is None and not held.task.done():
            return await self._discard(successor, held)
        if not held.task.done():
            await self._finish_utterance(held)
        if held.ended_on_purpose:
            return await self._discard(successor, held)
        await self._switch_to(request, successor, held)
        return successor

    async def _switch_to(
        self, request: SessionRequest, successor: HeldGeneration, held: HeldGeneration
    ) -> None:
        """Hand the session over to the next generation, and stop the present one."""
        was_running = not held.task.done()
        self._record.switching = True
        try:
            if was_running:
                await self._commands.hand_over()
            stream = successor.stream
            self._streams.current, self._streams.standby = stream, None
            self._record.switch_to(stream.generation, stream.ready)
        finally:
            self._record.switching = False
        if request.room is None and was_running:
            # Viewers change to the new room before the old one is deleted.
            await workflow.sleep(options.FOLLOW_PAUSE, summary="viewers change rooms")
        else:
            await workflow.wait([held.task], timeout=options.FOLLOW_PAUSE.total_seconds())
        await self._stop(held)
        if held.ended_on_purpose:
            # The owner's answer to the hand-over arrived before the result of its stream.
            end_cause = self._end_cause_of(request, held)
            assert end_cause is not None
            self._record.end(end_cause)
            raise asyncio.CancelledError("the session ends")

    async def _discard(self, successor: HeldGeneration, held: HeldGeneration) -> HeldGeneration:
        """Stop the generation that stands by; return the present one."""
        self._streams.standby = None
        successor.task.cancel()
        await self._stop(successor)
        return held

    async def _until_ready(
        self, held: HeldGeneration, successor: HeldGeneration
    ) -> OwnerReady | None:
        """Wait for the next generation's owner; None if it does not come before the limit."""
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
                timeout_summary="next generation's owner due",
            )
        except TimeoutError:
            return None
        if self._record.end_cause is not None:
            raise asyncio.CancelledError("the session ends")
        return successor.stream.ready

    async def _finish_utterance(self, held: HeldGeneration) -> None:
        """Let the current utterance end, within LiveAvatar's limit; no other one begins."""
        ends_at = held.stream.ends_at
        assert ends_at is not None
        left = ends_at - options.HAND_OVER_MARGIN - workflow.now()
        if left > timedelta(0):
            await self._commands.retire(left)
        if self._record.end_cause is not None:
            raise asyncio.CancelledError("the session ends")


# --------------------------------------------------------------- decisions, pure


def session_ends_at(request: SessionRequest, first: Stream) -> datetime:
    """When the session's own limit ends it; without one, LiveAvatar's limit."""
    started_at, limit_s = first.started.started_at, request.max_duration_s
    if limit_s is None:
        return started_at + (first.max_duration or options.DEFAULT_MAX_DURATION)
    limit = timedelta(seconds=limit_s)
    if request.rotate or first.max_duration is None:
        return started_at + limit
    return started_at + min(limit, first.max_duration)


def rotation_due_at(
    request: SessionRequest, stream: Stream, session_end: datetime | None
) -> datetime | None:
    """When the next generation is to be opened; None: this generation is the last."""
    ends_at, limit = stream.ends_at, stream.max_duration
    if not request.rotate or ends_at is None or limit is None:
        return None
    if session_end is None or session_end <= ends_at:
        return None
    return ends_at - min(options.ROTATE_AHEAD, limit / 3)


def time_for_another(session_end: datetime | None, now: datetime) -> bool:
    """Whether enough of the session is left to open another generation."""
    return session_end is not None and session_end - now > options.MIN_GENERATION_TIME


def end_cause_of(result: StreamResult, *, may_reopen: bool, may_rotate: bool) -> EndCause | None:
    """Why the end of a stream ends the session; None: the next generation is opened.

    Args:
        result: how the stream ended.
        may_reopen: False after too many short generations in a row.
        may_rotate: whether LiveAvatar's limit ends this generation only.
    """
    if result.end is StreamEnd.RELEASED:
        return EndCause(EndReason.REQUESTED)
    reason = result.provider_end_reason
    if reason == MAX_DURATION_REACHED and not may_rotate:
        return EndCause(EndReason.MAX_DURATION)
    if may_reopen and reason not in ENDED_ON_PURPOSE:
        return None
    why = reason or f"it closed the WebSocket with code {result.close_code}"
    failure = Failure(type="ProviderEnded", message=f"LiveAvatar ended the session: {why}")
    return EndCause(EndReason.PROVIDER_ENDED, failure)


def may_pass(error: ActivityError) -> bool:
    """Whether the same call could succeed a little later."""
    return not (isinstance(error.cause, ApplicationError) and error.cause.non_retryable)


def _is_cancelled_from_outside() -> bool:
    """Whether this task was cancelled, as opposed to raising `CancelledError` itself.

    After a cancellation it must not wait again: a second one in the same step would be lost.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
