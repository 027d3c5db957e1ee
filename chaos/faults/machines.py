"""Faults of the machine: a full log disk, a clock that jumps."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Final

from chaos.environment import clock
from chaos.environment.environment import EnvironmentKind
from chaos.environment.processes import WorkerProcess
from chaos.fault import BOTH, Fault, MachineLoad
from chaos.run import FaultRun

SPEECH_S: Final = 5.0
JUMP_SPEECH_S: Final = 7.0
JUMP_S: Final = 3600
_WRITTEN: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,")


async def log_disk_full(run: FaultRun) -> None:
    """Workers cannot write to their logs; sessions still start, speak and end."""
    speaking = await run.start_live()
    workers = [one for one in run.environment.workers if one.is_alive]
    for worker in workers:
        worker.fill_disk()
    try:
        speech = run.say_live(speaking, SPEECH_S)
        other = await run.start_live()
        await run.measure_silences(speech, run.say_live(other, SPEECH_S))
        await run.end(speaking)
        await run.end(other)
    finally:
        for worker in workers:
            run.expect(worker.is_alive, "workers survive", f"{worker!r} died: {worker.status}")
            if worker.is_alive:
                worker.free_disk()


async def clock_jump(run: FaultRun) -> None:
    """The owner's wall clock jumps by an hour, forwards or backwards, in mid-utterance.

    Speech goes on; a clip and more live speech follow, and the sessions end as usual.
    """
    session, other = await run.start_live_all(2)
    speeches = [run.say_live(session, JUMP_SPEECH_S), await run.say_clip(other, JUMP_SPEECH_S)]
    await run.until_heard([session, other], run.mid_utterance_ms())
    jump_s = run.random.choice((-JUMP_S, JUMP_S))
    run.environment.clock.jump(jump_s)
    await run.measure_silences(*speeches)
    off_s = await _clock_of(run.environment.owner) - time.time()
    run.expect(abs(off_s - jump_s) < 60, "the fault happens", f"its clock is {off_s:.0f} s off")
    late = await run.start_live()
    await run.measure_silences(
        run.say_live(session, JUMP_SPEECH_S),
        run.say_live(late, JUMP_SPEECH_S),
        await run.say_clip(other, JUMP_SPEECH_S),
    )
    await run.end_all((session, other, late))


async def _clock_of(worker: WorkerProcess) -> float:
    """The wall-clock time of a process, from the last line of its log."""
    await worker.resources()  # makes it write a line
    written = [line for line in worker.child.last_lines() if _WRITTEN.match(line)]
    return datetime.strptime(written[-1][:19], "%Y-%m-%d %H:%M:%S").astimezone().timestamp()


FAULTS: Final = (
    Fault(
        name="log-disk-full",
        what="workers cannot write their logs: silence",
        inject=log_disk_full,
        bound_ms=50,
        layouts=BOTH,
    ),
    Fault(
        name="clock-jump",
        what="the owner's clock jumps by an hour: silence",
        inject=clock_jump,
        bound_ms=50,
        layouts=BOTH,
        environment_kind=EnvironmentKind.FAKE_CLOCK,
        load=MachineLoad.WAITS,
        takes_s=20,
        missing=clock.missing,
    ),
)
