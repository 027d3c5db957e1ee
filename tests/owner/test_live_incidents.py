"""Live speech on one owned session: what went wrong once, told one by one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from pydantic import SecretStr

from avatar_sessions.contract.live_dialect import LiveBegin
from avatar_sessions.contract.states import UtteranceOutcome
from liveavatar_lite import LiteConnection
from liveavatar_simulator import LiveAvatarSimulator
from owner.live_queue import UtteranceNameUsed
from owner.session import OwnedState
from owner.utterance import Utterance
from tests.owner.conftest import OwnerUnderTest, owner_of, simulator_settings
from tests.owner.test_session import commands, tone
from tests.support.waiting import until


def begin(owner: OwnerUnderTest, name: str, seconds: float = 0.0) -> Utterance:
    """Open an utterance, and bring some of it."""
    utterance = owner.session.live.begin(LiveBegin(utterance_id=name))
    assert isinstance(utterance, Utterance)
    utterance.write(tone(seconds), time.monotonic())
    return utterance


def said(owner: OwnerUnderTest) -> list[tuple[str | None, float]]:
    """What LiveAvatar took for utterances, and how much of each was sent to it."""
    return [(one.event_id, one.sent_ms) for one in owner.line.utterances]


async def lines(owner: OwnerUnderTest, count: int) -> list[UtteranceOutcome]:
    await until(lambda: len(owner.lines) == count)
    return [line.outcome for line in owner.lines]


async def socket_is_back(owner: OwnerUnderTest) -> None:
    await until(lambda: owner.losses == 1)
    await asyncio.wait_for(owner.ready.wait(), 20)


async def test_an_utterance_that_was_open_when_the_socket_broke_is_sealed(
    owner: OwnerUnderTest,
) -> None:
    """Nothing more of it came, so the new socket was never told of it: LiveAvatar waited for more,
    and took the next utterance for its rest."""
    owner.simulator.faults.dropped_sockets = 1
    first = begin(owner, "u1", 1.0)
    await socket_is_back(owner)
    first.finish()
    await lines(owner, 1)
    begin(owner, "u2", 0.5).finish()
    assert await lines(owner, 2) == [UtteranceOutcome.COMPLETED] * 2
    assert said(owner) == [("u1", 1000), ("u2", 500)]


async def test_an_utterance_given_up_after_a_break_is_cut(owner: OwnerUnderTest) -> None:
    owner.simulator.faults.dropped_sockets = 1
    first = begin(owner, "u1", 1.0)
    await socket_is_back(owner)
    first.end(UtteranceOutcome.LOST, time.monotonic())
    await lines(owner, 1)
    begin(owner, "u2", 0.5).finish()
    assert await lines(owner, 2) == [UtteranceOutcome.LOST, UtteranceOutcome.COMPLETED]
    assert said(owner) == [("u1", 1000), ("u2", 500)]


async def test_an_end_that_was_lost_with_the_socket_is_sent_again(
    owner: OwnerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All chunks were confirmed and speak_end was on its way when the socket broke."""
    first = begin(owner, "u1", 1.0)
    await until(lambda: first.sent_bytes == 48_000)
    connection = owner.session._connection
    assert connection is not None
    await until(lambda: connection.chunks_acked == connection.chunks_sent)
    monkeypatch.setattr(connection, "_write", lambda *_: True)  # the network takes it and loses it
    first.finish()
    await until(lambda: first.end_sent)
    connection._socket.transport.abort()
    await until(lambda: len(owner.gaps_ms) == 2)
    begin(owner, "u2", 0.5).finish()
    assert await lines(owner, 2) == [UtteranceOutcome.COMPLETED] * 2
    assert said(owner) == [("u1", 1000), ("u2", 500)]


async def test_speech_lost_before_its_first_confirmation_is_said_again(
    owner: OwnerUnderTest,
) -> None:
    """ "Nothing confirmed yet" was taken for "a service that never confirms": the line said
    completed, 1.4 s heard, and LiveAvatar had received nothing."""
    async with swallowing_proxy(owner) as swallow:
        swallow.set()
        begin(owner, "u1", 1.4).finish()
        assert await lines(owner, 1) == [UtteranceOutcome.COMPLETED]
        assert said(owner) == [("u1", 1400)]
        assert owner.line.utterances[0].played_ms == 1400
        await owner.session.close()


