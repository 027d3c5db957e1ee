"""Live speech is accounted for in every dialect that LiveAvatar has been heard to speak."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from avatar_sessions.contract.live_dialect import LiveBegin
from avatar_sessions.contract.states import UtteranceOutcome
from liveavatar_simulator import LiveAvatarSimulator
from liveavatar_simulator.settings import Correlation, SpeechSignals
from owner.utterance import Utterance
from tests.owner.conftest import OwnerUnderTest, owner_of, simulator_settings
from tests.owner.test_session import tone
from tests.support.waiting import until

DIALECTS = list(itertools.product(SpeechSignals, Correlation))


def say(owner: OwnerUnderTest, name: str, seconds: float) -> Utterance:
    utterance = owner.session.live.begin(LiveBegin(utterance_id=name))
    assert isinstance(utterance, Utterance)
    utterance.write(tone(seconds), time.monotonic())
    return utterance


@pytest.mark.parametrize(("signals", "correlation"), DIALECTS, ids=str)
async def test_sentences_a_pause_and_an_interrupt_are_told_as_they_were(
    signals: SpeechSignals, correlation: Correlation
) -> None:
    """Two sentences back to back, one with a pause in it, one that is cut: the ledger is the
    simulator's own, whatever names its events carry."""
    settings = simulator_settings(speech_signals=signals, correlation=correlation)
    async with LiveAvatarSimulator(settings) as simulator, owner_of(simulator) as owner:
        say(owner, "first", 0.7).finish()
        say(owner, "second", 0.6).finish()
        await until(lambda: len(owner.lines) == 2)
        paused = say(owner, "paused", 0.5)
        await until(lambda: not paused.segment_is_open and paused.sent_bytes > 0)
        paused.write(tone(0.5), time.monotonic())
        paused.finish()
        await until(lambda: len(owner.lines) == 3)
        cut = say(owner, "cut", 5.0)
        await until(lambda: cut.heard_s(time.monotonic()) > 0.4)
        await owner.session.interrupt_in_band("stop")
        await until(lambda: len(owner.lines) == 4)
        say(owner, "after", 0.5).finish()
        await until(lambda: len(owner.lines) == 5)
        await asyncio.sleep(0.3)
        played = [(one.event_id, one.played_ms) for one in owner.line.utterances]
    told = {line.id: line for line in owner.lines}
    assert {name: line.outcome for name, line in told.items()} == {
        "first": UtteranceOutcome.COMPLETED,
        "second": UtteranceOutcome.COMPLETED,
        "paused": UtteranceOutcome.COMPLETED,
        "cut": UtteranceOutcome.INTERRUPTED,
        "after": UtteranceOutcome.COMPLETED,
    }
    assert [name for name, _ in played] == ["first", "second", "paused", "paused~2", "cut", "after"]
    heard_ms = dict(played)
    assert told["first"].heard_ms == heard_ms["first"] == 700
    assert told["second"].heard_ms == heard_ms["second"] == 600
    assert told["paused"].heard_ms == heard_ms["paused"] + heard_ms["paused~2"] == 1000
    assert told["cut"].heard_ms == pytest.approx(heard_ms["cut"], abs=250)
    assert len(told["paused"].gaps) == 1
