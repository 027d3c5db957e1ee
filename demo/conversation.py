"""The demo's main job: one session, opened, made to speak, interrupted, posed, ended.

What a backend would do, in its words; printing is `screen.py`'s, servers are `stack.py`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import dataclass
from urllib.parse import quote

from avatar_sessions.client import AvatarSessions
from avatar_sessions.contract.messages import (
    Clip,
    OwnRoom,
    SessionReport,
    SessionRequest,
    SetPose,
    UtteranceReport,
)
from avatar_sessions.contract.states import Pose
from avatar_sessions.errors import NoAnswer
from avatar_sessions.session import Session
from demo.screen import Screen, heard_of
from demo.subscriber import Received, Subscriber
from deploy.local.stack import LocalStack
from deploy.local.temporal import TemporalServer
from liveavatar_lite.errors import LiteError
from liveavatar_lite.models import WAYNE_AVATAR_ID
from liveavatar_lite.rest import LiveAvatar
from viewer import ViewerServer

SEEN_WITHIN_S = 15.0
AUDIBLE_WITHIN_S = 20.0
SPEAK_WITHIN_S = 660.0
INTERRUPT_AFTER_S = 2.0
POSE_FOR_S = 1.5
BREATH_S = 0.6
END_WITHIN_S = 60.0
EMERGENCY_WITHIN_S = 10.0
# The demo's session waits for the person at the keyboard, not for a deadline.
IDLE_TIMEOUT_S = 4 * 3600.0


@dataclass(slots=True)
class Measured:
    """What the demo saw from outside."""

    first_audio_ms: int | None = None
    """From asking for speech until a viewer hears it."""
    interrupt_ms: int | None = None
    """From asking for the interrupt until it was on the wire."""
    viewer_url: str = ""
    temporal_url: str = ""


class Conversation:
    """One session from start to end."""

    def __init__(
        self,
        sessions: AvatarSessions,
        stack: LocalStack,
        viewer: ViewerServer,
        screen: Screen,
        clips: tuple[Clip, Clip],
    ) -> None:
        self.key = f"demo-{secrets.token_hex(3)}"
        self.measured = Measured()
        self.received = Received()
        self._sessions = sessions
        self._stack = stack
        self._viewer = viewer
        self._screen = screen
        self._hello, self._story = clips
        self._session: Session | None = None
        self._subscriber: Subscriber | None = None
        self._provider_session_id: str | None = None
        self._leave = contextlib.AsyncExitStack()

    @property
    def session(self) -> Session:
        """The session, once it has been asked for."""
        assert self._session is not None, "start() comes first"
        return self._session

    @property
    def started(self) -> bool:
        """Whether there is a session that has to be ended."""
        return self._session is not None

    async def start(self) -> None:
        """Ask for the session by signal-with-start, and say where it can be watched."""
        live = not self._stack.liveavatar.simulated
        request = SessionRequest(
            avatar_id=WAYNE_AVATAR_ID,
            sandbox=live,
            idle_timeout_s=IDLE_TIMEOUT_S,
            # LiveAvatar's cloud cannot reach a LiveKit on this machine: there it hosts the room.
            room=None if live else OwnRoom(),
        )
        # Known before it is asked for: whatever happens to the answer, it will be ended.
        self._session = self._sessions.get(self.key)
        self._session = await self._sessions.start(
            self.key, request, first=SetPose(pose=Pose.LISTENING, command_id="attentive")
        )
        self.measured.viewer_url = self._viewer.invite(self.key)
        self.measured.temporal_url = _page_of(self._session, self._stack.temporal)
        self._screen.session(self.key, self.measured.viewer_url, self.measured.temporal_url)

    async def perform(self) -> None:
        """Join as a viewer, then: a whole utterance, an interrupted one, two poses."""
        await self._join()
        await self._speak_to_the_end()
        await asyncio.sleep(BREATH_S)
        await self._speak_and_interrupt()
        await asyncio.sleep(BREATH_S)
        for pose in (Pose.LISTENING, Pose.IDLE):
            result = await self.session.set_pose(pose)
            self._screen.step(f"pose: {pose}", str(result.outcome))
            await asyncio.sleep(POSE_FOR_S)

    async def over(self) -> None:
        """Wait until the session is over by itself: a deadline, or another terminal's `end`."""
        while True:
            # Only the report ends this wait; a server that is away for a while does not.
            with contextlib.suppress(NoAnswer):
                await self.session.report()
                return

    async def end(self) -> SessionReport:
        """End the session, wait for its clean-up, return its report.

        Raises:
            AvatarSessionsError: no report could be had.
        """
        self._screen.step("ending")
        return await self.session.end(timeout_s=END_WITHIN_S)

    async def leave(self) -> None:
        """Leave the room; safe to repeat."""
        await self._leave.aclose()

    async def stop_billing(self) -> None:
        """The last resort, when nothing of ours is left that could end the session: ask LiveAvatar.

        Does nothing for the simulator, which goes with the stack.
        """
        provider = self._stack.liveavatar
        if provider.simulated or self._provider_session_id is None:
            return
        with contextlib.suppress(LiteError, TimeoutError):
            async with (
                asyncio.timeout(EMERGENCY_WITHIN_S),
                LiveAvatar(provider.api_key, base_url=provider.url) as liveavatar,
            ):
                await liveavatar.stop_session(self._provider_session_id)
                self._screen.say("LiveAvatar was asked to stop the session directly.")

    async def _join(self) -> None:
        asked_at = time.monotonic()
        access = await self.session.attach("demo-measuring")
        self._screen.step("live", f"attached after {_ms_since(asked_at)} ms")
        self._provider_session_id = (await self.session.status()).provider_session_id
        # Where LiveAvatar hosts the room there is one viewer's identity, and it is the browser's.
        participant = access.viewer if access.agent is None else access.agent
        if access.room is not None:
            participant = access.viewer
        self._subscriber = await self._leave.enter_async_context(
            Subscriber(participant.livekit_url, participant.token)
        )
        self.received = self._subscriber.received
        if await self._subscriber.until_seen(SEEN_WITHIN_S):
            self._screen.step("a viewer sees it", f"after {_ms_since(asked_at)} ms")
        else:
            self._screen.step("no picture", f"nothing came within {SEEN_WITHIN_S:.0f} s")

    async def _speak_to_the_end(self) -> None:
        self._screen.step("speaking", _name(self._hello))
        asked_at = time.monotonic()
        heard, utterance = await self._spoken(self._hello, "hello")
        if heard is not None:
            self.measured.first_audio_ms = int(1000 * (heard - asked_at))
        elif utterance.first_audio_ms is not None:
            self.measured.first_audio_ms = utterance.first_audio_ms
        detail = heard_of(utterance)
        if self.measured.first_audio_ms is not None:
            detail += f"; first sound after {self.measured.first_audio_ms} ms"
        self._screen.step(str(utterance.outcome), detail)

    async def _speak_and_interrupt(self) -> None:
        self._screen.step("speaking", _name(self._story))
        _, utterance = await self._spoken(self._story, "story", interrupt=True)
        took = self.measured.interrupt_ms
        told = "" if took is None else f"; on the wire after {took} ms"
        self._screen.step(str(utterance.outcome), heard_of(utterance) + told)

    async def _spoken(
        self, clip: Clip, command_id: str, *, interrupt: bool = False
    ) -> tuple[float | None, UtteranceReport]:
        """Speak, listen, perhaps interrupt: when it was first heard, and what became of it."""
        assert self._subscriber is not None
        heard: float | None = None
        async with asyncio.timeout(SPEAK_WITHIN_S):
            speak = asyncio.create_task(
                self.session.speak(clip, command_id=command_id), name=f"speak {command_id}"
            )
            listen = asyncio.create_task(
                self._subscriber.until_audible(AUDIBLE_WITHIN_S), name=f"hear {command_id}"
            )
            try:
                await asyncio.wait({speak, listen}, return_when=asyncio.FIRST_COMPLETED)
                if listen.done():
                    heard = listen.result()
                if interrupt and not speak.done():
                    await asyncio.sleep(INTERRUPT_AFTER_S)
                    asked_at = time.monotonic()
                    await self.session.interrupt()
                    self.measured.interrupt_ms = _ms_since(asked_at)
                return heard, await speak
            finally:
                for task in (speak, listen):
                    task.cancel()
                await asyncio.gather(speak, listen, return_exceptions=True)


def _page_of(session: Session, temporal: TemporalServer) -> str:
    workflow = quote(session.workflow_id, safe=":")
    return f"{temporal.ui_url}/namespaces/{temporal.namespace}/workflows/{workflow}"


def _name(clip: Clip) -> str:
    return clip.file or "a clip"


def _ms_since(moment: float) -> int:
    return int(1000 * (time.monotonic() - moment))
