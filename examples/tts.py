"""Streaming text to speech: PCM for live speech.

    async with OpenAiTts(SecretStr("sk-…")) as tts:
        async with contextlib.aclosing(tts.stream("Good morning.")) as pieces:
            async for pcm in pieces: ...

`StreamingTts` is the protocol that the other examples use. `OpenAiTts` is a client of OpenAI's
``/v1/audio/speech``, which many servers implement; `examples/local_tts.py` has voices that need
neither key nor network. Nothing is retried here; that is the caller's decision.

TtsError
├── TtsKeyRefused       the key is missing, malformed or not accepted
├── TtsBusy             too many requests, or the account's quota is used up
├── TtsRefused          the request can never work, or the response is not PCM
└── TtsUnavailable      no answer, the server failed, or the stream broke off
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType
from typing import Final, Protocol, Self

import httpx
from pydantic import SecretStr

OPENAI_URL: Final = "https://api.openai.com"
OPENAI_RATE_HZ: Final = 24_000
"""What ``response_format: pcm`` means: 16-bit little-endian mono at this rate, no header."""
CONNECT_TIMEOUT_S: Final = 5.0
SILENCE_TIMEOUT_S: Final = 15.0
"""The request fails after this long without data, before or after the first byte."""
MAX_SPEECH_BYTES: Final = 600 * 2 * OPENAI_RATE_HZ
"""Ten minutes. A stream without an end would be billed for as long as the avatar talks."""
MAX_MESSAGE_CHARS: Final = 200
MAX_PROBLEM_BYTES: Final = 16_384
_COMPRESSED: Final = (b"RIFF", b"OggS", b"fLaC", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\x1aE\xdf\xa3")
"""The beginnings of files that are not raw PCM. Played as PCM they would be noise."""


class TtsError(Exception):
    """A text was not completely synthesized. The message is for operators, without the key."""


class TtsKeyRefused(TtsError):
    """The key is missing, malformed or not accepted."""


class TtsBusy(TtsError):
    """Too many requests, or the account's quota is used up.

    Attributes:
        retry_after_s: when to retry, if the server said so.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class TtsRefused(TtsError):
    """The request can never work, or the response is not PCM."""


class TtsUnavailable(TtsError):
    """The server does not answer in time, fails, or the stream broke off."""


class StreamingTts(Protocol):
    """A text to speech voice."""

    @property
    def sample_rate_hz(self) -> int:
        """The sample rate of its PCM."""
        ...

    def stream(self, text: str) -> AsyncGenerator[bytes, None]:
        """The speech of a text, in pieces as they are synthesized: 16-bit little-endian mono PCM.

        A piece may end anywhere, also within a sample. Use `contextlib.aclosing` if you may stop
        early: an interrupted avatar needs no more speech, and speech is billed.

        Raises:
            TtsError: the text was not, or not completely, synthesized.
        """
        ...


