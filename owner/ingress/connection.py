"""One speaker's connection to one session: LITE in the server's role, and the live dialect.

Frames in, events out; what they do to the session is the owned session's part.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Final
from uuid import uuid4

from pydantic import BaseModel, TypeAdapter, ValidationError
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from avatar_sessions.contract.live_dialect import (
    CLIENT_MESSAGE,
    CloseCode,
    LiveBegin,
    LiveInterrupted,
    LiveOver,
    LiveProgress,
    LiveReady,
    LiveState,
    UtteranceId,
)
from avatar_sessions.contract.messages import UtteranceReport, problems_of
from avatar_sessions.contract.states import Pose, UtteranceOutcome
from liveavatar_lite import (
    AgentInterrupt,
    AgentSpeak,
    AgentSpeakEnd,
    AgentStartListening,
    AgentStateUpdated,
    AgentStopListening,
    AudioBufferAppended,
    AudioBufferCleared,
    AudioBufferCommitted,
    Command,
    ErrorReported,
    LiteError,
    ServerEvent,
    ServerProtocol,
    SessionKeepAlive,
    SessionPhase,
    SpeakEnded,
    SpeakInterrupted,
    SpeakStarted,
    encode_event,
)
from owner.live_queue import TooManyUtterances, UtteranceNameUsed
from owner.session import OwnedSession, OwnedState, OwnerNotReady
from owner.utterance import Utterance

logger = logging.getLogger(__name__)

MAX_AHEAD_BYTES: Final = 30 * 48_000
"""Speech a session keeps that has not gone on to LiveAvatar: thirty seconds. Beyond, the speaker's
connection is not read, so that TCP holds it back."""
MAX_UNREAD_BYTES: Final = 256 * 1024
"""What may wait to be read by a speaker before it is cut off."""
MAX_UNREAD_FRAMES: Final = 512
MAX_REFUSALS: Final = 100
"""Messages that could not be understood, before the connection is closed."""
_SHOWN_CHARS: Final = 400
_UTTERANCE_ID: Final[TypeAdapter[str]] = TypeAdapter(UtteranceId)


class IngressConnection:
    """A connection that brings live speech."""

    def __init__(
        self, connection: ServerConnection, session: OwnedSession, *, extended: bool
    ) -> None:
        """Serve a connection.

        Args:
            connection: let in already.
            session: the one it speaks in.
            extended: it knows the live dialect; if not, it takes us for LiveAvatar.
        """
        self._connection = connection
        self._session = session
        self._extended = extended
        self._protocol = ServerProtocol()
        self._current: Utterance | None = None
        self._mine: dict[str, Utterance] = {}
        self._names: dict[str, str | None] = {}  # utterance id: what this client calls it
        self._begun: set[str] = set()  # told by speak_started
        self._refusals = 0
        self._outbox: asyncio.Queue[str | None] = asyncio.Queue(MAX_UNREAD_FRAMES)
        self._close_code: int = CloseCode.SESSION_OVER
        self._gone = False

    async def run(self) -> None:
        """Serve until either side ends it."""
        session = self._session
        self._put(self._protocol.enter(SessionPhase.NEW))
        self._put(self._protocol.enter(SessionPhase.CONNECTED))
        self._tell(
            LiveReady(session_key=session.key, epoch=session.epoch, generation=session.generation)
        )
        self.on_ready_changed(session.state is OwnedState.READY)
        session.add_observer(self)
        writing = asyncio.create_task(self._write(), name=f"speaker {session.key}")
        if session.state is OwnedState.CLOSED:
            self.on_released(over=False)
        try:
            await self._read()
        finally:
            session.remove_observer(self)
            self._leave()
            writing.cancel()
            await asyncio.wait({writing})

    # --------------------------------------------------------------------- in

    async def _read(self) -> None:
        async for frame in self._connection:
            if self._gone:
                continue  # read on, for the goodbye's answer
            if isinstance(frame, bytes):
                await self._take_pcm(frame)
            else:
                await self._take_text(frame)
            if self._protocol.close_code is not None:
                await self._bye(self._protocol.close_code)
                return
            if self._refusals > MAX_REFUSALS:
                await self._bye(CloseCode.BAD_MESSAGE)
                return

    async def _take_pcm(self, pcm: bytes) -> None:
        utterance = self._current
        if utterance is None or utterance.over or utterance.finished:
            if self._extended:
                return  # what was on its way when the utterance was cut
            utterance = self._open_for(None)
        if utterance is None or utterance.writer is not self:
            return
        utterance.write(pcm, time.monotonic())
        await self._hold_back(utterance)

    async def _hold_back(self, utterance: Utterance) -> None:
        """Read no more while too much waits; what is cut meanwhile waits for nothing."""
        ahead_bytes = self._session.live.unsent_bytes - MAX_AHEAD_BYTES
        if ahead_bytes <= 0:
            return
        room = asyncio.create_task(
            utterance.wait_for_room(max(0, utterance.unsent_bytes - ahead_bytes)),
            name="room for speech",
        )
        gone = asyncio.create_task(self._connection.wait_closed(), name="speaker gone")
        try:
            await asyncio.wait({room, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            room.cancel()
            gone.cancel()

    async def _take_text(self, frame: str) -> None:
        if self._extended and '"live.begin"' in frame[:_SHOWN_CHARS]:
            self._begin(frame)
            return
        for command in self._protocol.receive(frame):
            await self._do(command)
        for reply in self._protocol.replies_to_send():
            self._refusals += 1
            self._put(reply)

    def _begin(self, frame: str) -> None:
        try:
            begin = CLIENT_MESSAGE.validate_json(frame)
            self._current = self._adopt(begin)
        except ValidationError as error:
            self._refuse(problems_of(error))
        except (TooManyUtterances, UtteranceNameUsed) as error:
            self._refuse(str(error))

    def _adopt(self, begin: LiveBegin) -> Utterance | None:
        found = self._session.live.begin(begin)
        if isinstance(found, UtteranceReport):
            self._tell(LiveOver(utterance=found))
            return None
        found.writer = self
        self._mine[found.id] = found
        self._names.setdefault(found.id, found.id)
        if self._extended:
            self.on_progress(found)
        return found

    def _open_for(self, event_id: str | None) -> Utterance | None:
        """The utterance that a command of plain LITE belongs to: the open one, else a new one."""
        current = self._current
        if current is not None and not current.over and not current.finished:
            return current
        utterance_id = _new_id()
        if event_id is not None and self._session.live.is_new(event_id):
            # A name that we cannot use is still what the client is answered with.
            with contextlib.suppress(ValidationError):
                utterance_id = _UTTERANCE_ID.validate_python(event_id)
        self._names[utterance_id] = event_id
        try:
            self._current = self._adopt(LiveBegin(utterance_id=utterance_id))
        except (TooManyUtterances, UtteranceNameUsed) as error:
            self._refuse(str(error), event_id)
            return None
        return self._current

    async def _do(self, command: Command) -> None:
        try:
            match command:
                case AgentSpeak(audio=audio, event_id=event_id):
                    await self._speak(audio, event_id)
                case AgentSpeakEnd(event_id=event_id, audio=audio):
                    await self._end(event_id, audio)
                case AgentInterrupt(event_id=event_id):
                    await self._interrupt(event_id)
                case AgentStartListening():
                    await self._session.set_pose_in_band(Pose.LISTENING)
                case AgentStopListening():
                    await self._session.set_pose_in_band(Pose.IDLE)
                case SessionKeepAlive():
                    self._session.touch()
                    await self._session.keep_alive()
                case _:
                    pass  # `start`: nobody needs it
        except (OwnerNotReady, LiteError) as error:
            logger.info("not done: %s", error)
            named = getattr(command, "event_id", None)
            self._send(
                ErrorReported("server_error", str(error), source_event_id=named, event_id=_new_id())
            )

    async def _speak(self, audio: bytes, event_id: str | None) -> None:
        utterance = self._open_for(event_id)
        if utterance is None or utterance.writer is not self:
            return
        utterance.write(audio, time.monotonic())
        self._send(AudioBufferAppended(_new_id(), event_id, utterance.id))
        await self._hold_back(utterance)

    async def _end(self, event_id: str | None, audio: bytes | None) -> None:
        if audio:
            await self._speak(audio, event_id)
        named = self._mine.get(event_id) if event_id is not None and self._extended else None
        utterance = named or self._current
        if utterance is not None and utterance.writer is self:
            utterance.finish()
        task_id = None if utterance is None else utterance.id
        self._send(AudioBufferCommitted(_new_id(), event_id, task_id))

    async def _interrupt(self, event_id: str | None) -> None:
        self._current = None
        utterance_id, heard_s = await self._session.interrupt_in_band(event_id)
        self._tell(
            LiveInterrupted(
                event_id=event_id, utterance_id=utterance_id, heard_ms=round(heard_s * 1000)
            )
        )

    def _leave(self) -> None:
        """The connection is gone; a client of the live dialect may come back."""
        now_s = time.monotonic()
        for utterance in self._mine.values():
            if utterance.writer is not self or utterance.over or utterance.finished:
                continue
            if self._extended:
                utterance.detach_writer(now_s)
            else:
                utterance.finish()

    # -------------------------------------------------------------------- out

    def on_pose_changed(self, previous: str | None, pose: str) -> None:
        """The avatar's pose changed."""
        self._send(AgentStateUpdated(previous, pose, _new_id()))

    def on_playback_started(self, utterance: Utterance) -> None:
        """The avatar has begun to say an utterance."""
        self._begun.add(utterance.id)
        self._send(SpeakStarted(_new_id(), self._name_of(utterance.id), utterance.id))

    def on_progress(self, utterance: Utterance) -> None:
        """Speech went on to LiveAvatar."""
        if self._extended and utterance.id in self._mine:
            self._tell(
                LiveProgress(
                    utterance_id=utterance.id,
                    received_bytes=utterance.received_bytes,
                    sent_bytes=utterance.sent_bytes,
                    played_bytes=utterance.played_bytes(time.monotonic()),
                )
            )

    def on_utterance_over(self, report: UtteranceReport) -> None:
        """An utterance is over."""
        name = self._name_of(report.id)
        if report.id in self._begun:
            cut = report.outcome is UtteranceOutcome.INTERRUPTED
            kind = SpeakInterrupted if cut else SpeakEnded
            self._send(kind(_new_id(), name, report.id))
            self._begun.discard(report.id)
        self._tell(LiveOver(utterance=report))
        self._mine.pop(report.id, None)
        self._names.pop(report.id, None)

    def on_buffer_cleared(self, interrupt_id: str | None) -> None:
        """LiveAvatar has taken an interrupt."""
        self._send(AudioBufferCleared(_new_id(), interrupt_id))

    def on_error(self, error: ErrorReported) -> None:
        """LiveAvatar objects."""
        self._send(error)

    def on_ready_changed(self, ready: bool) -> None:
        """Speech goes on to LiveAvatar, or waits for a socket."""
        self._tell(LiveState(state="live" if ready else "recovering"))

    def on_released(self, *, over: bool) -> None:
        """This process lets go of the session."""
        if over:
            self._put(self._protocol.enter(SessionPhase.CLOSED))
        self._close_code = CloseCode.SESSION_OVER if over else CloseCode.MOVED
        self._gone = True
        self._put(None)

    def _name_of(self, utterance_id: str) -> str | None:
        return self._names.get(utterance_id, utterance_id)

    def _refuse(self, problem: str, event_id: str | None = None) -> None:
        self._refusals += 1
        self._send(
            ErrorReported(
                type="invalid_request_error",
                message=problem[:_SHOWN_CHARS],
                source_event_id=event_id,
                event_id=_new_id(),
            )
        )

    def _send(self, event: ServerEvent) -> None:
        self._put(encode_event(event))

    def _tell(self, message: BaseModel) -> None:
        if self._extended:
            self._put(message.model_dump_json(exclude_none=True))

    def _put(self, frame: str | None) -> None:
        """Queue a frame; None says goodbye. Nobody waits for a client that does not read."""
        waiting = self._connection.transport.get_write_buffer_size()
        if self._outbox.full() or waiting > MAX_UNREAD_BYTES:
            logger.warning("a speaker of %s does not read: cut off", self._session.key)
            self._connection.transport.abort()
            return
        self._outbox.put_nowait(frame)

    async def _write(self) -> None:
        try:
            while (frame := await self._outbox.get()) is not None:
                await self._connection.send(frame)
            await self._connection.close(self._close_code)
        except ConnectionClosed:
            return

    async def _bye(self, code: int) -> None:
        """Say what is still to be said, and close."""
        self._close_code = code
        self._put(None)
        await self._connection.wait_closed()


def _new_id() -> str:
    return str(uuid4())
