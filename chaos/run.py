"""One injected fault: its sessions, the speech that is spoken in them, and what is measured.

A fault's function gets a `FaultRun`, calls its methods, and records figures with `measure`. The
invariants that hold for every fault are checked afterwards, on what the run has recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import soundfile
from livekit import api
from pydantic import SecretStr

from activities.provider.room_marks import mark_on
from activities.provider.rooms import LiveKitSettings, livekit_api
from avatar_sessions import (
    AvatarSessionsError,
    Clip,
    Session,
    SessionReport,
    SessionRequest,
    UtteranceReport,
)
from avatar_sessions.contract.states import UtteranceOutcome
from avatar_sessions.live.speech import LiveSpeech
from avatar_sessions.live.utterance import LiveUtterance
from chaos.environment.environment import Environment
from chaos.errors import ConditionTimeout
from chaos.position_code import RATE_HZ, SAMPLES_PER_MS, PlayedSpeech, PositionCode
from liveavatar_lite import WAYNE_AVATAR_ID
from liveavatar_simulator import SessionLine

MAX_CONCURRENT: Final = 10
"""How many sessions are started, or ended, at the same time."""
POLL_S: Final = 0.1
MAX_POLL_S: Final = 0.5
"""A poll costs the simulator and the runner a few milliseconds, so long waits poll less often."""
WRITE_S: Final = 0.2
TTS_SPEED: Final = 2.0
"""Speech is produced at twice the speed at which it is played, as a TTS does."""
HEAD_START_S: Final = 0.5
"""How much speech is available immediately."""
END_WITHIN_S: Final = 75.0
ATTACH_WITHIN_S: Final = 75.0
UTTERANCE_MARGIN_S: Final = 90.0
"""How much longer than its length an utterance may take before the run gives up on it."""


@dataclass
class CodedSpeech:
    """An utterance of the run; `speaking` completes with its report."""

    session: Session
    code: PositionCode
    source: str
    speaking: asyncio.Future[UtteranceReport]
    expected: UtteranceOutcome | None = UtteranceOutcome.COMPLETED
    """The required outcome; None: any outcome is allowed."""
    measured: bool = False
    """Whether its longest silence is a figure of the run."""
    report: UtteranceReport | None = None
    error: str | None = None
    played: PlayedSpeech | None = None
    """Set by the checks, from the recordings."""
    played_by: set[str] = field(default_factory=set)
    """The LiveAvatar sessions that played a part of it; set by the checks."""


@dataclass
class SessionUnderTest:
    """A session of the run, and what the checks need to know about it."""

    session: Session
    provider_ids: set[str] = field(default_factory=set)
    speeches: list[CodedSpeech] = field(default_factory=list)
    next_piece: int = 0
    released_at_s: float | None = None
    """Wall-clock time from which it is no longer needed; None: still needed."""
    report: SessionReport | None = None
    must_report: bool = True
    """False: its workflow was terminated, so there is no report."""


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that did not hold."""

    invariant: str
    text: str
    session_key: str | None = None

    def __str__(self) -> str:
        session = f" [session {self.session_key}]" if self.session_key else ""
        return f"{self.invariant}: {self.text}{session}"


