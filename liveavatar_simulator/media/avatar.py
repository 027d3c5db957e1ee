"""The avatar as a participant of a real LiveKit room: one video track, one audio track, in step.

It shows and sounds what it is given, frame by frame, and knows nothing of utterances or limits.
"""

from __future__ import annotations

import asyncio
import logging
import time
import warnings
from collections import deque
from datetime import timedelta
from typing import Final

import aiohttp
from livekit import api, rtc
from livekit.api.room_service import RoomService

from liveavatar_lite.audio import BYTES_PER_S, SAMPLE_BYTES, SAMPLE_RATE_HZ
from liveavatar_lite.messages import AgentState
from liveavatar_simulator.service.schemas import VideoSettingsSchema
from liveavatar_simulator.session import AvatarStayedOut
from liveavatar_simulator.settings import SimulatorSettings

from .face import Face
from .loudness import mouth_openness

log = logging.getLogger(__name__)

HOSTED_IDENTITY: Final = "heygen"
"""What the avatar is called in a room of LiveAvatar's own: a constant of its web SDK."""
TOKEN_TTL: Final = timedelta(hours=1)
ADMIN_TTL: Final = timedelta(days=365)
AUDIO_LEAD_S: Final = 0.08
"""How much sound is queued ahead of the room, so that a late tick is not heard.

Video waits for it.
"""
AUDIO_QUEUE_S: Final = 1.0
SOUND_TIMEOUT_S: Final = 10.0
"""Longer than any queue takes to drain: the media engine is gone."""
AUDIO_CATCH_UP_S: Final = 0.3
"""More queued than this: silence is left out until it is less."""
HEIGHTS: Final = {"very_high": 1080, "high": 720, "medium": 480, "low": 360}
CODECS: Final = {"VP8": rtc.VideoCodec.VP8, "H264": rtc.VideoCodec.H264}
BITS_PER_PIXEL_AND_FRAME: Final = 0.08


class RoomUnreachable(AvatarStayedOut):
    """LiveKit could not be reached, or did not let the avatar in."""


class HostedRooms:
    """The rooms that LiveAvatar makes: one a session, named like it, deleted with it."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self._settings = settings
        self._api: api.LiveKitAPI | None = None

    async def open(self) -> None:
        """Prepare; connects to nothing yet."""
        grants = api.VideoGrants(room_create=True, room_list=True)
        self._api = api.LiveKitAPI(
            self._settings.livekit_url,
            token=self._sign(self._access().with_grants(grants).with_ttl(ADMIN_TTL)),
            timeout=aiohttp.ClientTimeout(total=self._settings.join_timeout_s),
        )

    async def close(self) -> None:
        """Release the HTTP connections."""
        if self._api is not None:
            await self._api.aclose()
            self._api = None

    async def check(self) -> None:
        """Ask LiveKit for something cheap.

        Raises:
            RoomUnreachable: it does not answer, or does not take the API key.
        """
        try:
            await self._service.list_rooms(api.ListRoomsRequest(names=["-"]))
        except (aiohttp.ClientError, TimeoutError, api.TwirpError) as error:
            raise RoomUnreachable(_why(error)) from error

    async def create(self, room: str) -> None:
        """Make a room.

        Raises:
            RoomUnreachable: LiveKit did not.
        """
        try:
            await self._service.create_room(api.CreateRoomRequest(name=room, empty_timeout=300))
        except (aiohttp.ClientError, TimeoutError, api.TwirpError) as error:
            raise RoomUnreachable(_why(error)) from error

    async def delete(self, room: str) -> None:
        """Delete a room; one that is gone already, or out of reach, is only noted."""
        try:
            async with asyncio.timeout(self._settings.leave_timeout_s):
                await self._service.delete_room(api.DeleteRoomRequest(room=room))
        except (aiohttp.ClientError, TimeoutError, api.TwirpError) as error:
            log.warning("room %s was not deleted: %s", room, _why(error))

    def token(self, room: str, identity: str, *, agent: bool = False) -> str:
        """A token for a participant of a room on this simulator's own LiveKit."""
        token = (
            self._access()
            .with_identity(identity)
            .with_name(identity)
            .with_grants(api.VideoGrants(room_join=True, room=room))
            .with_ttl(TOKEN_TTL)
        )
        return self._sign(token.with_kind("agent") if agent else token)

    def _access(self) -> api.AccessToken:
        settings = self._settings
        return api.AccessToken(
            settings.livekit_api_key, settings.livekit_api_secret.get_secret_value()
        )

    def _sign(self, token: api.AccessToken) -> str:
        with warnings.catch_warnings():
            # The secret of `livekit-server --dev` is short; there it is no news.
            warnings.filterwarnings("ignore", message="The HMAC key")
            return token.to_jwt()

    @property
    def _service(self) -> RoomService:
        if self._api is None:
            raise RuntimeError("HostedRooms is not open")
        return self._api.room


