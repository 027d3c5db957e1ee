"""Arithmetic of LITE's audio: sizes, chunks, pacing. Pure: every time is an argument, in seconds.

Converts nothing and plays nothing. Audio is PCM, signed 16-bit little-endian, mono, 24 kHz.
"""

from __future__ import annotations

from typing import Final

SAMPLE_RATE_HZ: Final = 24_000
SAMPLE_BYTES: Final = 2
BYTES_PER_S: Final = SAMPLE_RATE_HZ * SAMPLE_BYTES
FIRST_CHUNK_S: Final = 0.4
"""Short, so that speech begins early: what LiveAvatar's own clients send first."""
CHUNK_S: Final = 1.0
"""What LiveAvatar recommends. Much shorter chunks were audible as noise."""
IDLE_FLUSH_S: Final = 0.2
"""After this long without more audio an incomplete chunk is sent, or the avatar would starve."""
HOLD_S: Final = 0.4
"""The longest that a byte waits for its chunk to fill; see `Chunker`."""
MAX_LEAD_S: Final = 2.0
"""How far sending may run ahead of playback: the most that an interrupt discards."""
_INSTANT_S: Final = 1e-6


def duration_s(pcm_bytes: int) -> float:
    """The duration of that many bytes of PCM."""
    return pcm_bytes / BYTES_PER_S


def size_bytes(seconds: float) -> int:
    """The number of bytes of PCM of that duration, in whole samples."""
    return round(seconds * SAMPLE_RATE_HZ) * SAMPLE_BYTES


class Chunker:
    """Cuts one utterance's PCM into the chunks to send: a short first one, then longer ones.

    Takes pieces of any size, which may split a sample; its chunks never do.

    For live speech, call `flush` at `flush_due_s`: the producer has paused (``idle_flush_s``), or
    bytes have waited long enough (``hold_s``). A real-time producer would fill a one-second chunk
    only after the avatar has played the first 400 ms and starved.
    """

    def __init__(
        self,
        *,
        first_chunk_s: float = FIRST_CHUNK_S,
        chunk_s: float = CHUNK_S,
        idle_flush_s: float = IDLE_FLUSH_S,
        hold_s: float = HOLD_S,
    ) -> None:
        if not 0 < first_chunk_s <= chunk_s:
            raise ValueError(f"0 < {first_chunk_s=} <= {chunk_s=} does not hold")
        self._next_bytes = size_bytes(first_chunk_s)
        self._chunk_bytes = size_bytes(chunk_s)
        self._idle_flush_s = idle_flush_s
        self._hold_s = hold_s
        self._pending = bytearray()
        self._pending_since_s = 0.0
        self._last_push_s = 0.0

    @property
    def pending_bytes(self) -> int:
        """Bytes that no chunk has yet. One that `flush` leaves is half a sample."""
        return len(self._pending)

    def push(self, pcm: bytes, now_s: float = 0.0) -> list[bytes]:
        """Add PCM; returns the chunks that are full. ``now_s`` matters to `flush_due_s`."""
        if pcm and not self._pending:
            self._pending_since_s = now_s
        self._last_push_s = now_s
        self._pending += pcm
        chunks = []
        begin, end = 0, self._next_bytes
        while end <= len(self._pending):
            chunks.append(bytes(self._pending[begin:end]))
            begin, end = end, end + self._chunk_bytes
        if chunks:
            del self._pending[:begin]
            self._next_bytes = self._chunk_bytes
            self._pending_since_s = now_s
        return chunks

    def flush(self) -> list[bytes]:
        """The incomplete chunk, if there is any. Half a sample stays."""
        whole = len(self._pending) - len(self._pending) % SAMPLE_BYTES
        if not whole:
            return []
        chunk = bytes(self._pending[:whole])
        del self._pending[:whole]
        self._next_bytes = self._chunk_bytes
        self._pending_since_s = self._last_push_s
        return [chunk]

    def flush_due_s(self) -> float | None:
        """When to call `flush`, by the clock of `push`; None while nothing is pending."""
        if len(self._pending) < SAMPLE_BYTES:
            return None
        return min(self._last_push_s + self._idle_flush_s, self._pending_since_s + self._hold_s)


class Pacer:
    """Estimates how much of an utterance has been played, and paces sending by it.

    The estimate advances in real time from `start`, pauses while everything sent has been played,
    and never exceeds what was sent. The service queues without limit and gives no back-pressure:
    without pacing, an interrupt would discard seconds of speech.
    """

    def __init__(self, *, max_lead_s: float = MAX_LEAD_S) -> None:
        if max_lead_s <= 0:
            raise ValueError(f"max_lead_s must be more than 0, not {max_lead_s}")
        self._max_lead_s = max_lead_s
        self._sent_bytes = 0
        # The playback clock: heard_s = _played_s + the time since _since_s; None before `start`.
        self._played_s = 0.0
        self._since_s: float | None = None

    @property
    def sent_s(self) -> float:
        """Seconds of speech sent."""
        return duration_s(self._sent_bytes)

    def start(self, at_s: float) -> None:
        """Set when playback begins or began.

        Call it with an estimate, and again when the service reports the start.
        """
        self._played_s = 0.0
        self._since_s = at_s

    def sent(self, pcm_bytes: int, now_s: float | None = None) -> None:
        """Count sent bytes. With ``now_s``, a pause without audio to play is taken into account."""
        if now_s is not None:
            self._pause_if_dry(now_s)
        self._sent_bytes += pcm_bytes

    def heard_s(self, now_s: float) -> float:
        """Estimated seconds of the utterance played by now."""
        if self._since_s is None:
            return 0.0
        return min(self.sent_s, self._played_s + max(0.0, now_s - self._since_s))

    def lead_s(self, now_s: float) -> float:
        """Seconds of speech sent and not played yet."""
        return self.sent_s - self.heard_s(now_s)

    def wait_s(self, now_s: float, next_bytes: int) -> float:
        """How long to wait before sending the next chunk; 0: send now.

        After sending it, at most ``max_lead_s`` is ahead of playback. A longer chunk waits until
        everything before it is played. Call again after the wait: playback may have begun later
        than estimated.
        """
        self._pause_if_dry(now_s)
        lead_s = self.lead_s(now_s)
        excess_s = min(lead_s, lead_s + duration_s(next_bytes) - self._max_lead_s)
        if excess_s <= _INSTANT_S:
            return 0.0
        until_start_s = max(0.0, self._since_s - now_s) if self._since_s is not None else 0.0
        return until_start_s + excess_s

    def _pause_if_dry(self, now_s: float) -> None:
        if self._since_s is not None and now_s > self._since_s and not self.lead_s(now_s) > 0:
            self._played_s = self.sent_s
            self._since_s = now_s
