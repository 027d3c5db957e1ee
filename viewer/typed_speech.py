"""A `ViewerSpeaker` for the demo: espeak-ng synthesizes the typed text, live speech plays it.

For one machine where espeak-ng is installed; not a voice for production.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import soundfile

from avatar_sessions.client import AvatarSessions
from avatar_sessions.contract.states import UtteranceOutcome
from avatar_sessions.errors import AvatarSessionsError
from viewer.errors import ViewerError
from viewer.source import ViewerSourceError

PROGRAM: Final = "espeak-ng"
SYNTHESIS_TIMEOUT_S: Final = 10.0
OPEN_TIMEOUT_S: Final = 10.0
MAX_WAV_BYTES: Final = 8_000_000
"""Three minutes at espeak-ng's 22,050 Hz: a line of digits takes long to speak."""


class VoiceFailed(ViewerError):
    """espeak-ng produced no speech for a text."""


@dataclass(frozen=True, slots=True)
class SpokenText:
    """The speech of a text: mono 16-bit PCM."""

    pcm: npt.NDArray[np.int16]
    sample_rate_hz: int


class Espeak:
    """Text to speech by espeak-ng. The text is passed on stdin, never as an argument."""

    def __init__(self, program: Path) -> None:
        self._program = program

    @classmethod
    def find(cls) -> Self | None:
        """The voice, or None where the program is not installed."""
        found = shutil.which(PROGRAM)
        return None if found is None else cls(Path(found))

    async def synthesize(self, text: str) -> SpokenText:
        """The speech of a text.

        Raises:
            VoiceFailed: the program failed, took too long, or its output was too long.
        """
        try:
            wav = await self._run(text)
            pcm, sample_rate_hz = soundfile.read(io.BytesIO(wav), dtype="int16")
        except (OSError, TimeoutError, soundfile.LibsndfileError) as error:
            raise VoiceFailed(f"{PROGRAM} produced no speech ({type(error).__name__}).") from error
        if len(pcm) == 0 or pcm.ndim != 1:
            raise VoiceFailed(f"{PROGRAM} produced no speech for this text.")
        return SpokenText(pcm, sample_rate_hz)

    async def _run(self, text: str) -> bytes:
        utf_8 = ("-b", "1")
        process = await asyncio.create_subprocess_exec(
            *(str(self._program), *utf_8, "--stdin", "--stdout"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(SYNTHESIS_TIMEOUT_S):
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    process.stdin.write(text.encode())  # fits into the pipe's buffer
                    process.stdin.close()
                wav = bytearray()
                while piece := await process.stdout.read(65_536):
                    wav += piece
                    if len(wav) > MAX_WAV_BYTES:
                        raise VoiceFailed("this text is too long to speak.")
                status = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if status != 0:
            raise VoiceFailed(f"{PROGRAM} failed (exit status {status}).")
        return bytes(wav)


class TypedSpeech:
    """Has a session's avatar speak typed text."""

    def __init__(self, sessions: AvatarSessions, voice: Espeak) -> None:
        self._sessions = sessions
        self._voice = voice

    async def say(self, session_key: str, text: str) -> None:
        """Speak the text; returns when playback has completed or was interrupted.

        Raises:
            ViewerSourceError: it was not spoken; the error's text is for the viewer.
        """
        try:
            speech = await self._voice.synthesize(text)
            live = self._sessions.get(session_key).live(
                sample_rate_hz=speech.sample_rate_hz, open_timeout_s=OPEN_TIMEOUT_S
            )
            async with live:
                async with live.utterance(text=text) as utterance:
                    await utterance.write(speech.pcm)
                report = await utterance.result()
        except VoiceFailed as error:
            raise ViewerSourceError(_sentence(error.sentence)) from error
        except AvatarSessionsError as error:
            raise ViewerSourceError(_sentence(str(error))) from error
        if report.outcome not in (UtteranceOutcome.COMPLETED, UtteranceOutcome.INTERRUPTED):
            why = report.outcome.value if report.failure is None else report.failure.message
            raise ViewerSourceError(f"The avatar did not speak the text: {why}.")


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."