class OpenAiTts:
    """OpenAI's ``POST /v1/audio/speech``, streamed. An async context manager."""

    sample_rate_hz: Final = OPENAI_RATE_HZ

    def __init__(
        self,
        api_key: SecretStr,
        *,
        base_url: str = OPENAI_URL,
        model: str = "gpt-4o-mini-tts",
        voice: str = "alloy",
        silence_timeout_s: float = SILENCE_TIMEOUT_S,
    ) -> None:
        """Create the client; sends nothing yet.

        Args:
            api_key: sent only as ``Authorization`` header.
            base_url: the server, with or without ``/v1`` at the end.
            model: the server's name of the model.
            voice: the server's name of the voice.
            silence_timeout_s: how long to wait for the next bytes.

        Raises:
            TtsKeyRefused: the key has characters that no header may have.
        """
        key = api_key.get_secret_value().strip()
        if not re.fullmatch(r"[\x21-\x7e]+", key):  # otherwise httpx's error would quote it
            raise TtsKeyRefused(
                "OPENAI_API_KEY is empty or has illegal characters: export it again, or"
                " unset it to use a local voice"
            )
        self._key = key
        self._url = f"{base_url.rstrip('/').removesuffix('/v1')}/v1/audio/speech"
        self._model = model
        self._voice = voice
        self._http = httpx.AsyncClient(
            headers={"authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(silence_timeout_s, connect=CONNECT_TIMEOUT_S),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def stream(self, text: str) -> AsyncGenerator[bytes, None]:
        """See `StreamingTts.stream`. Pieces are as the network delivers them."""
        body = {
            "model": self._model,
            "voice": self._voice,
            "input": text,
            "response_format": "pcm",
        }
        received = 0
        try:
            async with self._http.stream("POST", self._url, json=body) as response:
                if response.status_code != httpx.codes.OK:
                    raise await self._refusal(response)
                async with contextlib.aclosing(_bytes_of(response)) as pieces:
                    async for piece in pieces:
                        if not received:
                            _check_pcm(response, piece)
                        received += len(piece)
                        if received > MAX_SPEECH_BYTES:
                            raise TtsRefused("the speech is longer than ten minutes")
                        yield piece
        except httpx.TimeoutException as error:
            raise TtsUnavailable(f"{self._url} {_stage(received)} in time") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = type(error).__name__
            raise TtsUnavailable(
                f"{self._url} {_stage(received)} ({why}): check OPENAI_BASE_URL and the network"
            ) from error
        if not received:
            raise TtsRefused(f"{self._url} returned no speech for this text")

    async def _refusal(self, response: httpx.Response) -> TtsError:
        """The error for a status other than 200, without the key if the server repeats it."""
        status = response.status_code
        if status in (401, 403):  # OpenAI's body repeats parts of the key: it is not quoted
            return TtsKeyRefused(
                f"{self._url} does not accept the key ({status}): check OPENAI_API_KEY, and that"
                f" its project may use the model {self._model}"
            )
        code, message = await _problem_of(response, self._key)
        if status == 429:
            if code == "insufficient_quota":
                return TtsBusy(f"the quota at {self._url} is used up: check the billing")
            return TtsBusy(
                f"{self._url} limits the rate of requests (429): retry later",
                _seconds(response.headers.get("retry-after")),
            )
        text = f"{self._url} answered {status}{f': {message}' if message else ''}"
        if status >= 500:
            return TtsUnavailable(text)
        return TtsRefused(
            f"{text}; check the model ({self._model}), the voice ({self._voice}) and the address"
            " (OPENAI_BASE_URL)"
        )


def _stage(received: int) -> str:
    """What the server did, for an error's text."""
    if not received:
        return "did not answer"
    return f"broke off after {received / 2 / OPENAI_RATE_HZ:.1f} s of speech and did not continue"


async def _bytes_of(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    async for piece in response.aiter_bytes():
        if piece:
            yield piece


def _check_pcm(response: httpx.Response, beginning: bytes) -> None:
    """Refuse a response that is not PCM by its content type or first bytes."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_text = kind.startswith("text/") or kind == "application/json"
    if is_text or beginning.startswith(_COMPRESSED):
        raise TtsRefused(
            f"{response.url} answered {kind or 'data'} that is not raw PCM: the server does not"
            ' support response_format "pcm", or is not a speech server'
        )


async def _problem_of(response: httpx.Response, key: str) -> tuple[str, str]:
    """The error's code and message if the body has OpenAI's format, else empty."""
    body = bytearray()
    with contextlib.suppress(httpx.HTTPError):
        pieces: AsyncIterator[bytes] = response.aiter_bytes()
        async for piece in pieces:
            body += piece
            if len(body) > MAX_PROBLEM_BYTES:
                break
    try:
        error = json.loads(body)["error"]
        code, message = error.get("code"), error.get("message")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", ""
    return str(code or ""), str(message or "").replace(key, "[key]")[:MAX_MESSAGE_CHARS]


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text is not None else None
    except ValueError:
        return None  # a date is ignored
