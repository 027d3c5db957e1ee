"""Live speech: PCM written as it is made, straight to the session's owner.

    async with session.live(sample_rate_hz=24_000) as live:
        async with live.utterance() as speech:
            async for pcm in tts:
                await speech.write(pcm)
        heard = await speech.result()

What a program holds: the session's live speech, and its utterances. Where the owner is, and what
has to be sent again after a break, is decided elsewhere (`live_connection`, `live_outbox`).
"""

from __future__ import annotations

import asyncio
import ssl as tls
from collections import deque
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self
from uuid import uuid4

from pydantic import ValidationError

from avatar_sessions.contract.live_dialect import LiveBegin
from avatar_sessions.contract.messages import UtteranceReport, problems_of
from avatar_sessions.contract.states import Pose, UtteranceOutcome
from avatar_sessions.errors import (
    AnswerTimedOut,
    AvatarSessionsError,
    LiveSpeechClosed,
    LiveSpeechMisused,
    LiveSpeechUnreachable,
    SessionFailed,
    SessionNotFound,
    SessionOver,
    UtteranceOver,
)
from avatar_sessions.live.connection import LiveConnection, Notifier
from avatar_sessions.live.events import EventFeed, LiveEvents, SpeechEnded, SpeechInterrupted
from avatar_sessions.live.outbox import (
    FRAME_BYTES,
    Outbox,
    OutgoingState,
    OutgoingUtterance,
    ResumeFrom,
)
from avatar_sessions.live.owners import Owners
from liveavatar_lite.messages import (
    AgentStartListening,
    AgentStopListening,
    Command,
    SessionKeepAlive,
    encode_command,
)
from liveavatar_lite.pcm import PcmConverter, PcmInput

if TYPE_CHECKING:
    from avatar_sessions.live.blocking import BlockingLiveSpeech
    from avatar_sessions.live.events import SpeechState

ORDER_TIMEOUT_S: Final = 10.0
QUIET_S: Final = 60.0
"""Nothing heard of any utterance for so long, beyond the speech still to be played: it is lost."""
MAX_ON_THE_WAY: Final = 16
"""Utterances that are not over: the owner keeps twice as many, for all who speak."""
FLUSH_S: Final = 10.0
"""How long leaving waits until what was sealed has gone out: the window, and a slow network."""
FLUSH_AFTER_ERROR_S: Final = 1.0


class _Phase(Enum):
    NEW = "new"
    OPEN = "open"
    CLOSED = "closed"


