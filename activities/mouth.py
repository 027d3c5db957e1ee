"""The one mouth of a session: utterances in turn, paced, interruptible, each heard out.

Feeds `utterance.Utterance` into a `LiteConnection`, and survives its loss. Knows neither Temporal
nor the ingress: what happens is told to a `Listener`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from activities.utterance import GiveUp, Rest, Seal, Send, Utterance, Wait
from avatar_sessions.contract.states import UtteranceOutcome
from liveavatar_lite import LiteConnection, LiteError

logger = logging.getLogger(__name__)

CUT_PATIENCE_S: Final = 1.0
"""How long LiveAvatar's answer to an interrupt is waited for (188 ms seen live)."""
SILENCE_MARGIN_S: Final = 3.0
"""How long past its computed end an utterance waits for LiveAvatar to say that it is over."""
OVERLAP_S: Final = 0.5
"""So long before the avatar is done with one utterance, the next one is begun: no pause between."""


class Listener(Protocol):
    """Who wants to know how speech goes on."""

    def progressed(self, utterance: Utterance) -> None:
        """Something of it went on to LiveAvatar."""

    def began(self, utterance: Utterance) -> None:
        """The avatar has begun to say it."""

    def interrupted(self) -> None:
        """An interrupt is on the wire: the avatar's pose goes with it (LITE events page)."""


