"""Clips as streams: every format, early sound, little memory, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import tempfile
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import soundfile
from aiohttp import web
from numpy.typing import NDArray

from avatar_sessions.contract.messages import Clip
from avatar_sessions.seal import Seal
from liveavatar_lite import BYTES_PER_S, SAMPLE_RATE_HZ, PcmConverter, duration_s
from owner.clips import source as clips_module
from owner.clips.source import (
    ClipNotAudio,
    ClipPolicy,
    ClipReader,
    ClipSource,
    ClipTooLong,
    ClipUnreachable,
)
from tests.support.waiting import until

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
    """A server that sends what it is given, up to a point, and the rest when it is told to."""

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


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()

    async def quiet(request: web.Request) -> web.StreamResponse:
        try:
            return await site.answer(request)
        except ConnectionError:  # the reader had enough
            return web.Response()

    app = web.Application()
    app.add_routes([web.get("/clip", quiet)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.url = f"http://127.0.0.1:{runner.addresses[0][1]}/clip"
    yield site
    site.go_on.set()
    await runner.cleanup()


@pytest.fixture
def clips(tmp_path: Path) -> ClipSource:
    policy = ClipPolicy(folder=tmp_path, allow_private_addresses=True)
    return ClipSource(policy, Seal([Seal.new_key()]))


@pytest.fixture
def leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Threads and temporary files of clips."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    def found() -> list[str]:
        threads = [one.name for one in threading.enumerate() if one.name.startswith("clip")]
        files = [str(one) for one in folder.iterdir()]
        for number in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                target = str(number.readlink())
                if target.startswith(str(folder)):
                    files.append(target)
        return threads + files

    return found


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


# --- formats ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("RF64", None)],
)
@pytest.mark.parametrize(("rate_hz", "channels"), [(24_000, 1), (44_100, 2)])
async def test_what_is_lossless_stays_so(
    clips: ClipSource, tmp_path: Path, kind: str, subtype: str | None, rate_hz: int, channels: int
) -> None:
    """Block by block is the same as all at once."""
    (tmp_path / "clip").write_bytes(encoded(kind, subtype, rate_hz, 3.3, channels))
    converter = PcmConverter(rate_hz, channels)
    whole = converter.convert(wave(rate_hz, 3.3, channels)) + converter.finish()
    pcm = await spoken(clips, Clip(file="clip"))
    assert len(pcm) == len(whole)
    difference = np.frombuffer(pcm, "<i2").astype(int) - np.frombuffer(whole, "<i2")
    assert np.abs(difference).max() <= 2  # the writer cuts off, the converter rounds


@pytest.mark.parametrize("rate_hz", [16_000, 24_000, 48_000])
@pytest.mark.parametrize(
    ("kind", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None), ("WAV", "ULAW")]
)
async def test_what_is_lossy_sounds_alike(
    clips: ClipSource, tmp_path: Path, kind: str, subtype: str | None, rate_hz: int
) -> None:
    (tmp_path / "clip").write_bytes(encoded(kind, subtype, rate_hz))
    samples = np.frombuffer(await spoken(clips, Clip(file="clip")), "<i2").astype(float)
    assert abs(len(samples) / SAMPLE_RATE_HZ - 3.0) < 0.1
    middle = samples[SAMPLE_RATE_HZ : 2 * SAMPLE_RATE_HZ]
    assert np.abs(np.fft.rfft(middle)).argmax() == 440
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.5 * 32_768 / np.sqrt(2), rel=0.1)


async def test_the_first_piece_is_short_and_the_duration_is_known(
    clips: ClipSource, tmp_path: Path
) -> None:
    (tmp_path / "clip.wav").write_bytes(encoded("WAV"))
    async with clips.open(Clip(file="clip.wav")) as reader:
        assert reader.duration_s == 3.0
        assert 0.3 < duration_s(len(await reader.read())) <= 0.4
        assert duration_s(len(await reader.read())) == 1.0
        await rest(reader)
        assert await reader.read() == b""


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (streamed_wav(), 3.0),
        (streamed_flac(), 3.0),
        (uncounted_mp3(), 3.0),
        (uncounted_mp3() + ID3V1, 3.0),
        (encoded("MP3") + ID3V1, 3.0),
        (with_id3(encoded("MP3"), 2_000_000), 3.0),
        (with_id3(with_id3(uncounted_mp3(), 300), 10), 3.0),
        (with_id3(encoded("FLAC"), 1_000), 3.0),
        (encoded("WAV") + b"LIST" + bytes(5_000), 3.0),
    ],
    ids=[
        "wav-of-a-pipe",
        "flac-of-a-pipe",
        "mp3-uncounted",
        "mp3-uncounted-id3v1",
        "mp3-id3v1",
        "mp3-picture",
        "mp3-two-id3",
        "flac-id3",
        "wav-and-more",
    ],
)
@pytest.mark.parametrize("source", ["file", "sized", "unsized"])
async def test_odd_but_whole(
    clips: ClipSource, site: Site, tmp_path: Path, body: bytes, seconds: float, source: str
) -> None:
    """MP3s without a count were cut where their first frame's bit rate put the end."""
    (tmp_path / "clip").write_bytes(body)
    site.body, site.sized = body, source == "sized"
    pcm = await spoken(clips, Clip(file="clip") if source == "file" else Clip(url=site.url))
    assert abs(duration_s(len(pcm)) - seconds) < 0.11


