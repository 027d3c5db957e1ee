"""One session, as a backend sees it: attach, command, watch, end.

A :class:`Session` holds a key and a client, and no other state: it can be discarded and made again
from its key at any time. Its workflow decides what the session does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl as tls
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, cast, overload
from uuid import uuid4

from avatar_sessions.access import Access
from avatar_sessions.contract import names
from avatar_sessions.contract.messages import (
    DEFAULT_COMMAND_TTL_S,
    Clip,
    Command,
    End,
    Interrupt,
    KeepAlive,
    OwnerLost,
    SetPose,
    Speak,
)
from avatar_sessions.contract.reports import (
    CommandResult,
    Failure,
    SessionReport,
    SessionStatus,
    UtteranceReport,
)
from avatar_sessions.contract.states import (
    FINAL,
    CommandOutcome,
    Pose,
    SessionState,
    UtteranceOutcome,
)
from avatar_sessions.errors import (
    AnswerTimedOut,
    AvatarSessionsError,
    CommandExpired,
    SessionFailed,
    SessionOver,
    TooManyAwaited,
    session_failed,
)
from avatar_sessions.rpc import WorkflowRpc
from avatar_sessions.seal import Seal
from avatar_sessions.session_rpc import QUERY_TIMEOUT_S, SIGNAL_OF_KIND, SessionRpc, with_id

if TYPE_CHECKING:
    from avatar_sessions.live.speech import LiveSpeech

ATTACH_TIMEOUT_S: Final = 75.0
"""The default start timeout of a session (60 s) and a margin."""
COMMAND_MARGIN_S: Final = 15.0
"""Added to a command's time to live, for the way to the session and back."""
SPEAK_TIMEOUT_S: Final = 1800.0
"""Three clips of the maximum length, one after the other."""
AWAITED_SPEAKS: Final = 4
"""How many utterances one :class:`Session` awaits at the same time. The workflow's limit is six,
for all clients together."""
TOO_MANY_PAUSE_S: Final = (0.25, 0.5, 1.0, 2.0)
WATCH_EVERY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Listing:
    """A session's attributes in Temporal's visibility store, which may lag by a second or so."""

    state: SessionState | None
    """The session's state."""
    tenant: str | None
    """The session's tenant."""
    provider_session_id: str | None
    """The id of its latest LiveAvatar session."""
    started_at: datetime
    """When its workflow started."""
    ended_at: datetime | None = None
    """When its workflow closed."""


