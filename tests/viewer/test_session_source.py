"""What a viewer sees and hears while a session moves from one generation to the next.

The whole product: Temporal, LiveKit, workers, viewer server, Chromium, and a LiveAvatar whose
sessions last 24 seconds, or are lost. Screenshots are kept beside the logs of the run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import BrowserContext

from avatar_sessions import AvatarSessions, OwnRoom, Session
from avatar_sessions.seal import Seal
from deploy.local.livekit import LiveKitServer
from deploy.local.temporal import TemporalServer
from liveavatar_lite import SessionEndReason
from liveavatar_simulator import LiveAvatarSimulator
from tests.support.platforms.in_process import (
    API_KEY,
    new_key,
    running_workers,
    simulator_settings,
    wayne,
)
from tests.support.platforms.product import worker_settings
from tests.support.secret_scan import remember
from tests.support.speech.pcm import speak_live
from tests.support.viewer_page import identities, level_passes, open_page, room_api, shows
from viewer import SessionViewerSource, ViewerServer

LIMIT_S = 24
MAX_SILENCE_MS = 8000

# Records what the page shows, frame by frame, and whether the avatar is audible.
RECORD = """() => {
  const byId = (id) => document.getElementById(id);
  const context = new OffscreenCanvas(8, 4).getContext('2d', { willReadFrequently: true });
  const isLit = () => {
    const kept = byId('last').style.visibility !== 'hidden';
    context.clearRect(0, 0, 8, 4);
    context.drawImage(byId(kept ? 'last' : 'avatar'), 0, 0, 8, 4);
    return context.getImageData(0, 0, 8, 4).data.some((one, i) => i % 4 < 3 && one > 40);
  };
  window.shown = [];
  const look = () => {
    const covered = document.body.dataset.covered === 'true';
    const now = {
      seen: covered ? 'a card' : isLit() ? 'a picture' : 'black',
      heard: Number(byId('meter').ariaValueNow) > -46,
      said: byId('state').textContent,
    };
    const before = window.shown.at(-1);
    if (before === undefined || Object.keys(now).some((key) => now[key] !== before[key])) {
      window.shown.push({ ...now, at_ms: performance.now() });
    }
    requestAnimationFrame(look);
  };
  look();
}"""


@dataclass
class RotatingSessions:
    """The simulator, and a client of the sessions."""

    simulator: LiveAvatarSimulator
    sessions: AvatarSessions


@contextlib.asynccontextmanager
async def rotating_sessions(
    temporal: TemporalServer, livekit: LiveKitServer, limit_s: int
) -> AsyncIterator[RotatingSessions]:
    """Workers, and a simulator whose sessions last `limit_s` at most."""
    client = await temporal.new_namespace()
    key = Seal.new_key()
    remember(key.get_secret_value(), "a seal key")
    remember(API_KEY, "the API key")
    settings = simulator_settings(livekit, plan_max_duration_s=limit_s)
    async with (
        LiveAvatarSimulator(settings) as simulator,
        running_workers(client, worker_settings(simulator, livekit, key)),
    ):
        yield RotatingSessions(simulator, AvatarSessions(client, Seal([key])))


@contextlib.asynccontextmanager
async def talking(session: Session) -> AsyncIterator[None]:
    """Speak utterances of three seconds while the context is open."""

    async def talk() -> None:
        async with session.live() as live:
            while True:
                await speak_live(live, 3)

    task = asyncio.create_task(talk(), name="talk")
    try:
        yield
        assert not task.done(), "the session could not be spoken to"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def second_generation(session: Session) -> None:
    async with asyncio.timeout(2 * LIMIT_S):
        while (await session.status()).generation < 2:
            await asyncio.sleep(0.05)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["hosted", "own"])
@pytest.mark.parametrize("how", ["rotation", "loss"])
async def test_a_viewer_sees_and_hears_the_avatar_across_generations(
    temporal: TemporalServer,
    livekit: LiveKitServer,
    tab: BrowserContext,
    run_folder: Path,
    kind: str,
    how: str,
) -> None:
    """At LiveAvatar's time limit, and when LiveAvatar loses the session during an utterance."""
    limit_s = LIMIT_S if how == "rotation" else 1200
    async with rotating_sessions(temporal, livekit, limit_s) as its:
        sessions = its.sessions
        room = OwnRoom() if kind == "own" else None
        request = wayne(sandbox=False, max_duration_s=600, room=room)
        session = await sessions.start(new_key(), request)
        async with (
            ViewerServer(SessionViewerSource(sessions), port=0) as viewer,
            talking(session),
        ):
            page = await open_page(tab, viewer.invite(session.key))
            await shows(page, "Talking")
            await page.evaluate(RECORD)
            if how == "loss":
                lost = str(its.simulator.ledger().sessions[0].session_id)
                await its.simulator.end_session(lost, SessionEndReason.SERVER_ERROR)

            await second_generation(session)
            switched_ms: float = await page.evaluate("() => performance.now()")
            await page.screenshot(path=run_folder / f"{how}-{kind}-1-during.png")

            # Speech of the next generation: audible again after a silence.
            await page.wait_for_function(
                "(since) => window.shown.some((one) => one.at_ms > since && !one.heard)",
                arg=switched_ms,
            )
            await level_passes(page, -25)
            await shows(page, "Talking")
            await page.screenshot(path=run_folder / f"{how}-{kind}-2-after.png")
            shown: list[dict[str, Any]] = await page.evaluate("() => window.shown")
            await page.close()
            if kind == "own":
                await only_the_next_avatar(sessions, livekit, session)
        report = await session.end()

    assert {one["seen"] for one in shown} == {"a picture"}
    assert longest_silence_ms(shown) < MAX_SILENCE_MS
    assert len(report.generations) >= 2
    assert report.takeovers == 0
    if how == "rotation":
        assert report.gaps_ms == 0
        if kind == "own":
            assert "Reconnecting" not in {one["said"] for one in shown}


def longest_silence_ms(shown: list[dict[str, Any]]) -> float:
    """The longest time without audio, in a session that speaks all the time."""
    silences, silent_since = [0.0], None
    for one in shown:
        if one["heard"]:
            if silent_since is not None:
                silences.append(one["at_ms"] - silent_since)
            silent_since = None
        elif silent_since is None:
            silent_since = one["at_ms"]
    return max(silences)


async def only_the_next_avatar(
    sessions: AvatarSessions, livekit: LiveKitServer, session: Session
) -> None:
    """Wait until the old avatar has left the room on our own LiveKit."""
    room = (await session.attach("listener")).room
    assert room is not None
    async with (
        room_api(livekit) as rooms,
        asyncio.timeout(10),
    ):
        while "avatar" in await identities(rooms, room):
            await asyncio.sleep(0.1)
        assert "avatar-generation-2" in await identities(rooms, room)
