"""Exactly one start, whether a call is lost, late, refused or cancelled.

Each test compares the ledger of its own simulator with the reports.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from avatar_sessions import End, EndReason, Session, SessionState
from deploy.local.livekit import LiveKitServer
from deploy.local.relay import RelayMode, TcpRelay
from deploy.local.temporal import TemporalServer
from liveavatar_simulator.faults import Faults
from tests.support.platforms.in_process import history_length
from tests.support.platforms.relayed import (
    RelayedPlatform,
    assert_books_agree,
    page,
    until_state,
    until_status,
)
from tests.support.platforms.worker_process import worker_process
from tests.support.waiting import until
from workers.wiring import Role
from workflows.parts import options

TOKEN, START, STOP = (f"POST /v1/sessions/{name}" for name in ("token", "start", "stop"))
CREATE_ROOM = "POST /twirp/livekit.RoomService/CreateRoom"
QUICK_S = 5.0
"""How long a cancelled session may take to its report, unless a /start is under way."""


# ------------------------------------------------------------- a reply is lost


async def test_a_lost_reply_to_start_is_stopped_before_another_session_starts(
    relayed: RelayedPlatform,
) -> None:
    relayed.faults.lost_start_replies = 1
    session = await relayed.begin()
    await session.attach()
    report = await session.end()
    lost, live = relayed.lines(report)
    assert lost.started_at is not None
    assert lost.ended_at is not None
    assert live.started_at is not None
    assert lost.ended_at <= live.started_at
    print(f"billed without use: {lost.billed_s:.2f} s")
    assert_books_agree(relayed, report)


async def test_a_reply_to_start_that_never_comes_is_not_waited_for_long(
    relayed: RelayedPlatform,
) -> None:
    """The call times out after 15 s; its session is stopped at most 5 s later."""
    with relayed.liveavatar.hold(START, reply=True, times=1) as hold:
        session = await relayed.begin()
        await hold.reached()
        lost = relayed.started_lines()[0]
        await until(lambda: relayed.line(lost.session_id).ended_at is not None, within_s=40)
    late_s = relayed.line(lost.session_id).billed_s - 15
    print(f"stopped {late_s:.2f} s after the call had timed out")
    assert late_s < QUICK_S
    await session.attach()
    report = await session.end()
    assert_books_agree(relayed, report)


async def test_lost_replies_to_token_cost_no_time_and_bill_nothing(
    relayed: RelayedPlatform,
) -> None:
    relayed.faults.lost_token_replies = 2
    began_s = time.monotonic()
    session = await relayed.begin()
    await session.attach()
    took_s = time.monotonic() - began_s
    report = await session.end()
    ledger = relayed.simulator.ledger()
    assert (ledger.minted, ledger.started) == (3, 1)
    print(f"live after {took_s:.2f} s with two lost tokens")
    assert_books_agree(relayed, report)


async def test_a_token_that_comes_too_late_is_never_started(relayed: RelayedPlatform) -> None:
    with relayed.liveavatar.hold(TOKEN, reply=True, times=1) as hold:
        session = await relayed.begin()
        await hold.reached()
        await until(lambda: relayed.simulator.ledger().minted == 2)
    await session.attach()
    report = await session.end()
    assert relayed.simulator.ledger().started == 1
    assert_books_agree(relayed, report)


async def test_three_lost_starts_end_the_session_and_bill_no_more(relayed: RelayedPlatform) -> None:
    relayed.faults.lost_start_replies = 100
    session = await relayed.begin()
    report = await session.report(timeout_s=40)
    assert report.end_reason is EndReason.START_FAILED
    assert len(report.generations) == 3
    assert_books_agree(relayed, report)


# ------------------------------------------------------------ a worker is lost


@pytest.mark.timeout(120)
async def test_a_worker_killed_under_start_is_noticed_in_seconds(
    relayed_workerless: RelayedPlatform,
    temporal: TemporalServer,
    livekit: LiveKitServer,
    run_folder: Path,
) -> None:
    """The kill cost 25 s, the whole timeout of a start."""
    relayed_workerless.faults.slow_start_s = 2.0
    async with (
        worker_process(
            relayed_workerless, temporal, livekit, Role.ALL, run_folder / "start-kill-1.log"
        ) as first,
        worker_process(
            relayed_workerless, temporal, livekit, Role.STREAMS, run_folder / "start-kill-s.log"
        ),
    ):
        session = await relayed_workerless.begin(start_timeout_s=100)
        with relayed_workerless.liveavatar.hold(START, reply=True, times=1) as hold:
            await hold.reached()
            relayed_workerless.faults.slow_start_s = 0.0
            log = run_folder / "start-kill-2.log"
            async with worker_process(relayed_workerless, temporal, livekit, Role.SESSIONS, log):
                killed_s = time.monotonic()
                first.send_signal(signal.SIGKILL)
                await first.wait(30)
                lost = relayed_workerless.simulator.ledger().sessions[0]
                await until(
                    lambda: relayed_workerless.line(lost.session_id).ended_at is not None,
                    within_s=40,
                )
                stopped_s = time.monotonic() - killed_s
                await session.attach(timeout_s=60)
                live_s = time.monotonic() - killed_s
                report = await session.end()
    print(f"after the kill: lost session stopped {stopped_s:.2f} s, live again {live_s:.2f} s")
    assert stopped_s < 15
    assert len(report.generations) == 2
    assert_books_agree(relayed_workerless, report)


@pytest.mark.timeout(120)
async def test_a_start_that_lands_after_its_stop_is_stopped_by_the_worker_that_sent_it(
    relayed_workerless: RelayedPlatform,
    temporal: TemporalServer,
    livekit: LiveKitServer,
    run_folder: Path,
) -> None:
    """A worker lost Temporal under its request and was given up: the session that it started after
    that was billed until the other one had ended."""
    first_log, second_log = run_folder / "late-1.log", run_folder / "late-2.log"
    host, _, port = temporal.address.partition(":")
    async with TcpRelay(host, int(port)).listening() as relay:
        apart = dataclasses.replace(temporal, address=f"127.0.0.1:{relay.port}")
        async with worker_process(relayed_workerless, apart, livekit, Role.ALL, first_log):
            with relayed_workerless.liveavatar.hold(START, times=1) as hold:
                session = await relayed_workerless.begin(start_timeout_s=100)
                await hold.reached()
                late = relayed_workerless.simulator.ledger().sessions[0].session_id
                relay.set_mode(RelayMode.REFUSE)
                async with worker_process(
                    relayed_workerless, temporal, livekit, Role.ALL, second_log
                ):
                    await session.attach(timeout_s=60)
                    hold.opened.set()
                    await until(lambda: relayed_workerless.line(late).started_at is not None)
                    await asyncio.sleep(2)
                    assert relayed_workerless.simulator.ledger().open == 2, "not yet known"
                    relay.set_mode(RelayMode.PASS)
                    back_s = time.monotonic()
                    await until(lambda: relayed_workerless.line(late).ended_at is not None)
                    took_s = time.monotonic() - back_s
                    report = await session.end()
    assert "timed this attempt out" in first_log.read_text()
    print(f"stopped {took_s:.2f} s after its worker saw Temporal again")
    assert relayed_workerless.simulator.ledger().open == 0
    assert len(report.generations) == 2


@pytest.mark.timeout(120)
async def test_a_start_that_lands_after_its_stop_is_looked_up_again(
    relayed: RelayedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker that knows of it comes back: LiveAvatar's list is queried until the session has
    ended."""
    monkeypatch.setattr(options, "LOST_START_PAUSES", (timedelta(seconds=2), timedelta(seconds=4)))
    monkeypatch.setitem(options.START_CALL, "start_to_close_timeout", timedelta(seconds=3))
    with relayed.liveavatar.hold(START, times=1) as hold:
        session = await relayed.begin()
        await hold.reached()
        late = relayed.simulator.ledger().sessions[0].session_id
        await until_status(session, lambda status: status.generation == 2)
        hold.opened.set()
        await session.attach()
    await until(lambda: relayed.line(late).started_at is not None)
    await until(lambda: relayed.line(late).ended_at is not None, within_s=15)
    report = await session.end()
    assert_books_agree(relayed, report)


