"""One session, as a backend sees it: attach, command, watch, end.

A :class:`Session` is a name and a client, nothing else: it can be thrown away and made again
from its key at any time. What the session does is decided by its workflow.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl as tls
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, overload
from uuid import uuid4

from pydantic import BaseModel
from temporalio.client import (
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
)
from temporalio.common import QueryRejectCondition
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from avatar_sessions.access import Access, opened
from avatar_sessions.contract import messages, names
from avatar_sessions.contract.messages import (
    DEFAULT_COMMAND_TTL_S,
    Attach,
    Clip,
    Command,
    CommandResult,
    End,
    Failure,
    Interrupt,
    KeepAlive,
    OwnerLost,
    SessionReport,
    SessionStatus,
    SetPose,
    Speak,
    UtteranceReport,
)
from avatar_sessions.contract.states import (
    FINAL,
    CommandOutcome,
    Pose,
    SessionState,
    UtteranceOutcome,
)
from avatar_sessions.errors import (
    AccessFailed,
    AnswerTimedOut,
    AvatarSessionsError,
    CommandExpired,
    CommandRejected,
    SealKeysUnusable,
    SessionFailed,
    SessionNotFound,
    SessionOver,
    TooManyAwaited,
    UnexpectedAnswer,
    WorkersMissing,
    error_of_report,
    session_failed,
)
from avatar_sessions.outcomes import (
    CLOSED_MEANWHILE,
    REFUSALS,
    failure_in,
    report_of_killed,
    status_of_report,
)
from avatar_sessions.rpc import RPC_TIMEOUT, TooMuchInFlight, WorkflowGone, WorkflowRpc
from avatar_sessions.rpc import as_json as _json
from avatar_sessions.rpc import understood as _understood
from avatar_sessions.seal import Seal

if TYPE_CHECKING:
    from avatar_sessions.live.speech import LiveSpeech

ATTACH_TIMEOUT_S: Final = 75.0
"""The default start timeout of a session (60 s) and a margin."""
COMMAND_MARGIN_S: Final = 15.0
"""Beyond a command's time to live, for its way there and back."""
SPEAK_TIMEOUT_S: Final = 1800.0
"""Three clips of the greatest length, one after the other."""
QUERY_TIMEOUT_S: Final = 6.0
AWAITED_SPEAKS: Final = 4
"""Utterances one :class:`Session` awaits at once: the workflow's limit is six, for everybody."""
TOO_MANY_PAUSE_S: Final = (0.25, 0.5, 1.0, 2.0)
WATCH_EVERY_S: Final = 1.0

SIGNAL_OF_KIND: Final = {
    "speak": names.SIGNAL_SPEAK,
    "interrupt": names.SIGNAL_INTERRUPT,
    "set_pose": names.SIGNAL_SET_POSE,
    "keep_alive": names.SIGNAL_KEEP_ALIVE,
    "end": names.SIGNAL_END,
}


@dataclass(frozen=True, slots=True)
class Listing:
    """What the session list knew about a session: a moment old, and not asked of the session."""

    state: SessionState | None
    tenant: str | None
    provider_session_id: str | None
    started_at: datetime
    ended_at: datetime | None = None


