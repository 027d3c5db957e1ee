"""One utterance of live speech, as a program holds it, and the turns in which utterances open.

Speech written here waits in the outbox; how it reaches the owner is not decided here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

from avatar_sessions.contract.reports import UtteranceReport
from avatar_sessions.contract.states import UtteranceOutcome
from avatar_sessions.errors import AvatarSessionsError, LiveSpeechMisused, UtteranceOver
from avatar_sessions.live.notifier import Notifier
from avatar_sessions.live.outbox import FRAME_BYTES, Outbox
from avatar_sessions.live.outgoing_utterance import OutgoingState, OutgoingUtterance
from liveavatar_lite.pcm import PcmConverter, PcmInput

NO_REPORT_TIMEOUT_S: Final = 60.0
"""An utterance is lost when the owner has reported nothing about any utterance for so long, beyond
the speech still to be played."""
MAX_IN_FLIGHT: Final = 16
"""Utterances that are not over: the owner keeps twice as many, for all speakers."""


class UtteranceTurns:
    """Opens utterances one at a time, in the order in which their callers asked."""

    def __init__(self, outbox: Outbox, notifier: Notifier, check_open: Callable[[], None]) -> None:
        """Open utterances in an outbox.

        Args:
            outbox: takes the utterances.
            notifier: notified when the outbox changes.
            check_open: raises if live speech is not open.
        """
        self._outbox = outbox
        self._notifier = notifier
        self._check_open = check_open
        self._waiting: deque[object] = deque()  # first come, first served
        self._holder: object = None  # the task or thread that opened the last one

    async def open(self, utterance_id: str, text: str | None, holder: object) -> OutgoingUtterance:
        """Wait for a turn, and open an utterance for a task or thread.

        Raises:
            LiveSpeechMisused: the holder has an utterance open: it would wait for itself.
            SessionOver, SessionFailed, SessionNotFound, LiveSpeechClosed: live speech has ended.
        """
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
                or self._outbox.in_flight >= MAX_IN_FLIGHT
            ):
                await self._notifier.wait()
                self._check_open()
            self._holder = holder
            return self._outbox.open(utterance_id, text)
        finally:
            self._waiting.remove(turn)
            self._notifier.notify()


class LiveUtterance:
    """One utterance of live speech: an async context manager. Made by `LiveSpeech.utterance`.

    Leaving its block finishes it: the avatar says all of it and rests. An exception or a cancel
    that leaves the block interrupts it. If the utterance is over before its block ends, by an
    interrupt for instance, the next `write` ends the block without an error, and `result` says why.

    Attributes:
        id: its id, also in the session's report.
        text: its words, for the ledger.
    """

    def __init__(
        self,
        utterance_id: str,
        text: str | None,
        *,
        outbox: Outbox,
        notifier: Notifier,
        turns: UtteranceTurns,
        converter: PcmConverter,
    ) -> None:
        """Not for use: see `LiveSpeech.utterance`."""
        self.id = utterance_id
        self.text = text
        self._outbox = outbox
        self._notifier = notifier
        self._turns = turns
        self._converter = converter
        self._writing = asyncio.Lock()
        self._outgoing: OutgoingUtterance | None = None  # set when entered
        self._holder: object = None  # the task or thread that entered it

    def __repr__(self) -> str:
        state = "new" if self._outgoing is None else self._outgoing.state.value
        return f"LiveUtterance({self.id!r}, {state})"

    async def __aenter__(self) -> Self:
        """Open it, once the utterances before it are finished.

        Raises:
            LiveSpeechMisused: it was entered already, or inside another's block.
            SessionOver, SessionFailed, SessionNotFound, LiveSpeechClosed: as `write`.
        """
        return await self._enter(asyncio.current_task())

    async def _enter(self, holder: object) -> Self:
        if self._outgoing is not None:
            raise LiveSpeechMisused("an utterance is entered once: make another one")
        self._outgoing = await self._turns.open(self.id, self.text, holder)
        self._holder = holder
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Finish it; after an exception interrupt it. Swallows its own `UtteranceOver` only."""
        if error is None:
            try:
                await self._finish()
            except BaseException:
                self._abandon()
                raise
            return False
        self._abandon()
        return _means_over(error, self.id)

    async def write(self, pcm: PcmInput) -> None:
        """Say this next. Waits while the window is full, so in the long run at the pace of speech.

        Prefer pieces of a second or less: a piece is converted as a whole.

        Args:
            pcm: bytes, bytearray or memoryview of 16-bit little-endian samples, channels
                interleaved; or a numpy array, int16 or float32 (full scale 1.0), of shape ``(n,)``
                or ``(n, channels)``. Pieces may end in the middle of a sample.

        Raises:
            liveavatar_lite.BadAudio: the piece holds NaN or infinity, or is of another type or
                shape; none of it was taken, and the utterance can go on.
            UtteranceOver: the utterance is over, or was cut: let the error leave the block.
            LiveSpeechMisused: called outside of its block.
            SessionOver, SessionFailed, SessionNotFound: the session is over.
            LiveSpeechClosed: the live speech's own block has ended.
        """
        async with self._writing:
            self._check_takes_speech()
            await self._queue(self._converter.convert(pcm))

    async def result(self) -> UtteranceReport:
        """Wait until it is over, however it ended: see the report's ``outcome``.

        If the owner's report cannot be had, the report is made here from what is known: the outcome
        is ``cancelled`` if the session ended first, else ``lost``.

        Raises:
            LiveSpeechMisused: it was never entered, or its own block has not ended.
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
                reported_at = max(asked_at, self._outbox.last_report_at_s)
                due_at = reported_at + self._outbox.unplayed_s + NO_REPORT_TIMEOUT_S
                left_s = due_at - loop.time()
                if left_s <= 0:
                    why = f"the owner reported nothing for {NO_REPORT_TIMEOUT_S:g} s"
                    self._outbox.give_up(outgoing, UtteranceOutcome.LOST, why)
                    self._notifier.notify()
                    continue
            await self._notifier.wait(left_s)
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
        if state is OutgoingState.FINISHED:
            raise LiveSpeechMisused("the utterance's block has ended: it takes no more speech")
        if state is not OutgoingState.OPEN:
            raise UtteranceOver(self.id)

    async def _queue(self, pcm: bytes) -> None:
        outgoing = self._entered()
        rest = memoryview(pcm)
        while rest:
            self._check_takes_speech()
            room = min(self._outbox.room_bytes, FRAME_BYTES)
            if not room:
                await self._notifier.wait()
                continue
            self._outbox.write(outgoing, rest[:room])
            rest = rest[room:]
            self._notifier.notify()

    async def _finish(self) -> None:
        outgoing = self._entered()
        async with self._writing:
            try:
                await self._queue(self._converter.finish())
            except UtteranceOver:
                return
            except AvatarSessionsError:
                if self._outbox.ended is None:
                    raise
                return  # `result` reports it
            if outgoing.state is OutgoingState.OPEN:
                self._outbox.finish(outgoing)
                self._notifier.notify()

    def _abandon(self) -> None:
        if self._entered().state is OutgoingState.OPEN:
            self._outbox.interrupt(str(uuid4()))
            self._notifier.notify()


def _means_over(error: BaseException, utterance_id: str) -> bool:
    """Whether an error, or a whole group, says only that this utterance is over."""
    if isinstance(error, BaseExceptionGroup):
        return all(_means_over(one, utterance_id) for one in error.exceptions)
    return isinstance(error, UtteranceOver) and error.utterance_id == utterance_id
