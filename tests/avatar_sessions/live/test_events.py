"""Events of live speech: their order, and that an unread queue only loses events."""

from __future__ import annotations

import gc

import pytest

from avatar_sessions import (
    AvatarIdle,
    AvatarListening,
    AvatarTalking,
    SpeechEnded,
    SpeechInterrupted,
    SpeechStateChanged,
    UtteranceOutcome,
)
from avatar_sessions.contract.live_dialect import LiveState
from avatar_sessions.live.events import MAX_UNREAD_EVENTS, EventFeed
from tests.support.speech.fake_ingress import FakeIngress
from tests.support.speech.live_speech import live_to, speech
from tests.support.waiting import until


async def test_readers_get_the_avatars_poses_and_the_state_of_speech(ingress: FakeIngress) -> None:
    ingress.answers = False
    async with live_to(ingress) as live:
        await until(lambda: live.state == "live", 5)
        events = live.events()
        async with live.utterance(utterance_id="u") as one:
            await one.write(speech(0.5))
        await until(lambda: ingress.sent("u") > 0, 5)
        for pose in ("talking", "talking", "listening", "idle", "waving"):
            await ingress.pose(pose)
        await ingress.send(LiveState(state="recovering"))
        await ingress.send(LiveState(state="live"))
        await ingress.finish("u")
        report = await one.result()

    assert [event async for event in events] == [
        AvatarTalking("u"),
        AvatarListening(),
        AvatarIdle(),
        SpeechStateChanged("recovering"),
        SpeechStateChanged("live"),
        SpeechEnded(report),
    ]


async def test_every_reader_gets_an_interrupt_and_the_end_it_causes(
    ingress: FakeIngress,
) -> None:
    async with live_to(ingress) as live:
        await until(lambda: live.state == "live", 5)
        readers = [live.events(), live.events()]
        async with live.utterance(utterance_id="u") as one:
            await one.write(speech(0.5))
            await until(lambda: ingress.sent("u") > 0, 5)
            await live.interrupt()
        await one.result()

    for reader in readers:
        interrupted, ended = [event async for event in reader]
        assert interrupted == SpeechInterrupted("u", 500)
        assert isinstance(ended, SpeechEnded)
        assert ended.utterance.outcome is UtteranceOutcome.INTERRUPTED


async def test_a_break_is_recovering_until_the_owner_is_back(ingress: FakeIngress) -> None:
    async with live_to(ingress) as live:
        await until(lambda: live.state == "live", 5)
        events = live.events()
        ingress.break_off()
        assert await anext(events) == SpeechStateChanged("recovering")
        assert await anext(events) == SpeechStateChanged("live")


async def test_a_reader_that_falls_behind_loses_and_counts_the_oldest() -> None:
    feed = EventFeed()
    slow = feed.reader()
    for number in range(MAX_UNREAD_EVENTS + 10):
        feed.publish(SpeechInterrupted(None, number))
    feed.close()

    read = [event async for event in slow]

    assert slow.dropped == 10
    assert read == [SpeechInterrupted(None, number) for number in range(10, 266)]


async def test_a_reader_without_references_is_forgotten() -> None:
    feed = EventFeed()
    feed.reader()
    gc.collect()
    assert len(feed._readers) == 0


async def test_events_requested_after_the_end_are_empty(ingress: FakeIngress) -> None:
    async with live_to(ingress) as live:
        pass
    assert [event async for event in live.events()] == []


async def test_messages_of_another_release_are_skipped(
    ingress: FakeIngress, caplog: pytest.LogCaptureFixture
) -> None:
    async with live_to(ingress) as live:
        for frame in ("[1]", "}{", '{"type": 7}', '{"type": "live.progress"}', '{"type": "new"}'):
            await ingress.send_frame(frame)
        await ingress.send_frame('{"type": "live.state", "state": "live", "more": 1}')
        await ingress.send_frame(b"\0\0")
        async with live.utterance() as one:
            await one.write(speech(0.1))
        assert (await one.result()).outcome is UtteranceOutcome.COMPLETED
    assert "another release" in caplog.text
    assert ingress.connections == 1
