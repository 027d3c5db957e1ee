"""One simulated session: its phase, its limits, what is said in it, and who is connected to it.

It reaches its surroundings through two small interfaces: a `SimulatedAvatar`, which shows and
sounds, and a `SimulatedSocket`, which takes events. REST, WebSocket and LiveKit are elsewhere.
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

LOOK_S: Final = 0.5
"""How often an avatar that talks and is not seen looks for new faults."""
RECORD_LOOK_S: Final = 2.0
"""How much sound is recorded at once, at most, where nobody is seen."""


class SimulatedPhase(StrEnum):
    """Where a session is."""

    MINTED = "minted"
    """A token exists; nothing runs, nothing is billed."""
    STARTING = "starting"
    """The room is being made."""
    LIVE = "live"
    FROZEN = "frozen"
    """Its time is over and billing has ended, but socket and avatar are still there: what paid
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


class AvatarStayedOut(Exception):
    """The avatar could not join its room."""


class SimulatedAvatar(Protocol):
    """Somebody in a room who can be seen and heard."""

    async def play(self, pcm: bytes, pose: AgentState) -> None:
        """Show and sound the time that has just passed."""

    def hush(self) -> None:
        """Drop what was given and not yet heard."""

    async def leave(self) -> None:
        """Leave the room; a room that was made for the session is deleted.

        Bounded, safe to repeat.
        """


