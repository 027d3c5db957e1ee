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
    never_connected: Count = 0
    """Sockets that open and then never reach state connected."""
    dropped_sockets: Count = 0
    """Sockets cut without a closing handshake in the middle of an utterance."""
    drop_after_ms: Count = 300
    """How much of an utterance is heard before its socket is dropped."""
    no_speech_events: bool = False
    """No ``agent.speak_*`` at all, whatever the dialect."""

    def take(self, name: str) -> bool:
        """Use up one of a counted fault; whether there was one left."""
        left: int = getattr(self, name)
        if left > 0:
            setattr(self, name, left - 1)
        return left > 0
