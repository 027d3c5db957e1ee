"""The playback account: segments, heard time, gaps, and what is settled without a report."""

from __future__ import annotations

import pytest

from avatar_sessions.contract.states import UtteranceOutcome
from liveavatar_lite import BYTES_PER_S
from owner.playback_position import (
    INTERRUPT_LATENCY_S,
    MAX_GAPS,
    SEGMENT_END_AFTER_S,
    UNREPORTED_START_S,
    USUAL_START_LATENCY_S,
    EarlierPart,
    Playback,
)

LEAD_S = 2.0


def playback_of(earlier: EarlierPart | None = None, now_s: float = 0.0) -> Playback:
    return Playback("u1", max_lead_s=LEAD_S, now_s=now_s, earlier=earlier or EarlierPart())


def test_playback_is_estimated_until_liveavatar_reports_its_start() -> None:
    playback = playback_of()
    playback.on_chunk_sent(BYTES_PER_S, 10.0)
    assert playback.heard_s(10.0 + USUAL_START_LATENCY_S) == 0
    assert playback.heard_s(10.0 + USUAL_START_LATENCY_S + 0.5) == pytest.approx(0.5)
    assert playback.on_started("u1", 11.0)
    assert playback.heard_s(11.25) == pytest.approx(0.25)
    assert playback.unplayed_s(11.25) == pytest.approx(0.75)
    assert playback.first_audio_s == pytest.approx(1.0)


def test_the_first_chunk_waits_for_the_utterances_before_it() -> None:
    playback = playback_of()
    playback.on_chunk_sent(BYTES_PER_S, 0.0, after_s=3.0)
    assert playback.heard_s(3.0) == 0
    assert playback.heard_s(3.5) == pytest.approx(0.5)


def test_sending_waits_for_the_lead() -> None:
    playback = playback_of()
    assert playback.send_wait_s(0.0, BYTES_PER_S) == 0, "nothing is open yet"
    playback.on_chunk_sent(2 * BYTES_PER_S, 0.0)
    playback.on_started("u1", 0.5)
    assert playback.send_wait_s(0.5, BYTES_PER_S) == pytest.approx(1.0)
    assert playback.send_wait_s(1.5, BYTES_PER_S) == 0


def test_heard_time_never_passes_what_was_sent() -> None:
    playback = playback_of()
    playback.on_chunk_sent(BYTES_PER_S, 0.0)
    playback.on_started("u1", 0.0)
    assert playback.heard_s(60.0) == 1.0
    assert playback.unplayed_s(60.0) == 0


def test_a_position_is_certain_up_to_the_last_contact_only() -> None:
    """A connection that is silent may be dead: what the clock says after it may have to be sent
    again."""
    playback = playback_of()
    playback.on_chunk_sent(2 * BYTES_PER_S, 0.0)
    playback.on_started("u1", 0.0)
    playback.last_contact_s = 0.5
    assert playback.heard_s(1.5) == 1.5
    assert playback.heard_bytes(1.5) == BYTES_PER_S // 2


def test_an_open_segment_without_speech_ends_after_it_is_played_out() -> None:
    playback = playback_of()
    assert playback.segment_end_due_s(0.0, 0) is None, "no segment is open"
    playback.on_chunk_sent(BYTES_PER_S, 0.0)
    playback.on_started("u1", 0.0)
    assert playback.segment_end_due_s(0.5, BYTES_PER_S) == pytest.approx(0.5, abs=0.01)
    due_s = playback.segment_end_due_s(1.01, BYTES_PER_S)
    assert due_s == pytest.approx(SEGMENT_END_AFTER_S)
    assert playback.segment_end_due_s(1.01 + SEGMENT_END_AFTER_S, BYTES_PER_S) == 0


