"""An owner's ingress, played by the live dialect on a real WebSocket; and who knows the owner.

It does at once what it is told, and nothing that it is told not to: a test holds it back, breaks
it, and looks at what it was told and took in.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

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
    LiveState,
)
from liveavatar_lite.messages import (
    AgentInterrupt,
    AgentSpeakEnd,
    AgentStateUpdated,
    ServerEvent,
    SessionStateUpdated,
    decode_command,
    encode_event,
)

TICKET = "obviously-fake-ticket"
BYTES_PER_MS = 48


@dataclass
class HeardSpeech:
    """What an owner has of an utterance: its PCM from ``offset`` on."""

    begin: LiveBegin
    pcm: bytearray = field(default_factory=bytearray)
    sent: int = 0
    is_sealed: bool = False
    report: UtteranceReport | None = None

    @property
    def received(self) -> int:
        """Position up to which it was taken in."""
        return self.begin.offset_bytes + len(self.pcm)


class FakeIngress:
    """One owner. What a test sets differently holds from then on.

    Attributes:
        url: where it listens, once entered.
        told: every text frame that came, in order; binary frames as ``pcm <bytes>``.
        frames: sizes of the binary frames.
        heard: by utterance id.
        connections: how many were accepted.
    """

    def __init__(self, epoch: tuple[int, int] = (1, 1), *, window_bytes: int = 96_000) -> None:
        self.epoch = epoch
        self.generation = 1
        self.window_bytes = window_bytes
        self.sends_on = True  # passes on at once what comes
        self.answers = True  # ends what is sealed; answers interrupts
        self.reads = True
        self.says_ready = True
        self.speaks_the_dialect = True
        self.answers_begin = True
        self.refuses: HTTPStatus | None = None
        self.cuts_after_bytes: int | None = None  # breaks the connection there, once
        self.told: list[str] = []
        self.tickets: list[str | None] = []
        self.frames: list[int] = []
        self.heard: dict[str, HeardSpeech] = {}
        self.connections = 0
        self.url = ""
        self._open: set[ServerConnection] = set()
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            0,
            process_request=self._answer,
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

    def pcm(self, utterance_id: str) -> bytes:
        """What was taken in of an utterance."""
        return bytes(self.heard[utterance_id].pcm)

    def sent(self, utterance_id: str) -> int:
        """How far an utterance was passed on; 0 for one that it has not heard of."""
        heard = self.heard.get(utterance_id)
        return 0 if heard is None else heard.sent

    @property
    def is_connected(self) -> bool:
        """A speaker is there."""
        return bool(self._open)

    def kinds(self) -> list[str]:
        """Types of the text frames that came, in order."""
        return [json.loads(each)["type"] for each in self.told if not each.startswith("pcm")]

    # ------------------------------------------------------------- what it does

    def break_off(self) -> None:
        """Break every connection without a word."""
        for connection in tuple(self._open):
            connection.transport.abort()

    async def close(self, code: int) -> None:
        """End every connection with a code."""
        for connection in tuple(self._open):
            await connection.close(code)

    async def say(self, message: LiveMessage | ServerEvent) -> None:
        """Tell everybody who is connected."""
        text = (
            message.model_dump_json() if isinstance(message, LiveMessage) else encode_event(message)
        )
        await self.say_frame(text)

    async def say_frame(self, frame: str | bytes) -> None:
        """Tell everybody who is connected, whatever it means."""
        for connection in tuple(self._open):
            await connection.send(frame)

    async def send_on(self, utterance_id: str, position: int, played: int = 0) -> None:
        """Pass on an utterance up to a position, and tell."""
        heard = self.heard[utterance_id]
        heard.sent = position
        await self.say(self._progress(heard, played))

    async def finish(
        self, utterance_id: str, outcome: UtteranceOutcome = UtteranceOutcome.COMPLETED
    ) -> None:
        """An utterance is over."""
        await self.say(LiveOver(utterance=self.note_over(utterance_id, outcome)))

    def note_over(self, utterance_id: str, outcome: UtteranceOutcome) -> UtteranceReport:
        """An utterance is over, and nobody is told."""
        heard = self.heard[utterance_id]
        if heard.report is None:
            ms = heard.sent // BYTES_PER_MS
            heard.report = UtteranceReport(
                id=utterance_id, outcome=outcome, source="live", heard_ms=ms, sent_ms=ms
            )
        return heard.report

    async def answer_interrupt(self, *, finish: bool = True) -> None:
        """The last interrupt that came is on the wire."""
        last = [each for each in self.told if "agent.interrupt" in each][-1]
        await self._interrupt(AgentInterrupt(json.loads(last)["event_id"]), finish)

    async def end_session(self) -> None:
        """As LiveAvatar ends one."""
        await self.say(SessionStateUpdated("disconnected"))
        await self.close(1000)

    async def pose(self, new: str) -> None:
        """The avatar takes a pose."""
        await self.say(AgentStateUpdated(None, new))

    # -------------------------------------------------------------------- inside

    def _answer(self, connection: ServerConnection, request: Request) -> Response | None:
        self.tickets.append(request.headers.get("Authorization"))
        if self.refuses is None:
            return None
        return connection.respond(self.refuses, "no\n")

    async def _serve(self, connection: ServerConnection) -> None:
        self.connections += 1
        self._open.add(connection)
        try:
            if self.says_ready:
                await self.say(
                    LiveReady(
                        session_key="k",
                        epoch=self.epoch,
                        generation=self.generation,
                        window_bytes=self.window_bytes,
                    )
                )
                await self.say(LiveState(state="live"))
            current: HeardSpeech | None = None
            while True:
                while not self.reads:
                    await asyncio.sleep(0.01)
                current = await self._take(connection, await connection.recv(), current)
        except ConnectionClosed:
            pass
        finally:
            self._open.discard(connection)

    async def _take(
        self, connection: ServerConnection, frame: str | bytes, current: HeardSpeech | None
    ) -> HeardSpeech | None:
        if isinstance(frame, bytes):
            assert current is not None, "PCM before live.begin"
            await self._take_pcm(connection, frame, current)
            return current
        self.told.append(frame)
        message: dict[str, Any] = json.loads(frame)
        if message["type"] == "live.begin":
            return await self._begin(LiveBegin.model_validate(message))
        command = decode_command(frame)
        if isinstance(command, AgentSpeakEnd):
            assert command.event_id is not None
            self.heard[command.event_id].is_sealed = True
            if self.answers:
                await self.finish(command.event_id)
        elif isinstance(command, AgentInterrupt) and self.answers:
            await self._interrupt(command)
        return current

    async def _take_pcm(
        self, connection: ServerConnection, frame: bytes, heard: HeardSpeech
    ) -> None:
        self.told.append(f"pcm {len(frame)}")
        self.frames.append(len(frame))
        heard.pcm += frame
        ahead = sum(one.received - one.sent for one in self.heard.values() if one.report is None)
        assert ahead <= self.window_bytes, "more than the window"
        if self.sends_on:
            heard.sent = heard.received
            await self.say(self._progress(heard))
        if self.cuts_after_bytes is not None and heard.received >= self.cuts_after_bytes:
            self.cuts_after_bytes = None
            connection.transport.abort()

    async def _begin(self, begin: LiveBegin) -> HeardSpeech:
        heard = self.heard.get(begin.utterance_id)
        if heard is None:
            heard = self.heard[begin.utterance_id] = HeardSpeech(begin, sent=begin.offset_bytes)
        if heard.report is not None:
            await self.finish(begin.utterance_id)
        elif self.answers_begin:
            await self.say(self._progress(heard))
        return heard

    async def _interrupt(self, command: AgentInterrupt, finish: bool = True) -> None:
        cut = [one for one in self.heard.values() if one.report is None]
        first = cut[0] if cut else None
        await self.say(
            LiveInterrupted(
                event_id=command.event_id,
                utterance_id=None if first is None else first.begin.utterance_id,
                heard_ms=0 if first is None else first.sent // BYTES_PER_MS,
            )
        )
        for one in cut if finish else ():
            await self.finish(one.begin.utterance_id, UtteranceOutcome.INTERRUPTED)

    def _progress(self, heard: HeardSpeech, played: int = 0) -> LiveProgress:
        return LiveProgress(
            utterance_id=heard.begin.utterance_id,
            received_bytes=heard.received,
            sent_bytes=heard.sent,
            played_bytes=played,
        )


class FakeOwners:
    """Who knows the session's owner, in place of its workflow.

    Attributes:
        now: the owner there is now, or why there is none.
        is_over: why the session is over; None: it goes on.
        lost_epochs: what was reported as lost.
        attached: how often a ticket was asked for.
    """

    def __init__(self, now: FakeIngress | AvatarSessionsError) -> None:
        self.now = now
        self.is_over: AvatarSessionsError | None = None
        self.lost_epochs: list[tuple[int, int]] = []
        self.attached = 0
        self.next_owner: FakeIngress | None = None  # takes over when the last is reported as lost
        self.valid_s = 60.0

    async def attach(self) -> SpeakerTicket:
        """A ticket for the owner there is now."""
        self.attached += 1
        if isinstance(self.now, AvatarSessionsError):
            raise self.now
        return self.now.ticket(self.valid_s)

    async def lost(self, epoch: tuple[int, int]) -> None:
        """The session looks whether the owner is there."""
        self.lost_epochs.append(epoch)
        if self.next_owner is not None:
            self.now = self.next_owner

    async def ending(self) -> AvatarSessionsError | None:
        """Why it is over."""
        return self.is_over
