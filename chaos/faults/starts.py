"""Failing starts and stops: exactly one LiveAvatar session is billed, and it becomes live."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from avatar_sessions import Session
from avatar_sessions.contract.states import SessionState
from chaos.environment.environment import EnvironmentKind
from chaos.fault import BOTH, Fault, MachineLoad
from chaos.run import ATTACH_WITHIN_S, FaultRun, session_request
from liveavatar_simulator import SessionLine

LATE_S: Final = 24.0
"""Longer than the timeout of a call to LiveAvatar."""
STOP_OUTAGE_S: Final = 6.0


async def lost_start_reply(run: FaultRun) -> None:
    """The session starts, and the reply is lost."""
    async with run.injecting(lost_start_replies=1):
        session = await run.start()
        await run.attach(session)
    uncertain = await _others(run, session)
    run.expect(
        len(uncertain) == 1,
        "the fault happens",
        f"{len(uncertain)} sessions have an unknown outcome",
    )
    run.measure(1000 * _billed_s(uncertain))
    await run.end(session)


async def late_start(run: FaultRun) -> None:
    """The start call times out, and LiveAvatar starts the session afterwards."""
    async with run.injecting(slow_start_s=LATE_S):
        session = await run.start()
        await until_state(run, session, SessionState.STARTING)
        await asyncio.sleep(1)
    await run.attach(session)
    await run.until_nothing_starts(LATE_S + 10)
    run.measure(1000 * _billed_s(await _others(run, session)))
    await run.end(session)


async def lost_token_reply(run: FaultRun) -> None:
    """A session is minted and the reply is lost: it is never billed."""
    async with run.injecting(lost_token_replies=1):
        session = await run.start()
        await run.attach(session)
    await run.end(session)


async def rate_limited(run: FaultRun) -> None:
    """429 for a token, two starts and a stop."""
    async with run.injecting(
        rate_limited_tokens=1, rate_limited_starts=2, rate_limited_stops=1, retry_after_s=1
    ):
        session = await run.start()
        await run.attach(session)
        await run.end(session)


async def no_slot(run: FaultRun) -> None:
    """The concurrency limit is one session; the first ends while the second start waits."""
    first = await run.start_live()
    second = await run.start()
    await until_state(run, second, SessionState.STARTING)
    await asyncio.sleep(run.random.uniform(0.2, 1))
    await run.end(first)
    await run.attach(second)
    await run.end(second)


async def started_by_many(run: FaultRun) -> None:
    """Ten backends start the same key concurrently: one session."""
    session = await run.start()
    again = run.environment.sessions
    request = session_request()
    others = await asyncio.gather(*(again.start(session.key, request) for _ in range(9)))
    await asyncio.gather(*(one.attach(timeout_s=ATTACH_WITHIN_S) for one in others))
    await run.attach(session)
    lines = [one for one in await run.new_lines() if one.started_at is not None]
    run.expect(len(lines) == 1, "one session is billed", f"{len(lines)} were started", session)
    await run.end(session)


async def worker_killed_in_start(run: FaultRun) -> None:
    """kill -9 of the worker that awaits the reply to /start: the outcome is unknown."""
    async with run.injecting(slow_start_s=3):
        session = await run.start()
        await until_state(run, session, SessionState.STARTING)
        await asyncio.sleep(run.random.uniform(0.2, 2))
        worker = run.environment.workflow_worker
        await run.environment.kill(worker)
    await run.environment.start_worker(worker.role, urgent=True)
    await run.attach(session, within_s=110)
    await run.end(session)


async def worker_killed_in_cleanup(run: FaultRun) -> None:
    """kill -9 of the worker that stops the session; another worker goes on."""
    session = await run.start_live()
    async with run.injecting(stop_failures=2):
        at_s = run.mark_released(session)
        ending = asyncio.create_task(run.end(session))
        await until_state(run, session, SessionState.ENDING)
        await asyncio.sleep(run.random.uniform(0, 0.5))
        worker = run.environment.workflow_worker
        await run.environment.kill(worker)
        await run.environment.start_worker(worker.role, urgent=True)
        await ending
    run.measure(1000 * (await run.until_stopped(session, 60) - at_s))


async def stop_fails(run: FaultRun) -> None:
    """LiveAvatar refuses stops for a while: the cleanup retries until one succeeds."""
    session = await run.start_live()
    async with run.injecting(stop_failures=1000):
        ending = asyncio.create_task(run.end(session))
        await asyncio.sleep(STOP_OUTAGE_S)
    recovered_at_s = time.time()
    run.measure(1000 * (await run.until_stopped(session, 40) - recovered_at_s))
    await ending


async def until_state(run: FaultRun, session: Session, state: SessionState) -> None:
    """Wait for a state in the session's search attribute, which needs no worker to answer."""
    handle = run.environment.client.get_workflow_handle(session.workflow_id)

    async def there() -> bool:
        described = await handle.describe()
        return described.search_attributes.get("AvatarState", [""])[0] == state.value

    await run.until(there, 30, f"the session is {state}")


def _billed_s(lines: list[SessionLine]) -> float:
    """Seconds billed to them so far."""
    return sum(
        (line.ended_at.timestamp() if line.ended_at else time.time()) - line.started_at.timestamp()
        for line in lines
        if line.started_at is not None
    )


async def _others(run: FaultRun, session: Session) -> list[SessionLine]:
    """LiveAvatar sessions of this run other than the session's current one."""
    current = await run.provider_id(session)
    return [one for one in await run.new_lines() if one.session_id != current]


FAULTS: Final = (
    Fault(
        name="lost-start-reply",
        what="the lost session is billed for",
        inject=lost_start_reply,
        bound_ms=5000,
    ),
    Fault(
        name="late-start",
        what="the session that started late is billed for",
        inject=late_start,
        bound_ms=5000,
        load=MachineLoad.WAITS,
        settle_s=10,
        takes_s=45,
    ),
    Fault(
        name="lost-token-reply",
        what="one session, live in the end",
        inject=lost_token_reply,
        bound_ms=None,
    ),
    Fault(
        name="rate-limited",
        what="one session, live in the end",
        inject=rate_limited,
        bound_ms=None,
        load=MachineLoad.WAITS,
    ),
    Fault(
        name="concurrency",
        what="no slot at first, live in the end",
        inject=no_slot,
        bound_ms=None,
        environment_kind=EnvironmentKind.ONE_SESSION,
        load=MachineLoad.WAITS,
    ),
    Fault(
        name="started-by-many",
        what="one session for ten starts",
        inject=started_by_many,
        bound_ms=None,
    ),
    Fault(
        name="worker-killed-in-start",
        what="one session, live in the end",
        inject=worker_killed_in_start,
        bound_ms=None,
        load=MachineLoad.WAITS,
        settle_s=40,
        takes_s=30,
    ),
    Fault(
        name="worker-killed-in-cleanup",
        what="end → LiveAvatar stopped",
        inject=worker_killed_in_cleanup,
        bound_ms=30_000,
        layouts=BOTH,
        load=MachineLoad.WAITS,
        settle_s=40,
    ),
    Fault(
        name="stop-fails",
        what="stops work again → LiveAvatar stopped",
        inject=stop_fails,
        bound_ms=16_000,
        load=MachineLoad.WAITS,
        settle_s=20,
    ),
)
