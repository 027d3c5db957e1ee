"""A simulator without delays and without rooms, and clients for it. Nothing here needs LiveKit."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from pydantic import SecretStr

from liveavatar_lite.audio import SAMPLE_RATE_HZ
from liveavatar_lite.connection import LiteConnection
from liveavatar_lite.models import WAYNE_AVATAR_ID
from liveavatar_lite.protocol import Event
from liveavatar_simulator import (
    AudioRecording,
    LiveAvatarSimulator,
    SessionLine,
    SimulatorSettings,
)

API_KEY = "not-a-real-key"
OTHER_AVATAR_ID = "11111111-1111-4111-8111-111111111111"
WITHOUT_DELAYS: dict[str, Any] = {
    "port": 0,
    "media_port": 0,
    "join_rooms": False,
    "livekit_api_secret": SecretStr("obviously-not-a-real-secret-0123456789"),
    "api_keys": (SecretStr(API_KEY),),
    "start_delay_s": 0.0,
    "connect_delay_s": 0.0,
    "speak_start_latency_s": 0.0,
    "interrupt_delay_s": 0.0,
    "max_video_height": 180,
}
AUDIBLE_SAMPLE = 300
"""Above what any 10 ms of a tone reach; silence is exactly 0."""


@dataclass(frozen=True, slots=True)
class SimulatorCaller:
    """Calls the REST API as a backend with an API key does."""

    simulator: LiveAvatarSimulator
    http: httpx.AsyncClient

    async def mint(self, **fields: object) -> httpx.Response:
        """``/token``, by default for Wayne."""
        body = {"mode": "LITE", "avatar_id": WAYNE_AVATAR_ID, **fields}
        return await self.http.post("/v1/sessions/token", json=body)

    async def start(self, minted: httpx.Response) -> httpx.Response:
        """``/start`` with the token of a reply to `mint`."""
        token = minted.json()["data"]["session_token"]
        bearer = {"Authorization": f"Bearer {token}", "X-API-KEY": ""}
        return await self.http.post("/v1/sessions/start", headers=bearer)

    async def started(self, **fields: object) -> dict[str, Any]:
        """Mint and start a session; the data of the reply."""
        reply = await self.start(await self.mint(**fields))
        assert reply.status_code == 201, reply.text
        data: dict[str, Any] = reply.json()["data"]
        return data

    async def stop(self, session_id: str, **fields: object) -> httpx.Response:
        """``/stop`` with the API key."""
        body = {"session_id": session_id, **fields}
        return await self.http.post("/v1/sessions/stop", json=body)

    def line(self, session_id: str) -> SessionLine:
        """The session in the ledger."""
        return self.simulator.sessions[session_id].line()


Simulate = Callable[..., Coroutine[Any, Any, SimulatorCaller]]


@pytest_asyncio.fixture
async def simulate() -> AsyncIterator[Simulate]:
    """Starts simulators with the given settings; all of them end with the test."""
    open_: list[SimulatorCaller] = []

    async def make(**overrides: object) -> SimulatorCaller:
        settings = SimulatorSettings.model_validate(WITHOUT_DELAYS | overrides)
        simulator = await LiveAvatarSimulator(settings).__aenter__()
        http = httpx.AsyncClient(
            base_url=simulator.url, headers={"X-API-KEY": API_KEY}, trust_env=False, timeout=10
        )
        open_.append(SimulatorCaller(simulator, http))
        return open_[-1]

    yield make
    for caller in open_:
        await caller.http.aclose()
        await caller.simulator.__aexit__(None, None, None)


@pytest_asyncio.fixture
async def caller(simulate: Simulate) -> SimulatorCaller:
    """A caller of a simulator without delays and without rooms."""
    return await simulate()


async def connected(started: dict[str, Any]) -> LiteConnection:
    """The media connection of a started session."""
    return await LiteConnection.open(SecretStr(started["ws_url"]))


async def next_event(connection: LiteConnection, kind: type[Any], *, within_s: float = 5.0) -> Any:
    """The next event of this type; earlier ones are skipped."""
    async with asyncio.timeout(within_s):
        async for event in connection.events():
            if isinstance(event, kind):
                return event
    pytest.fail(f"the connection ended before any {kind.__name__}")


async def events_until(
    connection: LiteConnection, last: Callable[[Event], bool], *, within_s: float = 8.0
) -> list[Event]:
    """All events up to the first for which ``last`` is true."""
    seen: list[Event] = []
    async with asyncio.timeout(within_s):
        async for event in connection.events():
            seen.append(event)
            if last(event):
                return seen
    pytest.fail(f"the connection ended first; seen: {seen}")


def tone(seconds: float, *, loudness: float = 0.3, hertz: float = 330.0) -> bytes:
    """PCM of a tone."""
    at_s = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    wave = np.sin(2 * np.pi * hertz * at_s) * loudness * 32767
    return wave.astype("<i2").tobytes()


def speak_frame(pcm: bytes, event_id: str) -> str:
    """The frame of an ``agent.speak`` command."""
    audio = base64.b64encode(pcm).decode()
    return json.dumps({"type": "agent.speak", "event_id": event_id, "audio": audio})


def sounds(recording: AudioRecording) -> list[tuple[float, float]]:
    """Begin and end of every sound, in seconds since the recording's begin, to 10 ms."""
    blocks = np.frombuffer(recording.pcm, "<i2").reshape(-1, 240)
    loud = np.concatenate([[False], np.abs(blocks).max(axis=1) > AUDIBLE_SAMPLE, [False]])
    edges = np.flatnonzero(np.diff(loud.astype(np.int8)))
    return [(float(a) / 100, float(b) / 100) for a, b in edges.reshape(-1, 2)]
