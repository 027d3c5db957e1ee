"""The REST client: requests, and the error for each reply. With httpx's mock transport."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from liveavatar_lite import (
    WAYNE_AVATAR_ID,
    ApiError,
    BadRequest,
    ConcurrencyLimit,
    DurationOverPlan,
    Forbidden,
    InvalidRequest,
    LiteError,
    LiveAvatar,
    LiveKitConfig,
    NoCredits,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    SandboxAvatar,
    ServerError,
    ServiceUnreachable,
    SessionEndReason,
    StopOutcome,
    TokenRequest,
    Unauthorized,
    UnexpectedResponse,
    VideoEncoding,
    VideoQuality,
    VideoSettings,
)

API_KEY = "fake-api-key-0123456789"
SESSION_TOKEN = "fake-session-token-0123456789"
ROOM_TOKEN = "fake-room-token-0123456789"
REQUEST = TokenRequest(avatar_id=WAYNE_AVATAR_ID, is_sandbox=True)
MINTED = {"session_id": "s-1", "session_token": SESSION_TOKEN}


def envelope(data: object, *, code: int = 1000, message: str | None = "ok") -> dict[str, object]:
    return {"code": code, "data": data, "message": message}


class ScriptedService:
    """Answers each request with the next reply, and keeps the requests."""

    def __init__(self, *replies: httpx.Response | Callable[[httpx.Request], httpx.Response]):
        self.requests: list[httpx.Request] = []
        self._replies = list(replies)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self._replies.pop(0)
        return reply if isinstance(reply, httpx.Response) else reply(request)

    def client(self) -> LiveAvatar:
        return LiveAvatar(SecretStr(API_KEY), transport=httpx.MockTransport(self))

    def body(self, number: int = 0) -> Any:
        return json.loads(self.requests[number].content)


# --- requests -------------------------------------------------------------------------------


async def test_a_token_is_minted_with_the_key_and_the_whole_configuration() -> None:
    service = ScriptedService(httpx.Response(200, json=envelope(MINTED)))
    request = TokenRequest(
        avatar_id=WAYNE_AVATAR_ID,
        video_settings=VideoSettings(quality=VideoQuality.LOW, encoding=VideoEncoding.VP8),
        max_session_duration=600,
        livekit_config=LiveKitConfig(
            livekit_url="wss://livekit.example",
            livekit_room="room-1",
            livekit_client_token=SecretStr(ROOM_TOKEN),
        ),
    )

    async with service.client() as liveavatar:
        minted = await liveavatar.create_token(request)

    sent = service.requests[0]
    assert (sent.method, sent.url.path) == ("POST", "/v1/sessions/token")
    assert sent.headers["x-api-key"] == API_KEY
    assert "authorization" not in sent.headers
    assert service.body() == {
        "mode": "LITE",
        "avatar_id": WAYNE_AVATAR_ID,
        "is_sandbox": False,
        "video_settings": {"quality": "low", "encoding": "VP8"},
        "max_session_duration": 600,
        "livekit_config": {
            "livekit_url": "wss://livekit.example",
            "livekit_room": "room-1",
            "livekit_client_token": ROOM_TOKEN,
        },
    }
    assert minted.session_id == "s-1"
    assert minted.session_token.get_secret_value() == SESSION_TOKEN


async def test_a_start_sends_the_sessions_token_and_not_the_key() -> None:
    started = {
        "session_id": "s-1",
        "livekit_url": "wss://livekit.example",
        "livekit_client_token": "fake-viewer",
        "livekit_agent_token": "fake-agent",
        "max_session_duration": 60,
        "ws_url": "wss://media.example/secret",
    }
    service = ScriptedService(httpx.Response(201, json=envelope(started)))

    async with service.client() as liveavatar:
        session = await liveavatar.start_session(SecretStr(SESSION_TOKEN))

    sent = service.requests[0]
    assert sent.url.path == "/v1/sessions/start"
    assert sent.headers["authorization"] == f"Bearer {SESSION_TOKEN}"
    assert "x-api-key" not in sent.headers
    assert session.max_session_duration == 60
    assert session.ws_url is not None
    assert session.ws_url.get_secret_value() == "wss://media.example/secret"


@pytest.mark.parametrize("code", [100, 1000])
async def test_any_2xx_with_data_is_success(code: int) -> None:
    service = ScriptedService(httpx.Response(201, json=envelope(MINTED, code=code, message=None)))

    async with service.client() as liveavatar:
        assert (await liveavatar.create_token(REQUEST)).session_id == "s-1"


async def test_a_start_in_your_own_room_may_return_no_room() -> None:
    service = ScriptedService(
        httpx.Response(201, json=envelope({"session_id": "s-1", "ws_url": "wss://x"}))
    )

    async with service.client() as liveavatar:
        started = await liveavatar.start_session(SecretStr(SESSION_TOKEN))

    assert started.livekit_url is None
    assert started.livekit_client_token is None


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, StopOutcome.STOPPED), (404, StopOutcome.ALREADY_GONE)]
)
async def test_a_stop_succeeds_if_the_session_is_not_running(
    status: int, outcome: StopOutcome
) -> None:
    service = ScriptedService(httpx.Response(status, json=envelope(None)))

    async with service.client() as liveavatar:
        assert await liveavatar.stop_session("s-1") is outcome

    assert service.body() == {"session_id": "s-1", "reason": "USER_CLOSED"}


async def test_keep_alive_names_the_session() -> None:
    service = ScriptedService(httpx.Response(200, json=envelope(None)))

    async with service.client() as liveavatar:
        await liveavatar.keep_alive("s-1")

    assert service.requests[0].url.path == "/v1/sessions/keep-alive"
    assert service.body() == {"session_id": "s-1"}


def entry(session_id: str, **more: object) -> dict[str, object]:
    return {
        "id": session_id,
        "created_at": "2026-10-01T12:00:00",
        "updated_at": "2026-10-01T12:01:00Z",
        "duration": 60,
        "source": "API",
        "mode": "LITE",
        "is_sandbox": False,
        "credits_consumed": 1.6,
        **more,
    }


async def test_sessions_are_listed_over_all_pages_each_once() -> None:
    """A session that starts during paging moves the last entry of a page to the next page."""
    pages = [["a", "b"], ["b", "c"]]
    service = ScriptedService(
        *(
            httpx.Response(
                200,
                json=envelope(
                    {
                        "count": 3,
                        "next": "page=2" if number == 0 else None,
                        "previous": None,
                        "results": [entry(each) for each in page],
                    }
                ),
            )
            for number, page in enumerate(pages)
        )
    )

    async with service.client() as liveavatar:
        found = [session.id async for session in liveavatar.iter_sessions("active")]

    assert found == ["a", "b", "c"]
    assert [dict(sent.url.params) for sent in service.requests] == [
        {"type": "active", "page": "1", "page_size": "100"},
        {"type": "active", "page": "2", "page_size": "100"},
    ]


async def test_an_entry_has_whether_and_why_the_session_ended() -> None:
    ended = entry("s-1", end_at="2026-10-01T12:01:00Z", end_reason="A_REASON_OF_TOMORROW")
    service = ScriptedService(
        httpx.Response(200, json=envelope(ended)), httpx.Response(200, json=envelope(entry("s-2")))
    )

    async with service.client() as liveavatar:
        first, second = [await liveavatar.get_session(each) for each in ("s-1", "s-2")]

    assert first is not None
    assert first.ended
    assert first.end_reason == "A_REASON_OF_TOMORROW"
    assert first.created_at == datetime(2026, 10, 1, 12, tzinfo=UTC)
    assert first.credits_consumed == 1.6
    assert second is not None
    assert not second.ended


@pytest.mark.parametrize("reply", [httpx.Response(404), httpx.Response(200, json=envelope(None))])
async def test_an_unknown_session_has_no_entry(reply: httpx.Response) -> None:
    service = ScriptedService(reply)

    async with service.client() as liveavatar:
        assert await liveavatar.get_session("../other") is None

    assert service.requests[0].url.raw_path == b"/v1/sessions/..%2Fother"


async def test_credits_are_exact() -> None:
    service = ScriptedService(httpx.Response(200, json=envelope({"credits_left": "149.10"})))

    async with service.client() as liveavatar:
        assert await liveavatar.credits_left() == Decimal("149.10")


@pytest.mark.parametrize("balance", [{}, {"credits_left": None}, {"credits_left": "NaN"}, []])
async def test_an_invalid_balance_raises(balance: object) -> None:
    service = ScriptedService(httpx.Response(200, json=envelope(balance)))

    async with service.client() as liveavatar:
        with pytest.raises(UnexpectedResponse, match="credits_left"):
            await liveavatar.credits_left()


# --- errors --------------------------------------------------------------------------------

Body = dict[str, object]
MAPPING: list[tuple[int, Body | str, type[ApiError]]] = [
    (400, {"code": 4000, "message": "Bad request: no such avatar"}, BadRequest),
    (400, {"code": 4000, "message": "Avatar is not supported in sandbox mode"}, SandboxAvatar),
    (
        400,
        {"message": "max_session_duration (180s) exceeds the maximum allowed (60s)"},
        DurationOverPlan,
    ),
    (401, {"code": 4001, "message": "Unauthorized"}, Unauthorized),
    (402, {"message": "Payment required"}, NoCredits),
    (403, {"code": 4003, "message": "Session concurrency limit reached"}, ConcurrencyLimit),
    (403, {"code": 4003, "message": None}, ConcurrencyLimit),
    (403, {"code": 4010, "message": "Insufficient credits"}, NoCredits),
    (403, {"code": 4003, "message": "Not enough credits left"}, NoCredits),
    (403, {"message": "This avatar is not yours"}, Forbidden),
    (404, {"message": "Avatar not found"}, NotFound),
    (405, {"detail": "Method Not Allowed"}, UnexpectedResponse),
    (422, {"detail": [{"loc": ["body", "avatar_id"], "msg": "Field required"}]}, InvalidRequest),
    (429, {"message": "Too many requests"}, RateLimited),
    (500, {"message": "Internal error"}, ServerError),
    (503, "<html>Bad gateway</html>", ServerError),
    (302, "", UnexpectedResponse),
    (200, envelope(None), UnexpectedResponse),
    (200, "not json", UnexpectedResponse),
    (200, envelope({"session_id": "s-1"}), UnexpectedResponse),
]


@pytest.mark.parametrize(("status", "body", "kind"), MAPPING)
async def test_each_reply_maps_to_one_error(
    status: int, body: Body | str, kind: type[ApiError]
) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    service = ScriptedService(httpx.Response(status, content=content))

    async with service.client() as liveavatar:
        with pytest.raises(ApiError) as raised:
            await liveavatar.create_token(REQUEST)

    error = raised.value
    assert type(error) is kind
    assert error.status == status
    assert not error.maybe_billed, "minting is not billed"
    if isinstance(body, dict):
        assert error.code == body.get("code")
        message = body.get("message")
        assert not isinstance(message, str) or status < 300 or error.detail == message
    assert "POST /v1/sessions/token" in str(error)


async def test_the_allowed_duration_is_read_from_the_refusal() -> None:
    text = "max_session_duration (7200s) exceeds the maximum allowed (1200s)"
    service = ScriptedService(httpx.Response(400, json=envelope(None, code=4000, message=text)))

    async with service.client() as liveavatar:
        with pytest.raises(DurationOverPlan, match="Ask for at most 1200 s") as refusal:
            await liveavatar.create_token(REQUEST)

    assert refusal.value.maximum_s == 1200


async def test_a_422_names_every_field_and_shows_no_value() -> None:
    detail = [
        {"loc": ["body", "avatar_id"], "msg": "Field required", "type": "missing", "input": {}},
        {
            "loc": ["body", "livekit_config", "livekit_client_token"],
            "msg": f"Bad token {ROOM_TOKEN}",
            "type": "value_error",
            "input": ROOM_TOKEN,
        },
    ]
    service = ScriptedService(httpx.Response(422, json={"detail": detail}))
    room = LiveKitConfig(
        livekit_url="wss://x", livekit_room="r", livekit_client_token=SecretStr(ROOM_TOKEN)
    )

    async with service.client() as liveavatar:
        with pytest.raises(InvalidRequest) as refusal:
            await liveavatar.create_token(REQUEST.model_copy(update={"livekit_config": room}))

    assert refusal.value.problems == (
        "body.avatar_id: Field required",
        "body.livekit_config.livekit_client_token: Bad token **********",
    )


async def test_the_message_may_be_in_a_list_of_data() -> None:
    body = {"code": 4000, "data": [{"message": "avatar expired"}], "message": None}
    service = ScriptedService(httpx.Response(400, json=body))

    async with service.client() as liveavatar:
        with pytest.raises(BadRequest, match="avatar expired"):
            await liveavatar.create_token(REQUEST)


@pytest.mark.parametrize(
    ("headers", "expected_s"),
    [
        ({"Retry-After": "2"}, 2.0),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "inf"}, None),
        ({"X-RateLimit-Reset": "0.4"}, 0.4),
        ({}, None),
    ],
)
async def test_retry_after_is_kept_in_seconds(
    headers: dict[str, str], expected_s: float | None
) -> None:
    service = ScriptedService(httpx.Response(429, headers=headers, json=envelope(None)))

    async with service.client() as liveavatar:
        with pytest.raises(RateLimited) as refusal:
            await liveavatar.create_token(REQUEST)

    assert refusal.value.retry_after_s == expected_s
    assert refusal.value.retryable


async def test_a_permanent_refusal_has_no_retry_after() -> None:
    """An unknown avatar (400) said "retry after 1 s": that was the rate limit window's reset."""
    service = ScriptedService(
        httpx.Response(400, headers={"X-RateLimit-Reset": "1"}, json=envelope(None))
    )

    async with service.client() as liveavatar:
        with pytest.raises(BadRequest) as refusal:
            await liveavatar.create_token(REQUEST)

    assert refusal.value.retry_after_s is None