class SimulatedSocket(Protocol):
    """A client's connection to the session.

    Attributes:
        number: which of the session's sockets it is, from 1; set when it is attached.
    """

    number: int

    def send(self, event: ServerEvent) -> None:
        """Queue an event; never waits."""

    async def close(self, code: int, reason: str = "") -> None:
        """Say goodbye and close. Bounded."""

    def drop(self) -> None:
        """Cut the connection without a goodbye."""

    @property
    def silent(self) -> bool:
        """Whether it has fallen silent."""

    def fall_silent(self) -> None:
        """Read and send nothing more, and stay open."""


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
        """Possession of the URL that holds it is the credential."""
        self.request = request
        self.max_duration_s = max_duration_s
        self.minted_at = datetime.now(UTC)
        self.started_at: datetime | None = None
        """Set when the session becomes live: billing begins."""
        self.ended_at: datetime | None = None
        """Set when billing ends: at the end, or when it freezes."""
        self.end_reason: SessionEndReason | None = None
        self.room: str | None = None
        self.room_kind: RoomKind = "none"
        self.record: AudioRecorder | None = None
        """What was heard; None: it is not recorded, or no longer kept."""
        self.arrived = asyncio.Event()
        """Set when the avatar is in its room, or none is to come."""
        self.commands_ignored = 0
        self.sockets_total = 0
        self._phase = SimulatedPhase.MINTED
        self._settings = settings
        self._faults = faults
        self._signals = EventDialect(settings.speech_signals, settings.correlation)
        self._account = account
        self._credits_charged = Decimal(0)
        self._avatar: SimulatedAvatar | None = None
        self._socket: SimulatedSocket | None = None
        self._tape = Tape(settings.tape_length)
        self._tasks: list[asyncio.Task[None]] = []
        self._arrival: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._started_s = self._active_s = self._alone_since_s = self._ended_s = time.monotonic()
        self._periods_charged = 0
        self._playback = SimulatedPlayback(self._playback_times(), now_s=self._started_s)
        self._asked = asyncio.Event()
        """Set by each command: what was due may be due at another time now."""

    # --- life -------------------------------------------------------------------------------------

    @property
    def phase(self) -> SimulatedPhase:
        """Where the session is."""
        return self._phase

    @property
    def billing(self) -> bool:
        """Started and not ended."""
        return self.started_at is not None and self.ended_at is None

    def become(self, phase: SimulatedPhase) -> None:
        """Move on.

        Raises:
            RuntimeError: this phase cannot follow the present one.
        """
        if phase not in _LEGAL[self._phase]:
            raise RuntimeError(f"a session that is {self._phase} cannot become {phase}")
        self._phase = phase

    def go_live(
        self, avatar: SimulatedAvatar | None, arrival: Coroutine[Any, Any, None] | None
    ) -> None:
        """Billing begins, and the avatar is sent into its room.

        LiveAvatar's own order: the session's details are answered, then the avatar comes
        (lifecycle page). Sockets become connected when it is there.

        Args:
            avatar: who shows and sounds; None: nobody.
            arrival: brings the avatar into the room; a failure ends the session.
        """
        self.become(SimulatedPhase.LIVE)
        self.started_at = datetime.now(UTC)
        now_s = time.monotonic()
        self._started_s = self._active_s = self._alone_since_s = now_s
        seen = avatar is not None
        if self._settings.record_heard_s > 0:
            self.record = AudioRecorder(self.started_at, self._settings.record_heard_s)
        audible = seen or self.record is not None
        self._playback = SimulatedPlayback(self._playback_times(), now_s=now_s, audible=audible)
        self._avatar = avatar
        name = f"session-{self.session_id[:8]}"
        play = self._play() if seen else self._play_unseen()
        self._tasks = [
            asyncio.create_task(play, name=f"{name}-play"),
            asyncio.create_task(self._watch_limits(), name=f"{name}-limits"),
        ]
        if arrival is None:
            self.arrived.set()
        else:
            self._arrival = asyncio.create_task(self._arrive(arrival), name=f"{name}-arrive")
        for task in self._tasks:
            task.add_done_callback(self._check_task)

    async def _arrive(self, arrival: Coroutine[Any, Any, None]) -> None:
        try:
            await arrival
        except AvatarStayedOut as error:
            log.warning("session %s ends: its avatar could not join: %s", self.session_id, error)
            self._leave_by_itself(SessionEndReason.SERVER_ERROR)
        else:
            self.arrived.set()

    def _check_task(self, task: asyncio.Task[None]) -> None:
        """A session whose playback failed must not go on billing in silence."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("%s failed, the session ends", task.get_name(), exc_info=error)
            self._leave_by_itself(SessionEndReason.SERVER_ERROR)

    async def end(self, reason: SessionEndReason) -> None:
        """End the session and wait until all of it is gone.

        Safe to repeat and to call from several places.
        """
        if self._ending is None:
            self._ending = asyncio.create_task(
                self._end(reason), name=f"session-{self.session_id[:8]}-end"
            )
        await asyncio.shield(self._ending)

    async def _end(self, reason: SessionEndReason) -> None:
        self._catch_up()
        self._stop_billing(reason)
        self.become(SimulatedPhase.ENDED)
        self._playback.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._arrival is not None:
            # A join that is cut short can leave a ghost in the room: it ends by its own limit.
            await asyncio.wait({self._arrival})
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
        """Somebody showed that the session is wanted: the idle window begins anew."""
        self._active_s = time.monotonic()

    async def _watch_limits(self) -> None:
        """End the session when one of its limits is over.

        The limits move, so it looks again when one comes up.
        """
        while True:
            deadline_s, reason = min(self._deadlines(), key=lambda each: each[0])
            wait_s = deadline_s - time.monotonic()
            if wait_s > 0:
                # A new deadline may come before this one (a socket goes): look at least twice a
                # second.
                await asyncio.sleep(min(wait_s, 0.5))
            elif reason is None:
                self._charge_period()
            elif reason is SessionEndReason.MAX_DURATION_REACHED and self._freezes():
                self.freeze()
            else:
                self._leave_by_itself(reason)
                return

    def _deadlines(self) -> list[tuple[float, SessionEndReason | None]]:
        settings = self._settings
        deadlines: list[tuple[float, SessionEndReason | None]] = [
            (self._active_s + settings.idle_timeout_s, SessionEndReason.IDLE_TIMEOUT)
        ]
        if self._socket is None and not self.request.has_connector:
            zombie_s = self._alone_since_s + settings.zombie_timeout_s
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
        """Billing ends and nothing more is acknowledged, told or heard; socket and avatar stay.

        Only from phase live.
        """
        self._catch_up()
        self._stop_billing(SessionEndReason.MAX_DURATION_REACHED)
        self.become(SimulatedPhase.FROZEN)
        self._playback.cut()
        log.info("session %s is frozen", self.session_id)

    def _leave_by_itself(self, reason: SessionEndReason) -> None:
        if self._ending is None:
            self._ending = asyncio.create_task(
                self._end(reason), name=f"session-{self.session_id[:8]}-end"
            )

    def _charge_period(self) -> None:
        self._periods_charged += 1
        if not self._charge(Decimal(self._periods_charged)):
            self._leave_by_itself(SessionEndReason.NO_CREDITS)

    def _charge(self, total: Decimal) -> bool:
        left = self._account.charge(max(total - self._credits_charged, Decimal(0)))
        self._credits_charged = max(total, self._credits_charged)
        return left

    # --- sockets ----------------------------------------------------------------------------------

    def opens_with(self, key: str) -> bool:
        """Whether this is the key of the session's ``ws_url``."""
        return secrets.compare_digest(self.socket_key.encode(), key.encode())

    @property
    def accepts_sockets(self) -> bool:
        """Whether the ``ws_url`` may be opened now."""
        if self._phase not in (SimulatedPhase.LIVE, SimulatedPhase.FROZEN):
            return False
        return self.sockets_total == 0 or self._settings.reconnect

    def attach(self, socket: SimulatedSocket) -> SimulatedSocket | None:
        """Take a client's connection; the one it replaces is handed back to be closed."""
        replaced, self._socket = self._socket, socket
        self.sockets_total += 1
        socket.number = self.sockets_total
        self._tape.socket_opened(socket.number)
        return replaced

    def detach(self, socket: SimulatedSocket) -> None:
        """A connection is gone.

        What was said goes on; unless somebody returns the session is a zombie.
        """
        self._tape.socket_closed(socket.number)
        if self._socket is socket:
            self._socket = None
            self._alone_since_s = time.monotonic()

    def drop_socket(self) -> bool:
        """Cut the client's connection; whether there was one."""
        if self._socket is None:
            return False
        self._socket.drop()
        return True

    def _send(self, event: ServerEvent) -> None:
        if self._socket is not None:
            self._socket.send(event)

    # --- commands ---------------------------------------------------------------------------------

    def handle(self, command: Command, socket: SimulatedSocket) -> None:
        """Do what a client asks by this socket.

        Its acknowledgement goes to whoever is connected.
        """
        self.touch()
        after_s = time.monotonic() - self._started_s
        self._tape.command(command, after_s=after_s, socket=socket.number)
        if self._phase is not SimulatedPhase.LIVE:
            return
        self._catch_up()
        self._asked.set()
        now_s = time.monotonic()
        match command:
            case AgentSpeak(audio=audio, event_id=event_id):
                utterance = self._playback.append(audio, event_id, now_s=now_s)
                self._send(self._signals.appended(event_id, utterance))
            case AgentSpeakEnd(event_id=event_id, audio=last):
                sealed = self._playback.seal(event_id, last, now_s=now_s)
                self._send(self._signals.committed(event_id, sealed))
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

    async def _play(self) -> None:
        """Let time pass, frame by frame: what happened goes to the client, what is heard and seen
        to the room."""
        frame_s = 1 / self._settings.fps
        next_s = time.monotonic()
        while True:
            next_s += frame_s
            late_s = time.monotonic() - next_s
            await asyncio.sleep(max(-late_s, 0))
            if late_s > 1:
                next_s = time.monotonic()  # the machine slept: do not run after what is gone
            pcm = self._pass_time()
            self._break_socket_if_asked()
            if self._avatar is not None and self.arrived.is_set():
                await self._avatar.play(pcm, self._playback.pose)

    async def _play_unseen(self) -> None:
        """The same where there is nobody to show: time passes when something is due, not before.

        So hundreds of sessions in one process cost little more than their sockets.
        """
        while True:
            self._asked.clear()
            self._catch_up()
            self._break_socket_if_asked()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._nothing_due_for_s()):
                    await self._asked.wait()

    def _nothing_due_for_s(self) -> float | None:
        due_s = self._playback.due_s()
        record_s = None if self.record is None else RECORD_LOOK_S
        if due_s is None:
            return record_s
        wait_s = due_s - time.monotonic()
        if record_s is not None:
            wait_s = min(wait_s, record_s)
        if self._playback.playing is None:
            return wait_s
        # A socket may have to be broken in the middle of what is heard.
        faults = self._faults()
        asked = faults.dropped_sockets or faults.black_holes
        return min(wait_s, 1 / self._settings.fps if asked else LOOK_S)

    def _catch_up(self) -> None:
        """Let time pass up to now where nobody watches; `_play` does where somebody does."""
        if self._avatar is None and self._phase in (SimulatedPhase.LIVE, SimulatedPhase.FROZEN):
            self._pass_time()

    def _pass_time(self) -> bytes:
        """Up to now: what was heard meanwhile is recorded and returned, what happened is told."""
        pcm, events = self._playback.advance(time.monotonic())
        if self.record is not None:
            self.record.add(pcm)
        for event in events:
            self._tell(event)
        return pcm

    def _tell(self, event: PlaybackEvent) -> None:
        if self._phase is not SimulatedPhase.LIVE:
            return  # a frozen session was heard to say nothing, not even that it is silent now
        if isinstance(event, Cleared) and self._avatar is not None:
            self._avatar.hush()
        message = self._signals.of(event, no_speech_events=self._faults().no_speech_events)
        if message is not None:
            self._send(message)

    def _break_socket_if_asked(self) -> None:
        faults = self._faults()
        heard, socket = self._playback.playing, self._socket
        if heard is None or socket is None or socket.silent:
            return
        if ms_of(heard.played_bytes) < faults.drop_after_ms:
            return
        if faults.take("dropped_sockets"):
            socket.drop()
        elif faults.take("black_holes"):
            socket.fall_silent()

    def _playback_times(self) -> PlaybackTimes:
        settings = self._settings
        return PlaybackTimes(
            start_buffer_s=settings.speak_start_buffer_s,
            start_latency_s=settings.speak_start_latency_s,
            interrupt_delay_s=settings.interrupt_delay_s,
            starvation_s=settings.starvation_s,
        )

    # --- account ----------------------------------------------------------------------------------

    @property
    def lasted_s(self) -> float:
        """Seconds from start to end, or so far."""
        if self.started_at is None:
            return 0.0
        return (time.monotonic() if self.billing else self._ended_s) - self._started_s

    @property
    def credits_consumed(self) -> Decimal:
        """Charged for the time so far, by the tenth of a credit."""
        if self.request.is_sandbox:
            return Decimal(0)
        return pro_rated(self.lasted_s, self._settings.credit_period_s)

    def heard(self) -> AudioRecording | None:
        """What was heard up to now; None: it is not recorded, or no longer kept."""
        self._catch_up()
        return None if self.record is None else self.record.heard()

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
