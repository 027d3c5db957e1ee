"""The playback core: time is an argument here, so every promise is exact."""

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


def playback() -> SimulatedPlayback:
    return SimulatedPlayback(TIMES, now_s=100.0)


def test_nothing_said_is_silence_of_the_time_that_passed() -> None:
    pcm, events = playback().advance(100.5)

    assert len(pcm) == BYTES_PER_S // 2
    assert heard_s(pcm) == 0
    assert events == []


def test_speech_begins_one_latency_after_enough_audio() -> None:
    mouth = playback()
    mouth.append(sound(0.3), "u", now_s=100.0)
    assert mouth.advance(101.0)[1] == []

    mouth.append(sound(0.1), "u", now_s=101.0)

    assert mouth.advance(101.19)[1] == []
    _, events = mouth.advance(101.21)
    assert kinds(events) == [PoseTaken, SpeechBegun]
    assert mouth.pose is AgentState.TALKING


def test_the_seal_makes_any_amount_of_audio_enough() -> None:
    mouth = playback()
    mouth.append(sound(0.05), "u", now_s=100.0)
    mouth.seal("u", None, now_s=100.0)

    pcm, events = mouth.advance(101.0)

    assert heard_s(pcm) == pytest.approx(0.05)
    assert kinds(events) == [PoseTaken, SpeechBegun, SpeechFinished, PoseTaken]
    assert mouth.pose is AgentState.IDLE


def test_the_seal_may_bring_the_last_piece() -> None:
    mouth = playback()
    mouth.append(sound(0.4), "u", now_s=100.0)
    mouth.seal("u", sound(0.1), now_s=100.0)

    pcm, _ = mouth.advance(101.0)

    assert heard_s(pcm) == pytest.approx(0.5)


def test_every_sample_sent_is_heard_once_whatever_the_steps() -> None:
    random = np.random.default_rng(3)
    mouth = playback()
    samples = random.integers(1, 3000, 60_001, dtype="<i2")
    sent = samples.tobytes()
    for begin in range(0, len(sent), 20_000):
        mouth.append(sent[begin : begin + 20_000], "u", now_s=100.0)
    mouth.seal("u", None, now_s=100.0)

    now_s, heard = 100.0, b""
    while now_s < 104:
        now_s += float(random.uniform(0.001, 0.09))
        heard += mouth.advance(now_s)[0]

    numbers = np.frombuffer(heard, "<i2")
    assert np.array_equal(numbers[numbers != 0], samples)


def test_utterances_follow_each_other_without_overlap() -> None:
    mouth = playback()
    for name in ("a", "b"):
        mouth.append(sound(0.5), name, now_s=100.0)
        mouth.seal(name, None, now_s=100.0)

    pcm, events = mouth.advance(102.0)

    assert heard_s(pcm) == pytest.approx(1.0)
    told = [
        (type(e), e.utterance.event_id)
        for e in events
        if isinstance(e, SpeechBegun | SpeechFinished)
    ]
    assert told == [
        (SpeechBegun, "a"),
        (SpeechFinished, "a"),
        (SpeechBegun, "b"),
        (SpeechFinished, "b"),
    ]


def test_chunks_with_other_ids_belong_to_the_open_utterance() -> None:
    mouth = playback()
    first = mouth.append(sound(0.2), "one", now_s=100.0)
    second = mouth.append(sound(0.2), "two", now_s=100.0)

    assert first is second
    assert first.event_id == "one"


def test_sealing_nothing_says_so_and_nothing_happens() -> None:
    mouth = playback()

    assert mouth.seal("u", None, now_s=100.0) is None
    assert mouth.advance(101.0)[1] == []


def test_an_interrupt_falls_silent_after_its_delay() -> None:
    mouth = playback()
    utterance = mouth.append(sound(3), "u", now_s=100.0)
    mouth.advance(101.2)

    mouth.interrupt("i", now_s=101.2)
    before, nothing = mouth.advance(101.38)
    after, events = mouth.advance(102.0)

    assert nothing == []
    assert heard_s(before) == pytest.approx(0.18)
    assert heard_s(after) == pytest.approx(0.01, abs=0.011)
    assert kinds(events) == [Cleared, SpeechCut, PoseTaken]
    assert isinstance(events[0], Cleared)
    assert events[0].event_id == "i"
    assert utterance.state is SpokenState.INTERRUPTED
    assert utterance.played_bytes / BYTES_PER_S == pytest.approx(1.19, abs=0.011)


def test_what_is_said_after_an_interrupt_is_a_new_utterance_and_is_heard() -> None:
    mouth = playback()
    old = mouth.append(sound(3), "u", now_s=100.0)
    mouth.advance(101.0)
    mouth.interrupt("i", now_s=101.0)

    new = mouth.append(sound(0.5), "v", now_s=101.05)
    mouth.seal("v", None, now_s=101.05)
    mouth.advance(103.0)

    assert new is not old
    assert new.state is SpokenState.PLAYED


def test_an_interrupt_when_nothing_plays_only_clears() -> None:
    mouth = playback()
    mouth.interrupt("i", now_s=100.0)

    assert kinds(mouth.advance(101.0)[1]) == [Cleared]


