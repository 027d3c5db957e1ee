"""The avatar in a real LiveKit room, received by a real subscriber."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from livekit import api, rtc

from deploy.local.livekit import LiveKitServer
from liveavatar_lite.audio import SAMPLE_RATE_HZ
from liveavatar_lite.messages import AgentStateUpdated
from liveavatar_lite.protocol import PoseChanged
from liveavatar_lite.utterance_tracking import UtteranceEnded, UtteranceStarted
from tests.support.simulator import Simulate, SimulatorCaller, connected, next_event, tone
from tests.support.waiting import until

AUDIBLE_LEVEL = 500
"""Mean absolute sample above which audio counts as audible; a tone at 0.3 has about 6,000."""


@dataclass
class RoomViewer:
    """A participant that receives video and audio."""

    room: rtc.Room = field(default_factory=rtc.Room)
    pictures: list[tuple[float, bytes]] = field(default_factory=list)
    """Time and luma of each frame."""
    levels: list[tuple[float, float]] = field(default_factory=list)
    """Time and mean absolute sample of each 10 ms."""
    publishers: set[str] = field(default_factory=set)
    size: tuple[int, int] = (0, 0)

    async def watch(self, track: rtc.RemoteTrack) -> None:
        """Receive a track until it ends."""
        if track.kind == rtc.TrackKind.KIND_VIDEO:
            stream = rtc.VideoStream(track, format=rtc.VideoBufferType.I420)
            async for seen in stream:
                self.size = (seen.frame.width, seen.frame.height)
                luma = bytes(seen.frame.data[: seen.frame.width * seen.frame.height])
                self.pictures.append((time.monotonic(), luma))
        else:
            async for heard in rtc.AudioStream(track, sample_rate=SAMPLE_RATE_HZ, num_channels=1):
                samples = np.frombuffer(heard.frame.data, np.int16).astype(np.float64)
                self.levels.append((time.monotonic(), float(np.abs(samples).mean())))

    def level_between(self, begin_s: float, end_s: float) -> float:
        """The mean level between these times."""
        levels = [level for at_s, level in self.levels if begin_s <= at_s < end_s]
        return float(np.mean(levels)) if levels else 0.0

    def hears(self) -> bool:
        """Whether the last 100 ms were audible."""
        now_s = time.monotonic()
        return self.level_between(now_s - 0.1, now_s) > AUDIBLE_LEVEL


@contextlib.asynccontextmanager
async def viewing(url: str, token: str) -> AsyncIterator[RoomViewer]:
    """A viewer in the room."""
    viewer = RoomViewer()
    watching: list[asyncio.Task[None]] = []

    def subscribed(
        track: rtc.RemoteTrack, _: rtc.RemoteTrackPublication, participant: rtc.RemoteParticipant
    ) -> None:
        viewer.publishers.add(participant.identity)
        watching.append(asyncio.create_task(viewer.watch(track), name=f"watch-{track.kind}"))

    viewer.room.on("track_subscribed", subscribed)
    await viewer.room.connect(url, token)
    try:
        yield viewer
    finally:
        await viewer.room.disconnect()
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)


@pytest.fixture
def with_livekit(livekit: LiveKitServer) -> dict[str, Any]:
    """Settings of a simulator whose avatars join rooms."""
    return {
        "join_rooms": True,
        "livekit_url": livekit.url,
        "livekit_api_key": livekit.api_key,
        "livekit_api_secret": livekit.api_secret,
    }


async def rooms_of(livekit: LiveKitServer) -> dict[str, int]:
    """The rooms that exist, with their number of participants."""
    async with api.LiveKitAPI(livekit.url, livekit.api_key, livekit.api_secret) as admin:
        listed = await admin.room.list_rooms(api.ListRoomsRequest())
    return {room.name: room.num_participants for room in listed.rooms}


def own_token(livekit: LiveKitServer, room: str, identity: str) -> str:
    """A token for a room on the caller's LiveKit."""
    grants = api.VideoGrants(room_join=True, room=room)
    access = api.AccessToken(livekit.api_key, livekit.api_secret)
    return access.with_identity(identity).with_grants(grants).to_jwt()


def others_in_room(viewer: RoomViewer) -> list[str]:
    """The identities of the other participants."""
    return [each.identity for each in viewer.room.remote_participants.values()]


