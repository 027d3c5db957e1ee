"""The playback core. Time is an argument, so every assertion is exact."""

from __future__ import annotations

import numpy as np
import pytest

from liveavatar_lite.audio import BYTES_PER_S
from liveavatar_lite.messages import AgentState
from liveavatar_simulator.playback import (
    Cleared,
    PlaybackEvent,
    PlaybackTimes,
    PoseTaken,
    SimulatedPlayback,
    SpeechBegun,
    SpeechCut,
    SpeechFinished,
    SpokenState,
    SpokenUtterance,
    Starved,
)

TIMES = PlaybackTimes(
    start_buffer_s=0.4, start_latency_s=0.2, interrupt_delay_s=0.19, starvation_s=1.0
)


def sound(seconds: float) -> bytes:
    return b"\1\1" * round(seconds * BYTES_PER_S / 2)


def heard_s(pcm: bytes) -> float:
    return float(np.count_nonzero(np.frombuffer(pcm, "<i2"))) * 2 / BYTES_PER_S


def kinds(events: list[PlaybackEvent]) -> list[type[PlaybackEvent]]:
    return [type(event) for event in events]


def new_playback() -> SimulatedPlayback:
    return SimulatedPlayback(TIMES, now_s=100.0)


def test_without_speech_the_time_that_passed_is_silence() -> None:
    pcm, events = new_playback().advance(100.5)

    assert len(pcm) == BYTES_PER_S // 2
    assert heard_s(pcm) == 0
    assert events == []


def test_speech_begins_one_latency_after_enough_audio() -> None:
    playback = new_playback()
    playback.append(sound(0.3), "u", now_s=100.0)
    assert playback.advance(101.0)[1] == []

    playback.append(sound(0.1), "u", now_s=101.0)

    assert playback.advance(101.19)[1] == []
    _, events = playback.advance(101.21)
    assert kinds(events) == [PoseTaken, SpeechBegun]
    assert playback.pose is AgentState.TALKING


def test_after_finish_any_amount_of_audio_is_enough() -> None:
    playback = new_playback()
    playback.append(sound(0.05), "u", now_s=100.0)
    playback.finish("u", None, now_s=100.0)

    pcm, events = playback.advance(101.0)

    assert heard_s(pcm) == pytest.approx(0.05)
    assert kinds(events) == [PoseTaken, SpeechBegun, SpeechFinished, PoseTaken]
    assert playback.pose is AgentState.IDLE


def test_finish_may_carry_a_last_piece() -> None:
    playback = new_playback()
    playback.append(sound(0.4), "u", now_s=100.0)
    playback.finish("u", sound(0.1), now_s=100.0)

    pcm, _ = playback.advance(101.0)

    assert heard_s(pcm) == pytest.approx(0.5)


def test_every_sample_is_played_once_whatever_the_steps() -> None:
    random = np.random.default_rng(3)
    playback = new_playback()
    samples = random.integers(1, 3000, 60_001, dtype="<i2")
    sent = samples.tobytes()
    for begin in range(0, len(sent), 20_000):
        playback.append(sent[begin : begin + 20_000], "u", now_s=100.0)
    playback.finish("u", None, now_s=100.0)

    now_s, heard = 100.0, b""
    while now_s < 104:
        now_s += float(random.uniform(0.001, 0.09))
        heard += playback.advance(now_s)[0]

    numbers = np.frombuffer(heard, "<i2")
    assert np.array_equal(numbers[numbers != 0], samples)


def test_utterances_follow_each_other_without_overlap() -> None:
    playback = new_playback()
    for name in ("a", "b"):
        playback.append(sound(0.5), name, now_s=100.0)
        playback.finish(name, None, now_s=100.0)

    pcm, events = playback.advance(102.0)

    assert heard_s(pcm) == pytest.approx(1.0)
    begun_and_finished = [
        (type(e), e.utterance.event_id)
        for e in events
        if isinstance(e, SpeechBegun | SpeechFinished)
    ]
    assert begun_and_finished == [
        (SpeechBegun, "a"),
        (SpeechFinished, "a"),
        (SpeechBegun, "b"),
        (SpeechFinished, "b"),
    ]


