"""Calls to Temporal with bounds and in our own words: every wait ends, every error is ours.

Foreign errors are translated here and nowhere else. What the calls mean to a session is
decided elsewhere (:mod:`avatar_sessions.session`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, Final, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.errordetails.v1 import NamespaceNotFoundFailure
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.service import RPCError, RPCStatusCode

from avatar_sessions.contract.messages import problems_of
from avatar_sessions.contract.names import SEARCH_ATTRIBUTES
from avatar_sessions.errors import (
    AnswerTimedOut,
    NoAnswer,
    TemporalUnreachable,
    UnexpectedAnswer,
    WorkersMissing,
)

RPC_TIMEOUT: Final = timedelta(seconds=5)
"""One attempt of one short request; the SDK repeats it while the server is away."""
CALL_TIMEOUT_S: Final = 12.0
"""A short request with its repeats."""
WORKERS_CHECK_AFTER_S: Final = 5.0
"""An answer that takes longer makes us ask whether there are any workers."""
RECONNECT_S: Final = 60.0
"""How long an answer is asked for again while the server cannot be reached."""
RECONNECT_PAUSE_S: Final = 1.0

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)

_AWAY: Final = frozenset(
    {RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED}
)
_REFUSED: Final = frozenset({RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED})
HOW_TO_REACH: Final = "start it, or set TEMPORAL_ADDRESS"


class WorkflowGone(Exception):
    """No such workflow, or it is closed: internal, never seen by a caller."""


class TooMuchInFlight(Exception):
    """The server's limit on unanswered updates is reached: internal."""