# --- early sound ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "sized"),
    [
        (encoded("WAV", rate_hz=48_000, channels=2), True),
        (encoded("FLAC", rate_hz=48_000, channels=2), True),
        (encoded("FLAC", rate_hz=48_000, channels=2), False),
        (encoded("MP3") + ID3V1, True),
        (uncounted_mp3() + ID3V1, True),
        (uncounted_mp3(), False),
        (streamed_wav(), False),
    ],
    ids=["wav", "flac", "flac-unsized", "mp3", "mp3-uncounted", "mp3-unsized", "wav-unsized"],
)
async def test_speech_begins_while_the_body_still_arrives(
    clips: ClipSource, site: Site, body: bytes, sized: bool
) -> None:
    site.body, site.sized, site.held_at = body, sized, len(body) * 6 // 10
    async with asyncio.timeout(20), clips.open(Clip(url=site.url)) as reader:
        first = await reader.read()
        assert first
        site.go_on.set()
        assert abs(duration_s(len(first + await rest(reader))) - 3.0) < 0.11


@pytest.mark.parametrize("held_at", [0, 1, 13, 43, 4_097, 100_000])
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
async def test_a_body_that_halts_anywhere_is_the_same_in_the_end(
    clips: ClipSource, site: Site, tmp_path: Path, kind: str, held_at: int
) -> None:
    body = encoded(kind, rate_hz=48_000)
    (tmp_path / "clip").write_bytes(body)
    site.body, site.held_at = body, min(held_at, len(body) - 1)
    reading = asyncio.create_task(spoken(clips, Clip(url=site.url)))
    whole = await spoken(clips, Clip(file="clip"))
    site.go_on.set()
    assert await reading == whole


async def test_a_header_that_does_not_come_holds_up_no_other_clip(
    clips: ClipSource, site: Site, tmp_path: Path
) -> None:
    """soundfile opens one file at a time in a process: a stranger's server held the lock."""
    wav = encoded("WAV")
    site.body = wav[:36] + b"LIST" + (60_000).to_bytes(4, "little") + bytes(60_000) + wav[36:]
    site.held_at = 8_000
    (tmp_path / "clip.wav").write_bytes(wav)
    waiting = asyncio.create_task(spoken(clips, Clip(url=site.url)))
    await until(lambda: any(one.name.startswith("clip") for one in threading.enumerate()))
    async with asyncio.timeout(20):
        for _ in range(10):
            assert await spoken(clips, Clip(file="clip.wav"))
    assert not waiting.done()
    site.go_on.set()
    assert duration_s(len(await waiting)) == 3.0