def test_a_segment_whose_start_is_not_reported_is_given_time() -> None:
    """LiveAvatar was slow to start, and the segment ended before the avatar had begun it."""
    playback = playback_of()
    playback.on_chunk_sent(BYTES_PER_S // 2, 0.0)
    played_out_s = USUAL_START_LATENCY_S + 0.51
    assert playback.segment_end_due_s(played_out_s, 24_000) == UNREPORTED_START_S
    assert playback.segment_end_due_s(played_out_s + 1.0, 24_000) == UNREPORTED_START_S
    due_s = playback.segment_end_due_s(played_out_s + UNREPORTED_START_S, 24_000)
    assert due_s == pytest.approx(SEGMENT_END_AFTER_S)


def test_a_pause_makes_a_second_segment_and_a_gap() -> None:
    playback = playback_of()
    playback.on_chunk_sent(BYTES_PER_S, 0.0)
    playback.on_started("u1", 0.0)
    playback.segment_end_due_s(1.0, BYTES_PER_S)
    playback.on_segment_end_sent()
    assert not playback.segment_is_open
    assert playback.segment_id == "u1~2"
    assert playback.on_finished("u1", 1.3, cut=False)
    playback.on_chunk_sent(BYTES_PER_S, 2.0)
    assert playback.segment_id == "u1~2"
    assert playback.owns("u1")
    assert playback.owns("u1~2")
    assert not playback.owns("u2")
    playback.on_started("u1~2", 2.25)
    (gap,) = playback.gaps
    assert (gap.at_ms, gap.duration_ms) == (1000, 1250)
    assert playback.unfinished_segments == ["u1~2"]


def test_speech_that_comes_before_the_segment_ends_closes_the_gap() -> None:
    playback = playback_of()
    playback.on_chunk_sent(BYTES_PER_S, 0.0)
    playback.on_started("u1", 0.0)
    playback.segment_end_due_s(1.0, BYTES_PER_S)
    playback.on_chunk_sent(BYTES_PER_S, 1.2)
    (gap,) = playback.gaps
    assert (gap.at_ms, gap.duration_ms) == (1000, 200)
    assert playback.segment_id == "u1"


def test_gaps_are_bounded() -> None:
    playback = playback_of()
    now_s = 0.0
    playback.on_chunk_sent(BYTES_PER_S, now_s)
    playback.on_started("u1", now_s)
    for _ in range(MAX_GAPS + 10):
        now_s += 1.1
        playback.segment_end_due_s(now_s, 0)
        now_s += 0.1
        playback.on_chunk_sent(BYTES_PER_S, now_s)
    assert len(playback.gaps) == MAX_GAPS


def test_silence_between_two_chunks_of_an_open_segment_is_not_its_end() -> None:
    playback = playback_of()
    playback.on_chunk_sent(BYTES_PER_S, 0.0)
    playback.on_started("u1", 0.0)
    assert not playback.on_finished("u1", 1.0, cut=False)
    playback.on_segment_end_sent()
    assert playback.on_finished("u1", 1.0, cut=False)
    assert playback.all_finished
    assert (playback.settled_heard_s, playback.played_s) == (1.0, 1.0)


def test_late_reports_change_nothing() -> None:
    playback = playback_of()
    playback.on_chunk_sent(BYTES_PER_S, 0.0)
    playback.on_started("u1", 0.0)
    assert not playback.on_started("u1", 0.5), "it has started"
    assert playback.on_finished("u1", 0.5, cut=True)
    assert not playback.on_finished("u1", 0.9, cut=True)
    assert not playback.on_started("u1", 0.9)
    assert not playback.on_started("another", 0.9)
    assert playback.settled_heard_s == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("outcome", "heard_s"),
    [
        (UtteranceOutcome.COMPLETED, 4.0),
        (UtteranceOutcome.INTERRUPTED, 1.0 + INTERRUPT_LATENCY_S),
        (UtteranceOutcome.LOST, 0.75),
        (UtteranceOutcome.CANCELLED, 2.0),
        (None, 2.0),
    ],
)
def test_what_liveavatar_does_not_report_is_settled_by_the_outcome(
    outcome: UtteranceOutcome | None, heard_s: float
) -> None:
    """Completed: all of it. Interrupted: up to the interrupt and its latency. Lost: up to the last
    contact, because the avatar may have frozen since. Otherwise: up to now."""
    playback = playback_of()
    playback.on_chunk_sent(4 * BYTES_PER_S, 0.0)
    playback.on_started("u1", 0.0)
    playback.last_contact_s = 0.75
    playback.settle(2.0, outcome, ended_at_s=1.0)
    assert playback.settled_heard_s == pytest.approx(heard_s)
    assert playback.all_finished


def test_settling_keeps_what_was_left_to_play() -> None:
    playback = playback_of()
    playback.on_chunk_sent(4 * BYTES_PER_S, 0.0)
    playback.on_started("u1", 0.0)
    playback.last_contact_s = 1.0
    playback.settle(1.0, UtteranceOutcome.LOST, ended_at_s=1.0)
    assert playback.left_unplayed_s == pytest.approx(3.0)
    playback.settle(2.0, UtteranceOutcome.LOST, ended_at_s=1.0)
    assert playback.left_unplayed_s == pytest.approx(3.0), "the first time counts"


def test_an_earlier_owners_part_is_open_and_plays_on() -> None:
    earlier = EarlierPart(sent_bytes=2 * BYTES_PER_S, unplayed_s=0.5)
    playback = playback_of(earlier, now_s=100.0)
    assert playback.segment_is_open
    assert playback.heard_s(100.0) == pytest.approx(1.5)
    assert playback.heard_s(100.5) == pytest.approx(2.0)
    assert not playback.started, "its start was reported to the earlier owner"
    playback.on_segment_end_sent()
    playback.on_finished("u1", 100.5, cut=False)
    assert playback.settled_heard_s == pytest.approx(2.0)


def test_a_part_in_another_provider_session_is_heard_and_silent() -> None:
    earlier = EarlierPart(
        sent_bytes=2 * BYTES_PER_S, unplayed_s=0.5, silent_ms=300, same_provider_session=False
    )
    playback = playback_of(earlier)
    assert not playback.segment_is_open
    assert playback.heard_s(60.0) == pytest.approx(1.5)
    (gap,) = playback.gaps
    assert (gap.at_ms, gap.duration_ms) == (2000, 300)


def test_no_more_can_be_unplayed_than_was_sent() -> None:
    earlier = EarlierPart(sent_bytes=BYTES_PER_S, unplayed_s=9.0)
    assert playback_of(earlier).heard_s(0.0) == 0.0


def test_a_lost_socket_reopens_the_newest_segment() -> None:
    """All chunks were confirmed and the end was lost with the socket: LiveAvatar waited for it."""
    playback = playback_of()
    assert not playback.reopen(), "there is no segment"
    playback.on_chunk_sent(BYTES_PER_S, 0.0)
    playback.on_segment_end_sent()
    assert playback.reopen()
    assert playback.segment_is_open
    playback.on_chunks_lost(BYTES_PER_S // 2)
    assert playback.unplayed_s(0.0) == pytest.approx(0.5)
    playback.on_finished("u1", 2.0, cut=True)
    assert not playback.reopen(), "it is finished"
