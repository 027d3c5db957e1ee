"""The owner is killed, drained or frozen: how long the avatar is silent."""

from __future__ import annotations

import asyncio
import signal
from typing import Final

from avatar_sessions import Session
from chaos.environment.environment import Layout
from chaos.environment.processes import WorkerProcess
from chaos.errors import ConditionTimeout
from chaos.fault import BOTH, Fault, MachineLoad
from chaos.run import CodedSpeech, FaultRun

SPEAKING: Final = 2
DRAINED: Final = 50
CHAIN: Final = 10
SPEECH_S: Final = 7.0
DRAINED_SPEECH_S: Final = 6.0
DRAINED_WITHIN_S: Final = 10.0
EXITS_WITHIN_S: Final = 2.0
FROZEN_S: Final = 20.0
TAKEOVER_WITHIN_S: Final = 5.0


async def owner_killed(run: FaultRun) -> None:
    """kill -9 while a speaker is connected: its report of the lost owner starts the takeover."""
    sessions = await run.start_live_all(SPEAKING)
    owner = run.environment.owner
    await run.environment.start_owner()
    async with run.no_starts():
        speeches = [run.say_live(session, SPEECH_S) for session in sessions]
        await run.until_heard(sessions, run.mid_utterance_ms())
        await run.environment.kill(owner)
        await run.measure_silences(*speeches)


async def owner_killed_clip(run: FaultRun) -> None:
    """kill -9 during a clip: only its caller waits, and no speaker is connected."""
    sessions = await run.start_live_all(SPEAKING)
    owner = run.environment.owner
    await run.environment.start_owner()
    speeches = [await run.say_clip(session, SPEECH_S) for session in sessions]
    await run.until_heard(sessions, run.mid_utterance_ms())
    await run.environment.kill(owner)
    await run.measure_silences(*speeches)


async def owner_killed_unwatched(run: FaultRun) -> None:
    """kill -9 of an idle owner without any client: only missing heartbeats reveal it."""
    sessions = await run.start_live_all(SPEAKING)
    owner = run.environment.owner
    await run.environment.start_owner()
    epochs = [(await one.status()).epoch or (0, 0) for one in sessions]
    await asyncio.sleep(run.random.uniform(0, 5))  # anywhere between two heartbeats
    killed_at_s = await run.environment.kill(owner)
    for owned_at in [
        asyncio.create_task(run.until_owned_beyond(one, epoch, 40))
        for one, epoch in zip(sessions, epochs, strict=True)
    ]:
        run.measure(1000 * (await owned_at - killed_at_s))


async def drain(run: FaultRun, count: int = DRAINED) -> None:
    """SIGTERM under load, as a deployment sends it, to one owner after the other."""
    run.piece_ms = 3  # the utterances of a chain take longer than a minute
    sessions = await run.start_live_all(count)
    async with run.speakers(sessions) as speakers:
        for _ in range(run.times):
            owner = run.environment.owner
            await run.environment.start_owner()
            speeches = [
                run.say_live(session, DRAINED_SPEECH_S, speaker)
                for session, speaker in zip(sessions, speakers, strict=True)
            ]
            await _drain_one(run, sessions, speeches, owner)
            run.injected += 1


async def _drain_one(
    run: FaultRun, sessions: list[Session], speeches: list[CodedSpeech], owner: WorkerProcess
) -> None:
    await run.until_heard(sessions, run.mid_utterance_ms())
    owner.send(signal.SIGTERM)
    wait_for_exit = asyncio.create_task(owner.wait_for_exit(30))
    await run.measure_silences(*speeches)
    gone_s = await wait_for_exit
    run.expect(
        gone_s <= DRAINED_WITHIN_S,
        "a drained process exits",
        f"it took {gone_s:.1f} s (at most {DRAINED_WITHIN_S:g} s), see {owner.log}",
    )
    run.expect(
        owner.status == 0, "a drained process exits", f"with status {owner.status}, see {owner.log}"
    )


async def drain_5(run: FaultRun) -> None:
    """The same with five sessions, for the tests."""
    await drain(run, 5)


async def second_signal(run: FaultRun) -> None:
    """Two SIGTERMs: the owner exits immediately; its sessions are taken over as after a crash."""
    sessions = await run.start_live_all(SPEAKING)
    owner = run.environment.owner
    await run.environment.start_owner()
    speeches = [run.say_live(session, SPEECH_S) for session in sessions]
    await run.until_heard(sessions, run.mid_utterance_ms())
    owner.send(signal.SIGTERM)
    await asyncio.sleep(0.2)
    if owner.is_alive:
        owner.send(signal.SIGTERM)
    try:
        run.measure(1000 * await owner.wait_for_exit(30))
    except ConditionTimeout as error:
        run.problem("a second signal ends the process", str(error))
    await run.wait_finished(*speeches)


async def frozen(run: FaultRun) -> None:
    """SIGSTOP for 20 s, then SIGCONT: meanwhile another owner has taken over the sessions."""
    sessions = await run.start_live_all(SPEAKING)
    owner = run.environment.owner
    await run.environment.start_owner()
    speeches = [run.say_live(session, FROZEN_S + 8) for session in sessions]
    await run.until_heard(sessions, run.mid_utterance_ms())
    try:
        async with run.no_starts():
            owner.send(signal.SIGSTOP)
            await asyncio.sleep(TAKEOVER_WITHIN_S)
        await asyncio.sleep(FROZEN_S - TAKEOVER_WITHIN_S)
    finally:
        owner.send(signal.SIGCONT)
    await run.measure_silences(*speeches)


FAULTS: Final = (
    Fault(
        name="owner-killed",
        what="kill -9 in live speech: silence",
        inject=owner_killed,
        bound_ms={Layout.ALL: 3000, Layout.SPLIT: 1500},
        layouts=BOTH,
        load=MachineLoad.TIGHT,
    ),
    Fault(
        name="owner-killed-clip",
        what="kill -9 in a clip: silence",
        inject=owner_killed_clip,
        bound_ms=17_000,
        layouts=BOTH,
        load=MachineLoad.WAITS,
        takes_s=30,
    ),
    Fault(
        name="owner-killed-unwatched",
        what="kill -9 without any client: until owned again",
        inject=owner_killed_unwatched,
        bound_ms=17_000,
        layouts=BOTH,
        load=MachineLoad.WAITS,
        takes_s=25,
    ),
    Fault(
        name="drain-50",
        what="SIGTERM with 50 sessions in live speech: silence",
        inject=drain,
        bound_ms=1000,
        layouts=BOTH,
        load=MachineLoad.ALONE,
        settle_s=10,
        chain=CHAIN,
        takes_s=100,
    ),
    Fault(
        name="second-signal",
        what="SIGTERM twice → exited",
        inject=second_signal,
        bound_ms=1000 * EXITS_WITHIN_S,
        layouts=BOTH,
    ),
    Fault(
        name="frozen",
        what="SIGSTOP for 20 s in live speech: silence",
        inject=frozen,
        # Its connections to Temporal stay open and get tasks until those time out:
        # docs/operate/reliability.md.
        bound_ms={Layout.ALL: 18_000, Layout.SPLIT: 12_000},
        layouts=BOTH,
        load=MachineLoad.WAITS,
        takes_s=45,
    ),
)
