"""Speech that encodes its own position, and the analysis of recordings of it.

Each piece of a few samples has one constant value, which is the number of the piece; silence is
zero. The simulator plays samples unchanged, so lost, repeated and silent speech is counted from the
recording, to the sample. Knows no session and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

RATE_HZ: Final = 24_000
SAMPLES_PER_MS: Final = RATE_HZ // 1000
MAX_PIECES: Final = 65_535
"""Every value of a 16-bit sample except zero."""

Samples = npt.NDArray[np.int16]
_Pieces = npt.NDArray[np.int32]
_NOTHING: Final = -1
_POSITIVE: Final = 32_767


@dataclass(frozen=True, slots=True)
class PositionCode:
    """The speech of one utterance, as a range of pieces.

    Utterances of one session use different pieces, so they cannot be confused.
    """

    first_piece: int
    pieces: int
    piece_samples: int = SAMPLES_PER_MS
    """24 samples are a millisecond; longer pieces are for more than a minute of speech."""

    def __post_init__(self) -> None:
        if self.pieces < 1 or self.first_piece < 0 or self.piece_samples < 1:
            raise ValueError("speech has at least one piece of one sample")
        if self.first_piece + self.pieces > MAX_PIECES:
            raise ValueError(
                f"a session's speech has {MAX_PIECES} pieces at most: take longer ones"
            )

    @property
    def end_piece(self) -> int:
        """The first piece after it."""
        return self.first_piece + self.pieces

    @property
    def length_ms(self) -> float:
        """Its duration."""
        return self.pieces * self.piece_samples / SAMPLES_PER_MS

    def samples(self) -> Samples:
        """The audio: 24 kHz, 16 bit, mono."""
        pieces = np.arange(self.first_piece, self.end_piece, dtype=np.int32)
        values = np.where(pieces < _POSITIVE, pieces + 1, _POSITIVE - 1 - pieces)
        return np.repeat(values.astype(np.int16), self.piece_samples)


@dataclass(frozen=True, slots=True)
class SilentGap:
    """A silence inside an utterance; ``at_ms`` counts from the start of the recording."""

    at_ms: float
    duration_ms: float


@dataclass(frozen=True, slots=True)
class PlayedSpeech:
    """What was heard of one utterance: when, and what was lost, repeated, reordered or silent."""

    began_ms: float | None
    """When its first sample was heard, from the start of the recording; None: never."""
    ended_ms: float | None
    """When its last sample had been heard."""
    lost_ms: float
    """Never heard."""
    repeated_ms: float
    """Heard more than once."""
    out_of_order_ms: float
    """Heard for the first time after later speech of the same utterance."""
    foreign_ms: float
    """Other audio between its first and its last sample."""
    silences: tuple[SilentGap, ...]

    @property
    def longest_silence_ms(self) -> float:
        """The longest silence between its first and its last sample; 0 without one."""
        return max((one.duration_ms for one in self.silences), default=0.0)

    @property
    def is_whole(self) -> bool:
        """Every sample was heard, once and in order."""
        return self.lost_ms == 0 and self.repeated_ms == 0 and self.out_of_order_ms == 0


@dataclass(frozen=True, slots=True)
class Recording:
    """The recording of one LiveAvatar session, from a wall-clock time on."""

    began_at_s: float
    samples: Samples


class RecordedSpeech:
    """The recordings of LiveAvatar sessions that followed each other, ready for analysis."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        """Take one or more recordings, in any order."""
        self._each = [_pieces_of(one.samples) for one in recordings]
        self._joined = np.concatenate(self._each) if len(self._each) > 1 else self._each[0]
        self._timeline = _pieces_of(_merged(recordings)) if len(self._each) > 1 else None

    def analyze(self, code: PositionCode) -> PlayedSpeech:
        """Find an utterance.

        Samples are counted in each recording. Times and silences are those of one common timeline,
        which starts with the earliest recording.
        """
        counted = _analyze_pieces(code, self._joined)
        if self._timeline is None:
            return counted
        together = _analyze_pieces(code, self._timeline)
        return replace(
            counted,
            began_ms=together.began_ms,
            ended_ms=together.ended_ms,
            silences=together.silences,
        )

    def recordings_with(self, code: PositionCode) -> list[int]:
        """The indexes of the recordings that have a part of an utterance."""
        return [at for at, pieces in enumerate(self._each) if _own(code, pieces).any()]


def _merged(recordings: Sequence[Recording]) -> Samples:
    first_s = min(one.began_at_s for one in recordings)
    positions = [round((one.began_at_s - first_s) * RATE_HZ) for one in recordings]
    length = max(at + len(one.samples) for at, one in zip(positions, recordings, strict=True))
    line = np.zeros(length, dtype=np.int16)
    for at, one in zip(positions, recordings, strict=True):
        part = line[at : at + len(one.samples)]
        np.copyto(part, one.samples, where=one.samples != 0)
    return line


def analyze_recordings(code: PositionCode, recordings: Sequence[Recording]) -> PlayedSpeech:
    """Find an utterance that several LiveAvatar sessions may have played in turn."""
    return RecordedSpeech(recordings).analyze(code)


def analyze_samples(code: PositionCode, pcm: bytes | Samples) -> PlayedSpeech:
    """Find an utterance in a recording: 24 kHz, 16 bit, mono, silence included."""
    sound = np.frombuffer(pcm, dtype="<i2") if isinstance(pcm, bytes) else pcm
    return _analyze_pieces(code, _pieces_of(sound))


def _own(code: PositionCode, piece: _Pieces) -> npt.NDArray[np.bool_]:
    return (piece >= code.first_piece) & (piece < code.end_piece)


def _analyze_pieces(code: PositionCode, piece: _Pieces) -> PlayedSpeech:
    own = _own(code, piece)
    positions = np.flatnonzero(own)
    if not positions.size:
        return PlayedSpeech(None, None, code.length_ms, 0.0, 0.0, 0.0, ())
    first, last = int(positions[0]), int(positions[-1])
    inside = piece[first : last + 1]
    counts = np.bincount(inside[own[first : last + 1]] - code.first_piece, minlength=code.pieces)
    expected = code.piece_samples
    silent = inside == _NOTHING
    foreign = ~silent & ~own[first : last + 1]
    return PlayedSpeech(
        began_ms=first / SAMPLES_PER_MS,
        ended_ms=(last + 1) / SAMPLES_PER_MS,
        lost_ms=_ms(np.maximum(expected - counts, 0).sum()),
        repeated_ms=_ms(np.maximum(counts - expected, 0).sum()),
        out_of_order_ms=_late(piece[positions] - code.first_piece, code),
        foreign_ms=_ms(foreign.sum()),
        silences=_runs(silent, first),
    )


def _pieces_of(sound: Samples) -> _Pieces:
    """Which piece each sample belongs to; `_NOTHING` for silence."""
    value = sound.astype(np.int32)
    piece = np.where(value > 0, value - 1, _POSITIVE - 1 - value)
    return np.where(value == 0, np.int32(_NOTHING), piece).astype(np.int32)


def _late(heard: _Pieces, code: PositionCode) -> float:
    """Milliseconds that were first heard after later speech."""
    pieces, first_at = np.unique(heard, return_index=True)
    # The earliest position of any later piece; the last piece has none after it.
    later = np.minimum.accumulate(first_at[::-1])[::-1]
    late = pieces[:-1][later[1:] < first_at[:-1]]
    counts = np.bincount(heard, minlength=code.pieces)
    return _ms(np.minimum(counts[late], code.piece_samples).sum())


def _runs(silent: npt.NDArray[np.bool_], offset: int) -> tuple[SilentGap, ...]:
    edges = np.diff(np.concatenate(([False], silent, [False])).astype(np.int8))
    begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    return tuple(
        SilentGap((offset + int(begin)) / SAMPLES_PER_MS, (int(end) - int(begin)) / SAMPLES_PER_MS)
        for begin, end in zip(begins, ends, strict=True)
    )


def _ms(samples: int | np.integer) -> float:
    return int(samples) / SAMPLES_PER_MS
