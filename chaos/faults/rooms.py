"""Rooms created on a real LiveKit, with a real avatar in each: none is left behind."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from avatar_sessions import OwnRoom, Session, Video
from chaos.environment.environment import EnvironmentKind
from chaos.fault import Fault, MachineLoad
from chaos.run import FaultRun
from workers.wiring import Role

SPEECH_S: Final = 6.0
VIDEO: Final = Video(quality="low")


async def room_end(run: FaultRun) -> None:
    """One session is ended and one cancelled, both in mid-utterance."""
    ended, cancelled = await _speaking(run, 2)
    at_s = time.time()
    for session in (ended, cancelled):
        run.mark_released(session, at_s)
    await asyncio.gather(run.end(ended), cancelled.cancel())
    await _until_no_room(run, at_s, 20)
    await run.end(cancelled)


async def room_owner_killed(run: FaultRun) -> None:
    """kill -9: the next owner goes on in the same room, which is deleted with the session."""
    (session,) = await _live(run, 1)
    rooms = await run.rooms()
    owner = run.environment.owner
    await run.environment.start_owner()
    speech = run.say_live(session, SPEECH_S)
    await run.until_heard([session], run.mid_utterance_ms())
    await run.environment.kill(owner)
    await run.wait_finished(speech)
    run.expect(await run.rooms() == rooms, "the room stays", f"{rooms} before", session)
    at_s = run.mark_released(session)
    await run.end(session)
    await _until_no_room(run, at_s, 20)


async def room_orphaned(run: FaultRun) -> None:
    """Terminate the workflow and kill the owner: the janitor cleans up session and room."""
    await run.environment.start_worker(Role.JANITOR)
    (session,) = await _speaking(run, 1)
    owner = run.environment.owner
    at_s = await run.terminate(session)
    await run.environment.kill(owner)
    await run.until_stopped(session, 75)
    await _until_no_room(run, at_s, 75)


async def _live(run: FaultRun, count: int) -> list[Session]:
    sessions = await run.start_live_all(count, room=OwnRoom(), video=VIDEO)
    rooms = await run.rooms()
    run.expect(
        len(rooms) == count, "the fault happens", f"{count} sessions have {len(rooms)} rooms"
    )
    return sessions


async def _speaking(run: FaultRun, count: int) -> list[Session]:
    sessions = await _live(run, count)
    for session in sessions:
        run.say_live(session, SPEECH_S).expected = None
    await run.until_heard(sessions, 500)
    return sessions


async def _until_no_room(run: FaultRun, since_s: float, within_s: float) -> None:
    async def none() -> bool:
        return not await run.rooms()

    await run.until(none, within_s, "LiveKit has no room of these sessions")
    run.measure(1000 * (time.time() - since_s))


FAULTS: Final = (
    Fault(
        name="room-end",
        what="end, cancel → rooms deleted",
        inject=room_end,
        bound_ms=5000,
        environment_kind=EnvironmentKind.ROOMS,
        load=MachineLoad.WAITS,
        takes_s=5,
    ),
    Fault(
        name="room-owner-killed",
        what="kill -9, then end → room deleted",
        inject=room_owner_killed,
        bound_ms=5000,
        environment_kind=EnvironmentKind.ROOMS,
        load=MachineLoad.WAITS,
        takes_s=15,
    ),
    Fault(
        name="room-orphaned",
        what="terminate and kill -9 → room deleted",
        inject=room_orphaned,
        bound_ms=60_000,
        environment_kind=EnvironmentKind.ROOMS,
        load=MachineLoad.WAITS,
        takes_s=30,
        settle_s=20,
    ),
)
