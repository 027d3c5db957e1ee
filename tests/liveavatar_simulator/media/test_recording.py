"""Recordings: a position is a time, silence is included, memory is bounded."""

from __future__ import annotations

import asyncio
import io
import wave
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from deploy.local.livekit import LiveKitServer
from liveavatar_lite.audio import BYTES_PER_S, duration_s, size_bytes
from liveavatar_lite.utterance_tracking import UtteranceEnded
from liveavatar_simulator import AudioRecording, Refusal
from liveavatar_simulator.media.recording import AudioRecorder
from tests.support.simulator import Simulate, SimulatorCaller, connected, next_event, sounds, tone
from tests.support.waiting import until

BEGAN_AT = datetime(2026, 10, 1, 12, tzinfo=UTC)


async def say(
    caller: SimulatorCaller, started: dict[str, Any], *names: str, seconds: float = 0.5
) -> None:
    """Speak utterances one after the other, each after the end of the one before, with a pause."""
    async with await connected(started) as connection:
        for name in names:
            await connection.speak(tone(seconds), name)
            await connection.speak_end(name)
            await next_event(connection, UtteranceEnded)
            await asyncio.sleep(0.3)


# --- without an avatar in a room ------------------------------------------------------------------


async def test_utterances_are_recorded_sample_by_sample_at_their_time(simulate: Simulate) -> None:
    caller = await simulate(record_heard_s=60)
    started = await caller.started()
    await asyncio.sleep(0.4)
    before = datetime.now(UTC)
    await say(caller, started, "a", "b")
    after = datetime.now(UTC)
    line = caller.line(started["session_id"])

    heard = caller.simulator.heard(started["session_id"])

    assert heard.began_at == line.started_at
    [first, second] = sounds(heard)
    for begin_s, end_s in (first, second):
        assert end_s - begin_s == pytest.approx(0.5, abs=0.011)
        assert before <= heard.began_at + timedelta(seconds=begin_s) <= after
    assert second[0] - first[1] >= 0.28, "the pause between them is recorded"
    samples = np.frombuffer(heard.pcm, "<i2")
    said = np.frombuffer(tone(0.5), "<i2")
    for begin_s, _ in (first, second):
        begin = round(begin_s * 24_000)
        assert np.array_equal(samples[begin : begin + len(said)], said), "sample by sample"


async def test_the_recording_is_served_as_wav_with_its_begin(simulate: Simulate) -> None:
    caller = await simulate(record_heard_s=60)
    started = await caller.started()
    await say(caller, started, "a")
    await caller.stop(started["session_id"])
    heard = caller.simulator.heard(started["session_id"])

    reply = await caller.http.get(f"/simulator/sessions/{started['session_id']}/heard.wav")

    assert reply.headers["content-type"] == "audio/wav"
    assert datetime.fromisoformat(reply.headers["x-heard-from"]) == heard.began_at
    with wave.open(io.BytesIO(reply.content)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24_000, 1, 2)
        assert file.readframes(file.getnframes()) == heard.pcm


async def test_silence_is_recorded_up_to_the_end_of_the_session(simulate: Simulate) -> None:
    caller = await simulate(record_heard_s=60)
    started = await caller.started()
    session_id = started["session_id"]
    await asyncio.sleep(0.5)
    await caller.stop(session_id)
    line = caller.line(session_id)
    await asyncio.sleep(0.1)

    heard = caller.simulator.heard(session_id)

    assert line.started_at is not None
    assert line.ended_at is not None
    lasted_s = (line.ended_at - line.started_at).total_seconds()
    assert duration_s(len(heard.pcm)) == pytest.approx(lasted_s, abs=0.03)
    assert not any(heard.pcm)


async def test_an_interrupted_utterance_is_recorded_up_to_the_interrupt(simulate: Simulate) -> None:
    caller = await simulate(record_heard_s=60)
    started = await caller.started()
    async with await connected(started) as connection:
        await connection.speak(tone(5), "u")
        await until(lambda: bool(sounds(caller.simulator.heard(started["session_id"]))))
        await connection.interrupt()
        await next_event(connection, UtteranceEnded)
        await asyncio.sleep(0.2)

    [(begin_s, end_s)] = sounds(caller.simulator.heard(started["session_id"]))
    [utterance] = caller.line(started["session_id"]).utterances
    assert (end_s - begin_s) * 1000 == pytest.approx(utterance.played_ms, abs=11)


