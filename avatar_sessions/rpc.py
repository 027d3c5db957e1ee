"""Calls to Temporal with time limits, and with the client's own errors.

The SDK's RPC errors are translated here and nowhere else. What the calls mean to a session is
decided in :mod:`avatar_sessions.session_rpc`.
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
"""One attempt of a short request; the SDK repeats it while the server is away."""
CALL_TIMEOUT_S: Final = 12.0
"""A short request with its retries."""
WORKERS_CHECK_AFTER_S: Final = 5.0
"""After how long without an answer the client checks whether there are workers."""
RECONNECT_S: Final = 60.0
"""How long a request is retried while the server cannot be reached."""
RECONNECT_PAUSE_S: Final = 1.0

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)

_AWAY: Final = frozenset(
    {RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.CANCELLED}
)
_REFUSED: Final = frozenset({RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED})
REACH_ADVICE: Final = "start it, or set TEMPORAL_ADDRESS"


class WorkflowGone(Exception):
    """There is no such workflow, or it is closed. Internal: callers never see it."""


class TooMuchInFlight(Exception):
    """The server's limit on unanswered updates is reached. Internal: callers never see it."""


class WorkflowRpc:
    """Calls through one Temporal client, for the workflows of one task queue."""

    def __init__(self, client: Client, task_queue: str) -> None:
        self.client = client
        self.task_queue = task_queue

    @property
    def address(self) -> str:
        """The server's address."""
        return self.client.service_client.config.target_host

    async def short(self, call: Awaitable[T]) -> T:
        """Await a request that the server answers by itself, without a worker.

        Raises:
            WorkflowGone: there is no such workflow, or it is closed.
            TemporalUnreachable: no answer in time, or a refusal.
            UnexpectedAnswer: the server refused the request as malformed.
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
        request: Callable[[], Awaitable[T]],
        *,
        requested: str,
        session_key: str,
        timeout_s: float | None,
    ) -> T:
        """Wait for an answer that a worker gives; retry the request while the server is away.

        Args:
            request: makes one attempt. It is called again after a lost reply, so it must be safe to
                repeat (an update with one id is).
            requested: what was requested, for the error's text.
            session_key: the session's key, for the error's text.
            timeout_s: how many seconds to wait. None: as long as the workflow runs.

        Raises:
            WorkflowGone: there is no such workflow, or it is closed.
            TooMuchInFlight: the server takes no more unanswered updates.
            WorkersMissing: the answer is late, and no worker polls the task queue.
            AnswerTimedOut: the answer did not come in time.
            TemporalUnreachable: the server was away for a minute, or refused this client.
        """
        task = asyncio.create_task(
            self._retried(request), name=f"avatar-sessions {requested} {session_key}"
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
                raise AnswerTimedOut(requested, session_key, timeout_s)
            return task.result()
        finally:
            await _cancelled(task)

    async def check_workers(self) -> None:
        """Check whether a worker polls the task queue (the server remembers pollers for 5 minutes).

        Raises:
            WorkersMissing: no worker does.
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
            return  # whether there are workers is not known
        if not described.pollers:
            raise WorkersMissing(self.task_queue, self.address)

    async def _retried(self, request: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        away_since: float | None = None
        while True:
            requested_at = loop.time()
            try:
                return await request()
            except WorkflowUpdateRPCTimeoutOrCancelledError as error:
                # The SDK also wraps a cancellation of this task, which must stay one.
                if isinstance(error.__cause__, asyncio.CancelledError):
                    raise error.__cause__ from None
            except RPCError as error:
                if error.status is RPCStatusCode.RESOURCE_EXHAUSTED:
                    raise TooMuchInFlight(error.message) from error
                if error.status not in _AWAY:
                    self.translate(error)
            now = loop.time()
            if now - requested_at > RECONNECT_S:
                away_since = None  # a long poll that timed out: the server is there
                continue
            away_since = requested_at if away_since is None else away_since
            if now - away_since > RECONNECT_S:
                raise self._unreachable()
            await asyncio.sleep(RECONNECT_PAUSE_S)

    def translate(self, error: RPCError) -> NoReturn:
        """Raise the client's error for an RPC error."""
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
                self.address, f"is overloaded ({error.message})", "try again later"
            ) from error
        if error.status is RPCStatusCode.INVALID_ARGUMENT and "search attribute" in error.message:
            wanted = ", ".join(f"{name} ({kind})" for name, kind in SEARCH_ATTRIBUTES.items())
            raise UnexpectedAnswer(
                f"Temporal: {error.message}: create {wanted} with"
                " `temporal operator search-attribute create --type ... --name ...`"
            ) from error
        raise UnexpectedAnswer(f"Temporal: {error.message}") from error

    def _unreachable(self) -> TemporalUnreachable:
        return TemporalUnreachable(self.address, "does not answer", REACH_ADVICE)


def as_json(message: BaseModel) -> dict[str, Any]:
    """Return a message as plain JSON, which any JSON data converter takes."""
    return message.model_dump(mode="json", exclude_none=True)


def parsed(model: type[Model], answer: object) -> Model:
    """Return an answer as an instance of its model.

    Raises:
        UnexpectedAnswer: the answer has another shape. The text quotes no values.
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
    """Cancel a task that may still run, and retrieve its exception."""
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=1.0)
    if task.done() and not task.cancelled():
        task.exception()