class LiveSpeech:
    """Live speech to one session. Made by :meth:`avatar_sessions.Session.live`; entered once.

    Broken connections, takeovers and rotations are its own affair: a program sees a pause.
    What it raises of a session's end is raised where something is asked of it, not on leaving.
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
        """Take who knows the session's owner, and what PCM will be written.

        Raises:
            ValueError: rate or number of channels cannot be converted.
        """
        PcmConverter(sample_rate_hz, channels)  # refuses what cannot be converted
        self._session_key = session_key
        self._sample_rate_hz = sample_rate_hz
        self._channels = channels
        self._open_timeout_s = open_timeout_s
        self._phase = _Phase.NEW
        self._bell = Notifier()
        self._feed = EventFeed()
        self._outbox = Outbox(
            ResumeFrom(resume), on_over=lambda report: self._feed.tell(SpeechEnded(report))
        )
        self._connection = LiveConnection(owners, self._outbox, self._feed, self._bell, ssl=ssl)
        self._waiting: deque[object] = deque()  # who wants to open an utterance, first come first
        self._holder: object = None  # the task or thread that opened the last one
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
            raise LiveSpeechMisused("live speech is entered once: ask for it again")
        self._phase = _Phase.OPEN
        name = f"live-speech {self._session_key}"
        self._following = asyncio.create_task(self._follow(), name=name)
        try:
            async with asyncio.timeout(self._open_timeout_s):
                while not self._connection.is_ready and self._outbox.ended is None:
                    await self._bell.wait()
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
        """Let what was sealed go out (not: be heard), and close the connection."""
        if self._outbox.open_utterance is not None:
            self._outbox.interrupt(str(uuid4()))  # its block runs elsewhere, and has no end now
            self._bell.ring()
        loop = asyncio.get_running_loop()
        leave_at = loop.time() + (FLUSH_S if error is None else FLUSH_AFTER_ERROR_S)
        try:
            while not self._outbox.is_flushed and self._outbox.ended is None:
                if loop.time() >= leave_at:
                    break
                await self._bell.wait(leave_at - loop.time())
        finally:
            await self._close()

    async def _follow(self) -> None:
        try:
            await self._connection.run()
        except AvatarSessionsError as error:
            is_over = isinstance(error, SessionOver | SessionFailed | SessionNotFound)
            self._end(error, UtteranceOutcome.CANCELLED if is_over else UtteranceOutcome.LOST)
        except Exception:
            self._end(LiveSpeechClosed("live speech broke inside"), UtteranceOutcome.LOST)
            raise

    async def _close(self) -> None:
        self._phase = _Phase.CLOSED
        task = self._following
        assert task is not None
        task.cancel()
        await asyncio.wait({task})
        closed = LiveSpeechClosed("live speech was closed before this: keep its block open longer")
        self._end(closed, UtteranceOutcome.LOST)
        if not task.cancelled():
            task.result()  # a fault of our own, which must not be lost

    def _end(self, error: AvatarSessionsError, outcome: UtteranceOutcome) -> None:
        self._outbox.end(error, outcome)
        self._feed.close()
        self._bell.ring()

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

        They are spoken in the order in which they are entered. The next can be entered once all
        of the one before was given, long before it has been heard; entering waits for that, and
        while 16 are on their way.

        Args:
            text: the words, for the ledger only; at most 4,000 characters.
            utterance_id: letters, digits and ``. _ : @ / + = -``. None: a new one.
            sample_rate_hz: of this utterance's PCM. None: as for the others.
            channels: of this utterance's PCM. None: as for the others.

        Raises:
            ValueError: one of these cannot be used.
        """
        utterance_id = utterance_id or str(uuid4())
        try:
            LiveBegin(utterance_id=utterance_id, text=text)
        except ValidationError as error:
            raise ValueError(f"not an utterance: {problems_of(error)}") from None
        converter = PcmConverter(sample_rate_hz or self._sample_rate_hz, channels or self._channels)
        return LiveUtterance(self, utterance_id, text, converter)

    async def interrupt(self, *, timeout_s: float = ORDER_TIMEOUT_S) -> SpeechInterrupted:
        """Fall silent now: everything asked before is cut. In band, so nothing overtakes it.

        Returns:
            When it is on the wire to LiveAvatar: what was being said, and how much of it had been
            heard by then.

        Raises:
            AnswerTimedOut: it was not, within ``timeout_s``; it will be sent nevertheless.
            SessionOver, SessionFailed, SessionNotFound, LiveSpeechClosed: there is nobody to say.
        """
        self._check_open()
        interrupt = self._outbox.interrupt(str(uuid4()))
        self._bell.ring()
        try:
            async with asyncio.timeout(timeout_s):
                while interrupt.answer is None:
                    self._check_open()
                    await self._bell.wait()
        except TimeoutError:
            raise AnswerTimedOut("interrupt", self._session_key, timeout_s) from None
        return interrupt.answer

    async def set_pose(
        self, pose: Pose | Literal["listening", "idle"], *, timeout_s: float = ORDER_TIMEOUT_S
    ) -> None:
        """Look attentive (``listening``), or ``idle``, when silent. Returns when it was sent.

        Raises:
            ValueError: no such pose.
            AnswerTimedOut: no owner was there within ``timeout_s``.
            SessionOver, SessionFailed, SessionNotFound, LiveSpeechClosed: as `interrupt`.
        """
        listening = Pose(pose) is Pose.LISTENING
        await self._send_order(
            AgentStartListening() if listening else AgentStopListening(), timeout_s
        )

    async def keep_alive(self, *, timeout_s: float = ORDER_TIMEOUT_S) -> None:
        """Restart the idle clocks, ours and LiveAvatar's. Raises as `set_pose`."""
        await self._send_order(SessionKeepAlive(), timeout_s)

    # -------------------------------------------------------------------- seeing

    @property
    def state(self) -> SpeechState:
        """Whether speech goes on to LiveAvatar now, or is held until it can again."""
        return "recovering" if self._outbox.ended is not None else self._connection.state

    @property
    def epoch(self) -> tuple[int, int] | None:
        """The owner's epoch; None before the first was there."""
        return self._connection.epoch

    @property
    def generation(self) -> int:
        """The number of the LiveAvatar session that speaks."""
        return self._connection.generation

    def events(self) -> LiveEvents:
        """What happens from now on, for one reader; ask again for another.

        A reader that falls behind by more than 256 loses the oldest: see its ``dropped``.
        """
        return self._feed.reader()

    def blocking(self) -> BlockingLiveSpeech:
        """The same live speech for programs in other threads than this event loop's.

        Raises:
            LiveSpeechClosed: its block has not begun, or has ended.
        """
        from avatar_sessions.live.blocking import BlockingLiveSpeech

        self._check_open()
        return BlockingLiveSpeech(self, asyncio.get_running_loop())

    # -------------------------------------------------------------------- inside

    def _check_open(self) -> None:
        if self._outbox.ended is not None:
            raise self._outbox.ended
        if self._phase is not _Phase.OPEN:
            raise LiveSpeechClosed("live speech is not open: use it inside its `async with` block")

    async def _send_order(self, command: Command, timeout_s: float) -> None:
        self._check_open()
        order = self._outbox.order(encode_command(command).decode())
        self._bell.ring()
        try:
            async with asyncio.timeout(timeout_s):
                while not order.is_put:
                    self._check_open()
                    await self._bell.wait()
        except TimeoutError:
            kind = "set_pose" if not isinstance(command, SessionKeepAlive) else "keep_alive"
            raise AnswerTimedOut(kind, self._session_key, timeout_s) from None
        finally:
            self._outbox.withdraw(order)

    async def _open_utterance(
        self, utterance_id: str, text: str | None, holder: object
    ) -> OutgoingUtterance:
        self._check_open()
        if self._outbox.open_utterance is not None and self._holder is holder:
            raise LiveSpeechMisused(
                "an utterance was entered inside another's block: leave that one first"
            )
        turn = object()
        self._waiting.append(turn)
        try:
            while (
                self._waiting[0] is not turn
                or self._outbox.open_utterance is not None
                or self._outbox.on_the_way >= MAX_ON_THE_WAY
            ):
                await self._bell.wait()
                self._check_open()
            self._holder = holder
            return self._outbox.open(utterance_id, text)
        finally:
            self._waiting.remove(turn)
            self._bell.ring()


