"""The one mouth of a session: utterances in turn, paced, interruptible, each heard out.

Feeds `utterance.Utterance` into a `LiteConnection`, and survives its loss. Knows neither Temporal
nor the ingress: what happens is told to a `PlayoutListener`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from avatar_sessions.contract.messages import Failure
from avatar_sessions.contract.states import UtteranceOutcome
from liveavatar_lite import ConnectionFailed, LiteConnection, LiteError
from owner.utterance import (
    AbandonUtterance,
    EndSegment,
    NothingToSend,
    SendChunk,
    Utterance,
    WaitUntil,
)

logger = logging.getLogger(__name__)

CLEAR_TIMEOUT_S: Final = 1.0
"""How long LiveAvatar's answer to an interrupt is waited for (188 ms seen live)."""
SILENCE_MARGIN_S: Final = 3.0
"""How long past its computed end an utterance waits for LiveAvatar to say that it is over."""
OVERLAP_S: Final = 0.5
"""So long before the avatar is done with one utterance, the next one is begun: no pause between."""


class PlayoutListener(Protocol):
    """Who wants to know how speech goes on."""

    def on_progress(self, utterance: Utterance) -> None:
        """Something of it went on to LiveAvatar."""

    def on_playback_started(self, utterance: Utterance) -> None:
        """The avatar has begun to say it."""

    def on_interrupt_sent(self) -> None:
        """An interrupt is on the wire: the avatar's pose goes with it (LITE events page)."""