# --------------------------------------------------------------- not now: 429


async def test_a_rate_limited_start_waits_as_long_as_it_was_told(relayed: RelayedPlatform) -> None:
    relayed.faults.rate_limited_tokens = 1
    relayed.faults.rate_limited_starts = 2
    relayed.faults.retry_after_s = 2
    session = await relayed.begin()
    waiting = await until_status(session, lambda status: status.waiting_for)
    assert "rate limit" in str(waiting.waiting_for)
    await session.attach()
    assert (await session.status()).waiting_for is None
    report = await session.end()
    (line,) = relayed.lines(report)
    assert line.started_at is not None
    assert line.started_at - line.minted_at >= timedelta(seconds=3.9)
    assert line.minted_at - report.requested_at >= timedelta(seconds=1.9)
    assert_books_agree(relayed, report)


async def test_a_pause_longer_than_the_calls_own_time_is_kept(
    relayed: RelayedPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server gave up the call immediately, and with it the session."""
    monkeypatch.setitem(options.SHORT_CALL, "schedule_to_close_timeout", timedelta(seconds=3))
    monkeypatch.setattr(options, "LIMIT_WAIT", timedelta(seconds=3))
    relayed.faults.rate_limited_tokens = 1
    relayed.faults.rate_limited_starts = 1
    relayed.faults.retry_after_s = 5
    session = await relayed.begin()
    waiting = await until_status(session, lambda status: status.waiting_for)
    assert waiting.state is SessionState.MINTING
    await session.attach()
    report = await session.end()
    (line,) = relayed.lines(report)
    assert line.minted_at - report.requested_at >= timedelta(seconds=4.9)
    assert line.started_at is not None
    assert line.started_at - line.minted_at >= timedelta(seconds=4.9)


# ------------------------------------------------------- not now: plan's limit


@pytest.mark.timeout(90)
async def test_a_session_over_the_limit_waits_and_its_status_says_so(
    relayed_single: RelayedPlatform,
) -> None:
    first = await relayed_single.begin()
    await first.attach()
    second = await relayed_single.begin()
    waiting = await until_status(second, lambda status: status.waiting_for)
    assert waiting.state is SessionState.STARTING
    assert waiting.waiting_for is not None
    assert waiting.waiting_for.startswith("a free LiveAvatar session: the plan's limit is reached")
    assert waiting.waiting_since is not None
    assert waiting.waiting_since <= datetime.now(UTC)
    assert "waiting for a free LiveAvatar session" in await page(relayed_single, second)
    await asyncio.sleep(3)
    assert relayed_single.simulator.ledger().minted == 2, "a waiting session holds one token"
    freed_s = time.monotonic()
    one = await first.end()
    await second.attach()
    print(f"live {time.monotonic() - freed_s:.2f} s after the end of the first was asked for")
    assert (await second.status()).waiting_for is None
    other = await second.end()
    assert_books_agree(relayed_single, one, other)


@pytest.mark.timeout(90)
async def test_a_start_timeout_at_the_limit_names_the_limit(
    relayed_single: RelayedPlatform,
) -> None:
    first = await relayed_single.begin()
    await first.attach()
    second = await relayed_single.begin(start_timeout_s=20)
    await until_status(second, lambda status: status.waiting_for)
    before = await history_length(relayed_single, second)
    report = await second.report(timeout_s=60)
    assert report.end_reason is EndReason.START_TIMEOUT
    assert report.failure is not None
    assert "waiting for a free LiveAvatar session" in report.failure.message
    assert "403/4003" in report.failure.message
    print(report.failure.message)
    spent = await history_length(relayed_single, second) - before
    print(f"{spent} events for the rest of a wait of 20 s, and its end")
    assert spent < 45, "a wait must not fill the history"
    (waited,) = report.generations
    assert waited.billed_s == 0
    assert_books_agree(relayed_single, report, await first.end())


# ------------------------------------------------- taken back, at every stage

Stage = Callable[[RelayedPlatform], contextlib.AbstractAsyncContextManager[Session]]


@contextlib.asynccontextmanager
async def creating_its_room(relayed: RelayedPlatform) -> AsyncIterator[Session]:
    with relayed.livekit.hold(CREATE_ROOM) as hold:
        session = await relayed.begin(room={})
        await hold.reached()
        yield session


@contextlib.asynccontextmanager
async def minting(relayed: RelayedPlatform) -> AsyncIterator[Session]:
    with relayed.liveavatar.hold(TOKEN) as hold:
        session = await relayed.begin()
        await hold.reached()
        yield session


@contextlib.asynccontextmanager
async def starting(relayed: RelayedPlatform) -> AsyncIterator[Session]:
    relayed.faults.slow_start_s = 2.0
    session = await relayed.begin()
    await until(lambda: any(one.phase == "starting" for one in relayed.simulator.sessions.values()))
    yield session


@contextlib.asynccontextmanager
async def stopping_a_lost_start(relayed: RelayedPlatform) -> AsyncIterator[Session]:
    relayed.faults.lost_start_replies = 1
    with relayed.liveavatar.hold(STOP, times=1) as hold:
        session = await relayed.begin()
        await hold.reached()
        yield session


@contextlib.asynccontextmanager
async def waiting_its_turn(relayed: RelayedPlatform) -> AsyncIterator[Session]:
    relayed.faults.rate_limited_starts = 1000
    session = await relayed.begin()
    await until_status(session, lambda status: status.waiting_for)
    await asyncio.sleep(1.5)  # into a call that waits inside
    yield session


@contextlib.asynccontextmanager
async def waiting_for_a_token(relayed: RelayedPlatform) -> AsyncIterator[Session]:
    relayed.faults.rate_limited_tokens = 1000
    relayed.faults.retry_after_s = 60
    session = await relayed.begin()
    await until_status(session, lambda status: status.waiting_for)
    yield session


@contextlib.asynccontextmanager
async def connecting(relayed: RelayedPlatform) -> AsyncIterator[Session]:
    relayed.faults.never_connected = 1000
    session = await relayed.begin()
    await until_state(session, SessionState.CONNECTING)
    yield session


STAGES = (
    creating_its_room,
    minting,
    starting,
    stopping_a_lost_start,
    waiting_its_turn,
    waiting_for_a_token,
    connecting,
)


async def cancel(session: Session) -> None:
    await session.cancel()


async def end_by_signal(session: Session) -> None:
    await session.send(End())


async def end_by_update(session: Session) -> None:
    await session.perform(End())


@pytest.mark.parametrize("taken_back", [cancel, end_by_signal, end_by_update])
@pytest.mark.parametrize("stage", STAGES)
async def test_a_cancelled_start_leaves_nothing(
    relayed: RelayedPlatform, stage: Stage, taken_back: Callable[[Session], Awaitable[Any]]
) -> None:
    async with stage(relayed) as session:
        asked_s = time.monotonic()
        await taken_back(session)
        report = await session.report(timeout_s=40)
        took_s = time.monotonic() - asked_s
    print(f"{stage.__name__}, {taken_back.__name__}: report after {took_s:.2f} s")
    expected = EndReason.CANCELLED if taken_back is cancel else EndReason.REQUESTED
    assert report.end_reason is expected
    assert report.cleanup.provider_stopped
    assert report.cleanup.room_clean
    assert report.cleanup.problems == []
    assert took_s < QUICK_S + 5, "machines are slow, but this is a hang"
    assert_books_agree(relayed, report)


@pytest.mark.parametrize("stage", STAGES)
async def test_a_start_whose_workflow_is_terminated_leaves_nothing_billed(
    relayed: RelayedPlatform, stage: Stage
) -> None:
    async with stage(relayed) as session:
        await relayed.client.get_workflow_handle(session.workflow_id).terminate("test")
        if stage is starting:
            await until(lambda: bool(relayed.started_lines()))
        if stage is connecting:
            relayed.simulator.faults = Faults()
    await until(lambda: all(one.ended_at is not None for one in relayed.started_lines()))
    assert relayed.simulator.ledger().open == 0
