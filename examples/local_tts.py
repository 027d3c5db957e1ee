"""Voices that need neither key nor network, so that every example runs anywhere.

`EspeakTts` where espeak-ng is installed, else `ToneTts`, which hums a tone for each word. Not
voices to sell.
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
"""Of espeak-ng's own voices."""
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
    """The best voice that this machine has."""
    found = shutil.which(PROGRAM)
    return ToneTts() if found is None else EspeakTts(Path(found))


class EspeakTts:
    """espeak-ng, streamed. Texts go in by stdin: they are never words of a command line."""

    sample_rate_hz: Final = ESPEAK_RATE_HZ

    def __init__(self, program: Path, *, silence_timeout_s: float = SILENCE_TIMEOUT_S) -> None:
        """Take where the program is, and how long it may be silent."""
        self._program = program
        self._silence_timeout_s = silence_timeout_s

    async def stream(self, text: str) -> AsyncGenerator[bytes, None]:
        """See `StreamingTts.stream`. The program ends with the stream, however that ends."""
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
        taken = 0
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                stdin.write(text.encode())  # buffered here: nobody waits for the program to read
                stdin.close()
            piece = await self._after_header(stdout)
            while piece or (piece := await self._read(stdout)):
                taken += len(piece)
                if taken > MAX_SPEECH_BYTES:
                    raise TtsRefused("the speech of this text has no end")
                yield piece
                piece = b""
            status = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if status != 0 or not taken:
            raise TtsRefused(f"{PROGRAM} made no speech of this (exit status {status})")

    async def _read(self, stdout: asyncio.StreamReader) -> bytes:
        try:
            async with asyncio.timeout(self._silence_timeout_s):
                return await stdout.read(PIECE_BYTES)
        except TimeoutError:
            raise TtsUnavailable(f"{PROGRAM} hangs: it was ended") from None

    async def _after_header(self, stdout: asyncio.StreamReader) -> bytes:
        """Read to where the samples begin; what was read of them."""
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
            raise TtsRefused(f"{PROGRAM} answered something that is not WAV")
        return b""


def _check_format(head: bytes) -> None:
    """Refuse another format than 16-bit mono PCM at the rate that was promised."""
    at = head.find(b"fmt ")
    channels, rate_hz, bits = (
        int.from_bytes(head[at + begin : at + end], "little")
        for begin, end in ((10, 12), (12, 16), (22, 24))
    )
    if at < 0 or (channels, rate_hz, bits) != (1, ESPEAK_RATE_HZ, 16):
        raise TtsRefused(
            f"{PROGRAM} speaks {bits}-bit sound at {rate_hz} Hz here: choose one of its own voices"
        )


class ToneTts:
    """A tone for each word, as long as the word is, and a short rest after it.

    The same text is always the same sound, so that its length can be reckoned with.
    """

    sample_rate_hz: Final = TONE_RATE_HZ

    async def stream(self, text: str) -> AsyncGenerator[bytes, None]:
        """See `StreamingTts.stream`. A word is a piece."""
        words = text.split()
        if not words:
            raise TtsRefused("there are no words in this text")
        for word in words:
            yield _hum(word)
            await asyncio.sleep(0)  # a long text must not hold the event loop


def _hum(word: str) -> bytes:
    count = round(TONE_RATE_HZ * TONE_LETTER_S * len(word))
    t = np.arange(count) / TONE_RATE_HZ
    pitch_hz = 140 + sum(word.encode()) % 120
    fade = np.minimum(1, np.minimum(t, t[::-1]) / TONE_FADE_S)
    tone = TONE_LOUDNESS * np.sin(2 * np.pi * pitch_hz * t) * fade
    rest = np.zeros(round(TONE_RATE_HZ * TONE_PAUSE_S))
    return (np.concatenate([tone, rest]) * 32_767).astype("<i2").tobytes()
