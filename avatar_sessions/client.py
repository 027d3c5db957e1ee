"""The client that a backend installs: it starts, finds and lists sessions.

It calls Temporal and nothing else: no worker code, no LiveAvatar, no LiveKit. Messages travel as
plain JSON, so any Temporal client whose data converter handles JSON can be used.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
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
from avatar_sessions.rpc import CALL_TIMEOUT_S, REACH_ADVICE, RPC_TIMEOUT, WorkflowRpc, as_json
from avatar_sessions.seal import Seal, SealError
from avatar_sessions.session import ATTACH_TIMEOUT_S, Listing, Session
from avatar_sessions.session_rpc import SIGNAL_OF_KIND, SessionRpc, attach_message, with_id
from avatar_sessions.settings import ClientSettings, read_settings, unknown_variables

_LOGGER: Final = logging.getLogger("avatar_sessions")

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
        """Use an existing Temporal client.

        Args:
            client: a client whose data converter handles JSON, as Temporal's default and
                ``temporalio.contrib.pydantic.pydantic_data_converter`` do.
            seal: decrypts access tokens. None: ``attach``, ``open``, live speech and sealed clips
                raise :class:`SealKeysUnusable`; everything else works.
            task_queue: the task queue that the workers of sessions poll.
        """
        self._rpc = WorkflowRpc(client, task_queue)
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
            seal_keys: the keys that decrypt access tokens. None: those of the settings.
            settings: None: read from the environment (``AVATAR_SESSIONS_*``); a variable with this
                prefix that is not a setting is logged as a warning.
            overrides: arguments of ``temporalio.client.Client.connect`` that take precedence,
                such as ``target_host``, ``namespace``, ``tls``, ``interceptors``.

        Raises:
            TemporalUnreachable: the server does not answer, or the configuration is unusable.
            SealKeysUnusable: a seal key has the wrong shape.
            InvalidArgument: an ``AVATAR_SESSIONS_*`` variable is unusable.
        """
        if settings is None:
            settings = read_settings()
            for sentence in unknown_variables(os.environ):
                _LOGGER.warning("%s", sentence)
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
            raise TemporalUnreachable(address, "does not answer", REACH_ADVICE) from None
        except (RuntimeError, ValueError) as error:  # what the SDK raises here
            raise TemporalUnreachable(address, "cannot be reached", REACH_ADVICE) from error
        return cls(client, seal, task_queue=settings.task_queue)

    @property
    def temporal(self) -> Client:
        """The Temporal client that this client uses."""
        return self._rpc.client

    # ----------------------------------------------------------- starting

    async def start(
        self, key: str, request: SessionRequest, *, first: Command | None = None
    ) -> Session:
        """Start a session, or return the one that runs under this key. One round trip.

        This does not wait for the avatar: ``attach`` does. If a session runs under the key, the
        request is ignored.

        Args:
            key: the session's key, unique among running sessions: 1 to 200 letters, digits and
                ``. _ : @ / + = -``.
            request: what to start.
            first: a command sent with the start (signal-with-start), such as a greeting. It is
                also sent to a session that already runs; give it a ``command_id`` if the start may
                be repeated.

        Raises:
            InvalidSessionKey: the key cannot be used.
            TemporalUnreachable: no answer in time, or a refusal.
        """
        options: dict[str, Any] = {}
        if first is not None:
            first = with_id(first)
            options["start_signal"] = SIGNAL_OF_KIND[first.kind]
            options["start_signal_args"] = [as_json(first)]
        start = self._rpc.client.start_workflow(
            names.WORKFLOW_TYPE,
            as_json(request),
            rpc_timeout=RPC_TIMEOUT,
            **self._start_options(key, request),
            **options,
        )
        handle = await self._rpc.short(start)
        return self._session(key, handle.result_run_id)

    async def open(
        self,
        key: str,
        request: SessionRequest,
        viewer_identity: str | None = None,
        *,
        timeout_s: float = ATTACH_TIMEOUT_S,
    ) -> tuple[Session, Access]:
        """Start a session, or find the one that runs, and attach to it. One round trip.

        Args:
            key: as for :meth:`start`.
            request: as for :meth:`start`.
            viewer_identity: as for :meth:`Session.attach`.
            timeout_s: how many seconds to wait until the avatar is live.

        Raises:
            InvalidSessionKey: the key cannot be used.
            AvatarSessionsError: as for :meth:`Session.attach`.
        """
        session = SessionRpc(self._rpc, names.checked_session_key(key), None)
        attach = attach_message(viewer_identity)
        update_id = str(uuid4())
        run_id: str | None = None

        async def attempt() -> object:
            nonlocal run_id
            if run_id is not None:  # started; the answer was lost
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

        access = await session.attach_by(attempt, self._seal, timeout_s)
        return self._session(key, run_id), access

    # ------------------------------------------------------------ finding

    def get(self, key: str) -> Session:
        """Return the session with this key. Nothing is sent: a missing session shows on first use.

        Raises:
            InvalidSessionKey: the key cannot be used.
        """
        return self._session(key, None)

    async def list(
        self, *, state: SessionState | None = None, tenant: str | None = None
    ) -> AsyncIterator[Session]:
        """List the running sessions, latest first; with ``state``, also ended ones in that state.

        The list comes from Temporal's visibility store, which may lag by a second or so. Each
        session has a ``listing`` with the store's attributes.

        Raises:
            TemporalUnreachable: no answer in time, or a refusal.
            UnexpectedAnswer: the namespace lacks the search attributes.
        """
        iterator = self._rpc.client.list_workflows(
            _list_query(state, tenant), page_size=PAGE_SIZE, rpc_timeout=RPC_TIMEOUT
        )
        while True:
            await self._rpc.short(iterator.fetch_next_page())
            for execution in iterator.current_page or ():
                yield self._listed(execution)
            if not iterator.next_page_token:
                return

    # --------------------------------------------------------------- clips

    def sealed_clip(self, url: str) -> Clip:
        """Make a clip whose address workflow history must not show, such as a signed URL.

        Raises:
            SealKeysUnusable: this client has no seal keys.
            InvalidMessage: the address is not http or https, or too long.
        """
        Clip(url=url)  # checked here: the caller would not learn of a worker's check
        if self._seal is None:
            raise SealKeysUnusable(
                "AVATAR_SESSIONS_SEAL_KEYS is not set: set it to seal an address"
            )
        return Clip(sealed_url=self._seal.seal(url))

    # ------------------------------------------------------------ internals

    def _start_options(self, key: str, request: SessionRequest) -> dict[str, Any]:
        kind = "sandbox session" if request.sandbox else "session"
        return {
            "id": names.workflow_id(key),
            "task_queue": self._rpc.task_queue,
            "task_timeout": TASK_TIMEOUT,
            "id_reuse_policy": WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            "id_conflict_policy": WorkflowIDConflictPolicy.USE_EXISTING,
            "static_summary": f"LiveAvatar {kind} {key}",
            # The workflow sets them as well; set here, they are right before a worker runs it.
            "search_attributes": _search_attributes(request),
        }

    def _session(self, key: str, run_id: str | None, listing: Listing | None = None) -> Session:
        names.checked_session_key(key)
        return Session(self._rpc, self._seal, key, run_id=run_id, listing=listing)

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
        return Session(self._rpc, self._seal, key, run_id=execution.run_id, listing=listing)


def _environment_configuration() -> ClientConnectConfig:
    try:
        return ClientConfig.load_client_connect_config()
    except RuntimeError:
        # Chained from nothing: the SDK's message may quote the file, which may hold keys.
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
    """The run that an update-with-start is about, if its answer arrived."""
    # Settled by the call that has just returned, which has raised its failure.
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
