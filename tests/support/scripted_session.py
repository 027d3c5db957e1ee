"""A session that the test controls, as the viewer sees it: a `ViewerSource` without Temporal."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic import SecretStr

from avatar_sessions.contract.states import SessionState
from deploy.local.livekit import LiveKitServer
from tests.support.speech.stand_in_avatar import StandInAvatar
from viewer import ViewerAccess, ViewerSourceError, ViewerStatus

FAKE_TOKEN: Final = "fake-livekit-token-for-tests"


@dataclass
class ScriptedSession:
    """A `ViewerSource` whose one session is in the state that the test sets."""

    now: ViewerStatus = field(default_factory=lambda: ViewerStatus(SessionState.LIVE))
    granted: ViewerAccess = field(
        default_factory=lambda: ViewerAccess("ws://127.0.0.1:1", SecretStr(FAKE_TOKEN))
    )
    failure: str | None = None
    """While set, the source cannot answer."""
    keys: list[str] = field(default_factory=list)
    """The session keys that access was requested for."""

    async def access(self, session_key: str) -> ViewerAccess:
        self.keys.append(session_key)
        return self.granted

    async def status(self, session_key: str) -> ViewerStatus:
        if self.failure is not None:
            raise ViewerSourceError(self.failure)
        return self.now

    def becomes(self, state: SessionState, **more: Any) -> None:
        """Set the session's state, and other fields of its status."""
        self.now = replace(self.now, state=state, **more)


@dataclass
class Stage:
    """A test's room with an avatar in it, and the scripted session that leads there."""

    room: str
    avatar: StandInAvatar
    session: ScriptedSession
    livekit: LiveKitServer
    tokens: list[SecretStr] = field(default_factory=list)
