"""A stand-in for the avatar: publishes moving colours and a tone in a real LiveKit room."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import numpy as np
from livekit import api, rtc
from pydantic import SecretStr

from deploy.local.livekit import LiveKitServer

WIDTH: Final = 640
HEIGHT: Final = 360
FRAMES_PER_S: Final = 15
SAMPLE_RATE_HZ: Final = 24_000
TONE_HZ: Final = 440.0
CHUNK_MS: Final = 20


def viewer_token(
    livekit: LiveKitServer, room: str, identity: str = "viewer", *, may_speak: bool = False
) -> SecretStr:
    """A viewer's access: may join and listen, and publish a microphone if `may_speak`."""
    grants = api.VideoGrants(room_join=True, room=room, can_publish=may_speak, can_subscribe=True)
    return SecretStr(_token(livekit, identity, grants))


def _token(livekit: LiveKitServer, identity: str, grants: api.VideoGrants) -> str:
    token = api.AccessToken(livekit.api_key, livekit.api_secret)
    return (
        token.with_identity(identity).with_grants(grants).with_ttl(timedelta(minutes=10)).to_jwt()
    )


@dataclass
class StandInAvatar:
    """A stand-in avatar, controlled by the test."""

    room: rtc.Room
    loudness: float = 0.0
    """Amplitude of the tone, 0 to 1; 0 is silence."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def avatar_in(
    livekit: LiveKitServer, room_name: str, identity: str = "heygen", *, mirrored: bool = False
) -> AsyncIterator[StandInAvatar]:
    """An avatar in the room while the context is open; `mirrored` tells two apart."""
    grants = api.VideoGrants(room_join=True, room=room_name)
    room = rtc.Room()
    await room.connect(livekit.url, _token(livekit, identity, grants))
    avatar = StandInAvatar(room)
    video = rtc.VideoSource(WIDTH, HEIGHT)
    audio = rtc.AudioSource(SAMPLE_RATE_HZ, 1, queue_size_ms=200)
    try:
        await room.local_participant.publish_track(
            rtc.LocalVideoTrack.create_video_track("video", video),
            rtc.TrackPublishOptions(
                source=rtc.TrackSource.SOURCE_CAMERA,
                simulcast=False,
                video_codec=rtc.VideoCodec.VP8,
            ),
        )
        await room.local_participant.publish_track(
            rtc.LocalAudioTrack.create_audio_track("audio", audio),
            rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE),
        )
        avatar.tasks = [
            asyncio.create_task(_show(video, mirrored=mirrored), name="avatar-video"),
            asyncio.create_task(_sound(avatar, audio), name="avatar-audio"),
        ]
        yield avatar
    finally:
        for task in avatar.tasks:
            task.cancel()
        await asyncio.gather(*avatar.tasks, return_exceptions=True)
        await audio.aclose()
        await video.aclose()
        await room.disconnect()


async def _show(source: rtc.VideoSource, *, mirrored: bool) -> None:
    """Colours that change from frame to frame: red grows while blue shrinks.

    Green grows from left to right, or from right to left.
    """
    number = 0
    frame = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    green = np.linspace(0, 255, WIDTH, dtype=np.uint8)
    frame[..., 1] = green[::-1] if mirrored else green
    frame[..., 3] = 255
    while True:
        number += 1
        frame[..., 0] = (number * 12) % 256
        frame[..., 2] = 255 - (number * 12) % 256
        source.capture_frame(
            rtc.VideoFrame(WIDTH, HEIGHT, rtc.VideoBufferType.RGBA, frame.tobytes())
        )
        await asyncio.sleep(1 / FRAMES_PER_S)


async def _sound(avatar: StandInAvatar, source: rtc.AudioSource) -> None:
    """A tone as loud as the test wants it; capture_frame waits, so this keeps real time."""
    count = SAMPLE_RATE_HZ * CHUNK_MS // 1000
    first = 0
    while True:
        phase = (np.arange(first, first + count) / SAMPLE_RATE_HZ) * 2 * np.pi * TONE_HZ
        samples = (np.sin(phase) * avatar.loudness * 32_767).astype(np.int16)
        await source.capture_frame(rtc.AudioFrame(samples.tobytes(), SAMPLE_RATE_HZ, 1, count))
        first += count
