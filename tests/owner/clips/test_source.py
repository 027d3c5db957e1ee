"""Clips: what may be fetched, from where, and what it becomes."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import soundfile
from aiohttp import web

from avatar_sessions.contract.messages import Clip
from avatar_sessions.seal import Seal
from liveavatar_lite import BYTES_PER_S
from owner.clips import source as clips_module
from owner.clips.source import (
    ClipError,
    ClipForbidden,
    ClipMissing,
    ClipNotAudio,
    ClipPolicy,
    ClipReader,
    ClipSource,
    ClipTooLong,
    ClipUnreachable,
)


def tone(rate_hz: int, seconds: float, channels: int = 1, hz: float = 440.0) -> bytes:
    """A WAV file with a sine."""
    t = np.arange(int(rate_hz * seconds)) / rate_hz
    wave = (0.5 * np.sin(2 * np.pi * hz * t)).astype(np.float32)
    out = io.BytesIO()
    soundfile.write(out, np.stack([wave] * channels, axis=1), rate_hz, format="WAV")
    return out.getvalue()


async def spoken(clips: ClipSource, clip: Clip) -> bytes:
    """All of a clip."""
    async with clips.open(clip) as reader:
        return b"".join([piece async for piece in iter_pieces(reader)])


async def iter_pieces(reader: ClipReader) -> AsyncIterator[bytes]:
    while piece := await reader.read():
        yield piece


@pytest.fixture
def seal() -> Seal:
    return Seal([Seal.new_key()])


@pytest.fixture
def clips(seal: Seal, tmp_path: Path) -> ClipSource:
    return ClipSource(ClipPolicy(folder=tmp_path, allow_private_addresses=True), seal)


@pytest_asyncio.fixture
async def site() -> AsyncIterator[str]:
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


async def test_an_address_is_fetched(clips: ClipSource, site: str) -> None:
    pcm = await spoken(clips, Clip(url=f"{site}/clip.wav"))
    assert abs(len(pcm) - BYTES_PER_S) <= 40


async def test_a_sealed_address_is_opened_and_fetched(
    clips: ClipSource, seal: Seal, site: str
) -> None:
    assert await spoken(clips, Clip(sealed_url=seal.seal(f"{site}/clip.wav?signature=fake")))


async def test_an_address_sealed_with_a_foreign_key_is_refused(clips: ClipSource) -> None:
    foreign = Seal([Seal.new_key()]).seal("http://127.0.0.1/clip.wav")
    with pytest.raises(ClipForbidden, match="does not open"):
        await spoken(clips, Clip(sealed_url=foreign))


async def test_a_redirect_is_followed(clips: ClipSource, site: str) -> None:
    assert await spoken(clips, Clip(url=f"{site}/redirect?to=/clip.wav"))


async def test_endless_redirects_end(clips: ClipSource, site: str) -> None:
    with pytest.raises(ClipUnreachable, match="redirects"):
        await spoken(clips, Clip(url=f"{site}/loop"))


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
async def test_private_addresses_are_forbidden(seal: Seal, site: str, url: str) -> None:
    clips = ClipSource(ClipPolicy(), seal)
    with pytest.raises((ClipForbidden, ClipUnreachable)) as caught:
        await spoken(clips, Clip(url=url.format(port=site.rpartition(":")[2])))
    if "2130706433" not in url and "fe80" not in url:
        assert caught.type is ClipForbidden


async def test_a_redirect_into_a_private_range_is_forbidden(
    seal: Seal, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each hop is checked: a public address may not point inwards."""
    monkeypatch.setattr(clips_module, "_public", lambda number: number == "127.0.0.1")
    clips = ClipSource(ClipPolicy(), seal)
    target = site.replace("127.0.0.1", "127.0.0.2")
    with pytest.raises(ClipForbidden):
        await spoken(clips, Clip(url=f"{site}/redirect?to={target}/clip.wav"))
    with pytest.raises(ClipForbidden):
        await spoken(clips, Clip(url=f"{site}/redirect?to=file:///etc/passwd"))


@pytest.mark.parametrize(
    ("path", "error"),
    [("/nothing", ClipMissing), ("/words", ClipNotAudio), ("/broken", ClipUnreachable)],
)
async def test_what_is_not_a_clip_is_told_apart(
    clips: ClipSource, site: str, path: str, error: type[ClipError]
) -> None:
    with pytest.raises(error):
        await spoken(clips, Clip(url=site + path))


async def test_a_closed_port_is_unreachable_and_the_query_stays_untold(clips: ClipSource) -> None:
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


async def test_a_name_that_no_file_can_have_is_told_without_the_folders_place(
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
