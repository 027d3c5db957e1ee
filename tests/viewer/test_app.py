"""The viewer's routes over real HTTP, without a browser."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

import httpx
import pytest

from avatar_sessions.contract.states import EndReason, Pose, SessionState
from tests.support.scripted_session import FAKE_TOKEN, ScriptedSession
from viewer import ViewerServer


def parts(link: str) -> tuple[str, str]:
    """The page's path and the code of an invitation's link."""
    page, _, code = link.partition("#")
    return httpx.URL(page).path, code


async def redeem(client: httpx.AsyncClient, link: str) -> tuple[str, httpx.Response]:
    """Redeem the code, as the page does first."""
    path, code = parts(link)
    return path, await client.post(f"{path}/access", json={"code": code})


async def test_a_code_is_redeemed_for_access_and_a_pass_for_this_page(
    viewer: ViewerServer, client: httpx.AsyncClient, session: ScriptedSession
) -> None:
    path, answer = await redeem(client, viewer.invite("support-42"))

    assert answer.status_code == 200
    body = answer.json()
    assert body["session_key"] == "support-42"
    assert body["livekit_url"] == "ws://127.0.0.1:1"
    assert body["token"] == FAKE_TOKEN
    assert session.keys == ["support-42"]
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert f"path={path}".lower() in cookie
    assert answer.headers["cache-control"] == "no-store"


async def test_the_pass_allows_a_reload_even_with_the_code(
    viewer: ViewerServer, client: httpx.AsyncClient
) -> None:
    link = viewer.invite("support-42")
    path, _ = await redeem(client, link)

    again = await client.post(f"{path}/access", json={})
    _, with_code = await redeem(client, link)

    assert again.json()["token"] == FAKE_TOKEN
    assert with_code.json()["token"] == FAKE_TOKEN


async def test_a_used_code_opens_nothing_for_another_browser(
    viewer: ViewerServer, client: httpx.AsyncClient, session: ScriptedSession
) -> None:
    link = viewer.invite("support-42")
    await redeem(client, link)

    async with httpx.AsyncClient(base_url=viewer.url) as stranger:
        _, answer = await redeem(stranger, link)

    assert answer.status_code == 410
    assert answer.json()["error"] == "invitation_used"
    assert "ask for a new one" in answer.json()["message"]
    assert len(session.keys) == 1


async def test_an_expired_code_says_so(session: ScriptedSession) -> None:
    async with (
        ViewerServer(session, port=0, invitation_ttl_s=0) as viewer,
        httpx.AsyncClient(base_url=viewer.url) as client,
    ):
        _, answer = await redeem(client, viewer.invite("support-42"))

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


async def test_access_is_not_requested_before_the_session_is_live(
    viewer: ViewerServer, client: httpx.AsyncClient, session: ScriptedSession
) -> None:
    session.becomes(SessionState.STARTING)

    path, answer = await redeem(client, viewer.invite("support-42"))
    session.becomes(SessionState.LIVE)
    later = await client.post(f"{path}/access", json={})

    assert answer.json()["token"] is None
    assert answer.json()["status"]["state"] == "STARTING"
    assert later.json()["token"] == FAKE_TOKEN
    assert session.keys == ["support-42"]


async def test_a_failing_source_does_not_use_up_the_code(
    viewer: ViewerServer, client: httpx.AsyncClient, session: ScriptedSession
) -> None:
    session.failure = "Temporal does not answer."

    path, answer = await redeem(client, viewer.invite("support-42"))
    session.failure = None
    later = await client.post(f"{path}/access", json={})

    assert answer.status_code == 503
    assert answer.json()["message"] == "Temporal does not answer."
    assert later.json()["token"] == FAKE_TOKEN


async def test_each_response_is_the_whole_state(
    viewer: ViewerServer, client: httpx.AsyncClient, session: ScriptedSession
) -> None:
    live_at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    session.becomes(SessionState.LIVE, live_at=live_at, pose=Pose.LISTENING)
    path, _ = await redeem(client, viewer.invite("support-42"))

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


async def test_a_session_without_status_is_unavailable(
    viewer: ViewerServer, client: httpx.AsyncClient, session: ScriptedSession
) -> None:
    path, _ = await redeem(client, viewer.invite("support-42"))
    session.failure = "Temporal does not answer."

    answer = await client.get(f"{path}/status")

    assert answer.status_code == 503
    assert answer.json()["message"] == "Temporal does not answer."


async def test_the_status_needs_a_pass(viewer: ViewerServer, client: httpx.AsyncClient) -> None:
    path, _ = parts(viewer.invite("support-42"))

    answer = await client.get(f"{path}/status")

    assert answer.status_code == 404
    assert "invitation" in answer.json()["message"]


def test_reprs_do_not_show_the_token(session: ScriptedSession) -> None:
    """pytest prints the locals of a failing test, and a traceback may hold the session."""
    assert FAKE_TOKEN not in repr(session)
    assert session.granted.token.get_secret_value() == FAKE_TOKEN


async def test_requests_from_another_site_are_refused(
    viewer: ViewerServer, client: httpx.AsyncClient, session: ScriptedSession
) -> None:
    path, code = parts(viewer.invite("support-42"))

    by_name = await client.get("/", headers={"host": "rebound.example.org"})
    by_script = await client.post(
        f"{path}/access", json={"code": code}, headers={"origin": "https://example.org"}
    )

    assert by_name.status_code == 400
    assert by_script.status_code == 403
    assert session.keys == []


async def test_neither_code_nor_token_nor_pass_is_logged(
    session: ScriptedSession, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with (
            ViewerServer(session, port=0) as viewer,
            httpx.AsyncClient(base_url=viewer.url) as client,
        ):
            link = viewer.invite("support-42")
            await redeem(client, link)
            (cookie,) = client.cookies.jar

    logged = "\n".join(one.getMessage() for one in caplog.records if one.name[:4] != "http")
    assert parts(link)[1] not in logged
    assert FAKE_TOKEN not in logged
    assert cookie.value is not None
    assert cookie.value not in logged
