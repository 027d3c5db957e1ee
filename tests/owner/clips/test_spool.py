"""The spool: clips are decoded while their bytes arrive, and readers never wait for ever."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from avatar_sessions.contract.messages import Clip
from liveavatar_lite import duration_s
from owner.clips.errors import ClipUnreachable
from owner.clips.source import (
    ClipSource,
)
from owner.clips.spool import Spool
from tests.support.encoded_clips import (
    ID3V1,
    Site,
    encoded,
    rest,
    spoken,
    streamed_wav,
    uncounted_mp3,
)
from tests.support.waiting import until


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
async def test_a_body_that_pauses_anywhere_decodes_to_the_same(
    clips: ClipSource, site: Site, tmp_path: Path, kind: str, held_at: int
) -> None:
    body = encoded(kind, rate_hz=48_000)
    (tmp_path / "clip").write_bytes(body)
    site.body, site.held_at = body, min(held_at, len(body) - 1)
    reading = asyncio.create_task(spoken(clips, Clip(url=site.url)))
    whole = await spoken(clips, Clip(file="clip"))
    site.go_on.set()
    assert await reading == whole


async def test_a_header_that_does_not_arrive_delays_no_other_clip(
    clips: ClipSource, site: Site, tmp_path: Path
) -> None:
    """soundfile opens one file at a time in a process: a slow server held the lock."""
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


# --- without a network ------------------------------------------------------------------


def test_bytes_are_read_at_any_position_while_more_arrive() -> None:
    spool = Spool.arriving(promised_bytes=6)
    assert spool.write(b"abcd") == 4
    assert spool.read_at(1, 2) == b"bc"
    assert spool.lacks(2, 4)
    assert not spool.lacks(0, 4)
    spool.write(b"ef")
    spool.complete()
    assert spool.read_at(0, 100) == b"abcdef"
    assert not spool.lacks(0, 100), "no more will arrive"
    spool.close()


@pytest.mark.parametrize("way", ["write", "complete", "fail", "close"])
async def test_a_waiting_reader_is_woken(way: str) -> None:
    """A reader waits in a thread: one that is never woken keeps its process from ending."""
    spool = Spool.arriving(promised_bytes=None)
    waiting = asyncio.create_task(asyncio.to_thread(spool.wait_for, 4))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    match way:
        case "write":
            spool.write(b"abcd")
        case "complete":
            spool.complete()
        case "fail":
            spool.fail(ClipUnreachable("broken"))
        case _:
            spool.close()
    await asyncio.wait_for(waiting, 5)
    spool.close()


def test_the_first_end_stays() -> None:
    spool = Spool.arriving(promised_bytes=None)
    spool.write(b"ab")
    spool.fail(ClipUnreachable("broken"))
    spool.complete()
    assert isinstance(spool.failure, ClipUnreachable)
    assert spool.read_at(0, 4) == b"ab", "what arrived can be read"
    assert spool.write(b"cd") == 2, "nothing is added any more"
    spool.close()
    spool.close()
    assert spool.read_at(0, 4) == b""
    assert spool.write(b"ef") == 2


def test_a_file_is_complete_from_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "clip").write_bytes(b"abcd")
    spool = Spool.of_file(tmp_path / "clip")
    assert (spool.promised_bytes, spool.arrived_bytes) == (4, 4)
    spool.wait_for(None)
    assert spool.read_at(2, 8) == b"cd"
    spool.close()
