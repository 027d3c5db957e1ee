"""Each part of the stack starts, answers, and ignores variables meant for other programs."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest

from avatar_sessions.contract.names import SEARCH_ATTRIBUTES
from avatar_sessions.seal import Seal
from deploy.local.binaries import find_livekit
from deploy.local.errors import ProcessDied
from deploy.local.livekit import LiveKitServer, start_livekit
from deploy.local.ports import free_port
from deploy.local.processes import ChildState, Supervisor
from deploy.local.settings import LocalSettings
from deploy.local.simulator import LiveAvatarEndpoint, simulator_settings, start_simulator
from deploy.local.temporal import TemporalServer
from deploy.local.worker import start_worker, worker_settings
from workers.wiring import Role

NO_SERVICE = LiveAvatarEndpoint("http://127.0.0.1:9", SecretStr("obviously-fake-api-key"))


async def test_temporal_answers_with_the_search_attributes_registered(
    temporal: TemporalServer,
) -> None:
    client = await temporal.client()

    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=temporal.namespace)
    )

    assert set(SEARCH_ATTRIBUTES) <= set(known.custom_attributes)


async def test_temporals_web_ui_answers(temporal: TemporalServer) -> None:
    async with httpx.AsyncClient() as http:
        reply = await http.get(temporal.ui_url)

    assert reply.is_success


async def test_livekit_answers(livekit: LiveKitServer) -> None:
    async with httpx.AsyncClient() as http:
        reply = await http.get(livekit.http_url)

    assert reply.text == "OK"


@pytest.fixture
def garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that a user has exported for other programs."""
    for name in (
        *("LIVEKIT_PORT", "LIVEKIT_CONFIG", "LIVEKIT_KEYS", "LIVEKIT_URL", "NODE_IP"),
        *("TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE", "TEMPORAL_API_KEY", "TEMPORAL_PROFILE"),
        *("SIMULATOR_FPS", "SIMULATOR_API_KEYS", "LIVEAVATAR_API_URL", "LIVEAVATAR_API_KEY"),
        *("AVATAR_SESSIONS_SEAL_KEYS", "AVATAR_SESSIONS_MAX_SESSIONS", "AVATAR_SESSIONS_TYPO"),
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ):
        monkeypatch.setenv(name, "garbage")


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("garbage")
async def test_livekit_the_simulator_and_a_worker_start_whatever_the_parents_environment_says(
    temporal: TemporalServer, tmp_path: Path
) -> None:
    """livekit-server reads LIVEKIT_PORT: set for the demo, it moved the server of the tests."""
    settings = LocalSettings(livekit_url=None, livekit_port=free_port())
    there = replace(temporal, namespace=(await temporal.new_namespace()).namespace)

    async with Supervisor(tmp_path) as supervisor:
        livekit = await start_livekit(supervisor, find_livekit(settings, io.StringIO()), settings)
        liveavatar = await start_simulator(
            supervisor,
            simulator_settings(
                livekit_url=livekit.url,
                livekit_api_key=livekit.api_key,
                livekit_api_secret=livekit.api_secret,
                api_keys=["obviously-fake-api-key"],
            ),
        )
        worker = await start_worker(
            supervisor, Role.ALL, worker_settings(liveavatar, livekit, Seal.new_key()), there
        )

        assert (await liveavatar.ledger())["open"] == 0
        assert worker.state is ChildState.READY


@pytest.mark.timeout(120)
async def test_a_worker_is_ready_when_it_polls_and_not_because_an_earlier_one_did(
    temporal: TemporalServer, tmp_path: Path
) -> None:
    """The server lists pollers for five minutes after they have gone."""
    there = replace(temporal, namespace=(await temporal.new_namespace()).namespace)
    usable = worker_settings(
        NO_SERVICE, None, Seal.new_key(), AVATAR_SESSIONS_TASK_QUEUE="another-queue"
    )
    unusable = worker_settings(
        NO_SERVICE, None, Seal.new_key(), AVATAR_SESSIONS_INGRESS_HOST="192.0.2.1"
    )

    async with Supervisor(tmp_path) as supervisor:
        first = await start_worker(supervisor, Role.ALL, usable, there, name="first")
        await supervisor.end(first)
        with pytest.raises(ProcessDied, match="second ended by itself"):
            await start_worker(supervisor, Role.STREAMS, unusable, there, name="second")
