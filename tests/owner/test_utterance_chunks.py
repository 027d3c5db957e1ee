"""An utterance without a server: what it buffers, what is to be sent next, how it ends."""

from __future__ import annotations

import asyncio

import pytest

from avatar_sessions.contract.states import UtteranceOutcome
from liveavatar_lite import BYTES_PER_S, FIRST_CHUNK_S, HOLD_S, IDLE_FLUSH_S, size_bytes
from owner.playback_position import SEGMENT_END_AFTER_S, EarlierPart
from owner.utterance_chunks import (
    RESUME_TIMEOUT_S,
    STALL_TIMEOUT_S,
    AbandonUtterance,
    EndSegment,
    SendChunk,
    SpeechBuffer,
    Utterance,
    WaitFor,
)

FIRST_BYTES = size_bytes(FIRST_CHUNK_S)
SECOND = bytes(BYTES_PER_S)


def utterance_of(earlier: EarlierPart | None = None, *, now_s: float = 0.0) -> Utterance:
    return Utterance("u1", now_s=now_s, max_lead_s=2.0, source="live", earlier=earlier)


def send_all(utterance: Utterance, now_s: float, *, acknowledged: int = 0) -> list[int]:
    """Send chunks while the next step is to send one; returns their sizes."""
    sizes: list[int] = []
    while isinstance(step := utterance.next_step(now_s), SendChunk):
        sizes.append(len(step.chunk))
        utterance.on_chunk_sent(step.chunk, now_s, number=len(sizes), acknowledged=acknowledged)
    return sizes


# --- the buffer -------------------------------------------------------------------------


def test_the_first_chunk_is_short_and_later_ones_last_a_second() -> None:
    buffer = SpeechBuffer()
    buffer.write(bytes(FIRST_BYTES + BYTES_PER_S + 100), 0.0)
    sizes = []
    while (chunk := buffer.next_chunk(0.0)) is not None:
        sizes.append(len(chunk))
        buffer.on_sent(chunk, number=len(sizes), acknowledged=0)
    assert sizes == [FIRST_BYTES, BYTES_PER_S]
    assert buffer.unsent_bytes == 100
    assert (buffer.received_bytes, buffer.sent_bytes) == (sum(sizes) + 100, sum(sizes))


def test_a_chunk_stays_until_it_is_sent() -> None:
    """Sending may fail: the chunk must still be there for the next socket."""
    buffer = SpeechBuffer()
    buffer.write(bytes(FIRST_BYTES), 0.0)
    chunk = buffer.next_chunk(0.0)
    assert chunk is not None
    assert buffer.next_chunk(0.0) is chunk


@pytest.mark.parametrize("due_s", [IDLE_FLUSH_S, HOLD_S])
def test_a_part_of_a_chunk_is_flushed_when_the_writer_pauses_or_it_waited_too_long(
    due_s: float,
) -> None:
    buffer = SpeechBuffer()
    buffer.write(bytes(200), 0.0)
    if due_s == HOLD_S:
        buffer.write(bytes(200), HOLD_S - 0.01)  # the writer does not pause
    assert buffer.next_chunk(due_s - 0.01) is None
    assert buffer.flush_due_s == pytest.approx(due_s)
    assert buffer.next_chunk(due_s) is not None
    assert buffer.flush_due_s is None


def test_samples_cut_in_half_are_put_together() -> None:
    buffer = SpeechBuffer()
    for _ in range(4):
        buffer.write(b"abc", 0.0)
    buffer.finished = True
    assert buffer.next_chunk(0.0) == b"abc" * 4


def test_a_new_writer_goes_on_at_a_whole_sample() -> None:
    buffer = SpeechBuffer()
    buffer.write(b"abc", 0.0)
    assert buffer.received_bytes == 3
    assert buffer.rewind_to_sample() == 2
    buffer.write(b"CD", 0.0)
    buffer.finished = True
    assert buffer.next_chunk(0.0) == b"abCD"