async def test_only_the_newest_seconds_are_kept(simulate: Simulate) -> None:
    caller = await simulate(record_heard_s=0.4)
    started = await caller.started()
    await asyncio.sleep(0.8)

    heard = caller.simulator.heard(started["session_id"])

    assert len(heard.pcm) == size_bytes(0.4)
    line = caller.line(started["session_id"])
    assert line.started_at is not None
    assert heard.began_at >= line.started_at + timedelta(seconds=0.3)


async def test_nothing_is_recorded_by_default(caller: SimulatorCaller) -> None:
    started = await caller.started()

    reply = await caller.http.get(f"/simulator/sessions/{started['session_id']}/heard.wav")

    assert reply.status_code == 404
    assert "record_heard_s" in reply.json()["message"]
    with pytest.raises(Refusal):
        caller.simulator.heard(started["session_id"])


async def test_the_oldest_recordings_are_dropped_beyond_the_memory_limit(
    simulate: Simulate,
) -> None:
    caller = await simulate(record_heard_s=60, heard_total_mb=1)
    ids = [(await caller.started())["session_id"] for _ in range(3)]
    for session_id in ids:
        recorder = caller.simulator.sessions[session_id].recorder
        assert recorder is not None
        recorder.add(tone(12))  # 576 kB: one recording of an ended session is kept
    for session_id in ids[:2]:
        await caller.stop(session_id)

    await caller.mint()

    kept = [caller.simulator.sessions[each].recorder is not None for each in ids]
    assert kept == [False, True, True]


async def test_many_sessions_are_recorded_in_parallel(simulate: Simulate) -> None:
    caller = await simulate(record_heard_s=60)
    started = [await caller.started() for _ in range(20)]

    await asyncio.gather(*(say(caller, each, "a", "b", seconds=1.0) for each in started))

    for each in started:
        heard = sounds(caller.simulator.heard(each["session_id"]))
        lengths_s = [end_s - begin_s for begin_s, end_s in heard]
        assert lengths_s == pytest.approx([1.0, 1.0], abs=0.011)


# --- with an avatar in a room ---------------------------------------------------------------------


async def test_an_avatar_in_a_room_is_recorded_too(
    simulate: Simulate, livekit: LiveKitServer
) -> None:
    caller = await simulate(
        record_heard_s=60,
        join_rooms=True,
        livekit_url=livekit.url,
        livekit_api_key=livekit.api_key,
        livekit_api_secret=livekit.api_secret,
    )
    started = await caller.started(video_settings={"quality": "low", "encoding": "VP8"})
    await say(caller, started, "a")

    heard = caller.simulator.heard(started["session_id"])

    [(begin_s, end_s)] = sounds(heard)
    assert end_s - begin_s == pytest.approx(0.5, abs=0.011)


# --- the recorder itself --------------------------------------------------------------------------


def test_silence_takes_no_memory() -> None:
    recorder = AudioRecorder(BEGAN_AT, 3600)
    for _ in range(100):
        recorder.add(bytes(BYTES_PER_S))

    assert recorder.sound_bytes == 0
    assert recorder.recording() == AudioRecording(BEGAN_AT, bytes(100 * BYTES_PER_S))


@pytest.mark.parametrize("seed", range(20))
def test_the_recorder_keeps_the_end_of_all_audio(seed: int) -> None:
    rng = np.random.default_rng(seed)
    recorder = AudioRecorder(BEGAN_AT, 2.0)
    everything = b""
    for _ in range(60):
        size = int(rng.integers(0, 30)) * 480
        piece = bytes(size) if rng.random() < 0.5 else rng.bytes(size)
        recorder.add(piece)
        everything += piece

        heard = recorder.recording()

        kept = everything[-size_bytes(2.0) :]
        dropped_s = duration_s(len(everything) - len(kept))
        assert heard.pcm == kept
        assert heard.began_at == BEGAN_AT + timedelta(seconds=dropped_s)
        assert recorder.sound_bytes <= len(kept)
