"""The programs of README and docs/guide/ run as printed, against the real stack."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from temporalio.client import Client

from avatar_sessions import AvatarSessions, Seal, SessionRequest
from avatar_sessions.contract.states import UtteranceOutcome
from deploy.local.settings import ROOT
from liveavatar_lite import WAYNE_AVATAR_ID
from tests.support.markdown import blocks_run_as
from workers.settings import WorkerSettings

LIVE_SPEECH = (ROOT / "docs" / "guide" / "live-speech.md").read_text(encoding="utf-8")


def names_of(program: str, page: str) -> dict[str, Any]:
    """What a program of a page defines."""
    scope: dict[str, Any] = {"__name__": "page"}
    exec(compile(program, page, "exec"), scope)  # noqa: S102 - this project's own page
    return scope


async def tts() -> AsyncIterator[bytes]:
    """Half a second of speech, in pieces of 100 ms."""
    for _ in range(5):
        yield bytes(4_800)


def wayne() -> SessionRequest:
    return SessionRequest(avatar_id=WAYNE_AVATAR_ID, sandbox=True)


@pytest.fixture
def connects_here(client: Client, seal: Seal, monkeypatch: pytest.MonkeyPatch) -> None:
    """`AvatarSessions.connect()` reaches this test's namespace, as it would by the environment."""

    async def connect() -> AvatarSessions:
        return AvatarSessions(client, seal)

    monkeypatch.setattr(AvatarSessions, "connect", connect)


@pytest.mark.usefixtures("connects_here")
async def test_the_first_program_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [program] = blocks_run_as("readme-client")
    await names_of(program, "README.md")["main"]()
    assert "completed" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["readme-speech", "live-speech"])
async def test_live_speech_is_heard(name: str, sessions: AvatarSessions) -> None:
    [program] = blocks_run_as(name)
    session = await sessions.start(f"docs-{name}", wayne())

    heard = await names_of(program, name)["say"](session, tts())

    assert (heard.outcome, heard.heard_ms) == (UtteranceOutcome.COMPLETED, 500)
    await session.end()


@pytest.mark.usefixtures("connects_here")
async def test_the_backend_starts_speaks_and_ends() -> None:
    [program] = blocks_run_as("backend")
    app = names_of(program, "docs/guide/backend.md")["app"]
    lines = [line for line in program.splitlines() if line.strip()]
    assert len(lines) <= 60

    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=app), base_url="http://backend", timeout=50
        ) as browser,
    ):
        access = (await browser.post("/avatar/ada")).json()
        spoken = (await browser.post("/avatar/ada/say", params={"file": "hello.flac"})).json()
        ended = (await browser.delete("/avatar/ada")).json()
        again = await browser.post("/avatar/ada/say", params={"file": "hello.flac"})

    assert set(access) == {"url", "token"}
    assert spoken == {"outcome": "completed", "heard_ms": 200}
    assert ended["reason"] == "requested"
    assert (again.status_code, again.json()["error"]) == (502, "SessionOver")


async def test_access_and_generation_belong_together(sessions: AvatarSessions) -> None:
    [program] = blocks_run_as("own-page")
    session = await sessions.start("docs-own-page", wayne())

    access, generation = await names_of(program, "own-page")["access_and_generation"](session)

    assert (access.session_key, generation) == ("docs-own-page", 1)
    await session.end()


async def test_the_viewer_serves_a_source_of_your_own(capsys: pytest.CaptureFixture[str]) -> None:
    [program] = blocks_run_as("viewer")
    await names_of(program, "docs/guide/viewer.md")["serve"]()
    assert re.match(r"http://127\.0\.0\.1:\d+/watch/\S+#\S+", capsys.readouterr().out)


def test_every_setting_of_the_ingress_has_its_default() -> None:
    table = re.findall(r"^\| (`AVATAR_SESSIONS_[^|]+) \| ([^|]+) \|", LIVE_SPEECH, re.M)
    shown = {name: default for names, default in table for name in re.findall(r"`(\w+)`", names)}
    fields = {str(field.alias): field for field in WorkerSettings.model_fields.values()}
    for name in fields:
        if "_INGRESS_" in name and not name.endswith("_PRIVATE_KEY"):
            assert name in shown, name
    for name, default in shown.items():
        if default.startswith("`") and name in fields:
            assert str(fields[name].default).lower().removesuffix(".0") == (
                default.strip("`").lower().removesuffix(".0")
            ), name