class FaultRun:
    """One fault in one environment."""

    def __init__(self, environment: Environment, name: str, seed: int, times: int = 1) -> None:
        self.environment = environment
        self.name = name
        self.times = times
        """How often to inject a fault that comes in a chain."""
        self.injected = 0
        """How often a fault of a chain was injected; other faults need not count."""
        self.piece_ms = 1
        """Resolution of the position code: at 1 ms a session can have 65 s of speech."""
        self.random = random.Random(seed)
        self.subjects: dict[str, SessionUnderTest] = {}
        self.measured_ms: list[float] = []
        self.sequences: list[list[CodedSpeech]] = []
        """Utterances that follow each other without a pause. Where the next LiveAvatar session
        takes over, the pause is measured."""
        self.problems: list[Violation] = []
        self.double_billing_s = 5.0
        """How long two LiveAvatar sessions of one key may be billed at the same time."""
        self._drivers: set[asyncio.Task[None]] = set()
        self.known_before: set[str] = set()
        """LiveAvatar sessions that existed before this run."""

    # ------------------------------------------------------------- sessions

    async def start(self, **request: object) -> Session:
        """Start a session, and return without waiting for its avatar."""
        key = f"{self.name}-{uuid.uuid4().hex[:8]}"
        session = await self.environment.sessions.start(key, session_request(**request))
        self.subjects[key] = SessionUnderTest(session)
        return session

    async def start_live(self, **request: object) -> Session:
        """Start a session, and wait until its avatar is live."""
        session = await self.start(**request)
        await self.attach(session)
        return session

    async def start_live_all(self, count: int, **request: object) -> list[Session]:
        """Start `count` sessions concurrently, and wait until all are live."""
        gate = asyncio.Semaphore(MAX_CONCURRENT)

        async def one() -> Session:
            async with gate:
                return await self.start_live(**request)

        return list(await asyncio.gather(*(one() for _ in range(count))))

    async def end_all(self, sessions: Iterable[Session]) -> None:
        """End the sessions, up to `MAX_CONCURRENT` at a time."""
        gate = asyncio.Semaphore(MAX_CONCURRENT)

        async def one(session: Session) -> None:
            async with gate:
                await self.end(session)

        await asyncio.gather(*(one(session) for session in sessions))

    async def attach(self, session: Session, within_s: float = ATTACH_WITHIN_S) -> None:
        """Wait until the avatar is live, and record which LiveAvatar session is billed."""
        await session.attach(timeout_s=within_s)
        status = await session.status()
        assert status.provider_session_id is not None
        self.subjects[session.key].provider_ids.add(status.provider_session_id)

    async def provider_id(self, session: Session) -> str:
        """The id of its current LiveAvatar session."""
        status = await session.status()
        assert status.provider_session_id is not None, "it has not been started"
        return status.provider_session_id

    def mark_released(self, session: Session, at_s: float | None = None) -> float:
        """Record that the session is no longer needed; returns the wall-clock time."""
        moment = time.time() if at_s is None else at_s
        self.subjects[session.key].released_at_s = moment
        return moment

    async def end(self, session: Session) -> None:
        """End the session and keep its report; a session that does not end is a problem."""
        subject = self.subjects[session.key]
        if subject.released_at_s is None:
            self.mark_released(session)
        try:
            subject.report = await session.end(timeout_s=END_WITHIN_S)
        except AvatarSessionsError as error:
            self.problem("ends", f"{type(error).__name__}: {error}", session)

    async def terminate(self, session: Session) -> float:
        """Terminate its workflow, as an operator would; returns the wall-clock time."""
        subject = self.subjects[session.key]
        subject.must_report = False
        moment = self.mark_released(session)
        await self.environment.client.get_workflow_handle(session.workflow_id).terminate("chaos")
        return moment

    # --------------------------------------------------------------- speech

    def say_live(
        self, session: Session, seconds: float, speaker: LiveSpeech | None = None
    ) -> CodedSpeech:
        """Speak live in a task; without a speaker, connect one for this utterance."""
        code = self._code(session, seconds)
        speaking = _say_live(session, code) if speaker is None else _say_utterance(speaker, code)
        return self._speech(session, code, "live", speaking)

    @asynccontextmanager
    async def speakers(self, sessions: Iterable[Session]) -> AsyncIterator[list[LiveSpeech]]:
        """Connect a speaker to each session; it stays connected when the owner changes."""
        async with contextlib.AsyncExitStack() as stack:
            opening = [stack.enter_async_context(session.live()) for session in sessions]
            yield list(await asyncio.gather(*opening))

    async def say_clip(self, session: Session, seconds: float) -> CodedSpeech:
        """Speak a clip, and await its end in a task."""
        code = self._code(session, seconds)
        name = f"coded-{code.first_piece}-{code.pieces}-{code.piece_samples}.wav"
        path = self.environment.shared_servers.clip_folder / name
        if not path.exists():
            await asyncio.to_thread(soundfile.write, path, code.samples(), RATE_HZ, "PCM_16")
        report = session.speak(Clip(file=name), ttl_s=120, timeout_s=seconds + UTTERANCE_MARGIN_S)
        return self._speech(session, code, "clip", report)

    def say_sequence(self, session: Session, seconds: float, count: int) -> list[CodedSpeech]:
        """Speak live utterances without a pause, as an agent that streams its sentences."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[UtteranceReport]] = [
            loop.create_future() for _ in range(count)
        ]
        codes = [self._code(session, seconds) for _ in futures]
        sequence = [
            self._speech(session, code, "live", future)
            for code, future in zip(codes, futures, strict=True)
        ]
        self.sequences.append(sequence)
        driver = asyncio.create_task(_say_sequence(session, codes, futures), name="say sequence")
        self._drivers.add(driver)
        driver.add_done_callback(self._drivers.discard)
        return sequence

    def _code(self, session: Session, seconds: float) -> PositionCode:
        subject = self.subjects[session.key]
        piece_ms = self.piece_ms if seconds <= 30 else max(3, self.piece_ms)
        piece_samples = piece_ms * SAMPLES_PER_MS
        pieces = round(seconds * RATE_HZ / piece_samples)
        code = PositionCode(subject.next_piece, pieces, piece_samples)
        subject.next_piece = code.end_piece
        return code

    def _speech(
        self,
        session: Session,
        code: PositionCode,
        source: str,
        speaking: Awaitable[UtteranceReport],
    ) -> CodedSpeech:
        task = asyncio.ensure_future(speaking)
        speech = CodedSpeech(session, code, source, task)
        self.subjects[session.key].speeches.append(speech)
        return speech

    async def measure_silences(self, *speeches: CodedSpeech) -> None:
        """Wait until the utterances are over, and measure the longest silence in each."""
        for speech in speeches:
            speech.measured = True
        await self.wait_finished(*speeches)

    async def wait_finished(self, *speeches: CodedSpeech) -> None:
        """Wait until the utterances are over; one that does not end in time is a problem."""
        longest_ms = max(one.code.length_ms for one in speeches)
        await asyncio.wait(
            {one.speaking for one in speeches}, timeout=longest_ms / 1000 + UTTERANCE_MARGIN_S
        )
        for speech in speeches:
            if not speech.speaking.done():
                speech.speaking.cancel()
                self.problem("speech", "an utterance did not end", speech.session)
                continue
            if speech.speaking.cancelled():
                speech.error = "its speaker was cancelled"
                continue
            error = speech.speaking.exception()
            if error is None:
                speech.report = speech.speaking.result()
            else:
                speech.error = f"{type(error).__name__}: {error}"

    async def until_heard(self, sessions: list[Session], ms: float, within_s: float = 30) -> None:
        """Wait until so many milliseconds of each session's current utterance were heard.

        Raises:
            ConditionTimeout: they were not heard within the bound.
        """
        ids = {one for session in sessions for one in self.subjects[session.key].provider_ids}
        give_up_s = time.monotonic() + within_s
        while (heard_ms := _heard_so_far_ms(await self.lines(ids))) < ms:
            if time.monotonic() > give_up_s:
                raise ConditionTimeout(
                    f"not within {within_s:g} s: {ms:.0f} ms of an utterance heard"
                )
            # Speech is played in real time: no need to poll before it can have been played.
            left_s = (ms - heard_ms) / 1000 if heard_ms else 2 * POLL_S
            await asyncio.sleep(max(POLL_S, left_s))

    def mid_utterance_ms(self) -> float:
        """A random position between 2 and 3 s into an utterance."""
        return 2000 + 1000 * self.random.random()

    # -------------------------------------------------------------- waiting

    async def until(
        self, condition: Callable[[], Awaitable[bool]], within_s: float, what: str
    ) -> float:
        """Wait until a condition holds; returns the seconds it took.

        Raises:
            ConditionTimeout: not within the bound.
        """
        began_s = time.monotonic()
        while not await condition():
            waited_s = time.monotonic() - began_s
            if waited_s > within_s:
                raise ConditionTimeout(f"not within {within_s:g} s: {what}")
            await asyncio.sleep(min(max(POLL_S, waited_s / 10), MAX_POLL_S))
        return time.monotonic() - began_s

    async def until_stopped(self, session: Session, within_s: float) -> float:
        """Wait until all LiveAvatar sessions of a session have ended; returns the wall-clock time.

        Raises:
            ConditionTimeout: not within the bound.
        """
        ids = self.subjects[session.key].provider_ids

        async def stopped() -> bool:
            return all(line.ended_at is not None for line in await self.lines(ids))

        await self.until(stopped, within_s, "LiveAvatar has stopped the session")
        ends = [line.ended_at.timestamp() for line in await self.lines(ids) if line.ended_at]
        return max(ends)

    async def until_owned_beyond(
        self, session: Session, epoch: tuple[int, int], within_s: float
    ) -> float:
        """Wait until an owner with a later epoch is ready; returns the wall-clock time."""

        async def ready() -> bool:
            with contextlib.suppress(AvatarSessionsError):
                status = await session.status(timeout_s=3)
                return status.state == "LIVE" and (status.epoch or (0, 0)) > epoch
            return False

        await self.until(ready, within_s, "another owner is ready")
        return time.time()

    async def lines(self, ids: set[str]) -> list[SessionLine]:
        """The ledger's lines of these LiveAvatar sessions."""
        return await self.environment.simulator.lines(ids)

    async def new_lines(self) -> list[SessionLine]:
        """The ledger's lines of all LiveAvatar sessions of this run."""
        return await self.environment.simulator.ledger(leave_out=self.known_before)

    async def rooms(self) -> list[str]:
        """The rooms on LiveKit that sessions of this environment created."""
        livekit = self.environment.livekit
        server = LiveKitSettings(livekit.url, livekit.api_key, SecretStr(livekit.api_secret))
        async with livekit_api(server) as calls:
            listed = await calls.room.list_rooms(api.ListRoomsRequest())
        marks = {room.name: mark_on(room.metadata) for room in listed.rooms}
        return [
            name for name, mark in marks.items() if mark and mark.namespace == self.environment.name
        ]

    async def until_nothing_starts(self, within_s: float) -> None:
        """Wait until every LiveAvatar session minted in this run has started."""

        async def begun() -> bool:
            return all(one.started_at is not None for one in await self.new_lines())

        with contextlib.suppress(ConditionTimeout):  # an abandoned start stays minted
            await self.until(begun, within_s, "all minted sessions have started")

    @asynccontextmanager
    async def no_starts(self) -> AsyncIterator[None]:
        """Measure in the block: no process of any environment starts."""
        async with self.environment.shared_servers.start_lock.no_starts():
            yield

    # ------------------------------------------------------------- findings

    def measure(self, ms: float) -> None:
        """Record a figure that the fault's bound applies to."""
        self.measured_ms.append(ms)

    def problem(self, invariant: str, text: str, session: Session | None = None) -> None:
        """Record that an invariant does not hold."""
        self.problems.append(Violation(invariant, text, session.key if session else None))

    def expect(
        self, holds: bool, invariant: str, text: str, session: Session | None = None
    ) -> None:
        """Record a problem unless this holds."""
        if not holds:
            self.problem(invariant, text, session)

    @asynccontextmanager
    async def injecting(self, **faults: object) -> AsyncIterator[None]:
        """Set the simulator's faults for the duration of the block."""
        await self.environment.simulator.set_faults(**faults)
        try:
            yield
        finally:
            await self.environment.simulator.set_faults()


