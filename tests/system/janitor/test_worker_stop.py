"""A worker that is stopped while it starts ends in time."""

from __future__ import annotations

from tests.support.platforms.janitor import JanitorEnvironment


async def test_a_worker_stopped_during_its_start_ends_in_time(
    environment: JanitorEnvironment,
) -> None:
    """A signal right after the start: the shutdown did not reach a worker that was still starting,
    and the process exited with status 1 when the time for draining was over."""
    for _ in range(5):
        async with environment.janitor():
            pass
