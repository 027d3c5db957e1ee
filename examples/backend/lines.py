"""One open line of live speech a session, shared by every request that has something to say.

Opening one costs a round trip to the session and a WebSocket: too much for each sentence. A line
is opened for the first request that speaks, and closes with its session. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from avatar_sessions import (
    AvatarSessionsError,
    LiveSpeech,
    LiveSpeechClosed,
    LiveUtterance,
    Session,
    SpeechInterrupted,
    UtteranceOutcome,
)
from examples.tts import StreamingTts, TtsError, TtsRefused

OPEN_TIMEOUT_S: Final = 30.0
MAX_SAYINGS: Final = 8
"""Texts of one session that are being said or wait for it."""

log = logging.getLogger(__name__)


class TooManySayings(Exception):
    """So many texts of this session wait to be said that another one is not taken."""


class TooManyLines(Exception):
    """This process speaks for as many sessions as it may."""


@dataclass(frozen=True, slots=True)
class Said:
    """What became of a text."""

    utterance_id: str
    outcome: UtteranceOutcome
    heard_ms: int = 0
    broke_off: bool = False
    """The voice failed in the middle: what had been made by then was said, and no more."""


@dataclass(eq=False)
class _Saying:
    utterance: LiveUtterance
    is_open: bool = False
    """The session knows of it: it has a line in the report."""
    trouble: TtsError | None = None
    """What the voice met after that."""


class Line:
    """A session's live speech, and the voice that speaks into it."""

    def __init__(self, live: LiveSpeech, tts: StreamingTts) -> None:
        """Take live speech that is open, at the voice's sample rate."""
        self._live = live
        self._tts = tts
        self._turn = asyncio.Lock()  # first come, first said
        self._sayings = 0
        self._making: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def say(self, text: str) -> Said:
        """Say a text after those asked for before; returns when it is over, however it ended.

        Raises:
            TooManySayings: `MAX_SAYINGS` are under way.
            TtsError: the voice made nothing of it, and nothing was said.
            AvatarSessionsError: the session is over, or cannot be spoken to.
        """
        if self._sayings >= MAX_SAYINGS:
            raise TooManySayings
        self._sayings += 1
        try:
            saying = _Saying(self._live.utterance(text=text))
            is_cut = await self._made(saying, text)
            if is_cut and not saying.is_open:
                never = UtteranceOutcome.CANCELLED if self._is_closed else None
                return Said(saying.utterance.id, never or UtteranceOutcome.INTERRUPTED)
            report = await saying.utterance.result()
            if saying.trouble is not None:
                log.warning("speech broke off: %s", saying.trouble)
            return Said(
                report.id, report.outcome, report.heard_ms, broke_off=saying.trouble is not None
            )
        finally:
            self._sayings -= 1

    async def interrupt(self) -> SpeechInterrupted:
        """Fall silent: cuts what is being said, and drops what waits for its turn.

        Raises:
            AvatarSessionsError: as `LiveSpeech.interrupt`.
        """
        # In this order: those who wait must not take the turn of the one that is cut. The cancel
        # reaches them after `interrupt` has cut what is open, so nobody interrupts a second time.
        for task in self._making:
            task.cancel()
        return await self._live.interrupt()

    def close(self) -> None:
        """The live speech is over: nobody waits for a turn any more."""
        self._is_closed = True
        for task in self._making:
            task.cancel()

    async def _made(self, saying: _Saying, text: str) -> bool:
        """Make speech in a task of its own, which `interrupt` can stop: whether it was stopped."""
        task = asyncio.create_task(self._make(saying, text), name=f"voice {saying.utterance.id}")
        self._making.add(task)
        try:
            await asyncio.wait({task})
        finally:
            self._making.discard(task)
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if task.cancelled():
            return True
        task.result()
        return False

    async def _make(self, saying: _Saying, text: str) -> None:
        """Speak: `write` waits while the avatar has enough to say, and so does the voice."""
        async with self._turn, contextlib.aclosing(self._tts.stream(text)) as pieces:
            # Before the utterance opens: one that fails must not cut what the avatar is saying.
            piece = await anext(pieces, None)
            if piece is None:
                raise TtsRefused("the voice made no speech of this text")
            async with saying.utterance as speech:
                saying.is_open = True
                try:
                    while piece is not None:
                        await speech.write(piece)
                        piece = await anext(pieces, None)
                except TtsError as error:
                    saying.trouble = error  # leave quietly: what was made is worth hearing


@dataclass(eq=False)
class _Entry:
    line: asyncio.Future[Line]
    """Set when it is open, or why it could not be."""
    holding: asyncio.Task[None]


class Lines:
    """The lines of this process, by session key. An async context manager.

    Args:
        tts: the voice of all of them.
        max_lines: how many may be open at once.
    """

    def __init__(self, tts: StreamingTts, *, max_lines: int) -> None:
        self._tts = tts
        self._max_lines = max_lines
        self._entries: dict[str, _Entry] = {}
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Hang up everywhere. The sessions go on: others may speak for them."""
        for entry in self._entries.values():
            entry.holding.cancel()
        await self._tasks.__aexit__(kind, error, traceback)

    def __len__(self) -> int:
        """How many lines are open, or being opened."""
        return len(self._entries)

    async def to(self, session: Session) -> Line:
        """The session's line; opened if there is none.

        Raises:
            TooManyLines: there are as many as there may be.
            AvatarSessionsError: as entering `LiveSpeech`.
        """
        entry = self._entries.get(session.key)
        if entry is None:
            if len(self._entries) >= self._max_lines:
                raise TooManyLines
            entry = self._open(session)
        return await asyncio.shield(entry.line)  # shared: one who goes away must not take it along

    def open_to(self, session_key: str) -> Line | None:
        """The session's line, if it is open."""
        entry = self._entries.get(session_key)
        if entry is None or not entry.line.done() or entry.line.exception() is not None:
            return None
        return entry.line.result()

    async def close(self, session_key: str) -> None:
        """Hang up, and wait until that is done."""
        entry = self._entries.get(session_key)
        if entry is not None:
            entry.holding.cancel()
            await asyncio.wait({entry.holding})

    def _open(self, session: Session) -> _Entry:
        line: asyncio.Future[Line] = asyncio.get_running_loop().create_future()
        line.add_done_callback(lambda opened: opened.exception())  # seen, also if nobody waits
        holding = self._tasks.create_task(self._hold(session, line), name=f"line {session.key}")
        # Not in the task itself: one that is cancelled before it has begun never runs at all.
        holding.add_done_callback(lambda _: self._let_go(session.key, line))
        entry = self._entries[session.key] = _Entry(line, holding)
        return entry

    def _let_go(self, session_key: str, line: asyncio.Future[Line]) -> None:
        del self._entries[session_key]
        if not line.done():
            line.set_exception(LiveSpeechClosed("the session was ended meanwhile"))

    async def _hold(self, session: Session, opened: asyncio.Future[Line]) -> None:
        """Keep a line open until its session is over."""
        line: Line | None = None
        try:
            async with session.live(
                sample_rate_hz=self._tts.sample_rate_hz, open_timeout_s=OPEN_TIMEOUT_S
            ) as live:
                line = Line(live, self._tts)
                opened.set_result(line)
                async for _ in live.events():
                    pass  # they end with the live speech, and that ends with the session
        except AvatarSessionsError as error:
            if not opened.done():
                opened.set_exception(error)
        except Exception as error:  # one session's trouble, and not that of all others
            log.exception("the line to %s broke", session.key)
            if not opened.done():
                opened.set_exception(error)
        finally:
            if line is not None:
                line.close()
