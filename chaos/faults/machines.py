"""The machine itself: a disk that takes no more log, a clock that jumps."""

from __future__ import annotations

from typing import Final

from chaos.fault import BOTH, Fault
from chaos.run import Run

SPEECH_S: Final = 5.0


async def log_disk_full(run: Run) -> None:
    """No worker can write a line any more; sessions start, speak and end nevertheless."""
    speaking = await run.live()
    for worker in run.world.workers:
        if worker.is_alive:
            worker.fill_disk()
    speech = run.say_live(speaking, SPEECH_S)
    other = await run.live()
    await run.said(speech, run.say_live(other, SPEECH_S))
    await run.end(speaking)
    await run.end(other)
    for worker in list(run.world.workers):
        run.expect(worker.is_alive, "workers live on", f"{worker!r} died: {worker.status}")
        if worker.is_alive:
            await run.world.kill(worker)  # the next fault's workers write their logs


async def clock_jump(run: Run) -> None:
    """Never called."""
    raise AssertionError(f"{run.name} is not available")


FAULTS: Final = (
    Fault(
        name="log-disk-full",
        what="workers cannot write their logs: silence",
        inject=log_disk_full,
        bound_ms=50,
        layouts=BOTH,
        share=0.5,
    ),
    Fault(
        name="clock-jump",
        what="the clock jumps by an hour",
        inject=clock_jump,
        bound_ms=None,
        unavailable="libfaketime is not here, and the kernel has one clock for all processes",
    ),
)