def test_chunks_with_other_ids_belong_to_the_open_utterance() -> None:
    playback = new_playback()
    first = playback.append(sound(0.2), "one", now_s=100.0)
    second = playback.append(sound(0.2), "two", now_s=100.0)

    assert first is second
    assert first.event_id == "one"


def test_finish_without_an_open_utterance_has_no_effect() -> None:
    playback = new_playback()

    assert playback.finish("u", None, now_s=100.0) is None
    assert playback.advance(101.0)[1] == []


def test_an_interrupt_stops_playback_after_its_delay() -> None:
    playback = new_playback()
    utterance = playback.append(sound(3), "u", now_s=100.0)
    playback.advance(101.2)

    playback.interrupt("i", now_s=101.2)
    before, nothing = playback.advance(101.38)
    after, events = playback.advance(102.0)

    assert nothing == []
    assert heard_s(before) == pytest.approx(0.18)
    assert heard_s(after) == pytest.approx(0.01, abs=0.011)
    assert kinds(events) == [Cleared, SpeechCut, PoseTaken]
    assert isinstance(events[0], Cleared)
    assert events[0].event_id == "i"
    assert utterance.state is SpokenState.INTERRUPTED
    assert utterance.played_bytes / BYTES_PER_S == pytest.approx(1.19, abs=0.011)


def test_audio_after_an_interrupt_opens_a_new_utterance_that_is_played() -> None:
    playback = new_playback()
    old = playback.append(sound(3), "u", now_s=100.0)
    playback.advance(101.0)
    playback.interrupt("i", now_s=101.0)

    new = playback.append(sound(0.5), "v", now_s=101.05)
    playback.finish("v", None, now_s=101.05)
    playback.advance(103.0)

    assert new is not old
    assert new.state is SpokenState.PLAYED


def test_an_interrupt_when_nothing_plays_only_clears() -> None:
    playback = new_playback()
    playback.interrupt("i", now_s=100.0)

    assert kinds(playback.advance(101.0)[1]) == [Cleared]


def test_an_interrupt_drops_waiting_utterances() -> None:
    playback = new_playback()
    playing = playback.append(sound(2), "a", now_s=100.0)
    playback.finish("a", None, now_s=100.0)
    waiting = playback.append(sound(2), "b", now_s=100.0)
    playback.advance(101.0)

    playback.interrupt("i", now_s=101.0)
    _, events = playback.advance(102.0)

    assert kinds(events) == [Cleared, SpeechCut, PoseTaken]
    assert (playing.state, waiting.state) == (
        SpokenState.INTERRUPTED,
        SpokenState.DROPPED,
    )


def test_an_open_utterance_without_audio_starves_and_can_resume() -> None:
    playback = new_playback()
    utterance = playback.append(sound(0.5), "u", now_s=100.0)
    _, events = playback.advance(103.0)
    assert kinds(events) == [PoseTaken, SpeechBegun, Starved, PoseTaken]
    assert utterance.state is SpokenState.STARVED

    playback.append(sound(0.5), "u", now_s=103.0)
    playback.finish("u", None, now_s=103.0)
    _, events = playback.advance(105.0)

    assert kinds(events) == [PoseTaken, SpeechFinished, PoseTaken]
    assert utterance.played_bytes == utterance.sent_bytes


def test_a_short_gap_in_the_audio_is_no_starvation() -> None:
    playback = new_playback()
    playback.append(sound(0.5), "u", now_s=100.0)
    playback.advance(101.5)
    playback.append(sound(0.5), "u", now_s=101.5)

    pcm, events = playback.advance(102.0)

    assert events == []
    assert heard_s(pcm) == pytest.approx(0.5)


