"""A session as its owner holds it: the one WebSocket, the one mouth, one order of things.

Commands and speech meet here and nowhere else. Knows LITE, nothing of Temporal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from pydantic import SecretStr

from activities.turn import Turn
from avatar_sessions.contract.messages import UtteranceReport
from avatar_sessions.contract.states import CommandOutcome, Pose, UtteranceOutcome
from avatar_sessions.contract.steps import Epoch, StreamEnd, StreamResult
from liveavatar_lite import (
    Chunker,
    ConnectionFailed,
    ErrorReported,
    Event,
    LiteConnection,
    LiteError,
    UtteranceOver,
    UtteranceStarted,
)

logger = logging.getLogger(__name__)

RECONNECT_PAUSES_S: Final = (0.1, 1.0, 2.0, 4.0, 8.0)
"""Five tries, as LiveAvatar's own demo makes them."""
CUT_PATIENCE_S: Final = 1.0
"""How long LiveAvatar's answer to an interrupt is waited for (188 ms seen live)."""
SILENCE_MARGIN_S: Final = 3.0
"""How long past its computed end an utterance waits for LiveAvatar to say that it is over."""
NORMAL_CLOSURE: Final = 1000


class OwnedState(Enum):
    """The life of the owner's connection."""

    CONNECTING = auto()
    READY = auto()
    RECONNECTING = auto()
    LETTING_GO = auto()  # nothing is fed any more; the socket waits for LiveAvatar to close it
    CLOSED = auto()


TRANSITIONS: Final = {
    OwnedState.CONNECTING: {OwnedState.READY, OwnedState.LETTING_GO, OwnedState.CLOSED},
    OwnedState.READY: {OwnedState.RECONNECTING, OwnedState.LETTING_GO, OwnedState.CLOSED},
    OwnedState.RECONNECTING: {OwnedState.READY, OwnedState.LETTING_GO, OwnedState.CLOSED},
    OwnedState.LETTING_GO: {OwnedState.CLOSED},
    OwnedState.CLOSED: set[OwnedState](),
}


class NotReady(Exception):
    """The session has no socket at this moment, or is being let go."""


@dataclass(frozen=True)
class ProviderEnd:
    """LiveAvatar's books say that the session is over."""

    reason: str | None


@dataclass(frozen=True)
class OwnerLimits:
    """How an owner holds its sessions."""

    max_lead_s: float = 2.0
    """How far ahead of what is heard speech is sent: an interrupt cuts what is spoken."""
    keep_alive_s: float = 60.0
    connect_timeout_s: float = 15.0
    release_timeout_s: float = 3.0
    """How long a released socket waits for LiveAvatar to close it."""


