"""A person in a session's room: publishes a microphone, and records the avatar's speech."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import numpy as np
import numpy.typing as npt
from livekit import rtc

from avatar_sessions import Session
from examples.voice.endpointing import Pcm, loudness_dbfs

RATE_HZ: Final = 48_000
PIECE_MS: Final = 20
AVATAR: Final = "avatar"
ENVELOPE_MS: Final = 20


class Person:
    """One person in one room. Made by `person_in`."""

    def __init__(self, room: rtc.Room, microphone: rtc.AudioSource) -> None:
        self._room = room
        self._microphone = microphone
        self._pieces: list[Pcm] = []
        self._to_say = np.zeros(0, np.int16)
        self.tasks: list[asyncio.Task[None]] = []

    @property
    def heard(self) -> Pcm:
        """The avatar's audio so far, silence included; mono, `RATE_HZ`."""
        return np.concatenate([np.zeros(0, np.int16), *self._pieces])

    @property
    def hears_now(self) -> bool:
        """Whether the avatar is audible now."""
        recent = self._pieces[-5:]
        return bool(recent) and loudness_dbfs(np.concatenate(recent)) > -45

    @property
    def unsaid_s(self) -> float:
        """Seconds of speech still to be published."""
        return len(self._to_say) / RATE_HZ

    def say(self, sound: Pcm) -> None:
        """Publish this speech in real time, from now on."""
        self._to_say = np.concatenate([self._to_say, sound])

    async def use_microphone(self) -> None:
        """Publish speech, and silence between it, as a microphone does."""
        count = RATE_HZ * PIECE_MS // 1000
        while True:
            piece, self._to_say = self._to_say[:count], self._to_say[count:]
            piece = np.pad(piece, (0, count - len(piece)))
            await self._microphone.capture_frame(rtc.AudioFrame(piece.tobytes(), RATE_HZ, 1, count))

    async def switch_off(self) -> None:
        """Unpublish the microphone."""
        for publication in list(self._room.local_participant.track_publications.values()):
            await self._room.local_participant.unpublish_track(publication.sid)

    def on_track(
        self,
        track: rtc.Track,
        _: rtc.RemoteTrackPublication,
        who: rtc.RemoteParticipant,
    ) -> None:
        """Record the avatar's audio track."""
        if track.kind == rtc.TrackKind.KIND_AUDIO and who.identity == AVATAR:
            self.tasks.append(asyncio.create_task(self._listen(track), name="hear the avatar"))

    async def _listen(self, track: rtc.Track) -> None:
        stream = rtc.AudioStream(track, capacity=100, sample_rate=RATE_HZ, frame_size_ms=PIECE_MS)
        try:
            async for event in stream:
                self._pieces.append(np.frombuffer(event.frame.data, np.int16).copy())
        finally:
            await stream.aclose()


@contextlib.asynccontextmanager
async def person_in(session: Session, identity: str = "ada") -> AsyncIterator[Person]:
    """A person in the session's room while the context is open."""
    access = await session.attach(identity)
    room = rtc.Room()
    microphone = rtc.AudioSource(RATE_HZ, 1, queue_size_ms=100)
    person = Person(room, microphone)
    room.on("track_subscribed", person.on_track)
    await room.connect(access.viewer.livekit_url, access.viewer.token)
    try:
        await room.local_participant.publish_track(
            rtc.LocalAudioTrack.create_audio_track("microphone", microphone),
            rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE),
        )
        person.tasks.append(asyncio.create_task(person.use_microphone(), name="microphone"))
        yield person
    finally:
        for task in person.tasks:
            task.cancel()
        await asyncio.gather(*person.tasks, return_exceptions=True)
        await room.disconnect()
        await microphone.aclose()


def likeness(said: Pcm, heard: Pcm, rate_hz: int = RATE_HZ) -> float:
    """How well the speech matches a part of the recording: 1 is identical, 0 not at all.

    The best correlation of the two loudness envelopes: codecs, automatic gain and noise suppression
    change the waveform, and hardly the envelope.
    """
    a, b = _envelope(said, rate_hz), _envelope(heard, rate_hz)
    if len(b) < len(a) or not a.any():
        return 0.0
    windows = np.lib.stride_tricks.sliding_window_view(b, len(a))
    windows = windows - windows.mean(axis=1, keepdims=True)
    a = a - a.mean()
    norms = np.linalg.norm(windows, axis=1) * np.linalg.norm(a) + 1e-9
    return float(((windows @ a) / norms).max())


def _envelope(sound: Pcm, rate_hz: int) -> npt.NDArray[np.float64]:
    size = rate_hz * ENVELOPE_MS // 1000
    whole = sound[: len(sound) // size * size].astype(np.float64).reshape(-1, size)
    loudness: npt.NDArray[np.float64] = np.sqrt((whole**2).mean(axis=1))
    return np.sqrt(loudness)
