"""Live speech: PCM written as it is made, straight to the session's owner.

    async with session.live(sample_rate_hz=24_000) as live:
        async with live.utterance() as speech:
            async for pcm in tts:
                await speech.write(pcm)
        heard = await speech.result()

The object that a program holds. Where the owner is, is `connection`'s part; what is sent again
after a break, `outbox`'s.
"""

from __future__ import annotations

import asyncio
import ssl as tls
from collections.abc import Mapping
from enum import Enum
from types import TracebackType
from typing import Final, Literal, Self
from uuid import uuid4

from pydantic import ValidationError

from avatar_sessions.contract.live_dialect import LiveBegin
from avatar_sessions.contract.messages import problems_of
from avatar_sessions.contract.states import Pose, UtteranceOutcome
from avatar_sessions.errors import (
    AnswerTimedOut,
    AvatarSessionsError,
    InvalidArgument,
    LiveSpeechClosed,
    LiveSpeechMisused,
    LiveSpeechUnreachable,
    SessionFailed,
    SessionNotFound,
    SessionOver,
)
from avatar_sessions.live.blocking import BlockingLiveSpeech
from avatar_sessions.live.connection import LiveConnection
from avatar_sessions.live.events import (
    EventFeed,
    LiveEvents,
    SpeechEnded,
    SpeechInterrupted,
    SpeechState,
)
from avatar_sessions.live.notifier import Notifier
from avatar_sessions.live.outbox import Outbox, ResumeFrom
from avatar_sessions.live.owners import Owners
from avatar_sessions.live.utterance import LiveUtterance, UtteranceTurns
from liveavatar_lite.messages import (
    AgentStartListening,
    AgentStopListening,
    Command,
    SessionKeepAlive,
)
from liveavatar_lite.pcm import PcmConverter

COMMAND_TIMEOUT_S: Final = 10.0
FLUSH_S: Final = 10.0
"""How long leaving waits until finished utterances were sent: the window, and a slow network."""
FLUSH_AFTER_ERROR_S: Final = 1.0


class _Phase(Enum):
    NEW = "new"
    OPEN = "open"
    CLOSED = "closed"


_TRANSITIONS: Final[Mapping[_Phase, frozenset[_Phase]]] = {
    _Phase.NEW: frozenset({_Phase.OPEN}),
    _Phase.OPEN: frozenset({_Phase.CLOSED}),
    _Phase.CLOSED: frozenset(),
}


