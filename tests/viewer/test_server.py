"""The viewer's web server over real HTTP, without a browser."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import re
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from avatar_sessions.contract.states import EndReason, Pose, SessionState
from tests.viewer.conftest import FAKE_TOKEN, PlayedSession
from viewer import ViewerPortInUse, ViewerServer, ViewerStatus
from viewer.page import STATIC_FOLDER
from viewer.source import REASONS


def parts(link: str) -> tuple[str, str]:
    """The page's path and the code of an invitation's link."""
    page, _, code = link.partition("#")
    return httpx.URL(page).path, code


async def enter(client: httpx.AsyncClient, link: str) -> tuple[str, httpx.Response]:
    """Do what the page does first: exchange the code."""
    path, code = parts(link)
    return path, await client.post(f"{path}/access", json={"code": code})


async def test_a_code_buys_access_and_a_pass_for_this_page(
    viewer: ViewerServer, client: httpx.AsyncClient, session: PlayedSession
) -> None:
    path, answer = await enter(client, viewer.invite("support-42"))

    assert answer.status_code == 200
    told = answer.json()
    assert told["session_key"] == "support-42"
    assert told["livekit_url"] == "ws://127.0.0.1:1"
    assert told["token"] == FAKE_TOKEN
    assert session.keys == ["support-42"]
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert f"path={path}".lower() in cookie
    assert answer.headers["cache-control"] == "no-store"


async def test_the_pass_lets_the_page_reload_even_with_the_code_still_in_hand(
    viewer: ViewerServer, client: httpx.AsyncClient
) -> None:
    link = viewer.invite("support-42")
    path, _ = await enter(client, link)

    again = await client.post(f"{path}/access", json={})
    _, with_code = await enter(client, link)

    assert again.json()["token"] == FAKE_TOKEN
    assert with_code.json()["token"] == FAKE_TOKEN


async def test_a_used_code_opens_nothing_for_another_browser(
    viewer: ViewerServer, client: httpx.AsyncClient, session: PlayedSession
) -> None:
    link = viewer.invite("support-42")
    await enter(client, link)

    async with httpx.AsyncClient(base_url=viewer.url) as stranger:
        _, answer = await enter(stranger, link)

    assert answer.status_code == 410
    assert answer.json()["error"] == "invitation_used"
    assert "ask for a new one" in answer.json()["message"]
    assert len(session.keys) == 1


async def test_an_expired_code_says_so(session: PlayedSession) -> None:
    async with (
        ViewerServer(session, port=0, invitation_ttl_s=0) as viewer,
        httpx.AsyncClient(base_url=viewer.url) as client,
    ):
        _, answer = await enter(client, viewer.invite("support-42"))

    assert answer.status_code == 410
    assert answer.json()["message"] == "This link has expired. Ask for a new one."


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/watch/never-invited/access", b'{"code": "x"}', 404),
        ("/watch/never-invited/access", b"{}", 404),
        ("/watch/never-invited/access", b"not json", 400),
        ("/watch/never-invited/access", b'{"code": 7}', 400),
        ("/watch/never-invited/access", b'{"code": "' + b"x" * 10_000 + b'"}', 400),
    ],
)
async def test_a_page_without_an_invitation_gets_a_sentence(
    client: httpx.AsyncClient, path: str, body: bytes, status: int
) -> None:
    answer = await client.post(path, content=body)

    assert answer.status_code == status
    assert answer.json()["message"].endswith(".")


async def test_no_access_is_asked_for_before_the_session_is_live(
    viewer: ViewerServer, client: httpx.AsyncClient, session: PlayedSession
) -> None:
    session.becomes(SessionState.STARTING)

    path, answer = await enter(client, viewer.invite("support-42"))
    session.becomes(SessionState.LIVE)
    later = await client.post(f"{path}/access", json={})

    assert answer.json()["token"] is None
    assert answer.json()["status"]["state"] == "STARTING"
    assert later.json()["token"] == FAKE_TOKEN
    assert session.keys == ["support-42"]


async def test_trouble_at_the_source_does_not_cost_the_viewer_the_code(
    viewer: ViewerServer, client: httpx.AsyncClient, session: PlayedSession
) -> None:
    session.trouble = "Temporal does not answer."

    path, answer = await enter(client, viewer.invite("support-42"))
    session.trouble = None
    later = await client.post(f"{path}/access", json={})

    assert answer.status_code == 503
    assert answer.json()["message"] == "Temporal does not answer."
    assert later.json()["token"] == FAKE_TOKEN


async def test_each_answer_tells_the_whole_state(
    viewer: ViewerServer, client: httpx.AsyncClient, session: PlayedSession
) -> None:
    live_at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    session.becomes(SessionState.LIVE, live_at=live_at, pose=Pose.LISTENING)
    path, _ = await enter(client, viewer.invite("support-42"))

    live = (await client.get(f"{path}/status")).json()
    session.becomes(
        SessionState.FAILED, end_reason=EndReason.START_FAILED, detail="No credits left."
    )
    failed = (await client.get(f"{path}/status")).json()

    assert live["next_in_s"] == 0.02
    assert live["status"]["state"] == "LIVE"
    assert live["status"]["live_at"] == live_at.isoformat()
    assert live["status"]["pose"] == "listening"
    assert failed["status"]["state"] == "FAILED"
    assert failed["status"]["live_at"] == live_at.isoformat()
    assert failed["status"]["end_reason"] == "start_failed"
    assert failed["status"]["reason"] == "The avatar could not be started."
    assert failed["status"]["detail"] == "No credits left."


async def test_a_session_that_does_not_tell_its_state_is_said_to_be_unavailable(
    viewer: ViewerServer, client: httpx.AsyncClient, session: PlayedSession
) -> None:
    path, _ = await enter(client, viewer.invite("support-42"))
    session.trouble = "Temporal does not answer."

    answer = await client.get(f"{path}/status")

    assert answer.status_code == 503
    assert answer.json()["message"] == "Temporal does not answer."


async def test_the_state_is_for_those_with_a_pass(
    viewer: ViewerServer, client: httpx.AsyncClient
) -> None:
    path, _ = parts(viewer.invite("support-42"))

    answer = await client.get(f"{path}/status")

    assert answer.status_code == 404
    assert "invitation" in answer.json()["message"]


def test_what_holds_a_token_does_not_show_it(session: PlayedSession) -> None:
    """Pytest prints the locals of a failing test, and a traceback may print ours."""
    assert FAKE_TOKEN not in repr(session)
    assert session.granted.token.get_secret_value() == FAKE_TOKEN


def test_every_end_reason_has_words() -> None:
    for reason in EndReason:
        told = ViewerStatus(SessionState.ENDED, end_reason=reason).public()["reason"]
        assert re.fullmatch(r"[A-Z].*\.", told)
    assert set(REASONS) == set(EndReason)


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
    reader, writer = await asyncio.open_connection(host, int(port))  # a client would tidy the path
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
async def test_files_say_what_they_are_and_carry_the_security_headers(
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


async def test_the_page_may_talk_to_the_livekit_server_it_was_given_and_no_other(
    session: PlayedSession,
) -> None:
    async with (
        ViewerServer(session, port=0, livekit_url="wss://rooms.example.org") as viewer,
        httpx.AsyncClient(base_url=viewer.url) as client,
    ):
        policy = (await client.get("/")).headers["content-security-policy"]

    (directive,) = [one for one in policy.split("; ") if one.startswith("connect-src")]
    assert directive == "connect-src 'self' wss://rooms.example.org https://rooms.example.org"


async def test_without_npm_the_page_takes_livekit_client_from_a_cdn_by_hash(
    session: PlayedSession, tmp_path: Path
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


async def test_another_site_gets_nothing(
    viewer: ViewerServer, client: httpx.AsyncClient, session: PlayedSession
) -> None:
    path, code = parts(viewer.invite("support-42"))

    by_name = await client.get("/", headers={"host": "rebound.example.org"})
    by_script = await client.post(
        f"{path}/access", json={"code": code}, headers={"origin": "https://example.org"}
    )

    assert by_name.status_code == 400
    assert by_script.status_code == 403
    assert session.keys == []


async def test_a_taken_port_is_named_with_the_setting_that_changes_it(
    viewer: ViewerServer, session: PlayedSession
) -> None:
    port = int(viewer.url.rpartition(":")[2])

    with pytest.raises(ViewerPortInUse, match=rf"port {port}.*VIEWER_PORT"):
        await ViewerServer(session, port=port).__aenter__()


async def test_the_server_closes_at_once_while_a_page_follows_the_session(
    session: PlayedSession,
) -> None:
    async with httpx.AsyncClient(timeout=10) as client:
        async with ViewerServer(session, port=0) as viewer:
            client.base_url = httpx.URL(viewer.url)
            path, _ = await enter(client, viewer.invite("support-42"))
            assert (await client.get(f"{path}/status")).status_code == 200
            began_at = time.monotonic()  # the connection stays open for the next question
        closed_in_s = time.monotonic() - began_at

    assert closed_in_s < 2


async def test_neither_code_nor_token_nor_pass_is_logged(
    session: PlayedSession, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with (
            ViewerServer(session, port=0) as viewer,
            httpx.AsyncClient(base_url=viewer.url) as client,
        ):
            link = viewer.invite("support-42")
            await enter(client, link)
            (cookie,) = client.cookies.jar

    ours = "\n".join(one.getMessage() for one in caplog.records if one.name[:4] != "http")
    assert parts(link)[1] not in ours
    assert FAKE_TOKEN not in ours
    assert cookie.value is not None
    assert cookie.value not in ours
