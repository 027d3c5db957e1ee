"""A worker that is told to stop while it starts does so."""

from __future__ import annotations

from tests.support.janitor_platform import JanitorEnvironment


async def test_it_stops_at_once(environment: JanitorEnvironment) -> None:
    """A signal right after the start: the shutdown did not reach a worker that was not quite
    there, and the process left hard, with status 1, when the time for draining was over."""
    for _ in range(5):
        async with environment.janitor():
            pass
