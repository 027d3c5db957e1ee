"""Playback advanced in leaps has the same events, at the same times, as block by block."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from liveavatar_lite.audio import size_bytes
from liveavatar_simulator.playback import (
    BLOCK_S,
    Cleared,
    PlaybackEvent,
    PlaybackTimes,
    PoseTaken,
    SimulatedPlayback,
)

BEGIN_S = 100.0
LASTS_S = 40.0
SLACK_S = 0.001

Command = Callable[[SimulatedPlayback, float], object]
TimedEvents = list[tuple[float, tuple[object, ...]]]
"""Time and content of each event."""


def content_of(event: PlaybackEvent) -> tuple[object, ...]:
    if isinstance(event, PoseTaken):
        return PoseTaken, event.previous, event.new
    utterance = event.utterance
    about = None if utterance is None else utterance.event_id
    cleared = event.event_id if isinstance(event, Cleared) else None
    return type(event), about, cleared


def some_command(rng: np.random.Generator, number: int) -> Command:
    sample = int(rng.integers(1, 30_000)).to_bytes(2, "little")
    pcm = sample * (size_bytes(float(rng.choice([0.005, 0.013, 0.1, 0.4, 1.0, 3.0]))) // 2)
    name = f"u-{number}"
    match int(rng.integers(8)):
        case 0 | 1 | 2 | 3:
            return lambda playback, now_s: playback.append(pcm, name, now_s=now_s)
        case 4:
            last = pcm if rng.random() < 0.3 else None
            return lambda playback, now_s: playback.finish(name, last, now_s=now_s)
        case 5:
            return lambda playback, now_s: playback.interrupt(f"cut-{number}", now_s=now_s)
        case _:
            listening = bool(rng.random() < 0.5)
            return lambda playback, now_s: playback.listen(listening)


def some_script(rng: np.random.Generator) -> list[tuple[float, Command]]:
    """Commands and their times; some at the same time, some after long pauses."""
    script: list[tuple[float, Command]] = []
    now_s = BEGIN_S
    while now_s < BEGIN_S + LASTS_S - 10:
        now_s += float(rng.choice([0.0, 0.01, rng.random() / 4, rng.random(), 3 * rng.random()]))
        script.append((now_s, some_command(rng, len(script))))
    return script


def some_times(rng: np.random.Generator) -> PlaybackTimes:
    if rng.random() < 0.3:
        return PlaybackTimes()
    buffer_s, latency_s, interrupt_s, starvation_s = (float(each) for each in rng.random(4))
    return PlaybackTimes(
        buffer_s, latency_s * (rng.random() < 0.7), interrupt_s / 2, starvation_s + 0.02
    )


def advance(playback: SimulatedPlayback, now_s: float, timeline: TimedEvents) -> bytes:
    pcm, events = playback.advance(now_s)
    timeline += [(now_s, content_of(event)) for event in events]
    return pcm


def by_blocks(
    script: list[tuple[float, Command]], times: PlaybackTimes
) -> tuple[TimedEvents, SimulatedPlayback, bytes]:
    """Advance block by block, as an avatar in a room does frame by frame.

    Also at the time when an interrupt takes effect, because its event comes with that step.
    """
    playback = SimulatedPlayback(times, now_s=BEGIN_S)
    events: TimedEvents = []
    heard = bytearray()
    blocks = [BEGIN_S + number * BLOCK_S for number in range(round(LASTS_S / BLOCK_S))]
    effects = [at_s + times.interrupt_delay_s for at_s, _ in script]
    waiting = list(script)
    for step_s in sorted(blocks + effects):
        while waiting and waiting[0][0] <= step_s:
            at_s, command = waiting.pop(0)
            heard += advance(playback, at_s, events)
            command(playback, at_s)
            heard += advance(playback, at_s, events)
        heard += advance(playback, step_s, events)
    return events, playback, bytes(heard)


def by_leaps(
    script: list[tuple[float, Command]], times: PlaybackTimes, *, recorded: bool = False
) -> tuple[TimedEvents, SimulatedPlayback, int, bytes]:
    """Advance at each command and when an event is due; also returns the number of steps."""
    playback = SimulatedPlayback(times, now_s=BEGIN_S, audible=recorded)
    events: TimedEvents = []
    heard = bytearray()
    steps = 0
    for at_s, command in [*script, (BEGIN_S + LASTS_S - BLOCK_S, lambda *_: None)]:
        due_s = playback.due_s()
        while due_s is not None and due_s < at_s:
            heard += advance(playback, due_s, events)
            steps += 1
            due_s = playback.due_s()
        heard += advance(playback, at_s, events)
        command(playback, at_s)
        heard += advance(playback, at_s, events)
    return events, playback, steps, bytes(heard)


def ends(playback: SimulatedPlayback) -> list[tuple[object, ...]]:
    return [
        (each.event_id, each.state, each.sent_bytes, each.played_bytes)
        for each in playback.utterances
    ]


def times_of(playback: SimulatedPlayback) -> list[float]:
    """Begin, silences and end of each utterance that is over, in one list."""
    times: list[float] = []
    for each in playback.utterances:
        if each.over and each.began_s is not None:
            times += [each.began_s, each.sounded_until_s]
            times += [
                at_s for silence in each.silences for at_s in (silence.begin_s, silence.end_s)
            ]
    return times


@pytest.mark.parametrize("seed", range(60))
def test_leaps_have_the_same_events_at_the_same_times_as_blocks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    script, times = some_script(rng), some_times(rng)

    heard, reference, _ = by_blocks(script, times)
    leapt, leaping, _, nothing = by_leaps(script, times)

    assert [what for _, what in leapt] == [what for _, what in heard]
    assert ends(leaping) == ends(reference)
    assert times_of(leaping) == pytest.approx(times_of(reference), abs=SLACK_S)
    assert nothing == b""
    assert [at_s for at_s, _ in leapt] == pytest.approx(
        [at_s for at_s, _ in heard], abs=BLOCK_S + SLACK_S
    )


@pytest.mark.parametrize("seed", range(60))
def test_leaps_record_the_same_sound_at_the_same_times_as_blocks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    script, times = some_script(rng), some_times(rng)

    _, _, heard = by_blocks(script, times)
    _, _, _, recorded = by_leaps(script, times, recorded=True)

    assert recorded == heard
    assert len(recorded) == pytest.approx(size_bytes(LASTS_S), abs=size_bytes(2 * BLOCK_S))


@pytest.mark.parametrize("seed", range(60))
def test_leaps_need_few_steps(seed: int) -> None:
    """At most two steps per event and command; blocks take 100 a second."""
    rng = np.random.default_rng(seed)
    script, times = some_script(rng), some_times(rng)

    events, _, steps, _ = by_leaps(script, times)

    assert steps <= 2 * (len(events) + len(script))


def test_no_event_is_due_without_speech() -> None:
    assert SimulatedPlayback(PlaybackTimes(), now_s=BEGIN_S).due_s() is None


def test_audio_that_is_only_counted_is_not_kept() -> None:
    playback = SimulatedPlayback(PlaybackTimes(), now_s=BEGIN_S, audible=False)
    utterance = playback.append(bytes(size_bytes(2)), "u", now_s=BEGIN_S)

    pcm, _ = playback.advance(BEGIN_S + 1.2)

    assert pcm == b""
    assert utterance.played_bytes == size_bytes(1)
    assert utterance.buffered_bytes == size_bytes(1)
    assert utterance._pcm is None
