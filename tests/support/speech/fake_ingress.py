"""A fake of an owner's ingress on a real WebSocket, and a fake of the session that names the owner.

The fake speaks the live dialect by the owner's role of the protocol core. It does what a test sets,
and nothing else: a test holds it back, breaks it, and looks at what it received.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from avatar_sessions import AvatarSessionsError, UtteranceOutcome, UtteranceReport
from avatar_sessions.access import SpeakerTicket
from avatar_sessions.contract.live_dialect import (
    SUBPROTOCOL,
    LiveBegin,
    LiveInterrupted,
    LiveMessage,
    LiveOver,
    LiveProgress,
    LiveReady,
)
from avatar_sessions.live.protocol import OwnerProtocol, PcmChunk, SpeakerMessage
from liveavatar_lite.messages import (
    COMMANDS,
    AgentInterrupt,
    AgentSpeakEnd,
    AgentStateUpdated,
    ServerEvent,
)

TICKET = "obviously-fake-ticket"
BYTES_PER_MS = 48
_KINDS: Final[dict[type, str]] = {
    LiveBegin: "live.begin",
    **{command: kind for kind, command in COMMANDS.items()},
}


@dataclass
class ReceivedSpeech:
    """What an owner has of an utterance: its PCM from ``offset`` on."""

    begin: LiveBegin
    pcm: bytearray = field(default_factory=bytearray)
    sent: int = 0
    is_finished: bool = False
    report: UtteranceReport | None = None

    @property
    def received(self) -> int:
        """Position up to which it was received."""
        return self.begin.offset_bytes + len(self.pcm)


class FakeIngress:
    """One owner. What a test sets holds from then on.

    Attributes:
        url: where it listens, once entered.
        messages: every message that came, without PCM, in order.
        frames: sizes of the binary frames.
        speech: what was received, by utterance id.
        connections: how many were accepted.
    """

    def __init__(self, epoch: tuple[int, int] = (1, 1), *, window_bytes: int = 96_000) -> None:
        self.epoch = epoch
        self.generation = 1
        self.window_bytes = window_bytes
        self.sends_on = True  # sends speech on when it comes
        self.answers = True  # ends finished utterances; answers interrupts
        self.reads = True
        self.speaks_the_dialect = True
        self.answers_begin = True
        self.refuses: HTTPStatus | None = None
        self.cuts_after_bytes: int | None = None  # breaks the connection there, once
        self.messages: list[SpeakerMessage] = []
        self.tickets: list[str | None] = []
        self.frames: list[int] = []
        self.speech: dict[str, ReceivedSpeech] = {}
        self.connections = 0
        self.url = ""
        self._open: dict[ServerConnection, OwnerProtocol] = {}
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            0,
            process_request=self._admit,
            select_subprotocol=lambda connection, offered: (
                Subprotocol(SUBPROTOCOL)
                if self.speaks_the_dialect and SUBPROTOCOL in offered
                else None
            ),
            compression=None,
        )
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"ws://127.0.0.1:{port}/live"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self.break_off()
        self._server.close()
        await self._server.wait_closed()

    def ticket(self, valid_s: float = 60.0) -> SpeakerTicket:
        """A ticket for this owner."""
        expires_at = datetime.now(UTC) + timedelta(seconds=valid_s)
        return SpeakerTicket(self.url, TICKET, self.epoch, expires_at)

    # ------------------------------------------------------------ what it received

    def pcm(self, utterance_id: str) -> bytes:
        """The PCM received of an utterance."""
        return bytes(self.speech[utterance_id].pcm)

    def sent(self, utterance_id: str) -> int:
        """How far an utterance was sent on; 0 for one that was not begun here."""
        speech = self.speech.get(utterance_id)
        return 0 if speech is None else speech.sent

    def begins(self) -> list[LiveBegin]:
        """Every ``live.begin``, in order."""
        return [message for message in self.messages if isinstance(message, LiveBegin)]

    @property
    def is_connected(self) -> bool:
        """A speaker is connected."""
        return bool(self._open)

    def kinds(self) -> list[str]:
        """Types of the text frames that came, in order."""
        return [_KINDS[type(message)] for message in self.messages]

    # ------------------------------------------------------------- what it does

    def break_off(self) -> None:
        """Break every connection without a close frame."""
        for connection in tuple(self._open):
            connection.transport.abort()

    async def close(self, code: int) -> None:
        """Close every connection with a code."""
        for connection in tuple(self._open):
            await connection.close(code)

    async def send(self, message: LiveMessage | ServerEvent) -> None:
        """Send a message to every speaker."""
        for connection, protocol in tuple(self._open.items()):
            await _send_all(connection, protocol.send(message))

    async def send_frame(self, frame: str | bytes) -> None:
        """Send a frame to every speaker, whatever it means."""
        for connection in tuple(self._open):
            await connection.send(frame)

    async def send_on(self, utterance_id: str, position: int, played: int = 0) -> None:
        """Send an utterance on up to a position, and report it."""
        speech = self.speech[utterance_id]
        speech.sent = position
        await self.send(self._progress(speech, played))

    async def finish(
        self, utterance_id: str, outcome: UtteranceOutcome = UtteranceOutcome.COMPLETED
    ) -> None:
        """An utterance is over: report it."""
        await self.send(LiveOver(utterance=self.note_over(utterance_id, outcome)))

    def note_over(self, utterance_id: str, outcome: UtteranceOutcome) -> UtteranceReport:
        """An utterance is over, and no speaker is sent its report."""
        speech = self.speech[utterance_id]
        if speech.report is None:
            ms = speech.sent // BYTES_PER_MS
            speech.report = UtteranceReport(
                id=utterance_id, outcome=outcome, source="live", heard_ms=ms, sent_ms=ms
            )
        return speech.report

    async def answer_interrupt(self, *, finish: bool = True) -> None:
        """The last interrupt that came is on the wire."""
        last = [message for message in self.messages if isinstance(message, AgentInterrupt)][-1]
        await self._interrupt(last, finish)

    async def end_session(self) -> None:
        """End as LiveAvatar ends a session."""
        for connection, protocol in tuple(self._open.items()):
            await _send_all(connection, protocol.leave(session_over=True))
            assert protocol.close_code is not None
            await connection.close(protocol.close_code)

    async def pose(self, new: str) -> None:
        """The avatar takes a pose."""
        await self.send(AgentStateUpdated(None, new))

    # -------------------------------------------------------------------- inside

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        self.tickets.append(request.headers.get("Authorization"))
        if self.refuses is None:
            return None
        return connection.respond(self.refuses, "no\n")

    async def _serve(self, connection: ServerConnection) -> None:
        self.connections += 1
        protocol = OwnerProtocol(extended=connection.subprotocol is not None)
        self._open[connection] = protocol
        ready = LiveReady(
            session_key="k",
            epoch=self.epoch,
            generation=self.generation,
            window_bytes=self.window_bytes,
        )
        try:
            await _send_all(connection, protocol.greet(ready, "live"))
            while True:
                while not self.reads:
                    await asyncio.sleep(0.01)
                for message in protocol.receive(await connection.recv()):
                    await self._take(connection, protocol, message)
                assert protocol.refusals == 0, protocol.replies_to_send()
        except ConnectionClosed:
            pass
        finally:
            del self._open[connection]

    async def _take(
        self, connection: ServerConnection, protocol: OwnerProtocol, message: SpeakerMessage
    ) -> None:
        if isinstance(message, PcmChunk):
            assert message.utterance_id is not None
            await self._take_pcm(connection, self.speech[message.utterance_id], message.pcm)
            return
        self.messages.append(message)
        match message:
            case LiveBegin():
                protocol.open(message.utterance_id, message.utterance_id)
                await self._begin(message)
            case AgentSpeakEnd():
                utterance_id = protocol.finish(message.event_id)
                assert utterance_id is not None
                self.speech[utterance_id].is_finished = True
                if self.answers:
                    await self.finish(utterance_id)
            case AgentInterrupt() if self.answers:
                await self._interrupt(message)

    async def _take_pcm(
        self, connection: ServerConnection, speech: ReceivedSpeech, pcm: bytes
    ) -> None:
        self.frames.append(len(pcm))
        speech.pcm += pcm
        ahead = sum(one.received - one.sent for one in self.speech.values() if one.report is None)
        assert ahead <= self.window_bytes, "more than the window"
        if self.sends_on:
            speech.sent = speech.received
            await self.send(self._progress(speech))
        if self.cuts_after_bytes is not None and speech.received >= self.cuts_after_bytes:
            self.cuts_after_bytes = None
            connection.transport.abort()

    async def _begin(self, begin: LiveBegin) -> None:
        speech = self.speech.get(begin.utterance_id)
        if speech is None:
            speech = ReceivedSpeech(begin, sent=begin.offset_bytes)
            self.speech[begin.utterance_id] = speech
        if speech.report is not None:
            await self.finish(begin.utterance_id)
        elif self.answers_begin:
            await self.send(self._progress(speech))

    async def _interrupt(self, command: AgentInterrupt, finish: bool = True) -> None:
        cut = [one for one in self.speech.values() if one.report is None]
        first = cut[0] if cut else None
        await self.send(
            LiveInterrupted(
                event_id=command.event_id,
                utterance_id=None if first is None else first.begin.utterance_id,
                heard_ms=0 if first is None else first.sent // BYTES_PER_MS,
            )
        )
        for one in cut if finish else ():
            await self.finish(one.begin.utterance_id, UtteranceOutcome.INTERRUPTED)

    def _progress(self, speech: ReceivedSpeech, played: int = 0) -> LiveProgress:
        return LiveProgress(
            utterance_id=speech.begin.utterance_id,
            received_bytes=speech.received,
            sent_bytes=speech.sent,
            played_bytes=played,
        )


async def _send_all(connection: ServerConnection, frames: Iterable[str]) -> None:
    for frame in frames:
        await connection.send(frame)


class FakeOwners:
    """Names the session's owner, in place of its workflow.

    Attributes:
        now: the present owner, or the error to raise.
        is_over: why the session is over; None while it goes on.
        lost_epochs: the epochs reported as lost.
        attached: how often a ticket was requested.
    """

    def __init__(self, now: FakeIngress | AvatarSessionsError) -> None:
        self.now = now
        self.is_over: AvatarSessionsError | None = None
        self.lost_epochs: list[tuple[int, int]] = []
        self.attached = 0
        self.next_owner: FakeIngress | None = None  # takes over when the last is reported as lost
        self.valid_s = 60.0

    async def attach(self) -> SpeakerTicket:
        """A ticket for the present owner."""
        self.attached += 1
        if isinstance(self.now, AvatarSessionsError):
            raise self.now
        return self.now.ticket(self.valid_s)

    async def lost(self, epoch: tuple[int, int]) -> None:
        """Note the report; the next owner, if any, takes over."""
        self.lost_epochs.append(epoch)
        if self.next_owner is not None:
            self.now = self.next_owner

    async def ending(self) -> AvatarSessionsError | None:
        """Why the session is over."""
        return self.is_over
