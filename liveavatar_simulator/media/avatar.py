"""The avatar as a participant of a real LiveKit room, with a video and an audio track in sync.

Plays what it is given, frame by frame; knows no utterances and no limits.
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
from liveavatar_simulator.session import AvatarJoinFailed
from liveavatar_simulator.settings import SimulatorSettings

from .picture import AvatarPicture
from .sound import mouth_openness

log = logging.getLogger(__name__)

HOSTED_IDENTITY: Final = "heygen"
"""The avatar's identity in hosted rooms: a constant of LiveAvatar's web SDK."""
TOKEN_TTL: Final = timedelta(hours=1)
ADMIN_TTL: Final = timedelta(days=365)
AUDIO_LEAD_S: Final = 0.08
"""How much audio is queued ahead, so that a late frame causes no gap. Video is delayed as long."""
AUDIO_QUEUE_S: Final = 1.0
AUDIO_TIMEOUT_S: Final = 10.0
"""Longer than the queue takes to drain: the media engine has failed."""
AUDIO_CATCH_UP_S: Final = 0.3
"""With more than this queued, silence is skipped until the queue is shorter."""
HEIGHTS: Final = {"very_high": 1080, "high": 720, "medium": 480, "low": 360}
CODECS: Final = {"VP8": rtc.VideoCodec.VP8, "H264": rtc.VideoCodec.H264}
BITS_PER_PIXEL_AND_FRAME: Final = 0.08


class RoomUnreachable(AvatarJoinFailed):
    """LiveKit could not be reached, or refused the avatar."""


class HostedRooms:
    """Hosted rooms: one per session, with its id as name, deleted when it ends."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self._settings = settings
        self._api: api.LiveKitAPI | None = None

    async def open(self) -> None:
        """Prepare the client; opens no connection yet."""
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
        """Check that LiveKit answers.

        Raises:
            RoomUnreachable: it does not answer, or refuses the API key.
        """
        try:
            await self._service.list_rooms(api.ListRoomsRequest(names=["-"]))
        except (aiohttp.ClientError, TimeoutError, api.TwirpError) as error:
            raise RoomUnreachable(_why(error)) from error

    async def create(self, room: str) -> None:
        """Create a room.

        Raises:
            RoomUnreachable: LiveKit did not create it.
        """
        try:
            await self._service.create_room(api.CreateRoomRequest(name=room, empty_timeout=300))
        except (aiohttp.ClientError, TimeoutError, api.TwirpError) as error:
            raise RoomUnreachable(_why(error)) from error

    async def delete(self, room: str) -> None:
        """Delete a room; a failure is only logged."""
        try:
            async with asyncio.timeout(self._settings.leave_timeout_s):
                await self._service.delete_room(api.DeleteRoomRequest(room=room))
        except (aiohttp.ClientError, TimeoutError, api.TwirpError) as error:
            log.warning("room %s was not deleted: %s", room, _why(error))

    def token(self, room: str, identity: str, *, agent: bool = False) -> str:
        """A participant's token for a room on the simulator's LiveKit."""
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
            # The secret of `livekit-server --dev` is short by design.
            warnings.filterwarnings("ignore", message="The HMAC key")
            return token.to_jwt()

    @property
    def _service(self) -> RoomService:
        if self._api is None:
            raise RuntimeError("HostedRooms is not open")
        return self._api.room


def _why(error: BaseException) -> str:
    """The error without its text, which may hold a token."""
    return getattr(error, "code", None) or type(error).__name__


class LiveKitAvatar:
    """An avatar in a room, from `join` to `leave`."""

    def __init__(self, settings: SimulatorSettings, video: VideoSettingsSchema) -> None:
        height = min(HEIGHTS[video.quality], settings.max_video_height)
        self._settings = settings
        self._picture = AvatarPicture(height)
        self._codec = CODECS[video.encoding]
        self._room = rtc.Room()
        self._audio = rtc.AudioSource(SAMPLE_RATE_HZ, 1, queue_size_ms=int(AUDIO_QUEUE_S * 1000))
        self._video = rtc.VideoSource(self._picture.width, self._picture.height)
        # Queued audio is played with a delay; video frames are delayed as long.
        delay_frames = round(AUDIO_LEAD_S * settings.fps)
        self._openness = deque([0.0] * delay_frames, maxlen=delay_frames + 1)
        self._began_s = time.monotonic()
        self._hosted: tuple[HostedRooms, str] | None = None

    async def join(self, url: str, token: str) -> None:
        """Join the room and publish both tracks.

        Raises:
            RoomUnreachable: LiveKit could not be reached, or refused the avatar.
        """
        settings = self._settings
        options = rtc.RoomOptions(auto_subscribe=False, connect_timeout=settings.join_timeout_s)
        try:
            async with asyncio.timeout(settings.join_timeout_s):
                await self._picture.prepare()  # cached, unless the size is new
                await self._room.connect(url, token, options)
                await self._publish()
        except (rtc.ConnectError, rtc.participant.PublishTrackError, TimeoutError) as error:
            await self.leave()
            raise RoomUnreachable(_why(error)) from error

    async def _publish(self) -> None:
        participant = self._room.local_participant
        picture, fps = self._picture, self._settings.fps
        bitrate = int(picture.width * picture.height * fps * BITS_PER_PIXEL_AND_FRAME)
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

    def delete_on_leave(self, rooms: HostedRooms, room: str) -> None:
        """Delete this room, which was created for the avatar, when the avatar leaves."""
        self._hosted = (rooms, room)

    async def play(self, pcm: bytes, pose: AgentState) -> None:
        """Play the audio of the time that has just passed, and one frame of video."""
        self._openness.append(mouth_openness(pcm))
        elapsed_s = time.monotonic() - self._began_s
        frame = self._picture.draw(elapsed_s, self._openness[0], pose)
        self._video.capture_frame(
            rtc.VideoFrame(frame.width, frame.height, rtc.VideoBufferType.I420, frame.buffer)
        )
        await self._play_audio(pcm)

    async def _play_audio(self, pcm: bytes) -> None:
        queued_s = self._audio.queued_duration
        if queued_s <= 0:
            pcm = bytes(int(AUDIO_LEAD_S * BYTES_PER_S)) + pcm
        elif queued_s > AUDIO_CATCH_UP_S and not any(pcm):
            return
        if pcm:
            samples = len(pcm) // SAMPLE_BYTES
            async with asyncio.timeout(AUDIO_TIMEOUT_S):
                await self._audio.capture_frame(rtc.AudioFrame(pcm, SAMPLE_RATE_HZ, 1, samples))

    def clear(self) -> None:
        """Drop audio that is queued and not yet played."""
        self._audio.clear_queue()

    async def leave(self) -> None:
        """Leave the room, and delete it if it was created for the avatar. Bounded, repeatable."""
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
