"""Lost, repeated, reordered and silent speech is counted to the sample."""

from __future__ import annotations

import numpy as np
import pytest

from chaos.position_code import (
    MAX_PIECES,
    SAMPLES_PER_MS,
    PlayedSpeech,
    PositionCode,
    Recording,
    Samples,
    SilentGap,
    analyze_recordings,
    analyze_samples,
)

CODE = PositionCode(first_piece=0, pieces=1000)
SAID = CODE.samples()


def silence(ms: float) -> Samples:
    return np.zeros(round(ms * SAMPLES_PER_MS), dtype=np.int16)


def said(begin_ms: float, end_ms: float) -> Samples:
    return SAID[round(begin_ms * SAMPLES_PER_MS) : round(end_ms * SAMPLES_PER_MS)]


def heard(*parts: Samples) -> PlayedSpeech:
    return analyze_samples(CODE, np.concatenate(parts))


def test_speech_heard_unchanged_is_whole() -> None:
    played = heard(silence(120), SAID, silence(50))
    assert played.is_whole
    assert (played.began_ms, played.ended_ms) == (120, 1120)
    assert played.silences == ()
    assert played.longest_silence_ms == 0


def test_bytes_are_read_as_samples() -> None:
    assert analyze_samples(CODE, SAID.tobytes()) == analyze_samples(CODE, SAID)


def test_speech_that_was_never_heard_is_lost() -> None:
    assert analyze_samples(CODE, b"") == PlayedSpeech(None, None, 1000, 0, 0, 0, ())
    assert heard(silence(5000)).lost_ms == 1000


def test_a_hole_counts_as_lost_only() -> None:
    played = heard(said(0, 300), said(420, 1000))
    assert (played.lost_ms, played.repeated_ms, played.out_of_order_ms) == (120, 0, 0)


def test_a_silence_inside_has_a_position_and_loses_nothing() -> None:
    played = heard(silence(10), said(0, 300), silence(250), said(300, 1000), silence(900))
    assert played.silences == (SilentGap(310, 250),)
    assert played.is_whole


def test_silence_before_and_after_is_not_inside() -> None:
    assert heard(silence(400), SAID, silence(4000)).silences == ()


def test_several_silences_are_separate() -> None:
    played = heard(said(0, 100), silence(20), said(100, 200), silence(70), said(200, 1000))
    assert [one.duration_ms for one in played.silences] == [20, 70]
    assert played.longest_silence_ms == 70


def test_a_step_back_is_repeated_and_not_out_of_order() -> None:
    """An owner that takes over may begin a little too early."""
    played = heard(said(0, 600), said(450, 1000))
    assert (played.lost_ms, played.repeated_ms, played.out_of_order_ms) == (0, 150, 0)


def test_speech_heard_after_later_speech_is_out_of_order() -> None:
    played = heard(said(0, 200), said(400, 1000), said(200, 400))
    assert (played.lost_ms, played.repeated_ms, played.out_of_order_ms) == (0, 0, 200)


def test_two_owners_speaking_together_are_repetition() -> None:
    both = [said(at, at + 10) for at in range(0, 500, 10) for _ in range(2)]
    played = heard(*both, said(500, 1000))
    assert (played.lost_ms, played.repeated_ms, played.out_of_order_ms) == (0, 500, 0)


def test_fractions_of_a_millisecond_count() -> None:
    """A cut need not be at a millisecond: twelve samples are half of one."""
    played = heard(SAID[: 24 * 500 + 12], SAID[24 * 501 :])
    assert (played.lost_ms, played.repeated_ms) == (0.5, 0)
    played = heard(SAID[: 24 * 500 + 12], SAID[24 * 500 :])
    assert (played.lost_ms, played.repeated_ms) == (0, 0.5)


def test_loss_repetition_and_silence_are_counted_separately() -> None:
    played = heard(said(0, 400), silence(1500), said(380, 700), said(710, 990))
    assert (played.lost_ms, played.repeated_ms, played.longest_silence_ms) == (20, 20, 1500)


