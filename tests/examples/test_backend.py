"""The example backend with the whole product behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator

import httpx
import pytest
import pytest_asyncio

from deploy.local.settings import ROOT
from examples.backend.caller import MAX_BODY_BYTES
from examples.backend.speech import MAX_TEXTS, SpeechPool
from examples.local_tts import ToneTts
from tests.support.platforms.backend_server import BackendCaller, RunningBackend, backend
from tests.support.platforms.product import Product
from tests.support.speech.speech_server import SpeechServer, refuses, speaks, speech_server
from tests.support.waiting import until

SHORT = "Good morning to you"
SHORT_MS = 16 * 60 + 4 * 80
"""The duration of `ToneTts`'s audio for it."""
LONG = "a story that goes on and on " * 12
SECOND = b"\1\2" * 24_000


@pytest_asyncio.fixture(scope="module")
async def running(product: Product) -> AsyncIterator[RunningBackend]:
    """The backend with a voice of known duration."""
    async with backend(product, ToneTts()) as running:
        yield running


@pytest_asyncio.fixture
async def ada(running: RunningBackend) -> AsyncIterator[BackendCaller]:
    async with running.caller() as caller:
        yield caller


def speech_tasks() -> list[str]:
    """Tasks of open live speech and of texts, in this process."""
    names = (task.get_name() for task in asyncio.all_tasks())
    return [
        name for name in names if name.startswith(("speech web-", "voice ", "live-speech web-"))
    ]


def texts_in_progress() -> int:
    """Texts that are synthesized or waiting."""
    return sum(name.startswith("voice ") for name in speech_tasks())


# ------------------------------------------------------------------------ sessions


async def test_a_session_is_started_spoken_to_and_ended(
    ada: BackendCaller, product: Product
) -> None:
    session = await ada.start()
    assert (await session.status()).state == "LIVE"
    assert (await ada.http.get("/api/session")).json()["state"] == "LIVE"

    said = await ada.post("/say", {"text": SHORT})

    assert said.status_code == 200
    assert said.json()["outcome"] == "completed"
    assert said.json()["heard_ms"] == pytest.approx(SHORT_MS, abs=40)
    (heard,) = (await ada.line()).utterances
    assert heard.outcome == "played"
    assert heard.played_ms == pytest.approx(SHORT_MS, abs=1)

    ended = await ada.http.delete("/api/session")

    assert ended.status_code == 200
    assert (ended.json()["end_reason"], ended.json()["utterances"]) == ("requested", 1)
    assert speech_tasks() == []
    line = await ada.line()
    assert line.ended_at is not None
    assert line.sockets_open == 0
    (utterance,) = (await session.report()).utterances
    assert (utterance.text, utterance.source) == (SHORT, "live")
    assert (await ada.http.get("/api/session")).json()["end_reason"] == "requested"
    assert (await ada.http.delete("/api/session")).json() == ended.json()


async def test_a_caller_has_one_session_and_another_caller_has_another(
    running: RunningBackend, product: Product
) -> None:
    async with running.caller() as ada, running.caller() as bob:
        first = await ada.start()
        again = await ada.start()
        other = await bob.start()

        assert again.key == first.key != other.key
        assert (await ada.http.get("/api/session")).json()["state"] == "LIVE"
        await ada.http.delete("/api/session")
        assert (await bob.http.get("/api/session")).json()["state"] == "LIVE"
        tenants = [one.listing async for one in product.sessions.list(tenant="examples")]
        assert tenants


async def test_the_page_gets_a_token_that_is_not_stored(
    ada: BackendCaller, product: Product
) -> None:
    await ada.start()

    answer = await ada.post("/access")

    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["livekit_url"].startswith("ws")
    token = answer.json()["token"]
    assert token.count(".") == 2
    assert token not in (await ada.http.get("/api/session")).text


