"""Live speech from threads: the same behaviour, with calls that block."""

from __future__ import annotations

import asyncio
import threading

import pytest

from avatar_sessions import (
    BlockingLiveSpeech,
    LiveSpeechClosed,
    LiveSpeechMisused,
    UtteranceOutcome,
)
from liveavatar_lite import BadAudio
from tests.support.speech.fake_ingress import FakeIngress
from tests.support.speech.live_speech import SECOND, live_to, speech
from tests.support.waiting import until


async def test_a_thread_speaks_and_gets_the_report(ingress: FakeIngress) -> None:
    async with live_to(ingress) as live:
        blocking = live.blocking()

        def say() -> UtteranceOutcome:
            blocking.set_pose("listening")
            blocking.keep_alive()
            with blocking.utterance(text="Hello.", utterance_id="u") as one:
                assert one.id == "u"
                for at in range(0, SECOND * 3, 10_000):
                    one.write(pcm[at : at + 10_000])
            return one.result().outcome

        pcm = speech(3)
        outcome = await asyncio.to_thread(say)

    assert outcome is UtteranceOutcome.COMPLETED
    assert ingress.pcm("u") == pcm


async def test_an_interrupt_from_another_thread_ends_the_block(ingress: FakeIngress) -> None:
    ingress.sends_on = False
    async with live_to(ingress) as live:
        blocking = live.blocking()

        def say() -> UtteranceOutcome:
            with blocking.utterance(utterance_id="u") as one:
                while True:
                    one.write(speech(1))
            return one.result().outcome

        saying = asyncio.create_task(asyncio.to_thread(say))
        await until(lambda: sum(ingress.frames) == 2 * SECOND, 5)
        cut = await asyncio.to_thread(blocking.interrupt)
        assert cut.utterance_id == "u"
        assert await saying is UtteranceOutcome.INTERRUPTED


async def test_an_exception_in_the_thread_interrupts_and_propagates(ingress: FakeIngress) -> None:
    async with live_to(ingress) as live:
        blocking = live.blocking()
        said = []

        def say() -> None:
            with blocking.utterance() as one:
                said.append(one)
                one.write(speech(0.5))
                one.write(3)  # type: ignore[arg-type]

        with pytest.raises((BadAudio, TypeError)):
            await asyncio.to_thread(say)
        report = await asyncio.to_thread(said[0].result)
    assert report.outcome is UtteranceOutcome.INTERRUPTED


async def test_nesting_in_one_thread_is_an_error_and_no_deadlock(ingress: FakeIngress) -> None:
    async with live_to(ingress) as live:
        blocking = live.blocking()

        def say() -> None:
            with blocking.utterance() as one:
                with pytest.raises(LiveSpeechMisused, match="inside another's block"):
                    blocking.utterance().__enter__()
                with pytest.raises(LiveSpeechMisused, match="leave it"):
                    one.result()

        await asyncio.to_thread(say)


async def test_a_call_on_the_loops_own_thread_is_an_error_and_no_deadlock(
    ingress: FakeIngress,
) -> None:
    async with live_to(ingress) as live:
        blocking = live.blocking()
        with pytest.raises(LiveSpeechMisused, match="wait for itself"):
            blocking.interrupt()
        with pytest.raises(LiveSpeechMisused, match="wait for itself"):
            blocking.utterance()


def test_a_call_that_arrives_while_the_loop_closes_raises() -> None:
    """asyncio accepts such a call and never runs it: the thread waited for ever."""
    loop = asyncio.new_event_loop()
    errors: list[BaseException] = []

    async def opened() -> BlockingLiveSpeech:
        async with FakeIngress() as ingress, live_to(ingress) as live:
            return live.blocking()

    blocking = loop.run_until_complete(opened())

    def call() -> None:
        try:
            blocking.interrupt()  # the loop is neither running nor closed yet
        except LiveSpeechClosed as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    loop.close()
    thread.join(10)
    assert not thread.is_alive()
    assert errors


def test_a_call_of_a_thread_that_outlives_the_loop_raises() -> None:
    """The program ended while a thread still waited for room in the window."""
    errors: list[BaseException] = []
    started = threading.Event()

    async def program() -> threading.Thread:
        async with FakeIngress() as ingress:
            ingress.sends_on = False
            async with live_to(ingress) as live:
                blocking = live.blocking()

                def say() -> None:
                    try:
                        with blocking.utterance() as one:
                            started.set()
                            while True:
                                one.write(speech(1))
                    except LiveSpeechClosed as error:
                        errors.append(error)
                    try:
                        blocking.keep_alive()
                    except LiveSpeechClosed as error:
                        errors.append(error)

                thread = threading.Thread(target=say)
                thread.start()
                await asyncio.to_thread(started.wait, 10)
                await until(lambda: live._outbox.room_bytes == 0, 5)
        return thread

    thread = asyncio.run(program())
    thread.join(10)
    assert not thread.is_alive()
    assert errors