async def test_retry_after_may_be_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    service = ScriptedService(httpx.Response(503, headers={"Retry-After": later}))

    async with service.client() as liveavatar:
        with pytest.raises(ServerError) as refusal:
            await liveavatar.create_token(REQUEST)

    assert refusal.value.retry_after_s == pytest.approx(30, abs=3)


# --- retryable and maybe_billed --------------------------------------------------------------


def broken(error: type[httpx.TransportError]) -> Callable[[httpx.Request], httpx.Response]:
    def reply(request: httpx.Request) -> httpx.Response:
        raise error("broken", request=request)

    return reply


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ConnectError, ServiceUnreachable),
        (httpx.ConnectTimeout, ServiceUnreachable),
        (httpx.PoolTimeout, ServiceUnreachable),
        (httpx.ProxyError, ServiceUnreachable),
        (httpx.ReadTimeout, OutcomeUnknown),
        (httpx.WriteTimeout, OutcomeUnknown),
        (httpx.ReadError, OutcomeUnknown),
        (httpx.WriteError, OutcomeUnknown),
        (httpx.CloseError, OutcomeUnknown),
        (httpx.RemoteProtocolError, OutcomeUnknown),
    ],
)
async def test_a_failed_start_has_maybe_billed_if_it_may_have_arrived(
    error: type[httpx.TransportError], kind: type[LiteError]
) -> None:
    service = ScriptedService(broken(error))

    async with service.client() as liveavatar:
        with pytest.raises(kind) as failure:
            await liveavatar.start_session(SecretStr(SESSION_TOKEN))

    may_have_arrived = kind is OutcomeUnknown
    assert failure.value.maybe_billed is may_have_arrived
    assert failure.value.retryable is not may_have_arrived
    assert isinstance(failure.value.__cause__, error)


