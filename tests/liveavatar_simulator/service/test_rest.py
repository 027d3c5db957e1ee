"""The REST API: status codes, envelopes and texts as LiveAvatar's, over HTTP on loopback."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from liveavatar_simulator import Faults, SimulatedPhase
from tests.support.simulator import OTHER_AVATAR_ID, Simulate, SimulatorCaller
from tests.support.waiting import until

UNKNOWN_AVATAR_ID = "5a9f1b0e-3c54-4d8a-9b65-1f0c2f6d7a11"


def assert_refused(reply: httpx.Response, status: int, code: int) -> str:
    body = reply.json()
    assert (reply.status_code, body["code"], body["data"]) == (status, code, None)
    message: str = body["message"]
    return message


# --- minting --------------------------------------------------------------------------------------


async def test_a_token_comes_with_200_code_1000_and_a_message(caller: SimulatorCaller) -> None:
    reply = await caller.mint()

    assert reply.status_code == 200
    body = reply.json()
    assert body["code"] == 1000
    assert isinstance(body["message"], str)
    assert set(body["data"]) == {"session_id", "session_token"}


async def test_the_token_is_a_jwt_with_mode_lite(caller: SimulatorCaller) -> None:
    token = (await caller.mint()).json()["data"]["session_token"]

    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["start_session_data"]["mode"] == "LITE"


async def test_minting_bills_nothing(caller: SimulatorCaller) -> None:
    session_id = (await caller.mint()).json()["data"]["session_id"]

    ledger = caller.simulator.ledger()
    assert (ledger.minted, ledger.started, ledger.open) == (1, 0, 0)
    assert caller.line(session_id).started_at is None
    listed = await caller.http.get(f"/v1/sessions/{session_id}")
    assert listed.json() == {"code": 1000, "data": None, "message": "Success"}


async def test_a_duration_over_the_sandbox_is_refused_in_the_known_words(
    caller: SimulatorCaller,
) -> None:
    reply = await caller.mint(is_sandbox=True, max_session_duration=180)

    message = assert_refused(reply, 400, 4000)
    assert message == "max_session_duration (180s) exceeds the maximum allowed (60s)"


async def test_a_duration_over_the_plan_is_refused_with_the_plans_maximum(
    simulate: Simulate,
) -> None:
    caller = await simulate(plan_max_duration_s=600)

    reply = await caller.mint(max_session_duration=601)

    message = assert_refused(reply, 400, 4000)
    assert message == "max_session_duration (601s) exceeds the maximum allowed (600s)"


@pytest.mark.parametrize(
    ("sandbox", "avatar_id"), [(True, OTHER_AVATAR_ID), (False, UNKNOWN_AVATAR_ID)]
)
async def test_an_unknown_avatar_is_refused_at_the_token(
    caller: SimulatorCaller, sandbox: bool, avatar_id: str
) -> None:
    assert_refused(await caller.mint(is_sandbox=sandbox, avatar_id=avatar_id), 400, 4000)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"avatar_id": None}, ["body", "avatar_id"]),
        ({"avatar_id": "wayne"}, ["body", "avatar_id"]),
        ({"mode": "FULL"}, ["body", "mode"]),
        ({"video_settings": {"quality": "huge"}}, ["body", "video_settings", "quality"]),
        ({"livekit_config": {"url": "ws://x", "token": "t"}}, ["body", "livekit_config"]),
    ],
)
async def test_a_body_that_is_not_valid_gets_fastapis_422_without_envelope(
    caller: SimulatorCaller, fields: dict[str, Any], place: list[str]
) -> None:
    reply = await caller.mint(**fields)

    assert reply.status_code == 422
    assert set(reply.json()) == {"detail"}
    assert reply.json()["detail"][0]["loc"][: len(place)] == place


async def test_a_missing_avatar_reads_field_required(caller: SimulatorCaller) -> None:
    reply = await caller.http.post("/v1/sessions/token", json={"mode": "LITE"})

    [problem] = reply.json()["detail"]
    assert (problem["loc"], problem["msg"]) == (["body", "avatar_id"], "Field required")


async def test_unknown_keys_are_ignored(caller: SimulatorCaller) -> None:
    assert (await caller.mint(video_quality="high", voice_id="x")).status_code == 200


# --- credentials ----------------------------------------------------------------------------------


async def test_a_wrong_key_is_401_even_with_a_bad_body(caller: SimulatorCaller) -> None:
    reply = await caller.http.post(
        "/v1/sessions/token", json={}, headers={"X-API-KEY": "wrong-key"}
    )

    assert "wrong-key" not in assert_refused(reply, 401, 4001)


async def test_a_bearer_token_may_not_mint_and_a_key_may_not_start(caller: SimulatorCaller) -> None:
    token = (await caller.mint()).json()["data"]["session_token"]
    bearer = {"Authorization": f"Bearer {token}", "X-API-KEY": ""}

    minting = await caller.http.post("/v1/sessions/token", json={}, headers=bearer)
    starting = await caller.http.post("/v1/sessions/start")

    assert_refused(minting, 401, 4001)
    assert_refused(starting, 401, 4001)


async def test_a_token_of_another_simulator_is_invalid(simulate: Simulate) -> None:
    one, other = await simulate(), await simulate()

    assert_refused(await other.start(await one.mint()), 401, 4001)


async def test_the_web_sdk_may_call_from_a_page(caller: SimulatorCaller) -> None:
    origin = "http://localhost:3000"
    preflight = await caller.http.options(
        "/v1/sessions/start",
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        },
    )
    refused = await caller.http.post("/v1/sessions/start", headers={"Origin": origin})

    for reply in (preflight, refused):
        assert reply.headers["access-control-allow-origin"] == origin
        assert reply.headers["access-control-allow-credentials"] == "true"
    assert preflight.status_code == 200


# --- starting -------------------------------------------------------------------------------------


async def test_a_start_is_201_and_returns_all_six_fields(caller: SimulatorCaller) -> None:
    minted = await caller.mint(max_session_duration=90)

    reply = await caller.start(minted)

    assert reply.status_code == 201
    started = reply.json()["data"]
    assert set(started) == {
        "session_id",
        "livekit_url",
        "livekit_client_token",
        "livekit_agent_token",
        "max_session_duration",
        "ws_url",
    }
    assert started["session_id"] == minted.json()["data"]["session_id"]
    assert started["max_session_duration"] == 90
    assert caller.simulator.ledger().open == 1


async def test_a_shorter_limit_does_not_shorten_a_sandbox_session(caller: SimulatorCaller) -> None:
    started = await caller.started(is_sandbox=True, max_session_duration=30)

    assert started["max_session_duration"] == 60


async def test_a_connector_gets_no_ws_url(caller: SimulatorCaller) -> None:
    config = {"secret_id": str(uuid4()), "agent_id": "a"}

    started = await caller.started(elevenlabs_agent_config=config)

    assert "ws_url" not in started


async def test_the_avatars_own_token_never_comes_back(caller: SimulatorCaller) -> None:
    """A client joined the caller's room with the token of the reply, which was the avatar's.

    The two disconnected each other until the client's media library crashed the process.
    """
    own = {"livekit_url": "ws://own", "livekit_room": "r", "livekit_client_token": "avatar.s.own"}

    started = await caller.started(livekit_config=own)

    assert started["livekit_client_token"]
    assert "avatar.s.own" not in json.dumps(started)


async def test_a_token_starts_once(caller: SimulatorCaller) -> None:
    minted = await caller.mint()
    await caller.start(minted)

    assert_refused(await caller.start(minted), 400, 4000)
    assert caller.simulator.ledger().started == 1


async def test_over_the_concurrency_limit_the_token_is_minted_and_the_start_403(
    simulate: Simulate,
) -> None:
    caller = await simulate(concurrency_limit=1)
    first = await caller.started()
    minted = await caller.mint()

    message = assert_refused(await caller.start(minted), 403, 4003)
    await caller.stop(first["session_id"])
    again = await caller.start(minted)

    assert message == "Session concurrency limit reached"
    assert again.status_code == 201


async def test_without_credits_only_the_sandbox_starts(simulate: Simulate) -> None:
    caller = await simulate(credits=0.9)

    refused = await caller.start(await caller.mint())
    sandbox = await caller.start(await caller.mint(is_sandbox=True))

    assert "credits" in assert_refused(refused, 403, 4002).lower()
    assert sandbox.status_code == 201


# --- managing and ending --------------------------------------------------------------------------


async def test_a_repeated_stop_is_200_and_an_unknown_session_404(caller: SimulatorCaller) -> None:
    started = await caller.started()

    for _ in range(2):
        reply = await caller.stop(started["session_id"], reason="USER_DISCONNECTED")
        assert (reply.status_code, reply.json()["data"]) == (200, None)
    assert_refused(await caller.stop(str(uuid4())), 404, 4004)
    assert caller.line(started["session_id"]).end_reason == "USER_DISCONNECTED"
    assert caller.simulator.ledger().model_dump(include={"started", "stopped", "open"}) == {
        "started": 1,
        "stopped": 1,
        "open": 0,
    }


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "USER_CLOSED"), (b"{}", "UNKNOWN")], ids=["no-body", "no-field"]
)
async def test_the_default_reason_depends_on_whether_there_is_a_body(
    caller: SimulatorCaller, content: bytes, reason: str
) -> None:
    minted = await caller.mint()
    await caller.start(minted)
    session = minted.json()["data"]
    bearer = {"Authorization": f"Bearer {session['session_token']}", "X-API-KEY": ""}

    reply = await caller.http.post(
        "/v1/sessions/stop",
        content=content,
        headers={**bearer, "Content-Type": "application/json"},
    )

    assert reply.status_code == 200
    assert caller.line(session["session_id"]).end_reason == reason


async def test_a_stop_with_a_key_must_name_the_session(caller: SimulatorCaller) -> None:
    reply = await caller.http.post("/v1/sessions/stop", json={})

    assert_refused(reply, 400, 4000)


async def test_delete_is_405_and_the_session_runs_on(caller: SimulatorCaller) -> None:
    started = await caller.started()

    reply = await caller.http.delete(f"/v1/sessions/{started['session_id']}")

    assert reply.status_code == 405
    assert caller.simulator.ledger().open == 1


async def test_keep_alive_is_200_while_the_session_runs_and_404_after(
    caller: SimulatorCaller,
) -> None:
    started = await caller.started()
    body = {"session_id": started["session_id"]}

    running = await caller.http.post("/v1/sessions/keep-alive", json=body)
    await caller.stop(started["session_id"])
    ended = await caller.http.post("/v1/sessions/keep-alive", json=body)

    assert running.status_code == 200
    assert_refused(ended, 404, 4004)


async def test_the_list_separates_active_from_historic_and_has_no_status(
    caller: SimulatorCaller,
) -> None:
    started = [await caller.started() for _ in range(3)]
    await caller.stop(started[0]["session_id"], reason="USER_CLOSED")

    active = (await caller.http.get("/v1/sessions", params={"type": "active"})).json()["data"]
    historic = (await caller.http.get("/v1/sessions", params={"type": "historic"})).json()["data"]

    assert active["count"] == 2
    assert [row["id"] for row in active["results"]] == [
        started[2]["session_id"],
        started[1]["session_id"],
    ]
    [row] = historic["results"]
    assert (row["id"], row["end_reason"]) == (started[0]["session_id"], "USER_CLOSED")
    assert row["mode"] == "LITE"
    assert "status" not in row


async def test_the_list_is_paged_and_requires_a_type(caller: SimulatorCaller) -> None:
    for _ in range(3):
        await caller.started()

    untyped = await caller.http.get("/v1/sessions")
    first = await caller.http.get("/v1/sessions", params={"type": "active", "page_size": 2})
    rest = await caller.http.get(first.json()["data"]["next"])

    assert untyped.status_code == 422
    assert len(first.json()["data"]["results"]) == 2
    assert len(rest.json()["data"]["results"]) == 1
    assert rest.json()["data"]["next"] is None


async def test_credits_are_a_decimal_string_and_the_catalogue_needs_no_key(
    caller: SimulatorCaller,
) -> None:
    credits_left = await caller.http.get("/v1/users/credits")
    avatars = await caller.http.get("/v1/avatars/public", headers={"X-API-KEY": ""})

    assert credits_left.json()["data"] == {"credits_left": "1000.0"}
    assert avatars.json()["data"]["results"][0]["name"] == "Wayne"


async def test_calls_over_the_limit_are_429_with_the_documented_headers(
    simulate: Simulate,
) -> None:
    caller = await simulate(calls_per_s=2)

    replies = [await caller.http.get("/v1/users/credits") for _ in range(6)]

    limited = [reply for reply in replies if reply.status_code == 429]
    assert limited, "six calls within a second or two, two a second allowed"
    assert limited[0].headers["retry-after"] == "1"
    assert replies[0].headers["x-ratelimit-limit"] == "2"
    assert replies[0].headers["x-ratelimit-remaining"] == "1"


# --- faults ---------------------------------------------------------------------------------------


async def test_a_lost_reply_leaves_a_session_that_runs(caller: SimulatorCaller) -> None:
    caller.simulator.faults = Faults(lost_start_replies=1)
    minted = await caller.mint()

    with pytest.raises(httpx.RemoteProtocolError):
        await caller.start(minted)

    assert caller.simulator.ledger().open == 1


async def test_a_start_that_its_caller_abandoned_is_billed(caller: SimulatorCaller) -> None:
    caller.simulator.faults = Faults(slow_start_s=0.3)
    minted = await caller.mint()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await caller.start(minted)

    await until(lambda: caller.simulator.ledger().open == 1)


async def test_a_stop_during_the_start_wins(caller: SimulatorCaller) -> None:
    caller.simulator.faults = Faults(slow_start_s=0.3)
    minted = await caller.mint()
    session_id = minted.json()["data"]["session_id"]
    starting = asyncio.create_task(caller.start(minted))
    session = caller.simulator.sessions[session_id]
    await until(lambda: session.phase is SimulatedPhase.STARTING)

    stopped = await caller.stop(session_id)

    assert stopped.status_code == 200
    assert_refused(await starting, 400, 4000)
    assert caller.simulator.ledger().open == 0


async def test_counted_faults_are_set_over_http_and_used_up(caller: SimulatorCaller) -> None:
    faults = {"token_failures": 1, "start_failures": 1, "stop_failures": 1}
    reply = await caller.http.post("/simulator/faults", json=faults)
    assert reply.status_code == 200

    assert (await caller.mint()).status_code == 503
    minted = await caller.mint()
    assert (await caller.start(minted)).status_code == 500
    assert (await caller.start(minted)).status_code == 201
    session_id = minted.json()["data"]["session_id"]
    assert (await caller.stop(session_id)).status_code == 503
    assert caller.simulator.ledger().open == 1
    assert (await caller.stop(session_id)).status_code == 200


async def test_a_misspelt_fault_is_refused(caller: SimulatorCaller) -> None:
    reply = await caller.http.post("/simulator/faults", json={"start_failure": 1})

    assert reply.status_code == 422