async def test_an_interrupt_ends_the_utterance_and_drops_waiting_texts(ada: BackendCaller) -> None:
    await ada.start()
    long = ada.saying(LONG)
    await until(lambda: texts_in_progress() == 1)
    waits = ada.saying(SHORT)
    while not (await ada.line()).utterances:
        await asyncio.sleep(0.02)

    cut = await ada.post("/interrupt")

    answers = [(await one).json() for one in (long, waits)]
    assert [one["outcome"] for one in answers] == ["interrupted", "interrupted"]
    assert answers[0]["heard_ms"] < 5000
    assert answers[1]["heard_ms"] == 0
    assert cut.json()["utterance_id"] is not None
    (heard,) = (await ada.line()).utterances
    assert heard.outcome == "interrupted"

    after = await ada.post("/say", {"text": SHORT})
    assert after.json()["outcome"] == "completed"


class _DelayedTts(ToneTts):
    """Delays one of the texts until the test continues it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.go_on = asyncio.Event()

    async def stream(self, text: str) -> AsyncGenerator[bytes, None]:
        if text == self._text:
            await self.go_on.wait()
        async with contextlib.aclosing(super().stream(text)) as pieces:
            async for piece in pieces:
                yield piece


async def test_texts_are_spoken_in_the_order_of_their_requests(product: Product) -> None:
    """Also if the voice takes longest for the first one."""
    texts = [f"number {one}" for one in range(4)]
    voice = _DelayedTts(texts[0])
    session = await product.open()
    async with SpeechPool(voice, max_sessions=1) as pool:
        speech = await pool.of(session)
        says = asyncio.gather(*(speech.say(text) for text in texts))
        await until(lambda: texts_in_progress() == len(texts))
        voice.go_on.set()
        await says

    report = await session.end()
    assert [one.text for one in report.utterances] == texts


async def test_one_connection_serves_all_requests_of_a_session(ada: BackendCaller) -> None:
    await ada.start()

    await asyncio.gather(*(ada.post("/say", {"text": "yes"}) for _ in range(3)))

    assert sum(name.startswith("live-speech ") for name in speech_tasks()) == 1


async def test_live_speech_closes_when_the_session_ends(
    ada: BackendCaller, product: Product
) -> None:
    session = await ada.start()
    long = ada.saying(LONG)
    await until(lambda: texts_in_progress() == 1)

    await session.end()

    answer = await long
    assert answer.status_code == 410 or answer.json()["outcome"] == "cancelled"
    await until(lambda: speech_tasks() == [])
    after = await ada.post("/say", {"text": SHORT})
    assert (after.status_code, after.json()["error"]) == (410, "session_over")


async def test_the_end_of_a_session_does_not_wait_for_the_voice(
    product: Product,
) -> None:
    async with (
        speech_server(speaks(SECOND, SECOND, waits=True)) as server,
        caller_with_voice(product, server) as ada,
    ):
        story = ada.saying("A story.")
        while not (await ada.line()).utterances:
            await asyncio.sleep(0.02)

        await ada.http.delete("/api/session")

        assert (await asyncio.wait_for(story, 10)).json()["outcome"] == "cancelled"
        await asyncio.wait_for(server.client_closed.wait(), 10)


async def test_sessions_survive_a_restart_of_the_backend(product: Product) -> None:
    async with backend(product, ToneTts()) as first, first.caller() as ada:
        session = await ada.start()
        await ada.post("/say", {"text": SHORT})
        ada.session_key = ""  # not to be ended here
        cookies = ada.http.cookies
    assert speech_tasks() == []

    async with backend(product, ToneTts()) as second, second.caller() as ada:
        ada.http.cookies = cookies
        assert (await session.status()).state == "LIVE"
        said = await ada.post("/say", {"text": SHORT})
        await ada.http.delete("/api/session")

    assert said.json()["outcome"] == "completed"


# ------------------------------------------------------------------------ the voice


@contextlib.asynccontextmanager
async def caller_with_voice(product: Product, server: SpeechServer) -> AsyncIterator[BackendCaller]:
    """A caller of a backend whose voice is this server."""
    settings = {"openai_api_key": "obviously-fake-openai-key", "openai_base_url": server.url}
    async with backend(product, None, **settings) as running, running.caller() as caller:
        await caller.start()
        yield caller


async def test_an_interrupt_ends_the_request_to_the_voice_immediately(product: Product) -> None:
    async with (
        speech_server(speaks(SECOND, SECOND, waits=True)) as server,
        caller_with_voice(product, server) as ada,
    ):
        story = ada.saying("A story.")
        while not (await ada.line()).utterances:
            await asyncio.sleep(0.02)

        await ada.post("/interrupt")

        assert (await story).json()["outcome"] == "interrupted"
        await asyncio.wait_for(server.client_closed.wait(), 10)


async def test_speech_plays_while_the_voice_still_synthesizes(product: Product) -> None:
    async with (
        speech_server(speaks(SECOND, SECOND, waits=True)) as server,
        caller_with_voice(product, server) as ada,
    ):
        story = ada.saying("A story.")
        await until(lambda: bool(server.asked))
        while not any(one.played_ms > 500 for one in (await ada.line()).utterances):
            await asyncio.sleep(0.02)

        server.go_on.set()

        assert (await story).json() == {
            "outcome": "completed",
            "heard_ms": pytest.approx(2000, abs=40),
            "broke_off": False,
        }


async def test_speech_before_a_failure_of_the_voice_is_played(product: Product) -> None:
    async with (
        speech_server(speaks(SECOND, ends=False)) as server,
        caller_with_voice(product, server) as ada,
    ):
        answer = await ada.post("/say", {"text": "A story."})

        assert answer.json() == {
            "outcome": "completed",
            "heard_ms": pytest.approx(1000, abs=40),
            "broke_off": True,
        }


async def test_a_failing_voice_does_not_interrupt_the_avatar(product: Product) -> None:
    """An exception within an utterance's block interrupts everything that is queued."""
    async with (
        speech_server(speaks(SECOND, SECOND)) as server,
        caller_with_voice(product, server) as ada,
    ):
        story = ada.saying("A story.")
        while not (await ada.line()).utterances:
            await asyncio.sleep(0.02)
        server.answer = refuses("500 Broken", {"error": {"message": "secret words"}})

        failed = await ada.post("/say", {"text": "And then?"})

        assert (failed.status_code, failed.json()["error"]) == (502, "voice_unavailable")
        assert "secret" not in failed.text
        assert (await story).json()["outcome"] == "completed"
        assert len((await ada.line()).utterances) == 1


