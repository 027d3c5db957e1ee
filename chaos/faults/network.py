"""Temporal is away, or the network to it or to LiveAvatar's sockets fails, in mid live speech."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from chaos.environment.environment import EnvironmentKind
from chaos.fault import Fault, MachineLoad
from chaos.run import FaultRun
from deploy.local.relay import RelayMode

AFTERWARDS_S: Final = 10.0
"""Speech goes on for so long when it is back."""
NETWORK_AWAY_S: Final = 20.0
SOCKET_AWAY_S: Final = 4.0
NO_SILENCE_MS: Final = 50


async def _speaks_on(run: FaultRun, away_s: float, away: Callable[[], Awaitable[None]]) -> None:
    """Speak while `away` takes its time; then the session is as it was."""
    session = await run.start_live()
    before = await session.status()
    speech = run.say_live(session, away_s + AFTERWARDS_S)
    await run.until_heard([session], run.mid_utterance_ms())
    await away()
    await run.measure_silences(speech)
    status = await session.status(timeout_s=30)
    run.expect(
        status.generation == before.generation,
        "the session is adopted",
        f"it is at generation {status.generation}, and was at {before.generation}",
        session,
    )
    run.expect(status.state == "LIVE", "the session is adopted", f"it is {status.state}", session)
    await run.end(session)


async def temporal_killed(run: FaultRun, away_s: float) -> None:
    """SIGKILL, and started again with its database."""

    async def away() -> None:
        await run.environment.temporal.kill()
        await asyncio.sleep(away_s)
        await run.environment.temporal.start()

    await _speaks_on(run, away_s, away)


async def temporal_stopped(run: FaultRun, away_s: float) -> None:
    """SIGSTOP and SIGCONT: it is there, and does not answer."""

    async def away() -> None:
        run.environment.temporal.suspend()
        try:
            await asyncio.sleep(away_s)
        finally:
            run.environment.temporal.resume()

    await _speaks_on(run, away_s, away)


async def temporal_cut(run: FaultRun, mode: RelayMode) -> None:
    """The network between workers and Temporal."""

    async def away() -> None:
        run.environment.to_temporal.set_mode(mode)
        await asyncio.sleep(NETWORK_AWAY_S)
        run.environment.to_temporal.set_mode(RelayMode.PASS)

    await _speaks_on(run, NETWORK_AWAY_S, away)


async def sockets_cut(run: FaultRun, mode: RelayMode) -> None:
    """The network between the owner and LiveAvatar's WebSockets."""

    async def away() -> None:
        run.environment.to_provider.set_mode(mode)
        await asyncio.sleep(SOCKET_AWAY_S)
        run.environment.to_provider.set_mode(RelayMode.PASS)

    await _speaks_on(run, SOCKET_AWAY_S, away)


def _temporal_away(away_s: int) -> Fault:
    return Fault(
        name=f"temporal-away-{away_s}",
        what=f"kill -9 of Temporal, back after {away_s} s: silence",
        inject=partial(temporal_killed, away_s=away_s),
        bound_ms=NO_SILENCE_MS,
        environment_kind=EnvironmentKind.OWN_TEMPORAL,
        load=MachineLoad.WAITS,
        takes_s=away_s + 15,
        settle_s=20,
    )


def _cut(
    name: str, what: str, inject: Callable[[FaultRun], Awaitable[None]], bound_ms: float
) -> Fault:
    return Fault(
        name=name,
        what=what,
        inject=inject,
        bound_ms=bound_ms,
        environment_kind=EnvironmentKind.PROXIED,
        load=MachineLoad.WAITS,
        takes_s=30,
        settle_s=20,
    )


FAULTS: Final = (
    _temporal_away(5),
    _temporal_away(30),
    _temporal_away(100),
    Fault(
        name="temporal-stopped-20",
        what="SIGSTOP of Temporal for 20 s: silence",
        inject=partial(temporal_stopped, away_s=20),
        bound_ms=NO_SILENCE_MS,
        takes_s=40,
        environment_kind=EnvironmentKind.OWN_TEMPORAL,
        load=MachineLoad.WAITS,
        settle_s=20,
    ),
    _cut(
        "network-refused",
        "Temporal refused for 20 s: silence",
        partial(temporal_cut, mode=RelayMode.REFUSE),
        NO_SILENCE_MS,
    ),
    _cut(
        "network-swallowed",
        "Temporal cut off for 20 s: silence",
        partial(temporal_cut, mode=RelayMode.SWALLOW),
        NO_SILENCE_MS,
    ),
    _cut(
        "sockets-refused",
        "LiveAvatar's sockets refused for 4 s: silence",
        partial(sockets_cut, mode=RelayMode.REFUSE),
        5000,
    ),
    _cut(
        "sockets-swallowed",
        "LiveAvatar's sockets cut off for 4 s: silence",
        partial(sockets_cut, mode=RelayMode.SWALLOW),
        5000,
    ),
)
