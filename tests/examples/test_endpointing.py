"""Endpointing: begin and end of speech, with various noise floors."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from deploy.local.settings import ROOT
from examples.voice.endpointing import (
    Endpointer,
    EndpointSettings,
    Pcm,
    SpeechBegan,
    SpeechStopped,
    Turn,
    loudness_dbfs,
)

RATE_HZ = 48_000
SETTINGS = EndpointSettings()


def noise(seconds: float, dbfs: float = -65, seed: int = 7) -> Pcm:
    """A room's noise without speech."""
    wanted = 10 ** (dbfs / 20) * 32_768
    sound = np.random.default_rng(seed).normal(0, wanted, round(seconds * RATE_HZ))
    return np.clip(sound, -32_768, 32_767).astype(np.int16)


def voice(seconds: float, dbfs: float = -20) -> Pcm:
    """Four syllables per second, with short silences between them."""
    at = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    syllables = np.clip(np.sin(2 * np.pi * 4 * at) + 0.4, 0, None)
    sound = syllables * np.sin(2 * np.pi * 180 * at)
    scaled: Pcm = (sound / np.sqrt(np.mean(sound**2)) * 10 ** (dbfs / 20) * 32_768).astype(np.int16)
    return scaled


def over(room: Pcm, sound: Pcm, at_s: float) -> Pcm:
    """The room's noise, with the sound mixed in from `at_s` on."""
    mixed = room.astype(np.int32)
    begin = round(at_s * RATE_HZ)
    mixed[begin : begin + len(sound)] += sound
    return np.clip(mixed, -32_768, 32_767).astype(np.int16)


def heard(
    sound: Pcm, piece_ms: float = 10, settings: EndpointSettings = SETTINGS
) -> list[tuple[float, SpeechBegan | SpeechStopped]]:
    """The endpointer's events, each with the time in seconds at which it came."""
    endpointer = Endpointer(RATE_HZ, settings)
    size = round(RATE_HZ * piece_ms / 1000)
    events: list[tuple[float, SpeechBegan | SpeechStopped]] = []
    for begin in range(0, len(sound), size):
        piece = sound[begin : begin + size]
        event_at = (begin + len(piece)) / RATE_HZ
        events += [(event_at, event) for event in endpointer.feed(piece)]
    return events


def speeches(sound: Pcm, settings: EndpointSettings = SETTINGS) -> list[SpeechStopped]:
    return [
        event for _, event in heard(sound, settings=settings) if isinstance(event, SpeechStopped)
    ]


def test_speech_is_detected_soon_and_ends_after_the_hangover() -> None:
    (began_at, began), (ended_at, ended) = heard(over(noise(6), voice(2), at_s=1.5))

    assert isinstance(began, SpeechBegan)
    assert began_at == pytest.approx(1.5 + SETTINGS.onset_s, abs=0.06)
    assert isinstance(ended, SpeechStopped)
    assert ended_at == pytest.approx(3.5 + SETTINGS.hangover_s, abs=0.15)
    assert not ended.truncated


def test_speech_is_kept_with_lead_in_and_tail() -> None:
    said = voice(2)

    (speech,) = speeches(over(noise(6), said, at_s=1.5))

    seconds = len(speech.pcm) / RATE_HZ
    assert seconds == pytest.approx(2 + SETTINGS.lead_in_s + SETTINGS.tail_s, abs=0.3)
    there = np.correlate(speech.pcm[::50].astype(float), said[::50].astype(float), "full")
    energy = float(np.sum(said[::50].astype(float) ** 2))
    assert there.max() > 0.95 * energy


@pytest.mark.parametrize("room_dbfs", [-90, -60, -45, -38])
def test_speech_is_detected_above_any_noise_floor(room_dbfs: float) -> None:
    events = heard(over(noise(9, room_dbfs), voice(2, max(room_dbfs + 25, -35)), at_s=4))

    assert [type(event) for _, event in events] == [SpeechBegan, SpeechStopped]
    assert events[0][0] == pytest.approx(4.1, abs=0.15)


