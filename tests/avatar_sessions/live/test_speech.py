"""Live speech as its speaker sees it: in order, with back-pressure, cut on request."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from avatar_sessions import (
    AnswerTimedOut,
    InvalidArgument,
    LiveSpeechClosed,
    LiveSpeechMisused,
    SpeechInterrupted,
    UtteranceOutcome,
)
from avatar_sessions.live.utterance import MAX_IN_FLIGHT
from liveavatar_lite import BadAudio
from tests.support.speech.fake_ingress import TICKET, FakeIngress
from tests.support.speech.live_speech import SECOND, live_to, speech
from tests.support.waiting import until

# ---------------------------------------------------------------- speech


async def test_speech_arrives_in_order_and_to_the_byte(ingress: FakeIngress) -> None:
    first, second = speech(1.5, 1), speech(0.7, 2)

    async with live_to(ingress) as live:
        async with live.utterance("One.", utterance_id="u-1") as one:
            for at in range(0, len(first), 7_000):
                await one.write(first[at : at + 7_000])
        async with live.utterance(utterance_id="u-2") as two:
            await two.write(second)
        reports = [await one.result(), await two.result()]

    assert (ingress.pcm("u-1"), ingress.pcm("u-2")) == (first, second)
    assert [report.outcome for report in reports] == [UtteranceOutcome.COMPLETED] * 2
    assert [report.heard_ms for report in reports] == [1500, 700]
    assert ingress.kinds() == ["live.begin", "agent.speak_end"] * 2
    assert ingress.begins()[0].text == "One."
    assert ingress.tickets == [f"Bearer {TICKET}"]


async def test_a_long_piece_is_sent_in_frames_of_a_second_at_most(ingress: FakeIngress) -> None:
    async with live_to(ingress) as live, live.utterance(utterance_id="u") as one:
        await one.write(speech(3.3))
    assert ingress.pcm("u") == speech(3.3)
    assert max(ingress.frames) == SECOND


async def test_tiny_pieces_are_sent_together(ingress: FakeIngress) -> None:
    pcm = speech(0.5)

    async with live_to(ingress) as live, live.utterance(utterance_id="u") as one:
        for at in range(0, len(pcm), 96):  # 2 ms each, 250 of them
            await one.write(pcm[at : at + 96])

    assert ingress.pcm("u") == pcm
    assert len(ingress.frames) <= 26


async def test_a_tiny_piece_waits_only_briefly_for_more(ingress: FakeIngress) -> None:
    async with live_to(ingress) as live, live.utterance(utterance_id="u") as one:
        await one.write(b"\1\0" * 10)
        await until(lambda: ingress.frames == [20], 5)


async def test_other_rates_and_types_are_converted(ingress: FakeIngress) -> None:
    at_48k = np.sin(np.arange(48_000) / 30).astype(np.float32)

    async with live_to(ingress, sample_rate_hz=48_000) as live:
        async with live.utterance(utterance_id="u") as one:
            for piece in np.split(at_48k, 10):
                await one.write(piece)
        async with live.utterance(utterance_id="v", sample_rate_hz=24_000, channels=2) as two:
            await two.write(np.full((2_400, 2), 77, np.int16))

    assert len(ingress.pcm("u")) == SECOND
    assert ingress.pcm("v") == b"\x4d\0" * 2_400


async def test_pieces_may_end_in_the_middle_of_a_sample(ingress: FakeIngress) -> None:
    pcm = speech(0.2)

    async with live_to(ingress) as live, live.utterance(utterance_id="u") as one:
        for at in range(0, len(pcm), 101):
            await one.write(bytearray(pcm[at : at + 101]))
        await one.write(b"")

    assert ingress.pcm("u") == pcm


async def test_bad_audio_is_refused_and_the_utterance_goes_on(
    ingress: FakeIngress,
) -> None:
    async with live_to(ingress) as live:
        async with live.utterance(utterance_id="u") as one:
            with pytest.raises(BadAudio, match="NaN"):
                await one.write(np.full(100, np.nan, np.float32))
            await one.write(speech(0.1))
        assert (await one.result()).outcome is UtteranceOutcome.COMPLETED
    assert ingress.pcm("u") == speech(0.1)


async def test_an_utterance_without_speech_is_finished_as_well(ingress: FakeIngress) -> None:
    async with live_to(ingress) as live:
        async with live.utterance() as one:
            pass
        assert (await one.result()).outcome is UtteranceOutcome.COMPLETED


# ---------------------------------------------------------------- the window


async def test_write_waits_while_the_window_is_full(ingress: FakeIngress) -> None:
    """The fake asserts that no more than the window is ever in flight."""
    ingress.sends_on = False
    pcm = speech(5)

    async with live_to(ingress) as live, live.utterance(utterance_id="u") as one:
        writing = asyncio.create_task(one.write(pcm))
        await until(lambda: sum(ingress.frames) == ingress.window_bytes, 5)
        assert live._outbox.unconfirmed_bytes == ingress.window_bytes
        assert not writing.done()
        await ingress.send_on("u", 2 * SECOND - 10_000)
        await until(lambda: sum(ingress.frames) == ingress.window_bytes + 2 * SECOND - 10_000, 5)
        outgoing = live._outbox.open_utterance
        assert outgoing is not None
        assert len(outgoing.kept) == ingress.window_bytes + outgoing.sent_bytes - outgoing.kept_from
        ingress.sends_on = True
        await ingress.send_on("u", 2 * SECOND)
        await writing

    assert ingress.pcm("u") == pcm


async def test_all_utterances_in_flight_share_the_window(ingress: FakeIngress) -> None:
    ingress.sends_on = ingress.answers = False

    async with live_to(ingress) as live:
        async with live.utterance(utterance_id="u"):
            pass
        async with live.utterance(utterance_id="v") as two:
            await two.write(speech(1.5))
        async with live.utterance(utterance_id="w") as three:
            writing = asyncio.create_task(three.write(speech(1.5)))
            await until(lambda: sum(ingress.frames) == ingress.window_bytes, 5)
            assert not writing.done()
            await ingress.finish("v")
            await writing


async def test_an_owner_that_does_not_read_holds_the_speaker_back(
    ingress: FakeIngress,
) -> None:
    ingress.reads = False

    async with live_to(ingress) as live, live.utterance(utterance_id="u") as one:
        writing = asyncio.create_task(one.write(speech(10)))
        await until(lambda: live._outbox.room_bytes == 0, 5)
        assert live._outbox.unconfirmed_bytes <= ingress.window_bytes
        assert not writing.done()
        ingress.reads = True
        await writing

    assert ingress.pcm("u") == speech(10)


# ---------------------------------------------------------------- turns


async def test_the_next_utterance_waits_until_the_last_one_is_finished(
    ingress: FakeIngress,
) -> None:
    async with live_to(ingress) as live:

        async def say(utterance_id: str) -> None:
            async with live.utterance(utterance_id=utterance_id) as one:
                for _ in range(5):
                    await one.write(speech(0.1))
                    await asyncio.sleep(0.001)

        await asyncio.gather(*(say(f"u-{number}") for number in range(4)))

    assert [begin.utterance_id for begin in ingress.begins()] == [
        f"u-{number}" for number in range(4)
    ]
    assert all(one.pcm == speech(0.1) * 5 for one in ingress.speech.values())


async def test_entering_waits_while_too_many_are_in_flight(ingress: FakeIngress) -> None:
    """An owner refuses more utterances than it keeps, and their speech would be lost."""
    ingress.answers = False
    async with live_to(ingress) as live:
        for number in range(MAX_IN_FLIGHT):
            async with live.utterance(utterance_id=f"u-{number}") as one:
                await one.write(speech(0.01))
        entering = asyncio.create_task(live.utterance().__aenter__())
        await until(lambda: ingress.kinds().count("agent.speak_end") == MAX_IN_FLIGHT, 5)
        assert not entering.done()
        await ingress.finish("u-0")
        await entering


async def test_an_utterance_inside_anothers_block_is_an_error_and_no_deadlock(
    ingress: FakeIngress,
) -> None:
    async with live_to(ingress) as live, live.utterance():
        with pytest.raises(LiveSpeechMisused, match="inside another's block"):
            async with live.utterance():
                pass


async def test_misuse_is_an_error_that_says_what_to_do(ingress: FakeIngress) -> None:
    with pytest.raises(InvalidArgument, match="sample_rate_hz"):
        live_to(ingress, sample_rate_hz=1)
    live = live_to(ingress)
    with pytest.raises(LiveSpeechClosed):
        await live.interrupt()
    async with live:
        one = live.utterance()
        with pytest.raises(LiveSpeechMisused, match="was not entered"):
            await one.write(b"")
        async with one:
            with pytest.raises(LiveSpeechMisused, match="leave it"):
                await one.result()
        with pytest.raises(LiveSpeechMisused, match="block has ended"):
            await one.write(b"")
        with pytest.raises(LiveSpeechMisused, match="entered once"):
            async with one:
                pass
        with pytest.raises(InvalidArgument, match="utterance_id"):
            live.utterance(utterance_id="no spaces")
        with pytest.raises(LiveSpeechMisused, match="entered once"):
            async with live:
                pass
    with pytest.raises(LiveSpeechClosed):
        await live.keep_alive()


# ---------------------------------------------------------------- interrupts


async def test_an_interrupt_ends_the_producers_loop_and_returns_what_was_heard(
    ingress: FakeIngress,
) -> None:
    written, cuts = 0, []

    async with live_to(ingress) as live:
        async with live.utterance(utterance_id="u") as one:
            while True:
                await one.write(speech(0.5))
                written += 1
                if written == 3:
                    await until(lambda: ingress.sent("u") == 72_000, 5)
                    cuts.append(await live.interrupt())
        report = await one.result()

    assert cuts == [SpeechInterrupted("u", 1500)]
    assert (report.outcome, report.heard_ms) == (UtteranceOutcome.INTERRUPTED, 1500)
    assert written == 3
    assert "agent.speak_end" not in ingress.kinds()


async def test_an_interrupt_before_the_first_sample_was_sent(ingress: FakeIngress) -> None:
    async with live_to(ingress) as live:
        async with live.utterance() as one:
            await live.interrupt()
            await one.write(speech(0.1))
            pytest.fail("it was cut before")
        assert (await one.result()).outcome is UtteranceOutcome.INTERRUPTED
    assert ingress.frames == []


async def test_an_interrupt_overtakes_speech_that_waits(ingress: FakeIngress) -> None:
    """Speech in the window was sent already; the rest of a long piece never is."""
    ingress.sends_on = False

    async with live_to(ingress) as live:
        async with live.utterance(utterance_id="u") as one:
            writing = asyncio.create_task(one.write(speech(20)))
            await until(lambda: sum(ingress.frames) == ingress.window_bytes, 5)
            await live.interrupt()
            await writing
        async with live.utterance(utterance_id="v") as two:
            await two.write(speech(0.5))
        assert (await one.result()).outcome is UtteranceOutcome.INTERRUPTED
        assert (await two.result()).outcome is UtteranceOutcome.COMPLETED

    assert sum(ingress.frames) == ingress.window_bytes + SECOND // 2
    assert ingress.kinds()[:3] == ["live.begin", "agent.interrupt", "live.begin"]


async def test_two_interrupts_in_a_row_are_both_answered(ingress: FakeIngress) -> None:
    async with live_to(ingress) as live:
        async with live.utterance(utterance_id="u") as one:
            await one.write(speech(0.5))
            await until(lambda: ingress.sent("u") > 0, 5)
            first, second = await asyncio.gather(live.interrupt(), live.interrupt())
        third = await live.interrupt()

    assert first.utterance_id == "u"
    assert second == SpeechInterrupted("u", 500)
    assert third == SpeechInterrupted(None, 0)


async def test_an_interrupt_that_comes_too_late_leaves_the_utterance_completed(
    ingress: FakeIngress,
) -> None:
    """The utterance ended while the interrupt was in flight: the owner decides."""
    ingress.answers = False

    async with live_to(ingress) as live:
        async with live.utterance(utterance_id="u") as one:
            await one.write(speech(0.5))
        await until(lambda: "agent.speak_end" in ingress.kinds(), 5)
        interrupting = asyncio.create_task(live.interrupt())
        await until(lambda: "agent.interrupt" in ingress.kinds(), 5)
        await ingress.finish("u")
        await ingress.answer_interrupt()
        cut, report = await interrupting, await one.result()

    assert report.outcome is UtteranceOutcome.COMPLETED
    assert cut == SpeechInterrupted(None, 0)


async def test_an_interrupt_that_is_not_answered_times_out(ingress: FakeIngress) -> None:
    ingress.answers = False
    async with live_to(ingress) as live:
        with pytest.raises(AnswerTimedOut, match="interrupt"):
            await live.interrupt(timeout_s=0.05)


async def test_another_speakers_interrupt_ends_the_block_as_well(ingress: FakeIngress) -> None:
    async with live_to(ingress) as live:
        async with live.utterance(utterance_id="u") as one:
            await one.write(speech(0.5))
            await until(lambda: "u" in ingress.speech, 5)
            await ingress.finish("u", UtteranceOutcome.INTERRUPTED)
            while True:
                await one.write(speech(0.1))
        assert (await one.result()).outcome is UtteranceOutcome.INTERRUPTED


# ------------------------------------------------------- errors inside the block


async def test_an_exception_inside_the_block_interrupts_and_propagates(
    ingress: FakeIngress,
) -> None:
    async with live_to(ingress) as live:
        one = live.utterance()

        async def say() -> None:
            async with one:
                await one.write(speech(0.5))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await say()
        assert (await one.result()).outcome is UtteranceOutcome.INTERRUPTED
        async with live.utterance(utterance_id="next") as after:
            await after.write(speech(0.1))
    assert ingress.pcm("next") == speech(0.1)


async def test_a_cancel_inside_the_block_interrupts_and_propagates(ingress: FakeIngress) -> None:
    ingress.sends_on = False
    async with live_to(ingress) as live:
        one = live.utterance(utterance_id="u")

        async def say() -> None:
            async with one:
                await one.write(speech(10))

        saying = asyncio.create_task(say())
        await until(lambda: live._outbox.room_bytes == 0, 5)
        saying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saying
        assert (await one.result()).outcome is UtteranceOutcome.INTERRUPTED


async def test_a_cancel_that_leaves_both_blocks_still_sends_the_interrupt(
    ingress: FakeIngress,
) -> None:
    async def say() -> None:
        async with live_to(ingress) as live, live.utterance(utterance_id="u") as one:
            await one.write(speech(0.5))
            await asyncio.Event().wait()

    saying = asyncio.create_task(say())
    await until(lambda: "u" in ingress.speech, 5)
    saying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saying
    await until(lambda: ingress.kinds()[-1] == "agent.interrupt", 5)


async def test_a_cut_utterance_ends_a_task_group_inside_its_block(
    ingress: FakeIngress,
) -> None:
    async with live_to(ingress) as live:
        async with live.utterance() as one, asyncio.TaskGroup() as group:
            group.create_task(live.interrupt())
            await asyncio.sleep(0)
            while True:
                await one.write(speech(0.01))
        assert (await one.result()).outcome is UtteranceOutcome.INTERRUPTED


# ---------------------------------------------------------------- leaving


async def test_leaving_sends_finished_utterances(ingress: FakeIngress) -> None:
    ingress.sends_on = False
    async with live_to(ingress) as live, live.utterance(utterance_id="u") as one:
        await one.write(speech(2))
    report = await one.result()

    assert ingress.speech["u"].is_finished
    assert ingress.pcm("u") == speech(2)
    assert report.outcome in (UtteranceOutcome.COMPLETED, UtteranceOutcome.LOST)


async def test_a_result_without_the_owners_report_is_lost(ingress: FakeIngress) -> None:
    ingress.answers = False
    async with live_to(ingress) as live, live.utterance("Hello.") as one:
        await one.write(speech(0.5))
    report = await one.result()

    assert report.outcome is UtteranceOutcome.LOST
    assert (report.source, report.text, report.duration_ms) == ("live", "Hello.", 500)
    assert report.failure is not None


async def test_leaving_while_another_task_writes_interrupts_its_utterance(
    ingress: FakeIngress,
) -> None:
    async with live_to(ingress) as live:
        one = live.utterance(utterance_id="u")
        await one.__aenter__()
        await one.write(speech(0.5))
        await until(lambda: "u" in ingress.speech, 5)
    assert ingress.kinds()[-1] == "agent.interrupt"
    await one.__aexit__(None, None, None)
    assert (await one.result()).outcome is not UtteranceOutcome.COMPLETED


# ---------------------------------------------------------------- commands


async def test_poses_and_keep_alive_go_in_band(ingress: FakeIngress) -> None:
    async with live_to(ingress) as live:
        await live.set_pose("listening")
        await live.set_pose("idle")
        await live.keep_alive()
        with pytest.raises(InvalidArgument, match="dancing"):
            await live.set_pose("dancing")  # type: ignore[arg-type]
    assert ingress.kinds() == [
        "agent.start_listening",
        "agent.stop_listening",
        "session.keep_alive",
    ]