# ------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "text: Field required"),
        ({"text": "  "}, "text: String should have at least 1 character"),
        ({"text": "x" * 1001}, "text: String should have at most 1000 characters"),
        ({"text": 7}, "text: Input should be a valid string"),
        ({"text": "yes", "voice": "loud"}, "voice: Extra inputs are not permitted"),
        ([], "body: "),
        (None, "body: "),
    ],
)
async def test_a_malformed_text_is_refused_with_the_reason(
    ada: BackendCaller, body: object, words: str
) -> None:
    answer = await ada.post("/say", body)

    assert (answer.status_code, answer.json()["error"]) == (422, "malformed")
    assert words in answer.json()["message"]


@pytest.mark.parametrize("sent", [b"{", b"\xff\xfe", b'{"text": "\\ud800"}'])
async def test_invalid_json_is_refused(ada: BackendCaller, sent: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = await ada.http.post("/api/session/say", content=sent, headers=headers)

    assert 400 <= answer.status_code < 500
    assert answer.json()["message"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/access"), ("POST", "/say")]
)
async def test_requests_without_a_session_are_404(
    ada: BackendCaller, method: str, path: str
) -> None:
    body = {"text": "hello"} if path == "/say" else None
    answer = await ada.http.request(method, f"/api/session{path}", json=body)

    assert answer.status_code == 404
    assert answer.json() == {"error": "no_session", "message": "There is no session: start one."}


async def test_a_client_that_has_not_opened_the_page_is_401(running: RunningBackend) -> None:
    async with httpx.AsyncClient(base_url=running.url, trust_env=False) as stranger:
        answer = await stranger.post("/api/session")

    assert answer.status_code == 401
    assert answer.json() == {"error": "open_the_page_first", "message": "Open the page first."}


async def test_requests_from_other_sites_are_refused(ada: BackendCaller) -> None:
    foreign = await ada.http.post("/api/session", headers={"origin": "https://evil.example"})
    other_port = await ada.http.post("/api/session", headers={"origin": "http://127.0.0.1:1"})
    renamed = await ada.http.get("/", headers={"host": "evil.example"})
    own = await ada.http.post(
        "/api/session/say", headers={"origin": str(ada.http.base_url).rstrip("/")}, json={}
    )

    assert (foreign.status_code, other_port.status_code) == (403, 403)
    assert renamed.status_code == 400
    assert own.status_code == 422


async def test_a_body_of_excessive_or_unknown_length_is_refused(ada: BackendCaller) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"{}"

    large = await ada.http.post("/api/session/say", content=bytes(MAX_BODY_BYTES + 1))
    unknown = await ada.http.post("/api/session/say", content=endless())

    assert (large.status_code, unknown.status_code) == (413, 411)


async def test_texts_beyond_the_limit_are_refused_and_the_others_are_spoken(
    ada: BackendCaller,
) -> None:
    await ada.start()
    long = ada.saying(LONG)
    await until(lambda: texts_in_progress() == 1)
    says = [ada.saying("yes") for _ in range(MAX_TEXTS)]
    await until(lambda: any(one.done() for one in says))
    await ada.post("/interrupt")

    answers = [await one for one in (long, *says)]
    refused = [one for one in answers if one.status_code != 200]
    assert [(one.status_code, one.json()["error"]) for one in refused] == [(429, "busy")]
    assert refused[0].headers["retry-after"] == "2"


async def test_sessions_beyond_the_limit_are_refused(product: Product) -> None:
    async with (
        backend(product, ToneTts(), backend_max_lines=1) as running,
        running.caller() as ada,
        running.caller() as bob,
    ):
        await ada.start()
        await bob.start()
        await ada.post("/say", {"text": "yes"})

        refused = await bob.post("/say", {"text": "yes"})
        assert (refused.status_code, refused.json()["error"]) == (503, "all_taken")

        await ada.http.delete("/api/session")
        assert (await bob.post("/say", {"text": "yes"})).status_code == 200


async def test_an_interrupt_without_live_speech_goes_through_the_session(
    ada: BackendCaller,
) -> None:
    """Another process may be speaking."""
    session = await ada.start()
    async with session.live() as live:
        async with live.utterance() as speech:
            await speech.write(bytes(48_000))

        answer = await ada.post("/interrupt")

        assert answer.json() == {"utterance_id": None, "heard_ms": None}
        assert (await speech.result()).outcome == "interrupted"


# ------------------------------------------------------------------------ the program


async def test_the_program_serves_until_sigterm(product: Product) -> None:
    log = product.logs / "backend.log"
    environment = {
        **{name: text for name, text in os.environ.items() if not name.startswith("OPENAI_")},
        **product.environment,
        "BACKEND_SANDBOX": "false",
    }
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "examples.backend", "--port", "0"),
            cwd=ROOT,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
        )
    try:
        await until(lambda: "running on" in log.read_text() or process.returncode is not None)
        address = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
        assert address is not None, log.read_text()
        async with RunningBackend(address[0], product).caller() as ada:
            await ada.start()
            said = await ada.post("/say", {"text": "Good morning."})
            assert said.json()["outcome"] == "completed"

        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 20)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert "Traceback" not in log.read_text()


async def test_invalid_settings_are_reported_in_a_sentence() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.backend", "--port", "0"),
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "BACKEND_AVATAR_ID": "not-a-uuid", "OPENAI_BASE_URL": "ftp://x"},
    )
    _, errors = await asyncio.wait_for(process.communicate(), 30)

    assert process.returncode == 2
    assert b"BACKEND_AVATAR_ID is not usable as it is set" in errors
    assert b"OPENAI_BASE_URL is not usable as it is set" in errors
    assert b"Traceback" not in errors
