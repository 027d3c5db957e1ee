"""A voice agent that repeats what a person says: the complete loop, small enough to read.

    python examples/echo_agent.py SESSION_KEY

    a person's microphone ──▶ the session's room ──▶ RoomAudio ──▶ Endpointer ──▶ EchoAgent
    the avatar in the room ◀── LiveAvatar ◀── the session's owner ◀── live speech ◀───────┘

A real agent differs in one place: `EchoAgent._answer` would call a speech recognizer, a language
model and text to speech, and write PCM as it is synthesized. The rest stays: a person who talks
over the avatar interrupts it, and the avatar takes the attentive pose while a person speaks.

It reads TEMPORAL_ADDRESS (and Temporal's other standard variables) and AVATAR_SESSIONS_SEAL_KEYS,
with the workers' values. It ends with the session, or on Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from typing import Final, NoReturn

from avatar_sessions import (
    AccessFailed,
    AvatarSessions,
    AvatarSessionsError,
    LiveSpeech,
    NoAnswer,
    SealError,
    Session,
    SessionFailed,
    SessionOver,
)
from avatar_sessions.live.events import AvatarIdle, AvatarListening, AvatarTalking
from examples.voice.endpointing import Endpointer, Pcm, SpeechBegan, SpeechStopped
from examples.voice.room_audio import (
    AVATAR_IDENTITIES,
    SAMPLE_RATE_HZ,
    CannotJoin,
    ReplacedInRoom,
    RoomAudio,
)

READY: Final = "echo agent listening"
"""Logged when the agent receives the room's audio, so that its starter can wait for it."""
REJOIN_AFTER_S: Final = 1.0
RETRY_AFTER_S: Final = 2.0
MAX_WAITING_TURNS: Final = 16
MAX_ANSWERS: Final = 3
"""Maximum number of answers that play or wait; each holds up to 30 s of audio."""

log = logging.getLogger("echo_agent")


class NoAgentAccess(Exception):
    """The session's room has no access for agents."""


class EchoAgent:
    """Takes turns with the people in the room.

    Args:
        live: the session's live speech, with mono PCM at `SAMPLE_RATE_HZ`.
        tasks: the task group for its answers.
    """

    def __init__(self, live: LiveSpeech, tasks: asyncio.TaskGroup) -> None:
        self._live = live
        self._tasks = tasks
        self._turns: asyncio.Queue[tuple[str, SpeechBegan | SpeechStopped]] = asyncio.Queue(
            MAX_WAITING_TURNS
        )
        self._answers: set[asyncio.Task[None]] = set()
        self._avatar_talks = False

    async def hear(self, who: str, audio: AsyncIterator[Pcm]) -> None:
        """Process one person's microphone until its audio ends."""
        log.info("%s has a microphone", who)
        endpointer = Endpointer(SAMPLE_RATE_HZ)
        async for pcm in audio:
            for event in endpointer.feed(pcm):
                await self._turns.put((who, event))
        unfinished = endpointer.flush()
        if unfinished is not None:
            await self._turns.put((who, unfinished))

    async def take_turns(self) -> None:
        """Interrupt the avatar when a person begins to speak, and answer when they have stopped."""
        while True:
            who, event = await self._turns.get()
            try:
                match event:
                    case SpeechBegan():
                        await self._interrupt(who)
                    case SpeechStopped():
                        await self._live.set_pose("idle")
                        self._begin_answer(who, event.pcm)
            except NoAnswer as error:
                log.warning("%s", error)  # the session moves to another owner: continue afterwards

    async def follow_the_avatar(self) -> None:
        """Track whether the avatar talks, also when another client made it."""
        async for event in self._live.events():
            match event:
                case AvatarTalking():
                    self._avatar_talks = True
                case AvatarIdle() | AvatarListening():
                    self._avatar_talks = False

    async def _interrupt(self, who: str) -> None:
        if self._avatar_talks or self._answers:
            interrupted = await self._live.interrupt()
            log.info("%s interrupts after %d ms", who, interrupted.heard_ms)
        await self._live.set_pose("listening")

    def _begin_answer(self, who: str, pcm: Pcm) -> None:
        if len(self._answers) >= MAX_ANSWERS:
            log.warning("%s is not answered: too many answers are waiting", who)
            return
        answer = self._tasks.create_task(self._answer(who, pcm), name=f"answer {who}")
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

    async def _answer(self, who: str, pcm: Pcm) -> None:
        """Repeat the speech. `write` waits while enough audio is buffered."""
        async with self._live.utterance(text=f"echo of {who}") as speech:
            for second in _seconds_of(pcm):
                await speech.write(second)
        report = await speech.result()
        log.info("%s was answered: %s, %d ms heard", who, report.outcome, report.heard_ms)


