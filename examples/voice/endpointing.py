"""Detects where a person's speech begins and ends, by loudness alone. Pure: no I/O, no clock.

A stand-in for a real voice activity detector. It tracks the room's noise floor, takes audio above
it as speech, and takes speech as ended after a silence longer than the pauses within a sentence.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import numpy as np
import numpy.typing as npt

Pcm = npt.NDArray[np.int16]

FULL_SCALE: Final = 32_768.0
SILENCE_DBFS: Final = -90.0
_MEMORY_PARTS: Final = 15


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """What counts as speech. Times in seconds, loudness in dB of full scale."""

    frame_s: float = 0.02
    onset_s: float = 0.08
    """Audio that is loud for this long is speech; shorter is a cough, a key, a door."""
    hangover_s: float = 0.7
    """Speech ends after this long below the threshold; longer than a pause for breath."""
    lead_in_s: float = 0.2
    """Audio kept from before the onset: words begin softly."""
    tail_s: float = 0.2
    """Audio kept of the hangover: words end softly."""
    begin_above_floor_db: float = 12.0
    stay_above_floor_db: float = 8.0
    """Lower than to begin, so that a soft syllable does not end the speech."""
    quietest_speech_dbfs: float = -48.0
    """Nothing softer is speech, however silent the room is."""
    floor_memory_s: float = 3.0
    """The noise floor is the softest moment of this time. Speech pauses within it; a fan that was
    switched on does not, and becomes part of the noise floor."""
    longest_s: float = 30.0
    """The maximum length of speech that is kept; the rest is dropped."""


@dataclass(frozen=True, slots=True)
class SpeechBegan:
    """A person began to speak, `onset_s` ago."""


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """A person has stopped speaking."""

    pcm: Pcm = field(repr=False)
    """The speech, mono, with lead-in and tail."""
    truncated: bool
    """The speech was longer than `longest_s`; `pcm` is its beginning."""


class Turn(Enum):
    """Whether a person speaks."""

    SILENT = "silent"
    RISING = "rising"
    """Above the threshold, for less than `onset_s` so far."""
    SPEAKING = "speaking"
    FADING = "fading"
    """Below the threshold, for less than `hangover_s` so far."""


_LEGAL: Final[dict[Turn, frozenset[Turn]]] = {
    Turn.SILENT: frozenset({Turn.RISING}),
    Turn.RISING: frozenset({Turn.SILENT, Turn.SPEAKING}),
    Turn.SPEAKING: frozenset({Turn.FADING}),
    Turn.FADING: frozenset({Turn.SPEAKING, Turn.SILENT}),
}


class NoiseFloor:
    """The softest moment of the last few seconds."""

    def __init__(self, frames: int) -> None:
        self._frames_a_part = max(1, frames // _MEMORY_PARTS)
        self._parts: deque[float] = deque(maxlen=_MEMORY_PARTS)
        self._softest = 0.0
        self._count = 0

    @property
    def dbfs(self) -> float:
        """The noise floor; full scale before the first frame."""
        return min(self._softest, *self._parts) if self._parts else self._softest

    def add(self, dbfs: float) -> None:
        """Add a frame's loudness."""
        self._softest = min(self._softest, dbfs)
        self._count += 1
        if self._count == self._frames_a_part:
            self._parts.append(self._softest)
            self._softest, self._count = 0.0, 0


