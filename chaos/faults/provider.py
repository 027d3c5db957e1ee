"""LiveAvatar's faults in mid-utterance: sockets break or fall silent, sessions end or freeze."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from avatar_sessions import AvatarSessionsError, Session
from avatar_sessions.contract.states import FINAL
from chaos.environment.environment import SHORT_LIMIT_S, EnvironmentKind
from chaos.errors import ConditionTimeout, NotAvailable
from chaos.fault import Fault, MachineLoad
from chaos.run import FaultRun

SPEECH_S: Final = 8.0
SENTENCE_S: Final = 3.0
SENTENCES: Final = 6
PAUSE_MS: Final = 1000
REPLACED_WITHIN_S: Final = 40.0


async def socket_drop(run: FaultRun) -> None:
    """The socket is cut without a close frame."""
    await _broken_socket(run, "dropped_sockets")


async def black_hole(run: FaultRun) -> None:
    """The socket stays open, and no message arrives any more."""
    await _broken_socket(run, "black_holes")


async def never_connected(run: FaultRun) -> None:
    """The socket is cut; the next one opens and never reports `connected`."""
    await _broken_socket(run, "dropped_sockets", "never_connected")


async def _broken_socket(run: FaultRun, *faults: str) -> None:
    session = await run.start_live()
    position_ms = round(run.mid_utterance_ms())
    async with run.injecting(**dict.fromkeys(faults, 1), drop_after_ms=position_ms):
        await run.measure_silences(run.say_live(session, SPEECH_S))
        left = await run.environment.simulator.faults()
        for fault in faults:
            run.expect(left[fault] == 0, "the fault happens", f"{fault} did not happen")
    await run.end(session)


async def provider_ended(run: FaultRun) -> None:
    """LiveAvatar ends its session: the next generation goes on with the utterance."""
    await _lost_provider(run, run.environment.simulator.end)


async def freeze(run: FaultRun) -> None:
    """LiveAvatar stops rendering without a message: the next generation goes on."""
    await _lost_provider(run, run.environment.simulator.freeze)


async def _lost_provider(run: FaultRun, lose: Callable[[str], Awaitable[None]]) -> None:
    session = await run.start_live()
    speech = run.say_live(session, SPEECH_S)
    speech.expected = None  # speech in the gap may be lost: it is counted
    await run.until_heard([session], run.mid_utterance_ms())
    lost = await run.provider_id(session)
    await lose(lost)
    ended = False

    async def replaced() -> bool:
        nonlocal ended
        try:
            status = await session.status(timeout_s=3)
        except AvatarSessionsError:
            return False
        ended = status.state in FINAL or status.end_reason is not None
        return ended or (status.state == "LIVE" and status.provider_session_id != lost)

    try:
        await run.until(replaced, REPLACED_WITHIN_S, "another LiveAvatar session is live")
    except ConditionTimeout as error:
        await run.end(session)
        raise NotAvailable(f"the fault is not noticed: {error}") from error
    if not ended:
        await run.measure_silences(speech)
    await run.end(session)
    if ended:
        await run.wait_finished(speech)
        raise NotAvailable("the session ended with LiveAvatar's: no next generation was opened")


async def rotation(run: FaultRun) -> None:
    """LiveAvatar's time limit comes while an agent streams sentences.

    The next LiveAvatar session takes over between two of them.
    """
    run.double_billing_s = SHORT_LIMIT_S / 3 + 1
    session = await run.start_live()
    await run.wait_finished(*run.say_sequence(session, SENTENCE_S, SENTENCES))
    await run.end(session)
    _expect_next_generation(run, session)


async def rotation_in_speech(run: FaultRun) -> None:
    """The limit comes during one long utterance, which goes on in the next LiveAvatar session."""
    run.double_billing_s = SHORT_LIMIT_S / 3 + 1
    session = await run.start_live()
    await run.measure_silences(run.say_live(session, SHORT_LIMIT_S + 2))
    await run.end(session)
    _expect_next_generation(run, session)


def _expect_next_generation(run: FaultRun, session: Session) -> None:
    report = run.subjects[session.key].report
    billed = [one for one in report.generations if one.started_at] if report else []
    run.expect(len(billed) >= 2, "the fault happens", f"{len(billed)} LiveAvatar sessions", session)


FAULTS: Final = (
    Fault(
        name="socket-drop",
        what="socket cut in live speech: silence",
        inject=socket_drop,
        bound_ms=1000,
    ),
    Fault(
        name="black-hole",
        what="socket falls silent in live speech: silence",
        inject=black_hole,
        bound_ms=5000,
    ),
    Fault(
        name="never-connected",
        what="socket cut, the next never connects: silence",
        inject=never_connected,
        bound_ms=17_000,
        load=MachineLoad.WAITS,
        takes_s=22,
    ),
    Fault(
        name="provider-ended",
        what="LiveAvatar ends it in live speech: silence",
        inject=provider_ended,
        bound_ms=5000,
    ),
    Fault(
        name="freeze",
        what="LiveAvatar freezes in live speech: silence",
        inject=freeze,
        bound_ms=15_000,
        load=MachineLoad.WAITS,
        takes_s=20,
    ),
    Fault(
        name="rotation",
        what="limit reached between utterances: pause between them",
        inject=rotation,
        bound_ms=PAUSE_MS,
        environment_kind=EnvironmentKind.SHORT_LIMIT,
        load=MachineLoad.WAITS,
        takes_s=25,
    ),
    Fault(
        name="rotation-in-speech",
        what="limit reached in one long utterance: silence",
        inject=rotation_in_speech,
        bound_ms=PAUSE_MS,
        environment_kind=EnvironmentKind.SHORT_LIMIT,
        load=MachineLoad.WAITS,
        takes_s=30,
    ),
)
