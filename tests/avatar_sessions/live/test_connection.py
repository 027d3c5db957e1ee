"""Live speech through broken connections, takeovers and ends: a pause, or an error."""

from __future__ import annotations

import asyncio
import random
from http import HTTPStatus

import pytest

from avatar_sessions import (
    LiveSpeechUnavailable,
    LiveSpeechUnreachable,
    SessionMoved,
    SessionOver,
    SpeechInterrupted,
    TemporalUnreachable,
    UtteranceOutcome,
)
from avatar_sessions.contract.live_dialect import CloseCode
from tests.support.speech.fake_ingress import FakeIngress, FakeOwners
from tests.support.speech.live_speech import SECOND, live_to, speech
from tests.support.waiting import until

# ---------------------------------------------------------------- the same owner


@pytest.mark.parametrize("cut_at", [960, 30_000, 2 * SECOND, 3 * SECOND - 2])
async def test_a_broken_connection_loses_and_repeats_no_sample(
    ingress: FakeIngress, cut_at: int
) -> None:
    pcm = speech(4)
    owners = FakeOwners(ingress)
    ingress.cuts_after_bytes = cut_at

    async with live_to(owners) as live:
        async with live.utterance(utterance_id="u") as one:
            for at in range(0, len(pcm), 4_801):
                await one.write(pcm[at : at + 4_801])
        report = await one.result()

    assert ingress.pcm("u") == pcm
    assert report.outcome is UtteranceOutcome.COMPLETED
    assert ingress.connections == 2
    assert (owners.attached, owners.lost_epochs) == (1, [])


async def test_many_breaks_at_any_place_lose_nothing(ingress: FakeIngress) -> None:
    """Also breaks between a begin and its answer, and before anything was confirmed."""
    pcm = speech(6)

    async def break_it() -> None:
        for _ in range(20):
            await until(lambda: ingress.is_connected, 5)
            await asyncio.sleep(random.random() * 0.01)
            ingress.break_off()

    async with live_to(ingress) as live:
        breaking = asyncio.create_task(break_it())
        async with live.utterance(utterance_id="u") as one:
            for at in range(0, len(pcm), 1_999):
                await one.write(pcm[at : at + 1_999])
                await asyncio.sleep(0.001)
            await breaking
        report = await one.result()

    assert ingress.pcm("u") == pcm
    assert report.outcome is UtteranceOutcome.COMPLETED
    assert ingress.connections > 10


