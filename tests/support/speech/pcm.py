"""PCM to speak in tests, and a speaker that writes it as a text-to-speech engine does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np

from avatar_sessions import LiveSpeech, UtteranceReport

CHUNK_S = 0.1


def sine(seconds: float) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    """A tone of 220 Hz, 24 kHz mono."""
    t = np.arange(int(24_000 * seconds)) / 24_000
    return (0.3 * 32767 * np.sin(2 * np.pi * 220 * t)).astype(np.int16)


async def tts_chunks(seconds: float) -> AsyncIterator[np.ndarray[tuple[int], np.dtype[np.int16]]]:
    """Speech as an engine makes it: twice as fast as it is spoken."""
    sound = sine(seconds)
    step = int(24_000 * CHUNK_S)
    for at in range(0, len(sound), step):
        yield sound[at : at + step]
        await asyncio.sleep(CHUNK_S / 2)


async def speak_live(live: LiveSpeech, seconds: float) -> UtteranceReport:
    """Speak one utterance of that length to its end; its report."""
    async with live.utterance(text="a long story") as speech:
        async for pcm in tts_chunks(seconds):
            await speech.write(pcm)
    return await speech.result()


def tone(seconds: float) -> bytes:
    """The same as little-endian bytes."""
    t = np.arange(int(24_000 * seconds)) / 24_000
    return (0.3 * 32767 * np.sin(2 * np.pi * 220 * t)).astype("<i2").tobytes()
