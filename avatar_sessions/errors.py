"""Every error that the client raises, as one tree.

It holds no policy: what to retry, and when, is up to the caller. No I/O.

AvatarSessionsError
├── InvalidArgument             an argument that can never be used; raised before anything is sent
│   ├── InvalidSessionKey       the key is empty, too long, or has characters it may not have
│   └── InvalidMessage          a request, clip or command has fields that cannot be used
├── SessionNotFound             no session has this key, nor had it lately
├── SessionOver                 the session ended as expected, before or during the call
├── SessionFailed               the session ended in a failure
│   ├── InvalidRequest          the request can never work: LiveAvatar, or the workflow, refused it
│   │   ├── AvatarNotAccepted   no such avatar, or not one that this key or the sandbox may use
│   │   └── DurationOverPlan    `max_duration_s` is above what the plan allows
│   ├── Unauthorized            LiveAvatar refused the workers' API key
│   ├── NoCredits               the balance does not pay for another minute
│   ├── ConcurrencyLimit        LiveAvatar has no free session at the moment
│   ├── ServiceUnreachable      LiveAvatar (or LiveKit) did not answer, or answered with 5xx
│   ├── StartTimedOut           not live within `start_timeout_s`
│   └── SessionTerminated       the workflow was terminated: it left no report of its own
├── AccessFailed                the session runs, and access to its room could not be made
├── CommandRejected             the session refused a message; `problems` says why
├── CommandExpired              the command waited for the avatar longer than its time to live
├── TooManyAwaited              too many calls wait for utterances of this session
├── SealKeysUnusable            the call needs AVATAR_SESSIONS_SEAL_KEYS: none is set, or usable
├── SealMismatch                the workers encrypt with a key that the client does not have
├── LiveSpeechUnavailable       the session's owner takes no live speech
├── LiveSpeechUnreachable       the owner's ingress cannot be reached, or refuses this client
├── LiveSpeechClosed            live speech was used outside its `async with` block
├── LiveSpeechMisused           a call that cannot work where it was made: a bug in the caller
├── UtteranceOver               speech was written to an utterance that is over or interrupted
├── UnexpectedAnswer            an answer that this release cannot read
└── NoAnswer                    no answer in time; the request may still be carried out
    ├── TemporalUnreachable     the Temporal server cannot be reached, or refuses this client
    ├── WorkersMissing          Temporal answers, and no worker polls the task queue
    └── AnswerTimedOut          the server and workers are there; the answer did not come in time

``InvalidArgument`` is a `ValueError`, ``SealKeysUnusable`` and ``SealMismatch`` are
:class:`avatar_sessions.seal.SealError` as well.
"""

from __future__ import annotations

from typing import Final

from avatar_sessions.contract.errors import AvatarSessionsError as AvatarSessionsError
from avatar_sessions.contract.errors import InvalidArgument as InvalidArgument
from avatar_sessions.contract.errors import InvalidMessage as InvalidMessage
from avatar_sessions.contract.errors import InvalidSessionKey as InvalidSessionKey
from avatar_sessions.contract.reports import CommandResult, Failure, SessionReport
from avatar_sessions.contract.states import EndReason, SessionState
from avatar_sessions.seal import SealError

# ---------------------------------------------------------------- the session


class SessionNotFound(AvatarSessionsError):
    """No session has this key. Temporal deletes ended sessions after the namespace's retention."""

    def __init__(self, session_key: str) -> None:
        self.session_key = session_key
        super().__init__(f"there is no session {session_key!r}")


class SessionOver(AvatarSessionsError):
    """The session ended as expected, before or during the call.

    Attributes:
        session_key: the session's key.
        report: the session's report; None while it is still cleaning up.
    """

    def __init__(self, session_key: str, report: SessionReport | None = None) -> None:
        self.session_key = session_key
        self.report = report
        how = f"has ended: {report.end_reason}" if report is not None else "is ending"
        super().__init__(f"session {session_key!r} {how}")