async def test_speech_received_and_not_confirmed_is_not_sent_again(
    ingress: FakeIngress,
) -> None:
    ingress.sends_on = False

    async with live_to(ingress) as live:
        async with live.utterance("Words.", utterance_id="u") as one:
            await one.write(speech(1))
            await until(lambda: sum(ingress.frames) == SECOND, 5)
            ingress.break_off()
            await until(lambda: ingress.kinds() == ["live.begin"] * 2, 5)
            await one.write(speech(0.5, 2))
            await until(lambda: sum(ingress.frames) == SECOND * 3 // 2, 5)
            ingress.sends_on = True
        await one.result()

    again = ingress.begins()[1]
    assert (again.offset_bytes, again.text) == (0, "Words.")
    assert ingress.pcm("u") == speech(1) + speech(0.5, 2)


async def test_a_finished_utterance_is_finished_again(ingress: FakeIngress) -> None:
    ingress.answers = False

    async with live_to(ingress) as live:
        async with live.utterance(utterance_id="u") as one:
            await one.write(speech(0.5))
        await until(lambda: "agent.speak_end" in ingress.kinds(), 5)
        ingress.answers = True
        ingress.break_off()
        report = await one.result()

    assert report.outcome is UtteranceOutcome.COMPLETED
    assert ingress.kinds() == ["live.begin", "agent.speak_end"] * 2
    assert ingress.pcm("u") == speech(0.5)


async def test_a_report_lost_with_the_connection_is_sent_again(
    ingress: FakeIngress,
) -> None:
    ingress.answers = False

    async with live_to(ingress) as live:
        async with live.utterance(utterance_id="u") as one:
            await one.write(speech(0.5))
        await until(lambda: "agent.speak_end" in ingress.kinds(), 5)
        ingress.break_off()
        await ingress.finish("u")
        report = await one.result()

    assert report.outcome is UtteranceOutcome.COMPLETED
    assert ingress.kinds().count("agent.speak_end") == 1


async def test_an_interrupt_during_a_break_is_sent_on_reconnection(
    ingress: FakeIngress,
) -> None:
    ingress.sends_on = False

    async with live_to(ingress) as live:
        async with live.utterance(utterance_id="u") as one:
            await one.write(speech(1))
            await until(lambda: sum(ingress.frames) == SECOND, 5)
            ingress.break_off()
            cut = await live.interrupt()
        report = await one.result()

    assert cut.utterance_id == "u"
    assert report.outcome is UtteranceOutcome.INTERRUPTED
    assert ingress.kinds() == ["live.begin", "live.begin", "agent.interrupt"]


async def test_an_unanswered_interrupt_does_not_cut_a_later_utterance(
    ingress: FakeIngress,
) -> None:
    """The owner interrupted, and the connection broke before its answer.

    Sent again, the interrupt would cut the next utterance, which is playing by now.
    """
    ingress.answers = False

    async with live_to(ingress) as live:
        async with live.utterance(utterance_id="u") as one:
            await one.write(speech(0.5))
            await until(lambda: ingress.sent("u") == SECOND // 2, 5)
            interrupting = asyncio.create_task(live.interrupt())
            await until(lambda: "agent.interrupt" in ingress.kinds(), 5)
        async with live.utterance(utterance_id="v") as two:
            await two.write(speech(1))
            await until(lambda: ingress.sent("v") == SECOND, 5)
            ingress.note_over("u", UtteranceOutcome.INTERRUPTED)
            ingress.answers = True
            ingress.break_off()
            cut = await interrupting
        reports = [await one.result(), await two.result()]

    assert ingress.kinds().count("agent.interrupt") == 1
    assert cut.utterance_id == "u"
    assert [report.outcome for report in reports] == [
        UtteranceOutcome.INTERRUPTED,
        UtteranceOutcome.COMPLETED,
    ]
    assert ingress.pcm("v") == speech(1)


async def test_a_connection_without_an_answer_to_begin_is_given_up(
    ingress: FakeIngress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avatar_sessions.live.outbox.ANSWER_TIMEOUT_S", 0.05)
    async with live_to(ingress) as live:
        async with live.utterance(utterance_id="u") as one:
            await one.write(speech(0.5))
            await until(lambda: ingress.sent("u") == SECOND // 2, 5)
            ingress.answers_begin = False
            ingress.break_off()
            await until(lambda: ingress.connections >= 3, 5)
            ingress.answers_begin = True
            await one.write(speech(0.5, 2))
        assert (await one.result()).outcome is UtteranceOutcome.COMPLETED
    assert ingress.pcm("u") == speech(0.5) + speech(0.5, 2)


# ---------------------------------------------------------------- another owner


async def test_a_new_owner_resumes_where_the_last_one_had_sent_on(
    ingress: FakeIngress, successor: FakeIngress
) -> None:
    pcm = speech(5)
    owners = FakeOwners(ingress)
    owners.next_owner = successor
    ingress.sends_on = False

    async with live_to(owners) as live:
        events = live.events()
        async with live.utterance("Words.", utterance_id="u") as one:
            writing = asyncio.create_task(one.write(pcm))
            await until(lambda: sum(ingress.frames) == 2 * SECOND, 5)
            await ingress.send_on("u", SECOND, played=SECOND)
            await until(lambda: sum(ingress.frames) == 3 * SECOND, 5)
            ingress.refuses = HTTPStatus.SERVICE_UNAVAILABLE
            await ingress.close(1011)
            await writing
        report = await one.result()
        epoch = live.epoch
    resumed = successor.speech["u"]

    assert resumed.begin.offset_bytes == SECOND
    assert resumed.begin.text == "Words."
    assert 300 <= resumed.begin.silent_ms < 20_000  # the quick attempts alone take so long
    assert bytes(ingress.pcm("u")[:SECOND]) + bytes(resumed.pcm) == pcm
    assert report.outcome is UtteranceOutcome.COMPLETED
    assert owners.lost_epochs == [(1, 1)]
    assert epoch == (1, 2)
    assert SessionMoved((1, 2), 1) in [event async for event in events]


async def test_an_owner_that_says_moved_is_not_reported_as_lost(
    ingress: FakeIngress, successor: FakeIngress
) -> None:
    owners = FakeOwners(ingress)

    async with live_to(owners) as live:
        async with live.utterance(utterance_id="u") as one:
            await one.write(speech(1))
            await until(lambda: ingress.sent("u") == SECOND, 5)
            owners.now = successor
            await ingress.close(CloseCode.MOVED)
            await one.write(speech(1, 2))
        await one.result()

    assert (owners.lost_epochs, owners.attached, ingress.connections) == ([], 2, 1)
    assert successor.pcm("u") == speech(1, 2)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_a_ticket_that_is_refused_is_replaced(
    ingress: FakeIngress, successor: FakeIngress, status: int
) -> None:
    owners = FakeOwners(ingress)

    async with live_to(owners) as live:
        ingress.refuses = HTTPStatus(status)
        owners.now = successor
        ingress.break_off()
        await until(lambda: successor.connections == 1, 5)
        async with live.utterance(utterance_id="u") as one:
            await one.write(speech(0.5))

    assert (owners.lost_epochs, owners.attached) == ([], 2)
    assert len(ingress.tickets) == 2


async def test_an_expired_ticket_is_not_used_again(ingress: FakeIngress) -> None:
    owners = FakeOwners(ingress)
    owners.valid_s = -1

    async with live_to(owners):
        ingress.break_off()
        await until(lambda: ingress.connections == 2, 5)
        assert (owners.lost_epochs, owners.attached) == ([], 2)


async def test_resume_drop_loses_the_utterance_in_flight_at_a_move(
    ingress: FakeIngress, successor: FakeIngress
) -> None:
    owners = FakeOwners(ingress)

    async with live_to(owners, resume="drop") as live:
        async with live.utterance(utterance_id="u") as one:
            await one.write(speech(1))
            await until(lambda: ingress.sent("u") == SECOND, 5)
            owners.now = successor
            await ingress.close(CloseCode.MOVED)
            while True:
                await one.write(speech(0.1))
                await asyncio.sleep(0.01)
        async with live.utterance(utterance_id="v") as two:
            await two.write(speech(0.5))
        reports = [await one.result(), await two.result()]

    assert [report.outcome for report in reports] == [
        UtteranceOutcome.LOST,
        UtteranceOutcome.COMPLETED,
    ]
    assert list(successor.speech) == ["v"]


async def test_resume_drop_still_resumes_at_the_same_owner(ingress: FakeIngress) -> None:
    ingress.cuts_after_bytes = SECOND

    async with live_to(ingress, resume="drop") as live:
        async with live.utterance(utterance_id="u") as one:
            await one.write(speech(2.5))
        assert (await one.result()).outcome is UtteranceOutcome.COMPLETED
    assert ingress.pcm("u") == speech(2.5)


async def test_an_unanswered_interrupt_is_sent_to_the_new_owner(
    ingress: FakeIngress, successor: FakeIngress
) -> None:
    ingress.answers = False
    owners = FakeOwners(ingress)

    async with live_to(owners) as live:
        async with live.utterance(utterance_id="u") as one:
            await one.write(speech(1))
            await until(lambda: ingress.sent("u") == SECOND, 5)
            interrupting = asyncio.create_task(live.interrupt())
            await until(lambda: "agent.interrupt" in ingress.kinds(), 5)
            owners.now = successor
            await ingress.close(CloseCode.MOVED)
            cut = await interrupting
        report = await one.result()

    assert successor.kinds() == ["live.begin", "agent.interrupt"]
    assert successor.speech["u"].begin.offset_bytes == SECOND
    assert cut.utterance_id == "u"
    assert report.outcome is UtteranceOutcome.INTERRUPTED


async def test_an_utterance_cut_at_the_last_owner_is_not_begun_at_the_next(
    ingress: FakeIngress, successor: FakeIngress
) -> None:
    """Its report was lost with the owner: the report is made from what the speaker knows."""
    ingress.answers = False
    owners = FakeOwners(ingress)

    async with live_to(owners) as live:
        async with live.utterance(utterance_id="u") as one:
            await one.write(speech(1))
            await until(lambda: ingress.sent("u") == SECOND, 5)
            interrupting = asyncio.create_task(live.interrupt())
            await until(lambda: "agent.interrupt" in ingress.kinds(), 5)
            await ingress.answer_interrupt(finish=False)
            assert await interrupting == SpeechInterrupted("u", 1000)
            owners.now = successor
            await ingress.close(CloseCode.MOVED)
        report = await one.result()

    assert report.outcome is UtteranceOutcome.INTERRUPTED
    assert successor.kinds() == []


# ---------------------------------------------------------------- no owner


async def test_while_the_owner_is_unknown_the_last_owner_is_tried(
    ingress: FakeIngress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network break cut off Temporal as well: speech goes on once the owner is reachable."""
    monkeypatch.setattr("avatar_sessions.live.connection.LAST_OWNER_EVERY_S", 0.05)
    owners = FakeOwners(ingress)

    async with live_to(owners) as live:
        async with live.utterance(utterance_id="u") as one:
            await one.write(speech(1))
            await until(lambda: ingress.sent("u") == SECOND, 5)
            owners.now = TemporalUnreachable("nowhere", "does not answer")
            ingress.refuses = HTTPStatus.SERVICE_UNAVAILABLE
            ingress.break_off()
            await until(lambda: owners.lost_epochs != [], 5)
            ingress.refuses = None
            await one.write(speech(1, 2))
        assert (await one.result()).outcome is UtteranceOutcome.COMPLETED
    assert ingress.pcm("u") == speech(1) + speech(1, 2)


async def test_entering_raises_if_the_workers_take_no_live_speech() -> None:
    with pytest.raises(LiveSpeechUnavailable, match="'k'"):
        async with live_to(FakeOwners(LiveSpeechUnavailable("k"))):
            pass


async def test_an_unreachable_ingress_is_an_error_with_the_reason(
    ingress: FakeIngress,
) -> None:
    ingress.refuses = HTTPStatus.FORBIDDEN
    with pytest.raises(LiveSpeechUnreachable, match=r"within 0\.3 s.*HTTP 403"):
        async with live_to(ingress, open_timeout_s=0.3):
            pass


async def test_a_server_without_the_dialect_is_sent_no_speech(
    ingress: FakeIngress,
) -> None:
    ingress.speaks_the_dialect = False
    with pytest.raises(LiveSpeechUnreachable, match="does not speak"):
        async with live_to(ingress, open_timeout_s=0.3):
            pass


# ---------------------------------------------------------------- the session's end


async def test_the_sessions_end_is_raised_by_write(ingress: FakeIngress) -> None:
    ingress.sends_on = False
    owners = FakeOwners(ingress)

    async with live_to(owners) as live:
        events = live.events()
        one = live.utterance(utterance_id="u")

        async def say() -> None:
            async with one:
                await one.write(speech(10))

        saying = asyncio.create_task(say())
        await until(lambda: sum(ingress.frames) == 2 * SECOND, 5)
        owners.is_over = SessionOver("k")
        await ingress.end_session()
        with pytest.raises(SessionOver):
            await saying
        assert (await one.result()).outcome is UtteranceOutcome.CANCELLED
        with pytest.raises(SessionOver):
            await live.interrupt()
        with pytest.raises(SessionOver):
            async with live.utterance():
                pass
        assert [type(event).__name__ async for event in events][-1] == "SpeechEnded"


async def test_the_sessions_end_is_raised_by_a_waiting_interrupt(ingress: FakeIngress) -> None:
    ingress.answers = False
    owners = FakeOwners(ingress)
    owners.is_over = SessionOver("k")

    async with live_to(owners) as live:
        interrupting = asyncio.create_task(live.interrupt())
        await until(lambda: ingress.kinds() == ["agent.interrupt"], 5)
        await ingress.end_session()
        with pytest.raises(SessionOver):
            await interrupting


async def test_speech_goes_on_after_the_end_of_one_liveavatar_session(
    ingress: FakeIngress, successor: FakeIngress
) -> None:
    owners = FakeOwners(ingress)

    async with live_to(owners) as live:
        owners.now = successor
        await ingress.end_session()
        async with live.utterance(utterance_id="u") as one:
            await one.write(speech(0.5))
        assert (await one.result()).outcome is UtteranceOutcome.COMPLETED
    assert successor.pcm("u") == speech(0.5)


async def test_a_session_that_ended_without_its_owner_is_over(
    ingress: FakeIngress,
) -> None:
    owners = FakeOwners(ingress)

    async with live_to(owners) as live:
        owners.now = SessionOver("k")
        ingress.refuses = HTTPStatus.NOT_FOUND
        ingress.break_off()
        one = live.utterance()

        async def say() -> None:
            async with one:
                while True:
                    await one.write(speech(0.1))

        with pytest.raises(SessionOver):
            await say()
        assert (await one.result()).outcome is UtteranceOutcome.CANCELLED


async def test_an_utterance_without_reports_is_lost_after_a_while(
    ingress: FakeIngress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("avatar_sessions.live.utterance.NO_REPORT_TIMEOUT_S", 0.1)
    ingress.answers = False
    async with live_to(ingress) as live:
        async with live.utterance() as one:
            await one.write(speech(0.05))
        report = await one.result()
    assert report.outcome is UtteranceOutcome.LOST
    assert report.failure is not None
    assert "reported nothing" in report.failure.message
