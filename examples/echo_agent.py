"""A voice agent that says back what a person says: the whole loop, small enough to read.

    python examples/echo_agent.py SESSION_KEY

    a person's microphone ──▶ the session's room ──▶ Ears ──▶ Endpointer ──▶ EchoAgent
    the avatar in the room ◀── LiveAvatar ◀── the session's owner ◀── live speech ◀──┘

A real agent differs in one place: `EchoAgent._answer` would ask a speech recognizer, a language
model and a voice, and write the voice's PCM as it is made. The rest stays: who talks over the
avatar interrupts it, and the avatar looks attentive while somebody speaks.

Where Temporal is and the seal keys come from the environment: TEMPORAL_ADDRESS (and Temporal's
other standard variables) and AVATAR_SESSIONS_SEAL_KEYS, the same as the workers'. Ends with the
session, or on Ctrl-C or SIGTERM.
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
"""Logged when it hears the room: whoever starts it can wait for that."""
JOIN_AGAIN_AFTER_S: Final = 1.0
ASK_AGAIN_AFTER_S: Final = 2.0
MAX_WAITING_TURNS: Final = 16
MAX_ANSWERS: Final = 3
"""Answers that are being said or wait for it; each holds up to 30 s of sound."""

log = logging.getLogger("echo_agent")


class NoAgentAccess(Exception):
    """The session's room gives agents no access of their own."""


class EchoAgent:
    """Takes turns with the people in the room.

    Args:
        live: the session's live speech, taking PCM mono at `SAMPLE_RATE_HZ`.
        tasks: what its answers run in.
    """

    def __init__(self, live: LiveSpeech, tasks: asyncio.TaskGroup) -> None:
        self._live = live
        self._tasks = tasks
        self._turns: asyncio.Queue[tuple[str, SpeechBegan | SpeechStopped]] = asyncio.Queue(
            MAX_WAITING_TURNS
        )
        self._answers: set[asyncio.Task[None]] = set()
        self._avatar_talks = False

    async def hear(self, who: str, sound: AsyncIterator[Pcm]) -> None:
        """Follow one person's microphone until it goes away."""
        log.info("%s has a microphone", who)
        endpointer = Endpointer(SAMPLE_RATE_HZ)
        async for pcm in sound:
            for event in endpointer.feed(pcm):
                await self._turns.put((who, event))
        unfinished = endpointer.flush()
        if unfinished is not None:
            await self._turns.put((who, unfinished))

    async def take_turns(self) -> None:
        """Fall silent when somebody begins to speak, and answer when they have spoken."""
        while True:
            who, event = await self._turns.get()
            try:
                match event:
                    case SpeechBegan():
                        await self._give_way(who)
                    case SpeechStopped():
                        await self._live.set_pose("idle")
                        self._begin_answer(who, event.pcm)
            except NoAnswer as error:
                log.warning("%s", error)  # the session moves to another owner: go on after it

    async def follow_the_avatar(self) -> None:
        """Know whether it talks, whoever asked it to."""
        async for event in self._live.events():
            match event:
                case AvatarTalking():
                    self._avatar_talks = True
                case AvatarIdle() | AvatarListening():
                    self._avatar_talks = False

    async def _give_way(self, who: str) -> None:
        if self._avatar_talks or self._answers:
            cut = await self._live.interrupt()
            log.info("%s interrupts after %d ms", who, cut.heard_ms)
        await self._live.set_pose("listening")

    def _begin_answer(self, who: str, pcm: Pcm) -> None:
        if len(self._answers) >= MAX_ANSWERS:
            log.warning("%s is not answered: too many answers wait", who)
            return
        answer = self._tasks.create_task(self._answer(who, pcm), name=f"answer {who}")
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

    async def _answer(self, who: str, pcm: Pcm) -> None:
        """Say it back. `write` waits while the avatar has enough to say for the moment."""
        async with self._live.utterance(text=f"echo of {who}") as speech:
            for second in _seconds_of(pcm):
                await speech.write(second)
        heard = await speech.result()
        log.info("%s was answered: %s, %d ms heard", who, heard.outcome, heard.heard_ms)


async def serve(session: Session, avatars: Collection[str]) -> None:
    """Be the agent of a session until it is over.

    Raises (in a group where a task of ours met it):
        SessionNotFound, SessionOver, SessionFailed: there is no such session (any more).
        ReplacedInRoom: another agent serves it.
        AvatarSessionsError: it cannot be reached.
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
    """Be in the room, and come back whenever we were put out or it was replaced."""
    while True:
        try:
            access = await session.attach()
            if access.agent is None:
                raise NoAgentAccess("this session's room gives agents no access of their own")
            ears = RoomAudio(access.agent, agent.hear, avatars)
            await ears.listen(joined=lambda: log.info("%s to %s", READY, session.key))
        except (AccessFailed, CannotJoin, NoAnswer) as error:
            log.warning("%s", error)
        await asyncio.sleep(JOIN_AGAIN_AFTER_S)


async def _until_over(session: Session) -> None:
    while True:
        try:
            report = await session.report()
        except NoAnswer as error:
            log.warning("%s", error)
            await asyncio.sleep(ASK_AGAIN_AFTER_S)
        else:
            log.info("the session is over: %s", report.end_reason)
            return


def _seconds_of(pcm: Pcm) -> Iterator[Pcm]:
    for begin in range(0, len(pcm), SAMPLE_RATE_HZ):
        yield pcm[begin : begin + SAMPLE_RATE_HZ]


# ---------------------------------------------------------------- the program


async def run(session_key: str, avatars: Collection[str]) -> int:
    """Serve one session; the exit status."""
    this = asyncio.current_task()
    assert this is not None
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, this.cancel)
    try:
        sessions = await AvatarSessions.connect()
        await serve(sessions.get(session_key), avatars)
    except asyncio.CancelledError:
        log.info("asked to stop")
    except Exception as error:
        cause = _first_of(error)
        if isinstance(cause, SessionOver | SessionFailed):
            log.info("%s", cause)
        elif isinstance(cause, _TOLD):
            log.error("%s", cause)
            return 1
        else:
            raise
    return 0


_TOLD: Final = (AvatarSessionsError, NoAgentAccess, ReplacedInRoom, SealError, ValueError)
"""What is said in a sentence instead of a traceback."""


def _first_of(error: BaseException) -> BaseException:
    """What it began with: task groups wrap what their tasks raise."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent; see `--help`."""
    parser = argparse.ArgumentParser(description="Says back what is said in a session's room.")
    parser.add_argument("session_key")
    parser.add_argument(
        "--avatar-identity",
        action="append",
        default=[],
        metavar="NAME",
        help="never listen to this participant (besides avatar and heygen)",
    )
    parsed = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
    logging.getLogger("livekit").setLevel(logging.ERROR)  # its native part warns of its own ways
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