def test_unconfirmed_chunks_are_sent_again_in_order() -> None:
    buffer = SpeechBuffer(offset_bytes=1000)
    buffer.write(bytes(FIRST_BYTES) + b"\1" * BYTES_PER_S + b"\2" * BYTES_PER_S, 0.0)
    for number in (1, 2, 3):
        chunk = buffer.next_chunk(0.0)
        assert chunk is not None
        buffer.on_sent(chunk, number=number, acknowledged=0)
    lost = buffer.take_unconfirmed(acknowledged=1)
    assert [chunk[:1] for chunk in lost] == [b"\1", b"\2"]
    buffer.send_again(lost)
    assert buffer.sent_bytes == 1000 + FIRST_BYTES
    assert buffer.next_chunk(0.0) == lost[0]
    assert buffer.take_unconfirmed(acknowledged=0) == [], "they are forgotten once taken"


# --- what is to be sent next ------------------------------------------------------------


async def test_speech_is_sent_and_then_its_end() -> None:
    utterance = utterance_of()
    utterance.write(SECOND, 0.0)
    utterance.finish()
    assert sum(send_all(utterance, 0.0)) == BYTES_PER_S
    assert utterance.next_step(0.0) == EndSegment(last=True)


async def test_sending_waits_for_the_lead() -> None:
    utterance = utterance_of()
    utterance.write(SECOND * 5, 0.0)
    assert send_all(utterance, 0.0) == [FIRST_BYTES, BYTES_PER_S]
    step = utterance.next_step(0.0)
    assert isinstance(step, WaitFor)
    assert step.seconds == pytest.approx(0.6, abs=0.01)


async def test_a_writer_that_pauses_ends_the_segment_and_not_the_utterance() -> None:
    utterance = utterance_of()
    utterance.write(bytes(FIRST_BYTES), 0.0)
    send_all(utterance, 0.0)
    assert utterance.on_playback_started("u1", 0.1)
    played_out_s = 0.1 + FIRST_CHUNK_S + 0.01
    step = utterance.next_step(played_out_s)
    assert isinstance(step, WaitFor)
    assert step.seconds == pytest.approx(SEGMENT_END_AFTER_S)
    due_s = played_out_s + SEGMENT_END_AFTER_S
    assert utterance.next_step(due_s) == EndSegment(last=False)
    utterance.playback.on_segment_end_sent()
    utterance.on_playback_finished("u1", interrupted=False, now_s=due_s)
    assert not utterance.over
    utterance.write(bytes(FIRST_BYTES), due_s)
    assert utterance.playback.segment_id == "u1~2"


async def test_a_writer_that_brings_nothing_is_given_up() -> None:
    utterance = utterance_of()
    utterance.write(bytes(FIRST_BYTES), 0.0)
    send_all(utterance, 0.0)
    utterance.playback.on_segment_end_sent()
    assert utterance.next_step(1.0) == WaitFor(STALL_TIMEOUT_S - 1.0)
    step = utterance.next_step(STALL_TIMEOUT_S)
    assert isinstance(step, AbandonUtterance)
    assert step.failure.type == "SpeakerStalled"


async def test_a_speaker_that_is_gone_has_less_time_to_come_back() -> None:
    utterance = utterance_of()
    utterance.detach_writer(5.0)
    assert utterance.next_step(5.0) == WaitFor(RESUME_TIMEOUT_S)
    step = utterance.next_step(5.0 + RESUME_TIMEOUT_S)
    assert isinstance(step, AbandonUtterance)
    assert step.failure.type == "SpeakerGone"


async def test_a_speaker_that_comes_back_goes_on() -> None:
    utterance = utterance_of()
    utterance.write(b"abc", 0.0)
    utterance.detach_writer(1.0)
    assert utterance.reattach_writer(2.0) == 2
    step = utterance.next_step(2.0 + RESUME_TIMEOUT_S)
    assert not isinstance(step, AbandonUtterance)