def test_an_interrupt_drops_what_waits_unheard() -> None:
    mouth = playback()
    playing = mouth.append(sound(2), "a", now_s=100.0)
    mouth.seal("a", None, now_s=100.0)
    waiting = mouth.append(sound(2), "b", now_s=100.0)
    mouth.advance(101.0)

    mouth.interrupt("i", now_s=101.0)
    _, events = mouth.advance(102.0)

    assert kinds(events) == [Cleared, SpeechCut, PoseTaken]
    assert (playing.state, waiting.state) == (
        SpokenState.INTERRUPTED,
        SpokenState.DROPPED,
    )


def test_an_open_utterance_without_audio_starves_and_can_go_on() -> None:
    mouth = playback()
    utterance = mouth.append(sound(0.5), "u", now_s=100.0)
    _, events = mouth.advance(103.0)
    assert kinds(events) == [PoseTaken, SpeechBegun, Starved, PoseTaken]
    assert utterance.state is SpokenState.STARVED

    mouth.append(sound(0.5), "u", now_s=103.0)
    mouth.seal("u", None, now_s=103.0)
    _, events = mouth.advance(105.0)

    assert kinds(events) == [PoseTaken, SpeechFinished, PoseTaken]
    assert utterance.played_bytes == utterance.sent_bytes


def test_a_short_gap_in_the_audio_is_no_starvation() -> None:
    mouth = playback()
    mouth.append(sound(0.5), "u", now_s=100.0)
    mouth.advance(101.5)
    mouth.append(sound(0.5), "u", now_s=101.5)

    pcm, events = mouth.advance(102.0)

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


def test_a_gap_in_the_audio_is_noted_with_its_place_and_length() -> None:
    mouth = playback()
    utterance = mouth.append(sound(0.5), "u", now_s=100.0)
    mouth.advance(101.0)  # heard from 100.2 to 100.7
    mouth.append(sound(0.5), "u", now_s=101.0)
    mouth.advance(101.53)  # to 101.5
    mouth.append(sound(0.5), "u", now_s=101.53)
    mouth.seal("u", None, now_s=101.53)
    mouth.advance(103.0)

    assert silences_of(utterance) == [(500, 300)], "30 ms are not worth a note"
    assert utterance.began_s == pytest.approx(100.2)
    assert utterance.sounded_until_s == pytest.approx(102.03, abs=0.011)


def test_a_gap_that_starves_ends_when_sound_comes_again() -> None:
    mouth = playback()
    utterance = mouth.append(sound(0.5), "u", now_s=100.0)
    mouth.advance(103.0)
    mouth.append(sound(0.5), "u", now_s=103.0)
    mouth.advance(104.0)

    assert silences_of(utterance) == [(500, 2500)], "with the latency of a new beginning"


@pytest.mark.parametrize("outcome", ["played", "interrupted", "cut"])
def test_an_end_that_comes_late_is_a_silence_at_the_end(outcome: str) -> None:
    mouth = playback()
    utterance = mouth.append(sound(0.5), "u", now_s=100.0)
    mouth.advance(101.0)
    if outcome == "played":
        mouth.seal("u", None, now_s=101.0)
    elif outcome == "interrupted":
        mouth.interrupt("i", now_s=101.0 - TIMES.interrupt_delay_s)
    else:
        mouth.cut()
    mouth.advance(102.0)

    assert utterance.state == outcome
    assert silences_of(utterance) == [(500, 300)]
    assert utterance.sounded_until_s == pytest.approx(100.7)


def test_an_utterance_that_is_sent_in_time_has_no_silence() -> None:
    mouth = playback()
    utterance = mouth.append(sound(0.5), "u", now_s=100.0)
    mouth.append(sound(3), "u", now_s=100.6)
    mouth.seal("u", None, now_s=101.0)
    waiting = mouth.append(sound(0.5), "v", now_s=101.0)
    mouth.seal("v", None, now_s=101.0)
    mouth.advance(110.0)

    assert silences_of(utterance) == silences_of(waiting) == []


def test_listening_is_taken_at_once_when_idle_and_after_speech_when_talking() -> None:
    mouth = playback()
    mouth.listen(True)
    _, events = mouth.advance(100.1)
    assert events == [PoseTaken(AgentState.IDLE, AgentState.LISTENING)]

    mouth.append(sound(0.5), "u", now_s=100.1)
    mouth.seal("u", None, now_s=100.1)
    _, events = mouth.advance(102.0)

    poses = [event.new for event in events if isinstance(event, PoseTaken)]
    assert poses == [AgentState.TALKING, AgentState.LISTENING]


def test_the_end_of_the_session_cuts_whatever_is_left() -> None:
    mouth = playback()
    utterance = mouth.append(sound(5), "u", now_s=100.0)
    mouth.advance(101.0)

    mouth.cut()

    assert utterance.state is SpokenState.CUT
    assert heard_s(mouth.advance(102.0)[0]) == 0


def test_an_utterance_that_is_over_stays_over() -> None:
    mouth = playback()
    utterance = mouth.append(sound(5), "u", now_s=100.0)
    mouth.cut()

    with pytest.raises(RuntimeError, match="is cut cannot become playing"):
        utterance.become(SpokenState.PLAYING)