async def test_a_viewer_receives_moving_video_and_the_audio_that_was_sent(
    simulate: Simulate, with_livekit: dict[str, Any]
) -> None:
    caller = await simulate(**with_livekit)
    started = await caller.started(video_settings={"quality": "low", "encoding": "VP8"})
    access = (started["livekit_url"], started["livekit_client_token"])
    async with viewing(*access) as viewer, await connected(started) as connection:
        await until(lambda: len(viewer.pictures) >= 10 and len(viewer.levels) >= 50)
        assert not viewer.hears(), "an avatar without audio is silent"

        for loudness in (0.4, 0.05):
            await connection.speak(tone(1.0, loudness=loudness), "u")
        await connection.speak_end("u")
        await next_event(connection, UtteranceEnded)
        await asyncio.sleep(0.3)  # what is still on its way to the viewer

        loud = [(at_s, level) for at_s, level in viewer.levels if level > AUDIBLE_LEVEL]

    assert viewer.publishers == {"heygen"}
    assert viewer.size == (320, 180)
    assert len({picture for _, picture in viewer.pictures}) > 20, "the picture moves"
    first_s, last_s = loud[0][0], loud[-1][0]
    assert last_s - first_s == pytest.approx(2.0, abs=0.4)
    middle_s = (first_s + last_s) / 2
    first_half = viewer.level_between(first_s + 0.1, middle_s - 0.2)
    second_half = viewer.level_between(middle_s + 0.2, last_s - 0.1)
    assert first_half / second_half == pytest.approx(8, rel=0.4), "loudness is what was sent"


async def test_the_mouth_moves_with_the_sound(
    simulate: Simulate, with_livekit: dict[str, Any]
) -> None:
    caller = await simulate(**with_livekit)
    started = await caller.started(video_settings={"encoding": "VP8"})
    access = (started["livekit_url"], started["livekit_client_token"])
    async with viewing(*access) as viewer, await connected(started) as connection:
        await until(lambda: len(viewer.pictures) >= 20)
        silent = [picture for _, picture in viewer.pictures[-10:]]
        await connection.speak(tone(3.0, loudness=0.9), "u")
        await until(viewer.hears)
        began = len(viewer.pictures)
        await until(lambda: len(viewer.pictures) >= began + 15)
        loud = [picture for _, picture in viewer.pictures[began + 5 : began + 15]]

    def mouth_luma(pictures: list[bytes]) -> float:
        planes = [np.frombuffer(each, np.uint8).reshape(180, 320) for each in pictures]
        return float(np.mean([plane[102:114, 153:167].mean() for plane in planes]))

    assert mouth_luma(silent) - mouth_luma(loud) > 15, "an open mouth is darker than skin"


async def test_an_interrupt_silences_the_room_within_seconds(
    simulate: Simulate, with_livekit: dict[str, Any]
) -> None:
    caller = await simulate(**with_livekit)
    started = await caller.started(video_settings={"encoding": "VP8"})
    access = (started["livekit_url"], started["livekit_client_token"])
    async with viewing(*access) as viewer, await connected(started) as connection:
        await until(lambda: len(viewer.levels) >= 50)
        await connection.speak(tone(8.0), "u")
        await next_event(connection, UtteranceStarted)
        await until(viewer.hears)

        await connection.interrupt()
        interrupted_s = time.monotonic()
        await until(lambda: not viewer.hears())
        silent_after_s = time.monotonic() - interrupted_s

    assert silent_after_s < 1.5


async def test_a_stop_removes_the_avatar_and_deletes_the_hosted_room(
    simulate: Simulate, with_livekit: dict[str, Any], livekit: LiveKitServer
) -> None:
    caller = await simulate(**with_livekit)
    started = await caller.started()
    room = started["session_id"]
    assert room in await rooms_of(livekit)

    await caller.stop(started["session_id"])

    assert room not in await rooms_of(livekit)


async def test_the_avatar_joins_the_callers_room_and_does_not_delete_it(
    simulate: Simulate, with_livekit: dict[str, Any], livekit: LiveKitServer
) -> None:
    caller = await simulate(**with_livekit)
    room = f"own-{time.monotonic_ns()}"

    async with viewing(livekit.url, own_token(livekit, room, "viewer")) as viewer:
        started = await caller.started(
            livekit_config={
                "livekit_url": livekit.url,
                "livekit_room": room,
                "livekit_client_token": own_token(livekit, room, "my-avatar"),
            }
        )
        await until(lambda: bool(viewer.pictures), within_s=10)
        await caller.stop(started["session_id"])
        await until(lambda: not viewer.room.remote_participants)
        assert room in await rooms_of(livekit)

    assert viewer.publishers == {"my-avatar"}
    line = caller.line(started["session_id"])
    assert (line.room, line.room_kind) == (room, "own")


