"""Everything the client raises, as one tree.

It holds no policy: what to repeat, and when, is the caller's business. No I/O.

AvatarSessionsError
├── SessionNotFound             no session has, or lately had, this key
├── SessionOver                 the session ended as foreseen, before or while it was asked
├── SessionFailed               the session ended, and not as it was asked to
│   ├── InvalidRequest          the request can never work: LiveAvatar, or the workflow, refused it
│   │   ├── AvatarNotAccepted   no such avatar, or not one that this key or the sandbox may use
│   │   └── DurationOverPlan    `max_duration_s` is above what the plan allows
│   ├── Unauthorized            LiveAvatar refused the workers' API key
│   ├── NoCredits               the balance does not pay for another minute
│   ├── ConcurrencyLimit        LiveAvatar has no room for another session just now
│   ├── ServiceUnreachable      LiveAvatar (or LiveKit) did not answer, or failed itself
│   ├── StartTimedOut           not live within `start_timeout_s`
│   └── SessionTerminated       somebody terminated the workflow: there is no report of its own
├── AccessFailed                the session lives, and access to its room could not be made
├── CommandRejected             the session refused a message; `problems` says why
├── CommandExpired              the command waited for the avatar longer than its time to live
├── TooManyAwaited              too many utterances of this session are being waited for at once
├── SealKeysUnusable            access was asked for without (usable) AVATAR_SESSIONS_SEAL_KEYS
├── SealMismatch                the workers seal with a key that is not among ours
├── LiveSpeechUnavailable       the session's owner takes no live speech
├── LiveSpeechUnreachable       its ingress could not be reached from here, or refuses us
├── LiveSpeechClosed            live speech was used after its block had ended
├── LiveSpeechMisused           a call where it cannot work: a bug of the program that made it
├── UtteranceOver               speech was written to an utterance that is over, or was cut
├── UnexpectedAnswer            an answer this release cannot read
└── NoAnswer                    nothing was heard in time; what was asked may still happen
    ├── TemporalUnreachable     the Temporal server cannot be reached, or refuses us
    ├── WorkersMissing          Temporal answers, and no worker polls the task queue
    └── AnswerTimedOut          server and workers are there; the answer is still owed

``SealKeysUnusable`` and ``SealMismatch`` are :class:`avatar_sessions.seal.SealError` as well.
"""

from __future__ import annotations

from typing import Final

from avatar_sessions.contract.messages import CommandResult, Failure, SessionReport
from avatar_sessions.contract.states import EndReason, SessionState
from avatar_sessions.seal import SealError


class AvatarSessionsError(Exception):
    """Base of every error that the client raises on purpose."""


# ---------------------------------------------------------------- the session


class SessionNotFound(AvatarSessionsError):
    """No session has this key; ended ones are forgotten after the namespace's retention."""

    def __init__(self, session_key: str) -> None:
        self.session_key = session_key
        super().__init__(f"there is no session {session_key!r}")


class SessionOver(AvatarSessionsError):
    """The session ended as foreseen, before or while it was asked.

    Attributes:
        session_key: whose end it was.
        report: how it ended; None while it is still cleaning up.
    """

    def __init__(self, session_key: str, report: SessionReport | None = None) -> None:
        self.session_key = session_key
        self.report = report
        how = f"has ended: {report.end_reason}" if report is not None else "is ending"
        super().__init__(f"session {session_key!r} {how}")


class SessionFailed(AvatarSessionsError):
    """The session ended, and not as it was asked to.

    Attributes:
        session_key: whose failure it is.
        failure: the reason, in words and as a type.
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
    """The request can never work as it stands: change it before asking again."""


class AvatarNotAccepted(InvalidRequest):
    """No such avatar, or not one that this API key, or the sandbox, may use."""


class DurationOverPlan(InvalidRequest):
    """``max_duration_s`` is above what the plan, or the sandbox, allows."""


class Unauthorized(SessionFailed):
    """LiveAvatar refused the API key."""

    advice = "The key is the workers': check their LIVEAVATAR_API_KEY."


class NoCredits(SessionFailed):
    """The balance does not pay for another minute."""


class ConcurrencyLimit(SessionFailed):
    """LiveAvatar has no room for another session just now: ask again later."""


class ServiceUnreachable(SessionFailed):
    """LiveAvatar, or the LiveKit server, did not answer in time or failed itself."""


class StartTimedOut(SessionFailed):
    """The avatar was not live within ``start_timeout_s``."""


class SessionTerminated(SessionFailed):
    """The workflow was terminated or timed out by an operator.

    Its own cleanup never ran; the owner and the janitor stop what it left behind.
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
    """The error for a failure: by its type, else by the end reason."""
    by_reason = None if reason is None else _REASON_CLASSES.get(reason)
    error_class = _FAILURE_CLASSES.get(failure.type) or by_reason or SessionFailed
    return error_class(session_key, failure, report)


