"""The script of the demo: a session is started, speaks, is interrupted, posed and ended.

The same calls as in a backend. `screen.py` prints, `program.py` starts and ends the servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import dataclass
from urllib.parse import quote

from avatar_sessions.client import AvatarSessions
from avatar_sessions.contract.messages import Clip, OwnRoom, SessionRequest, SetPose
from avatar_sessions.contract.reports import SessionReport, UtteranceReport
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
    """What the demo measured as a viewer and a client."""

    first_audio_ms: int | None = None
    """From requesting speech until a viewer hears it."""
    interrupt_ms: int | None = None
    """From requesting the interrupt until it was on the wire."""
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
        """The session, after `start`."""
        assert self._session is not None, "start() comes first"
        return self._session

    @property
    def started(self) -> bool:
        """Whether there is a session that must be ended."""
        return self._session is not None

    async def start(self) -> None:
        """Request the session by signal-with-start, and show where it can be watched."""
        real = not self._stack.liveavatar.simulated
        request = SessionRequest(
            avatar_id=WAYNE_AVATAR_ID,
            sandbox=real,
            idle_timeout_s=IDLE_TIMEOUT_S,
            # LiveAvatar's cloud cannot reach a LiveKit on this machine: there it hosts the room.
            room=None if real else OwnRoom(),
        )
        # Set before the request: a session whose reply is lost must be ended too.
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

    async def wait_until_over(self) -> None:
        """Wait until the session ends by itself: a deadline, or `end` from another terminal."""
        while True:
            # Only the report ends this wait; a server that does not answer for a while does not.
            with contextlib.suppress(NoAnswer):
                await self.session.report()
                return

    async def end(self) -> SessionReport:
        """End the session, wait for its clean-up, return its report.

        Raises:
            AvatarSessionsError: there is no report.
        """
        self._screen.step("ending")
        return await self.session.end(timeout_s=END_WITHIN_S)

    async def leave(self) -> None:
        """Leave the room; safe to repeat."""
        await self._leave.aclose()

    async def stop_billing(self) -> None:
        """Stop the session at LiveAvatar directly, for when no workflow or worker can end it.

        Does nothing for the simulator, which ends with the stack.
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
                self._screen.say("The session was stopped at LiveAvatar directly.")

    async def _join(self) -> None:
        requested_at = time.monotonic()
        access = await self.session.attach("demo-measuring")
        self._screen.step("live", f"attached after {_ms_since(requested_at)} ms")
        self._provider_session_id = (await self.session.status()).provider_session_id
        # A room that LiveAvatar hosts has one viewer identity, and the browser uses it.
        participant = access.viewer if access.agent is None else access.agent
        if access.room is not None:
            participant = access.viewer
        self._subscriber = await self._leave.enter_async_context(
            Subscriber(participant.livekit_url, participant.token)
        )
        self.received = self._subscriber.received
        if await self._subscriber.until_seen(SEEN_WITHIN_S):
            self._screen.step("a viewer sees it", f"after {_ms_since(requested_at)} ms")
        else:
            self._screen.step("no picture", f"no video arrived within {SEEN_WITHIN_S:.0f} s")

    async def _speak_to_the_end(self) -> None:
        self._screen.step("speaking", _name(self._hello))
        requested_at = time.monotonic()
        heard, utterance = await self._spoken(self._hello, "hello")
        if heard is not None:
            self.measured.first_audio_ms = int(1000 * (heard - requested_at))
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
        wire = "" if took is None else f"; on the wire after {took} ms"
        self._screen.step(str(utterance.outcome), heard_of(utterance) + wire)

    async def _spoken(
        self, clip: Clip, command_id: str, *, interrupt: bool = False
    ) -> tuple[float | None, UtteranceReport]:
        """Speak, listen, perhaps interrupt; returns when sound was first heard, and the report."""
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
                    requested_at = time.monotonic()
                    await self.session.interrupt()
                    self.measured.interrupt_ms = _ms_since(requested_at)
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
