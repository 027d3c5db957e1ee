"""A viewer that measures: joins a LiveKit room and counts what arrives.

Counts decoded video frames and audible sound. Shows and stores nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from livekit import rtc

from deploy.local.errors import LocalError

JOIN_TIMEOUT_S = 10.0
LEAVE_TIMEOUT_S = 3.0
# -50 dBFS: above the noise that an Opus codec makes of silence, far below quiet speech.
AUDIBLE_RMS = 100.0


class JoinFailed(LocalError):
    """The room could not be joined."""


@dataclass(slots=True)
class Received:
    """What has arrived so far."""

    video_frames: int = 0
    audio_ms: float = 0.0
    """Audible sound only: silence is sent all the time."""
    last_audible_at: float | None = None
    """On the monotonic clock."""


class Subscriber:
    """A participant that only subscribes. Use as an async context manager."""

    def __init__(self, livekit_url: str, token: str) -> None:
        self.received = Received()
        self._url = livekit_url
        self._token = token
        self._room = rtc.Room()
        self._tasks: set[asyncio.Task[None]] = set()
        self._audible = asyncio.Event()
        self._seen = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._room.on("track_subscribed", self._on_track)
        try:
            async with asyncio.timeout(JOIN_TIMEOUT_S):
                await self._room.connect(self._url, self._token)
        except (rtc.ConnectError, TimeoutError) as error:
            raise JoinFailed(
                f"the room at {self._url} could not be joined ({type(error).__name__})"
            ) from None  # the original's text may hold the token
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                await self._room.disconnect()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def until_seen(self, within_s: float) -> bool:
        """Wait for the first video frame; False if none came in time."""
        return await _within(within_s, self._seen.wait())

    async def until_audible(self, within_s: float) -> float | None:
        """Wait for sound from now on; the monotonic time of its arrival, or None if none came."""
        self._audible.clear()
        heard = await _within(within_s, self._audible.wait())
        return self.received.last_audible_at if heard else None

    def _on_track(
        self,
        track: rtc.Track,
        publication: rtc.RemoteTrackPublication,
        participant: rtc.RemoteParticipant,
    ) -> None:
        name = f"measure {participant.identity}'s {publication.name or publication.sid}"
        work = self._look if track.kind == rtc.TrackKind.KIND_VIDEO else self._listen
        task = asyncio.create_task(work(track), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look(self, track: rtc.Track) -> None:
        stream = rtc.VideoStream(track, capacity=25)
        try:
            async for _ in stream:
                self.received.video_frames += 1
                self._seen.set()
        finally:
            await stream.aclose()

    async def _listen(self, track: rtc.Track) -> None:
        stream = rtc.AudioStream(track, capacity=100)
        try:
            async for event in stream:
                self._measure(event.frame)
        finally:
            await stream.aclose()

    def _measure(self, frame: rtc.AudioFrame) -> None:
        samples = np.frombuffer(frame.data, dtype=np.int16).astype(np.float32)
        if samples.size and float(np.sqrt(np.mean(samples**2))) >= AUDIBLE_RMS:
            self.received.audio_ms += 1000 * frame.samples_per_channel / frame.sample_rate
            self.received.last_audible_at = time.monotonic()
            self._audible.set()


async def _within(seconds: float, waiting: Coroutine[Any, Any, object]) -> bool:
    try:
        await asyncio.wait_for(waiting, seconds)
    except TimeoutError:
        return False
    return True
