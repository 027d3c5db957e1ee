"""espeak-ng as a voice: what the program gets, what it returns, and how failures are reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.speech.voice import BABBLES, FAILS, HANGS, NEVER_ENDS, voice_in
from viewer import typed_speech
from viewer.typed_speech import Espeak, VoiceFailed

INSTALLED = Espeak.find()


@pytest.fixture(params=["stand-in", *(["installed"] if INSTALLED else [])])
def voice(request: pytest.FixtureRequest, tmp_path: Path) -> Espeak:
    """The stand-in, and espeak-ng itself where it is installed."""
    if request.param == "installed":
        assert INSTALLED is not None
        return INSTALLED
    return Espeak(voice_in(tmp_path))


async def test_a_text_becomes_speech(voice: Espeak) -> None:
    short = await voice.synthesize("Good morning.")
    long = await voice.synthesize("Good morning. Today we talk about how long a sentence takes.")

    assert short.sample_rate_hz == 22_050
    assert 0.5 < len(short.pcm) / short.sample_rate_hz < 4
    assert len(long.pcm) > 2 * len(short.pcm)
    assert np.abs(short.pcm).max() > 5000


async def test_a_text_is_never_part_of_a_command_line(tmp_path: Path) -> None:
    text = "-f /etc/passwd; $(reboot) `id` äöü '\""

    await Espeak(voice_in(tmp_path)).synthesize(text)

    assert (tmp_path / "text").read_text() == text
    assert "passwd" not in (tmp_path / "arguments").read_text()


@pytest.mark.parametrize(
    ("does", "words"),
    [
        (FAILS, r"failed \(exit status 3\)"),
        (BABBLES, "produced no speech"),
        (NEVER_ENDS, "too long to speak"),
    ],
)
async def test_a_failing_program_is_reported_in_a_sentence(
    tmp_path: Path, does: str, words: str
) -> None:
    with pytest.raises(VoiceFailed, match=words):
        await Espeak(voice_in(tmp_path, does)).synthesize("Good morning.")


async def test_a_hanging_program_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typed_speech, "SYNTHESIS_TIMEOUT_S", 0.3)

    with pytest.raises(VoiceFailed, match="produced no speech"):
        await Espeak(voice_in(tmp_path, HANGS)).synthesize("Good morning.")


async def test_a_missing_program_is_reported_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(VoiceFailed, match="produced no speech"):
        await Espeak(tmp_path / "espeak-ng").synthesize("Good morning.")


def test_without_the_program_there_is_no_voice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    assert Espeak.find() is None
