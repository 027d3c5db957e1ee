"""LiveAvatar's error replies over REST: status, envelope code and message.

Known from LiveAvatar: the duration text, concurrency's 403 with code 4003, and 4000 as the code of
bad requests. The rest is assumed, and marked so in the simulator's documentation.
"""

from __future__ import annotations


class Refusal(Exception):
    """A request is refused.

    Attributes:
        status: HTTP status.
        code: the envelope's ``code``.
        message: the envelope's ``message``; never holds a secret.
        headers: headers of the reply, with ``Retry-After`` where known.
    """

    def __init__(
        self, status: int, code: int, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}


class ReplyLost(Exception):
    """The request took effect, and its reply is dropped with the connection."""


def bad_request(message: str) -> Refusal:
    """400."""
    return Refusal(400, 4000, message)


def duration_over_plan(asked_s: int, maximum_s: int) -> Refusal:
    """400, with LiveAvatar's text, which clients parse."""
    return bad_request(
        f"max_session_duration ({asked_s}s) exceeds the maximum allowed ({maximum_s}s)"
    )


def unauthorized(message: str) -> Refusal:
    """401."""
    return Refusal(401, 4001, message)


def no_credits() -> Refusal:
    """403: the credits do not pay for another minute."""
    return Refusal(403, 4002, "Insufficient credits to start a session")


def concurrency_limit() -> Refusal:
    """403, with the code that was observed."""
    return Refusal(403, 4003, "Session concurrency limit reached")


def not_running() -> Refusal:
    """400: only a running session can be ended or frozen by the service."""
    return bad_request("Session is not running")


def not_recorded() -> Refusal:
    """404: there is no recording of the session."""
    return Refusal(404, 4004, "The session has no recording: set record_heard_s")


def session_not_found() -> Refusal:
    """404."""
    return Refusal(404, 4004, "Session not found")


def rate_limited(headers: dict[str, str]) -> Refusal:
    """429."""
    return Refusal(429, 4029, "Rate limit exceeded", headers)


def injected(status: int) -> Refusal:
    """A failure injected by `Faults`."""
    return Refusal(status, status * 10, "Injected by the simulator's faults")


def start_failed() -> Refusal:
    """500: the session's room could not be created."""
    return Refusal(500, 5000, "Failed to start session")