async def test_the_playout_is_woken_by_what_it_waits_for() -> None:
    utterance = utterance_of()
    waiting = asyncio.create_task(utterance.pause(30))
    utterance.next_step(0.0)
    await asyncio.sleep(0)
    utterance.write(b"ab", 0.0)
    await asyncio.wait_for(waiting, 1)
    assert isinstance(utterance.next_step(0.0), WaitFor)  # for a full chunk, or the flush
    waiting = asyncio.create_task(utterance.pause(30))
    await asyncio.sleep(0)
    utterance.write(b"ab", 0.0)
    await asyncio.sleep(0)
    assert not waiting.done(), "a part of a chunk is not what it waits for"
    utterance.write(bytes(FIRST_BYTES), 0.0)
    await asyncio.wait_for(waiting, 1)


async def test_all_who_wait_for_room_are_woken() -> None:
    """Two connections on one utterance: the first one's handler was forgotten, and kept its worker
    from ever ending."""
    utterance = utterance_of()
    utterance.write(SECOND * 35, 0.0)
    waiting = [asyncio.create_task(utterance.wait_for_room(0)) for _ in range(2)]
    await asyncio.sleep(0)
    utterance.end(UtteranceOutcome.INTERRUPTED, 1.0)
    await asyncio.wait_for(asyncio.gather(*waiting), 5)


# --- how it ends ------------------------------------------------------------------------


async def test_it_completes_when_the_last_segment_is_played() -> None:
    utterance = utterance_of()
    utterance.write(SECOND, 0.0)
    utterance.finish()
    send_all(utterance, 0.0)
    utterance.on_playback_started("u1", 0.2)
    utterance.playback.on_segment_end_sent()
    utterance.end_sent = True
    utterance.on_playback_finished("u1", interrupted=False, now_s=1.2)
    report = utterance.report(owner="queue", generation=2)
    assert report.outcome is UtteranceOutcome.COMPLETED
    assert (report.received_ms, report.sent_ms, report.heard_ms) == (1000, 1000, 1000)
    assert (report.played_ms, report.first_audio_ms) == (1000, 200)
    assert (report.owner, report.generation) == ("queue", 2)


async def test_the_first_outcome_stays_and_takes_no_more_speech() -> None:
    utterance = utterance_of()
    utterance.write(SECOND * 3, 0.0)
    utterance.end(UtteranceOutcome.INTERRUPTED, 0.0)
    utterance.end(UtteranceOutcome.COMPLETED, 1.0)
    utterance.write(SECOND, 1.0)
    assert utterance.outcome.result() is UtteranceOutcome.INTERRUPTED
    assert utterance.received_bytes == 3 * BYTES_PER_S


async def test_a_lost_socket_sends_again_what_was_not_confirmed() -> None:
    """ "Nothing confirmed yet" was taken for "a service that never confirms": the report said
    completed, and LiveAvatar had received nothing."""
    utterance = utterance_of()
    utterance.write(SECOND, 0.0)
    utterance.finish()
    send_all(utterance, 0.0)
    utterance.playback.on_segment_end_sent()
    utterance.end_sent = True
    utterance.on_disconnected(0, acknowledges=True)
    assert not utterance.end_sent
    assert utterance.sent_bytes == 0
    assert sum(send_all(utterance, 1.0)) == BYTES_PER_S
    assert utterance.next_step(1.0) == EndSegment(last=True)


async def test_a_service_that_never_confirms_has_taken_everything() -> None:
    utterance = utterance_of()
    utterance.write(SECOND, 0.0)
    utterance.finish()
    send_all(utterance, 0.0)
    utterance.on_disconnected(0, acknowledges=False)
    assert utterance.sent_bytes == BYTES_PER_S
    assert utterance.next_step(1.0) == EndSegment(last=True)


async def test_it_goes_on_where_an_earlier_owner_had_come() -> None:
    earlier = EarlierPart(sent_bytes=BYTES_PER_S, unplayed_s=0.5)
    utterance = utterance_of(earlier, now_s=10.0)
    assert utterance.has_earlier_owner
    assert utterance.adopt_pending
    assert utterance.received_bytes == utterance.sent_bytes == BYTES_PER_S
    utterance.finish()
    assert utterance.next_step(10.0) == EndSegment(last=True)
    assert not utterance.needs_no_report(10.0), "half a second is still to be played"
    assert utterance.needs_no_report(10.5), "the earlier owner got the report of its end"