class Endpointer:
    """Detects speech in one person's audio, fed in pieces of any length.

    Keeps at most `longest_s` and `lead_in_s` of audio.
    """

    def __init__(
        self, sample_rate_hz: int, settings: EndpointSettings = EndpointSettings()
    ) -> None:
        self.turn = Turn.SILENT
        self._settings = settings
        self._frame = round(sample_rate_hz * settings.frame_s)
        self._rest: Pcm = np.empty(0, np.int16)
        self._floor = NoiseFloor(self._frames(settings.floor_memory_s))
        self._lead_in: deque[Pcm] = deque(maxlen=self._frames(settings.lead_in_s))
        self._speech: list[Pcm] = []
        self._frames_in_turn = 0
        self._truncated = False

    @property
    def floor_dbfs(self) -> float:
        """The room's noise floor."""
        return max(SILENCE_DBFS, self._floor.dbfs)

    def feed(self, pcm: Pcm) -> list[SpeechBegan | SpeechStopped]:
        """Process mono audio; returns the events in it."""
        sound = np.concatenate([self._rest, pcm])
        whole = len(sound) // self._frame * self._frame
        self._rest = sound[whole:]
        steps = (self._step(frame) for frame in sound[:whole].reshape(-1, self._frame))
        return [event for event in steps if event is not None]

    def flush(self) -> SpeechStopped | None:
        """End the audio; returns unfinished speech, if any."""
        if self.turn is Turn.SPEAKING:
            self._become(Turn.FADING)
        return self._end() if self.turn is Turn.FADING else None

    def _step(self, frame: Pcm) -> SpeechBegan | SpeechStopped | None:
        settings = self._settings
        dbfs = loudness_dbfs(frame)
        self._floor.add(dbfs)
        self._frames_in_turn += 1
        begins = dbfs > self._threshold(settings.begin_above_floor_db)
        match self.turn:
            case Turn.SILENT | Turn.RISING:
                self._lead_in.append(frame)
                if not begins:
                    if self.turn is Turn.RISING:
                        self._become(Turn.SILENT)
                    return None
                if self.turn is Turn.SILENT:
                    self._become(Turn.RISING)
                if self._frames_in_turn < self._frames(settings.onset_s):
                    return None
                self._become(Turn.SPEAKING)
                self._speech, self._truncated = list(self._lead_in), False
                self._lead_in.clear()
                return SpeechBegan()
            case Turn.SPEAKING | Turn.FADING:
                self._keep(frame)
                stays = dbfs > self._threshold(settings.stay_above_floor_db)
                if stays and self.turn is Turn.FADING:
                    self._become(Turn.SPEAKING)
                elif not stays and self.turn is Turn.SPEAKING:
                    self._become(Turn.FADING)
                if self.turn is Turn.FADING and self._frames_in_turn >= self._frames(
                    settings.hangover_s
                ):
                    return self._end()
        return None

    def _threshold(self, above_floor_db: float) -> float:
        return max(self.floor_dbfs + above_floor_db, self._settings.quietest_speech_dbfs)

    def _keep(self, frame: Pcm) -> None:
        if len(self._speech) < self._frames(self._settings.longest_s):
            self._speech.append(frame)
        else:
            self._truncated = True

    def _end(self) -> SpeechStopped:
        silent = self._frames_in_turn - self._frames(self._settings.tail_s)
        if not self._truncated and 0 < silent < len(self._speech):
            self._lead_in.extend(self._speech[-silent:])  # the next word may follow immediately
            del self._speech[-silent:]
        ended = SpeechStopped(np.concatenate(self._speech), self._truncated)
        self._speech = []
        self._become(Turn.SILENT)
        return ended

    def _frames(self, seconds: float) -> int:
        return max(1, round(seconds / self._settings.frame_s))

    def _become(self, turn: Turn) -> None:
        if turn not in _LEGAL[self.turn]:
            raise RuntimeError(f"a turn cannot go from {self.turn.value} to {turn.value}")
        self.turn = turn
        self._frames_in_turn = 1 if turn in (Turn.RISING, Turn.FADING) else 0


def loudness_dbfs(pcm: Pcm) -> float:
    """Root mean square of the audio, without its constant part, in dB of full scale."""
    sound = pcm.astype(np.float32) / FULL_SCALE
    power = float(np.var(sound)) if len(sound) else 0.0
    return max(SILENCE_DBFS, 10 * float(np.log10(power + 1e-12)))
