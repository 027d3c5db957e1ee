"""Opening clips: where they may come from, what is refused, and what stays behind."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import soundfile
from aiohttp import web

from avatar_sessions.contract.messages import Clip
from avatar_sessions.seal import Seal
from liveavatar_lite import BYTES_PER_S, duration_s
from owner.clips import address_policy
from owner.clips import source as clips_module
from owner.clips.address_policy import ClipPolicy
from owner.clips.source import (
    ClipError,
    ClipForbidden,
    ClipMissing,
    ClipNotAudio,
    ClipSource,
    ClipTooLong,
    ClipUnreachable,
)
from tests.support.encoded_clips import Site, encoded, spoken, until_broken
from tests.support.waiting import until


def tone(rate_hz: int, seconds: float, channels: int = 1, hz: float = 440.0) -> bytes:
    """A WAV file with a sine."""
    t = np.arange(int(rate_hz * seconds)) / rate_hz
    wave = (0.5 * np.sin(2 * np.pi * hz * t)).astype(np.float32)
    out = io.BytesIO()
    soundfile.write(out, np.stack([wave] * channels, axis=1), rate_hz, format="WAV")
    return out.getvalue()


@pytest.fixture
def seal() -> Seal:
    return Seal([Seal.new_key()])


@pytest.fixture
def clips(seal: Seal, tmp_path: Path) -> ClipSource:
    return ClipSource(ClipPolicy(folder=tmp_path, allow_private_addresses=True), seal)


@pytest_asyncio.fixture
async def pages() -> AsyncIterator[str]:
    """A web server on loopback with a clip, redirects and trouble."""

    async def redirect(request: web.Request) -> web.Response:
        raise web.HTTPFound(request.query["to"])

    async def loop(_: web.Request) -> web.Response:
        raise web.HTTPFound("/loop")

    async def clip(_: web.Request) -> web.Response:
        return web.Response(body=tone(16_000, 1.0))

    async def words(_: web.Request) -> web.Response:
        return web.Response(text="<html>not audio</html>")

    async def broken(_: web.Request) -> web.Response:
        return web.Response(status=500)

    app = web.Application()
    app.add_routes(
        [
            web.get("/clip.wav", clip),
            web.get("/words", words),
            web.get("/broken", broken),
            web.get("/redirect", redirect),
            web.get("/loop", loop),
        ]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    server = web.TCPSite(runner, "127.0.0.1", 0)
    await server.start()
    port = runner.addresses[0][1]
    yield f"http://127.0.0.1:{port}"
    await runner.cleanup()


@pytest.mark.parametrize(("rate_hz", "channels"), [(8_000, 1), (24_000, 1), (44_100, 2)])
async def test_a_file_becomes_24_khz_mono(
    clips: ClipSource, tmp_path: Path, rate_hz: int, channels: int
) -> None:
    (tmp_path / "a.wav").write_bytes(tone(rate_hz, 2.0, channels))
    pcm = await spoken(clips, Clip(file="a.wav"))
    assert abs(len(pcm) - 2 * BYTES_PER_S) <= 40
    samples = np.frombuffer(pcm, dtype="<i2").astype(float)
    spectrum = np.abs(np.fft.rfft(samples))
    assert abs(spectrum.argmax() / 2.0 - 440) < 1  # 2 s: half a hertz a bin
    assert abs(samples).max() == pytest.approx(0.5 * 32767, rel=0.02)


async def test_an_address_is_fetched(clips: ClipSource, pages: str) -> None:
    pcm = await spoken(clips, Clip(url=f"{pages}/clip.wav"))
    assert abs(len(pcm) - BYTES_PER_S) <= 40


async def test_a_sealed_address_is_opened_and_fetched(
    clips: ClipSource, seal: Seal, pages: str
) -> None:
    assert await spoken(clips, Clip(sealed_url=seal.seal(f"{pages}/clip.wav?signature=fake")))


async def test_an_address_sealed_with_a_foreign_key_is_refused(clips: ClipSource) -> None:
    foreign = Seal([Seal.new_key()]).seal("http://127.0.0.1/clip.wav")
    with pytest.raises(ClipForbidden, match="does not open"):
        await spoken(clips, Clip(sealed_url=foreign))


async def test_a_redirect_is_followed(clips: ClipSource, pages: str) -> None:
    assert await spoken(clips, Clip(url=f"{pages}/redirect?to=/clip.wav"))


async def test_endless_redirects_end(clips: ClipSource, pages: str) -> None:
    with pytest.raises(ClipUnreachable, match="redirects"):
        await spoken(clips, Clip(url=f"{pages}/loop"))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/clip.wav",
        "http://localhost:{port}/clip.wav",
        "http://[::1]:{port}/clip.wav",
        "http://[::ffff:127.0.0.1]:{port}/clip.wav",
        "http://0.0.0.0:{port}/clip.wav",
        "http://2130706433:{port}/clip.wav",  # 127.0.0.1 as one number
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/clip.wav",
        "http://192.168.1.1/clip.wav",
        "http://[fe80::1]/clip.wav",
        "http://[fd00::1]/clip.wav",
    ],
)
async def test_private_addresses_are_forbidden(seal: Seal, pages: str, url: str) -> None:
    clips = ClipSource(ClipPolicy(), seal)
    with pytest.raises((ClipForbidden, ClipUnreachable)) as caught:
        await spoken(clips, Clip(url=url.format(port=pages.rpartition(":")[2])))
    if "2130706433" not in url and "fe80" not in url:
        assert caught.type is ClipForbidden


async def test_a_redirect_into_a_private_range_is_forbidden(
    seal: Seal, pages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hop is checked: a public address may not point inwards."""
    monkeypatch.setattr(address_policy, "_is_public", lambda ip: ip == "127.0.0.1")
    clips = ClipSource(ClipPolicy(), seal)
    target = pages.replace("127.0.0.1", "127.0.0.2")
    with pytest.raises(ClipForbidden):
        await spoken(clips, Clip(url=f"{pages}/redirect?to={target}/clip.wav"))
    with pytest.raises(ClipForbidden):
        await spoken(clips, Clip(url=f"{pages}/redirect?to=file:///etc/passwd"))


