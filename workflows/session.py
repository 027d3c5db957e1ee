"""The session workflow: starts, manages and ends one avatar session, and always cleans up.

The workflow decides and remembers; every side effect is an activity, executed by name. Speech does
not pass through the workflow: it holds references to clips, and reports of what was heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel, ValidationError

    from avatar_sessions.contract import names
    from avatar_sessions.contract.activities import OwnerReady, OwnerRecovering, UtteranceLines
    from avatar_sessions.contract.messages import (
        COMMAND,
        Attach,
        End,
        Interrupt,
        KeepAlive,
        OwnerLost,
        SessionRequest,
        SetPose,
        Speak,
        one_message,
        problems_of,
    )
    from avatar_sessions.contract.reports import (
        CommandResult,
        Failure,
        SealedAccess,
        SessionReport,
        SessionStatus,
    )
    from avatar_sessions.contract.states import (
        BEFORE_LIVE,
        CommandOutcome,
        EndReason,
        Pose,
        SessionState,
        UtteranceOutcome,
    )

from workflows.parts import options
from workflows.parts.access import AccessGrants, is_reserved
from workflows.parts.audio_streams import Streams
from workflows.parts.cleanup import Cleanup
from workflows.parts.failures import failure_of, never_reached_owner
from workflows.parts.generations import Generations
from workflows.parts.ledger import AnyCommand, CommandLedger, LedgerEntry
from workflows.parts.owner_commands import OwnerCommands
from workflows.parts.owner_monitor import OwnerMonitor
from workflows.parts.provisioning import Provisioning
from workflows.parts.report import session_report, session_status
from workflows.parts.session_state import EndCause, SessionRecord

Message = TypeVar("Message", bound=BaseModel)

WITH_STREAM = frozenset({SessionState.CONNECTING, SessionState.LIVE, SessionState.RECOVERING})
HISTORY_FULL = "the session's history is full: end the session, or send the rest as live speech"
ID_CONFLICT = "another command had this id before"


@workflow.defn(name=names.WORKFLOW_TYPE)
class AvatarSession:
    """The session ``avatar-session:<key>``."""

    @workflow.init
    def __init__(self, *inputs: Any) -> None:
        info = workflow.info()
        self._request: SessionRequest | None = None
        self._refusal: Failure | None = None
        try:
            self._request = SessionRequest.model_validate(one_message(inputs))
        except ValueError as error:
            self._refusal = Failure(type="InvalidRequest", message=_problem(error))
        key = names.session_key_of(info.workflow_id)
        tenant = self._request.tenant if self._request else None
        ttl_s = self._request.command_ttl_s if self._request else 1.0
        self._record = SessionRecord(key, tenant, requested_at=info.workflow_start_time)
        self._ledger = CommandLedger(default_ttl=timedelta(seconds=ttl_s))
        self._streams = Streams()
        self._cleanup = Cleanup(self._record)
        self._provisioning = Provisioning(self._record, self._streams, self._cleanup)
        self._access = AccessGrants(self._record, self._provisioning)
        self._monitor = OwnerMonitor(self._record, self._ledger, self._streams)
        resumes = self._request is None or self._request.resume == "resume"
        self._commands = OwnerCommands(self._record, self._ledger, self._monitor, resumes=resumes)
        self._generations = Generations(
            self._record,
            self._streams,
            self._provisioning,
            self._cleanup,
            self._monitor,
            self._commands,
        )
        self._last_activity_at = info.workflow_start_time
        self._speak_updates = 0
        self._signals = 0
        self._pose = Pose.IDLE
        self._tasks: list[asyncio.Task[None]] = []
        self._opening: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------ run

    @workflow.run
    async def run(self, *inputs: Any) -> SessionReport:
        """Run the session to its end; the result is its report, however it ended."""
        await self._guarded(self._open_and_serve())
        # Without a cause so far, the workflow was cancelled. The cancellation is not always raised
        # here: it can arrive together with another completion, or fail an activity instead.
        self._record.end(EndCause(EndReason.CANCELLED))
        ending = asyncio.create_task(self._end(), name="end")
        while not ending.done():
            try:
                await workflow.wait([ending])
            except asyncio.CancelledError:
                workflow.logger.info("cancelled while ending: the cleanup continues")
        ending.result()
        return session_report(self._record, self._ledger, self._cleanup.report())

    async def _open_and_serve(self) -> None:
        """Open the session, and serve it until there is a cause to end."""
        if self._request is None:
            self._record.end(EndCause(EndReason.INVALID_REQUEST, self._refusal))
            return
        self._opening = self._run_task(self._open(self._request), "open")
        self._run_task(self._dispatch(), "dispatch")
        self._run_task(self._speak(), "speak")
        self._run_task(self._expire(), "expire")
        self._run_task(self._monitor.recover(), "recover")
        await self._await_live(self._request)
        while self._record.end_cause is None:
            deadline, summary = self._next_deadline(self._request)
            try:
                await workflow.wait_condition(
                    lambda: self._record.end_cause is not None,
                    timeout=max(deadline - workflow.now(), timedelta(milliseconds=1)),
                    timeout_summary=summary,
                )
            except TimeoutError:
                await self._check_deadlines(self._request)

    async def _await_live(self, request: SessionRequest) -> None:
        try:
            await workflow.wait_condition(
                lambda: (
                    self._record.state is SessionState.LIVE or self._record.end_cause is not None
                ),
                timeout=timedelta(seconds=request.start_timeout_s),
                timeout_summary="start timeout",
            )
        except TimeoutError:
            message = f"not live within {request.start_timeout_s:g} s, still {self._record.state}"
            if self._record.pending_wait is not None:
                message += f", waiting for {self._record.pending_wait}"
            if self._provisioning.problem is not None:
                message += f": {self._provisioning.problem}"
            failure = Failure(type="StartTimeout", message=message)
            self._record.end(EndCause(EndReason.START_TIMEOUT, failure))

    def _run_task(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._guarded(coroutine), name=name)
        self._tasks.append(task)
        return task

    async def _guarded(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Await a coroutine; its failure ends the session instead of leaving it hanging."""
        try:
            await coroutine
        except asyncio.CancelledError:
            return
        except ActivityError as error:
            if is_cancelled_exception(error):
                return
            reason = (
                EndReason.START_FAILED
                if self._record.state in BEFORE_LIVE
                else EndReason.CONNECTION_FAILED
            )
            self._record.end(EndCause(reason, failure_of(error)))
        except Exception as error:  # even a bug must not leave a billed session behind
            workflow.logger.exception("internal error: the session ends")
            failure = Failure(type=type(error).__name__, message="internal error, see the log")
            self._record.end(EndCause(EndReason.INTERNAL_ERROR, failure))

    # ------------------------------------------------------------ deadlines

    def _next_deadline(self, request: SessionRequest) -> tuple[datetime, str]:
        idle_at = self._idle_at(request)
        if self._record.ends_at is not None and self._record.ends_at <= idle_at:
            return self._record.ends_at, "maximum duration"
        return idle_at, "idle timeout"

    def _idle_at(self, request: SessionRequest) -> datetime:
        if self._ledger.speaking is not None:
            self._last_activity_at = workflow.now()
        return self._last_activity_at + timedelta(seconds=request.idle_timeout_s)

    async def _check_deadlines(self, request: SessionRequest) -> None:
        if workflow.now() >= self._idle_at(request):
            active_at = await self._commands.query_last_activity(self._last_activity_at)
            if active_at is None:
                # Without an answer the session does not end: the query is repeated after a pause.
                idle_timeout = timedelta(seconds=request.idle_timeout_s)
                active_at = workflow.now() - idle_timeout + options.IDLE_QUERY_PAUSE
            self._last_activity_at = max(self._last_activity_at, active_at)
        now = workflow.now()
        if self._record.ends_at is not None and now >= self._record.ends_at:
            self._record.end(EndCause(EndReason.MAX_DURATION))
        elif now >= self._idle_at(request):
            self._record.end(EndCause(EndReason.IDLE_TIMEOUT))

    # ---------------------------------------------------------------- tasks

    async def _open(self, request: SessionRequest) -> None:
        """Run the session's generations: lasts as long as the session."""
        self._record.end(await self._generations.run(request))

    async def _dispatch(self) -> None:
        """Deliver waiting commands in order while the avatar is live."""
        ledger = self._ledger
        while True:
            await workflow.wait_condition(lambda: self._live and bool(ledger.waiting))
            entry = ledger.waiting[0]
            if isinstance(entry.command, Speak | End):
                ledger.speech_queue.append(ledger.waiting.popleft())
                continue
            if isinstance(entry.command, Interrupt):
                ledger.drop_speech(
                    entry.interrupts_up_to, UtteranceOutcome.INTERRUPTED, workflow.now()
                )
            outcome = await self._commands.deliver(entry)
            if outcome is not None and entry.result is None:
                ledger.waiting.remove(entry)
                ledger.finish(entry, outcome)
                if isinstance(entry.command, SetPose):
                    self._pose = entry.command.pose

    async def _speak(self) -> None:
        """Speak one utterance after the other, each as an activity."""
        ledger = self._ledger
        while True:
            await workflow.wait_condition(lambda: self._live and bool(ledger.speech_queue))
            entry = ledger.speech_queue.popleft()
            if isinstance(entry.command, End):
                ledger.finish(entry, CommandOutcome.ACCEPTED)
                self._record.end(EndCause(EndReason.REQUESTED))
                return
            ledger.speaking = entry
            await self._commands.speak(entry)
            ledger.speaking = None
            self._last_activity_at = workflow.now()

    async def _expire(self) -> None:
        """Expire commands that have waited too long for the avatar to be live."""
        ledger = self._ledger
        while True:
            await workflow.wait_condition(
                lambda: not self._live and ledger.next_expiry() is not None
            )
            await self._expire_first()

    async def _expire_first(self) -> None:
        ledger = self._ledger
        expiry = ledger.next_expiry()
        assert expiry is not None
        try:
            await workflow.wait_condition(
                lambda: self._live or ledger.next_expiry() != expiry,
                timeout=max(expiry - workflow.now(), timedelta(milliseconds=1)),
                timeout_summary="next command expiry",
            )
        except TimeoutError:
            if ledger.expire(workflow.now()):
                self._record.end(EndCause(EndReason.REQUESTED))

    @property
    def _live(self) -> bool:
        """Whether the owner takes commands now."""
        return self._record.state is SessionState.LIVE and not self._record.switching

    # ------------------------------------------------------------------ end

    async def _end(self) -> None:
        """Stop speech and LiveAvatar, release the owner, clean the room, answer every caller."""
        end_cause = self._record.end_cause
        assert end_cause is not None
        had_owner = self._record.owner is not None
        self._record.transition_to(SessionState.ENDING)
        self._ledger.drop_everything(workflow.now())
        if self._opening is not None and not had_owner:
            # Cancelling waits for a start in progress: its reply says what there is to stop.
            self._opening.cancel()
        if had_owner:
            await self._commands.stop_feeding()
        elif self._opening is not None:
            await workflow.wait([self._opening])
        stopping = asyncio.create_task(self._provisioning.stop_all(end_cause.reason), name="stop")
        # A failing stop must delay neither the room's cleanup nor the answers to callers.
        await workflow.wait_condition(lambda: stopping.done() or self._record.alert is not None)
        if self._opening is not None:
            await self._release(self._opening)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await workflow.wait(self._tasks, timeout=options.TASKS_TIMEOUT.total_seconds())
        self._ledger.cancel_speaking(workflow.now())
        self._ledger.drop_everything(workflow.now())
        self._ledger.report_unfinished()
        await self._provisioning.clean_room(self._request.room if self._request else None)
        await stopping
        self._record.transition_to(end_cause.reason.final_state)
        await workflow.wait_condition(workflow.all_handlers_finished)

    async def _release(self, opening: asyncio.Task[None]) -> None:
        """Wait until the owner has released the session and reported the last utterance."""
        try:
            await workflow.wait_condition(
                lambda: opening.done() and self._ledger.speaking is None,
                timeout=options.RELEASE_TIMEOUT,
                timeout_summary="owner release timeout",
            )
        except TimeoutError:
            opening.cancel()

    # ------------------------------------------------------------- messages

    @workflow.signal(name=names.SIGNAL_SPEAK)
    def on_speak(self, *messages: Any) -> None:
        """Speak a clip: :class:`Speak`."""
        self._take_signal(names.SIGNAL_SPEAK, Speak, messages)

    @workflow.signal(name=names.SIGNAL_INTERRUPT)
    def on_interrupt(self, *messages: Any) -> None:
        """Interrupt speech: :class:`Interrupt`."""
        self._take_signal(names.SIGNAL_INTERRUPT, Interrupt, messages)

    @workflow.signal(name=names.SIGNAL_SET_POSE)
    def on_set_pose(self, *messages: Any) -> None:
        """Set the pose of the silent avatar: :class:`SetPose`."""
        self._take_signal(names.SIGNAL_SET_POSE, SetPose, messages)

    @workflow.signal(name=names.SIGNAL_KEEP_ALIVE)
    def on_keep_alive(self, *messages: Any) -> None:
        """Restart the idle timeouts: :class:`KeepAlive`."""
        self._take_signal(names.SIGNAL_KEEP_ALIVE, KeepAlive, messages)

    @workflow.signal(name=names.SIGNAL_END)
    def on_end(self, *messages: Any) -> None:
        """End the session: :class:`End`."""
        self._take_signal(names.SIGNAL_END, End, messages)

    @workflow.signal(name=names.SIGNAL_OWNER_READY)
    def on_owner_ready(self, *messages: Any) -> None:
        """From an owner: it is connected, and takes commands."""
        ready = self._validated(names.SIGNAL_OWNER_READY, OwnerReady, messages)
        if ready is None:
            return
        if self._record.state in WITH_STREAM and self._streams.accept_standby(ready):
            return
        if self._record.state not in WITH_STREAM or not self._streams.is_current(ready):
            self._ledger.ignore(names.SIGNAL_OWNER_READY, "not the owner", workflow.now())
            return
        if not self._record.accept_owner(ready):
            return
        if self._record.state in (SessionState.CONNECTING, SessionState.RECOVERING):
            self._last_activity_at = max(self._last_activity_at, workflow.now())
            self._record.transition_to(SessionState.LIVE)

    @workflow.signal(name=names.SIGNAL_OWNER_RECOVERING)
    def on_owner_recovering(self, *messages: Any) -> None:
        """From the owner: it lost LiveAvatar's socket and reconnects, or it drains."""
        lost = self._validated(names.SIGNAL_OWNER_RECOVERING, OwnerRecovering, messages)
        owner = self._record.owner
        if lost is None or owner is None or lost.epoch != owner.epoch:
            return
        if lost.leaving:
            self._monitor.on_drain(owner)
        else:
            self._monitor.mark_unreachable(owner)

    @workflow.signal(name=names.SIGNAL_OWNER_LOST)
    def on_owner_lost(self, *messages: Any) -> None:
        """From a speaker whose connection broke: the owner may be lost."""
        lost = self._validated(names.SIGNAL_OWNER_LOST, OwnerLost, messages)
        owner = self._record.owner
        if lost is not None and self._live and owner is not None and lost.epoch == owner.epoch:
            self._monitor.suspect()

    @workflow.signal(name=names.SIGNAL_UTTERANCES)
    def on_utterances(self, *messages: Any) -> None:
        """From an owner: reports of live utterances that have ended."""
        lines = self._validated(names.SIGNAL_UTTERANCES, UtteranceLines, messages)
        if lines is None:
            return
        if not self._streams.issued(lines.epoch):
            self._ledger.ignore(names.SIGNAL_UTTERANCES, "not from an owner", workflow.now())
            return
        self._ledger.add_live_reports(lines.utterances)
        self._ledger.keep_unfinished(lines.unfinished)
        self._pose = lines.pose or self._pose
        self._last_activity_at = workflow.now()
        self._record.show_utterances(self._ledger.latest)

    @workflow.signal(dynamic=True)
    def on_unknown_signal(self, name: str, args: Sequence[RawValue]) -> None:
        """Record a signal of an unknown name, and ignore it otherwise."""
        self._signals += 1
        self._ledger.ignore(name, f"no such signal ({len(args)} arguments)", workflow.now())

    def _validated(
        self, name: str, model: type[Message], messages: tuple[Any, ...]
    ) -> Message | None:
        """Validate a signal's message; None, and a record of it, for an invalid one."""
        self._signals += 1
        if self._history_used() > options.HISTORY_END:
            failure = Failure(type="HistoryFull", message=HISTORY_FULL)
            self._record.end(EndCause(EndReason.HISTORY_FULL, failure))
        try:
            return model.model_validate(one_message(messages))
        except ValueError as error:
            self._ledger.ignore(name, _problem(error), workflow.now())
            return None

    def _take_signal(
        self,
        name: str,
        model: type[Speak | Interrupt | SetPose | KeepAlive | End],
        messages: tuple[Any, ...],
    ) -> None:
        command = self._validated(name, model, messages)
        if command is None:
            return
        if (problem := self._refusal_of(command)) is not None:
            self._ledger.ignore(name, problem, workflow.now())
            return
        if self._ledger.conflicts(command) and not isinstance(command, End):
            self._ledger.ignore(name, ID_CONFLICT, workflow.now())
            return
        self._take(command)

    def _refusal_of(self, command: AnyCommand) -> str | None:
        """Why a command is refused; an end and an interrupt never are."""
        if isinstance(command, End | Interrupt):
            return None
        if self._ledger.full:
            return "too many commands are waiting"
        return HISTORY_FULL if self._history_used() > options.HISTORY_ROOM else None

    def _history_used(self) -> float:
        """The used share of the server's limits on a workflow's signals, events and bytes."""
        info = workflow.info()
        return max(
            self._signals / options.MAX_SIGNALS,
            info.get_current_history_length() / options.MAX_HISTORY_EVENTS,
            info.get_current_history_size() / options.MAX_HISTORY_BYTES,
        )

    def _take(self, command: AnyCommand) -> LedgerEntry:
        """Accept a command, or return the entry of an earlier one with the same id."""
        known = self._ledger.known(command)
        if known is not None and not self._ledger.conflicts(command):
            return known
        now = workflow.now()
        # An end is accepted even if another command had its id; it then gets a new one.
        command_id = command.command_id if known is None else None
        entry = self._ledger.accept(command, command_id or str(workflow.uuid4()), now)
        self._last_activity_at = now
        if self._ending:
            self._ledger.drop_everything(now)
        elif isinstance(command, End) and not command.finish_speaking:
            self._ledger.waiting.remove(entry)
            self._ledger.finish(entry, CommandOutcome.ACCEPTED)
            self._record.end(EndCause(EndReason.REQUESTED))
        return entry

    @property
    def _ending(self) -> bool:
        return self._record.end_cause is not None

    @workflow.update(name=names.UPDATE_PERFORM)
    async def perform(self, *messages: Any) -> CommandResult:
        """Perform a command; answer when it is sent, or when the utterance has ended."""
        entry = self._take(COMMAND.validate_python(one_message(messages)))
        if isinstance(entry.command, Speak):
            self._speak_updates += 1
        try:
            await workflow.wait_condition(lambda: entry.result is not None)
        finally:
            if isinstance(entry.command, Speak):
                self._speak_updates -= 1
        assert entry.result is not None
        return entry.result

    @perform.validator
    def _check_perform(self, *messages: Any) -> None:
        try:
            command = COMMAND.validate_python(one_message(messages))
        except ValueError as error:
            raise ApplicationError(_problem(error), type="CommandRejected") from None
        if isinstance(command, Speak) and self._speak_updates >= options.MAX_AWAITED_SPEAKS:
            raise ApplicationError(
                f"{self._speak_updates} updates wait for utterances: signal `speak` instead,"
                " or wait for one of the updates",
                type="TooManyAwaited",
            )
        if self._ledger.conflicts(command) and not isinstance(command, End):
            raise ApplicationError(f"command_id: {ID_CONFLICT}", type="CommandRejected")
        if (problem := self._refusal_of(command)) is not None:
            raise ApplicationError(problem, type="TooManyWaiting")

    @workflow.update(name=names.UPDATE_ATTACH)
    async def attach(self, *messages: Any) -> SealedAccess:
        """Wait until the avatar is live; answer with access to its room, and to its owner."""
        request = Attach.model_validate(one_message(messages))
        self._last_activity_at = workflow.now()
        while True:
            # A speaker that has just lost the owner must not get access to the same one.
            await workflow.wait_condition(
                lambda: (
                    (self._live and not (request.speaker and self._monitor.suspected))
                    or self._ending
                )
            )
            if self._ending:
                break
            owner = self._record.owner
            try:
                return await self._access.grant(request)
            except ActivityError as error:
                if not (request.speaker and never_reached_owner(error)):
                    failure = failure_of(error)
                    raise _refused(failure) from error
            assert owner is not None, "LIVE has an owner"
            self._monitor.mark_unreachable(owner)  # the next owner grants access
        end_cause = self._record.end_cause
        assert end_cause is not None
        raise _refused(
            end_cause.failure
            or Failure(type="SessionOver", message=f"the session ended: {end_cause.reason}")
        )

    @attach.validator
    def _check_attach(self, *messages: Any) -> None:
        try:
            request = Attach.model_validate(one_message(messages))
        except ValueError as error:
            raise ApplicationError(_problem(error), type="CommandRejected") from None
        room = self._request.room if self._request is not None else None
        if is_reserved(request.viewer_identity, room):
            raise ApplicationError(
                "viewer_identity is reserved: joining under the avatar's or the agent's identity"
                " would disconnect it",
                type="CommandRejected",
            )

    @workflow.query(name=names.QUERY_STATUS)
    def status(self) -> SessionStatus:
        """The session's status."""
        return session_status(self._record, self._ledger, self._pose)


def _refused(failure: Failure) -> ApplicationError:
    return ApplicationError(
        failure.message, failure.model_dump(mode="json"), type=failure.type, non_retryable=True
    )


def _problem(error: ValueError) -> str:
    return problems_of(error) if isinstance(error, ValidationError) else str(error)
