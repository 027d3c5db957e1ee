"""Live speech of an owned session: reports in every dialect, names, and earlier owners."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from avatar_sessions.contract.live_dialect import LiveBegin
from avatar_sessions.contract.states import UtteranceOutcome
from liveavatar_simulator import LiveAvatarSimulator
from liveavatar_simulator.settings import Correlation, SpeechSignals
from owner.live_queue import UtteranceNameUsed
from owner.utterance_chunks import Utterance
from tests.support.owner_under_test import (
    OwnerUnderTest,
    begin,
    owner_of,
    simulator_settings,
    tone,
)
from tests.support.waiting import until

DIALECTS = list(itertools.product(SpeechSignals, Correlation))


@pytest.mark.slow
@pytest.mark.parametrize(("signals", "correlation"), DIALECTS, ids=str)
async def test_sentences_a_pause_and_an_interrupt_are_reported_as_they_were_played(
    signals: SpeechSignals, correlation: Correlation
) -> None:
    """Two sentences back to back, one with a pause in it, one that is interrupted: the reports
    agree with the simulator's own account, whatever names its events carry."""
    settings = simulator_settings(speech_signals=signals, correlation=correlation)
    async with LiveAvatarSimulator(settings) as simulator, owner_of(simulator) as owner:
        begin(owner, "first", 0.7).finish()
        begin(owner, "second", 0.6).finish()
        await owner.outcomes(2)
        paused = begin(owner, "paused", 0.5)
        await until(lambda: not paused.playback.segment_is_open and paused.sent_bytes > 0)
        paused.write(tone(0.5), time.monotonic())
        paused.finish()
        await owner.outcomes(3)
        cut = begin(owner, "cut", 5.0)
        await until(lambda: cut.heard_s(time.monotonic()) > 0.4)
        await owner.session.interrupt_in_band("stop")
        await owner.outcomes(4)
        begin(owner, "after", 0.5).finish()
        await owner.outcomes(5)
        await asyncio.sleep(0.3)
        played = [(one.event_id, one.played_ms) for one in owner.ledger_line.utterances]
    reports = {report.id: report for report in owner.supervisor.reports}
    assert {name: report.outcome for name, report in reports.items()} == {
        "first": UtteranceOutcome.COMPLETED,
        "second": UtteranceOutcome.COMPLETED,
        "paused": UtteranceOutcome.COMPLETED,
        "cut": UtteranceOutcome.INTERRUPTED,
        "after": UtteranceOutcome.COMPLETED,
    }
    assert [name for name, _ in played] == ["first", "second", "paused", "paused~2", "cut", "after"]
    heard_ms = dict(played)
    assert reports["first"].heard_ms == heard_ms["first"] == 700
    assert reports["second"].heard_ms == heard_ms["second"] == 600
    assert reports["paused"].heard_ms == heard_ms["paused"] + heard_ms["paused~2"] == 1000
    assert reports["cut"].heard_ms == pytest.approx(heard_ms["cut"], abs=250)
    assert len(reports["paused"].gaps) == 1


@pytest.mark.slow
async def test_a_name_is_never_used_twice(owner: OwnerUnderTest) -> None:
    """A client that named all its utterances alike lost one after thirty-three, when one layer had
    forgotten the name and another had not."""
    for number in range(36):
        name = "tts" if owner.session.live.is_new("tts") else f"tts-{number}"
        begin(owner, name, 0.02).finish()
        await owner.outcomes(number + 1)
    assert {one.outcome for one in owner.supervisor.reports} == {UtteranceOutcome.COMPLETED}
    with pytest.raises(UtteranceNameUsed):
        owner.session.live.begin(LiveBegin(utterance_id="tts"))


async def test_a_delayed_interrupt_spares_speech_that_began_after_it(owner: OwnerUnderTest) -> None:
    """The interrupt waited for an owner, and then ended speech begun long after it was
    requested."""
    begin(owner, "u1", 0.6).finish()
    await owner.session.interrupt(0, delayed_s=5.0)
    assert await owner.outcomes(1) == [UtteranceOutcome.COMPLETED]
    begin(owner, "u2", 3)
    await owner.session.interrupt(0, delayed_s=0.0)
    assert await owner.outcomes(2) == [UtteranceOutcome.COMPLETED, UtteranceOutcome.INTERRUPTED]


async def test_an_interrupt_ends_what_an_earlier_owner_had_begun(owner: OwnerUnderTest) -> None:
    """The owner died in the middle of live speech, and the interrupt waited for the next one. It
    came before the speaker did: the speaker went on with what had been interrupted."""
    await owner.session.interrupt(0, delayed_s=3.0)
    earlier = LiveBegin(utterance_id="u1", offset_bytes=96_000, unplayed_ms=500)
    utterance = owner.session.live.begin(earlier)
    assert isinstance(utterance, Utterance)
    utterance.write(tone(1), time.monotonic())
    utterance.finish()
    assert await owner.outcomes(1) == [UtteranceOutcome.INTERRUPTED]
    assert owner.supervisor.reports[0].sent_ms == 2000
    assert owner.commands == ["agent.interrupt"]


async def test_an_interrupt_ends_what_goes_on_from_an_earlier_owner(owner: OwnerUnderTest) -> None:
    """The speaker came first: its utterance had begun here after the interrupt was requested, and
    was spared."""
    earlier = LiveBegin(utterance_id="u1", offset_bytes=96_000, unplayed_ms=500)
    utterance = owner.session.live.begin(earlier)
    assert isinstance(utterance, Utterance)
    utterance.write(tone(5), time.monotonic())
    await until(lambda: utterance.sent_bytes > 96_000)
    await owner.session.interrupt(0, delayed_s=3.0)
    assert await owner.outcomes(1) == [UtteranceOutcome.INTERRUPTED]
