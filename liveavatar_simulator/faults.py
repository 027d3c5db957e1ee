"""Faults to inject: what the simulator does wrong, and how often.

A count applies to the next n calls or sockets; a flag or a time applies until it is reset. Setting
faults replaces the whole set.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
FailureStatus = Annotated[int, Field(ge=400, le=599)]


class Faults(BaseModel):
    """The faults to inject; by default none."""

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
    """The next n are answered with 429, as over a real limit, and have no effect; so for starts and
    stops."""
    rate_limited_starts: Count = 0
    rate_limited_stops: Count = 0
    retry_after_s: Annotated[int, Field(ge=0, le=600)] = 1
    """``Retry-After`` of such a 429."""
    never_connected: Count = 0
    """Sockets that open and never reach state connected."""
    dropped_sockets: Count = 0
    """Sockets that are cut during an utterance, without a closing handshake."""
    drop_after_ms: Count = 300
    """How much of an utterance is played before its socket is cut or stalls."""
    black_holes: Count = 0
    """Sockets that stall during an utterance and are not closed.

    A stalled socket reads nothing and sends nothing. Billing continues, audio that was sent is
    played, and a newer socket can take over. The stalled one is aborted when it is replaced or the
    session ends.
    """
    black_holes_at_once: Count = 0
    """The same, for sockets that have just reached state connected."""
    no_speech_events: bool = False
    """No ``agent.speak_*`` events, whatever the dialect."""

    def take(self, name: str) -> bool:
        """Use up one of a counted fault; False if none was left."""
        left: int = getattr(self, name)
        if left > 0:
            setattr(self, name, left - 1)
        return left > 0