class Playout:
    """Says utterances one after the other."""

    def __init__(self, listener: PlayoutListener) -> None:
        self.connection: LiteConnection | None = None
        """Where speech goes; None while there is no socket."""
        self.send_lock = asyncio.Lock()
        """Whoever sends holds it, so that commands and speech keep their order."""
        self.last_sent_s = time.monotonic()
        self._listener = listener
        self._turn = asyncio.Lock()
        self._waiting: list[Utterance] = []
        self._playing: list[Utterance] = []
        self._buffer_cleared = asyncio.Event()
        self._buffer_cleared.set()
        self._connected = asyncio.Event()
        self._closed_with: UtteranceOutcome | None = None
        self._retired = False  # what waits is another's to say
        self._acknowledges = True  # False once the avatar talked on unacknowledged chunks
        self._acknowledged = False  # a chunk was, once
        # What LiveAvatar still waits for, of an utterance that ended while there was no socket.
        self._left_open: str | None = None

    @property
    def playing(self) -> Utterance | None:
        """What the avatar says, or is about to."""
        return self._playing[0] if self._playing else None

    @property
    def active(self) -> Utterance | None:
        """What is being said and not cut."""
        return next((one for one in self._playing if not one.over), None)

    @property
    def utterances(self) -> list[Utterance]:
        """All that is not over, in order."""
        return [*self._playing, *self._waiting]

    # -------------------------------------------------------------- connection

    async def on_connected(self, connection: LiteConnection, *, interrupt: bool) -> None:
        """There is a socket: tell it what LiveAvatar has of us, and let speech go on.

        Args:
            connection: the socket; it is connected.
            interrupt: one was asked for while there was no socket.

        Raises:
            LiteError: it is gone again.
        """
        async with self.send_lock:
            left = [] if self._left_open is None else [self._left_open]
            unfinished = [name for one in self._playing for name in one.unfinished_segments]
            for segment_id in left + unfinished:
                if connection.open_utterance is not None:
                    await connection.speak_end(connection.open_utterance)
                connection.adopt(segment_id)
            # What was cut meanwhile is cut there, too; what was not is end_sent by its feeder.
            going_on = any(not utterance.over for utterance in self._playing)
            cut = left or any(one.over and one.unfinished_segments for one in self._playing)
            if interrupt or (cut and not going_on):
                await self._interrupt(connection, None)
            self._left_open = None
        self.connection = connection
        self._connected.set()
        for utterance in self._playing:
            utterance.wake()

    def on_disconnected(self, connection: LiteConnection) -> None:
        """The socket is gone. What LiveAvatar confirmed is its own; the rest is said again."""
        self.connection = None
        self._connected.clear()
        self._buffer_cleared.set()
        self._acknowledged |= connection.chunks_acked > 0
        for utterance in self._playing:
            utterance.last_heard_s = connection.last_heard_s
            utterance.on_disconnected(
                connection.chunks_acked, acknowledges=self._acknowledges or self._acknowledged
            )

    def close(self, outcome: UtteranceOutcome) -> None:
        """Say nothing more, and nothing that comes later."""
        self._closed_with = self._closed_with or outcome
        now_s = time.monotonic()
        for utterance in self.utterances:
            utterance.end(outcome, now_s)
            utterance.close(now_s)
        self._buffer_cleared.set()
        self._connected.set()

    def sync_clock(self) -> None:
        """Before what was played is told for the last time: with a socket, the clock is right."""
        if self.connection is not None:
            for utterance in self._playing:
                utterance.last_heard_s = time.monotonic()

    async def retire(self, patience_s: float) -> None:
        """Begin nothing more, and wait until what is being said is heard, or for so long.

        What waits goes on waiting, until it is cut or the mouth is closed.
        """
        self._retired = True
        said = {one.outcome for one in self._playing if not one.over}
        if said:
            await asyncio.wait(said, timeout=patience_s)

    # ------------------------------------------------------------------ saying

    def queue(self, utterance: Utterance) -> None:
        """Let an utterance wait for its turn: from now on an interrupt finds it."""
        self._waiting.append(utterance)
        if self._closed_with is not None:
            utterance.end(self._closed_with, time.monotonic())

    async def play(self, utterance: Utterance) -> None:
        """Say an utterance that is queued, when its turn has come; lasts until it is over."""
        try:
            async with self._turn:
                if self._retired:
                    await asyncio.wait({utterance.outcome})
                self._waiting.remove(utterance)
                if utterance.over:
                    return
                self._playing.append(utterance)
                try:
                    await self._feed(utterance)
                    while not await self._wait_for_turn_end(utterance):
                        await self._feed(utterance)  # the socket was lost with its end
                except BaseException:
                    await self._abandon(utterance)
                    raise
            while not await self._wait_for_playout(utterance):
                await self._feed(utterance)
        finally:
            now_s = time.monotonic()
            utterance.end(UtteranceOutcome.CANCELLED, now_s)  # unless it is over
            if self.connection is None and utterance.segment_is_open:
                self._left_open = utterance.segment_id
            utterance.close(now_s)
            for line in (self._waiting, self._playing):
                if utterance in line:
                    line.remove(utterance)

    async def _feed(self, utterance: Utterance) -> None:
        while not utterance.over:
            connection = await self._usable_connection(utterance)
            if connection is None:
                continue  # it is over
            step = utterance.next_step(time.monotonic())
            match step:
                case WaitUntil(seconds=seconds):
                    await utterance.pause(seconds)
                case AbandonUtterance(failure=failure):
                    utterance.end(UtteranceOutcome.LOST, time.monotonic(), failure)
                case SendChunk() | NothingToSend() | EndSegment():
                    try:
                        await self._send_step(utterance, step, connection)
                    except ConnectionFailed as error:
                        await self._wait_for_disconnect(connection, error)
                    except LiteError as error:
                        logger.error("utterance %s cannot be said: %s", utterance.id, error)
                        failure = Failure(type=type(error).__name__, message=str(error))
                        utterance.end(UtteranceOutcome.LOST, time.monotonic(), failure)
                    if utterance.end_sent:
                        return
        await self._close_segment(utterance)

    async def _usable_connection(self, utterance: Utterance) -> LiteConnection | None:
        """The socket, once there is one and it has answered the last interrupt.

        None if the utterance is over before that.
        """
        if not self._buffer_cleared.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._buffer_cleared.wait(), CLEAR_TIMEOUT_S)
            self._buffer_cleared.set()
        if self.connection is None:
            connected = asyncio.create_task(self._connected.wait(), name="socket is back")
            first: set[asyncio.Future[Any]] = {connected, utterance.outcome}
            try:
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            finally:
                connected.cancel()
        return self.connection

    async def _send_step(
        self,
        utterance: Utterance,
        step: SendChunk | NothingToSend | EndSegment,
        connection: LiteConnection,
    ) -> None:
        async with self.send_lock:
            if utterance.over or connection is not self.connection:
                return
            if utterance.inherited:
                connection.adopt(utterance.segment_id)
                utterance.inherited = False
            if isinstance(step, SendChunk):
                await connection.speak(step.chunk, utterance.segment_id)
                utterance.last_heard_s = connection.last_heard_s
                now_s = time.monotonic()
                utterance.on_chunk_sent(
                    step.chunk,
                    now_s,
                    number=connection.chunks_sent,
                    acknowledged=connection.chunks_acked,
                    after_s=self._unplayed_before_s(utterance, now_s),
                )
                self._listener.on_progress(utterance)
            elif utterance.segment_is_open:
                if connection.open_utterance == utterance.segment_id:
                    await connection.speak_end(utterance.segment_id)
                utterance.on_segment_end_sent()
            self.last_sent_s = time.monotonic()
            if isinstance(step, EndSegment):
                utterance.end_sent = True
                if utterance.silent or utterance.is_done(time.monotonic()):
                    utterance.end(UtteranceOutcome.COMPLETED, time.monotonic())

    async def _wait_for_disconnect(self, connection: LiteConnection, error: LiteError) -> None:
        """A send failed: the reader will say that the socket is gone. If not, that is a bug."""
        logger.info("sending failed: %s", error)
        for _ in range(100):
            if connection is not self.connection:
                return
            await asyncio.sleep(0.05)
        raise error

    def _unplayed_before_s(self, utterance: Utterance, now_s: float) -> float:
        before = self._playing[: self._playing.index(utterance)]
        return sum(one.unplayed_s(now_s) for one in before)

    async def _wait_for_turn_end(self, utterance: Utterance) -> bool:
        """Keep the turn until the next one may be begun; False if its end must be sent again."""
        while not utterance.over:
            if not utterance.end_sent:
                return False
            left_s = utterance.unplayed_s(time.monotonic()) - OVERLAP_S
            if left_s <= 0:
                break
            await utterance.pause(left_s)
        return True

    async def _wait_for_playout(self, utterance: Utterance) -> bool:
        """Wait until the utterance is heard, or its interrupt answered.

        Returns:
            False if its end must be sent again: the socket was lost with it.
        """
        while not utterance.over:
            if not utterance.end_sent:
                return False
            left_s = utterance.unplayed_s(time.monotonic())
            give_up_s = time.monotonic() + left_s + SILENCE_MARGIN_S
            await utterance.pause(left_s + SILENCE_MARGIN_S)
            late = time.monotonic() >= give_up_s and utterance.unplayed_s(time.monotonic()) <= 0
            if late and utterance.end_sent:
                logger.warning("LiveAvatar did not say that utterance %s is over", utterance.id)
                utterance.end(UtteranceOutcome.COMPLETED, time.monotonic())
        if utterance.outcome.result() is UtteranceOutcome.INTERRUPTED:
            give_up_s = time.monotonic() + CLEAR_TIMEOUT_S
            while not utterance.silent and (left_s := give_up_s - time.monotonic()) > 0:
                await utterance.pause(left_s)
        return True

    async def _close_segment(self, utterance: Utterance) -> None:
        """Leave no utterance open at LiveAvatar: the next one would be taken for its rest."""
        connection = self.connection
        if connection is None:
            return
        with contextlib.suppress(LiteError):  # then the socket is gone, and it with it
            async with self.send_lock:
                if connection.open_utterance == utterance.segment_id:
                    await self._interrupt(connection, None)

    async def _abandon(self, utterance: Utterance) -> None:
        utterance.end(UtteranceOutcome.CANCELLED, time.monotonic())
        await self._close_segment(utterance)

    # --------------------------------------------------------------- interrupts

    def discard(
        self,
        up_to_sequence: int | None,
        outcome: UtteranceOutcome,
        asked_at_s: float | None = None,
    ) -> None:
        """Drop what was asked for: clips up to a number (None: all), and live speech.

        Args:
            up_to_sequence: clips asked for later are spared.
            outcome: what becomes of it.
            asked_at_s: live speech begun later is spared, unless an owner before this one has
                said some of it; None: none is.
        """
        now_s = time.monotonic()
        for utterance in self.utterances:
            if utterance.source == "live":
                meant = (
                    asked_at_s is None
                    or utterance.began_at_s <= asked_at_s
                    or utterance.has_earlier_owner
                )
            else:
                meant = up_to_sequence is None or utterance.sequence <= up_to_sequence
            if meant:
                utterance.end(outcome, now_s)

    def discard_in_band(self) -> None:
        """Drop all that was asked for, because a speaker says so."""
        now = datetime.now(UTC)
        for utterance in self.utterances:
            if not utterance.over:
                utterance.cut_in_band_at = now
        self.discard(None, UtteranceOutcome.INTERRUPTED)

    async def interrupt(
        self,
        up_to_sequence: int | None,
        event_id: str | None = None,
        *,
        said: Utterance | None = None,
        asked_at_s: float | None = None,
    ) -> tuple[str | None, float]:
        """Fall silent now; always sent, for events may be missing.

        Args:
            up_to_sequence: clips asked for later are not meant; None: everything is.
            event_id: the interrupt's own id.
            said: what was cut already on its behalf.
            asked_at_s: live speech begun later is not meant; None: all is.

        Returns:
            What was being said, None for nothing, and how many seconds of it had been heard when
            the interrupt was on the wire.

        Raises:
            LiteError: the socket is gone.
        """
        said = said or self.active
        self.discard(up_to_sequence, UtteranceOutcome.INTERRUPTED, asked_at_s)
        connection = self.connection
        assert connection is not None, "the owner looks before it asks"
        async with self.send_lock:
            # What began meanwhile is cut with the rest, unless it is a clip asked for later.
            said = said or self.active
            self.discard(up_to_sequence, UtteranceOutcome.INTERRUPTED, asked_at_s)
            if any(not utterance.over for utterance in self._playing):
                return None, 0.0  # what it meant to cut is gone; the new one goes on
            await self._interrupt(connection, event_id)
            heard_s = 0.0 if said is None else said.heard_s(time.monotonic())
        return (None if said is None else said.id), heard_s

    async def _interrupt(self, connection: LiteConnection, event_id: str | None) -> None:
        if self._playing:
            self._buffer_cleared.clear()  # new speech before the answer could go with the old
        await connection.interrupt(event_id)
        self._listener.on_interrupt_sent()
        self.last_sent_s = time.monotonic()

    # ------------------------------------------------------------------ events

    def on_playback_started(self, segment_id: str) -> None:
        """LiveAvatar said that the avatar began to say this."""
        connection = self.connection
        if connection is not None and not connection.chunks_acked and not self._acknowledged:
            self._acknowledges = False
        for utterance in self._playing:
            if utterance.on_playback_started(segment_id, time.monotonic()):
                self._listener.on_playback_started(utterance)

    def on_playback_finished(self, segment_id: str, *, interrupted: bool) -> None:
        """LiveAvatar said that this is over."""
        for utterance in self._playing:
            if utterance.owns(segment_id):
                now_s = time.monotonic()
                utterance.on_playback_finished(segment_id, interrupted=interrupted, now_s=now_s)

    def on_buffer_cleared(self) -> None:
        """LiveAvatar has taken the interrupt: new speech may come."""
        self._buffer_cleared.set()
