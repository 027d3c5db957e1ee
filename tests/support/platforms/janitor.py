"""What a janitor's test arranges: orphans, rooms, an outage; and a janitor's worker."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
from livekit import api
from temporalio.client import Client, WorkflowHandle
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.contrib.pydantic import pydantic_data_converter

from avatar_sessions.contract import names
from avatar_sessions.contract.janitor import Decision, JanitorFinding, JanitorRound
from avatar_sessions.contract.messages import OwnRoom, SessionRequest
from avatar_sessions.janitor import run_round
from deploy.local.livekit import LiveKitServer
from liveavatar_lite import WAYNE_AVATAR_ID, LiveAvatar, TokenRequest
from liveavatar_simulator import LiveAvatarSimulator
from workers.process import running_worker_set
from workers.settings import WorkerSettings
from workers.wiring import Role, worker_set_for

PROVIDER_SESSIONS = SearchAttributeKey.for_keyword_list(names.SEARCH_ATTRIBUTE_PROVIDER_SESSIONS)


QUEUE_WITHOUT_WORKERS = "no-worker-here"


Workflow = WorkflowHandle[object, object]


class Outage(httpx.AsyncBaseTransport):
    """The network to LiveAvatar; `list_fails` makes listing sessions fail."""

    def __init__(self) -> None:
        self.list_fails = False
        self._network = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.list_fails and request.method == "GET":
            return httpx.Response(503, json={"code": 5000, "data": None, "message": "away"})
        return await self._network.handle_async_request(request)

    async def aclose(self) -> None:
        await self._network.aclose()


@dataclass
class JanitorEnvironment:
    """A namespace and a simulator, where a test arranges orphans and looks for them afterwards."""

    client: Client
    simulator: LiveAvatarSimulator
    livekit: LiveKitServer
    settings: WorkerSettings
    liveavatar: LiveAvatar
    """A client of LiveAvatar with the same API key."""
    outage: Outage = field(default_factory=Outage)
    """The network of the janitors in this environment."""

    async def billed(self) -> str:
        """Start a billed session; its id."""
        minted = await self.liveavatar.create_token(
            TokenRequest(avatar_id=WAYNE_AVATAR_ID, is_sandbox=False)
        )
        await self.liveavatar.start_session(minted.session_token)
        return minted.session_id

    async def opened_by_workflow(
        self, *provider_ids: str, key: str | None = None, room: OwnRoom | None = None
    ) -> Workflow:
        """A running workflow that has opened these sessions. No worker polls its task queue."""
        request = SessionRequest.model_validate({"avatar_id": WAYNE_AVATAR_ID, "room": room})
        pair = SearchAttributePair(PROVIDER_SESSIONS, list(provider_ids))
        return await self.client.start_workflow(
            names.WORKFLOW_TYPE,
            request,
            id=names.workflow_id(key or f"k-{uuid.uuid4().hex[:12]}"),
            task_queue=QUEUE_WITHOUT_WORKERS,
            search_attributes=TypedSearchAttributes([pair] if provider_ids else []),
        )

    async def orphan(self) -> str:
        """Start a billed session whose workflow is terminated and whose owner is dead; its id."""
        provider_id = await self.billed()
        workflow = await self.opened_by_workflow(provider_id)
        await workflow.terminate("test")
        return provider_id

    def is_billed(self, provider_id: str) -> bool:
        """Whether LiveAvatar still bills it."""
        return self.simulator.sessions[provider_id].billing

    @contextlib.asynccontextmanager
    async def janitor(self, **settings: object) -> AsyncIterator[None]:
        """A janitor's worker without a schedule. Settings are named as in the environment."""
        changed = settings_of(self.settings, **settings)
        # The SDK refuses two workers of one queue on one client.
        client = await client_like(self.client, self.client.namespace)
        async with (
            LiveAvatar(
                changed.liveavatar_api_key,
                base_url=changed.liveavatar_api_url,
                transport=self.outage,
            ) as liveavatar,
            running_worker_set(worker_set_for(Role.JANITOR, client, changed, liveavatar), 5),
        ):
            yield

    async def round(self, **asked: object) -> JanitorFinding:
        """Ask the running janitor for one round."""
        return await run_round(self.client, JanitorRound.model_validate(asked), timeout_s=40)

    async def room_exists(self, room: str) -> bool:
        async with livekit_at(self.livekit) as livekit:
            found = await livekit.room.list_rooms(api.ListRoomsRequest(names=[room]))
        return bool(found.rooms)


async def client_like(client: Client, namespace: str) -> Client:
    """Another client of the same server."""
    return await Client.connect(
        client.service_client.config.target_host,
        namespace=namespace,
        data_converter=pydantic_data_converter,
    )


def livekit_at(server: LiveKitServer) -> api.LiveKitAPI:
    return api.LiveKitAPI(server.url, server.api_key, server.api_secret)


def settings_of(settings: WorkerSettings, **changes: object) -> WorkerSettings:
    """The same settings with changes, named as in the environment."""
    fields = type(settings).model_fields
    known = {field.alias: getattr(settings, name) for name, field in fields.items()}
    return WorkerSettings.model_validate({**known, **changes})


def decision_on(finding: JanitorFinding, provider_id: str) -> Decision:
    """The round's decision on a session."""
    return next(one.decision for one in finding.sessions if one.provider_session_id == provider_id)
