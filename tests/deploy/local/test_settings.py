"""Settings reach a child process through its environment, and nothing else does."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from avatar_sessions.seal import Seal
from deploy.local.livekit import LiveKitServer
from deploy.local.settings import settings_environment
from deploy.local.simulator import LiveAvatarEndpoint, simulator_settings
from deploy.local.worker import worker_settings
from liveavatar_simulator import SimulatorSettings
from liveavatar_simulator.settings import AtLimit
from workers.settings import WorkerSettings

LIVEKIT = LiveKitServer("ws://127.0.0.1:7880", "fake-key", "obviously-fake-livekit-secret")


def test_a_simulator_reads_the_settings_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = simulator_settings(
        port=8090,
        media_port=8091,
        join_rooms=False,
        api_keys=["fake-key-1", "fake-key-2"],
        at_limit=AtLimit.CLOSE,
        start_delay_s=0,
        livekit_url=LIVEKIT.url,
        livekit_api_secret=LIVEKIT.api_secret,
    )

    for name, text in settings_environment(settings).items():
        monkeypatch.setenv(name, text)

    assert SimulatorSettings().model_dump() == settings.model_dump()


def test_a_worker_reads_the_settings_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    service = LiveAvatarEndpoint("http://127.0.0.1:8090", SecretStr("fake-key"))
    settings = worker_settings(
        service,
        LIVEKIT,
        Seal.new_key(),
        AVATAR_SESSIONS_JANITOR_DRY_RUN=True,
        AVATAR_SESSIONS_MAX_LEAD_S=1.5,
        AVATAR_SESSIONS_INGRESS_ORIGINS="https://a.example,https://b.example",
    )

    for name, text in settings_environment(settings).items():
        monkeypatch.setenv(name, text)

    assert WorkerSettings().model_dump() == settings.model_dump()


def test_settings_of_the_stack_ignore_the_parents_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SIMULATOR_FPS", "SIMULATOR_PORT", "LIVEKIT_URL", "AVATAR_SESSIONS_MAX_SESSIONS"):
        monkeypatch.setenv(name, "garbage")
    service = LiveAvatarEndpoint("http://127.0.0.1:8090", SecretStr("fake-key"))

    assert simulator_settings().fps == SimulatorSettings.model_fields["fps"].default
    assert worker_settings(service, None, Seal.new_key()).livekit_url is None