@pytest.mark.parametrize(
    ("reply", "maybe_billed"),
    [
        (httpx.Response(500), True),
        (httpx.Response(503), True),
        (httpx.Response(201, content="torn"), True),
        (httpx.Response(201, json=envelope(None)), True),
        (httpx.Response(403, json=envelope(None, code=4003)), False),
        (httpx.Response(401), False),
        (httpx.Response(429), False),
    ],
)
async def test_a_refused_start_is_not_billed_and_one_with_open_outcome_may_be(
    reply: httpx.Response, maybe_billed: bool
) -> None:
    service = ScriptedService(reply)

    async with service.client() as liveavatar:
        with pytest.raises(ApiError) as failure:
            await liveavatar.start_session(SecretStr(SESSION_TOKEN))

    assert failure.value.maybe_billed is maybe_billed
    assert not (failure.value.retryable and maybe_billed)


async def test_a_stop_is_retryable_after_a_lost_reply() -> None:
    service = ScriptedService(broken(httpx.ReadTimeout), httpx.Response(502))

    async with service.client() as liveavatar:
        for _ in range(2):
            with pytest.raises(LiteError) as failure:
                await liveavatar.stop_session("s-1", SessionEndReason.IDLE_TIMEOUT)
            assert failure.value.retryable
            assert not failure.value.maybe_billed


