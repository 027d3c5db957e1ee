"""Calls to one session's workflow, with the session's errors.

Each method is one request to Temporal: an update, a signal, a query, or the workflow's result. A
closed or missing workflow becomes the error that says how the session ended. What the calls are for
is decided by :class:`avatar_sessions.session.Session`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn
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
from avatar_sessions.contract import names, reports
from avatar_sessions.contract.messages import Attach, Command
from avatar_sessions.contract.reports import CommandResult, SessionReport, SessionStatus
from avatar_sessions.contract.states import FINAL, SessionState
from avatar_sessions.errors import (
    AccessFailed,
    AnswerTimedOut,
    AvatarSessionsError,
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
    REFUSALS,
    WORKFLOW_CLOSED,
    failure_in,
    report_of_killed,
    status_of_report,
)
from avatar_sessions.rpc import (
    RPC_TIMEOUT,
    TooMuchInFlight,
    WorkflowGone,
    WorkflowRpc,
    as_json,
    parsed,
)
from avatar_sessions.seal import Seal

QUERY_TIMEOUT_S: Final = 6.0

SIGNAL_OF_KIND: Final = {
    "speak": names.SIGNAL_SPEAK,
    "interrupt": names.SIGNAL_INTERRUPT,
    "set_pose": names.SIGNAL_SET_POSE,
    "keep_alive": names.SIGNAL_KEEP_ALIVE,
    "end": names.SIGNAL_END,
}
"""The signal that carries each kind of command."""


def attach_message(viewer_identity: str | None, *, speaker: bool = False) -> dict[str, Any]:
    """The argument of the update ``attach``, without defaults: older workers refuse new fields."""
    message = Attach(viewer_identity=viewer_identity, speaker=speaker)
    return message.model_dump(mode="json", exclude_defaults=True)


def with_id(command: Command) -> Command:
    """Return the command with an id; one that has none gets a new one."""
    if command.command_id is not None:
        return command
    return command.model_copy(update={"command_id": str(uuid4())})


class SessionRpc:
    """The calls to one session's workflow."""

    def __init__(self, rpc: WorkflowRpc, key: str, run_id: str | None) -> None:
        """Take the session's key, and the run to call; None: the latest run under the key."""
        self.key = key
        self.run_id = run_id
        self._rpc = rpc

    @property
    def workflow_id(self) -> str:
        """The id of the session's workflow."""
        return names.workflow_id(self.key)

    # ------------------------------------------------------------ updates

    async def attach(
        self, viewer_identity: str | None, seal: Seal | None, *, speaker: bool, timeout_s: float
    ) -> Access:
        """Send the update ``attach`` and decrypt its answer. Raises as :meth:`attach_by`."""
        message = attach_message(viewer_identity, speaker=speaker)
        update_id = str(uuid4())

        async def request() -> object:
            return await self._handle().execute_update(names.UPDATE_ATTACH, message, id=update_id)

        return await self.attach_by(request, seal, timeout_s)

    async def attach_by(
        self, request: Callable[[], Awaitable[object]], seal: Seal | None, timeout_s: float
    ) -> Access:
        """Send the update ``attach`` in a given way, and decrypt its answer.

        Raises:
            SessionFailed: the session did not become live, or failed later.
            SessionOver, SessionNotFound: there is no such session, or not any more.
            AccessFailed: the session runs, and access could not be made.
            SealKeysUnusable, SealMismatch: the tokens cannot be decrypted.
            NoAnswer: Temporal or its workers did not answer in time.
        """
        if seal is None:
            raise SealKeysUnusable(
                "AVATAR_SESSIONS_SEAL_KEYS is not set: access to a room is encrypted; set the keys"
                " that the workers have"
            )
        try:
            answer = await self._answer(request, "attach", timeout_s)
        except WorkflowUpdateFailedError as error:
            await self._attach_failed(error)
        return opened(parsed(reports.SealedAccess, answer), seal)

    async def perform(self, command: Command, timeout_s: float) -> CommandResult:
        """Send a command as the update ``perform``, and wait for its result.

        Raises:
            CommandRejected: the session refused the command.
            TooManyAwaited: the workflow has as many unanswered updates as it may have.
            SessionFailed, SessionOver, SessionNotFound: there is no such session (any more).
            NoAnswer: Temporal or its workers did not answer in time.
        """
        # One id for this call and its repeats, but not the command's id: the server would answer
        # another command under the same id with the first one's result.
        update_id = str(uuid4())

        async def request() -> object:
            return await self._handle().execute_update(
                names.UPDATE_PERFORM, as_json(command), id=update_id
            )

        try:
            return parsed(CommandResult, await self._answer(request, command.kind, timeout_s))
        except WorkflowUpdateFailedError as error:
            await self._update_failed(error)

    # ------------------------------------------------- signals and cancel

    async def signal(self, name: str, message: BaseModel) -> None:
        """Send a signal; it is durable once this returns.

        Raises:
            SessionFailed, SessionOver, SessionNotFound: there is no such session (any more).
            NoAnswer: Temporal did not answer in time.
        """
        signal = self._handle().signal(name, as_json(message), rpc_timeout=RPC_TIMEOUT)
        try:
            await self._rpc.short(signal)
        except WorkflowGone:
            raise await self.error_of_end() from None

    async def cancel(self) -> None:
        """Request cancellation of the workflow.

        Raises:
            SessionNotFound: there is no such session.
            NoAnswer: Temporal did not answer in time.
        """
        try:
            await self._rpc.short(self._handle().cancel(rpc_timeout=RPC_TIMEOUT))
        except WorkflowGone:
            raise SessionNotFound(self.key) from None

    # -------------------------------------------------- status and result

    async def status(self, timeout_s: float) -> SessionStatus:
        """Query the status; of a closed workflow, the status at its end.

        Raises:
            SessionNotFound: there is no such session.
            SessionTerminated: its workflow was terminated.
            NoAnswer: Temporal or its workers did not answer in time.
        """

        async def request() -> object:
            return await self._handle().query(
                names.QUERY_STATUS,
                reject_condition=QueryRejectCondition.NOT_OPEN,
                rpc_timeout=RPC_TIMEOUT,
            )

        try:
            return parsed(SessionStatus, await self._query(request, timeout_s))
        except WorkflowQueryRejectedError:
            return status_of_report(await self.report(None))
        except WorkflowGone:
            raise SessionNotFound(self.key) from None
        except WorkflowQueryFailedError as error:
            raise UnexpectedAnswer(f"the session's status: {error.message}") from error

    async def report(self, timeout_s: float | None) -> SessionReport:
        """Wait for the workflow's result.

        Raises:
            SessionNotFound: there is no such session.
            SessionTerminated: its workflow was terminated and has no result; the error holds what
                Temporal knows instead.
            NoAnswer: Temporal or its workers did not answer in time.
        """

        async def request() -> object:
            return await self._handle().result()

        try:
            answer = await self._rpc.answer(
                request, requested="the report", session_key=self.key, timeout_s=timeout_s
            )
        except WorkflowFailureError as error:
            raise await self._terminated(error) from None
        except WorkflowGone:
            raise SessionNotFound(self.key) from None
        return parsed(SessionReport, answer)

    async def error_of_end(self) -> AvatarSessionsError:
        """Return the error for a call to a closed or missing workflow."""
        try:
            return error_of_report(await self.report(QUERY_TIMEOUT_S))
        except (SessionNotFound, SessionFailed) as error:
            return error
        except AnswerTimedOut:
            return SessionOver(self.key)  # a new session has started under the key meanwhile

    # ---------------------------------------------------------- internals

    def _handle(self) -> WorkflowHandle[Any, Any]:
        return self._rpc.client.get_workflow_handle(self.workflow_id, run_id=self.run_id)

    async def _answer(
        self, request: Callable[[], Awaitable[object]], requested: str, timeout_s: float
    ) -> object:
        try:
            return await self._rpc.answer(
                request, requested=requested, session_key=self.key, timeout_s=timeout_s
            )
        except WorkflowGone:
            raise await self.error_of_end() from None
        except TooMuchInFlight:
            raise TooManyAwaited(
                f"session {self.key!r} has as many unanswered requests as Temporal allows"
            ) from None

    async def _query(self, request: Callable[[], Awaitable[object]], timeout_s: float) -> object:
        """Make one attempt: a status is soon out of date, so the caller learns what is missing."""
        try:
            async with asyncio.timeout(timeout_s):
                return await request()
        except TimeoutError:
            await self._rpc.check_workers()
            raise AnswerTimedOut("status", self.key, timeout_s) from None
        except RPCError as error:
            if error.status is RPCStatusCode.FAILED_PRECONDITION:
                raise WorkersMissing(self._rpc.task_queue, self._rpc.address) from error
            if error.status in (RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED):
                await self._rpc.check_workers()
                seconds = RPC_TIMEOUT.total_seconds()
                raise AnswerTimedOut("status", self.key, seconds) from error
            self._rpc.translate(error)

    async def _attach_failed(self, error: WorkflowUpdateFailedError) -> NoReturn:
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

    async def _update_failed(self, error: WorkflowUpdateFailedError) -> NoReturn:
        cause = error.cause
        if isinstance(cause, ApplicationError):
            if cause.type == "TooManyAwaited":
                raise TooManyAwaited(f"session {self.key!r}: {cause.message}") from None
            if cause.type == WORKFLOW_CLOSED:
                raise await self.error_of_end() from None
            if cause.type in REFUSALS:
                raise CommandRejected(cause.message.split("; ")) from None
        raise UnexpectedAnswer(f"session {self.key!r}: {cause}") from error

    async def _status_if_any(self) -> SessionStatus | None:
        try:
            return await self.status(QUERY_TIMEOUT_S)
        except AvatarSessionsError:
            return None

    async def _terminated(self, error: WorkflowFailureError) -> SessionFailed:
        describe = self._handle().describe(rpc_timeout=RPC_TIMEOUT)
        report = report_of_killed(self.key, await self._rpc.short(describe), error.cause)
        assert report.failure is not None
        return session_failed(self.key, report.failure, report.end_reason, report)
