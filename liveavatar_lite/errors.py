"""The errors of LITE mode, as one tree. They hold no policy: retries are the caller's decision.

LiteError
├── ApiError                    LiveAvatar's REST API answered with something other than success
│   ├── BadRequest              400: the request can never work as it stands
│   │   ├── DurationOverPlan    max_session_duration is above what plan or sandbox allows
│   │   └── SandboxAvatar       this avatar cannot be used in the sandbox
│   ├── Unauthorized            401: the API key or session token is missing, wrong or misplaced
│   ├── Forbidden               403: the key is valid, but does not allow this
│   │   ├── ConcurrencyLimit    too many sessions are open; retry when one has ended
│   │   └── NoCredits           the balance does not pay for another minute
│   ├── NotFound                404: no such session or avatar
│   ├── InvalidRequest          422: a field is missing or malformed; `problems` names each
│   ├── RateLimited             429: too many calls in this second; see `retry_after_s`
│   ├── ServerError             5xx: LiveAvatar itself failed
│   └── UnexpectedResponse      none of the above, or a success without its data
├── TransportFailed             no reply was received
│   ├── ServiceUnreachable      the request was never sent
│   └── OutcomeUnknown          the request was sent, or may have been, and no reply came
├── ProtocolViolation           a WebSocket message that the LITE protocol does not allow
│   ├── NotConnectedYet         a command before connected, which the service drops silently
│   ├── IllegalTransition       a state cannot follow the current one
│   ├── FrameTooLarge           a message of a megabyte or more
│   └── BadAudio                audio that is empty, splits a sample, or is not base64
└── ConnectionFailed            the media WebSocket cannot be used
    ├── NeverConnected          the session did not become connected in time
    ├── ConnectionRefused       the media server answered the WebSocket handshake with a refusal
    ├── ConnectionLost          it was connected, and the other side or the network ended it
    ├── ConnectionDead          it looks open, audio was sent, and no frame came back
    ├── EventsUnread            its events were not read, and their queue is full
    └── ConnectionClosed        it was used after `close`

Every error has two attributes:

``retryable``
    The same call, unchanged, can succeed later.
``maybe_billed``
    The failed call may have started a session, and billing: stop it by its id before starting
    another. Only ``start_session`` sets it.
"""

from __future__ import annotations

from collections.abc import Sequence


class LiteError(Exception):
    """Base class of this package's errors."""

    retryable: bool = False
    maybe_billed: bool = False

    def mark_as_start(self) -> None:
        """Mark this as a failure of ``start_session``; overridden where the outcome is open."""


class _OutcomeOpen(LiteError):
    """A failure after which a call may or may not have taken effect."""

    retryable = True

    def mark_as_start(self) -> None:
        """A repeated start could bill twice: not retryable, and the session may be billed."""
        self.retryable = False
        self.maybe_billed = True


# --- REST -----------------------------------------------------------------------------


class ApiError(LiteError):
    """LiveAvatar's REST API answered with something other than success.

    Attributes:
        status: HTTP status.
        code: LiveAvatar's own code from the envelope (4xxx), if there was one.
        detail: the service's message, without secrets, at most some hundred characters.
        retry_after_s: seconds to wait, if the reply said so (``Retry-After``).
        call: method and path, such as ``POST /v1/sessions/token``.
    """

    advice: str = ""

    def __init__(
        self,
        status: int,
        code: int | None = None,
        detail: str = "",
        retry_after_s: float | None = None,
        *,
        call: str = "",
    ) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.call = call
        super().__init__(status, code, detail, retry_after_s)

    def __str__(self) -> str:
        where = f" to {self.call}" if self.call else ""
        number = f"{self.status}/{self.code}" if self.code is not None else str(self.status)
        text = f"LiveAvatar answered {number}{where}"
        if self.detail:
            text += f": {self.detail}"
        if self.retry_after_s is not None:
            text += f" (retry after {self.retry_after_s:g} s)"
        return f"{text}. {self.advice}" if self.advice else text


class BadRequest(ApiError):
    """400: the request can never work as it stands, for instance an unknown avatar."""


class DurationOverPlan(BadRequest):
    """400: ``max_session_duration`` is above what the plan, or the sandbox, allows.

    Attributes:
        maximum_s: the allowed maximum in seconds, read from the service's text.
    """

    def __init__(
        self,
        status: int,
        code: int | None = None,
        detail: str = "",
        retry_after_s: float | None = None,
        *,
        call: str = "",
        maximum_s: int,
    ) -> None:
        super().__init__(status, code, detail, retry_after_s, call=call)
        self.maximum_s = maximum_s
        self.advice = f"Ask for at most {maximum_s} s"


class SandboxAvatar(BadRequest):
    """400: this avatar cannot be used in the sandbox."""

    advice = "In the sandbox use the avatar Wayne (WAYNE_AVATAR_ID)"


