"""The page's files over HTTP: what is served, its headers, and livekit-client by its hash."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import httpx
import pytest

from tests.support.scripted_session import ScriptedSession
from viewer import ViewerServer
from viewer.page import STATIC_FOLDER


@pytest.mark.parametrize(
    "path",
    [
        "/static/../viewer.js",
        "/static/..%2f..%2fpyproject.toml",
        "/static/%2e%2e/package.json",
        "/static/package.json",
        "/static/index.html",
        "/static/.npmrc",
        "/static/node_modules",
        "/static/no-such-file.js",
        "/static//etc/passwd",
        "/vendor/../package.json",
        "/vendor/anything.mjs",
        "/package.json",
    ],
)
async def test_nothing_but_the_pages_own_files_is_served(viewer: ViewerServer, path: str) -> None:
    host, port = viewer.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(
        host, int(port)
    )  # an HTTP client would normalize the path
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()

    assert b" 404 " in answer.splitlines()[0]


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/watch/any", "text/html; charset=utf-8"),
        ("/static/viewer.js", "text/javascript; charset=utf-8"),
        ("/static/style.css", "text/css; charset=utf-8"),
        ("/static/icon.svg", "image/svg+xml"),
    ],
)
async def test_files_have_their_media_type_and_the_security_headers(
    client: httpx.AsyncClient, path: str, media_type: str
) -> None:
    answer = await client.get(path)

    assert answer.status_code == 200
    assert answer.headers["content-type"] == media_type
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert "camera=()" in answer.headers["permissions-policy"]
    assert "microphone=(self)" in answer.headers["permissions-policy"]


async def test_the_page_may_reach_only_the_configured_livekit_server(
    session: ScriptedSession,
) -> None:
    async with (
        ViewerServer(session, port=0, livekit_url="wss://rooms.example.org") as viewer,
        httpx.AsyncClient(base_url=viewer.url) as client,
    ):
        policy = (await client.get("/")).headers["content-security-policy"]

    (directive,) = [one for one in policy.split("; ") if one.startswith("connect-src")]
    assert directive == "connect-src 'self' wss://rooms.example.org https://rooms.example.org"


async def test_without_npm_the_page_loads_livekit_client_from_a_cdn_by_hash(
    session: ScriptedSession, tmp_path: Path
) -> None:
    web = tmp_path / "web"
    shutil.copytree(STATIC_FOLDER, web, ignore=shutil.ignore_patterns("node_modules"))

    async with (
        ViewerServer(session, port=0, static_folder=web) as viewer,
        httpx.AsyncClient(base_url=viewer.url) as client,
    ):
        page = await client.get("/")

    found = re.search(r'<script type="importmap">(.*?)</script>', page.text)
    assert found is not None
    imports = json.loads(found[1])
    url = imports["imports"]["livekit-client"]
    pinned = json.loads((STATIC_FOLDER / "package.json").read_text())
    assert f"livekit-client@{pinned['dependencies']['livekit-client']}/" in url
    assert imports["integrity"][url] == pinned["livekitClientIntegrity"]
    digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
    policy = page.headers["content-security-policy"]
    assert f"'sha256-{digest}'" in policy
    assert f"https://{httpx.URL(url).host}" in policy


def test_the_pinned_hash_is_that_of_the_installed_library(livekit_client: None) -> None:
    """A new version of livekit-client needs its new hash beside it in package.json."""
    file = STATIC_FOLDER / "node_modules" / "livekit-client" / "dist" / "livekit-client.esm.mjs"

    digest = base64.b64encode(hashlib.sha384(file.read_bytes()).digest()).decode()

    pinned = json.loads((STATIC_FOLDER / "package.json").read_text())
    assert pinned["livekitClientIntegrity"] == f"sha384-{digest}"
