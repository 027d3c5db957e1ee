"""One open `LiveSpeech` per session, shared by all requests that speak.

Opening one takes a round trip to the session and a WebSocket, too much for each sentence. It is
opened for the first text, and closes with its session. Knows no HTTP.
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
MAX_TEXTS: Final = 8
"""Maximum number of texts of one session that are spoken or waiting."""

log = logging.getLogger(__name__)


class TooManyTexts(Exception):
    """`MAX_TEXTS` of this session are spoken or waiting."""


class SpeechPoolFull(Exception):
    """This process speaks for its maximum number of sessions."""


@dataclass(frozen=True, slots=True)
class SpokenResult:
    """The outcome of a text."""

    utterance_id: str
    outcome: UtteranceOutcome
    heard_ms: int = 0
    broke_off: bool = False
    """The voice failed during the text; only the speech before that was played."""


@dataclass(eq=False)
class _Text:
    utterance: LiveUtterance
    is_open: bool = False
    """The session has the utterance: it is in the report."""
    failure: TtsError | None = None
    """The voice's failure after that."""


class SessionSpeech:
    """A session's live speech, and the voice for it."""

    def __init__(self, live: LiveSpeech, tts: StreamingTts) -> None:
        """Use an open live speech with the voice's sample rate."""
        self._live = live
        self._tts = tts
        self._turn = asyncio.Lock()  # texts are spoken in the order of their calls
        self._texts = 0
        self._synthesizing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def say(self, text: str) -> SpokenResult:
        """Speak a text after earlier ones; returns when playback is over or was interrupted.

        Raises:
            TooManyTexts: `MAX_TEXTS` are spoken or waiting.
            TtsError: the voice produced no speech, and nothing was played.
            AvatarSessionsError: the session is over, or live speech failed.
        """
        if self._texts >= MAX_TEXTS:
            raise TooManyTexts
        self._texts += 1
        try:
            spoken = _Text(self._live.utterance(text=text))
            was_stopped = await self._synthesize(spoken, text)
            if was_stopped and not spoken.is_open:
                closed = UtteranceOutcome.CANCELLED if self._is_closed else None
                return SpokenResult(spoken.utterance.id, closed or UtteranceOutcome.INTERRUPTED)
            report = await spoken.utterance.result()
            if spoken.failure is not None:
                log.warning("the voice failed during a text: %s", spoken.failure)
            return SpokenResult(
                report.id, report.outcome, report.heard_ms, broke_off=spoken.failure is not None
            )
        finally:
            self._texts -= 1

    async def interrupt(self) -> SpeechInterrupted:
        """Interrupt the playing utterance, and drop waiting texts.

        Raises:
            AvatarSessionsError: as `LiveSpeech.interrupt`.
        """
        # In this order: a waiting text must not take the turn of the interrupted one. The cancel
        # arrives after `interrupt` has ended the open utterance, so it interrupts nothing itself.
        for task in self._synthesizing:
            task.cancel()
        return await self._live.interrupt()

    def close(self) -> None:
        """Stop all texts: the live speech is over."""
        self._is_closed = True
        for task in self._synthesizing:
            task.cancel()

    async def _synthesize(self, spoken: _Text, text: str) -> bool:
        """Synthesize in a task that `interrupt` can stop; returns whether it was stopped."""
        task = asyncio.create_task(self._write(spoken, text), name=f"voice {spoken.utterance.id}")
        self._synthesizing.add(task)
        try:
            await asyncio.wait({task})
        finally:
            self._synthesizing.discard(task)
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if task.cancelled():
            return True
        task.result()
        return False

    async def _write(self, spoken: _Text, text: str) -> None:
        """Write the speech. `write` waits while enough is buffered, and so does the voice."""
        async with self._turn, contextlib.aclosing(self._tts.stream(text)) as pieces:
            # Before the utterance opens: a failing voice must not interrupt the avatar.
            piece = await anext(pieces, None)
            if piece is None:
                raise TtsRefused("the voice produced no speech for this text")
            async with spoken.utterance as utterance:
                spoken.is_open = True
                try:
                    while piece is not None:
                        await utterance.write(piece)
                        piece = await anext(pieces, None)
                except TtsError as error:
                    spoken.failure = error  # play what was synthesized


@dataclass(eq=False)
class _Entry:
    speech: asyncio.Future[SessionSpeech]
    """The result when open, or the error of opening."""
    keeping_open: asyncio.Task[None]


class SpeechPool:
    """The open live speech of this process, by session key. An async context manager.

    Args:
        tts: the voice.
        max_sessions: the maximum number of sessions.
    """

    def __init__(self, tts: StreamingTts, *, max_sessions: int) -> None:
        self._tts = tts
        self._max_sessions = max_sessions
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
        """Close all live speech. The sessions continue: other processes may speak for them."""
        for entry in self._entries.values():
            entry.keeping_open.cancel()
        await self._tasks.__aexit__(kind, error, traceback)

    def __len__(self) -> int:
        """The number of sessions whose live speech is open or opening."""
        return len(self._entries)

    async def of(self, session: Session) -> SessionSpeech:
        """The session's live speech; opened if there is none.

        Raises:
            SpeechPoolFull: the process speaks for `max_sessions` already.
            AvatarSessionsError: as entering `LiveSpeech`.
        """
        entry = self._entries.get(session.key)
        if entry is None:
            if len(self._entries) >= self._max_sessions:
                raise SpeechPoolFull
            entry = self._open(session)
        return await asyncio.shield(entry.speech)  # shared: a cancelled caller must not cancel it

    def open_of(self, session_key: str) -> SessionSpeech | None:
        """The session's live speech, if it is open."""
        entry = self._entries.get(session_key)
        if entry is None or not entry.speech.done() or entry.speech.exception() is not None:
            return None
        return entry.speech.result()

    async def close(self, session_key: str) -> None:
        """Close the session's live speech."""
        entry = self._entries.get(session_key)
        if entry is not None:
            entry.keeping_open.cancel()
            await asyncio.wait({entry.keeping_open})

    def _open(self, session: Session) -> _Entry:
        speech: asyncio.Future[SessionSpeech] = asyncio.get_running_loop().create_future()
        speech.add_done_callback(lambda opened: opened.exception())  # marks it as retrieved
        keeping_open = self._tasks.create_task(
            self._keep_open(session, speech), name=f"speech {session.key}"
        )
        # Not in the task itself: a task that is cancelled before it starts never runs.
        keeping_open.add_done_callback(lambda _: self._remove(session.key, speech))
        entry = self._entries[session.key] = _Entry(speech, keeping_open)
        return entry

    def _remove(self, session_key: str, speech: asyncio.Future[SessionSpeech]) -> None:
        del self._entries[session_key]
        if not speech.done():
            speech.set_exception(LiveSpeechClosed("the session was ended meanwhile"))

    async def _keep_open(self, session: Session, opened: asyncio.Future[SessionSpeech]) -> None:
        """Keep live speech open until its session is over."""
        speech: SessionSpeech | None = None
        try:
            async with session.live(
                sample_rate_hz=self._tts.sample_rate_hz, open_timeout_s=OPEN_TIMEOUT_S
            ) as live:
                speech = SessionSpeech(live, self._tts)
                opened.set_result(speech)
                async for _ in live.events():
                    pass  # events end with the live speech, which ends with the session
        except AvatarSessionsError as error:
            if not opened.done():
                opened.set_exception(error)
        except Exception as error:  # one session's failure, and not that of all others
            log.exception("live speech of session %s failed", session.key)
            if not opened.done():
                opened.set_exception(error)
        finally:
            if speech is not None:
                speech.close()
