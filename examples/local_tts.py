"""Voices that need neither key nor network, so that every example runs anywhere.

`EspeakTts` where espeak-ng is installed, else `ToneTts`, which plays a tone for each word. Not for
production.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

import numpy as np

from examples.tts import StreamingTts, TtsRefused, TtsUnavailable

PROGRAM: Final = "espeak-ng"
ESPEAK_RATE_HZ: Final = 22_050
"""The sample rate of espeak-ng's voices."""
SILENCE_TIMEOUT_S: Final = 10.0
PIECE_BYTES: Final = 8_820  # 0.2 s
MAX_SPEECH_BYTES: Final = 600 * 2 * ESPEAK_RATE_HZ
MAX_HEADER_BYTES: Final = 4_096

TONE_RATE_HZ: Final = 24_000
TONE_LETTER_S: Final = 0.06
TONE_PAUSE_S: Final = 0.08
TONE_LOUDNESS: Final = 0.3
TONE_FADE_S: Final = 0.005  # without it every word begins and ends with a click


def local_tts() -> StreamingTts:
    """espeak-ng where it is installed, else tones."""
    found = shutil.which(PROGRAM)
    return ToneTts() if found is None else EspeakTts(Path(found))


class EspeakTts:
    """espeak-ng, streamed. The text is passed on stdin, never as an argument."""

    sample_rate_hz: Final = ESPEAK_RATE_HZ

    def __init__(self, program: Path, *, silence_timeout_s: float = SILENCE_TIMEOUT_S) -> None:
        """Use this program; fail when it is silent for ``silence_timeout_s``."""
        self._program = program
        self._silence_timeout_s = silence_timeout_s

    async def stream(self, text: str) -> AsyncGenerator[bytes, None]:
        """See `StreamingTts.stream`. The program ends with the stream."""
        utf_8 = ("-b", "1")
        try:
            process = await asyncio.create_subprocess_exec(
                *(str(self._program), *utf_8, "--stdin", "--stdout"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            raise TtsUnavailable(f"{self._program} cannot be started: {error.strerror}") from error
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        received = 0
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                stdin.write(text.encode())  # buffered: does not block
                stdin.close()
            piece = await self._after_header(stdout)
            while piece or (piece := await self._read(stdout)):
                received += len(piece)
                if received > MAX_SPEECH_BYTES:
                    raise TtsRefused("the speech is longer than ten minutes")
                yield piece
                piece = b""
            status = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if status != 0 or not received:
            raise TtsRefused(f"{PROGRAM} produced no speech (exit status {status})")

    async def _read(self, stdout: asyncio.StreamReader) -> bytes:
        try:
            async with asyncio.timeout(self._silence_timeout_s):
                return await stdout.read(PIECE_BYTES)
        except TimeoutError:
            raise TtsUnavailable(f"{PROGRAM} does not respond: it was killed") from None

    async def _after_header(self, stdout: asyncio.StreamReader) -> bytes:
        """Read the WAV header; returns the samples that were read after it."""
        head = b""
        while len(head) < MAX_HEADER_BYTES:
            piece = await self._read(stdout)
            head += piece
            at = head.find(b"data")
            if at >= 0 and len(head) >= at + 8:
                _check_format(head)
                return head[at + 8 :]
            if not piece:
                break
        if head:
            raise TtsRefused(f"{PROGRAM} did not produce WAV")
        return b""


def _check_format(head: bytes) -> None:
    """Require 16-bit mono PCM at `ESPEAK_RATE_HZ`."""
    at = head.find(b"fmt ")
    channels, rate_hz, bits = (
        int.from_bytes(head[at + begin : at + end], "little")
        for begin, end in ((10, 12), (12, 16), (22, 24))
    )
    if at < 0 or (channels, rate_hz, bits) != (1, ESPEAK_RATE_HZ, 16):
        raise TtsRefused(
            f"{PROGRAM} produced {bits}-bit audio at {rate_hz} Hz: use one of its own voices"
        )


class ToneTts:
    """A tone for each word, proportional to its length, and a short pause.

    The same text always gives the same audio, so that tests know its duration.
    """

    sample_rate_hz: Final = TONE_RATE_HZ

    async def stream(self, text: str) -> AsyncGenerator[bytes, None]:
        """See `StreamingTts.stream`. One piece per word."""
        words = text.split()
        if not words:
            raise TtsRefused("the text has no words")
        for word in words:
            yield _tone_of(word)
            await asyncio.sleep(0)  # a long text must not block the event loop


def _tone_of(word: str) -> bytes:
    count = round(TONE_RATE_HZ * TONE_LETTER_S * len(word))
    t = np.arange(count) / TONE_RATE_HZ
    pitch_hz = 140 + sum(word.encode()) % 120
    fade = np.minimum(1, np.minimum(t, t[::-1]) / TONE_FADE_S)
    tone = TONE_LOUDNESS * np.sin(2 * np.pi * pitch_hz * t) * fade
    pause = np.zeros(round(TONE_RATE_HZ * TONE_PAUSE_S))
    return (np.concatenate([tone, pause]) * 32_767).astype("<i2").tobytes()
