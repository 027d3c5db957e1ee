"""The demo's measuring viewer counts the frames and the sound that are in the room."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from livekit import api, rtc

from demo.subscriber import JoinFailed, Subscriber
from deploy.local.livekit import LiveKitServer
from deploy.local.ports import free_port

RATE_HZ = 24_000
TONE_MS = 600


def token(livekit: LiveKitServer, identity: str, room: str) -> str:
    grants = api.VideoGrants(room_join=True, room=room)
    access = api.AccessToken(livekit.api_key, livekit.api_secret)
    return access.with_identity(identity).with_grants(grants).to_jwt()


def tone(duration_ms: int) -> rtc.AudioFrame:
    count = RATE_HZ * duration_ms // 1000
    samples = (8000 * np.sin(np.arange(count) * 2 * np.pi * 440 / RATE_HZ)).astype(np.int16)
    return rtc.AudioFrame(samples.tobytes(), RATE_HZ, 1, count)


@asynccontextmanager
async def published(livekit: LiveKitServer, room: str) -> AsyncIterator[rtc.AudioSource]:
    """A participant that shows one moving picture after another and is silent."""
    participant = rtc.Room()
    await participant.connect(livekit.url, token(livekit, "avatar", room))
    sound, picture = rtc.AudioSource(RATE_HZ, 1), rtc.VideoSource(64, 64)
    me = participant.local_participant
    await me.publish_track(rtc.LocalAudioTrack.create_audio_track("voice", sound))
    await me.publish_track(rtc.LocalVideoTrack.create_video_track("face", picture))

    async def show() -> None:
        shade = 0
        while True:
            shade = (shade + 8) % 256
            frame = rtc.VideoFrame(64, 64, rtc.VideoBufferType.RGBA, bytes([shade]) * 64 * 64 * 4)
            picture.capture_frame(frame)
            await asyncio.sleep(0.04)

    showing = asyncio.create_task(show(), name="show pictures")
    try:
        yield sound
    finally:
        showing.cancel()
        await asyncio.wait({showing})
        await participant.disconnect()
        await sound.aclose()
        await picture.aclose()


async def test_frames_and_audible_sound_are_counted(livekit: LiveKitServer) -> None:
    room = "subscriber-measures"
    async with (
        published(livekit, room) as sound,
        Subscriber(livekit.url, token(livekit, "meter", room)) as subscriber,
    ):
        assert await subscriber.until_seen(within_s=10)
        asked_at = time.monotonic()
        audible = asyncio.create_task(subscriber.until_audible(within_s=10))
        await sound.capture_frame(tone(TONE_MS))
        heard_at = await audible
        await sound.wait_for_playout()
        await asyncio.sleep(0.5)  # the end of it is still on its way
        received = subscriber.received

    assert heard_at is not None
    assert heard_at >= asked_at
    assert received.video_frames > 5
    assert received.audio_ms == pytest.approx(TONE_MS, abs=150)


async def test_silence_is_not_counted_as_sound(livekit: LiveKitServer) -> None:
    room = "subscriber-silence"
    async with (
        published(livekit, room),
        Subscriber(livekit.url, token(livekit, "meter", room)) as subscriber,
    ):
        assert await subscriber.until_seen(within_s=10)

        assert await subscriber.until_audible(within_s=0.5) is None
        assert subscriber.received.audio_ms == 0


async def test_the_error_of_a_room_that_cannot_be_joined_does_not_show_the_token() -> None:
    url, secret_token = f"ws://127.0.0.1:{free_port()}", "fake.token.of-a-viewer"

    with pytest.raises(JoinFailed) as caught:
        async with Subscriber(url, secret_token):
            pass

    assert secret_token not in str(caught.value)
    assert url in str(caught.value)
