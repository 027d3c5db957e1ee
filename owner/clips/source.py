"""Opens clips: reads or fetches recorded speech, checks where it comes from, and decodes it.

In: an address or a file name, both untrusted. Out: PCM in LITE's format, piece by piece, or a
typed error. Plays nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import httpx

from avatar_sessions.contract.messages import MAX_CLIP_S, Clip
from avatar_sessions.seal import Seal, SealError
from owner.clips.address_policy import ClipPolicy, checked_ip
from owner.clips.decoder import MAX_CLIP_BYTES, Decoder
from owner.clips.errors import (
    ClipError,
    ClipForbidden,
    ClipMissing,
    ClipNotAudio,
    ClipTooLong,
    ClipUnreachable,
)
from owner.clips.spool import Spool

__all__ = [
    "ClipError",
    "ClipForbidden",
    "ClipMissing",
    "ClipNotAudio",
    "ClipReader",
    "ClipSource",
    "ClipTooLong",
    "ClipUnreachable",
]

MAX_REDIRECTS: Final = 5
FETCH_TIMEOUT_S: Final = 60.0
"""Until the server has sent enough to begin with."""
BODY_TIMEOUT_S: Final = MAX_CLIP_S
"""Until it has sent all: a clip that arrives slower than it plays cannot be played."""
_TOO_LARGE: Final = f"more than {MAX_CLIP_BYTES // 1024**2} MiB"


class ClipReader:
    """An open clip, to be read once from its beginning. `ClipSource.open` makes and closes it.

    Attributes:
        duration_s: seconds of speech according to the clip's header; None where it does not say.
    """

    def __init__(self, spool: Spool) -> None:
        self.duration_s: float | None = None
        self._spool = spool
        # A thread of its own: it may wait for bytes, and must not occupy the shared pool meanwhile.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="clip")
        # Used by that thread only.
        self._decoder: Decoder | None = None
        self._first = b""

    async def read(self) -> bytes:
        """Return the next second or so of PCM, the first time less; ``b""`` at the end.

        Waits for bytes that have not arrived. PCM is 16-bit little-endian mono at 24 kHz.
        One call at a time; what a cancelled call would have returned is lost.

        Raises:
            ClipError: the rest cannot be played: it never arrived, or is damaged.
        """
        if self._first:
            first, self._first = self._first, b""
            return first
        assert self._decoder is not None
        return await asyncio.wrap_future(self._thread.submit(self._decoder.read))

    async def begin(self) -> None:
        """Read the header and the first PCM. For `ClipSource.open`."""
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                self._first = await asyncio.wrap_future(self._thread.submit(self._decode_first))
        except TimeoutError:
            raise ClipUnreachable(
                f"not enough of the clip arrived within {FETCH_TIMEOUT_S:.0f} s to begin with"
            ) from None
        assert self._decoder is not None
        self.duration_s = self._decoder.duration_s

    async def close(self) -> None:
        """End the thread, also one that waits for bytes. For `ClipSource.open`."""
        self._spool.close()
        ending = self._thread.submit(self._end)
        self._thread.shutdown(wait=False)
        await asyncio.wait([asyncio.wrap_future(ending)])

    def _decode_first(self) -> bytes:
        self._decoder = Decoder(self._spool)
        return self._decoder.read()

    def _end(self) -> None:
        if self._decoder is not None:
            self._decoder.close()


class ClipSource:
    """Turns clips into PCM."""

    def __init__(self, policy: ClipPolicy, seal: Seal) -> None:
        self._policy = policy
        self._seal = seal

    @asynccontextmanager
    async def open(self, clip: Clip) -> AsyncIterator[ClipReader]:
        """Open a clip; its first PCM is decoded by then.

        An open clip takes a few megabytes of memory, whatever its length. It has a thread and, if
        it comes from an address, a nameless temporary file; both are gone once it is closed, also
        when the block is cancelled.

        Raises:
            ClipError: the clip cannot be played.
        """
        async with self._encoded(clip) as spool:
            reader = ClipReader(spool)
            try:
                await reader.begin()
                yield reader
            finally:
                await reader.close()

    async def load(self, clip: Clip) -> bytes:
        """Return the whole clip as PCM: 16-bit little-endian mono at 24 kHz.

        Raises:
            ClipError: the clip cannot be played.
        """
        pcm = bytearray()
        async with self.open(clip) as reader:
            while piece := await reader.read():
                pcm += piece
        return bytes(pcm)

    @asynccontextmanager
    async def _encoded(self, clip: Clip) -> AsyncIterator[Spool]:
        if clip.file is not None:
            spool = self._file(clip.file)
            try:
                yield spool
            finally:
                spool.close()
        else:
            address = clip.url if clip.url is not None else self._unsealed(clip.sealed_url or "")
            async with self._fetched(address) as spool:
                yield spool

    def _unsealed(self, sealed_url: str) -> str:
        try:
            return self._seal.open(sealed_url).get_secret_value()
        except SealError as error:
            raise ClipForbidden(f"the clip's sealed address does not open: {error}") from error

    def _file(self, name: str) -> Spool:
        try:
            spool = Spool.of_file(self._inside_folder(name))
        except OSError as error:
            # The error's own text would reveal the folder's path.
            raise ClipMissing(
                f"the file cannot be read: {error.strerror or type(error).__name__}"
            ) from None
        if spool.arrived_bytes > MAX_CLIP_BYTES:
            spool.close()
            raise ClipTooLong(_TOO_LARGE)
        return spool

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

    @asynccontextmanager
    async def _fetched(self, address: str) -> AsyncIterator[Spool]:
        """The body of the response from an address, while it arrives."""
        async with httpx.AsyncClient(trust_env=False, timeout=10, follow_redirects=False) as http:
            with _unreachable_errors(address):
                async with asyncio.timeout(FETCH_TIMEOUT_S):
                    response = await self._follow(http, httpx.URL(address))
            try:
                spool = _spool_for(response)
                filling = asyncio.create_task(_fill(spool, response, address), name="fetch clip")
                try:
                    yield spool
                finally:
                    spool.close()
                    filling.cancel()
                    await asyncio.wait({filling})
                if not filling.cancelled():
                    filling.result()
            finally:
                await response.aclose()

    async def _follow(self, http: httpx.AsyncClient, url: httpx.URL) -> httpx.Response:
        for _ in range(MAX_REDIRECTS + 1):
            request = await self._pinned_request(http, url)
            response = await http.send(request, stream=True)
            if response.is_success:
                return response
            await response.aclose()
            if response.has_redirect_location:
                url = url.join(response.headers["location"])
            elif response.status_code in (404, 410):
                raise ClipMissing(f"{url.host} answered {response.status_code}")
            else:
                raise ClipUnreachable(f"{url.host} answered {response.status_code}")
        raise ClipUnreachable(f"more than {MAX_REDIRECTS} redirects")

    async def _pinned_request(self, http: httpx.AsyncClient, url: httpx.URL) -> httpx.Request:
        """A request to the IP address that was checked.

        A host name that is resolved twice may resolve differently (DNS rebinding), so the
        connection goes to the checked IP address; TLS and the Host header still carry the name.
        """
        if url.scheme not in ("http", "https"):
            raise ClipForbidden(f"clips are fetched by http or https, not by {url.scheme!r}")
        ip = await checked_ip(url, self._policy)
        headers = {"host": url.netloc.decode("ascii"), "accept": "audio/*, */*;q=0.1"}
        headers["accept-encoding"] = "identity"  # audio does not shrink
        return http.build_request(
            "GET",
            url.copy_with(host=ip, username=None, password=None),
            headers=headers,
            extensions={"sni_hostname": url.host},
        )


def _host(address: str) -> str:
    try:
        return httpx.URL(address).host or "the address"
    except httpx.InvalidURL:
        return "the address"


@contextmanager
def _unreachable_errors(address: str) -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
        # The address may be signed: the error names only its host.
        raise ClipUnreachable(
            f"{_host(address)} did not deliver the clip: {type(error).__name__}"
        ) from None


def _spool_for(response: httpx.Response) -> Spool:
    if (coding := response.headers.get("content-encoding", "identity")) != "identity":
        # A few compressed bytes could be a gigabyte.
        raise ClipNotAudio(
            f"the body is compressed ({coding[:20]}): serve clips without content encoding"
        )
    length = response.headers.get("content-length", "")
    promised_bytes = int(length) if length.isdecimal() else None
    if promised_bytes is not None and promised_bytes > MAX_CLIP_BYTES:
        raise ClipTooLong(_TOO_LARGE)
    try:
        return Spool.arriving(promised_bytes)
    except OSError as error:
        raise ClipError(_disk_error(error)) from None


async def _fill(spool: Spool, response: httpx.Response, address: str) -> None:
    """Write the body to the spool as it arrives. A reader that gets as far gets the failure."""
    try:
        with _unreachable_errors(address):
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for piece in response.aiter_raw():
                    await _keep(spool, piece)
        spool.complete()
    except ClipError as error:
        spool.fail(error)
    finally:  # no reader may wait for ever, not even after a bug
        spool.fail(ClipError("the fetch of the clip was given up"))


async def _keep(spool: Spool, piece: bytes) -> None:
    try:
        arrived_bytes = await asyncio.to_thread(spool.write, piece)
    except OSError as error:
        raise ClipError(_disk_error(error)) from None
    if arrived_bytes > MAX_CLIP_BYTES:
        raise ClipTooLong(_TOO_LARGE)


def _disk_error(error: OSError) -> str:
    return f"the clip cannot be kept on disk: {error.strerror or type(error).__name__}"