def error_of_report(report: SessionReport) -> SessionOver | SessionFailed:
    """The error for asking something of a session that has ended like this."""
    if report.state is not SessionState.FAILED:
        return SessionOver(report.session_key, report)
    failure = report.failure or Failure(
        type=report.end_reason.value, message=report.end_reason.value.replace("_", " ")
    )
    return session_failed(report.session_key, failure, report.end_reason, report)


class AccessFailed(AvatarSessionsError):
    """The session lives, and access to its room could not be made: ask again.

    Attributes:
        session_key: whose room it is.
        failure: the reason, in words and as a type.
    """

    def __init__(self, session_key: str, failure: Failure) -> None:
        self.session_key = session_key
        self.failure = failure
        super().__init__(
            f"no access to session {session_key!r}: {failure.message} ({failure.type})"
        )


# ---------------------------------------------------------------- messages


class CommandRejected(AvatarSessionsError):
    """The session refused a message and did nothing.

    Attributes:
        problems: one sentence each, without the offending values.
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
            f"{result.kind} {result.command_id} expired: the avatar was not there in time"
        )


class TooManyAwaited(AvatarSessionsError):
    """Too many utterances of one session are being waited for at once.

    The session answers a handful at a time (Temporal allows 10 unanswered updates a
    workflow); speech that needs no answer has no such limit: ``speak(..., wait=False)``.
    """


# ---------------------------------------------------------------- seals


class SealKeysUnusable(AvatarSessionsError, SealError):
    """Access was asked for by a client without usable seal keys."""


class SealMismatch(AvatarSessionsError, SealError):
    """The workers seal with a key that is not among the client's."""


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
    """The owner's ingress could not be reached from here in time, or refused us."""

    def __init__(self, session_key: str, problem: str, waited_s: float) -> None:
        self.session_key = session_key
        self.problem = problem
        self.waited_s = waited_s
        super().__init__(
            f"no live speech to session {session_key!r} within {waited_s:g} s: {problem};"
            " check that this host reaches the address at which the workers' ingress is announced"
        )


class LiveSpeechClosed(AvatarSessionsError):
    """Live speech was used after its `async with` block had ended, or before it began."""


class LiveSpeechMisused(AvatarSessionsError):
    """A call that cannot work where it was made: a bug of the program that made it."""


class UtteranceOver(AvatarSessionsError):
    """Speech was written to an utterance that is over, or was cut by an interrupt.

    The utterance's own `with` block ends with it quietly: its `result` tells what became of it.

    Attributes:
        utterance_id: which one.
    """

    def __init__(self, utterance_id: str) -> None:
        self.utterance_id = utterance_id
        super().__init__(f"utterance {utterance_id} takes no more speech: it is over")


# ---------------------------------------------------------------- no answer


class UnexpectedAnswer(AvatarSessionsError):
    """Temporal or the session answered something that this release cannot read."""


class NoAnswer(AvatarSessionsError):
    """Nothing was heard in time; what was asked may still happen."""


class TemporalUnreachable(NoAnswer):
    """The Temporal server cannot be reached, or refuses this client.

    Attributes:
        address: where it was looked for.
    """

    def __init__(self, address: str, reason: str, advice: str = "") -> None:
        self.address = address
        text = f"Temporal at {address} {reason}"
        super().__init__(f"{text}: {advice}" if advice else text)


class WorkersMissing(NoAnswer):
    """Temporal answers, and no worker has lately polled the task queue.

    A session that was asked for waits there, and starts when a worker comes.
    """

    def __init__(self, task_queue: str, address: str) -> None:
        self.task_queue = task_queue
        self.address = address
        super().__init__(
            f"no worker polls task queue {task_queue} at {address}:"
            " start one with `python -m workers`"
        )


class AnswerTimedOut(NoAnswer):
    """Server and workers are there, and the answer did not come within ``waited_s``.

    What was asked may still happen. Asking again under the same command id is safe.
    """

    def __init__(self, asked: str, session_key: str, waited_s: float) -> None:
        self.asked = asked
        self.session_key = session_key
        self.waited_s = waited_s
        super().__init__(
            f"session {session_key!r} did not answer {asked} within {waited_s:g} s;"
            " it may still happen"
        )
