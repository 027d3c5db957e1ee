"""The opening of the mouth: closed in silence, wide open at loud speech."""

from __future__ import annotations

import pytest

from liveavatar_simulator.media.sound import mouth_openness
from tests.support.simulator import tone


@pytest.mark.parametrize("pcm", [b"", bytes(480), tone(0.01, loudness=0.005)])
def test_the_mouth_is_closed_in_silence_and_noise(pcm: bytes) -> None:
    assert mouth_openness(pcm) == 0


def test_the_mouth_is_wide_open_at_loud_speech() -> None:
    assert mouth_openness(tone(0.04, loudness=0.9)) == 1


def test_louder_speech_opens_the_mouth_further() -> None:
    openness = [mouth_openness(tone(0.04, loudness=each)) for each in (0.02, 0.05, 0.1, 0.2)]

    assert openness == sorted(openness)
    assert 0 < openness[0] < openness[-1] < 1