async def test_two_avatars_share_the_callers_room_during_a_rotation(
    simulate: Simulate, with_livekit: dict[str, Any], livekit: LiveKitServer
) -> None:
    """At a rotation the next avatar joins before the first one leaves."""
    caller = await simulate(**with_livekit, record_heard_s=60)
    room = f"own-{time.monotonic_ns()}"

    async def started(identity: str) -> dict[str, Any]:
        return await caller.started(
            livekit_config={
                "livekit_url": livekit.url,
                "livekit_room": room,
                "livekit_client_token": own_token(livekit, room, identity),
            },
            video_settings={"encoding": "VP8"},
        )

    async with viewing(livekit.url, own_token(livekit, room, "viewer")) as viewer:
        old = await started("avatar-1")
        async with await connected(old) as speaking:
            await speaking.speak(tone(12), "old")
            await until(viewer.hears, within_s=10)
            new = await started("avatar-2")
            async with await connected(new) as connection:
                await until(lambda: viewer.publishers == {"avatar-1", "avatar-2"}, within_s=10)
                assert viewer.hears(), "the first one still speaks"

                await caller.stop(old["session_id"])
                await until(lambda: set(others_in_room(viewer)) == {"avatar-2"})
                await until(lambda: not viewer.hears())
                await connection.speak(tone(1.0), "new")
                await connection.speak_end("new")
                await until(viewer.hears)
                over = await next_event(connection, UtteranceEnded)

        assert others_in_room(viewer) == ["avatar-2"]
        line = caller.line(new["session_id"])
        assert (over.utterance_id, over.interrupted) == ("new", False)
        assert (line.room, line.ended_at, line.sockets_total) == (room, None, 1)
        assert caller.line(old["session_id"]).room == room
        ledger = caller.simulator.ledger()
        assert (ledger.open, ledger.peak_open) == (1, 2)


async def test_a_frozen_avatar_stays_in_its_room_silent_and_without_events(
    simulate: Simulate, with_livekit: dict[str, Any]
) -> None:
    """A frozen session reported pose idle; LiveAvatar was observed to send no event."""
    caller = await simulate(**with_livekit)
    started = await caller.started(video_settings={"encoding": "VP8"})
    access = (started["livekit_url"], started["livekit_client_token"])
    async with viewing(*access) as viewer, await connected(started) as connection:
        await connection.speak(tone(12), "u")
        await next_event(connection, UtteranceStarted)
        await until(viewer.hears)

        caller.simulator.freeze_session(started["session_id"])
        await until(lambda: not viewer.hears())
        seen = len(viewer.pictures)
        await until(lambda: len(viewer.pictures) >= seen + 10)
        with pytest.raises(TimeoutError):
            await next_event(connection, AgentStateUpdated, within_s=0.3)

    assert caller.simulator.ledger().open == 0


async def test_a_session_ends_when_its_avatar_cannot_join_the_room(
    simulate: Simulate, with_livekit: dict[str, Any]
) -> None:
    caller = await simulate(**with_livekit, join_timeout_s=1.0)
    nowhere = {
        "livekit_url": "ws://127.0.0.1:9",
        "livekit_room": "r",
        "livekit_client_token": "not-a-token",
    }

    reply = await caller.start(await caller.mint(livekit_config=nowhere))

    assert reply.status_code == 201
    session_id = reply.json()["data"]["session_id"]
    async with asyncio.timeout(30):
        while caller.line(session_id).ended_at is None:
            await asyncio.sleep(0.05)
    assert caller.line(session_id).end_reason == "SERVER_ERROR"


async def test_closing_the_simulator_deletes_its_rooms(
    simulate: Simulate, with_livekit: dict[str, Any], livekit: LiveKitServer
) -> None:
    caller: SimulatorCaller = await simulate(**with_livekit)
    started = await caller.started()
    async with await connected(started) as connection:
        await connection.start_listening()
        await next_event(connection, PoseChanged)

        await caller.simulator.__aexit__(None, None, None)

    assert started["session_id"] not in await rooms_of(livekit)
    assert caller.simulator.ledger().open == 0