class Session:
    """A session by its key. :class:`avatar_sessions.AvatarSessions` makes it.

    A session from ``start`` or ``open`` stays that session, even if its key is used again later. A
    session from ``get`` is the one that has the key at the time of each call.

    Attributes:
        key: the session's key.
        listing: its attributes in the visibility store, for a session from ``list``.
    """

    def __init__(
        self,
        rpc: WorkflowRpc,
        seal: Seal | None,
        key: str,
        *,
        run_id: str | None = None,
        listing: Listing | None = None,
    ) -> None:
        self.key = key
        self.listing = listing
        self._rpc = SessionRpc(rpc, key, run_id)
        self._seal = seal
        self._speaks = asyncio.Semaphore(AWAITED_SPEAKS)  # first come, first served

    def __repr__(self) -> str:
        return f"Session({self.key!r})"

    @property
    def workflow_id(self) -> str:
        """The id of the session's workflow."""
        return self._rpc.workflow_id

    @property
    def run_id(self) -> str | None:
        """The workflow run of this session. None: the latest run under the key."""
        return self._rpc.run_id

    # ------------------------------------------------------------- access

    async def attach(
        self,
        viewer_identity: str | None = None,
        *,
        speaker: bool = False,
        timeout_s: float = ATTACH_TIMEOUT_S,
    ) -> Access:
        """Wait until the avatar is live, and return access to its room.

        Args:
            viewer_identity: the viewer's identity in an ``OwnRoom``; two viewers there need two
                identities. A hosted room has one fixed viewer identity.
            speaker: also request a ticket for live speech. :meth:`live` does so itself.
            timeout_s: how many seconds to wait.

        Raises:
            SessionFailed: the session did not become live, or failed later; the subclass says why.
            SessionOver, SessionNotFound: there is no such session, or not any more.
            AccessFailed: the session runs, and access could not be made.
            SealKeysUnusable, SealMismatch: the tokens cannot be decrypted.
            NoAnswer: Temporal or its workers did not answer in time.
        """
        return await self._rpc.attach(
            viewer_identity, self._seal, speaker=speaker, timeout_s=timeout_s
        )

    # -------------------------------------------------------- live speech

    def live(
        self,
        *,
        sample_rate_hz: int = 24_000,
        channels: int = 1,
        resume: Literal["resume", "drop"] = "resume",
        open_timeout_s: float = ATTACH_TIMEOUT_S,
        ssl: tls.SSLContext | None = None,
    ) -> LiveSpeech:
        """Live speech to the session's owner, which it follows: an async context manager.

        Args:
            sample_rate_hz: the sample rate of the PCM, 8,000 to 192,000.
            channels: the number of channels of the PCM, 1 to 8; they are averaged.
            resume: what becomes of an utterance in flight when the owner changes: it resumes at the
                next owner (``resume``), or is dropped (``drop``).
            open_timeout_s: how many seconds entering the context may take.
            ssl: for workers whose certificates the system does not trust.

        Raises:
            InvalidArgument: the sample rate or the number of channels cannot be converted.
        """
        # Imported here: a program that only sends commands does not pay for live speech.
        from avatar_sessions.live.speech import LiveSpeech
        from avatar_sessions.session_owners import SessionOwners

        return LiveSpeech(
            SessionOwners(self),
            session_key=self.key,
            sample_rate_hz=sample_rate_hz,
            channels=channels,
            resume=resume,
            open_timeout_s=open_timeout_s,
            ssl=ssl,
        )

    async def owner_lost(self, epoch: tuple[int, int]) -> None:
        """Report that the connection to this owner broke; the session then probes the owner.

        Raises:
            SessionFailed, SessionOver, SessionNotFound: there is no such session (any more).
            NoAnswer: Temporal did not answer in time.
        """
        await self._rpc.signal(names.SIGNAL_OWNER_LOST, OwnerLost(epoch=epoch))

    async def ending(self) -> AvatarSessionsError | None:
        """Return why the session is over or about to be, as the error to raise. None: it goes on.

        Raises:
            SessionNotFound: there is no such session.
            NoAnswer: Temporal or its workers did not answer in time.
        """
        status = await self.status()
        if status.state in FINAL:
            return await self._rpc.error_of_end()
        if status.end_reason is None:
            return None
        if status.end_reason.final_state is SessionState.ENDED:
            return SessionOver(self.key)
        reason = status.end_reason
        failure = status.failure or Failure(type=reason.value, message=reason.value)
        return session_failed(self.key, failure, reason)

    # ----------------------------------------------------------- commands

    @overload
    async def speak(
        self,
        clip: Clip,
        *,
        command_id: str | None = None,
        ttl_s: float | None = None,
        wait: Literal[True] = True,
        timeout_s: float = SPEAK_TIMEOUT_S,
    ) -> UtteranceReport: ...

    @overload
    async def speak(
        self,
        clip: Clip,
        *,
        command_id: str | None = None,
        ttl_s: float | None = None,
        wait: Literal[False],
        timeout_s: float = SPEAK_TIMEOUT_S,
    ) -> str: ...

    async def speak(
        self,
        clip: Clip,
        *,
        command_id: str | None = None,
        ttl_s: float | None = None,
        wait: bool = True,
        timeout_s: float = SPEAK_TIMEOUT_S,
    ) -> UtteranceReport | str:
        """Say a clip, after all speech requested before it; before the avatar is live, it waits.

        Calls that run at the same time reach the session in any order. To queue several clips in
        order, await each with ``wait=False`` and a ``command_id``; a ``speak`` with the same id
        then waits for its end.

        Args:
            clip: what to say.
            command_id: repeats with one id are one utterance. None: a new utterance.
            ttl_s: how many seconds it may wait for the avatar. None: the session's
                ``command_ttl_s``.
            wait: True returns when the utterance is over, however it ended: its ``outcome`` says
                how (an utterance that was interrupted, rejected or expired raises nothing). False
                returns its command id as soon as Temporal has it.
            timeout_s: how many seconds to wait for its end.

        Raises:
            InvalidMessage: ``command_id`` or ``ttl_s`` cannot be used.
            CommandRejected: the session refused it.
            TooManyAwaited: other calls wait for too many utterances of this session, all the time.
            SessionFailed, SessionOver, SessionNotFound: there is no such session (any more).
            NoAnswer: Temporal or its workers did not answer in time.
        """
        command = Speak(clip=clip, command_id=command_id or str(uuid4()), ttl_s=ttl_s)
        if not wait:
            return await self.send(command)
        try:
            async with asyncio.timeout(timeout_s), self._speaks:
                result = await self._perform_with_retries(command, timeout_s)
        except TimeoutError:
            raise AnswerTimedOut("speak", self.key, timeout_s) from None
        if result.utterance is not None:
            return result.utterance
        return UtteranceReport(id=result.command_id, outcome=UtteranceOutcome(result.outcome))

    async def _perform_with_retries(self, command: Speak, timeout_s: float) -> CommandResult:
        """Perform a command; repeat it while other clients await as many as the session allows."""
        pauses_s = iter((*TOO_MANY_PAUSE_S, *([TOO_MANY_PAUSE_S[-1]] * int(timeout_s))))
        while True:
            try:
                return await self.perform(command, timeout_s=timeout_s)
            except TooManyAwaited:
                pause_s = next(pauses_s, None)
                if pause_s is None:
                    raise
                await asyncio.sleep(pause_s)

    async def interrupt(self, *, timeout_s: float | None = None) -> CommandResult:
        """Stop speaking now; speech that was requested earlier and not yet heard is dropped.

        Raises:
            CommandExpired: the avatar was not live within the command's time to live.
            SessionFailed, SessionOver, SessionNotFound: there is no such session (any more).
            NoAnswer: Temporal or its workers did not answer in time.
        """
        return await self._completed(Interrupt(), timeout_s)

    async def set_pose(
        self, pose: Pose | Literal["listening", "idle"], *, timeout_s: float | None = None
    ) -> CommandResult:
        """Set what the avatar does while it is silent: ``listening`` or ``idle``.

        Raises:
            InvalidMessage: there is no such pose.
            AvatarSessionsError: as for :meth:`interrupt`.
        """
        # Checked by the model, which names what is wrong with it.
        return await self._completed(SetPose(pose=cast(Pose, pose)), timeout_s)

    async def keep_alive(self, *, timeout_s: float | None = None) -> CommandResult:
        """Restart both idle timeouts, the session's and LiveAvatar's. Raises as `interrupt`."""
        return await self._completed(KeepAlive(), timeout_s)

    async def perform(self, command: Command, *, timeout_s: float | None = None) -> CommandResult:
        """Send a command and wait for its result: on the wire, or an utterance over.

        A request whose reply was lost is repeated and never carried out twice. The same command
        with the same ``command_id`` is one command; another command with it is refused.

        Args:
            command: the command.
            timeout_s: how many seconds to wait. None: the command's time to live and a margin.

        Raises:
            CommandRejected: the session refused it.
            TooManyAwaited: the session has as many unanswered requests as it may have.
            SessionFailed, SessionOver, SessionNotFound: there is no such session (any more).
            NoAnswer: Temporal or its workers did not answer in time.
        """
        command = with_id(command)
        if timeout_s is None:
            ttl_s = DEFAULT_COMMAND_TTL_S if command.ttl_s is None else command.ttl_s
            timeout_s = ttl_s + COMMAND_MARGIN_S
        return await self._rpc.perform(command, timeout_s)

    async def send(self, command: Command) -> str:
        """Send a command without waiting for its result: it is durable once this returns.

        Returns:
            The command's id.

        Raises:
            SessionFailed, SessionOver, SessionNotFound: there is no such session (any more).
            NoAnswer: Temporal did not answer in time.
        """
        command = with_id(command)
        assert command.command_id is not None
        await self._rpc.signal(SIGNAL_OF_KIND[command.kind], command)
        return command.command_id

    async def _completed(self, command: Command, timeout_s: float | None) -> CommandResult:
        result = await self.perform(command, timeout_s=timeout_s)
        if result.outcome is CommandOutcome.EXPIRED:
            raise CommandExpired(result)
        if result.outcome is CommandOutcome.CANCELLED:
            raise await self.ending() or SessionOver(self.key)
        return result

    # ------------------------------------------------------------- status

    async def status(self, *, timeout_s: float = QUERY_TIMEOUT_S) -> SessionStatus:
        """Return the session's status; of an ended session, from its report.

        Raises:
            SessionNotFound: there is no such session.
            SessionTerminated: its workflow was terminated.
            NoAnswer: Temporal or its workers did not answer in time.
        """
        return await self._rpc.status(timeout_s)

    async def watch(self, *, every_s: float = WATCH_EVERY_S) -> AsyncIterator[SessionStatus]:
        """Yield the session's status now and after each change, until the session has ended.

        Args:
            every_s: how many seconds pass between two queries.
        """
        last: SessionStatus | None = None
        while True:
            status = await self.status()
            if status != last:
                yield status
                last = status
            if status.state in FINAL:
                return
            await asyncio.sleep(every_s)

    # ------------------------------------------------------------- ending

    async def end(
        self, *, finish_speaking: bool = False, timeout_s: float | None = None
    ) -> SessionReport:
        """End the session, wait for its cleanup, and return its report.

        The report of a session that has already ended is returned as well. A failed session raises
        nothing here; its report says so.

        Args:
            finish_speaking: play the speech requested before to its end first. False: the avatar is
                cut mid-word.
            timeout_s: how many seconds to wait for the report. None: as long as it takes (the
                cleanup may last half an hour while LiveAvatar is down).

        Raises:
            SessionNotFound: there is no such session.
            SessionTerminated: its workflow was terminated and has no report of its own.
            NoAnswer: Temporal or its workers did not answer in time.
        """
        # A session that is over, as expected or not, has a report as well.
        with contextlib.suppress(SessionOver, SessionFailed):
            await self.send(End(finish_speaking=finish_speaking))
        return await self.report(timeout_s=timeout_s)

    async def cancel(self) -> None:
        """Cancel the workflow: ends the session as ``end`` does, with end reason ``cancelled``.

        Raises:
            SessionNotFound: there is no such session.
            NoAnswer: Temporal did not answer in time.
        """
        await self._rpc.cancel()

    async def report(self, *, timeout_s: float | None = None) -> SessionReport:
        """Wait until the session is over and cleaned up, and return its report.

        Args:
            timeout_s: how many seconds to wait. None: as long as the session lasts.

        Raises:
            SessionNotFound: there is no such session.
            SessionTerminated: its workflow was terminated and has no report; the error holds what
                Temporal knows instead.
            NoAnswer: Temporal or its workers did not answer in time.
        """
        return await self._rpc.report(timeout_s)
