"""The client's errors and retries when Temporal or its workers are away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
import pytest_asyncio
from temporalio.client import Client

from avatar_sessions import (
    AvatarSessions,
    Clip,
    Seal,
    SealKeysUnusable,
    SessionRequest,
    SessionState,
    TemporalUnreachable,
    UtteranceOutcome,
    WorkersMissing,
)
from avatar_sessions.settings import ClientSettings
from deploy.local.ports import free_port
from deploy.local.relay import TcpRelay
from deploy.local.temporal import TemporalServer

FAKE_API_KEY = "not-a-real-temporal-key"


@pytest_asyncio.fixture
async def relay(temporal: TemporalServer) -> AsyncIterator[TcpRelay]:
    """A relay to Temporal that passes everything to begin with."""
    host, _, port = temporal.address.partition(":")
    async with TcpRelay(host, int(port)).listening() as relay:
        yield relay


async def test_an_unreachable_address_is_named_with_what_to_do() -> None:
    address = f"127.0.0.1:{free_port()}"

    with pytest.raises(TemporalUnreachable, match="set TEMPORAL_ADDRESS") as error:
        await AvatarSessions.connect(target_host=address)

    assert address in str(error.value)


async def test_the_standard_environment_configuration_is_followed(
    temporal: TemporalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal.address)
    monkeypatch.setenv("TEMPORAL_NAMESPACE", "somewhere")
    monkeypatch.setenv("AVATAR_SESSIONS_SEAL_KEYS", Seal.new_key().get_secret_value())

    sessions = await AvatarSessions.connect()

    assert sessions.temporal.service_client.config.target_host == temporal.address
    assert sessions.temporal.namespace == "somewhere"
    assert sessions.sealed_clip("https://example.org/signed?x=1").url is None


async def test_an_unreadable_configuration_file_is_not_quoted(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path_factory.mktemp("config") / "temporal.toml"
    path.write_text(f"[profile.default]\napi_key = {FAKE_API_KEY}\n")  # unquoted: not TOML
    monkeypatch.setenv("TEMPORAL_CONFIG_FILE", str(path))

    with pytest.raises(TemporalUnreachable, match="TEMPORAL_CONFIG_FILE") as error:
        await AvatarSessions.connect()

    assert FAKE_API_KEY not in str(error.value)
    assert error.value.__cause__ is None


async def test_a_missing_namespace_is_named(
    temporal: TemporalServer, key: str, request_: SessionRequest
) -> None:
    sessions = await AvatarSessions.connect(target_host=temporal.address, namespace="nowhere")

    with pytest.raises(TemporalUnreachable, match="no namespace 'nowhere'"):
        await sessions.start(key, request_)


async def test_without_workers_a_session_starts_and_calls_raise_workers_missing(
    temporal: TemporalServer, seal: Seal, key: str, request_: SessionRequest
) -> None:
    sessions = AvatarSessions(await temporal.new_namespace("no-workers"), seal)
    session = await sessions.start(key, request_)

    async with asyncio.timeout(30):
        asks = (session.status, session.attach, session.interrupt, session.report)
        errors = await asyncio.gather(*(ask() for ask in asks), return_exceptions=True)
        while not (listed := [one async for one in sessions.list(state=SessionState.REQUESTED)]):
            await asyncio.sleep(0.05)

    assert [type(error) for error in errors] == [WorkersMissing] * 4
    assert "python -m workers" in str(errors[0])
    assert [one.key for one in listed] == [key]


async def test_a_short_outage_of_temporal_loses_no_answer(
    relay: TcpRelay, client: Client, seal: Seal, key: str, request_: SessionRequest
) -> None:
    sessions = await AvatarSessions.connect(
        target_host=f"127.0.0.1:{relay.port}",
        namespace=client.namespace,
        settings=ClientSettings(),
        seal_keys=[],
    )
    session = await sessions.start(key, request_)
    speech = asyncio.create_task(session.speak(Clip(file="long.wav")), name="speech")
    async with asyncio.timeout(10):
        while (await session.status()).speaking is None:
            await asyncio.sleep(0.02)

    with relay.refusing():
        await asyncio.sleep(1.0)
    await AvatarSessions(client, seal).get(key).interrupt()

    assert (await speech).outcome is UtteranceOutcome.INTERRUPTED
    assert (await session.end()).totals.count == 1


@pytest.mark.parametrize("keys", ["short", "a,b"])
async def test_an_unusable_seal_key_is_named_and_not_quoted(keys: str) -> None:
    settings = ClientSettings(seal_keys=keys)  # as the environment has it

    with pytest.raises(SealKeysUnusable, match="AVATAR_SESSIONS_SEAL_KEYS") as error:
        await AvatarSessions.connect(settings=settings)

    assert not [key for key in keys.split(",") if f" {key} " in str(error.value)]


@pytest.mark.parametrize("key", ["", " ", "-x", "a b", "x" * 201, "a'b"])
async def test_an_unusable_session_key_is_refused_before_any_call(
    client: Client, key: str, request_: SessionRequest
) -> None:
    sessions = AvatarSessions(client)

    for ask in (partial(sessions.start, key, request_), partial(sessions.open, key, request_)):
        with pytest.raises(ValueError, match="session key"):
            await ask()
    with pytest.raises(ValueError, match="session key"):
        sessions.get(key)