def test_a_truncated_end_is_lost() -> None:
    assert heard(said(0, 640), silence(2000)).lost_ms == 360


def test_other_speech_is_foreign() -> None:
    other = PositionCode(first_piece=CODE.end_piece, pieces=100)
    played = heard(other.samples(), said(0, 500), other.samples(), said(500, 1000))
    assert played.is_whole
    assert played.foreign_ms == 100
    assert played.silences == ()
    assert analyze_samples(other, np.concatenate([SAID, other.samples()])).is_whole


@pytest.mark.parametrize("piece_samples", [1, 24, 72])
@pytest.mark.parametrize(
    "first_piece", [0, 32_700, 32_766, 32_767, 32_768, MAX_PIECES - 200], ids=str
)
def test_every_value_of_a_sample_is_a_piece(first_piece: int, piece_samples: int) -> None:
    code = PositionCode(first_piece=first_piece, pieces=200, piece_samples=piece_samples)
    samples = code.samples()
    assert len(samples) == 200 * piece_samples
    assert len(np.unique(samples)) == 200
    assert 0 not in samples
    played = analyze_samples(code, samples)
    assert played.is_whole
    assert played.lost_ms == 0


def test_long_speech_is_coded_in_longer_pieces() -> None:
    code = PositionCode(first_piece=0, pieces=40_000, piece_samples=72)
    assert code.length_ms == 120_000
    samples = code.samples()
    played = analyze_samples(code, np.concatenate([samples[: 24 * 50_000], samples[24 * 50_100 :]]))
    assert (played.lost_ms, played.repeated_ms) == (100, 0)


def test_random_cuts_are_counted_exactly() -> None:
    """For any cut, the counts are exactly what was cut and repeated."""
    random = np.random.default_rng(7)
    for _ in range(50):
        first, second = sorted(random.integers(1, len(SAID) - 1, 2))
        hole = int(random.integers(0, second - first + 1))
        back = int(random.integers(0, first))
        played = heard(SAID[:first], SAID[first + hole : second], SAID[second - back :])
        lost = SAMPLES_PER_MS * played.lost_ms
        kept = np.zeros(len(SAID), dtype=np.int64)
        kept[:first] += 1
        kept[first + hole : second] += 1
        kept[second - back :] += 1
        by_ms = kept.reshape(-1, SAMPLES_PER_MS).sum(axis=1)
        assert lost == pytest.approx(np.maximum(SAMPLES_PER_MS - by_ms, 0).sum())
        assert played.repeated_ms * SAMPLES_PER_MS == pytest.approx(
            np.maximum(by_ms - SAMPLES_PER_MS, 0).sum()
        )


def test_the_silence_between_two_sessions_follows_the_clock() -> None:
    """The first falls silent at 400 ms and is recorded for 100 ms more; the second begins to be
    recorded 50 ms after that, and to speak after another 200: 350 ms in all."""
    first = Recording(1000.0, np.concatenate([said(0, 400), silence(100)]))
    second = Recording(1000.55, np.concatenate([silence(200), said(380, 1000)]))
    played = analyze_recordings(CODE, [first, second])
    assert [round(one.duration_ms) for one in played.silences] == [350]
    assert (played.lost_ms, played.repeated_ms) == (0, 20)


def test_two_sessions_speaking_together_are_counted_in_full() -> None:
    both = [Recording(0.0, SAID), Recording(0.1, SAID)]
    played = analyze_recordings(CODE, both)
    assert (played.lost_ms, played.repeated_ms, played.silences) == (0, 1000, ())


@pytest.mark.parametrize(
    "wrong",
    [
        {"first_piece": 0, "pieces": 0},
        {"first_piece": -1, "pieces": 5},
        {"first_piece": 0, "pieces": MAX_PIECES + 1},
        {"first_piece": MAX_PIECES, "pieces": 1},
        {"first_piece": 0, "pieces": 1, "piece_samples": 0},
    ],
)
def test_a_range_of_pieces_that_cannot_be_coded_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"speech has|at least"):
        PositionCode(**wrong)