def _why(error: BaseException) -> str:
    """What went wrong, without the address: it may hold a token."""
    return getattr(error, "code", None) or type(error).__name__


class LiveKitAvatar:
    """An avatar that is in a room, from `join` to `leave`."""

    def __init__(self, settings: SimulatorSettings, video: VideoSettingsSchema) -> None:
        height = min(HEIGHTS[video.quality], settings.max_video_height)
        self._settings = settings
        self._face = Face(height)
        self._codec = CODECS[video.encoding]
        self._room = rtc.Room()
        self._audio = rtc.AudioSource(SAMPLE_RATE_HZ, 1, queue_size_ms=int(AUDIO_QUEUE_S * 1000))
        self._video = rtc.VideoSource(self._face.width, self._face.height)
        # Sound leaves later than it is given, by what is queued: pictures wait as long.
        delay_frames = round(AUDIO_LEAD_S * settings.fps)
        self._mouths = deque([0.0] * delay_frames, maxlen=delay_frames + 1)
        self._began_s = time.monotonic()
        self._hosted: tuple[HostedRooms, str] | None = None

    async def join(self, url: str, token: str) -> None:
        """Join the room and publish both tracks.

        Raises:
            RoomUnreachable: LiveKit did not let the avatar in.
        """
        settings = self._settings
        options = rtc.RoomOptions(auto_subscribe=False, connect_timeout=settings.join_timeout_s)
        try:
            async with asyncio.timeout(settings.join_timeout_s):
                await self._face.prepare()  # done already, unless the size is a new one
                await self._room.connect(url, token, options)
                await self._publish()
        except (rtc.ConnectError, rtc.participant.PublishTrackError, TimeoutError) as error:
            await self.leave()
            raise RoomUnreachable(_why(error)) from error

    async def _publish(self) -> None:
        participant = self._room.local_participant
        face, fps = self._face, self._settings.fps
        bitrate = int(face.width * face.height * fps * BITS_PER_PIXEL_AND_FRAME)
        video = participant.publish_track(
            rtc.LocalVideoTrack.create_video_track("video", self._video),
            rtc.TrackPublishOptions(
                source=rtc.TrackSource.SOURCE_CAMERA,
                video_codec=self._codec,
                simulcast=False,
                video_encoding=rtc.VideoEncoding(max_bitrate=bitrate, max_framerate=fps),
            ),
        )
        audio = participant.publish_track(
            rtc.LocalAudioTrack.create_audio_track("audio", self._audio),
            rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE, dtx=False),
        )
        await asyncio.gather(video, audio)  # one negotiation for both

    def owns(self, rooms: HostedRooms, room: str) -> None:
        """The room was made for this avatar: it is deleted when it leaves."""
        self._hosted = (rooms, room)

    async def play(self, pcm: bytes, pose: AgentState) -> None:
        """Show and sound the time that has just passed."""
        self._mouths.append(mouth_openness(pcm))
        elapsed_s = time.monotonic() - self._began_s
        frame = self._face.draw(elapsed_s, self._mouths[0], pose)
        self._video.capture_frame(
            rtc.VideoFrame(frame.width, frame.height, rtc.VideoBufferType.I420, frame.buffer)
        )
        await self._sound(pcm)

    async def _sound(self, pcm: bytes) -> None:
        queued_s = self._audio.queued_duration
        if queued_s <= 0:
            pcm = bytes(int(AUDIO_LEAD_S * BYTES_PER_S)) + pcm
        elif queued_s > AUDIO_CATCH_UP_S and not any(pcm):
            return
        if pcm:
            samples = len(pcm) // SAMPLE_BYTES
            async with asyncio.timeout(SOUND_TIMEOUT_S):
                await self._audio.capture_frame(rtc.AudioFrame(pcm, SAMPLE_RATE_HZ, 1, samples))

    def hush(self) -> None:
        """Drop what is queued and not yet heard."""
        self._audio.clear_queue()

    async def leave(self) -> None:
        """Leave the room and delete it if it was made for this avatar. Bounded, safe to repeat."""
        try:
            async with asyncio.timeout(self._settings.leave_timeout_s):
                await self._room.disconnect()
                await self._audio.aclose()
                await self._video.aclose()
        except TimeoutError:
            log.warning("the avatar did not leave its room in time")
        hosted, self._hosted = self._hosted, None
        if hosted is not None:
            rooms, room = hosted
            await rooms.delete(room)