class Unauthorized(ApiError):
    """401: the API key or session token is missing, wrong, or of the wrong kind for this call."""

    advice = "Check the API key: it is LiveAvatar's own, HeyGen's keys do not work here"


class Forbidden(ApiError):
    """403: the credential is valid, but does not allow this."""


class ConcurrencyLimit(Forbidden):
    """403 with code 4003: too many sessions are open.

    A stopped session stops counting after about a second.
    """

    retryable = True
    advice = "Stop a session first, or retry in a moment"


class NoCredits(Forbidden):
    """403: the balance does not pay for another minute."""

    advice = "Add credits to the LiveAvatar account, or use the sandbox"


class NotFound(ApiError):
    """404: no such session (it may have ended) or avatar."""


class InvalidRequest(ApiError):
    """422: a field is missing or malformed.

    Attributes:
        problems: one line a field, such as ``body.avatar_id: Field required``; never the value
            that was sent.
    """

    def __init__(
        self,
        status: int,
        code: int | None = None,
        detail: str = "",
        retry_after_s: float | None = None,
        *,
        call: str = "",
        problems: Sequence[str] = (),
    ) -> None:
        super().__init__(status, code, detail or "; ".join(problems), retry_after_s, call=call)
        self.problems = tuple(problems)


class RateLimited(ApiError):
    """429: too many calls within this second. LiveAvatar counts fixed windows of one second."""

    retryable = True


class ServerError(_OutcomeOpen, ApiError):
    """5xx: LiveAvatar itself failed. Whether the call took effect is not known."""


class UnexpectedResponse(_OutcomeOpen, ApiError):
    """A reply that is none of the above, or a success without the data that it must have."""

    retryable = False


# --- transport ------------------------------------------------------------------------


class TransportFailed(LiteError):
    """No reply was received from the REST API."""


class ServiceUnreachable(TransportFailed):
    """The request was never sent, for instance because nothing listens. Nothing is billed."""

    retryable = True


class OutcomeUnknown(_OutcomeOpen, TransportFailed):
    """The request was sent, or may have been, and no reply came: a start may be billed."""


# --- WebSocket protocol ---------------------------------------------------------------


class ProtocolViolation(LiteError):
    """A WebSocket message that the LITE protocol does not allow.

    Attributes:
        event_id: the id of the offending command, where it had one.
    """

    def __init__(self, message: str, *, event_id: str | None = None) -> None:
        super().__init__(message)
        self.event_id = event_id


class NotConnectedYet(ProtocolViolation):
    """A command was given before the session was connected.

    The service drops such commands silently.
    """


class IllegalTransition(ProtocolViolation):
    """A state cannot follow the current one; the text names both."""


class FrameTooLarge(ProtocolViolation):
    """A message is as large as the service's limit or larger.

    Attributes:
        frame_bytes: size of the whole JSON frame.
        limit_bytes: a frame must be smaller than this.
    """

    def __init__(self, frame_bytes: int, limit_bytes: int, *, event_id: str | None = None) -> None:
        super().__init__(
            f"message of {frame_bytes:,} bytes: it must be smaller than {limit_bytes:,}",
            event_id=event_id,
        )
        self.frame_bytes = frame_bytes
        self.limit_bytes = limit_bytes


class BadAudio(ProtocolViolation):
    """Audio that is empty, splits a 16-bit sample, is not base64, or holds NaN."""


# --- WebSocket connection -------------------------------------------------------------


class ConnectionFailed(LiteError):
    """The media WebSocket cannot be used."""


class NeverConnected(ConnectionFailed):
    """The socket, or the session behind it, did not become connected in time."""

    retryable = True


class ConnectionRefused(ConnectionFailed):
    """The media server answered the WebSocket handshake with a refusal.

    Attributes:
        status: HTTP status of the refusal. 5xx and 429 are retryable; 4xx means that the session
            has ended.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"the media server refused the WebSocket with HTTP {status}")
        self.status = status
        self.retryable = status >= 500 or status == 429


class ConnectionLost(ConnectionFailed):
    """The socket was connected, and the other side or the network ended it.

    Attributes:
        code: WebSocket close code; 1006 when there was no closing handshake.
        reason: the other side's close reason, often empty.
    """

    retryable = True

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(
            f"the media WebSocket was closed with code {code}" + (f": {reason}" if reason else "")
        )
        self.code = code
        self.reason = reason


class ConnectionDead(ConnectionFailed):
    """The socket looks open, audio was sent, and no frame came back.

    Attributes:
        silent_s: seconds of silence since the first unanswered chunk.
    """

    retryable = True

    def __init__(self, silent_s: float) -> None:
        super().__init__(
            f"the media server has not answered for {silent_s:.1f} s although audio was sent"
        )
        self.silent_s = silent_s


class EventsUnread(ConnectionFailed):
    """The connection's events were not read, and their queue is full: iterate ``events()``."""


class ConnectionClosed(ConnectionFailed):
    """The connection was used after `close`."""