def test_a_fan_becomes_part_of_the_noise_floor() -> None:
    silence, fan = noise(4), noise(12, -35)

    events = heard(np.concatenate([silence, fan, over(noise(6, -35), voice(2, -12), 2)]))

    ends = [at for at, event in events if isinstance(event, SpeechStopped)]
    assert ends[0] < 4 + SETTINGS.floor_memory_s + SETTINGS.hangover_s + 0.5
    assert ends[1] == pytest.approx(20 + SETTINGS.hangover_s, abs=0.2)
    assert len(ends) == 2


def test_a_click_is_not_speech() -> None:
    click = noise(0.05, -10)

    assert heard(over(noise(4), click, at_s=2)) == []


def test_a_short_pause_does_not_end_speech_and_a_longer_one_does() -> None:
    def said_with_pause(pause_s: float) -> Pcm:
        parts = [noise(1), voice(1), noise(pause_s), voice(1), noise(2)]
        return np.concatenate(parts)

    assert len(speeches(said_with_pause(SETTINGS.hangover_s - 0.2))) == 1
    assert len(speeches(said_with_pause(SETTINGS.hangover_s + 0.5))) == 2


def test_at_most_longest_s_of_speech_is_kept() -> None:
    endpointer = Endpointer(RATE_HZ)
    events: list[SpeechBegan | SpeechStopped] = []
    for sound in (noise(1), *[voice(5)] * 9, noise(2)):
        events += endpointer.feed(sound)
        assert endpointer_holds_s(endpointer) <= SETTINGS.longest_s + SETTINGS.lead_in_s + 0.1

    (ended,) = [event for event in events if isinstance(event, SpeechStopped)]
    assert ended.truncated
    assert len(ended.pcm) == SETTINGS.longest_s * RATE_HZ


def endpointer_holds_s(endpointer: Endpointer) -> float:
    frames = len(endpointer._speech) + len(endpointer._lead_in)
    return frames * SETTINGS.frame_s


@pytest.mark.parametrize("piece_ms", [1, 7, 20, 333, 10_000])
def test_the_result_does_not_depend_on_the_pieces(piece_ms: float) -> None:
    sound = over(noise(6), voice(2), at_s=1.5)

    ends = [event for _, event in heard(sound, piece_ms) if isinstance(event, SpeechStopped)]

    (whole,) = speeches(sound)
    assert [len(one.pcm) for one in ends] == [len(whole.pcm)]
    assert np.array_equal(ends[0].pcm, whole.pcm)


def test_flush_returns_unfinished_speech() -> None:
    endpointer = Endpointer(RATE_HZ)
    endpointer.feed(np.concatenate([noise(1), voice(1.01)]))

    ended = endpointer.flush()

    assert ended is not None
    assert len(ended.pcm) / RATE_HZ == pytest.approx(1 + SETTINGS.lead_in_s, abs=0.2)
    assert endpointer.flush() is None


def test_digital_silence_and_a_constant_offset_are_silence() -> None:
    assert heard(np.zeros(3 * RATE_HZ, np.int16)) == []
    assert heard(np.full(3 * RATE_HZ, 9000, np.int16)) == []
    assert loudness_dbfs(np.full(960, 9000, np.int16)) == -90


def test_real_speech_is_detected_as_one_speech() -> None:
    """The demo's own sample: no pause inside it is longer than 0.4 s."""
    sound, rate_hz = soundfile.read(ROOT / "demo/samples/story.flac", dtype="int16")
    endpointer = Endpointer(rate_hz)
    silence = np.zeros(rate_hz, np.int16)

    events = endpointer.feed(np.concatenate([silence, sound, silence]))

    assert [type(event) for event in events] == [SpeechBegan, SpeechStopped]
    assert isinstance(events[1], SpeechStopped)
    assert len(events[1].pcm) == pytest.approx(len(sound), rel=0.05)


def test_an_illegal_transition_names_both_states() -> None:
    with pytest.raises(RuntimeError, match="from silent to fading"):
        Endpointer(RATE_HZ)._become(Turn.FADING)