async def serve(session: Session, avatars: Collection[str]) -> None:
    """Serve as the session's agent until the session is over.

    Raises (in an exception group if a task raised it):
        SessionNotFound, SessionOver, SessionFailed: there is no such session, or it has ended.
        ReplacedInRoom: another agent serves the session.
        AvatarSessionsError: the session cannot be reached.
    """
    async with (
        session.live(sample_rate_hz=SAMPLE_RATE_HZ) as live,
        asyncio.TaskGroup() as tasks,
    ):
        agent = EchoAgent(live, tasks)
        work = [
            tasks.create_task(agent.follow_the_avatar(), name="follow the avatar"),
            tasks.create_task(agent.take_turns(), name="take turns"),
            tasks.create_task(_stay_in_room(session, agent, avatars), name="stay in the room"),
        ]
        await _until_over(session)
        for task in work:
            task.cancel()


async def _stay_in_room(session: Session, agent: EchoAgent, avatars: Collection[str]) -> None:
    """Receive the room's audio, and rejoin when the connection or the room was replaced."""
    while True:
        try:
            access = await session.attach()
            if access.agent is None:
                raise NoAgentAccess("this session's room has no access for agents")
            room_audio = RoomAudio(access.agent, agent.hear, avatars)
            await room_audio.listen(joined=lambda: log.info("%s to %s", READY, session.key))
        except (AccessFailed, CannotJoin, NoAnswer) as error:
            log.warning("%s", error)
        await asyncio.sleep(REJOIN_AFTER_S)


async def _until_over(session: Session) -> None:
    while True:
        try:
            report = await session.report()
        except NoAnswer as error:
            log.warning("%s", error)
            await asyncio.sleep(RETRY_AFTER_S)
        else:
            log.info("the session is over: %s", report.end_reason)
            return


def _seconds_of(pcm: Pcm) -> Iterator[Pcm]:
    for begin in range(0, len(pcm), SAMPLE_RATE_HZ):
        yield pcm[begin : begin + SAMPLE_RATE_HZ]


# ---------------------------------------------------------------- the program


async def run(session_key: str, avatars: Collection[str]) -> int:
    """Serve one session; returns the exit status."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        sessions = await AvatarSessions.connect()
        await serve(sessions.get(session_key), avatars)
    except asyncio.CancelledError:
        log.info("asked to stop")
    except Exception as error:
        cause = _root_error(error)
        if isinstance(cause, SessionOver | SessionFailed):
            log.info("%s", cause)
        elif isinstance(cause, _REPORTED):
            log.error("%s", cause)
            return 1
        else:
            raise
    return 0


_REPORTED: Final = (AvatarSessionsError, NoAgentAccess, ReplacedInRoom, SealError, ValueError)
"""Errors that are logged as a sentence, without a traceback."""


def _root_error(error: BaseException) -> BaseException:
    """The first error within exception groups, which task groups raise."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent; see `--help`."""
    parser = argparse.ArgumentParser(description="Repeats what people say in a session's room.")
    parser.add_argument("session_key")
    parser.add_argument(
        "--avatar-identity",
        action="append",
        default=[],
        metavar="NAME",
        help="identity of an avatar to ignore (besides avatar and heygen)",
    )
    parsed = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
    logging.getLogger("livekit").setLevel(logging.ERROR)  # its native part logs internal warnings
    return asyncio.run(run(parsed.session_key, {*AVATAR_IDENTITIES, *parsed.avatar_identity}))


def leave(status: int) -> NoReturn:
    """End the process with this status, without the interpreter's teardown.

    Threads of the Temporal and LiveKit SDKs' native parts go on for a moment after their
    connections are closed. A thread that enters Python while the interpreter is torn down aborts
    the process: SIGABRT instead of the status.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    leave(main())