class LiveUtterance:
    """One utterance of live speech: an async context manager. Made by `LiveSpeech.utterance`.

    Leaving its block gives all of it: the avatar says it and rests. An exception or a cancel that
    leaves the block interrupts it. When the utterance is over before its block is, by an interrupt
    for instance, the next `write` ends the block quietly, and `result` tells why.

    Attributes:
        id: its id, also in the session's report.
        text: its words, for the ledger.
    """

    def __init__(
        self, live: LiveSpeech, utterance_id: str, text: str | None, converter: PcmConverter
    ) -> None:
        """Not for use: see `LiveSpeech.utterance`."""
        self.id = utterance_id
        self.text = text
        self._live = live
        self._outbox = live._outbox
        self._bell = live._bell
        self._converter = converter
        self._writing = asyncio.Lock()
        self._outgoing: OutgoingUtterance | None = None  # set when entered
        self._holder: object = None  # the task or thread that entered it

    def __repr__(self) -> str:
        state = "new" if self._outgoing is None else self._outgoing.state.value
        return f"LiveUtterance({self.id!r}, {state})"

    async def __aenter__(self) -> Self:
        """Open it, when all of those before it was given.

        Raises:
            LiveSpeechMisused: it was entered already, or inside another's block.
            SessionOver, SessionFailed, SessionNotFound, LiveSpeechClosed: as `write`.
        """
        return await self._enter(asyncio.current_task())

    async def _enter(self, holder: object) -> Self:
        if self._outgoing is not None:
            raise LiveSpeechMisused("an utterance is entered once: make another one")
        self._outgoing = await self._live._open_utterance(self.id, self.text, holder)
        self._holder = holder
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Seal it; after an exception interrupt it. Swallows its own `UtteranceOver` only."""
        if error is None:
            try:
                await self._seal()
            except BaseException:
                self._abandon()
                raise
            return False
        self._abandon()
        return _tells_of(error, self.id)

    async def write(self, pcm: PcmInput) -> None:
        """Say this next. Waits while enough is under way: at the pace of speech, in the end.

        Give it pieces of a second or less where you can: a piece is converted as a whole.

        Args:
            pcm: bytes, bytearray or memoryview of 16-bit little-endian samples, channels
                interleaved; or a numpy array, int16 or float32 (full scale 1.0), of shape ``(n,)``
                or ``(n, channels)``. Samples may be cut anywhere.

        Raises:
            liveavatar_lite.BadAudio: it holds NaN or infinity, or is of another type or shape;
                nothing of it was taken, and the utterance can go on.
            UtteranceOver: it is over, or was cut: let it out of the block.
            LiveSpeechMisused: outside of its block.
            SessionOver, SessionFailed, SessionNotFound: the session is over.
            LiveSpeechClosed: the live speech's own block has ended.
        """
        async with self._writing:
            self._check_takes_speech()
            await self._give(self._converter.convert(pcm))

    async def result(self) -> UtteranceReport:
        """Wait until it is over, however it ended: its ``outcome`` tells.

        Where nobody can tell what became of it, the answer is made here, with what is known: it is
        ``cancelled`` if the session ended first, else ``lost``.

        Raises:
            LiveSpeechMisused: it was never entered, or this is its own block.
        """
        return await self._result(asyncio.current_task())

    async def _result(self, holder: object) -> UtteranceReport:
        outgoing = self._entered()
        if outgoing.state is OutgoingState.OPEN and self._holder is holder:
            raise LiveSpeechMisused("an utterance's result is there after its block: leave it")
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        while outgoing.report is None:
            left_s: float | None = None
            if outgoing.state is not OutgoingState.OPEN:
                heard_at = max(asked_at, self._outbox.news_at_s)
                left_s = heard_at + self._outbox.unplayed_s + QUIET_S - loop.time()
                if left_s <= 0:
                    why = f"nothing was heard of it for {QUIET_S:g} s"
                    self._outbox.give_up(outgoing, UtteranceOutcome.LOST, why)
                    self._bell.ring()
                    continue
            await self._bell.wait(left_s)
        return outgoing.report

    # -------------------------------------------------------------------- inside

    def _entered(self) -> OutgoingUtterance:
        if self._outgoing is None:
            raise LiveSpeechMisused("the utterance was not entered: use `async with`")
        return self._outgoing

    def _check_takes_speech(self) -> None:
        state = self._entered().state
        if self._outbox.ended is not None:
            raise self._outbox.ended
        if state is OutgoingState.SEALED:
            raise LiveSpeechMisused("the utterance's block has ended: it takes no more speech")
        if state is not OutgoingState.OPEN:
            raise UtteranceOver(self.id)

    async def _give(self, pcm: bytes) -> None:
        outgoing = self._entered()
        rest = memoryview(pcm)
        while rest:
            self._check_takes_speech()
            room = min(self._outbox.room, FRAME_BYTES)
            if not room:
                await self._bell.wait()
                continue
            self._outbox.give(outgoing, rest[:room])
            rest = rest[room:]
            self._bell.ring()

    async def _seal(self) -> None:
        outgoing = self._entered()
        async with self._writing:
            try:
                await self._give(self._converter.finish())
            except UtteranceOver:
                return
            except AvatarSessionsError:
                if self._outbox.ended is None:
                    raise
                return  # the result tells
            if outgoing.state is OutgoingState.OPEN:
                self._outbox.seal(outgoing)
                self._bell.ring()

    def _abandon(self) -> None:
        if self._entered().state is OutgoingState.OPEN:
            self._outbox.interrupt(str(uuid4()))
            self._bell.ring()


def _tells_of(error: BaseException, utterance_id: str) -> bool:
    """Whether an error says that this utterance is over, and nothing else (groups included)."""
    if isinstance(error, BaseExceptionGroup):
        return all(_tells_of(one, utterance_id) for one in error.exceptions)
    return isinstance(error, UtteranceOver) and error.utterance_id == utterance_id
