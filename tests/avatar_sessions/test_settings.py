"""The client's settings, and how a misspelt variable is noticed."""

from __future__ import annotations

import logging

import pytest

from avatar_sessions import AvatarSessions, InvalidArgument, TemporalUnreachable
from avatar_sessions.settings import (
    ENV_PREFIX,
    VARIABLES,
    ClientSettings,
    read_settings,
    unknown_variables,
)
from deploy.local.ports import free_port
from deploy.local.settings import LocalSettings
from liveavatar_simulator import SimulatorSettings
from workers.settings import WorkerSettings


@pytest.mark.parametrize(
    "model", [ClientSettings, WorkerSettings, SimulatorSettings, LocalSettings]
)
def test_every_setting_has_a_description(model: type[ClientSettings]) -> None:
    """The settings reference is generated from these."""
    assert [name for name, field in model.model_fields.items() if not field.description] == []


def test_the_variables_that_are_known_are_those_of_clients_and_workers() -> None:
    workers = {field.alias for field in WorkerSettings.model_fields.values()}
    clients = {f"{ENV_PREFIX}{name.upper()}" for name in ClientSettings.model_fields}

    ours = {name for name in workers | clients if name and name.startswith(ENV_PREFIX)}
    assert ours == VARIABLES


@pytest.mark.parametrize(
    ("misspelt", "nearest"),
    [
        ("AVATAR_SESSIONS_SEAL_KEY", "AVATAR_SESSIONS_SEAL_KEYS"),
        ("AVATAR_SESSIONS_LOGLEVEL", "AVATAR_SESSIONS_LOG_LEVEL"),
        ("AVATAR_SESSIONS_MAX_SESSION", "AVATAR_SESSIONS_MAX_SESSIONS"),
        ("AVATAR_SESSIONS_JANITOR_OWN_KEY", "AVATAR_SESSIONS_JANITOR_OWNS_KEY"),
    ],
)
def test_a_misspelt_variable_is_named_with_the_nearest_known_one(
    misspelt: str, nearest: str
) -> None:
    """AVATAR_SESSIONS_SEAL_KEY was ignored without a word, and `attach` said that no key is set."""
    assert unknown_variables([misspelt]) == [
        f"{misspelt} is set and is not a setting: did you mean {nearest}?"
    ]


def test_a_variable_that_resembles_no_setting_is_named_alone() -> None:
    sentences = unknown_variables(["AVATAR_SESSIONS_QQ", "PATH", "TEMPORAL_ADDRESS", *VARIABLES])

    assert sentences == ["AVATAR_SESSIONS_QQ is set and is not a setting"]


async def test_connecting_logs_a_misspelt_variable(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AVATAR_SESSIONS_TASK_QUEU", "elsewhere")

    with caplog.at_level(logging.WARNING), pytest.raises(TemporalUnreachable):
        await AvatarSessions.connect(target_host=f"127.0.0.1:{free_port()}")

    assert "did you mean AVATAR_SESSIONS_TASK_QUEUE?" in caplog.text


def test_an_unusable_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVATAR_SESSIONS_TASK_QUEUE", "")

    with pytest.raises(InvalidArgument, match="AVATAR_SESSIONS_TASK_QUEUE"):
        read_settings()
