"""Text to speech as a stream of PCM: what a voice agent's words become on their way to the avatar.

    async with OpenAiTts(SecretStr("sk-…")) as tts:
        async with contextlib.aclosing(tts.stream("Good morning.")) as pieces:
            async for pcm in pieces: ...

`StreamingTts` is all that the rest of the examples knows of a voice. Here is one that speaks the
protocol of OpenAI's ``/v1/audio/speech``, as many servers do; `examples/local_tts.py` has voices
that need neither key nor network. Nothing is repeated here: whether to ask again is the caller's.

TtsError
├── TtsKeyRefused       the key is missing, malformed or not accepted
├── TtsBusy             too many requests, or nothing left on the account
├── TtsRefused          the request can never work, or the answer is not PCM
└── TtsUnavailable      nobody answers, the server fails, or it broke off in mid-speech
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
"""Nothing came for so long, before the first byte or after it: it is given up."""
MAX_SPEECH_BYTES: Final = 600 * 2 * OPENAI_RATE_HZ
"""Ten minutes. A server that never ends would be billed as long as the avatar talks."""
MAX_TOLD_CHARS: Final = 200
MAX_PROBLEM_BYTES: Final = 16_384
_COMPRESSED: Final = (b"RIFF", b"OggS", b"fLaC", b"ID3", b"\xff\xfb", b"\xff\xf3", b"\x1aE\xdf\xa3")
"""How files begin that are not bare PCM. As PCM they would be a burst of noise."""


class TtsError(Exception):
    """No speech came of a text, or not all of it. The text is for an operator; it has no key."""


class TtsKeyRefused(TtsError):
    """The key is missing, malformed or not accepted."""


class TtsBusy(TtsError):
    """Too many requests just now, or nothing left on the account.

    Attributes:
        retry_after_s: when to ask again, where the server said.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class TtsRefused(TtsError):
    """The request can never work as it stands, or the answer is not PCM."""


class TtsUnavailable(TtsError):
    """Nobody answers in time, the server fails, or it broke off in mid-speech."""


class StreamingTts(Protocol):
    """A voice."""

    @property
    def sample_rate_hz(self) -> int:
        """Of the PCM that it makes."""
        ...

    def stream(self, text: str) -> AsyncGenerator[bytes, None]:
        """Speech of a text, in pieces as they are made: 16-bit little-endian mono PCM.

        A piece may end anywhere, also within a sample. Close it (`contextlib.aclosing`) where you
        may stop early: an avatar that was interrupted needs no more speech, and speech is paid.

        Raises:
            TtsError: no speech came, or it broke off.
        """
        ...


class OpenAiTts:
    """A voice behind OpenAI's ``POST /v1/audio/speech``, streamed. An async context manager."""

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
        """Take the key, and who speaks.

        Args:
            api_key: goes into the ``Authorization`` header and nowhere else.
            base_url: of the server, with or without ``/v1`` at its end.
            model: as the server names it.
            voice: as the server names it.
            silence_timeout_s: how long to wait for the next bytes.

        Raises:
            TtsKeyRefused: the key cannot stand in a header.
        """
        key = api_key.get_secret_value().strip()
        if not re.fullmatch(r"[\x21-\x7e]+", key):  # else httpx's complaint would quote it
            raise TtsKeyRefused(
                "OPENAI_API_KEY is empty or has characters that no key has: export it again, or"
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
        """See `StreamingTts.stream`. Pieces are what the network brings."""
        asked = {
            "model": self._model,
            "voice": self._voice,
            "input": text,
            "response_format": "pcm",
        }
        taken = 0
        try:
            async with self._http.stream("POST", self._url, json=asked) as response:
                if response.status_code != httpx.codes.OK:
                    raise await self._refusal(response)
                async with contextlib.aclosing(_bytes_of(response)) as pieces:
                    async for piece in pieces:
                        if not taken:
                            _check_pcm(response, piece)
                        taken += len(piece)
                        if taken > MAX_SPEECH_BYTES:
                            raise TtsRefused("the speech of this text has no end")
                        yield piece
        except httpx.TimeoutException as error:
            raise TtsUnavailable(f"{self._url} {_stage(taken)} in time") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = type(error).__name__
            raise TtsUnavailable(
                f"{self._url} {_stage(taken)} ({why}): check OPENAI_BASE_URL and the network"
            ) from error
        if not taken:
            raise TtsRefused(f"{self._url} made no speech of this text")

    async def _refusal(self, response: httpx.Response) -> TtsError:
        """What a status other than 200 means. A key's echo in the server's words stays out."""
        status = response.status_code
        if status in (401, 403):  # the body is not quoted: OpenAI's repeats parts of the key
            return TtsKeyRefused(
                f"{self._url} does not accept the key ({status}): check OPENAI_API_KEY, and that"
                f" its project may use the model {self._model}"
            )
        code, words = await _problem_of(response, self._key)
        if status == 429:
            if code == "insufficient_quota":
                return TtsBusy(f"nothing is left on the account at {self._url}: check its billing")
            return TtsBusy(
                f"{self._url} takes no more requests just now (429): ask again later",
                _seconds(response.headers.get("retry-after")),
            )
        told = f"{self._url} answered {status}{f': {words}' if words else ''}"
        if status >= 500:
            return TtsUnavailable(told)
        return TtsRefused(
            f"{told}; check the model ({self._model}), the voice ({self._voice}) and the address"
            " (OPENAI_BASE_URL)"
        )


def _stage(taken: int) -> str:
    """What did not happen, for a sentence."""
    if not taken:
        return "did not answer"
    return f"broke off after {taken / 2 / OPENAI_RATE_HZ:.1f} s of speech and did not go on"


async def _bytes_of(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    async for piece in response.aiter_bytes():
        if piece:
            yield piece


def _check_pcm(response: httpx.Response, beginning: bytes) -> None:
    """Refuse what is no PCM by its name or its first bytes."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_words = kind.startswith("text/") or kind == "application/json"
    if is_words or beginning.startswith(_COMPRESSED):
        raise TtsRefused(
            f"{response.url} answered {kind or 'something'} that is not bare PCM: the server does"
            ' not know response_format "pcm", or is not a speech server'
        )


async def _problem_of(response: httpx.Response, key: str) -> tuple[str, str]:
    """The error's code and words, as far as the body is OpenAI's; empty where it is not."""
    body = bytearray()
    with contextlib.suppress(httpx.HTTPError):
        pieces: AsyncIterator[bytes] = response.aiter_bytes()
        async for piece in pieces:
            body += piece
            if len(body) > MAX_PROBLEM_BYTES:
                break
    try:
        error = json.loads(body)["error"]
        code, words = error.get("code"), error.get("message")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", ""
    return str(code or ""), str(words or "").replace(key, "[key]")[:MAX_TOLD_CHARS]


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text is not None else None
    except ValueError:
        return None  # a date; nobody sends one here
