"""The stack that measurements run on, started once, by the first row that needs it.

Temporal's development server tuned as in `deploy.local`, LiveKit, one worker process, and the
simulator without delays and rooms, so that only the product's own time is measured.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from uuid import uuid4

from avatar_sessions import AvatarSessions, SessionRequest
from avatar_sessions.contract.messages import Video
from avatar_sessions.seal import Seal
from deploy.local.binaries import find_livekit, find_temporal
from deploy.local.ports import free_port
from deploy.local.processes import Supervisor
from deploy.local.settings import LocalSettings
from deploy.local.simulator import simulator_settings
from deploy.local.stack import LocalStack, start_stack
from liveavatar_lite import WAYNE_AVATAR_ID

SIMULATOR: Final = {
    "join_rooms": False,
    "start_delay_s": 0,
    "connect_delay_s": 0,
    "interrupt_delay_s": 0,
    "speak_start_latency_s": 0,
    "speak_start_buffer_s": 0,
    "calls_per_s": 0,
    "concurrency_limit": 1000,
    "sandbox_max_duration_s": 1200,
}

API_KEY: Final = "obviously-fake-bench-key"


class Lab:
    """The servers and the client for measurements. An async context manager that ends its servers.

    Attributes:
        quick: repeat less often: one minute instead of ten.
    """

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self._exits = AsyncExitStack()
        self._stack: LocalStack | None = None
        self._sessions: AvatarSessions | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._exits.aclose()

    async def stack(self) -> LocalStack:
        """The running stack; the first call starts it.

        Raises:
            LocalError: a server was not found, or did not come up.
        """
        if self._stack is None:
            self._stack = await self._start()
        return self._stack

    async def sessions(self) -> AvatarSessions:
        """A client of the running stack, warmed up by one session.

        Raises:
            LocalError: as `stack`.
        """
        if self._sessions is None:
            stack = await self.stack()
            self._sessions = AvatarSessions(await stack.temporal.client(), Seal([stack.seal_keys]))
            session, _ = await self._sessions.open(new_key(), request())
            await session.end()
        return self._sessions

    async def _start(self) -> LocalStack:
        settings = LocalSettings(
            temporal_port=free_port(),
            temporal_ui_port=free_port(),
            livekit_port=free_port(),
            simulator_port=free_port(),
            simulator_media_port=free_port(),
            viewer_port=free_port(),
        )
        sources = (find_temporal(settings, sys.stderr), find_livekit(settings, sys.stderr))
        folder = Path(self._exits.enter_context(tempfile.TemporaryDirectory()))
        clips = folder / "clips"
        clips.mkdir()
        supervisor = await self._exits.enter_async_context(Supervisor(folder / "logs"))
        began_s = time.monotonic()
        stack = await start_stack(
            supervisor,
            sources,
            settings,
            simulator=lambda livekit: simulator_settings(
                **SIMULATOR,
                port=settings.simulator_port,
                media_port=settings.simulator_media_port,
                livekit_url=livekit.url,
                livekit_api_key=livekit.api_key,
                livekit_api_secret=livekit.api_secret,
                api_keys=[API_KEY],
            ),
            clip_folder=clips,
            on_started=lambda *_: None,
        )
        print(f"servers up in {time.monotonic() - began_s:.1f} s", file=sys.stderr)
        return stack


def new_key() -> str:
    """A unique session key."""
    return f"bench-{uuid4()}"


def request() -> SessionRequest:
    """A request for a session with minimal video."""
    return SessionRequest(
        avatar_id=WAYNE_AVATAR_ID, sandbox=True, video=Video(quality="low", encoding="VP8")
    )