class OwnedSession:
    """One session of this process."""

    def __init__(
        self,
        *,
        key: str,
        epoch: Epoch,
        ws_url: SecretStr,
        limits: OwnerLimits,
        on_ready: Callable[[int], None],
        on_lost: Callable[[], None],
        provider_end: Callable[[], Awaitable[ProviderEnd | None]],
    ) -> None:
        self.key = key
        self.epoch = epoch
        self.state = OwnedState.CONNECTING
        self.connects = 0
        self.spoken_ms = 0
        self._ws_url = ws_url
        self._limits = limits
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._provider_end = provider_end
        self._connection: LiteConnection | None = None
        self._wire = asyncio.Lock()
        self._mouth = asyncio.Lock()
        self._turn: Turn | None = None
        self._cut_up_to = 0
        self._cut_outcome = UtteranceOutcome.INTERRUPTED
        self._cut_again = asyncio.Event()
        self._pose = Pose.IDLE
        self._pose_on_wire = Pose.IDLE
        self._released = asyncio.Event()
        self._last_sent_s = time.monotonic()
        self._lost_at_s: float | None = None

    # ------------------------------------------------------------ connection

    async def run(self) -> StreamResult:
        """Hold the socket until the session is let go or LiveAvatar ends it.

        Raises:
            ConnectionFailed: the socket could not be had (again).
        """
        while True:
            connection = await self._connect()
            if connection is None:
                return await self._result(StreamEnd.PROVIDER_CLOSED, None)
            self._ready(connection)
            await self._attend(connection)
            if self.state in (OwnedState.LETTING_GO, OwnedState.CLOSED):
                return await self._result(StreamEnd.RELEASED, connection)
            self._to(OwnedState.RECONNECTING)
            self._lost_at_s = time.monotonic()
            self._end_turn(UtteranceOutcome.LOST)
            logger.warning("socket lost: code %s", connection.close_code)
            if connection.close_code == NORMAL_CLOSURE or await self._provider_end() is not None:
                return await self._result(StreamEnd.PROVIDER_CLOSED, connection)
            self._on_lost()

    async def _connect(self) -> LiteConnection | None:
        """Open the socket, a few times if need be; None when LiveAvatar has ended the session."""
        for tries, pause_s in enumerate(RECONNECT_PAUSES_S, start=1):
            try:
                return await LiteConnection.open(
                    self._ws_url, connected_timeout_s=self._limits.connect_timeout_s
                )
            except ConnectionFailed as error:
                logger.warning("connecting failed, try %d: %s", tries, error)
                if await self._provider_end() is not None:
                    return None
                if tries == len(RECONNECT_PAUSES_S):
                    raise
            await asyncio.sleep(pause_s)
        raise AssertionError("unreachable")

    def _ready(self, connection: LiteConnection) -> None:
        self._connection = connection
        self.connects += 1
        self._pose_on_wire = Pose.IDLE
        self._sent()
        if self.state is not OwnedState.LETTING_GO:
            self._to(OwnedState.READY)
            self._on_ready(self._gap_ms())

    def _gap_ms(self) -> int:
        """How long there was no socket; at least 1 after a loss."""
        if self._lost_at_s is None:
            return 0
        gap_s, self._lost_at_s = time.monotonic() - self._lost_at_s, None
        return max(1, round(gap_s * 1000))

    async def _attend(self, connection: LiteConnection) -> None:
        """Follow what LiveAvatar says until the socket is closed."""
        chores = [
            asyncio.create_task(self._keep_alive_at_times(connection), name="keep-alive"),
            asyncio.create_task(self._let_go(connection), name="let-go"),
        ]
        try:
            await self._restore_pose()
            async for event in connection.events():
                self._follow(event)
        except LiteError as error:
            logger.warning("connection: %s", error)
        finally:
            for chore in chores:
                chore.cancel()
            await asyncio.wait(chores)
            self._connection = None
            await connection.close()

    async def _result(self, end: StreamEnd, connection: LiteConnection | None) -> StreamResult:
        told = await self._provider_end() if end is StreamEnd.PROVIDER_CLOSED else None
        return StreamResult(
            end=end,
            close_code=connection.close_code if connection else None,
            provider_end_reason=told.reason if told else None,
            connects=self.connects,
        )

    async def _keep_alive_at_times(self, connection: LiteConnection) -> None:
        """LiveAvatar ends a session after five minutes without a command; pings do not count."""
        while True:
            due_s = self._last_sent_s + self._limits.keep_alive_s - time.monotonic()
            if due_s > 0:
                await asyncio.sleep(due_s)
                continue
            try:
                async with self._wire:
                    await connection.keep_alive()
                    self._sent()
            except LiteError:
                return  # the reader tells

    async def _let_go(self, connection: LiteConnection) -> None:
        """Once released: LiveAvatar closes the socket after the stop; if not, we do."""
        await self._released.wait()
        await asyncio.sleep(self._limits.release_timeout_s)
        await connection.close()

    async def close(self) -> None:
        """Close the socket and end what is being said. Bounded; may be called twice."""
        if self.state is OwnedState.CLOSED:
            return
        outcome = (
            UtteranceOutcome.CANCELLED
            if self.state is OwnedState.LETTING_GO
            else UtteranceOutcome.LOST
        )
        self._to(OwnedState.CLOSED)
        self._wake_the_cut()
        self._end_turn(outcome)
        if self._connection is not None:
            await self._connection.close()

    def _to(self, wanted: OwnedState) -> None:
        if wanted not in TRANSITIONS[self.state]:
            raise RuntimeError(f"an owned session cannot go from {self.state} to {wanted}")
        self.state = wanted

    def _sent(self) -> None:
        self._last_sent_s = time.monotonic()

    @property
    def speaking(self) -> str | None:
        """The id of the utterance being spoken."""
        return None if self._turn is None else self._turn.id

    def _follow(self, event: Event) -> None:
        turn, now_s = self._turn, time.monotonic()
        match event:
            case UtteranceStarted(utterance_id=about) if turn and about in (None, turn.id):
                turn.talks(now_s)
            case UtteranceOver(utterance_id=about) if turn and about in (None, turn.id):
                turn.falls_silent(interrupted=event.interrupted, now_s=now_s)
            case ErrorReported():
                logger.warning("LiveAvatar reports %s: %s", event.type, event.message)
            case _:
                pass

    # --------------------------------------------------------------- speech

    async def speak(self, utterance_id: str, order: int, pcm: bytes) -> UtteranceReport:
        """Say PCM (16-bit mono 24 kHz) after what is being said, and tell what was heard.

        Raises:
            NotReady: there is no socket now; nothing was said.
        """
        async with self._mouth:
            turn = Turn(utterance_id, order, pcm, self._limits.max_lead_s)
            if order <= self._cut_up_to:
                turn.end(self._cut_outcome, time.monotonic())
                return turn.report()
            connection = self._usable()
            self._turn = turn
            try:
                await self._feed(turn, connection)
                await self._hear_out(turn)
            except LiteError as error:
                logger.warning("utterance %s is lost: %s", turn.id, error)
                turn.end(UtteranceOutcome.LOST, time.monotonic())
            finally:
                self._turn = None
                turn.end(UtteranceOutcome.CANCELLED, time.monotonic())  # unless it is over
                await self._close_utterance(turn, connection)
            with contextlib.suppress(LiteError):  # the reader tells
                await self._restore_pose()
            report = turn.report()
            self.spoken_ms += report.heard_ms
            return report

    async def _close_utterance(self, turn: Turn, connection: LiteConnection) -> None:
        """Leave no utterance open at LiveAvatar: the next one would be taken for its rest."""
        with contextlib.suppress(LiteError):  # then the socket is gone, and it with it
            async with self._wire:
                if connection.open_utterance == turn.id:
                    await self._interrupt(connection)

    async def _feed(self, turn: Turn, connection: LiteConnection) -> None:
        chunker = Chunker()
        for chunk in [*chunker.push(turn.pcm), *chunker.flush()]:
            while not turn.over and (wait_s := turn.pacer.wait_s(time.monotonic(), len(chunk))) > 0:
                await asyncio.wait({turn.outcome}, timeout=wait_s)
            async with self._wire:
                if turn.over:
                    return
                await connection.speak(chunk, turn.id)
                turn.sent(len(chunk), time.monotonic())
                self._sent()
        async with self._wire:
            if turn.over:
                return
            turn.sealed = True
            await connection.speak_end(turn.id)
            self._sent()

    async def _hear_out(self, turn: Turn) -> None:
        """Wait until the utterance is heard, or its interrupt answered."""
        while not turn.over:
            due_s = turn.silence_due_in_s(time.monotonic()) + SILENCE_MARGIN_S
            done, _ = await asyncio.wait({turn.outcome}, timeout=due_s)
            if not done and turn.silence_due_in_s(time.monotonic()) <= 0:
                logger.warning("LiveAvatar did not say that utterance %s is over", turn.id)
                turn.end(UtteranceOutcome.COMPLETED, time.monotonic())
        if turn.outcome.result() is UtteranceOutcome.INTERRUPTED:
            # New speech before the answer could be swallowed with the old.
            await asyncio.wait({turn.silent}, timeout=CUT_PATIENCE_S)

    def _end_turn(self, outcome: UtteranceOutcome) -> None:
        if self._turn is not None:
            self._turn.end(outcome, time.monotonic())
            if not self._turn.silent.done():
                self._turn.silent.set_result(None)

    # -------------------------------------------------------------- commands

    async def interrupt(self, up_to_order: int) -> CommandOutcome:
        """Cut what was asked up to an utterance; always sent, for events may be missing.

        Raises:
            NotReady: there is no socket now.
        """
        self._cut(up_to_order, UtteranceOutcome.INTERRUPTED)
        connection = self._usable()
        async with self._wire:
            turn = self._turn
            if turn is not None and turn.order > up_to_order:
                return CommandOutcome.SENT  # what it meant to cut is gone; the new one goes on
            await self._interrupt(connection)
        if self._turn is None:
            await self._restore_pose()
        return CommandOutcome.SENT

    async def _interrupt(self, connection: LiteConnection) -> None:
        await connection.interrupt()
        self._pose_on_wire = Pose.IDLE  # an interrupt takes the pose, too (LITE events page)
        self._sent()

    async def until_cut(self, order: int) -> None:
        """Wait until an utterance need not be said any more."""
        while order > self._cut_up_to and self.state is not OwnedState.CLOSED:
            await self._cut_again.wait()

    def _cut(self, up_to_order: int, outcome: UtteranceOutcome) -> None:
        self._cut_up_to = max(self._cut_up_to, up_to_order)
        self._cut_outcome = outcome
        self._wake_the_cut()
        if self._turn is not None and self._turn.order <= up_to_order:
            self._turn.end(outcome, time.monotonic())

    def _wake_the_cut(self) -> None:
        woken, self._cut_again = self._cut_again, asyncio.Event()
        woken.set()

    async def set_pose(self, pose: Pose) -> CommandOutcome:
        """Take a pose; while the avatar talks, afterwards (LiveAvatar asks for that).

        Raises:
            NotReady: there is no socket now.
        """
        self._usable()
        self._pose = pose
        if self._turn is not None:
            return CommandOutcome.DEFERRED
        await self._restore_pose()
        return CommandOutcome.SENT

    async def _restore_pose(self) -> None:
        connection = self._connection
        if connection is None or self._pose is self._pose_on_wire:
            return
        async with self._wire:
            if self._pose is Pose.LISTENING:
                await connection.start_listening()
            else:
                await connection.stop_listening()
            self._pose_on_wire = self._pose
            self._sent()

    async def keep_alive(self) -> CommandOutcome:
        """Restart LiveAvatar's idle clock.

        Raises:
            NotReady: there is no socket now.
        """
        connection = self._usable()
        async with self._wire:
            await connection.keep_alive()
            self._sent()
        return CommandOutcome.SENT

    def stop_feeding(self, up_to_order: int) -> CommandOutcome:
        """Say nothing more, and let go of the socket once LiveAvatar closes it."""
        self._cut(up_to_order, UtteranceOutcome.CANCELLED)
        if self.state not in (OwnedState.LETTING_GO, OwnedState.CLOSED):
            self._to(OwnedState.LETTING_GO)
        self._released.set()
        return CommandOutcome.SENT

    def _usable(self) -> LiteConnection:
        if self.state is not OwnedState.READY or self._connection is None:
            raise NotReady(f"the session is {self.state.name}")
        return self._connection


class OwnedSessions:
    """The sessions this process owns, by key."""

    def __init__(self) -> None:
        self._by_key: dict[str, OwnedSession] = {}

    def add(self, session: OwnedSession) -> None:
        """Own a session; a newer epoch replaces an older one of the same key."""
        self._by_key[session.key] = session

    def remove(self, session: OwnedSession) -> None:
        """Own it no more, unless another epoch has replaced it."""
        if self._by_key.get(session.key) is session:
            del self._by_key[session.key]

    def get(self, key: str, epoch: Epoch) -> OwnedSession | None:
        """The session, if this process owns it in just this epoch."""
        session = self._by_key.get(key)
        return session if session is not None and session.epoch == epoch else None

    def __len__(self) -> int:
        return len(self._by_key)
