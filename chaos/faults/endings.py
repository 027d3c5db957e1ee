"""Sessions are ended, cancelled or terminated: how long until LiveAvatar has stopped them."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from chaos.fault import BOTH, Fault, MachineLoad
from chaos.run import FaultRun
from workers.wiring import Role

SESSIONS: Final = 3


async def end(run: FaultRun) -> None:
    """End two sessions that speak and one that is silent."""
    sessions = await run.start_live_all(SESSIONS)
    speeches = [run.say_live(sessions[0], 8), await run.say_clip(sessions[1], 8)]
    for speech in speeches:
        speech.expected = None
    await run.until_heard(sessions[:2], 500)
    asked_s = [run.mark_released(session) for session in sessions]
    await asyncio.gather(*(run.end(session) for session in sessions))
    for session, at_s in zip(sessions, asked_s, strict=True):
        run.measure(1000 * (await run.until_stopped(session, 5) - at_s))
    await run.wait_finished(*speeches)


async def cancel(run: FaultRun) -> None:
    """Cancel the workflow in mid-utterance."""
    session = await run.start_live()
    speech = run.say_live(session, 8)
    speech.expected = None
    await run.until_heard([session], 500)
    at_s = run.mark_released(session)
    await session.cancel()
    run.measure(1000 * (await run.until_stopped(session, 20) - at_s))
    await run.end(session)
    await run.wait_finished(speech)


async def terminate(run: FaultRun) -> None:
    """Terminate the workflow: only the owner is left to clean up."""
    session = await run.start_live()
    speech = run.say_live(session, 30)
    speech.expected = None
    await run.until_heard([session], 500)
    await asyncio.sleep(run.random.uniform(0, 3))  # anywhere between two heartbeats
    at_s = await run.terminate(session)
    run.measure(1000 * (await run.until_stopped(session, 30) - at_s))
    await run.wait_finished(speech)


async def owner_and_workflow_killed(run: FaultRun) -> None:
    """Terminate the workflow and kill the owner: only the janitor is left to clean up."""
    await run.environment.start_worker(Role.JANITOR)
    session = await run.start_live()
    owner = run.environment.owner
    speech = run.say_live(session, 8)
    speech.expected = None
    await run.until_heard([session], 500)
    at_s = await run.terminate(session)
    await run.environment.kill(owner)
    run.measure(1000 * (await run.until_stopped(session, 75) - at_s))
    await run.wait_finished(speech)


async def nothing(run: FaultRun) -> None:
    """No fault: sessions speak and end, and all invariants hold."""
    began_s = time.monotonic()
    sessions = await run.start_live_all(2)
    await run.measure_silences(*(run.say_live(session, 3) for session in sessions))
    await run.measure_silences(*[await run.say_clip(session, 2) for session in sessions])
    await asyncio.gather(*(run.end(session) for session in sessions))
    run.expect(time.monotonic() - began_s < 60, "speech", "a run without a fault took a minute")


FAULTS: Final = (
    Fault(
        name="nothing",
        what="no fault: longest silence in speech",
        inject=nothing,
        bound_ms=50,
        layouts=BOTH,
    ),
    Fault(
        name="end",
        what="end → LiveAvatar stopped",
        inject=end,
        bound_ms=1000,
        layouts=BOTH,
        load=MachineLoad.TIGHT,
    ),
    Fault(name="cancel", what="cancel → LiveAvatar stopped", inject=cancel, bound_ms=5000),
    Fault(
        name="terminate",
        what="terminate → LiveAvatar stopped",
        inject=terminate,
        bound_ms=10_000,
        load=MachineLoad.WAITS,
        settle_s=30,
    ),
    Fault(
        name="owner-and-workflow-killed",
        what="terminate and kill -9 → LiveAvatar stopped",
        inject=owner_and_workflow_killed,
        bound_ms=60_000,
        load=MachineLoad.WAITS,
        takes_s=40,
    ),
)
