"""Text to speech: OpenAI's API, its errors, and the local voices."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import traceback
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr

from examples.local_tts import PROGRAM, EspeakTts, ToneTts, local_tts
from examples.tts import (
    OpenAiTts,
    StreamingTts,
    TtsBusy,
    TtsError,
    TtsKeyRefused,
    TtsRefused,
    TtsUnavailable,
)
from tests.support.speech.speech_server import Answer, refuses, speaks, speech_server, stays_silent
from tests.support.speech.voice import BABBLES, FAILS, HANGS, voice_in

KEY = "obviously-fake-openai-key"
HALF_A_SECOND = bytes(24_000)


def tts_at(url: str, **options: float) -> OpenAiTts:
    return OpenAiTts(SecretStr(KEY), base_url=url, model="a-model", voice="a-voice", **options)


async def speech_of(tts: StreamingTts, text: str = "Good morning.") -> bytes:
    received = bytearray()
    await receive(tts, text, received)
    return bytes(received)


async def receive(tts: StreamingTts, text: str, received: bytearray) -> None:
    async with contextlib.aclosing(tts.stream(text)) as pieces:
        async for piece in pieces:
            received += piece


# ------------------------------------------------------------------ OpenAI's


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
async def test_the_request_is_as_openai_documents_it(ending: str) -> None:
    async with speech_server(speaks(b"\1\2", b"\3\4")) as server, tts_at(server.url + ending) as t:
        assert await speech_of(t, "Good morning, Ä.") == b"\1\2\3\4"

    [(line, headers, asked)] = server.asked
    assert line == "POST /v1/audio/speech HTTP/1.1"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert asked == {
        "model": "a-model",
        "voice": "a-voice",
        "input": "Good morning, Ä.",
        "response_format": "pcm",
    }


async def test_the_first_bytes_arrive_before_the_rest_is_synthesized() -> None:
    """The server sends the rest only after the first piece has arrived."""
    async with (
        speech_server(speaks(HALF_A_SECOND, b"\1\2", waits=True)) as server,
        tts_at(server.url) as tts,
        contextlib.aclosing(tts.stream("Good morning.")) as pieces,
    ):
        received = 0
        while received < len(HALF_A_SECOND):
            received += len(await anext(pieces))

        server.go_on.set()
        assert await anext(pieces) == b"\1\2"
        with pytest.raises(StopAsyncIteration):
            await anext(pieces)


async def test_a_stream_that_is_closed_early_ends_the_request() -> None:
    async with (
        speech_server(speaks(HALF_A_SECOND, HALF_A_SECOND, waits=True)) as server,
        tts_at(server.url) as tts,
    ):
        async with contextlib.aclosing(tts.stream("A long story.")) as pieces:
            await anext(pieces)

        await asyncio.wait_for(server.client_closed.wait(), 10)


async def test_a_truncated_stream_raises_with_its_duration() -> None:
    received = bytearray()
    async with (
        speech_server(speaks(HALF_A_SECOND, HALF_A_SECOND, ends=False)) as server,
        tts_at(server.url) as tts,
    ):
        with pytest.raises(TtsUnavailable, match=r"broke off after 1\.0 s of speech"):
            await receive(tts, "A long story.", received)

    assert received == HALF_A_SECOND * 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (stays_silent, "did not answer in time"),
        (speaks(HALF_A_SECOND, b"", waits=True), r"broke off after 0\.5 s .* in time"),
    ],
)
async def test_a_silent_server_times_out(answer: Answer, words: str) -> None:
    async with speech_server(answer) as server, tts_at(server.url, silence_timeout_s=0.5) as tts:
        with pytest.raises(TtsUnavailable, match=words):
            await speech_of(tts)


async def test_an_unreachable_server_is_reported_with_what_to_check() -> None:
    async with speech_server(stays_silent) as server:
        url = server.url
    async with tts_at(url) as tts:
        with pytest.raises(TtsUnavailable, match="check OPENAI_BASE_URL and the network"):
            await speech_of(tts)


def openai_error(message: str, code: str = "") -> object:
    return {"error": {"message": message, "type": "some_error", "code": code}}


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (
            refuses("401 Unauthorized", openai_error(f"Incorrect API key: {KEY}")),
            TtsKeyRefused,
            r"does not accept the key \(401\): check OPENAI_API_KEY",
        ),
        (refuses("403 Forbidden", openai_error(KEY)), TtsKeyRefused, "may use the model a-model"),
        (
            refuses("429 Too Many Requests", openai_error("slow down", "rate_limit_exceeded")),
            TtsBusy,
            "retry later",
        ),
        (
            refuses("429 Too Many Requests", openai_error("no quota", "insufficient_quota")),
            TtsBusy,
            "check the billing",
        ),
        (
            refuses("400 Bad Request", openai_error(f"{'x' * 190} {KEY} is not a voice")),
            TtsRefused,
            r"answered 400: x+ .*check the model \(a-model\), the voice \(a-voice\)",
        ),
        (refuses("404 Not Found", "no object"), TtsRefused, r"answered 404; check the model"),
        (refuses("503 Unavailable", openai_error("overloaded")), TtsUnavailable, "503: overloaded"),
        (refuses("200 OK", openai_error("odd")), TtsRefused, "not raw PCM"),
        (speaks(b"RIFF\0\0\0\0WAVE", kind="audio/wav"), TtsRefused, "audio/wav .* not raw PCM"),
        (speaks(), TtsRefused, "returned no speech for this text"),
    ],
)
async def test_a_refusal_says_what_to_do_without_the_key(
    answer: Answer, error: type[TtsError], words: str
) -> None:
    async with speech_server(answer) as server, tts_at(server.url) as tts:
        with pytest.raises(error, match=words) as refused:
            await speech_of(tts)

    shown = "".join(traceback.format_exception(refused.value))
    assert KEY not in shown
    assert KEY[:9] not in str(refused.value)


async def test_a_rate_limit_has_retry_after() -> None:
    answer = refuses("429 Too Many Requests", openai_error("slow down"), "retry-after: 7")
    async with speech_server(answer) as server, tts_at(server.url) as tts:
        with pytest.raises(TtsBusy) as refused:
            await speech_of(tts)

    assert refused.value.retry_after_s == 7


@pytest.mark.parametrize("key", ["", "  \n", "two\nlines", "schlüssel", "a key"])
def test_a_key_that_no_header_can_have_is_refused_without_repeating_it(key: str) -> None:
    """httpx quotes a header that it refuses: the key was in a log."""
    with pytest.raises(TtsKeyRefused) as refused:
        OpenAiTts(SecretStr(key))

    assert not key.strip() or key not in str(refused.value)


async def test_a_key_read_from_a_file_may_end_with_a_line_break() -> None:
    async with (
        speech_server(speaks(b"\1\2")) as server,
        OpenAiTts(SecretStr(f"{KEY}\n"), base_url=server.url) as tts,
    ):
        await speech_of(tts)

    assert server.asked[0][1]["authorization"] == f"Bearer {KEY}"


# ----------------------------------------------------------------- local voices


async def test_tones_are_proportional_to_words_and_reproducible() -> None:
    tts = ToneTts()
    once = np.frombuffer(await speech_of(tts, "one seventeen"), "<i2")

    assert len(once) / tts.sample_rate_hz == pytest.approx(12 * 0.06 + 2 * 0.08)
    assert np.abs(once).max() > 5000
    assert np.abs(once[-1500:]).max() == 0
    assert await speech_of(tts, "one seventeen") == once.tobytes()


async def test_a_text_without_words_is_refused() -> None:
    with pytest.raises(TtsRefused, match="no words"):
        await speech_of(ToneTts(), " \n ")


@pytest.mark.parametrize(
    "where", ["stand-in", *(["installed"] if shutil.which(PROGRAM) is not None else [])]
)
async def test_espeak_speaks_any_text(where: str, tmp_path: Path) -> None:
    program = Path(shutil.which(PROGRAM) or "") if where == "installed" else voice_in(tmp_path)
    text = "-f /etc/passwd; $(reboot) `id` äöü '\""

    sound = np.frombuffer(await speech_of(EspeakTts(program), text), "<i2")

    assert 1 < len(sound) / 22_050 < 10
    assert np.abs(sound).max() > 5000
    if where == "stand-in":
        assert (tmp_path / "text").read_text() == text
        assert "passwd" not in (tmp_path / "arguments").read_text()


@pytest.mark.parametrize(
    ("does", "error", "words"),
    [
        (FAILS, TtsRefused, "exit status 3"),
        (BABBLES, TtsRefused, "did not produce WAV"),
        (HANGS, TtsUnavailable, "does not respond: it was killed"),
    ],
)
async def test_a_failing_program_is_reported_in_a_sentence(
    does: str, error: type[TtsError], words: str, tmp_path: Path
) -> None:
    tts = EspeakTts(voice_in(tmp_path, does), silence_timeout_s=0.5)

    with pytest.raises(error, match=words):
        await speech_of(tts)


async def test_a_missing_program_is_reported_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(TtsUnavailable, match="cannot be started"):
        await speech_of(EspeakTts(tmp_path / "nothing"))


def test_local_tts_selects_espeak_if_installed() -> None:
    expected = EspeakTts if shutil.which(PROGRAM) else ToneTts

    assert isinstance(local_tts(), expected)