# --- memory -----------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["file", "url"])
async def test_ten_minutes_take_a_few_megabytes(
    clips: ClipSource, tmp_path: Path, source: str
) -> None:
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 48_000, 2) as sound:
        for _ in range(600):
            sound.write(np.zeros((48_000, 2), np.int16))
    app = web.Application()
    app.add_routes([web.static("/", tmp_path)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/long.wav"
    clip = Clip(file="long.wav") if source == "file" else Clip(url=url)
    tracemalloc.start()
    try:
        pcm_bytes = 0
        async with clips.open(clip) as reader:
            while piece := await reader.read():
                pcm_bytes += len(piece)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        await runner.cleanup()
    assert pcm_bytes == 600 * BYTES_PER_S
    assert peak_bytes < 12 * 1024**2


# --- what breaks ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["WAV", "MP3", "OGG"])
async def test_a_cut_file_is_spoken_as_far_as_it_goes(
    clips: ClipSource, tmp_path: Path, kind: str
) -> None:
    whole = encoded(kind, rate_hz=48_000)
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2 + 1])
    pcm = await spoken(clips, Clip(file="cut"))
    assert 0.5 < duration_s(len(pcm)) < 2.9


async def test_a_cut_or_broken_flac_is_spoken_and_then_told(
    clips: ClipSource, tmp_path: Path
) -> None:
    whole = encoded("FLAC", seconds=6)
    half = len(whole) // 2
    (tmp_path / "cut").write_bytes(whole[:half])
    (tmp_path / "broken").write_bytes(whole[:half] + os.urandom(999) + whole[half + 999 :])
    for name in ("cut", "broken"):
        async with clips.open(Clip(file=name)) as reader:
            pcm = await until_broken(reader, ClipNotAudio, r"breaks after \d\.\d s")
        assert 1 < duration_s(len(pcm)) < 4


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3"])
async def test_a_connection_that_breaks_is_told_after_what_came(
    clips: ClipSource, site: Site, kind: str
) -> None:
    site.body = encoded(kind, rate_hz=48_000, seconds=6)
    site.cut_at = len(site.body) // 2
    async with clips.open(Clip(url=site.url)) as reader:
        pcm = await until_broken(reader, ClipUnreachable, "127.0.0.1 did not give the clip")
    assert 1 < duration_s(len(pcm)) <= 3.1


@pytest.mark.parametrize("kind", ["WAV", "OGG"])
async def test_a_connection_that_breaks_in_the_header_is_unreachable_and_not_bad_audio(
    clips: ClipSource, site: Site, kind: str
) -> None:
    site.body, site.cut_at = encoded(kind), 20
    with pytest.raises(ClipUnreachable):
        await spoken(clips, Clip(url=site.url))


async def test_a_header_that_hides_the_length_gains_nothing(clips: ClipSource, site: Site) -> None:
    site.body, site.sized = streamed_wav(rate_hz=8_000, seconds=602), False
    async with clips.open(Clip(url=site.url)) as reader:
        assert reader.duration_s is None
        pcm = await until_broken(reader, ClipTooLong, "60[01] s or more")
    assert duration_s(len(pcm)) <= 600


async def test_samples_that_are_no_numbers_are_told(clips: ClipSource, tmp_path: Path) -> None:
    samples = wave(24_000, 3.0)
    samples[60_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 24_000, subtype="FLOAT")
    async with clips.open(Clip(file="nan.wav")) as reader:
        pcm = await until_broken(reader, ClipNotAudio, r"after 2\.4 s: 1 of .* NaN")
    assert pcm


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (encoded("AIFF"), "not WAV, FLAC, Ogg or MP3"),
        (encoded("AU"), "not WAV, FLAC, Ogg or MP3"),
        (b"\0\0\0\x20ftypM4A " + bytes(5_000), "not WAV, FLAC, Ogg or MP3"),
        (b"\xff\xf1\x50\x80" + bytes(5_000), "not WAV, FLAC, Ogg or MP3"),  # AAC
        (b"ID3\4\0\0\x7f\x7f\x7f\x7f" + bytes(5_000), "not WAV, FLAC, Ogg or MP3"),
        (b"<html>" * 1_000, "not WAV, FLAC, Ogg or MP3"),
        (b"\xff\xfb" + b"\x90\x00" * 5_000, "can be read|empty|breaks"),
        (encoded("FLAC")[:60], "can be read|empty|breaks"),
        (b"OggS" + bytes(5_000), "can be read"),
        (encoded("WAV", rate_hz=4_000), "at 4000 Hz"),
        (encoded("WAV", channels=9), "9 channels"),
    ],
    ids=["aiff", "au", "m4a", "aac", "id3", "html", "mp3", "flac", "ogg", "rate", "channels"],
)
async def test_what_is_refused_says_why(
    clips: ClipSource, tmp_path: Path, body: bytes, told: str
) -> None:
    (tmp_path / "clip").write_bytes(body)
    with pytest.raises(ClipNotAudio, match=told):
        await spoken(clips, Clip(file="clip"))