class SessionFailed(AvatarSessionsError):
    """The session ended in a failure.

    Attributes:
        session_key: the session's key.
        failure: the reason, as a message and a type.
        report: the session's report; None while it is still cleaning up.
    """

    advice: str = ""

    def __init__(
        self, session_key: str, failure: Failure, report: SessionReport | None = None
    ) -> None:
        self.session_key = session_key
        self.failure = failure
        self.report = report
        text = f"session {session_key!r} failed: {failure.message} ({failure.type})"
        super().__init__(f"{text}. {self.advice}" if self.advice else text)


class InvalidRequest(SessionFailed):
    """The request can never work as it stands: change it before trying again."""


class AvatarNotAccepted(InvalidRequest):
    """No such avatar, or not one that this API key, or the sandbox, may use."""


class DurationOverPlan(InvalidRequest):
    """``max_duration_s`` is above what the plan, or the sandbox, allows."""


class Unauthorized(SessionFailed):
    """LiveAvatar refused the workers' API key."""

    advice = "The key is the workers': check their LIVEAVATAR_API_KEY."


class NoCredits(SessionFailed):
    """The balance does not pay for another minute."""


class ConcurrencyLimit(SessionFailed):
    """LiveAvatar has no free session at the moment: try again later."""


class ServiceUnreachable(SessionFailed):
    """LiveAvatar, or the LiveKit server, did not answer in time or answered with 5xx."""


class StartTimedOut(SessionFailed):
    """The avatar was not live within ``start_timeout_s``."""


class SessionTerminated(SessionFailed):
    """The workflow was terminated, or ran into a timeout.

    Its cleanup did not run. The owner and the janitor stop what it left running.
    """


_FAILURE_CLASSES: Final[dict[str, type[SessionFailed]]] = {
    "BadRequest": AvatarNotAccepted,
    "NotFound": AvatarNotAccepted,
    "SandboxAvatar": AvatarNotAccepted,
    "DurationOverPlan": DurationOverPlan,
    "InvalidRequest": InvalidRequest,
    "Unauthorized": Unauthorized,
    "Forbidden": Unauthorized,
    "NoCredits": NoCredits,
    "ConcurrencyLimit": ConcurrencyLimit,
    "RateLimited": ConcurrencyLimit,
    "ServiceUnreachable": ServiceUnreachable,
    "ServerError": ServiceUnreachable,
    "OutcomeUnknown": ServiceUnreachable,
    "StartTimeout": StartTimedOut,
    "Terminated": SessionTerminated,
}
_REASON_CLASSES: Final[dict[EndReason, type[SessionFailed]]] = {
    EndReason.INVALID_REQUEST: InvalidRequest,
    EndReason.START_TIMEOUT: StartTimedOut,
}


def session_failed(
    session_key: str,
    failure: Failure,
    reason: EndReason | None = None,
    report: SessionReport | None = None,
) -> SessionFailed:
    """Return the error for a failure: by the failure's type, else by the end reason."""
    by_reason = None if reason is None else _REASON_CLASSES.get(reason)
    error_class = _FAILURE_CLASSES.get(failure.type) or by_reason or SessionFailed
    return error_class(session_key, failure, report)


def error_of_report(report: SessionReport) -> SessionOver | SessionFailed:
    """Return the error for a call to a session that ended with this report."""
    if report.state is not SessionState.FAILED:
        return SessionOver(report.session_key, report)
    failure = report.failure or Failure(
        type=report.end_reason.value, message=report.end_reason.value.replace("_", " ")
    )
    return session_failed(report.session_key, failure, report.end_reason, report)


class AccessFailed(AvatarSessionsError):
    """The session runs, and access to its room could not be made: try again.

    Attributes:
        session_key: the session's key.
        failure: the reason, as a message and a type.
    """

    def __init__(self, session_key: str, failure: Failure) -> None:
        self.session_key = session_key
        self.failure = failure
        super().__init__(
            f"no access to session {session_key!r}: {failure.message} ({failure.type})"
        )


# ---------------------------------------------------------------- messages