def silences_of(utterance: SpokenUtterance) -> list[tuple[float, float]]:
    """Begin and length of each, in ms since the utterance's first sound."""
    assert utterance.began_s is not None
    return [
        (
            round((each.begin_s - utterance.began_s) * 1000),
            round((each.end_s - each.begin_s) * 1000),
        )
        for each in utterance.silences
    ]


def test_a_silence_is_recorded_with_its_position_and_length() -> None:
    playback = new_playback()
    utterance = playback.append(sound(0.5), "u", now_s=100.0)
    playback.advance(101.0)  # played from 100.2 to 100.7
    playback.append(sound(0.5), "u", now_s=101.0)
    playback.advance(101.53)  # to 101.5
    playback.append(sound(0.5), "u", now_s=101.53)
    playback.finish("u", None, now_s=101.53)
    playback.advance(103.0)

    assert silences_of(utterance) == [(500, 300)], "30 ms are below the limit"
    assert utterance.began_s == pytest.approx(100.2)
    assert utterance.sounded_until_s == pytest.approx(102.03, abs=0.011)


def test_a_silence_with_starvation_ends_with_the_next_sound() -> None:
    playback = new_playback()
    utterance = playback.append(sound(0.5), "u", now_s=100.0)
    playback.advance(103.0)
    playback.append(sound(0.5), "u", now_s=103.0)
    playback.advance(104.0)

    assert silences_of(utterance) == [(500, 2500)], "including the latency of the new begin"


@pytest.mark.parametrize("outcome", ["played", "interrupted", "cut"])
def test_a_late_end_is_a_silence_at_the_end(outcome: str) -> None:
    playback = new_playback()
    utterance = playback.append(sound(0.5), "u", now_s=100.0)
    playback.advance(101.0)
    if outcome == "played":
        playback.finish("u", None, now_s=101.0)
    elif outcome == "interrupted":
        playback.interrupt("i", now_s=101.0 - TIMES.interrupt_delay_s)
    else:
        playback.cut()
    playback.advance(102.0)

    assert utterance.state == outcome
    assert silences_of(utterance) == [(500, 300)]
    assert utterance.sounded_until_s == pytest.approx(100.7)


def test_an_utterance_that_is_sent_in_time_has_no_silence() -> None:
    playback = new_playback()
    utterance = playback.append(sound(0.5), "u", now_s=100.0)
    playback.append(sound(3), "u", now_s=100.6)
    playback.finish("u", None, now_s=101.0)
    waiting = playback.append(sound(0.5), "v", now_s=101.0)
    playback.finish("v", None, now_s=101.0)
    playback.advance(110.0)

    assert silences_of(utterance) == silences_of(waiting) == []


def test_listening_begins_immediately_when_idle_and_after_speech_when_talking() -> None:
    playback = new_playback()
    playback.listen(True)
    _, events = playback.advance(100.1)
    assert events == [PoseTaken(AgentState.IDLE, AgentState.LISTENING)]

    playback.append(sound(0.5), "u", now_s=100.1)
    playback.finish("u", None, now_s=100.1)
    _, events = playback.advance(102.0)

    poses = [event.new for event in events if isinstance(event, PoseTaken)]
    assert poses == [AgentState.TALKING, AgentState.LISTENING]


def test_the_end_of_the_session_cuts_utterances() -> None:
    playback = new_playback()
    utterance = playback.append(sound(5), "u", now_s=100.0)
    playback.advance(101.0)

    playback.cut()

    assert utterance.state is SpokenState.CUT
    assert heard_s(playback.advance(102.0)[0]) == 0


def test_a_final_state_cannot_be_left() -> None:
    playback = new_playback()
    utterance = playback.append(sound(5), "u", now_s=100.0)
    playback.cut()

    with pytest.raises(RuntimeError, match="is cut cannot become playing"):
        utterance.become(SpokenState.PLAYING)