@pytest.mark.parametrize("sized", [True, False])
async def test_a_body_beyond_the_limit_is_refused(
    clips: ClipSource, site: Site, monkeypatch: pytest.MonkeyPatch, sized: bool
) -> None:
    monkeypatch.setattr(clips_module, "MAX_CLIP_BYTES", 100_000)
    site.body, site.sized = encoded("WAV"), sized
    with pytest.raises(ClipTooLong):
        await spoken(clips, Clip(url=site.url))


async def test_a_compressed_body_is_refused(clips: ClipSource, site: Site) -> None:
    """A few kilobytes of gzip can be a gigabyte."""
    site.body, site.coding = encoded("WAV"), "gzip"
    with pytest.raises(ClipNotAudio, match="gzip"):
        await spoken(clips, Clip(url=site.url))


# --- nothing left behind ----------------------------------------------------------------


@pytest.mark.parametrize("held_at", [0, 20, 100_000])
async def test_a_cancel_while_bytes_are_awaited_leaves_nothing(
    clips: ClipSource, site: Site, leftovers: Callable[[], list[str]], held_at: int
) -> None:
    """In the header and in the middle: the thread is blocked, waiting for bytes."""
    site.body, site.held_at = encoded("WAV", rate_hz=48_000), held_at
    reading = asyncio.create_task(spoken(clips, Clip(url=site.url)))
    await until(lambda: len(leftovers()) == 2)  # the thread and the file
    reading.cancel()
    await asyncio.wait({reading}, timeout=8)  # less than the network's own limit
    assert reading.cancelled()
    await until(lambda: not leftovers(), within_s=5)


async def test_a_clip_that_is_closed_early_leaves_nothing(
    clips: ClipSource, site: Site, leftovers: Callable[[], list[str]]
) -> None:
    site.body, site.held_at = encoded("WAV", rate_hz=48_000), 100_000
    async with clips.open(Clip(url=site.url)) as reader:
        await reader.read()
        assert len(leftovers()) == 2
    await until(lambda: not leftovers(), within_s=5)


async def test_a_refused_clip_leaves_nothing(
    clips: ClipSource, site: Site, tmp_path: Path, leftovers: Callable[[], list[str]]
) -> None:
    site.body = b"<html>" * 1_000
    (tmp_path / "clip").write_bytes(site.body)
    for clip in (Clip(url=site.url), Clip(file="clip")):
        with pytest.raises(ClipNotAudio):
            await spoken(clips, clip)
    await until(lambda: not leftovers(), within_s=5)


async def test_the_limit_to_begin_within_is_kept(
    clips: ClipSource,
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    leftovers: Callable[[], list[str]],
) -> None:
    monkeypatch.setattr(clips_module, "FETCH_TIMEOUT_S", 0.3)
    site.body, site.held_at = encoded("WAV"), 20
    with pytest.raises(ClipUnreachable, match="to begin with"):
        await spoken(clips, Clip(url=site.url))
    await until(lambda: not leftovers(), within_s=5)


async def test_the_limit_for_the_whole_body_is_kept(
    clips: ClipSource, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips_module, "BODY_TIMEOUT_S", 0.3)
    site.body, site.held_at = encoded("WAV", rate_hz=48_000), 200_000
    async with clips.open(Clip(url=site.url)) as reader:
        pcm = await until_broken(reader, ClipUnreachable, "TimeoutError")
    assert duration_s(len(pcm)) > 1
