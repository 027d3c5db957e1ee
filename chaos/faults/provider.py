"""LiveAvatar's own faults in mid-utterance: sockets that break or fall silent, sessions it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from avatar_sessions import AvatarSessionsError
from avatar_sessions.contract.states import FINAL
from chaos.errors import Never, NotAvailable
from chaos.fault import Fault, Load
from chaos.run import Run

SPEECH_S: Final = 10.0
TURNED_WITHIN_S: Final = 40.0


async def socket_drop(run: Run) -> None:
    """The socket is cut without a goodbye."""
    await _broken_socket(run, "dropped_sockets")


async def black_hole(run: Run) -> None:
    """The socket stays, and nothing comes any more."""
    await _broken_socket(run, "black_holes")


async def never_connected(run: Run) -> None:
    """The socket is cut, and the next one opens and never becomes connected."""
    await _broken_socket(run, "dropped_sockets", "never_connected")


async def _broken_socket(run: Run, *faults: str) -> None:
    session = await run.live()
    place_ms = round(run.mid_utterance_ms())
    async with run.going_wrong(**dict.fromkeys(faults, 1), drop_after_ms=place_ms):
        await run.said(run.say_live(session, SPEECH_S))
        left = await run.world.simulator.faults()
        for fault in faults:
            run.expect(left[fault] == 0, "the fault happens", f"{fault} did not")
    await run.end(session)


async def provider_ended(run: Run) -> None:
    """LiveAvatar ends the session by itself: another one goes on with what was said."""
    await _lost_provider(run, run.world.simulator.end)


async def freeze(run: Run) -> None:
    """LiveAvatar stops rendering without a word: found, and another session goes on."""
    await _lost_provider(run, run.world.simulator.freeze)


async def _lost_provider(run: Run, lose: Callable[[str], Awaitable[None]]) -> None:
    session = await run.live()
    speech = run.say_live(session, SPEECH_S)
    speech.must_be = None  # what is said while nobody is there may be lost: it is counted
    await run.until_heard([session], run.mid_utterance_ms())
    lost = await run.provider_id(session)
    await lose(lost)
    ended = False

    async def turned() -> bool:
        nonlocal ended
        try:
            status = await session.status(timeout_s=3)
        except AvatarSessionsError:
            return False
        ended = status.state in FINAL or status.end_reason is not None
        return ended or (status.state == "LIVE" and status.provider_session_id != lost)

    try:
        await run.until(turned, TURNED_WITHIN_S, "another LiveAvatar session is live")
    except Never as error:
        await run.end(session)
        raise NotAvailable(f"nothing notices: {error}") from error
    if not ended:
        await run.said(speech)
    await run.end(session)
    if ended:
        await run.finished(speech)
        raise NotAvailable("the session ends with LiveAvatar's: no next one is opened")


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
        load=Load.WAITS,
        share=0.5,
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
        load=Load.WAITS,
        share=0.5,
        takes_s=20,
    ),
)
