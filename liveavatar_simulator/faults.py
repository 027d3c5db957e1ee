"""What the simulator is told to do wrong, and when.

A count means "the next so many"; a flag or a time holds until it is set back. The whole set is
replaced at once.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
FailureStatus = Annotated[int, Field(ge=400, le=599)]


class Faults(BaseModel):
    """Faults to come. The default is none."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    token_failures: Count = 0
    token_failure_status: FailureStatus = 503
    lost_token_replies: Count = 0
    """The session is minted, and the HTTP connection is dropped instead of the reply."""
    start_failures: Count = 0
    """The session does not start and nothing is billed."""
    start_failure_status: FailureStatus = 500
    lost_start_replies: Count = 0
    """The session starts and is billed, and the HTTP connection is dropped instead of the reply."""
    slow_start_s: Annotated[float, Field(ge=0, le=600)] = 0.0
    """Added to every start."""
    stop_failures: Count = 0
    """The session is not stopped."""
    stop_failure_status: FailureStatus = 503
    lost_stop_replies: Count = 0
    """The session is stopped, and the HTTP connection is dropped instead of the reply."""
    list_failures: Count = 0
    """``GET /v1/sessions`` and ``GET /v1/sessions/{id}`` fail."""
    list_failure_status: FailureStatus = 503
    rate_limited_tokens: Count = 0
    """Answered 429 as over a real limit; nothing happens. The same for starts and stops."""
    rate_limited_starts: Count = 0
    rate_limited_stops: Count = 0
    retry_after_s: Annotated[int, Field(ge=0, le=600)] = 1
    """What such a 429 asks for in ``Retry-After``."""
    never_connected: Count = 0
    """Sockets that open and then never reach state connected."""
    dropped_sockets: Count = 0
    """Sockets cut without a closing handshake in the middle of an utterance."""
    drop_after_ms: Count = 300
    """How much of an utterance is heard before its socket is dropped, or falls silent."""
    black_holes: Count = 0
    """Sockets that fall silent in the middle of an utterance and are not closed.

    Nothing more is read from them and nothing more comes. The session bills on, what was said is
    heard, and a newer socket may take over. The silent one is aborted when it is replaced or the
    session ends.
    """
    black_holes_at_once: Count = 0
    """The same for sockets that have just become connected."""
    no_speech_events: bool = False
    """No ``agent.speak_*`` at all, whatever the dialect."""

    def take(self, name: str) -> bool:
        """Use up one of a counted fault; whether there was one left."""
        left: int = getattr(self, name)
        if left > 0:
            setattr(self, name, left - 1)
        return left > 0
