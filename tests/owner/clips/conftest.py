"""A web server with a clip, and a source that may read it."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from avatar_sessions.seal import Seal
from owner.clips.address_policy import ClipPolicy
from owner.clips.source import ClipSource
from tests.support.encoded_clips import Site


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return await site.answer(request)
        except ConnectionError:  # the reader has closed
            return web.Response()

    app = web.Application()
    app.add_routes([web.get("/clip", answer)])
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