@pytest.mark.parametrize(
    ("path", "error"),
    [("/nothing", ClipMissing), ("/words", ClipNotAudio), ("/broken", ClipUnreachable)],
)
async def test_each_error_has_its_own_type(
    clips: ClipSource, pages: str, path: str, error: type[ClipError]
) -> None:
    with pytest.raises(error):
        await spoken(clips, Clip(url=pages + path))


async def test_an_unreachable_address_is_reported_without_its_query(clips: ClipSource) -> None:
    with pytest.raises(ClipUnreachable) as caught:
        await spoken(clips, Clip(url="http://127.0.0.1:9/clip.wav?signature=fake"))
    assert "signature" not in str(caught.value)


@pytest.mark.parametrize("name", ["../a.wav", "/etc/hostname", "sub/../../a.wav", "a\0.wav"])
async def test_files_outside_the_folder_are_forbidden(
    seal: Seal, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    (tmp_path / "a.wav").write_bytes(tone(24_000, 0.1))
    with pytest.raises(ClipForbidden):
        await spoken(ClipSource(ClipPolicy(folder=folder), seal), Clip(file=name))


async def test_a_link_out_of_the_folder_is_forbidden(seal: Seal, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    (tmp_path / "a.wav").write_bytes(tone(24_000, 0.1))
    (folder / "link.wav").symlink_to(tmp_path / "a.wav")
    with pytest.raises(ClipForbidden):
        await spoken(ClipSource(ClipPolicy(folder=folder), seal), Clip(file="link.wav"))


async def test_without_a_folder_there_are_no_files(seal: Seal) -> None:
    with pytest.raises(ClipForbidden, match="AVATAR_SESSIONS_CLIP_FOLDER"):
        await spoken(ClipSource(ClipPolicy(), seal), Clip(file="a.wav"))


async def test_missing_empty_and_broken_files(clips: ClipSource, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "silent.wav").write_bytes(tone(24_000, 0.0))
    (tmp_path / "cut.flac").write_bytes(b"fLaC" + b"\0" * 100)
    with pytest.raises(ClipMissing):
        await spoken(clips, Clip(file="nothing.wav"))
    for name in ("empty.wav", "silent.wav", "cut.flac"):
        with pytest.raises(ClipNotAudio):
            await spoken(clips, Clip(file=name))


async def test_an_unusable_file_name_is_reported_without_the_folder(
    clips: ClipSource, tmp_path: Path
) -> None:
    """A name of more than 255 bytes came back as a lost utterance with the worker's own path."""
    with pytest.raises(ClipError) as caught:
        await spoken(clips, Clip(file="a" * 300 + ".wav"))
    assert str(tmp_path) not in str(caught.value)


async def test_more_than_ten_minutes_are_refused(clips: ClipSource, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(8_000 * 601, dtype=np.int16), 8_000)
    with pytest.raises(ClipTooLong, match="601"):
        await spoken(clips, Clip(file="long.wav"))


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3"])
async def test_a_broken_connection_is_an_error_after_what_arrived(
    clips: ClipSource, site: Site, kind: str
) -> None:
    site.body = encoded(kind, rate_hz=48_000, seconds=6)
    site.cut_at = len(site.body) // 2
    async with clips.open(Clip(url=site.url)) as reader:
        pcm = await until_broken(reader, ClipUnreachable, "127.0.0.1 did not deliver the clip")
    assert 1 < duration_s(len(pcm)) <= 3.1


@pytest.mark.parametrize("kind", ["WAV", "OGG"])
async def test_a_connection_broken_in_the_header_is_unreachable_and_not_bad_audio(
    clips: ClipSource, site: Site, kind: str
) -> None:
    site.body, site.cut_at = encoded(kind), 20
    with pytest.raises(ClipUnreachable):
        await spoken(clips, Clip(url=site.url))


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


@pytest.mark.parametrize("held_at", [0, 20, 100_000])
async def test_a_cancel_while_bytes_are_awaited_leaves_no_thread_and_no_file(
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


async def test_a_clip_closed_early_leaves_no_thread_and_no_file(
    clips: ClipSource, site: Site, leftovers: Callable[[], list[str]]
) -> None:
    site.body, site.held_at = encoded("WAV", rate_hz=48_000), 100_000
    async with clips.open(Clip(url=site.url)) as reader:
        await reader.read()
        assert len(leftovers()) == 2
    await until(lambda: not leftovers(), within_s=5)


async def test_a_refused_clip_leaves_no_thread_and_no_file(
    clips: ClipSource, site: Site, tmp_path: Path, leftovers: Callable[[], list[str]]
) -> None:
    site.body = b"<html>" * 1_000
    (tmp_path / "clip").write_bytes(site.body)
    for clip in (Clip(url=site.url), Clip(file="clip")):
        with pytest.raises(ClipNotAudio):
            await spoken(clips, clip)
    await until(lambda: not leftovers(), within_s=5)


async def test_a_clip_that_does_not_begin_in_time_is_unreachable(
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


async def test_a_body_that_does_not_end_in_time_is_unreachable(
    clips: ClipSource, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clips_module, "BODY_TIMEOUT_S", 0.3)
    site.body, site.held_at = encoded("WAV", rate_hz=48_000), 200_000
    async with clips.open(Clip(url=site.url)) as reader:
        pcm = await until_broken(reader, ClipUnreachable, "TimeoutError")
    assert duration_s(len(pcm)) > 1
