"""Records what a session plays, silence included, so that a position in the recording is a time.

Silence is only counted. Plays nothing, and knows no utterances.
"""

from __future__ import annotations

import io
import wave
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta

from liveavatar_lite.audio import SAMPLE_BYTES, SAMPLE_RATE_HZ, duration_s, size_bytes


@dataclass(frozen=True, slots=True)
class AudioRecording:
    """The audio that a session has played, up to now or to its end.

    Attributes:
        began_at: the time of the first sample: the session's start, or later where the beginning
            was dropped.
        pcm: 16-bit little-endian mono samples at 24 kHz, without a gap.
    """

    began_at: datetime
    pcm: bytes

    def wav(self) -> bytes:
        """The recording as a WAV file."""
        file = io.BytesIO()
        with wave.open(file, "wb") as writer:
            writer.setnchannels(1)
            writer.setsampwidth(SAMPLE_BYTES)
            writer.setframerate(SAMPLE_RATE_HZ)
            writer.writeframes(self.pcm)
        return file.getvalue()


class AudioRecorder:
    """Keeps the newest seconds of one session's audio.

    Args:
        began_at: when the session started.
        keep_s: how many seconds are kept.
    """

    def __init__(self, began_at: datetime, keep_s: float) -> None:
        self._began_at = began_at
        self._keep_bytes = size_bytes(keep_s)
        self._pieces: deque[bytes | int] = deque()
        """Audio, or a silence as its number of bytes."""
        self._dropped_bytes = 0
        self._bytes = 0
        self.sound_bytes = 0
        """Memory that the audio takes."""

    def add(self, pcm: bytes) -> None:
        """Append audio or silence."""
        if not pcm:
            return
        self._bytes += len(pcm)
        if pcm.count(0) == len(pcm):
            self._add_silence(len(pcm))
        else:
            self._pieces.append(pcm)
            self.sound_bytes += len(pcm)
        while self._bytes > self._keep_bytes:
            self._drop_oldest(self._bytes - self._keep_bytes)

    def recording(self) -> AudioRecording:
        """The audio that is kept."""
        began_at = self._began_at + timedelta(seconds=duration_s(self._dropped_bytes))
        pieces = (bytes(each) if isinstance(each, int) else each for each in self._pieces)
        return AudioRecording(began_at, b"".join(pieces))

    def _add_silence(self, size: int) -> None:
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, int):
            self._pieces[-1] = last + size
        else:
            self._pieces.append(size)

    def _drop_oldest(self, excess: int) -> None:
        oldest = self._pieces.popleft()
        size = oldest if isinstance(oldest, int) else len(oldest)
        dropped = min(size, excess)
        if dropped < size:
            rest = oldest - dropped if isinstance(oldest, int) else oldest[dropped:]
            self._pieces.appendleft(rest)
        if not isinstance(oldest, int):
            self.sound_bytes -= dropped
        self._dropped_bytes += dropped
        self._bytes -= dropped
