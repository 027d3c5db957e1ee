"""Receives the microphone of every person in a session's room, and never the avatar.

Joins as a participant that publishes nothing; the audio is passed to a callback.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Final

import numpy as np
from livekit import rtc

from avatar_sessions import ParticipantAccess
from examples.voice.endpointing import Pcm

SAMPLE_RATE_HZ: Final = 48_000
"""LiveKit's own rate: needs no conversion."""
FRAME_MS: Final = 20
WAITING_FRAMES: Final = 100
"""Two seconds of audio are buffered; beyond that the oldest is dropped."""
STALLED_S: Final = 0.5
"""A track sends frames continuously, also in silence."""
JOIN_TIMEOUT_S: Final = 10.0
LEAVE_TIMEOUT_S: Final = 3.0

AVATAR_IDENTITIES: Final = frozenset({"avatar", "heygen"})
"""The avatar's identity: by default in rooms on your own LiveKit, and in hosted rooms."""

Hear = Callable[[str, AsyncIterator[Pcm]], Awaitable[None]]
"""Called with an identity and its audio, mono at `SAMPLE_RATE_HZ`; returns when the audio ends."""


class CannotJoin(Exception):
    """The room cannot be joined."""


class ReplacedInRoom(Exception):
    """Another agent of the session joined with the same identity."""


class RoomAudio:
    """The audio of one room, from joining it to leaving it.

    Args:
        access: an agent's access to the room.
        hear: called for each microphone.
        avatars: identities that are never subscribed to.
    """

    def __init__(
        self,
        access: ParticipantAccess,
        hear: Hear,
        avatars: Collection[str] = AVATAR_IDENTITIES,
    ) -> None:
        self._access = access
        self._hear = hear
        self._avatars = avatars
        self._room = rtc.Room()
        self._listening: dict[str, asyncio.Task[None]] = {}
        self._gone: set[str] = set()  # tracks that were unsubscribed

    async def listen(self, joined: Callable[[], None]) -> None:
        """Join, call `joined`, and receive audio until the room is closed.

        Raises:
            CannotJoin: the room cannot be joined.
            ReplacedInRoom: another agent joined with the same identity.
        """
        over: asyncio.Future[object] = asyncio.get_running_loop().create_future()

        def on_disconnected(reason: object) -> None:
            if not over.done():
                over.set_result(reason)

        self._room.on("disconnected", on_disconnected)
        try:
            await self._join()
            async with asyncio.TaskGroup() as hearing:
                self._subscribe_to_people(hearing)
                joined()
                reason = await over
                for task in self._listening.values():
                    task.cancel()
            if reason == rtc.DisconnectReason.DUPLICATE_IDENTITY:
                raise ReplacedInRoom("another agent has joined this session's room")
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_TIMEOUT_S):
                    await self._room.disconnect()

    async def _join(self) -> None:
        options = rtc.RoomOptions(auto_subscribe=False, connect_timeout=JOIN_TIMEOUT_S)
        try:
            async with asyncio.timeout(JOIN_TIMEOUT_S):
                await self._room.connect(self._access.livekit_url, self._access.token, options)
        except (rtc.ConnectError, TimeoutError) as error:
            # Not chained: the original's text may hold the token.
            raise CannotJoin(f"the room cannot be joined ({type(error).__name__})") from None

    def _subscribe_to_people(self, hearing: asyncio.TaskGroup) -> None:
        """Subscribe to people in the room, now and when they join."""

        def on_published(_: rtc.RemoteTrackPublication, who: rtc.RemoteParticipant) -> None:
            self._subscribe(who)

        def on_subscribed(
            track: rtc.Track, _: rtc.RemoteTrackPublication, who: rtc.RemoteParticipant
        ) -> None:
            task = hearing.create_task(self._hear_track(track, who), name=f"hear {who.identity}")
            self._listening[track.sid] = task
            task.add_done_callback(lambda _: self._listening.pop(track.sid, None))

        def on_unsubscribed(
            track: rtc.Track, _: rtc.RemoteTrackPublication, __: rtc.RemoteParticipant
        ) -> None:
            if track.sid in self._listening:
                self._gone.add(track.sid)

        self._room.on("track_published", on_published)
        self._room.on("track_subscribed", on_subscribed)
        self._room.on("track_unsubscribed", on_unsubscribed)
        for participant in self._room.remote_participants.values():
            self._subscribe(participant)

    def _subscribe(self, who: rtc.RemoteParticipant) -> None:
        """Subscribe to the participant's microphone if it is a person, and to nothing else."""
        person = self._is_person(who)
        for publication in who.track_publications.values():
            wanted = person and publication.source == rtc.TrackSource.SOURCE_MICROPHONE
            if wanted or publication.subscribed:
                publication.set_subscribed(wanted)

    def _is_person(self, who: rtc.RemoteParticipant) -> bool:
        """Neither the avatar nor an agent. An avatar with another identity has video."""
        has_video = any(
            one.kind == rtc.TrackKind.KIND_VIDEO for one in who.track_publications.values()
        )
        is_agent = who.kind == rtc.ParticipantKind.PARTICIPANT_KIND_AGENT
        return not (has_video or is_agent or who.identity in self._avatars)

    async def _hear_track(self, track: rtc.Track, who: rtc.RemoteParticipant) -> None:
        stream = rtc.AudioStream(
            track,
            capacity=WAITING_FRAMES,
            sample_rate=SAMPLE_RATE_HZ,
            num_channels=1,
            frame_size_ms=FRAME_MS,
        )
        try:
            await self._hear(who.identity, self._sound_of(stream, track.sid))
        finally:
            self._gone.discard(track.sid)
            await stream.aclose()

    async def _sound_of(self, stream: rtc.AudioStream, sid: str) -> AsyncIterator[Pcm]:
        while True:
            try:
                async with asyncio.timeout(STALLED_S):
                    event = await anext(stream)
            except TimeoutError:
                # The stream of an unsubscribed track does not end: it stops delivering frames.
                if sid in self._gone:
                    return
            except StopAsyncIteration:
                return
            else:
                yield np.frombuffer(event.frame.data, dtype=np.int16)
