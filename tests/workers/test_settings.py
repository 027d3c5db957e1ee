"""A worker that cannot work says so at its start, and names the variable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from avatar_sessions.seal import Seal
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
    ],
)
def test_what_is_wrong_is_named_and_never_quoted(
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


def test_the_process_ends_with_one_sentence_and_no_traceback() -> None:
    environment = {
        name: value for name, value in os.environ.items() if name != "LIVEAVATAR_API_KEY"
    }
    ended = subprocess.run(
        [sys.executable, "-m", "workers"],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert ended.returncode == 2
    assert "LIVEAVATAR_API_KEY is not set" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_absent_temporal_is_told_with_its_address() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "workers"],
        env={**os.environ, "TEMPORAL_ADDRESS": "127.0.0.1:9"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert ended.returncode == 1
    assert "Temporal at 127.0.0.1:9 cannot be reached" in ended.stderr
    assert "Traceback" not in ended.stderr