class WorkflowRpc:
    """One Temporal client, one task queue."""

    def __init__(self, client: Client, task_queue: str) -> None:
        self.client = client
        self.task_queue = task_queue

    @property
    def address(self) -> str:
        """Where Temporal is."""
        return self.client.service_client.config.target_host

    async def short(self, call: Awaitable[T]) -> T:
        """A request that the server answers by itself, without a worker.

        Raises:
            WorkflowGone: no such workflow, or it is closed.
            TemporalUnreachable: no answer in time, or a refusal.
            UnexpectedAnswer: the server found fault with the request.
        """
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await call
        except TimeoutError:
            raise self._unreachable() from None
        except RPCError as error:
            self.translate(error)

    async def answer(
        self,
        ask: Callable[[], Awaitable[T]],
        *,
        asked: str,
        session_key: str,
        timeout_s: float | None,
    ) -> T:
        """An answer that a worker gives; asked for again while the server is away.

        Args:
            ask: makes one attempt. It is called again after a lost reply, so it must be safe
                to repeat (an update under one id is).
            asked: what was asked, for the error's text.
            session_key: whose answer it is, for the error's text.
            timeout_s: how long to wait; None waits as long as the workflow runs.

        Raises:
            WorkflowGone: no such workflow, or it is closed.
            TooMuchInFlight: the server takes no more unanswered updates.
            WorkersMissing: the answer is late, and nobody polls the task queue.
            AnswerTimedOut: the answer did not come in time.
            TemporalUnreachable: the server was away for a minute, or refused.
        """
        task = asyncio.create_task(
            self._ask_again(ask), name=f"avatar-sessions {asked} {session_key}"
        )
        try:
            first_s = WORKERS_CHECK_AFTER_S if timeout_s is None else timeout_s
            first_s = min(first_s, WORKERS_CHECK_AFTER_S)
            await asyncio.wait({task}, timeout=first_s)
            if not task.done():
                await self.check_workers()
                rest_s = None if timeout_s is None else max(timeout_s - first_s, 0.0)
                await asyncio.wait({task}, timeout=rest_s)
            if not task.done():
                assert timeout_s is not None
                raise AnswerTimedOut(asked, session_key, timeout_s)
            return task.result()
        finally:
            await _cancelled(task)

    async def check_workers(self) -> None:
        """Find out whether anybody polls the task queue (the server remembers for 5 minutes).

        Raises:
            WorkersMissing: nobody does.
        """
        request = DescribeTaskQueueRequest(
            namespace=self.client.namespace,
            task_queue=TaskQueue(name=self.task_queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        )
        service = self.client.workflow_service
        try:
            described = await self.short(
                service.describe_task_queue(request, retry=False, timeout=RPC_TIMEOUT)
            )
        except NoAnswer:
            return  # then nothing can be said about the workers
        if not described.pollers:
            raise WorkersMissing(self.task_queue, self.address)

    async def _ask_again(self, ask: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        away_since: float | None = None
        while True:
            asked_at = loop.time()
            try:
                return await ask()
            except WorkflowUpdateRPCTimeoutOrCancelledError as error:
                # The SDK wraps a cancel of ours as well: that one must stay a cancel.
                if isinstance(error.__cause__, asyncio.CancelledError):
                    raise error.__cause__ from None
            except RPCError as error:
                if error.status is RPCStatusCode.RESOURCE_EXHAUSTED:
                    raise TooMuchInFlight(error.message) from error
                if error.status not in _AWAY:
                    self.translate(error)
            now = loop.time()
            if now - asked_at > RECONNECT_S:
                away_since = None  # a long poll that ran out: the server is there
                continue
            away_since = asked_at if away_since is None else away_since
            if now - away_since > RECONNECT_S:
                raise self._unreachable()
            await asyncio.sleep(RECONNECT_PAUSE_S)

    def translate(self, error: RPCError) -> NoReturn:
        """Raise a Temporal error in our own words."""
        if error.status is RPCStatusCode.NOT_FOUND:
            if _about_namespace(error):
                raise TemporalUnreachable(
                    self.address,
                    f"has no namespace {self.client.namespace!r}",
                    "create it, or set TEMPORAL_NAMESPACE",
                ) from error
            raise WorkflowGone(error.message) from error
        if error.status in _AWAY:
            raise self._unreachable() from error
        if error.status in _REFUSED:
            raise TemporalUnreachable(
                self.address,
                f"refuses this client ({error.message})",
                "check TEMPORAL_API_KEY and the TLS settings",
            ) from error
        if error.status is RPCStatusCode.RESOURCE_EXHAUSTED:
            raise TemporalUnreachable(
                self.address, f"is overloaded ({error.message})", "ask again later"
            ) from error
        if error.status is RPCStatusCode.INVALID_ARGUMENT and "search attribute" in error.message:
            wanted = ", ".join(f"{name} ({kind})" for name, kind in SEARCH_ATTRIBUTES.items())
            raise UnexpectedAnswer(
                f"Temporal: {error.message}: create {wanted} with"
                " `temporal operator search-attribute create --type ... --name ...`"
            ) from error
        raise UnexpectedAnswer(f"Temporal: {error.message}") from error

    def _unreachable(self) -> TemporalUnreachable:
        return TemporalUnreachable(self.address, "does not answer", HOW_TO_REACH)


def as_json(message: BaseModel) -> dict[str, Any]:
    """A message as plain JSON, so that any JSON data converter carries it."""
    return message.model_dump(mode="json", exclude_none=True)


def understood(model: type[Model], answer: object) -> Model:
    """An answer as the model it should be.

    Raises:
        UnexpectedAnswer: it is something else; the text holds no values.
    """
    try:
        return model.model_validate(answer)
    except ValidationError as error:
        raise UnexpectedAnswer(
            f"not a {model.__name__} of this release: {problems_of(error)}"
        ) from None


def _about_namespace(error: RPCError) -> bool:
    return any(
        detail.Is(NamespaceNotFoundFailure.DESCRIPTOR) for detail in error.grpc_status.details
    )


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """End a task that may still run, and take note of its failure, whichever it is."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=1.0)
    if task.done() and not task.cancelled():
        task.exception()