class CommandRejected(AvatarSessionsError):
    """The session refused a message, which had no effect.

    Attributes:
        problems: what is wrong, one sentence each, without the offending values.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__(f"the session refused the message: {'; '.join(problems)}")


class CommandExpired(AvatarSessionsError):
    """The command waited for the avatar longer than its time to live, and was dropped.

    Attributes:
        result: the session's answer.
    """

    def __init__(self, result: CommandResult) -> None:
        self.result = result
        super().__init__(
            f"{result.kind} {result.command_id} expired: the avatar was not live in time"
        )


class TooManyAwaited(AvatarSessionsError):
    """Too many calls wait for utterances of one session at the same time.

    The limit is the session's: Temporal allows a workflow 10 unanswered updates. Speech that needs
    no answer has no such limit: ``speak(..., wait=False)``.
    """


# ---------------------------------------------------------------- seals


class SealKeysUnusable(AvatarSessionsError, SealError):
    """The call needs seal keys, and the client has none that are usable."""


class SealMismatch(AvatarSessionsError, SealError):
    """The workers encrypt with a key that is not among the client's seal keys."""


# ---------------------------------------------------------------- live speech


class LiveSpeechUnavailable(AvatarSessionsError):
    """The session's owner takes no live speech; clips and commands work."""

    def __init__(self, session_key: str) -> None:
        self.session_key = session_key
        super().__init__(
            f"the owner of session {session_key!r} takes no live speech: run the workers with"
            " their ingress, or send clips with `speak`"
        )


class LiveSpeechUnreachable(AvatarSessionsError):
    """The owner's ingress could not be reached in time, or refused this client."""

    def __init__(self, session_key: str, problem: str, waited_s: float) -> None:
        self.session_key = session_key
        self.problem = problem
        self.waited_s = waited_s
        super().__init__(
            f"no live speech to session {session_key!r} within {waited_s:g} s: {problem};"
            " check that this host can reach the address of the workers' ingress"
        )


class LiveSpeechClosed(AvatarSessionsError):
    """Live speech was used before its `async with` block began, or after it ended."""


class LiveSpeechMisused(AvatarSessionsError):
    """A call that cannot work where it was made: a bug in the calling program."""


class UtteranceOver(AvatarSessionsError):
    """Speech was written to an utterance that is over or was interrupted.

    The utterance's own `with` block suppresses this error; its `result` has the outcome.

    Attributes:
        utterance_id: the utterance's id.
    """

    def __init__(self, utterance_id: str) -> None:
        self.utterance_id = utterance_id
        super().__init__(f"utterance {utterance_id} is over and takes no more speech")


# ---------------------------------------------------------------- no answer


class UnexpectedAnswer(AvatarSessionsError):
    """Temporal or the session gave an answer that this release cannot read."""


class NoAnswer(AvatarSessionsError):
    """No answer came in time; the request may still be carried out."""


class TemporalUnreachable(NoAnswer):
    """The Temporal server cannot be reached, or refuses this client.

    Attributes:
        address: the server's address.
    """

    def __init__(self, address: str, reason: str, advice: str = "") -> None:
        self.address = address
        text = f"Temporal at {address} {reason}"
        super().__init__(f"{text}: {advice}" if advice else text)


class WorkersMissing(NoAnswer):
    """Temporal answers, and no worker has lately polled the task queue.

    A requested session waits in the queue, and starts when a worker polls it.
    """

    def __init__(self, task_queue: str, address: str) -> None:
        self.task_queue = task_queue
        self.address = address
        super().__init__(
            f"no worker polls task queue {task_queue} at {address}:"
            " start one with `python -m workers`"
        )


class AnswerTimedOut(NoAnswer):
    """The server and workers are there, and the answer did not come within ``waited_s``.

    The request may still be carried out. Repeating it under the same command id is safe.
    """

    def __init__(self, asked: str, session_key: str, waited_s: float) -> None:
        self.asked = asked
        self.session_key = session_key
        self.waited_s = waited_s
        super().__init__(
            f"session {session_key!r} did not answer {asked} within {waited_s:g} s;"
            " it may still be carried out"
        )
