"""The worker's settings: what is accepted, and how an unusable variable is named at the start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from avatar_sessions.seal import Seal
from avatar_sessions.settings import ClientSettings
from deploy.local.settings import ROOT
from workers.settings import InvalidSettings, read_settings

GOOD = {
    "LIVEAVATAR_API_KEY": "obviously-fake-key",
    "AVATAR_SESSIONS_SEAL_KEYS": Seal.new_key().get_secret_value(),
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("LIVEAVATAR_", "LIVEKIT_", "AVATAR_SESSIONS_", "TEMPORAL_")):
            monkeypatch.delenv(name)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


def test_two_variables_suffice() -> None:
    settings = read_settings()
    assert settings.max_sessions == 100
    assert settings.livekit_url is None
    assert (settings.janitor_interval_s, settings.janitor_grace_s) == (30, 60)
    assert not settings.janitor_owns_key
    assert not settings.janitor_dry_run


def test_several_seal_keys_are_read_newest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = Seal.new_key(), Seal.new_key()
    monkeypatch.setenv(
        "AVATAR_SESSIONS_SEAL_KEYS", f"{new.get_secret_value()}, {old.get_secret_value()}"
    )
    sealed_before = Seal([old]).seal("fake")
    assert Seal(read_settings().seal_keys).open(sealed_before).get_secret_value() == "fake"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIVEAVATAR_API_KEY", None),
        ("LIVEAVATAR_API_KEY", " "),
        ("LIVEAVATAR_API_URL", "api.example.org"),
        ("AVATAR_SESSIONS_SEAL_KEYS", None),
        ("AVATAR_SESSIONS_SEAL_KEYS", "secret-but-no-key"),
        ("AVATAR_SESSIONS_CLIP_FOLDER", "no/such/folder"),
        ("AVATAR_SESSIONS_MAX_SESSIONS", "many"),
        ("AVATAR_SESSIONS_MAX_LEAD_S", "0"),
        ("AVATAR_SESSIONS_JANITOR_INTERVAL_S", "0"),
        ("AVATAR_SESSIONS_JANITOR_INTERVAL_S", "0.5"),
        ("AVATAR_SESSIONS_JANITOR_GRACE_S", "0"),
        ("AVATAR_SESSIONS_JANITOR_OWNS_KEY", "perhaps"),
        ("AVATAR_SESSIONS_JANITOR_DRY_RUN", "perhaps"),
        ("LIVEKIT_URL", "ws://127.0.0.1:7880"),  # without key and secret
        ("LIVEKIT_URL", "127.0.0.1:7880"),
        ("AVATAR_SESSIONS_TASK_QUEUE", ""),
        ("AVATAR_SESSIONS_LOG_LEVEL", "loud"),
    ],
)
def test_an_unusable_variable_is_named_and_never_quoted(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidSettings) as caught:
        read_settings()
    assert name.split("_")[0] in str(caught.value)
    assert name in str(caught.value) or "LIVEKIT_API_KEY" in str(caught.value)
    assert "secret-but-no-key" not in str(caught.value)


@pytest.mark.parametrize("level", ["debug", "Info", "WARNING"])
def test_log_levels_are_accepted_in_any_case(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    """`AVATAR_SESSIONS_LOG_LEVEL=info`, as most programs take it, kept the worker from starting."""
    monkeypatch.setenv("AVATAR_SESSIONS_LOG_LEVEL", level)

    assert read_settings().log_level == level.upper()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_tls_on_all_interfaces_needs_an_address_that_the_certificate_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str
) -> None:
    for name in ("certificate", "private_key"):
        (tmp_path / name).touch()
        monkeypatch.setenv(f"AVATAR_SESSIONS_INGRESS_{name.upper()}", str(tmp_path / name))
    monkeypatch.setenv("AVATAR_SESSIONS_INGRESS_HOST", host)

    with pytest.raises(InvalidSettings, match="AVATAR_SESSIONS_INGRESS_URL"):
        read_settings()

    monkeypatch.setenv("AVATAR_SESSIONS_INGRESS_URL", "wss://owner-3.example")
    assert read_settings().ingress_host == host


def test_the_task_queue_is_the_same_variable_as_the_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The variable existed for clients only: a client that set it found no workers."""
    assert read_settings().task_queue == ClientSettings().task_queue == "avatar-sessions"

    monkeypatch.setenv("AVATAR_SESSIONS_TASK_QUEUE", "avatars-staging")

    assert read_settings().task_queue == ClientSettings().task_queue == "avatars-staging"


def test_a_misspelt_variable_is_logged_with_the_nearest_known_one() -> None:
    """A warning and no error: during a deploy, older workers meet newer variables."""
    ended = subprocess.run(
        [sys.executable, "-m", "workers"],
        env={
            **os.environ,
            "TEMPORAL_ADDRESS": "127.0.0.1:9",
            "AVATAR_SESSIONS_MAX_SESSION": "7",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )

    assert "did you mean AVATAR_SESSIONS_MAX_SESSIONS?" in ended.stderr
    assert "Temporal at 127.0.0.1:9 cannot be reached" in ended.stderr


@pytest.mark.slow
def test_the_process_ends_with_one_sentence_and_no_traceback() -> None:
    environment = {
        name: value for name, value in os.environ.items() if name != "LIVEAVATAR_API_KEY"
    }
    ended = subprocess.run(
        [sys.executable, "-m", "workers"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ended.returncode == 2
    assert "LIVEAVATAR_API_KEY is not set" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_a_temporal_server_that_cannot_be_reached_is_named_with_its_address() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "workers"],
        env={**os.environ, "TEMPORAL_ADDRESS": "127.0.0.1:9"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert ended.returncode == 1
    assert "Temporal at 127.0.0.1:9 cannot be reached" in ended.stderr
    assert "Traceback" not in ended.stderr
