"""Encoded clips of every format, a web server that sends them, and how they are read."""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass, field

import numpy as np
import pytest
import soundfile
from aiohttp import web
from numpy.typing import NDArray

from avatar_sessions.contract.messages import Clip
from liveavatar_lite import duration_s
from owner.clips.source import ClipReader, ClipSource

ID3V1 = b"TAG" + b"A title".ljust(125, b"\0")


def wave(rate_hz: int, seconds: float, channels: int = 1) -> NDArray[np.float32]:
    """440 Hz with some noise, so that no encoder makes it vanish."""
    t = np.arange(int(rate_hz * seconds)) / rate_hz
    noise = np.random.default_rng(7).standard_normal(len(t))
    tone = 0.5 * np.sin(2 * np.pi * 440 * t) + 0.02 * noise
    return np.stack([tone] * channels, axis=1).astype(np.float32)


def encoded(
    kind: str,
    subtype: str | None = None,
    rate_hz: int = 24_000,
    seconds: float = 3.0,
    channels: int = 1,
) -> bytes:
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", rate_hz, channels, format=kind, subtype=subtype) as sound:
        samples = wave(rate_hz, seconds, channels)
        for begin in range(0, len(samples), 4_800):  # Opus crashes on long blocks
            sound.write(samples[begin : begin + 4_800])
    return out.getvalue()


def streamed_wav(**kwargs: float) -> bytes:
    """A WAV as a pipe's other end writes it: it never learns the sizes."""
    whole = bytearray(encoded("WAV", **kwargs))  # type: ignore[arg-type]
    whole[4:8] = whole[40:44] = b"\xff\xff\xff\xff"
    return bytes(whole)


def streamed_flac() -> bytes:
    """A FLAC as a pipe's other end writes it: 0 samples stand for unknown."""
    whole = bytearray(encoded("FLAC"))
    whole[21] &= 0xF0
    whole[22:26] = bytes(4)
    return bytes(whole)


def uncounted_mp3(seconds: float = 3.0) -> bytes:
    """An MP3 of varying bit rate that begins loudly, without the frame that counts frames."""
    out = io.BytesIO()
    samples = wave(24_000, seconds)
    samples[len(samples) // 2 :] = 0
    with soundfile.SoundFile(
        out, "w", 24_000, 1, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5
    ) as sound:
        sound.write(samples)
    whole = out.getvalue()
    assert b"Xing" in whole[:256]
    return whole[whole.index(b"\xff\xf3", 4) :]


def with_id3(mp3: bytes, size: int) -> bytes:
    sevens = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\4\0\0" + sevens + bytes(size) + mp3


@dataclass
class Site:
    """A server that sends a body up to a position, and the rest when `go_on` is set."""

    url: str = ""
    body: bytes = b""
    sized: bool = True
    held_at: int | None = None
    cut_at: int | None = None
    coding: str = "identity"
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-encoding": self.coding})
        if self.sized:
            response.content_length = len(self.body)
        else:
            response.enable_chunked_encoding()
        await response.prepare(request)
        held = len(self.body) if self.held_at is None else self.held_at
        await response.write(self.body[: self.cut_at or held])
        if self.cut_at is not None:
            assert request.transport is not None
            request.transport.close()
            return response
        if self.held_at is not None:
            await self.go_on.wait()
        await response.write(self.body[held:])
        return response


async def rest(reader: ClipReader) -> bytes:
    pcm = b""
    while piece := await reader.read():
        assert duration_s(len(piece)) < 1.1
        pcm += piece
    return pcm


async def spoken(clips: ClipSource, clip: Clip) -> bytes:
    async with clips.open(clip) as reader:
        return await rest(reader)


async def until_broken(reader: ClipReader, error: type[Exception], match: str) -> bytes:
    """All that can be spoken before that error."""
    pieces: list[bytes] = []

    async def read_all() -> None:
        while piece := await reader.read():
            pieces.append(piece)

    with pytest.raises(error, match=match):
        await read_all()
    return b"".join(pieces)