class LiveSpeech:
    """Live speech to one session. Made by :meth:`avatar_sessions.Session.live`; entered once.

    It handles broken connections, takeovers and rotations itself: a program sees a pause. The
    session's end is raised by the next call, not on leaving the block.
    """

    def __init__(
        self,
        owners: Owners,
        *,
        session_key: str,
        sample_rate_hz: int = 24_000,
        channels: int = 1,
        resume: Literal["resume", "drop"] = "resume",
        open_timeout_s: float = 75.0,
        ssl: tls.SSLContext | None = None,
    ) -> None:
        """Not for use: see :meth:`avatar_sessions.Session.live`.

        Raises:
            InvalidArgument: rate or number of channels cannot be converted.
        """
        _converter(sample_rate_hz, channels)  # raises here instead of at the first utterance
        self._session_key = session_key
        self._sample_rate_hz = sample_rate_hz
        self._channels = channels
        self._open_timeout_s = open_timeout_s
        self._phase = _Phase.NEW
        self._notifier = Notifier()
        self._feed = EventFeed()
        self._outbox = Outbox(
            ResumeFrom(resume), on_over=lambda report: self._feed.publish(SpeechEnded(report))
        )
        self._connection = LiveConnection(owners, self._outbox, self._feed, self._notifier, ssl=ssl)
        self._turns = UtteranceTurns(self._outbox, self._notifier, self._check_open)
        self._following: asyncio.Task[None] | None = None  # set while OPEN

    # ---------------------------------------------------------------- in and out

    async def __aenter__(self) -> Self:
        """Find the owner and connect.

        Raises:
            LiveSpeechUnavailable: the owner takes no live speech.
            LiveSpeechUnreachable: its ingress could not be reached within ``open_timeout_s``.
            AvatarSessionsError: as :meth:`avatar_sessions.Session.attach`.
        """
        if self._phase is not _Phase.NEW:
            raise LiveSpeechMisused("live speech is entered once: call Session.live again")
        self._become(_Phase.OPEN)
        name = f"live-speech {self._session_key}"
        self._following = asyncio.create_task(self._follow(), name=name)
        try:
            async with asyncio.timeout(self._open_timeout_s):
                while not self._connection.is_ready and self._outbox.ended is None:
                    await self._notifier.wait()
        except TimeoutError:
            await self._close()
            raise LiveSpeechUnreachable(
                self._session_key, self._connection.problem, self._open_timeout_s
            ) from None
        except BaseException:
            await self._close()
            raise
        if self._outbox.ended is not None:
            await self._close()
            raise self._outbox.ended
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait until finished utterances were sent (not: heard), and close the connection."""
        if self._outbox.open_utterance is not None:
            self._outbox.interrupt(str(uuid4()))  # its block runs in another task
            self._notifier.notify()
        loop = asyncio.get_running_loop()
        leave_at = loop.time() + (FLUSH_S if error is None else FLUSH_AFTER_ERROR_S)
        try:
            while not self._outbox.is_flushed and self._outbox.ended is None:
                if loop.time() >= leave_at:
                    break
                await self._notifier.wait(leave_at - loop.time())
        finally:
            await self._close()

    async def _follow(self) -> None:
        try:
            await self._connection.run()
        except AvatarSessionsError as error:
            is_over = isinstance(error, SessionOver | SessionFailed | SessionNotFound)
            self._end(error, UtteranceOutcome.CANCELLED if is_over else UtteranceOutcome.LOST)
        except Exception:
            self._end(
                LiveSpeechClosed("live speech failed with an internal error"), UtteranceOutcome.LOST
            )
            raise

    async def _close(self) -> None:
        if self._phase is not _Phase.CLOSED:
            self._become(_Phase.CLOSED)
        task = self._following
        assert task is not None
        task.cancel()
        await asyncio.wait({task})
        closed = LiveSpeechClosed("live speech was closed before this: keep its block open longer")
        self._end(closed, UtteranceOutcome.LOST)
        if not task.cancelled():
            task.result()  # a bug here must not be lost

    def _end(self, error: AvatarSessionsError, outcome: UtteranceOutcome) -> None:
        self._outbox.end(error, outcome)
        self._feed.close()
        self._notifier.notify()

    # -------------------------------------------------------------------- speech

    def utterance(
        self,
        text: str | None = None,
        *,
        utterance_id: str | None = None,
        sample_rate_hz: int | None = None,
        channels: int | None = None,
    ) -> LiveUtterance:
        """An utterance: enter it, write to it, leave it, ask for its result.

        Utterances are spoken in the order in which they are entered. The next one can be entered
        once the one before is finished, long before it has been heard. Entering waits for that, and
        while 16 utterances are in flight.

        Args:
            text: the words, for the ledger only; at most 4,000 characters.
            utterance_id: letters, digits and ``. _ : @ / + = -``. None: a new one.
            sample_rate_hz: of this utterance's PCM. None: as for the others.
            channels: of this utterance's PCM. None: as for the others.

        Raises:
            InvalidArgument: an argument cannot be used.
        """
        utterance_id = utterance_id or str(uuid4())
        try:
            LiveBegin(utterance_id=utterance_id, text=text)
        except ValidationError as error:
            raise InvalidArgument(f"not an utterance: {problems_of(error)}") from None
        converter = _converter(sample_rate_hz or self._sample_rate_hz, channels or self._channels)
        return LiveUtterance(
            utterance_id,
            text,
            outbox=self._outbox,
            notifier=self._notifier,
            turns=self._turns,
            converter=converter,
        )

    async def interrupt(self, *, timeout_s: float = COMMAND_TIMEOUT_S) -> SpeechInterrupted:
        """Cut all speech requested before, and fall silent. In band, so nothing overtakes it.

        Returns when the interrupt is on the wire to LiveAvatar.

        Returns:
            The utterance that was playing, and how much of it had been heard by then.

        Raises:
            AnswerTimedOut: no answer within ``timeout_s``; the interrupt will be sent nevertheless.
            SessionOver, SessionFailed, SessionNotFound, LiveSpeechClosed: live speech has ended.
        """
        self._check_open()
        interrupt = self._outbox.interrupt(str(uuid4()))
        self._notifier.notify()
        try:
            async with asyncio.timeout(timeout_s):
                while interrupt.answer is None:
                    self._check_open()
                    await self._notifier.wait()
        except TimeoutError:
            raise AnswerTimedOut("interrupt", self._session_key, timeout_s) from None
        return interrupt.answer

    async def set_pose(
        self, pose: Pose | Literal["listening", "idle"], *, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> None:
        """Set the pose while silent: attentive (``listening``) or ``idle``. Returns when sent.

        Raises:
            InvalidArgument: no such pose.
            AnswerTimedOut: no owner was reached within ``timeout_s``.
            SessionOver, SessionFailed, SessionNotFound, LiveSpeechClosed: as `interrupt`.
        """
        try:
            listening = Pose(pose) is Pose.LISTENING
        except ValueError:
            poses = ", ".join(Pose)
            raise InvalidArgument(
                f"no such pose: {str(pose)[:80]!r}; it is one of {poses}"
            ) from None
        await self._send_command(
            AgentStartListening() if listening else AgentStopListening(), timeout_s
        )

    async def keep_alive(self, *, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        """Restart the idle clocks of the session and of LiveAvatar. Raises as `set_pose`."""
        await self._send_command(SessionKeepAlive(), timeout_s)

    # -------------------------------------------------------------------- state

    @property
    def state(self) -> SpeechState:
        """``live``: speech reaches LiveAvatar. ``recovering``: it is held until it can again."""
        return "recovering" if self._outbox.ended is not None else self._connection.state

    @property
    def epoch(self) -> tuple[int, int] | None:
        """The owner's epoch; None before the first owner was reached."""
        return self._connection.epoch

    @property
    def generation(self) -> int:
        """The number of the LiveAvatar session that plays the speech."""
        return self._connection.generation

    def events(self) -> LiveEvents:
        """Events from now on, for one reader; call again for another reader.

        A reader that falls behind by more than 256 events loses the oldest: see ``dropped``.
        """
        return self._feed.reader()

    def blocking(self) -> BlockingLiveSpeech:
        """The same live speech for other threads than this event loop's.

        Raises:
            LiveSpeechClosed: its block has not begun, or has ended.
        """
        self._check_open()
        return BlockingLiveSpeech(self, asyncio.get_running_loop())

    # -------------------------------------------------------------------- inside

    def _become(self, phase: _Phase) -> None:
        if phase not in _TRANSITIONS[self._phase]:
            raise RuntimeError(f"live speech cannot go from {self._phase.name} to {phase.name}")
        self._phase = phase

    def _check_open(self) -> None:
        if self._outbox.ended is not None:
            raise self._outbox.ended
        if self._phase is not _Phase.OPEN:
            raise LiveSpeechClosed("live speech is not open: use it inside its `async with` block")

    async def _send_command(self, command: Command, timeout_s: float) -> None:
        self._check_open()
        control = self._outbox.command(command)
        self._notifier.notify()
        try:
            async with asyncio.timeout(timeout_s):
                while not control.is_sent:
                    self._check_open()
                    await self._notifier.wait()
        except TimeoutError:
            kind = "set_pose" if not isinstance(command, SessionKeepAlive) else "keep_alive"
            raise AnswerTimedOut(kind, self._session_key, timeout_s) from None
        finally:
            self._outbox.withdraw(control)


def _converter(sample_rate_hz: int, channels: int) -> PcmConverter:
    try:
        return PcmConverter(sample_rate_hz, channels)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