class Session:
    """A session by its key. Made by :class:`avatar_sessions.AvatarSessions`.

    One from ``start`` or ``open`` is that very session, even if its key is used again later;
    one from ``get`` is whichever session has the key at the time it is asked.

    Attributes:
        key: the session's key.
        listing: what the session list knew, for a session that came from ``list``.
    """

    def __init__(
        self,
        calls: WorkflowRpc,
        seal: Seal | None,
        key: str,
        *,
        run_id: str | None = None,
        listing: Listing | None = None,
    ) -> None:
        self.key = key
        self.listing = listing
        self._calls = calls
        self._seal = seal
        self._run_id = run_id
        self._speaks = asyncio.Semaphore(AWAITED_SPEAKS)  # first come, first served

    def __repr__(self) -> str:
        return f"Session({self.key!r})"

    @property
    def workflow_id(self) -> str:
        """The id of the workflow that is this session."""
        return names.workflow_id(self.key)

    @property
    def run_id(self) -> str | None:
        """The workflow run this object is about; None: the latest under the key."""
        return self._run_id

    # ------------------------------------------------------------- access

    async def attach(
        self,
        viewer_identity: str | None = None,
        *,
        speaker: bool = False,
        timeout_s: float = ATTACH_TIMEOUT_S,
    ) -> Access:
        """Wait until the avatar is live, and get access to its room.

        Args:
            viewer_identity: a name for this viewer in a room of our own; two viewers there need
                two names. A hosted room gives one fixed identity.
            speaker: also get a ticket for live speech. :meth:`live` does that by itself.
            timeout_s: how long to wait for it.

        Raises:
            SessionFailed: it did not become live, or failed later; the subclass says why.
            SessionOver, SessionNotFound: there is no session to attach to (any more).
            SealKeysUnusable, SealMismatch: the tokens cannot be opened.
            NoAnswer: Temporal or its workers did not answer in time.
        """
        request = attach_message(viewer_identity, speaker=speaker)
        update_id = str(uuid4())

        async def ask() -> object:
            return await self._handle().execute_update(names.UPDATE_ATTACH, request, id=update_id)

        return await self.attached_by(ask, timeout_s)

    async def attached_by(self, ask: Callable[[], Awaitable[object]], timeout_s: float) -> Access:
        """Access by a given way of asking for it: what ``attach`` and ``open`` share."""
        if self._seal is None:
            raise SealKeysUnusable(
                "AVATAR_SESSIONS_SEAL_KEYS is not set: access to a room is sealed; set the keys"
                " that the workers have"
            )
        try:
            answer = await self._answer(ask, "attach", timeout_s)
        except WorkflowUpdateFailedError as error:
            await self._not_attached(error)
        return opened(_understood(messages.SealedAccess, answer), self._seal)

    async def _not_attached(self, error: WorkflowUpdateFailedError) -> NoReturn:
        failure = failure_in(error.cause)
        if failure is None:
            await self._update_failed(error)
        status = await self._status_if_any()
        if status is None or status.end_reason is None:
            if status is not None and status.state not in FINAL:
                raise AccessFailed(self.key, failure) from error
            raise session_failed(self.key, failure) from error
        if status.end_reason.final_state is SessionState.FAILED:
            raise session_failed(self.key, failure, status.end_reason) from error
        raise SessionOver(self.key) from error

    # -------------------------------------------------------- live speech

    def live(
        self,
        *,
        sample_rate_hz: int = 24_000,
        channels: int = 1,
        resume: Literal["resume", "drop"] = "resume",
        open_timeout_s: float = ATTACH_TIMEOUT_S,
        ssl: tls.SSLContext | None = None,
    ) -> LiveSpeech:
        """Live speech to the session's owner, wherever it moves: an async context manager.

        Args:
            sample_rate_hz: of the PCM that will be written, 8,000 to 192,000.
            channels: of it, 1 to 8; they are averaged.
            resume: what becomes of an utterance in flight when the owner changes: it goes on
                (``resume``), or is given up (``drop``).
            open_timeout_s: how long entering it may wait until speech can be sent.
            ssl: for workers with certificates that the system does not know.

        Raises:
            ValueError: rate or number of channels cannot be converted.
        """
        # Imported here: a program that only sends commands does not pay for live speech.
        from avatar_sessions.live.speech import LiveSpeech
        from avatar_sessions.session_owners import SessionOwners

        return LiveSpeech(
            SessionOwners(self),
            session_key=self.key,
            sample_rate_hz=sample_rate_hz,
            channels=channels,
            resume=resume,
            open_timeout_s=open_timeout_s,
            ssl=ssl,
        )

    async def owner_lost(self, epoch: tuple[int, int]) -> None:
        """Tell that the connection to this owner broke: the session looks whether it is there.

        Raises:
            SessionFailed, SessionOver, SessionNotFound: there is no session (any more).
            NoAnswer: Temporal did not answer in time.
        """
        await self._signal(names.SIGNAL_OWNER_LOST, OwnerLost(epoch=epoch))

    async def ending(self) -> AvatarSessionsError | None:
        """Why the session is over or about to be, as the error to raise. None: it goes on.

        Raises:
            SessionNotFound: no such session.
            NoAnswer: Temporal or its workers did not answer in time.
        """
        status = await self.status()
        if status.state in FINAL:
            return await self._why_gone()
        if status.end_reason is None:
            return None
        if status.end_reason.final_state is SessionState.ENDED:
            return SessionOver(self.key)
        reason = status.end_reason
        failure = status.failure or Failure(type=reason.value, message=reason.value)
        return session_failed(self.key, failure, reason)

    # ----------------------------------------------------------- commands

    @overload
    async def speak(
        self,
        clip: Clip,
        *,
        command_id: str | None = None,
        ttl_s: float | None = None,
        wait: Literal[True] = True,
        timeout_s: float = SPEAK_TIMEOUT_S,
    ) -> UtteranceReport: ...

    @overload
    async def speak(
        self,
        clip: Clip,
        *,
        command_id: str | None = None,
        ttl_s: float | None = None,
        wait: Literal[False],
        timeout_s: float = SPEAK_TIMEOUT_S,
    ) -> str: ...

    async def speak(
        self,
        clip: Clip,
        *,
        command_id: str | None = None,
        ttl_s: float | None = None,
        wait: bool = True,
        timeout_s: float = SPEAK_TIMEOUT_S,
    ) -> UtteranceReport | str:
        """Say a clip, after everything asked before it; before the avatar is live, it waits.

        Calls that run at the same time reach the session in any order. To queue several clips in
        order, await each with ``wait=False`` and a ``command_id``; a ``speak`` with the same id
        then waits for its end.

        Args:
            clip: what to say.
            command_id: repeats under one id are one utterance. None: a new one.
            ttl_s: how long it may wait for the avatar. None: the session's ``command_ttl_s``.
            wait: True returns when the utterance is over, however it ended: its ``outcome`` tells
                (nothing is raised for an utterance that was interrupted, rejected or expired).
                False returns its command id as soon as Temporal has it.
            timeout_s: how long to wait for its end.

        Raises:
            CommandRejected: the session refused it.
            TooManyAwaited: others await too many utterances of this session, all the time.
            SessionFailed, SessionOver, SessionNotFound: nobody is there to say it (any more).
            NoAnswer: Temporal or its workers did not answer in time.
        """
        command = Speak(clip=clip, command_id=command_id or str(uuid4()), ttl_s=ttl_s)
        if not wait:
            return await self.send(command)
        try:
            async with asyncio.timeout(timeout_s), self._speaks:
                result = await self._perform_when_there_is_room(command, timeout_s)
        except TimeoutError:
            raise AnswerTimedOut("speak", self.key, timeout_s) from None
        if result.utterance is not None:
            return result.utterance
        return UtteranceReport(id=result.command_id, outcome=UtteranceOutcome(result.outcome))

    async def _perform_when_there_is_room(self, command: Speak, timeout_s: float) -> CommandResult:
        pauses_s = iter((*TOO_MANY_PAUSE_S, *([TOO_MANY_PAUSE_S[-1]] * int(timeout_s))))
        while True:
            try:
                return await self.perform(command, timeout_s=timeout_s)
            except TooManyAwaited:
                pause_s = next(pauses_s, None)
                if pause_s is None:
                    raise
                await asyncio.sleep(pause_s)

    async def interrupt(self, *, timeout_s: float | None = None) -> CommandResult:
        """Fall silent now; speech asked for earlier and not yet heard is dropped.

        Raises:
            CommandExpired: the avatar was not there within the command's time to live.
            SessionFailed, SessionOver, SessionNotFound: there is no session (any more).
            NoAnswer: Temporal or its workers did not answer in time.
        """
        return await self._done(Interrupt(), timeout_s)

    async def set_pose(
        self, pose: Pose | Literal["listening", "idle"], *, timeout_s: float | None = None
    ) -> CommandResult:
        """Look attentive (``listening``), or ``idle``. Raises as :meth:`interrupt`."""
        return await self._done(SetPose(pose=Pose(pose)), timeout_s)

    async def keep_alive(self, *, timeout_s: float | None = None) -> CommandResult:
        """Restart the idle clocks, ours and LiveAvatar's. Raises as :meth:`interrupt`."""
        return await self._done(KeepAlive(), timeout_s)

    async def perform(self, command: Command, *, timeout_s: float | None = None) -> CommandResult:
        """Do a command, and get its answer: on the wire, or an utterance over.

        A lost reply is asked for again, never done twice. The same command under the same
        ``command_id`` is one command; another one under it is refused.

        Args:
            command: what to do.
            timeout_s: how long to wait. None: the command's time to live and a margin.
        """
        command = with_id(command)
        if timeout_s is None:
            ttl_s = DEFAULT_COMMAND_TTL_S if command.ttl_s is None else command.ttl_s
            timeout_s = ttl_s + COMMAND_MARGIN_S

        # One id for this call and its repeats, but not the command's: the server would answer
        # another command under the same id with the first one's result.
        update_id = str(uuid4())

        async def ask() -> object:
            return await self._handle().execute_update(
                names.UPDATE_PERFORM, _json(command), id=update_id
            )

        try:
            return _understood(CommandResult, await self._answer(ask, command.kind, timeout_s))
        except WorkflowUpdateFailedError as error:
            await self._update_failed(error)

    async def send(self, command: Command) -> str:
        """Send a command without waiting for its answer: durable once this returns.

        Returns:
            The command's id.
        """
        command = with_id(command)
        assert command.command_id is not None
        await self._signal(SIGNAL_OF_KIND[command.kind], command)
        return command.command_id

    async def _signal(self, name: str, message: BaseModel) -> None:
        signal = self._handle().signal(name, _json(message), rpc_timeout=RPC_TIMEOUT)
        try:
            await self._calls.short(signal)
        except WorkflowGone:
            raise await self._why_gone() from None

    async def _done(self, command: Command, timeout_s: float | None) -> CommandResult:
        result = await self.perform(command, timeout_s=timeout_s)
        if result.outcome is CommandOutcome.EXPIRED:
            raise CommandExpired(result)
        if result.outcome is CommandOutcome.CANCELLED:
            raise await self.ending() or SessionOver(self.key)
        return result

    # ------------------------------------------------------------- seeing

    async def status(self, *, timeout_s: float = QUERY_TIMEOUT_S) -> SessionStatus:
        """Where the session stands. For one that has ended, as its report tells.

        Raises:
            SessionNotFound: no such session.
            SessionTerminated: its workflow was killed.
            NoAnswer: Temporal or its workers did not answer in time.
        """

        async def ask() -> object:
            return await self._handle().query(
                names.QUERY_STATUS,
                reject_condition=QueryRejectCondition.NOT_OPEN,
                rpc_timeout=RPC_TIMEOUT,
            )

        try:
            return _understood(SessionStatus, await self._answer_once(ask, timeout_s))
        except WorkflowQueryRejectedError:
            return status_of_report(await self.report())
        except WorkflowGone:
            raise SessionNotFound(self.key) from None
        except WorkflowQueryFailedError as error:
            raise UnexpectedAnswer(f"the session's status: {error.message}") from error

    async def _answer_once(self, ask: Callable[[], Awaitable[object]], timeout_s: float) -> object:
        """A query is not worth repeating for a minute: say at once what is missing."""
        try:
            async with asyncio.timeout(timeout_s):
                return await ask()
        except TimeoutError:
            await self._calls.check_workers()
            raise AnswerTimedOut("status", self.key, timeout_s) from None
        except RPCError as error:
            if error.status is RPCStatusCode.FAILED_PRECONDITION:
                raise WorkersMissing(self._calls.task_queue, self._calls.address) from error
            if error.status in (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED):
                await self._calls.check_workers()
                seconds = RPC_TIMEOUT.total_seconds()
                raise AnswerTimedOut("status", self.key, seconds) from error
            self._calls.translate(error)

    async def watch(self, *, every_s: float = WATCH_EVERY_S) -> AsyncIterator[SessionStatus]:
        """The session's status now, and whenever it has changed, until it has ended.

        Args:
            every_s: how often to ask.
        """
        last: SessionStatus | None = None
        while True:
            status = await self.status()
            if status != last:
                yield status
                last = status
            if status.state in FINAL:
                return
            await asyncio.sleep(every_s)

    # ------------------------------------------------------------- ending

    async def end(
        self, *, finish_speaking: bool = False, timeout_s: float | None = None
    ) -> SessionReport:
        """End the session, wait for its cleanup, return its report.

        Also right for a session that has ended already: its report is returned. A session that
        failed is not raised here; its report says so.

        Args:
            finish_speaking: let what was asked before be heard first. Without it the avatar is
                cut mid-word.
            timeout_s: how long to wait for the report. None: as long as it takes (the cleanup
                may go on for half an hour while LiveAvatar is down).

        Raises:
            SessionNotFound: no such session.
            SessionTerminated: its workflow was killed and could not report.
            NoAnswer: Temporal or its workers did not answer in time.
        """
        # One that is over already, as foreseen or not, has a report as well.
        with contextlib.suppress(SessionOver, SessionFailed):
            await self.send(End(finish_speaking=finish_speaking))
        return await self.report(timeout_s=timeout_s)

    async def cancel(self) -> None:
        """Cancel the workflow: ends the session as ``end`` does, with end reason ``cancelled``."""
        try:
            await self._calls.short(self._handle().cancel(rpc_timeout=RPC_TIMEOUT))
        except WorkflowGone:
            raise SessionNotFound(self.key) from None

    async def report(self, *, timeout_s: float | None = None) -> SessionReport:
        """Wait until the session is over and cleaned up, and get its report.

        Args:
            timeout_s: how long to wait. None: as long as the session lasts.

        Raises:
            SessionNotFound: no such session.
            SessionTerminated: its workflow was killed and could not report; the error holds what
                Temporal knows instead.
            NoAnswer: Temporal or its workers did not answer in time.
        """

        async def ask() -> object:
            return await self._handle().result()

        try:
            answer = await self._calls.answer(
                ask, asked="the report", session_key=self.key, timeout_s=timeout_s
            )
        except WorkflowFailureError as error:
            raise await self._killed(error) from None
        except WorkflowGone:
            raise SessionNotFound(self.key) from None
        return _understood(SessionReport, answer)

    # ------------------------------------------------------- what went wrong

    def _handle(self) -> WorkflowHandle[Any, Any]:
        return self._calls.client.get_workflow_handle(self.workflow_id, run_id=self._run_id)

    async def _answer(
        self, ask: Callable[[], Awaitable[object]], asked: str, timeout_s: float
    ) -> object:
        try:
            return await self._calls.answer(
                ask, asked=asked, session_key=self.key, timeout_s=timeout_s
            )
        except WorkflowGone:
            raise await self._why_gone() from None
        except TooMuchInFlight:
            raise TooManyAwaited(
                f"session {self.key!r} has as many unanswered requests as Temporal allows"
            ) from None

    async def _update_failed(self, error: WorkflowUpdateFailedError) -> NoReturn:
        cause = error.cause
        if isinstance(cause, ApplicationError):
            if cause.type == "TooManyAwaited":
                raise TooManyAwaited(f"session {self.key!r}: {cause.message}") from None
            if cause.type == CLOSED_MEANWHILE:
                raise await self._why_gone() from None
            if cause.type in REFUSALS:
                raise CommandRejected(cause.message.split("; ")) from None
        raise UnexpectedAnswer(f"session {self.key!r}: {cause}") from error

    async def _why_gone(self) -> AvatarSessionsError:
        """The error for asking something of a closed workflow, or of none."""
        try:
            return error_of_report(await self.report(timeout_s=QUERY_TIMEOUT_S))
        except (SessionNotFound, SessionFailed) as error:
            return error
        except AnswerTimedOut:
            return SessionOver(self.key)  # the key has been taken by a new session meanwhile

    async def _status_if_any(self) -> SessionStatus | None:
        try:
            return await self.status()
        except AvatarSessionsError:
            return None

    async def _killed(self, error: WorkflowFailureError) -> SessionFailed:
        describe = self._handle().describe(rpc_timeout=RPC_TIMEOUT)
        report = report_of_killed(self.key, await self._calls.short(describe), error.cause)
        assert report.failure is not None
        return session_failed(self.key, report.failure, report.end_reason, report)


def attach_message(viewer_identity: str | None, *, speaker: bool = False) -> dict[str, Any]:
    """What ``attach`` is asked with. Defaults stay out: older workers refuse what they miss."""
    asked = Attach(viewer_identity=viewer_identity, speaker=speaker)
    return asked.model_dump(mode="json", exclude_defaults=True)


def with_id(command: Command) -> Command:
    """The command under an id of its own, if it has none."""
    if command.command_id is not None:
        return command
    return command.model_copy(update={"command_id": str(uuid4())})
