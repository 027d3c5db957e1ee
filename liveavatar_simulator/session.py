"""One simulated session: its phase, limits, playback, socket and billing.

It reaches its surroundings through two protocols: a `SimulatedAvatar`, which plays audio and video,
and a `SimulatedSocket`, which takes events. REST, WebSocket and LiveKit are elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, Protocol, assert_never

from liveavatar_lite.messages import (
    AgentInterrupt,
    AgentSpeak,
    AgentSpeakEnd,
    AgentStart,
    AgentStartListening,
    AgentState,
    AgentStopListening,
    Command,
    ServerEvent,
    SessionKeepAlive,
)
from liveavatar_lite.models import SessionEndReason

from .dialects import EventDialect
from .faults import Faults
from .ledger import RoomKind, SessionLine
from .media.recording import AudioRecorder, AudioRecording
from .playback import Cleared, PlaybackEvent, PlaybackTimes, SimulatedPlayback
from .service.credits import CreditAccount, pro_rated
from .service.schemas import TokenRequestSchema
from .settings import AtLimit, SimulatorSettings
from .tape import Tape, ms_of, utterance_line

log = logging.getLogger(__name__)

FAULT_POLL_S: Final = 0.5
"""How often a session without an avatar in a room checks for new faults while it speaks."""
RECORDING_STEP_S: Final = 2.0
"""The longest piece that is recorded in one step without an avatar in a room."""


class SimulatedPhase(StrEnum):
    """The phase of a session."""

    MINTED = "minted"
    """A token exists; nothing runs or is billed."""
    STARTING = "starting"
    """The room is being created."""
    LIVE = "live"
    FROZEN = "frozen"
    """The maximum duration is over and billing has ended, but socket and avatar stay: what paid
    sessions do."""
    ENDED = "ended"


_LEGAL: Final[dict[SimulatedPhase, frozenset[SimulatedPhase]]] = {
    SimulatedPhase.MINTED: frozenset({SimulatedPhase.STARTING}),
    SimulatedPhase.STARTING: frozenset(
        {SimulatedPhase.MINTED, SimulatedPhase.LIVE, SimulatedPhase.ENDED}
    ),
    SimulatedPhase.LIVE: frozenset({SimulatedPhase.FROZEN, SimulatedPhase.ENDED}),
    SimulatedPhase.FROZEN: frozenset({SimulatedPhase.ENDED}),
    SimulatedPhase.ENDED: frozenset(),
}


class AvatarJoinFailed(Exception):
    """The avatar could not join its room."""


class SimulatedAvatar(Protocol):
    """An avatar in a room, with video and audio."""

    async def play(self, pcm: bytes, pose: AgentState) -> None:
        """Play the audio of the time that has just passed, and one frame of video."""

    def clear(self) -> None:
        """Drop audio that is queued and not yet played."""

    async def leave(self) -> None:
        """Leave the room; a room that was created for the session is deleted.

        Bounded, safe to repeat.
        """


class SimulatedSocket(Protocol):
    """A client's connection to the session.

    Attributes:
        number: the session's sockets are counted from 1; set by `attach`.
    """

    number: int

    def send(self, event: ServerEvent) -> None:
        """Queue an event; does not wait."""

    async def close(self, code: int, reason: str = "") -> None:
        """Send the final state and close. Bounded."""

    def drop(self) -> None:
        """Cut the connection without a closing handshake."""

    @property
    def stalled(self) -> bool:
        """Whether `stall` was called."""

    def stall(self) -> None:
        """Stop reading and sending, and stay open."""


class SimulatedSession:
    """A session from its token to its end."""

    def __init__(
        self,
        request: TokenRequestSchema,
        *,
        max_duration_s: int,
        settings: SimulatorSettings,
        faults: Callable[[], Faults],
        account: CreditAccount,
    ) -> None:
        self.session_id = str(uuid.uuid4())
        self.socket_key = secrets.token_urlsafe(24)
        """Part of the ``ws_url``: who has the URL can open the socket."""
        self.request = request
        self.max_duration_s = max_duration_s
        self.minted_at = datetime.now(UTC)
        self.started_at: datetime | None = None
        """Set when the session becomes live: billing begins."""
        self.ended_at: datetime | None = None
        """Set when billing ends: when the session ends or freezes."""
        self.end_reason: SessionEndReason | None = None
        self.room: str | None = None
        self.room_kind: RoomKind = "none"
        self.recorder: AudioRecorder | None = None
        """None: the session is not recorded, or its recording was dropped."""
        self.avatar_joined = asyncio.Event()
        """Set when the avatar has joined its room, or if there is no avatar."""
        self.commands_ignored = 0
        self.sockets_total = 0
        self._phase = SimulatedPhase.MINTED
        self._settings = settings
        self._faults = faults
        self._dialect = EventDialect(settings.speech_signals, settings.correlation)
        self._account = account
        self._credits_charged = Decimal(0)
        self._avatar: SimulatedAvatar | None = None
        self._socket: SimulatedSocket | None = None
        self._tape = Tape(settings.tape_length)
        self._tasks: list[asyncio.Task[None]] = []
        self._joining: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        now_s = time.monotonic()
        self._started_s = self._ended_s = now_s
        self._active_s = self._disconnected_since_s = now_s
        self._periods_charged = 0
        self._playback = SimulatedPlayback(self._playback_times(), now_s=now_s)
        self._command_received = asyncio.Event()
        """Set by each command, because it changes when the next event is due."""

    # --- phases -----------------------------------------------------------------------------------

    @property
    def phase(self) -> SimulatedPhase:
        """The current phase."""
        return self._phase

    @property
    def billing(self) -> bool:
        """Whether the session is being billed: started, and not ended or frozen."""
        return self.started_at is not None and self.ended_at is None

    def become(self, phase: SimulatedPhase) -> None:
        """Change the phase.

        Raises:
            RuntimeError: this phase cannot follow the current one.
        """
        if phase not in _LEGAL[self._phase]:
            raise RuntimeError(f"a session that is {self._phase} cannot become {phase}")
        self._phase = phase

    def go_live(
        self, avatar: SimulatedAvatar | None, join: Coroutine[Any, Any, None] | None
    ) -> None:
        """Begin billing, and have the avatar join its room.

        The order is LiveAvatar's: `/start` is answered, then the avatar joins (lifecycle page).
        Sockets become connected when it has joined.

        Args:
            avatar: plays audio and video in a room; None: no room.
            join: joins the avatar's room; a failure ends the session.
        """
        self.become(SimulatedPhase.LIVE)
        self.started_at = datetime.now(UTC)
        now_s = time.monotonic()
        self._started_s = self._active_s = self._disconnected_since_s = now_s
        in_room = avatar is not None
        if self._settings.record_heard_s > 0:
            self.recorder = AudioRecorder(self.started_at, self._settings.record_heard_s)
        audible = in_room or self.recorder is not None
        self._playback = SimulatedPlayback(self._playback_times(), now_s=now_s, audible=audible)
        self._avatar = avatar
        name = f"session-{self.session_id[:8]}"
        play = self._play_in_room() if in_room else self._play_without_room()
        self._tasks = [
            asyncio.create_task(play, name=f"{name}-play"),
            asyncio.create_task(self._watch_limits(), name=f"{name}-limits"),
        ]
        if join is None:
            self.avatar_joined.set()
        else:
            self._joining = asyncio.create_task(self._join(join), name=f"{name}-join")
        for task in self._tasks:
            task.add_done_callback(self._check_task)

    async def _join(self, join: Coroutine[Any, Any, None]) -> None:
        try:
            await join
        except AvatarJoinFailed as error:
            log.warning("session %s ends: its avatar could not join: %s", self.session_id, error)
            self._begin_end(SessionEndReason.SERVER_ERROR)
        else:
            self.avatar_joined.set()

    def _check_task(self, task: asyncio.Task[None]) -> None:
        """End the session if its playback failed: it must not be billed without playing."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("%s failed, the session ends", task.get_name(), exc_info=error)
            self._begin_end(SessionEndReason.SERVER_ERROR)

    async def end(self, reason: SessionEndReason) -> None:
        """End the session; returns when avatar and socket are gone. Safe to repeat."""
        await asyncio.shield(self._begin_end(reason))

    async def _end(self, reason: SessionEndReason) -> None:
        self._catch_up()
        self._stop_billing(reason)
        self.become(SimulatedPhase.ENDED)
        self._playback.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._joining is not None:
            # A cancelled join can leave a participant in the room; the join has its own timeout.
            await asyncio.wait({self._joining})
        socket, self._socket = self._socket, None
        avatar, self._avatar = self._avatar, None
        async with asyncio.TaskGroup() as group:
            if avatar is not None:
                group.create_task(avatar.leave(), name="avatar-leave")
            if socket is not None:
                group.create_task(socket.close(1000), name="socket-close")
        log.info("session %s ended: %s", self.session_id, self.end_reason)

    def _stop_billing(self, reason: SessionEndReason) -> None:
        if self.ended_at is not None:
            return
        self.ended_at = datetime.now(UTC)
        self._ended_s = time.monotonic()
        self.end_reason = reason
        if self.started_at is not None and not self.request.is_sandbox:
            self._charge(self.credits_consumed)

    # --- limits -----------------------------------------------------------------------------------

    def touch(self) -> None:
        """Restart the idle timeout."""
        self._active_s = time.monotonic()

    async def _watch_limits(self) -> None:
        """End or freeze the session at its first deadline.

        Deadlines move, so each is computed again when it comes up.
        """
        while True:
            deadline_s, reason = min(self._deadlines(), key=lambda each: each[0])
            wait_s = deadline_s - time.monotonic()
            if wait_s > 0:
                # A new deadline may be earlier (a socket was closed): check twice a second.
                await asyncio.sleep(min(wait_s, 0.5))
            elif reason is None:
                self._charge_period()
            elif reason is SessionEndReason.MAX_DURATION_REACHED and self._freezes():
                self.freeze()
            else:
                self._begin_end(reason)
                return

    def _deadlines(self) -> list[tuple[float, SessionEndReason | None]]:
        settings = self._settings
        deadlines: list[tuple[float, SessionEndReason | None]] = [
            (self._active_s + settings.idle_timeout_s, SessionEndReason.IDLE_TIMEOUT)
        ]
        if self._socket is None and not self.request.has_connector:
            zombie_s = self._disconnected_since_s + settings.zombie_timeout_s
            deadlines.append((zombie_s, SessionEndReason.ZOMBIE_SESSION_REAP))
        if self._phase is SimulatedPhase.LIVE:
            limit_s = self.max_duration_s * settings.duration_scale
            deadlines.append((self._started_s + limit_s, SessionEndReason.MAX_DURATION_REACHED))
            if not self.request.is_sandbox:
                periods = self._periods_charged + 1
                deadlines.append((self._started_s + periods * settings.credit_period_s, None))
        return deadlines

    def _freezes(self) -> bool:
        at_limit = self._settings.at_limit
        if at_limit is AtLimit.AS_MEASURED:
            return not self.request.is_sandbox
        return at_limit is AtLimit.FREEZE

    def freeze(self) -> None:
        """End billing and playback, and answer no more commands; socket and avatar stay.

        Only in phase LIVE.
        """
        self._catch_up()
        self._stop_billing(SessionEndReason.MAX_DURATION_REACHED)
        self.become(SimulatedPhase.FROZEN)
        self._playback.cut()
        log.info("session %s is frozen", self.session_id)

    def _begin_end(self, reason: SessionEndReason) -> asyncio.Task[None]:
        if self._ending is None:
            self._ending = asyncio.create_task(
                self._end(reason), name=f"session-{self.session_id[:8]}-end"
            )
        return self._ending

    def _charge_period(self) -> None:
        self._periods_charged += 1
        if not self._charge(Decimal(self._periods_charged)):
            self._begin_end(SessionEndReason.NO_CREDITS)

    def _charge(self, total: Decimal) -> bool:
        left = self._account.charge(max(total - self._credits_charged, Decimal(0)))
        self._credits_charged = max(total, self._credits_charged)
        return left

    # --- sockets ----------------------------------------------------------------------------------

    def opens_with(self, key: str) -> bool:
        """Whether this is the key in the session's ``ws_url``."""
        return secrets.compare_digest(self.socket_key.encode(), key.encode())

    @property
    def accepts_sockets(self) -> bool:
        """Whether the ``ws_url`` may be opened now."""
        if self._phase not in (SimulatedPhase.LIVE, SimulatedPhase.FROZEN):
            return False
        return self.sockets_total == 0 or self._settings.reconnect

    def attach(self, socket: SimulatedSocket) -> SimulatedSocket | None:
        """Attach a client's connection; returns the one it replaces, for the caller to close."""
        replaced, self._socket = self._socket, socket
        self.sockets_total += 1
        socket.number = self.sockets_total
        self._tape.socket_opened(socket.number)
        return replaced

    def detach(self, socket: SimulatedSocket) -> None:
        """A connection was closed.

        Playback continues. Without a new connection the session ends at ``zombie_timeout_s``.
        """
        self._tape.socket_closed(socket.number)
        if self._socket is socket:
            self._socket = None
            self._disconnected_since_s = time.monotonic()

    def drop_socket(self) -> bool:
        """Cut the client's connection; False if there is none."""
        if self._socket is None:
            return False
        self._socket.drop()
        return True

    def _send(self, event: ServerEvent) -> None:
        if self._socket is not None:
            self._socket.send(event)

    # --- commands ---------------------------------------------------------------------------------

    def handle(self, command: Command, socket: SimulatedSocket) -> None:
        """Execute a command from this socket.

        The acknowledgement goes to the socket that is attached now.
        """
        self.touch()
        after_s = time.monotonic() - self._started_s
        self._tape.command(command, after_s=after_s, socket=socket.number)
        if self._phase is not SimulatedPhase.LIVE:
            return
        self._catch_up()
        self._command_received.set()
        now_s = time.monotonic()
        match command:
            case AgentSpeak(audio=audio, event_id=event_id):
                utterance = self._playback.append(audio, event_id, now_s=now_s)
                self._send(self._dialect.appended(event_id, utterance))
            case AgentSpeakEnd(event_id=event_id, audio=last):
                finished = self._playback.finish(event_id, last, now_s=now_s)
                self._send(self._dialect.committed(event_id, finished))
            case AgentInterrupt(event_id=event_id):
                self._playback.interrupt(event_id, now_s=now_s)
            case AgentStartListening():
                self._playback.listen(True)
            case AgentStopListening():
                self._playback.listen(False)
            case SessionKeepAlive() | AgentStart():
                pass
            case _:
                assert_never(command)

    # --- playback ---------------------------------------------------------------------------------

    async def _play_in_room(self) -> None:
        """Advance playback frame by frame: events go to the client, audio and video to the room."""
        frame_s = 1 / self._settings.fps
        next_s = time.monotonic()
        while True:
            next_s += frame_s
            late_s = time.monotonic() - next_s
            await asyncio.sleep(max(-late_s, 0))
            if late_s > 1:
                next_s = time.monotonic()  # the machine was suspended: do not catch up
            pcm = self._advance()
            self._inject_socket_faults()
            if self._avatar is not None and self.avatar_joined.is_set():
                await self._avatar.play(pcm, self._playback.pose)

    async def _play_without_room(self) -> None:
        """Advance playback when an event is due, because there is no room to feed.

        Hundreds of sessions in one process then cost little more than their sockets.
        """
        while True:
            self._command_received.clear()
            self._catch_up()
            self._inject_socket_faults()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._next_step_in_s()):
                    await self._command_received.wait()

    def _next_step_in_s(self) -> float | None:
        due_s = self._playback.due_s()
        recording_s = None if self.recorder is None else RECORDING_STEP_S
        if due_s is None:
            return recording_s
        wait_s = due_s - time.monotonic()
        if recording_s is not None:
            wait_s = min(wait_s, recording_s)
        if self._playback.playing is None:
            return wait_s
        # A fault may cut or stall the socket during the utterance.
        faults = self._faults()
        due = faults.dropped_sockets or faults.black_holes
        return min(wait_s, 1 / self._settings.fps if due else FAULT_POLL_S)

    def _catch_up(self) -> None:
        """Advance playback to now, unless `_play_in_room` does."""
        if self._avatar is None and self._phase in (SimulatedPhase.LIVE, SimulatedPhase.FROZEN):
            self._advance()

    def _advance(self) -> bytes:
        """Advance playback to now: record and return its audio, and send its events."""
        pcm, events = self._playback.advance(time.monotonic())
        if self.recorder is not None:
            self.recorder.add(pcm)
        for event in events:
            self._send_playback_event(event)
        return pcm

    def _send_playback_event(self, event: PlaybackEvent) -> None:
        if self._phase is not SimulatedPhase.LIVE:
            return  # a frozen session was observed to send no event at all
        if isinstance(event, Cleared) and self._avatar is not None:
            self._avatar.clear()
        message = self._dialect.event_for(event, no_speech_events=self._faults().no_speech_events)
        if message is not None:
            self._send(message)

    def _inject_socket_faults(self) -> None:
        faults = self._faults()
        playing, socket = self._playback.playing, self._socket
        if playing is None or socket is None or socket.stalled:
            return
        if ms_of(playing.played_bytes) < faults.drop_after_ms:
            return
        if faults.take("dropped_sockets"):
            socket.drop()
        elif faults.take("black_holes"):
            socket.stall()

    def _playback_times(self) -> PlaybackTimes:
        settings = self._settings
        return PlaybackTimes(
            start_buffer_s=settings.speak_start_buffer_s,
            start_latency_s=settings.speak_start_latency_s,
            interrupt_delay_s=settings.interrupt_delay_s,
            starvation_s=settings.starvation_s,
        )

    # --- ledger -----------------------------------------------------------------------------------

    @property
    def lasted_s(self) -> float:
        """Seconds from start to end, or to now."""
        if self.started_at is None:
            return 0.0
        return (time.monotonic() if self.billing else self._ended_s) - self._started_s

    @property
    def credits_consumed(self) -> Decimal:
        """The charge so far, in tenths of a credit."""
        if self.request.is_sandbox:
            return Decimal(0)
        return pro_rated(self.lasted_s, self._settings.credit_period_s)

    def heard(self) -> AudioRecording | None:
        """The recording up to now; None: there is none, or it was dropped."""
        self._catch_up()
        return None if self.recorder is None else self.recorder.recording()

    def line(self) -> SessionLine:
        """The session as the ledger shows it."""
        self._catch_up()
        return SessionLine(
            session_id=self.session_id,
            avatar_id=str(self.request.avatar_id),
            is_sandbox=self.request.is_sandbox,
            minted_at=self.minted_at,
            started_at=self.started_at,
            ended_at=self.ended_at,
            end_reason=self.end_reason,
            billed_s=0.0 if self.request.is_sandbox else round(self.lasted_s, 3),
            credits_consumed=self.credits_consumed,
            sockets_open=0 if self._socket is None else 1,
            sockets_total=self.sockets_total,
            sockets=self._tape.sockets,
            room=self.room,
            room_kind=self.room_kind,
            commands=self._tape.commands,
            commands_ignored=self.commands_ignored,
            utterances=[utterance_line(each, self._date_of) for each in self._playback.utterances],
        )

    def _date_of(self, at_s: float) -> datetime:
        started_at = self.started_at or self.minted_at
        return started_at + timedelta(seconds=at_s - self._started_s)
