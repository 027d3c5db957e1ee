"""Workflow history events of an idle session, of an utterance and of a command.

Sends as many commands as one every five seconds for two hours, as fast as they complete. Temporal
ends a workflow at 51,200 events, and warns from 10,240 on.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Final

from temporalio.client import WorkflowHandle

from avatar_sessions import Session, SessionRequest
from avatar_sessions.contract.messages import Video
from bench.lab import Lab, new_key
from bench.table import FigureRow, single
from liveavatar_lite import WAYNE_AVATAR_ID

NAME: Final = "history"
IDLE_S: Final = 600.0
IDLE_EVENTS: Final = 60
UTTERANCES: Final = 20
UTTERANCE_EVENTS: Final = 5
COMMAND_EVENTS: Final = 12
COMMANDS: Final = 1_440
"""One every five seconds for two hours."""
MAX_EVENTS: Final = 51_200


async def measure(lab: Lab) -> list[FigureRow]:
    """Measure an idle session, one that speaks, and one that gets commands."""
    await lab.sessions()
    idle_s = 30.0 if lab.quick else IDLE_S
    commands = COMMANDS // 20 if lab.quick else COMMANDS
    idle, spoken, given = await asyncio.gather(
        _idle(lab, idle_s), _speaking(lab), _commanded(lab, commands)
    )
    return [
        single(
            NAME,
            f"events of a session that idles for {idle_s:g} s, start and end included",
            idle,
            "events",
            n=1,
            at_most=IDLE_EVENTS,
        ),
        single(
            NAME,
            "events of a live utterance, six seconds from one to the next",
            spoken,
            "events",
            n=UTTERANCES,
            at_most=UTTERANCE_EVENTS,
        ),
        *given,
    ]


async def _opened(lab: Lab) -> tuple[Session, WorkflowHandle[object, object]]:
    sessions = await lab.sessions()
    wanted = SessionRequest(
        avatar_id=WAYNE_AVATAR_ID,
        sandbox=True,
        video=Video(quality="low", encoding="VP8"),
        idle_timeout_s=24 * 3600,
    )
    session, _ = await sessions.open(new_key(), wanted)
    client = await (await lab.stack()).temporal.client()
    return session, client.get_workflow_handle(session.workflow_id)


async def _events(workflow: WorkflowHandle[object, object]) -> int:
    described = await workflow.describe(rpc_timeout=timedelta(seconds=30))
    return described.history_length


async def _idle(lab: Lab, idle_s: float) -> int:
    session, workflow = await _opened(lab)
    await asyncio.sleep(idle_s)
    await session.end()
    return await _events(workflow)


async def _speaking(lab: Lab) -> float:
    """Utterances of one second, with pauses so that each is signalled to the workflow alone."""
    session, workflow = await _opened(lab)
    async with session.live() as live:
        before = await _events(workflow)
        for _ in range(UTTERANCES):
            async with live.utterance() as speech:
                await speech.write(bytes(48_000))
            await speech.result()
            await asyncio.sleep(5)
        await asyncio.sleep(6)
        after = await _events(workflow)
    await session.end()
    return (after - before) / UTTERANCES


async def _commanded(lab: Lab, commands: int) -> list[FigureRow]:
    session, workflow = await _opened(lab)
    before, began_s = await _events(workflow), time.perf_counter()
    for number in range(commands):
        if number % 3:
            await session.interrupt()
        else:
            await session.set_pose("listening" if number % 2 else "idle")
    took_s = time.perf_counter() - began_s
    events = await _events(workflow) - before
    await session.end()
    return [
        single(
            NAME,
            "events of a command by update",
            events / commands,
            "events",
            n=commands,
            at_most=COMMAND_EVENTS,
        ),
        single(
            NAME,
            f"events of two hours of commands ({COMMANDS})",
            events / commands * COMMANDS,
            "events",
            n=commands,
            at_most=MAX_EVENTS,
        ),
        single(NAME, "given one after the other in", took_s, "s", n=commands),
    ]
