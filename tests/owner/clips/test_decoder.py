"""The decoder: every format, in little memory, and damaged files as far as they go."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from aiohttp import web

from avatar_sessions.contract.messages import Clip
from liveavatar_lite import BYTES_PER_S, SAMPLE_RATE_HZ, PcmConverter, duration_s
from owner.clips.source import (
    ClipNotAudio,
    ClipSource,
    ClipTooLong,
)
from tests.support.encoded_clips import (
    ID3V1,
    Site,
    encoded,
    rest,
    spoken,
    streamed_flac,
    streamed_wav,
    uncounted_mp3,
    until_broken,
    wave,
    with_id3,
)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("RF64", None)],
)
@pytest.mark.parametrize(("rate_hz", "channels"), [(24_000, 1), (44_100, 2)])
async def test_lossless_formats_are_decoded_without_loss(
    clips: ClipSource, tmp_path: Path, kind: str, subtype: str | None, rate_hz: int, channels: int
) -> None:
    """Decoding block by block gives the same as decoding the whole."""
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
async def test_lossy_formats_sound_alike(
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
async def test_unusual_files_are_decoded_to_their_end(
    clips: ClipSource, site: Site, tmp_path: Path, body: bytes, seconds: float, source: str
) -> None:
    """MP3s without a count were cut where their first frame's bit rate put the end."""
    (tmp_path / "clip").write_bytes(body)
    site.body, site.sized = body, source == "sized"
    pcm = await spoken(clips, Clip(file="clip") if source == "file" else Clip(url=site.url))
    assert abs(duration_s(len(pcm)) - seconds) < 0.11


@pytest.mark.slow
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


@pytest.mark.parametrize("kind", ["WAV", "MP3", "OGG"])
async def test_a_truncated_file_is_decoded_as_far_as_it_goes(
    clips: ClipSource, tmp_path: Path, kind: str
) -> None:
    whole = encoded(kind, rate_hz=48_000)
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2 + 1])
    pcm = await spoken(clips, Clip(file="cut"))
    assert 0.5 < duration_s(len(pcm)) < 2.9


async def test_a_truncated_or_damaged_flac_is_decoded_and_then_an_error(
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


async def test_an_unknown_length_is_limited_all_the_same(clips: ClipSource, site: Site) -> None:
    site.body, site.sized = streamed_wav(rate_hz=8_000, seconds=602), False
    async with clips.open(Clip(url=site.url)) as reader:
        assert reader.duration_s is None
        pcm = await until_broken(reader, ClipTooLong, "60[01] s or more")
    assert duration_s(len(pcm)) <= 600


async def test_samples_that_are_not_numbers_are_an_error(clips: ClipSource, tmp_path: Path) -> None:
    samples = wave(24_000, 3.0)
    samples[60_000] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 24_000, subtype="FLOAT")
    async with clips.open(Clip(file="nan.wav")) as reader:
        pcm = await until_broken(reader, ClipNotAudio, r"after 2\.4 s: 1 of .* NaN")
    assert pcm


@pytest.mark.parametrize(
    ("body", "reason"),
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
async def test_refused_audio_says_why(
    clips: ClipSource, tmp_path: Path, body: bytes, reason: str
) -> None:
    (tmp_path / "clip").write_bytes(body)
    with pytest.raises(ClipNotAudio, match=reason):
        await spoken(clips, Clip(file="clip"))
