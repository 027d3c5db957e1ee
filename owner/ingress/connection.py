"""One speaker's connection to one owned session: the shell around the protocol's owner role.

Reads and writes the WebSocket, and carries out in the session what the speaker asks. What frames
mean and which may follow which is `avatar_sessions.live.protocol`'s part.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable
from typing import Final

from pydantic import TypeAdapter, ValidationError
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from avatar_sessions.contract.live_dialect import (
    CloseCode,
    LiveBegin,
    LiveProgress,
    LiveReady,
    UtteranceId,
)
from avatar_sessions.contract.reports import UtteranceReport
from avatar_sessions.contract.states import Pose
from avatar_sessions.live.protocol import (
    LivePhase,
    OwnerProtocol,
    PcmChunk,
    new_id,
)
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
    SessionKeepAlive,
)
from owner.live_queue import TooManyUtterances, UtteranceNameUsed
from owner.session import OwnedSession, OwnedState, OwnerNotReady
from owner.utterance_chunks import Utterance

logger = logging.getLogger(__name__)

MAX_AHEAD_BYTES: Final = 30 * 48_000
"""Speech that a session keeps before it is sent on to LiveAvatar: thirty seconds. Beyond that the
speaker's connection is not read, so that TCP holds the speaker back."""
MAX_UNREAD_BYTES: Final = 256 * 1024
"""How much may wait to be read by a speaker before its connection is cut."""
MAX_UNREAD_FRAMES: Final = 512
_UTTERANCE_ID: Final[TypeAdapter[str]] = TypeAdapter(UtteranceId)


