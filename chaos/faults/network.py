"""Temporal, or the network to it or to LiveAvatar's sockets, fails during live speech."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from chaos.environment.environment import EnvironmentKind
from chaos.fault import Fault, MachineLoad
from chaos.run import FaultRun
from deploy.local.relay import RelayMode

SPEECH_AFTER_S: Final = 10.0
"""How long speech goes on after the connection is back."""
NETWORK_OUTAGE_S: Final = 20.0
SOCKET_OUTAGE_S: Final = 4.0
NO_SILENCE_MS: Final = 50


async def _speak_through(
    run: FaultRun, outage_s: float, outage: Callable[[], Awaitable[None]]
) -> None:
    """Speak while `outage` runs; then check that the session kept its generation."""
    session = await run.start_live()
    before = await session.status()
    speech = run.say_live(session, outage_s + SPEECH_AFTER_S)
    await run.until_heard([session], run.mid_utterance_ms())
    await outage()
    await run.measure_silences(speech)
    status = await session.status(timeout_s=30)
    run.expect(
        status.generation == before.generation,
        "the session is adopted",
        f"generation {status.generation}, was {before.generation}",
        session,
    )
    run.expect(status.state == "LIVE", "the session is adopted", f"state {status.state}", session)
    await run.end(session)


async def temporal_killed(run: FaultRun, outage_s: float) -> None:
    """SIGKILL of Temporal, restarted with its database."""

    async def outage() -> None:
        await run.environment.temporal.kill()
        await asyncio.sleep(outage_s)
        await run.environment.temporal.start()

    await _speak_through(run, outage_s, outage)


async def temporal_stopped(run: FaultRun, outage_s: float) -> None:
    """SIGSTOP and SIGCONT of Temporal: it accepts connections and does not answer."""

    async def outage() -> None:
        run.environment.temporal.suspend()
        try:
            await asyncio.sleep(outage_s)
        finally:
            run.environment.temporal.resume()

    await _speak_through(run, outage_s, outage)


async def temporal_cut(run: FaultRun, mode: RelayMode) -> None:
    """The network between workers and Temporal fails."""

    async def outage() -> None:
        run.environment.to_temporal.set_mode(mode)
        await asyncio.sleep(NETWORK_OUTAGE_S)
        run.environment.to_temporal.set_mode(RelayMode.PASS)

    await _speak_through(run, NETWORK_OUTAGE_S, outage)


async def sockets_cut(run: FaultRun, mode: RelayMode) -> None:
    """The network between the owner and LiveAvatar's WebSockets fails."""

    async def outage() -> None:
        run.environment.to_provider.set_mode(mode)
        await asyncio.sleep(SOCKET_OUTAGE_S)
        run.environment.to_provider.set_mode(RelayMode.PASS)

    await _speak_through(run, SOCKET_OUTAGE_S, outage)


def _temporal_outage(outage_s: int) -> Fault:
    return Fault(
        name=f"temporal-away-{outage_s}",
        what=f"kill -9 of Temporal, back after {outage_s} s: silence",
        inject=partial(temporal_killed, outage_s=outage_s),
        bound_ms=NO_SILENCE_MS,
        environment_kind=EnvironmentKind.OWN_TEMPORAL,
        load=MachineLoad.WAITS,
        takes_s=outage_s + 15,
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
    _temporal_outage(5),
    _temporal_outage(30),
    _temporal_outage(100),
    Fault(
        name="temporal-stopped-20",
        what="SIGSTOP of Temporal for 20 s: silence",
        inject=partial(temporal_stopped, outage_s=20),
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