# --- secrets --------------------------------------------------------------------------------


async def test_no_secret_is_in_errors_reprs_or_logs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    echo = f"bad credential {API_KEY} / {SESSION_TOKEN}"
    service = ScriptedService(
        *(httpx.Response(401, json=envelope(None, message=echo)) for _ in range(2)),
        httpx.Response(500, text=echo, headers={"content-type": "text/plain"}),
        httpx.Response(200, json=envelope({"session_id": 7, "session_token": {"x": API_KEY}})),
        broken(httpx.ReadTimeout),
    )
    shown = ""

    async with service.client() as liveavatar:
        for call in (
            lambda: liveavatar.create_token(REQUEST),
            lambda: liveavatar.start_session(SecretStr(SESSION_TOKEN)),
            lambda: liveavatar.credits_left(),
            lambda: liveavatar.create_token(REQUEST),
            lambda: liveavatar.start_session(SecretStr(SESSION_TOKEN)),
        ):
            with pytest.raises(LiteError) as failure:
                await call()
            shown += "".join(traceback.format_exception(failure.value)) + repr(failure.value)
            shown += repr(failure.value.__context__)
        shown += repr(liveavatar) + repr(vars(liveavatar)) + repr(liveavatar._http.headers)

    assert API_KEY not in shown + caplog.text
    assert "credential **********" in shown
    assert SESSION_TOKEN not in caplog.text


@pytest.mark.parametrize("key", ["", "two\nlines-0123", " blank-0123", "clé-0123456"])
def test_a_key_that_no_header_can_have_is_refused_without_being_shown(key: str) -> None:
    """h11 would refuse the newline of a key read from a file with an error that quotes the key."""
    with pytest.raises(ValueError, match="the API key is empty, begins or ends") as refusal:
        LiveAvatar(SecretStr(key))

    assert not key or key not in str(refusal.value)


@pytest.mark.parametrize("address", ["", "api.liveavatar.com", "ftp://x", "http://", "http://x:y"])
def test_an_invalid_address_is_refused_by_the_constructor(address: str) -> None:
    with pytest.raises(ValueError, match="give something like https://"):
        LiveAvatar(SecretStr(API_KEY), base_url=address)


def test_a_misspelt_field_of_a_request_is_an_error_that_shows_no_value() -> None:
    with pytest.raises(ValidationError) as refusal:
        LiveKitConfig.model_validate({"url": "wss://x", "token": ROOM_TOKEN})

    assert ROOM_TOKEN not in str(refusal.value)
