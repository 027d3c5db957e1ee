"""One utterance on its way: what was sent, what was heard, how it ended. No I/O."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from avatar_sessions.contract.messages import Failure, UtteranceReport
from avatar_sessions.contract.states import UtteranceOutcome
from liveavatar_lite import Pacer, duration_s

USUAL_START_LATENCY_S = 0.2
"""From the first chunk until the avatar talks (one observer's figure), until it is reported."""


class Turn:
    """An utterance that has the avatar's mouth.

    Times are seconds of one monotonic clock, given by the caller.
    """

    def __init__(self, utterance_id: str, order: int, pcm: bytes, max_lead_s: float) -> None:
        self.id = utterance_id
        self.order = order
        self.pcm = pcm
        self.pacer = Pacer(max_lead_s=max_lead_s)
        self.sealed = False
        """The whole utterance is on the wire, with its end."""
        self.outcome: asyncio.Future[UtteranceOutcome] = asyncio.get_running_loop().create_future()
        self.silent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """LiveAvatar said that the avatar has fallen silent."""
        self._began_at = datetime.now(UTC)
        self._first_sent_s: float | None = None
        self._talking_since_s: float | None = None
        self._sent_bytes = 0
        self._heard_s = 0.0

    @property
    def over(self) -> bool:
        """Nothing more is to be sent."""
        return self.outcome.done()

    @property
    def duration_s(self) -> float:
        """The length of the speech asked for."""
        return duration_s(len(self.pcm))

    def sent(self, chunk_bytes: int, now_s: float) -> None:
        """Account for a chunk on the wire."""
        if self._first_sent_s is None:
            self._first_sent_s = now_s
            self.pacer.start(now_s + USUAL_START_LATENCY_S)
        self._sent_bytes += chunk_bytes
        self.pacer.sent(chunk_bytes, now_s)

    def talks(self, now_s: float) -> None:
        """LiveAvatar said that the avatar began to talk."""
        if self._talking_since_s is None and self._first_sent_s is not None:
            self._talking_since_s = now_s
            self.pacer.start(now_s)

    def falls_silent(self, *, interrupted: bool, now_s: float) -> None:
        """LiveAvatar said that the utterance is over; what comes late changes nothing."""
        if self.silent.done() or not (self.sealed or interrupted or self.over):
            return  # silence between two chunks is not the end
        self._heard_s = self.pacer.heard_s(now_s)
        self.silent.set_result(None)
        self.end(UtteranceOutcome.INTERRUPTED if interrupted else UtteranceOutcome.COMPLETED, now_s)

    def end(self, outcome: UtteranceOutcome, now_s: float) -> None:
        """Fix the outcome; the first one stays."""
        if self.over:
            return
        if not self.silent.done():
            self._heard_s = self.pacer.heard_s(now_s)
        if outcome is UtteranceOutcome.COMPLETED:
            self._heard_s = self.duration_s
        self.outcome.set_result(outcome)

    def silence_due_in_s(self, now_s: float) -> float:
        """How long the avatar still has to talk, as far as the clock tells."""
        return max(0.0, duration_s(self._sent_bytes) - self.pacer.heard_s(now_s))

    def report(self, failure: Failure | None = None) -> UtteranceReport:
        """The utterance's line in the ledger."""
        first_audio_ms: int | None = None
        if self._talking_since_s is not None and self._first_sent_s is not None:
            first_audio_ms = _ms(self._talking_since_s - self._first_sent_s)
        return UtteranceReport(
            id=self.id,
            outcome=self.outcome.result(),
            duration_ms=_ms(self.duration_s),
            sent_ms=_ms(duration_s(self._sent_bytes)),
            heard_ms=_ms(min(self._heard_s, duration_s(self._sent_bytes))),
            first_audio_ms=first_audio_ms,
            started_at=self._began_at,
            ended_at=datetime.now(UTC),
            failure=failure,
        )


def _ms(seconds: float) -> int:
    return round(timedelta(seconds=seconds) / timedelta(milliseconds=1))
