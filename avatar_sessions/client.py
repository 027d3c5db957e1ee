"""The client a backend installs: start sessions, find them, list them.

It talks to Temporal and to nothing else: no worker code, no LiveAvatar, no LiveKit. Messages
travel as plain JSON, so any JSON data converter of a given Temporal client will do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import Any, Final, Self
from uuid import uuid4

from pydantic import SecretStr
from temporalio.client import Client, WithStartWorkflowOperation, WorkflowExecution
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig, ClientConnectConfig

from avatar_sessions.access import Access
from avatar_sessions.contract import names
from avatar_sessions.contract.messages import Clip, Command, SessionRequest
from avatar_sessions.contract.states import FINAL, SessionState
from avatar_sessions.errors import SealKeysUnusable, TemporalUnreachable
from avatar_sessions.rpc import CALL_TIMEOUT_S, HOW_TO_REACH, RPC_TIMEOUT, WorkflowRpc, as_json
from avatar_sessions.seal import Seal, SealError
from avatar_sessions.session import (
    ATTACH_TIMEOUT_S,
    SIGNAL_OF_KIND,
    Listing,
    Session,
    attach_message,
    with_id,
)
from avatar_sessions.settings import ClientSettings

DEFAULT_ADDRESS: Final = "localhost:7233"
TASK_TIMEOUT: Final = timedelta(seconds=names.WORKFLOW_TASK_TIMEOUT_S)
PAGE_SIZE: Final = 200

_STATE: Final = SearchAttributeKey.for_keyword(names.SEARCH_ATTRIBUTE_STATE)
_TENANT: Final = SearchAttributeKey.for_keyword(names.SEARCH_ATTRIBUTE_TENANT)
_PROVIDER_SESSION: Final = SearchAttributeKey.for_keyword(
    names.SEARCH_ATTRIBUTE_PROVIDER_SESSION_ID
)


class AvatarSessions:
    """Durable LiveAvatar sessions, by key."""

    def __init__(
        self,
        client: Client,
        seal: Seal | None = None,
        *,
        task_queue: str = names.SESSIONS_TASK_QUEUE,
    ) -> None:
        """Use a Temporal client that exists already.

        Args:
            client: any client whose data converter speaks JSON: Temporal's own default does, and
                ``temporalio.contrib.pydantic.pydantic_data_converter`` does.
            seal: opens access tokens; None: everything works but ``attach`` and ``open``.
            task_queue: where the workers for sessions are.
        """
        self._calls = WorkflowRpc(client, task_queue)
        self._seal = seal

    @classmethod
    async def connect(
        cls,
        *,
        seal_keys: Iterable[SecretStr | str] | None = None,
        settings: ClientSettings | None = None,
        **overrides: Any,
    ) -> Self:
        """Connect as Temporal's standard environment configuration says.

        That is ``TEMPORAL_ADDRESS`` (default ``localhost:7233``), ``TEMPORAL_NAMESPACE``,
        ``TEMPORAL_API_KEY``, ``TEMPORAL_TLS_*``, or a profile in ``TEMPORAL_CONFIG_FILE``.

        Args:
            seal_keys: open access tokens; None: those of the settings.
            settings: None: read from the environment (``AVATAR_SESSIONS_*``).
            overrides: arguments of ``temporalio.client.Client.connect`` that take precedence,
                such as ``target_host``, ``namespace``, ``tls``, ``interceptors``.

        Raises:
            TemporalUnreachable: nobody answers there.
            SealKeysUnusable: a seal key has the wrong shape.
        """
        settings = settings or ClientSettings()
        seal = _seal_of(settings.seal_keys if seal_keys is None else seal_keys)
        arguments: dict[str, Any] = {
            "target_host": DEFAULT_ADDRESS,
            "data_converter": pydantic_data_converter,
            **_environment_configuration(),
            **overrides,
        }
        address = arguments["target_host"]
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                client = await Client.connect(**arguments)
        except TimeoutError:
            raise TemporalUnreachable(address, "does not answer", HOW_TO_REACH) from None
        except (RuntimeError, ValueError) as error:  # what the SDK raises here
            raise TemporalUnreachable(address, "cannot be reached", HOW_TO_REACH) from error
        return cls(client, seal, task_queue=settings.task_queue)

    @property
    def temporal(self) -> Client:
        """The Temporal client underneath."""
        return self._calls.client

    # ----------------------------------------------------------- starting

    async def start(
        self, key: str, request: SessionRequest, *, first: Command | None = None
    ) -> Session:
        """Start a session, or find the one that runs under this key. One round trip.

        Nothing is waited for: ``attach`` waits until the avatar is live. The request of a session
        that runs already is not looked at.

        Args:
            key: the session's name, unique among those that run: 1 to 200 characters.
            request: what to start.
            first: a command that goes with the start (signal-with-start), a greeting for
                instance. It is also sent to a session that runs already; give it a
                ``command_id`` if the start may be repeated.

        Raises:
            ValueError: the key is not usable.
            TemporalUnreachable: no answer in time, or a refusal.
        """
        options: dict[str, Any] = {}
        if first is not None:
            first = with_id(first)
            options["start_signal"] = SIGNAL_OF_KIND[first.kind]
            options["start_signal_args"] = [as_json(first)]
        start = self._calls.client.start_workflow(
            names.WORKFLOW_TYPE,
            as_json(request),
            rpc_timeout=RPC_TIMEOUT,
            **self._start_options(key, request),
            **options,
        )
        handle = await self._calls.short(start)
        return self._session(key, handle.result_run_id)

    async def open(
        self,
        key: str,
        request: SessionRequest,
        viewer_identity: str | None = None,
        *,
        timeout_s: float = ATTACH_TIMEOUT_S,
    ) -> tuple[Session, Access]:
        """Start a session (or find it) and attach to it, in one round trip.

        Args:
            key: as for :meth:`start`.
            request: as for :meth:`start`.
            viewer_identity: as for :meth:`Session.attach`.
            timeout_s: how long to wait until the avatar is live.

        Raises:
            ValueError: the key is not usable.
            AvatarSessionsError: as :meth:`Session.attach`.
        """
        session = self._session(key, None)
        attach = attach_message(viewer_identity)
        update_id = str(uuid4())
        run_id: str | None = None

        async def ask() -> object:
            nonlocal run_id
            if run_id is not None:  # started; its answer was lost on the way
                handle = self.temporal.get_workflow_handle(session.workflow_id, run_id=run_id)
                return await handle.execute_update(names.UPDATE_ATTACH, attach, id=update_id)
            operation: WithStartWorkflowOperation[Any, Any] = WithStartWorkflowOperation(
                names.WORKFLOW_TYPE, as_json(request), **self._start_options(key, request)
            )
            try:
                return await self.temporal.execute_update_with_start_workflow(
                    names.UPDATE_ATTACH,
                    attach,
                    id=update_id,
                    start_workflow_operation=operation,
                )
            finally:
                run_id = await _started_run(operation)

        access = await session.attached_by(ask, timeout_s)
        return self._session(key, run_id), access

    # ------------------------------------------------------------ finding

    def get(self, key: str) -> Session:
        """The session with this key. Asks nobody: whether there is one shows when it is used.

        Raises:
            ValueError: the key is not usable.
        """
        return self._session(key, None)

    async def list(
        self, *, state: SessionState | None = None, tenant: str | None = None
    ) -> AsyncIterator[Session]:
        """The sessions that run, latest first; by ``state``, also ended ones of that state.

        Read from Temporal's visibility store, which may lag behind by a second or so. Each has a
        ``listing`` with what the store knew.

        Raises:
            TemporalUnreachable: no answer in time, or a refusal.
            UnexpectedAnswer: the namespace lacks our search attributes.
        """
        iterator = self._calls.client.list_workflows(
            _list_query(state, tenant), page_size=PAGE_SIZE, rpc_timeout=RPC_TIMEOUT
        )
        while True:
            await self._calls.short(iterator.fetch_next_page())
            for execution in iterator.current_page or ():
                yield self._listed(execution)
            if not iterator.next_page_token:
                return

    # --------------------------------------------------------------- clips

    def sealed_clip(self, url: str) -> Clip:
        """A clip at an address that must not stand in history, a signed URL for instance.

        Raises:
            SealKeysUnusable: this client has no seal keys.
        """
        Clip(url=url)  # the shape is checked here: the worker sees it too late to tell us
        if self._seal is None:
            raise SealKeysUnusable("AVATAR_SESSIONS_SEAL_KEYS is not set: nothing can be sealed")
        return Clip(sealed_url=self._seal.seal(url))

    # ------------------------------------------------------------- the parts

    def _start_options(self, key: str, request: SessionRequest) -> dict[str, Any]:
        kind = "sandbox session" if request.sandbox else "session"
        return {
            "id": names.workflow_id(key),
            "task_queue": self._calls.task_queue,
            "task_timeout": TASK_TIMEOUT,
            "id_reuse_policy": WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            "id_conflict_policy": WorkflowIDConflictPolicy.USE_EXISTING,
            "static_summary": f"LiveAvatar {kind} {key}",
            # Also set by the workflow; from here they are right before a worker has seen it.
            "search_attributes": _search_attributes(request),
        }

    def _session(self, key: str, run_id: str | None, listing: Listing | None = None) -> Session:
        names.checked_session_key(key)
        return Session(self._calls, self._seal, key, run_id=run_id, listing=listing)

    def _listed(self, execution: WorkflowExecution) -> Session:
        attributes = execution.typed_search_attributes
        state = attributes.get(_STATE) or ""
        listing = Listing(
            state=SessionState(state) if state in SessionState.__members__ else None,
            tenant=attributes.get(_TENANT),
            provider_session_id=attributes.get(_PROVIDER_SESSION),
            started_at=execution.start_time,
            ended_at=execution.close_time,
        )
        key = names.session_key_of(execution.id)
        return Session(self._calls, self._seal, key, run_id=execution.run_id, listing=listing)


def _environment_configuration() -> ClientConnectConfig:
    try:
        return ClientConfig.load_client_connect_config()
    except RuntimeError:
        # Chained from nothing: the SDK's message may quote the file, and keys may stand in it.
        raise TemporalUnreachable(
            "an unknown address", "is not configured", "check TEMPORAL_CONFIG_FILE and TEMPORAL_*"
        ) from None


def _seal_of(keys: Iterable[SecretStr | str]) -> Seal | None:
    secrets = [key if isinstance(key, SecretStr) else SecretStr(key) for key in keys]
    if not secrets:
        return None
    try:
        return Seal(secrets)
    except SealError as error:
        raise SealKeysUnusable(str(error)) from None


def _search_attributes(request: SessionRequest) -> TypedSearchAttributes:
    pairs = [SearchAttributePair(_STATE, SessionState.REQUESTED.value)]
    if request.tenant is not None:
        pairs.append(SearchAttributePair(_TENANT, request.tenant))
    return TypedSearchAttributes(pairs)


async def _started_run(operation: WithStartWorkflowOperation[Any, Any]) -> str | None:
    """The run an update-with-start is about, as far as its answer came through."""
    # Settled by the call that has just returned; its failure has been raised there already.
    with contextlib.suppress(Exception, asyncio.CancelledError):
        async with asyncio.timeout(0.1):
            return (await operation.workflow_handle()).result_run_id
    return None


def _list_query(state: SessionState | None, tenant: str | None) -> str:
    terms = [f"WorkflowType = '{names.WORKFLOW_TYPE}'"]
    if state is None or state not in FINAL:
        terms.append("ExecutionStatus = 'Running'")
    if state is not None:
        terms.append(f"{names.SEARCH_ATTRIBUTE_STATE} = '{state.value}'")
    if tenant is not None:
        terms.append(f"{names.SEARCH_ATTRIBUTE_TENANT} = '{_quoted(tenant)}'")
    return " AND ".join(terms)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")