@contextlib.asynccontextmanager
async def swallowing_proxy(owner: OwnerUnderTest) -> AsyncIterator[asyncio.Event]:
    """The session's socket through a proxy; the event makes it lose what comes next, and break."""
    url = owner.session._ws_url.get_secret_value()
    there = urlsplit(url)
    swallow = asyncio.Event()

    async def forward(
        reader: asyncio.StreamReader, writers: list[asyncio.StreamWriter], *, up: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if up and swallow.is_set():
                    swallow.clear()
                    break
                writers[0].write(data)
        for writer in writers:
            writer.transport.abort()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(there.hostname, there.port)
        await asyncio.gather(
            forward(reader, [forth, writer], up=True), forward(back, [writer, forth], up=False)
        )

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    owner.session._ws_url = SecretStr(url.replace(f":{there.port}", f":{port}", 1))
    assert owner.session._connection is not None
    owner.session._connection._socket.transport.abort()
    await until(lambda: len(owner.gaps_ms) == 2)
    async with server:
        yield swallow


async def test_an_interrupt_asked_for_without_a_socket_is_sent_by_the_next(
    owner: OwnerUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first new socket broke as it opened, and the interrupt was told as done: LiveAvatar said
    on all that it had."""
    first = begin(owner, "u1", 5.0)
    first.finish()
    await until(lambda: first.heard_s(time.monotonic()) > 0.3)
    opened = LiteConnection.open
    tries = iter((True,))

    async def open_badly(ws_url: SecretStr, **options: float) -> LiteConnection:
        connection = await opened(ws_url, **options)  # type: ignore[arg-type]
        if next(tries, False):
            connection._socket.transport.abort()
            await until(lambda: connection.close_code is not None)
        return connection

    monkeypatch.setattr(LiteConnection, "open", open_badly)
    assert owner.session._connection is not None
    owner.session._connection._socket.transport.abort()
    await until(lambda: owner.session.state is OwnedState.RECONNECTING)
    name, heard_s = await asyncio.wait_for(owner.session.interrupt_in_band("stop"), 20)
    assert name == "u1"
    assert heard_s > 0.3
    assert "agent.interrupt" in commands(owner)
    assert await lines(owner, 1) == [UtteranceOutcome.INTERRUPTED]
    begin(owner, "u2", 0.5).finish()
    assert await lines(owner, 2) == [UtteranceOutcome.INTERRUPTED, UtteranceOutcome.COMPLETED]


async def test_two_who_wait_for_room_are_both_woken(owner: OwnerUnderTest) -> None:
    """Two connections on one utterance: the first one's handler was forgotten, and kept its worker
    from ever ending."""
    flooded = begin(owner, "u1", 35.0)
    waiting = [asyncio.create_task(flooded.wait_for_room(0)) for _ in range(2)]
    await asyncio.sleep(0.05)
    flooded.end(UtteranceOutcome.INTERRUPTED, time.monotonic())
    await asyncio.wait_for(asyncio.gather(*waiting), 5)


async def test_a_name_is_never_used_twice(owner: OwnerUnderTest) -> None:
    """A client that named all its utterances alike lost one after thirty-three, when one layer had
    forgotten the name and another had not."""
    for number in range(36):
        name = "tts" if owner.session.live.is_new("tts") else f"tts-{number}"
        begin(owner, name, 0.02).finish()
        await until(lambda count=number + 1: len(owner.lines) == count)  # type: ignore[misc]
    assert {line.outcome for line in owner.lines} == {UtteranceOutcome.COMPLETED}
    with pytest.raises(UtteranceNameUsed):
        owner.session.live.begin(LiveBegin(utterance_id="tts"))


async def test_a_late_interrupt_spares_speech_that_began_after_it(owner: OwnerUnderTest) -> None:
    """It waited for an owner, and then cut what was begun when it had long been forgotten."""
    spoken = begin(owner, "u1", 0.6)
    spoken.finish()
    await owner.session.interrupt(0, delayed_s=5.0)
    assert await lines(owner, 1) == [UtteranceOutcome.COMPLETED]
    begin(owner, "u2", 3)
    await owner.session.interrupt(0, delayed_s=0.0)
    assert await lines(owner, 2) == [UtteranceOutcome.COMPLETED, UtteranceOutcome.INTERRUPTED]


@pytest_asyncio.fixture
async def slow_owner() -> AsyncIterator[OwnerUnderTest]:
    """LiveAvatar begins to speak a second and a half after it has enough."""
    settings = simulator_settings(speak_start_latency_s=1.5)
    async with LiveAvatarSimulator(settings) as simulator, owner_of(simulator) as owner:
        yield owner


async def test_an_utterance_in_two_parts_is_over_with_the_second(
    slow_owner: OwnerUnderTest,
) -> None:
    """A pause end_sent the first part; its end came when all of the second was sent, and was taken
    for the utterance's: completed, with two seconds that nobody had heard."""
    spoken = begin(slow_owner, "u1", 0.5)
    await until(lambda: "agent.speak_end" in commands(slow_owner))
    spoken.write(tone(2.0), time.monotonic())
    spoken.finish()
    assert await lines(slow_owner, 1) == [UtteranceOutcome.COMPLETED]
    assert slow_owner.lines[0].heard_ms == 2500
    assert sum(one.played_ms for one in slow_owner.line.utterances) == 2500