class Mouth:
    """Says utterances one after the other."""

    def __init__(self, listener: Listener) -> None:
        self.connection: LiteConnection | None = None
        """Where speech goes; None while there is no socket."""
        self.wire = asyncio.Lock()
        """Whoever sends holds it, so that commands and speech keep their order."""
        self.last_sent_s = time.monotonic()
        self._listener = listener
        self._turn = asyncio.Lock()
        self._waiting: list[Utterance] = []
        self._speaking: list[Utterance] = []
        self._cut_answered = asyncio.Event()
        self._cut_answered.set()
        self._connected = asyncio.Event()
        self._closed_with: UtteranceOutcome | None = None

    @property
    def speaking(self) -> Utterance | None:
        """What the avatar says, or is about to."""
        return self._speaking[0] if self._speaking else None

    @property
    def said(self) -> Utterance | None:
        """What is being said and not cut."""
        return next((one for one in self._speaking if not one.over), None)

    @property
    def utterances(self) -> list[Utterance]:
        """All that is not over, in order."""
        return [*self._speaking, *self._waiting]

    # -------------------------------------------------------------- connection

    def opened(self, connection: LiteConnection) -> None:
        """There is a socket: speech goes on."""
        self.connection = connection
        self._cut_answered.set()
        self._connected.set()
        for utterance in self._speaking:
            utterance.wake()

    def lost(self, connection: LiteConnection) -> None:
        """The socket is gone. What it took is believed to be heard; the rest is said again."""
        self.connection = None
        self._connected.clear()
        now_s = time.monotonic()
        for utterance in self._speaking:
            if not utterance.over and not utterance.moved(connection.chunks_acked):
                utterance.end(UtteranceOutcome.LOST, now_s)

    def close(self, outcome: UtteranceOutcome) -> None:
        """Say nothing more, and nothing that comes later."""
        self._closed_with = self._closed_with or outcome
        now_s = time.monotonic()
        for utterance in self.utterances:
            utterance.end(outcome, now_s)
            utterance.close(now_s)
        self._cut_answered.set()
        self._connected.set()

    # ------------------------------------------------------------------ saying

    def queue(self, utterance: Utterance) -> None:
        """Let an utterance wait for its turn: from now on an interrupt finds it."""
        self._waiting.append(utterance)
        if self._closed_with is not None:
            utterance.end(self._closed_with, time.monotonic())

    async def say(self, utterance: Utterance) -> None:
        """Say an utterance that is queued, when its turn has come; lasts until it is over."""
        try:
            async with self._turn:
                self._waiting.remove(utterance)
                if utterance.over:
                    return
                self._speaking.append(utterance)
                try:
                    await self._feed(utterance)
                    await self._nearly_heard(utterance)
                except BaseException:
                    await self._abandon(utterance)
                    raise
            await self._hear_out(utterance)
        finally:
            now_s = time.monotonic()
            utterance.end(UtteranceOutcome.CANCELLED, now_s)  # unless it is over
            utterance.close(now_s)
            for line in (self._waiting, self._speaking):
                if utterance in line:
                    line.remove(utterance)

    async def _feed(self, utterance: Utterance) -> None:
        while not utterance.over:
            connection = await self._usable_connection(utterance)
            if connection is None:
                continue  # it is over
            step = utterance.next_step(time.monotonic())
            match step:
                case Wait(seconds=seconds):
                    await utterance.pause(seconds)
                case GiveUp(failure=failure):
                    utterance.end(UtteranceOutcome.LOST, time.monotonic(), failure)
                case Send() | Rest() | Seal():
                    try:
                        await self._put(utterance, step, connection)
                    except LiteError as error:
                        await self._until_it_is_gone(connection, error)
                    if utterance.sealed:
                        return
        await self._close_segment(utterance)

    async def _usable_connection(self, utterance: Utterance) -> LiteConnection | None:
        """The socket, once there is one and it has answered the last interrupt.

        None if the utterance is over before that.
        """
        if not self._cut_answered.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._cut_answered.wait(), CUT_PATIENCE_S)
            self._cut_answered.set()
        if self.connection is None:
            connected = asyncio.create_task(self._connected.wait(), name="socket is back")
            first: set[asyncio.Future[Any]] = {connected, utterance.outcome}
            try:
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            finally:
                connected.cancel()
        return self.connection

    async def _put(
        self, utterance: Utterance, step: Send | Rest | Seal, connection: LiteConnection
    ) -> None:
        async with self.wire:
            if utterance.over or connection is not self.connection:
                return
            if isinstance(step, Send):
                await connection.speak(step.chunk, utterance.segment_id)
                now_s = time.monotonic()
                utterance.sent(
                    step.chunk,
                    now_s,
                    number=connection.chunks_sent,
                    acknowledged=connection.chunks_acked,
                    after_s=self._to_play_before_s(utterance, now_s),
                )
                self._listener.progressed(utterance)
            elif utterance.segment_is_open:
                if connection.open_utterance == utterance.segment_id:
                    await connection.speak_end(utterance.segment_id)
                utterance.segment_sealed()
            self.last_sent_s = time.monotonic()
            if isinstance(step, Seal):
                utterance.sealed = True
                if utterance.silent:  # nothing of it is left to be heard, or there never was
                    utterance.end(UtteranceOutcome.COMPLETED, time.monotonic())

    async def _until_it_is_gone(self, connection: LiteConnection, error: LiteError) -> None:
        """A send failed: the reader will say that the socket is gone. If not, that is a bug."""
        logger.info("sending failed: %s", error)
        for _ in range(100):
            if connection is not self.connection:
                return
            await asyncio.sleep(0.05)
        raise error

    def _to_play_before_s(self, utterance: Utterance, now_s: float) -> float:
        before = self._speaking[: self._speaking.index(utterance)]
        return sum(one.to_play_s(now_s) for one in before)

    async def _nearly_heard(self, utterance: Utterance) -> None:
        """Keep the turn until the next one may be begun."""
        while not utterance.over:
            left_s = utterance.to_play_s(time.monotonic()) - OVERLAP_S
            if left_s <= 0:
                return
            await utterance.pause(left_s)

    async def _hear_out(self, utterance: Utterance) -> None:
        """Wait until the utterance is heard, or its interrupt answered."""
        while not utterance.over:
            due_s = utterance.to_play_s(time.monotonic()) + SILENCE_MARGIN_S
            done, _ = await asyncio.wait({utterance.outcome}, timeout=due_s)
            if not done and utterance.to_play_s(time.monotonic()) <= 0:
                logger.warning("LiveAvatar did not say that utterance %s is over", utterance.id)
                utterance.end(UtteranceOutcome.COMPLETED, time.monotonic())
        if utterance.outcome.result() is not UtteranceOutcome.INTERRUPTED:
            return
        give_up_s = time.monotonic() + CUT_PATIENCE_S
        while not utterance.silent and (left_s := give_up_s - time.monotonic()) > 0:
            await utterance.pause(left_s)

    async def _close_segment(self, utterance: Utterance) -> None:
        """Leave no utterance open at LiveAvatar: the next one would be taken for its rest."""
        connection = self.connection
        if connection is None:
            return
        with contextlib.suppress(LiteError):  # then the socket is gone, and it with it
            async with self.wire:
                if connection.open_utterance == utterance.segment_id:
                    await self._interrupt(connection, None)

    async def _abandon(self, utterance: Utterance) -> None:
        utterance.end(UtteranceOutcome.CANCELLED, time.monotonic())
        await self._close_segment(utterance)

    # --------------------------------------------------------------- interrupts

    def cut(self, up_to_order: int | None, outcome: UtteranceOutcome) -> None:
        """Drop what was asked for: clips up to a number (None: all), and all live speech."""
        now_s = time.monotonic()
        for utterance in self.utterances:
            if up_to_order is None or utterance.order <= up_to_order:
                utterance.end(outcome, now_s)

    def cut_in_band(self) -> None:
        """Drop all that was asked for, because a speaker says so."""
        now = datetime.now(UTC)
        for utterance in self.utterances:
            if not utterance.over:
                utterance.cut_in_band_at = now
        self.cut(None, UtteranceOutcome.INTERRUPTED)

    async def interrupt(
        self,
        up_to_order: int | None,
        event_id: str | None = None,
        *,
        said: Utterance | None = None,
    ) -> tuple[str | None, float]:
        """Fall silent now; always sent, for events may be missing.

        Args:
            up_to_order: clips asked for later are not meant; None: everything is.
            event_id: the interrupt's own id.
            said: what was cut already on its behalf.

        Returns:
            What was being said, None for nothing, and how many seconds of it had been heard when
            the interrupt was on the wire.

        Raises:
            LiteError: the socket is gone.
        """
        said = said or self.said
        self.cut(up_to_order, UtteranceOutcome.INTERRUPTED)
        connection = self.connection
        assert connection is not None, "the owner looks before it asks"
        async with self.wire:
            # What began meanwhile is cut with the rest, unless it is a clip asked for later.
            said = said or self.said
            self.cut(up_to_order, UtteranceOutcome.INTERRUPTED)
            if any(not utterance.over for utterance in self._speaking):
                return None, 0.0  # what it meant to cut is gone; the new one goes on
            await self._interrupt(connection, event_id)
            heard_s = 0.0 if said is None else said.heard_s(time.monotonic())
        return (None if said is None else said.id), heard_s

    async def _interrupt(self, connection: LiteConnection, event_id: str | None) -> None:
        if self._speaking:
            self._cut_answered.clear()  # new speech before the answer could go with the old
        await connection.interrupt(event_id)
        self._listener.interrupted()
        self.last_sent_s = time.monotonic()

    # ------------------------------------------------------------------ events

    def talks(self, segment_id: str) -> None:
        """LiveAvatar said that the avatar began to say this."""
        for utterance in self._speaking:
            if utterance.talks(segment_id, time.monotonic()):
                self._listener.began(utterance)

    def falls_silent(self, segment_id: str, *, interrupted: bool) -> None:
        """LiveAvatar said that this is over."""
        for utterance in self._speaking:
            if utterance.owns(segment_id):
                now_s = time.monotonic()
                utterance.falls_silent(segment_id, interrupted=interrupted, now_s=now_s)

    def cut_was_answered(self) -> None:
        """LiveAvatar has taken the interrupt: new speech may come."""
        self._cut_answered.set()
