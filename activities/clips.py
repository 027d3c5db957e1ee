"""Clips: speech fetched or read, checked, decoded and brought to LITE's format.

In: an address or a file name from a stranger. Out: PCM, or a typed reason why not. Nothing
here speaks.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import numpy as np
import soundfile
import soxr

from avatar_sessions.contract.messages import MAX_CLIP_S, Clip
from avatar_sessions.seal import Seal, SealError
from liveavatar_lite import SAMPLE_RATE_HZ

MAX_REDIRECTS: Final = 5
MAX_CLIP_BYTES: Final = 160 * 1024 * 1024
"""Ten minutes of 48 kHz stereo 16-bit are 115 MB."""
FETCH_TIMEOUT_S: Final = 60.0
DECODE_BLOCK_FRAMES: Final = 65_536


class ClipError(Exception):
    """A clip cannot be spoken; ``type`` names why."""

    type = "ClipUnusable"


class ClipMissing(ClipError):
    """There is nothing at that place."""

    type = "ClipMissing"


class ClipForbidden(ClipError):
    """The place is not one that clips may come from."""

    type = "ClipForbidden"


class ClipUnreachable(ClipError):
    """The place did not answer, or with an error."""

    type = "ClipUnreachable"


class ClipTooLong(ClipError):
    """More than ten minutes of speech, or more bytes than those can have."""

    type = "ClipTooLong"


class ClipNotAudio(ClipError):
    """What is there is not audio that can be decoded."""

    type = "ClipNotAudio"


@dataclass(frozen=True)
class ClipPolicy:
    """Where clips may come from."""

    folder: Path | None = None
    """Files are read from here and nowhere else; None: no files."""
    allow_private_addresses: bool = False
    """Also loopback, link-local and private ranges: for tests and the local demo."""


class Clips:
    """Turns clips into PCM."""

    def __init__(self, policy: ClipPolicy, seal: Seal) -> None:
        self._policy = policy
        self._seal = seal

    async def load(self, clip: Clip) -> bytes:
        """Return the clip as PCM: 16-bit little-endian mono at 24 kHz.

        Raises:
            ClipError: it cannot be spoken.
        """
        if clip.file is not None:
            try:
                path = self._inside_folder(clip.file)
                return await asyncio.to_thread(_decode_file, path)
            except OSError as error:
                # Its text would tell where the folder lies.
                raise ClipMissing(
                    f"the file cannot be read: {error.strerror or type(error).__name__}"
                ) from None
        address = clip.url if clip.url is not None else self._open(clip.sealed_url or "")
        encoded = await self._fetch(address)
        return await asyncio.to_thread(_decode_bytes, encoded)

    def _open(self, sealed_url: str) -> str:
        try:
            return self._seal.open(sealed_url).get_secret_value()
        except SealError as error:
            raise ClipForbidden(f"the clip's sealed address does not open: {error}") from error

    def _inside_folder(self, name: str) -> Path:
        folder = self._policy.folder
        if folder is None:
            raise ClipForbidden(
                "this worker reads no files: set AVATAR_SESSIONS_CLIP_FOLDER, or give a url"
            )
        root = folder.resolve()
        try:
            path = (root / name).resolve()
        except (OSError, ValueError) as error:  # loops of links, zero bytes in names
            raise ClipForbidden(f"{name!r} is not a usable file name") from error
        if not path.is_relative_to(root):
            raise ClipForbidden(f"{name!r} lies outside the clip folder")
        if not path.is_file():
            raise ClipMissing(f"there is no file {name!r} in the clip folder")
        return path

    async def _fetch(self, address: str) -> bytes:
        try:
            async with (
                asyncio.timeout(FETCH_TIMEOUT_S),
                httpx.AsyncClient(trust_env=False, timeout=10, follow_redirects=False) as http,
            ):
                return await self._follow(http, httpx.URL(address))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
            # The address may be signed: only its host is told.
            raise ClipUnreachable(
                f"{_host(address)} did not give the clip: {type(error).__name__}"
            ) from None

    async def _follow(self, http: httpx.AsyncClient, url: httpx.URL) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            request = await self._pinned_request(http, url)
            response = await http.send(request, stream=True)
            try:
                if response.has_redirect_location:
                    url = url.join(response.headers["location"])
                    continue
                if response.status_code in (404, 410):
                    raise ClipMissing(f"{url.host} answered {response.status_code}")
                if not response.is_success:
                    raise ClipUnreachable(f"{url.host} answered {response.status_code}")
                return await _bounded_body(response)
            finally:
                await response.aclose()
        raise ClipUnreachable(f"more than {MAX_REDIRECTS} redirects")

    async def _pinned_request(self, http: httpx.AsyncClient, url: httpx.URL) -> httpx.Request:
        """A request to the very address that was checked.

        A name that is looked up twice can answer differently (DNS rebinding), so the connection
        goes to the checked number; TLS and the Host header still carry the name.
        """
        if url.scheme not in ("http", "https"):
            raise ClipForbidden(f"clips come by http or https, not by {url.scheme!r}")
        number = await self._checked_number(url)
        headers = {"host": url.netloc.decode("ascii"), "accept": "audio/*, */*;q=0.1"}
        return http.build_request(
            "GET",
            url.copy_with(host=number, username=None, password=None),
            headers=headers,
            extensions={"sni_hostname": url.host},
        )

    async def _checked_number(self, url: httpx.URL) -> str:
        if not url.host:
            raise ClipForbidden("the clip's address has no host")
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                url.host, port, type=socket.SOCK_STREAM
            )
        except (socket.gaierror, UnicodeError):
            raise ClipUnreachable(f"there is no host named {url.host}") from None
        numbers = [str(item[4][0]) for item in found]
        if not self._policy.allow_private_addresses and not all(_public(one) for one in numbers):
            raise ClipForbidden(
                f"{url.host} is a loopback, link-local or private address:"
                " set AVATAR_SESSIONS_CLIP_ALLOW_PRIVATE_ADDRESSES=true if that is meant"
            )
        return numbers[0]


def _public(number: str) -> bool:
    address = ipaddress.ip_address(number.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is not None and not inner.is_global:
            return False
    return address.is_global and not address.is_multicast


def _host(address: str) -> str:
    try:
        return httpx.URL(address).host or "the address"
    except httpx.InvalidURL:
        return "the address"


async def _bounded_body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > MAX_CLIP_BYTES:
            raise ClipTooLong(f"more than {MAX_CLIP_BYTES // 1024**2} MiB")
    return bytes(body)


def _decode_file(path: Path) -> bytes:
    if path.stat().st_size > MAX_CLIP_BYTES:
        raise ClipTooLong(f"more than {MAX_CLIP_BYTES // 1024**2} MiB")
    return _decode_bytes(path.read_bytes())


def _decode_bytes(encoded: bytes) -> bytes:
    """Decode, mix down and resample. Runs in a thread: about 10 ms a minute of speech."""
    try:
        with soundfile.SoundFile(io.BytesIO(encoded)) as sound:
            if sound.frames > MAX_CLIP_S * sound.samplerate:
                raise ClipTooLong(_too_long(sound.frames / sound.samplerate))
            pcm = b"".join(_pcm_blocks(sound))
    except (soundfile.SoundFileError, RuntimeError, ValueError, TypeError) as error:
        raise ClipNotAudio("this is not audio in a format that can be read") from error
    if not pcm:
        raise ClipNotAudio("the audio is empty")
    return pcm


def _pcm_blocks(sound: soundfile.SoundFile) -> Iterable[bytes]:
    resampler = soxr.ResampleStream(sound.samplerate, SAMPLE_RATE_HZ, 1, dtype="float32")
    frames = 0
    while True:
        block = sound.read(DECODE_BLOCK_FRAMES, dtype="float32", always_2d=True)
        last = len(block) < DECODE_BLOCK_FRAMES
        frames += len(block)
        if frames > MAX_CLIP_S * sound.samplerate:  # headers can lie
            raise ClipTooLong(_too_long(frames / sound.samplerate))
        mono = block.mean(axis=1, dtype=np.float32)
        resampled = resampler.resample_chunk(mono, last=last)
        yield (np.clip(resampled, -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes()
        if last:
            return


def _too_long(seconds: float) -> str:
    return f"the clip lasts {seconds:.0f} s or more; {MAX_CLIP_S:.0f} s are allowed"