def _heard_so_far_ms(lines: list[SessionLine]) -> float:
    """The least that was heard of the current utterances; 0 while a session is silent."""
    now = [one.utterances[-1] for one in lines if one.utterances]
    if not now or len(now) < len(lines):
        return 0.0
    return min(one.played_ms if one.outcome in ("playing", "starved") else 0.0 for one in now)


async def _say_live(session: Session, code: PositionCode) -> UtteranceReport:
    async with session.live() as live:
        return await _say_utterance(live, code)


async def _say_utterance(live: LiveSpeech, code: PositionCode) -> UtteranceReport:
    async with live.utterance(text="coded speech") as speech:
        await _say(speech, code)
    return await speech.result()


async def _say_sequence(
    session: Session, codes: list[PositionCode], futures: list[asyncio.Future[UtteranceReport]]
) -> None:
    try:
        async with session.live() as live:
            sent: list[LiveUtterance] = []
            for code in codes:
                async with live.utterance(text="coded speech") as speech:
                    await _say(speech, code)
                sent.append(speech)
            for speech, future in zip(sent, futures, strict=True):
                report = await speech.result()
                if not future.done():
                    future.set_result(report)
    except AvatarSessionsError as error:
        for future in futures:
            if not future.done():
                future.set_exception(error)
    finally:
        for future in futures:
            future.cancel()


async def _say(speech: LiveUtterance, code: PositionCode) -> None:
    """Write by the clock, as a TTS produces: after back-pressure more speech is ready to send."""
    samples = code.samples()
    step = round(RATE_HZ * WRITE_S)
    began_s = time.monotonic()
    for at in range(0, len(samples), step):
        ready_at_s = began_s + (at / RATE_HZ - HEAD_START_S) / TTS_SPEED
        await asyncio.sleep(max(0.0, ready_at_s - time.monotonic()))
        await speech.write(np.ascontiguousarray(samples[at : at + step]))


def session_request(**request: object) -> SessionRequest:
    return SessionRequest.model_validate(
        {
            "avatar_id": WAYNE_AVATAR_ID,
            "max_duration_s": 1200,
            "command_ttl_s": 120,
            "start_timeout_s": 120,
            **request,
        }
    )