class IngressConnection:
    """The server's side of a speaker's connection. Observes the session that it serves."""

    def __init__(
        self, connection: ServerConnection, session: OwnedSession, *, extended: bool
    ) -> None:
        """Serve a connection.

        Args:
            connection: admitted already.
            session: the one it speaks in.
            extended: the live dialect was agreed on; if not, the client takes this for LiveAvatar.
        """
        self._connection = connection
        self._session = session
        self._protocol = OwnerProtocol(extended=extended)
        self._utterances: dict[str, Utterance] = {}  # brought by this speaker, not over
        self._unread: asyncio.Queue[str | None] = asyncio.Queue(MAX_UNREAD_FRAMES)
        self._close_code: int = CloseCode.SESSION_OVER

    async def run(self) -> None:
        """Serve until either side closes the connection."""
        session = self._session
        ready = LiveReady(
            session_key=session.key, epoch=session.epoch, generation=session.generation
        )
        is_ready = session.state is OwnedState.READY
        self._queue(self._protocol.greet(ready, "live" if is_ready else "recovering"))
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
        protocol = self._protocol
        async for frame in self._connection:
            for message in protocol.receive(frame):
                if isinstance(message, PcmChunk):
                    await self._take_pcm(message)
                elif isinstance(message, LiveBegin):
                    self._begin(message)
                else:
                    await self._do(message)
            self._queue(protocol.replies_to_send())
            # After `on_released` the connection is read on until the client has answered the close.
            if protocol.phase is LivePhase.READY and protocol.close_code is not None:
                await self._close(protocol.close_code)
                return

    async def _take_pcm(self, chunk: PcmChunk) -> None:
        utterance = self._current(chunk.utterance_id)
        if utterance is None and not self._protocol.extended:
            utterance = self._open_for(None)
        if utterance is None or utterance.writer is not self:
            return
        utterance.write(chunk.pcm, time.monotonic())
        await self._hold_back(utterance)

    def _current(self, utterance_id: str | None) -> Utterance | None:
        """The utterance of that id if it still takes speech."""
        utterance = None if utterance_id is None else self._utterances.get(utterance_id)
        if utterance is None or utterance.over or utterance.finished:
            return None
        return utterance

    async def _hold_back(self, utterance: Utterance) -> None:
        """Do not read on while too much waits to be sent; the utterance's end stops the wait."""
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

    def _begin(self, begin: LiveBegin) -> None:
        try:
            utterance = self._adopt(begin, begin.utterance_id)
        except (TooManyUtterances, UtteranceNameUsed) as error:
            self._protocol.refuse(str(error))
            utterance = None
        if utterance is None:
            self._protocol.close_begin()

    def _adopt(self, begin: LiveBegin, name: str | None) -> Utterance | None:
        """Begin or resume an utterance, which the client calls ``name``; None if it is over."""
        found = self._session.live.begin(begin)
        if isinstance(found, UtteranceReport):
            self._queue(self._protocol.over(found))
            return None
        found.writer = self
        self._utterances[found.id] = found
        self._protocol.open(found.id, name)
        self.on_progress(found)
        return found

    def _open_for(self, event_id: str | None) -> Utterance | None:
        """The utterance that a command of plain LITE belongs to: the open one, else a new one."""
        current = self._current(self._protocol.utterance_id)
        if current is not None:
            return current
        utterance_id = new_id()
        if event_id is not None and self._session.live.is_new(event_id):
            # An event_id that is no utterance id still names the utterance to the client.
            with contextlib.suppress(ValidationError):
                utterance_id = _UTTERANCE_ID.validate_python(event_id)
        try:
            return self._adopt(LiveBegin(utterance_id=utterance_id), event_id)
        except (TooManyUtterances, UtteranceNameUsed) as error:
            self._protocol.refuse(str(error), event_id)
            return None

    async def _do(self, command: Command) -> None:
        try:
            match command:
                case AgentSpeak(audio=audio, event_id=event_id):
                    await self._speak(audio, event_id)
                case AgentSpeakEnd(event_id=event_id):
                    self._finish(event_id)
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
                    pass  # `start` has no effect
        except (OwnerNotReady, LiteError) as error:
            logger.info("a speaker's command failed: %s", error)
            event_id = getattr(command, "event_id", None)
            self._send(
                ErrorReported(
                    "server_error", str(error), source_event_id=event_id, event_id=new_id()
                )
            )

    async def _speak(self, audio: bytes, event_id: str | None) -> None:
        utterance = self._open_for(event_id)
        if utterance is None or utterance.writer is not self:
            return
        utterance.write(audio, time.monotonic())
        self._send(AudioBufferAppended(new_id(), event_id, utterance.id))
        await self._hold_back(utterance)

    def _finish(self, event_id: str | None) -> None:
        utterance_id = self._protocol.finish(event_id)
        utterance = self._current(utterance_id)
        if utterance is not None and utterance.writer is self:
            utterance.finish()
        self._send(AudioBufferCommitted(new_id(), event_id, utterance_id))

    async def _interrupt(self, event_id: str | None) -> None:
        utterance_id, heard_s = await self._session.interrupt_in_band(event_id)
        self._queue(self._protocol.interrupted(event_id, utterance_id, round(heard_s * 1000)))

    def _leave(self) -> None:
        """The connection is gone; a client of the live dialect may connect again."""
        now_s = time.monotonic()
        for utterance in self._utterances.values():
            if utterance.writer is not self or utterance.over or utterance.finished:
                continue
            if self._protocol.extended:
                utterance.detach_writer(now_s)
            else:
                utterance.finish()

    # -------------------------------------------------- out: the session's observer

    def on_pose_changed(self, previous: str | None, pose: str) -> None:
        """The avatar's pose changed."""
        self._send(AgentStateUpdated(previous, pose, new_id()))

    def on_playback_started(self, utterance: Utterance) -> None:
        """The avatar has begun to play an utterance."""
        self._queue(self._protocol.started(utterance.id))

    def on_progress(self, utterance: Utterance) -> None:
        """Speech was sent on to LiveAvatar."""
        if self._protocol.extended and utterance.id in self._utterances:
            progress = LiveProgress(
                utterance_id=utterance.id,
                received_bytes=utterance.received_bytes,
                sent_bytes=utterance.sent_bytes,
                played_bytes=utterance.played_bytes(time.monotonic()),
            )
            self._queue(self._protocol.progress(progress))

    def on_utterance_over(self, report: UtteranceReport) -> None:
        """An utterance is over."""
        self._utterances.pop(report.id, None)
        self._queue(self._protocol.over(report))

    def on_buffer_cleared(self, interrupt_id: str | None) -> None:
        """LiveAvatar has acknowledged an interrupt."""
        self._send(AudioBufferCleared(new_id(), interrupt_id))

    def on_error(self, error: ErrorReported) -> None:
        """LiveAvatar reports an error."""
        self._send(error)

    def on_ready_changed(self, ready: bool) -> None:
        """Speech reaches LiveAvatar, or waits for a socket."""
        self._queue(self._protocol.speech_state("live" if ready else "recovering"))

    def on_released(self, *, over: bool) -> None:
        """This process lets the session go: close, after the frames that wait."""
        self._queue(self._protocol.leave(session_over=over))
        if self._protocol.close_code is not None:
            self._close_code = self._protocol.close_code
        self._queue((None,))

    def _send(self, event: ServerEvent) -> None:
        self._queue(self._protocol.send(event))

    def _queue(self, frames: Iterable[str | None]) -> None:
        """Queue frames; None closes the connection. A client that does not read is cut off."""
        for frame in frames:
            waiting = self._connection.transport.get_write_buffer_size()
            if self._unread.full() or waiting > MAX_UNREAD_BYTES:
                logger.warning(
                    "a speaker of session %s does not read: its connection is cut",
                    self._session.key,
                )
                self._connection.transport.abort()
                return
            self._unread.put_nowait(frame)

    async def _write(self) -> None:
        try:
            while (frame := await self._unread.get()) is not None:
                await self._connection.send(frame)
            await self._connection.close(self._close_code)
        except ConnectionClosed:
            return

    async def _close(self, code: int) -> None:
        """Send the frames that wait, and close."""
        self._close_code = code
        self._queue((None,))
        await self._connection.wait_closed()
