"""The simulator as a whole: opens its parts in order, closes them in the other."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from liveavatar_lite.models import SessionEndReason

from .faults import Faults
from .ledger import BillingLedger
from .media.avatar import HostedRooms
from .media.face import Face
from .media.recording import AudioRecording
from .service.http_server import RestServer, bind, printable_host
from .service.lifecycle import LiveAvatarService
from .service.media_socket import MediaServer
from .service.rest import create_app
from .session import SimulatedSession
from .settings import SimulatorSettings


class LiveAvatarSimulator:
    """A LiveAvatar of one's own, in this process and on this event loop.

    ::

        async with LiveAvatarSimulator(SimulatorSettings(port=0, media_port=0)) as simulator:
            ...  # talk to simulator.url as to https://api.liveavatar.com
            assert simulator.ledger().open == 0

    Attributes:
        settings: what it was made with.
        url: base URL of the REST API; set while it is open.
    """

    def __init__(self, settings: SimulatorSettings | None = None) -> None:
        self.settings = settings or SimulatorSettings()
        self.url = ""
        self._rooms = HostedRooms(self.settings)
        self._service = LiveAvatarService(self.settings, self._rooms)
        self._exits = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start to listen.

        Raises:
            PortInUse: somebody else has one of the ports.
            OSError: the host is not one of this machine's.
            RoomUnreachable: LiveKit does not answer.
        """
        settings = self.settings
        async with contextlib.AsyncExitStack() as exits:
            await self._rooms.open()
            exits.push_async_callback(self._rooms.close)
            if settings.join_rooms:
                await self._rooms.check()
                await Face(settings.max_video_height).prepare()
            media = MediaServer(settings, self._service.find, lambda: self._service.faults)
            rest = RestServer()
            listener = bind(settings.host, settings.port)
            exits.callback(listener.close)
            await media.open(bind(settings.host, settings.media_port))
            exits.push_async_callback(media.close)
            exits.push_async_callback(self._service.close)
            app = create_app(settings, self._service, ws_url=media.ws_url, abort=rest.abort)
            await rest.open(app, listener)
            exits.push_async_callback(rest.close)
            host, port = listener.getsockname()[:2]
            self.url = f"http://{printable_host(host)}:{port}"
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End every session and stop listening. Bounded."""
        await self._exits.aclose()

    @property
    def sessions(self) -> Mapping[str, SimulatedSession]:
        """All sessions by id, oldest first."""
        return self._service.sessions

    @property
    def faults(self) -> Faults:
        """What goes wrong next; may be replaced or changed at any time."""
        return self._service.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._service.faults = faults

    async def end_session(
        self, session_id: str, reason: SessionEndReason = SessionEndReason.SERVER_ERROR
    ) -> None:
        """End a session from the service's side; one that has ended stays as it is.

        Raises:
            Refusal: it is unknown, or was never started.
        """
        await self._service.started(session_id).end(reason)

    def freeze_session(self, session_id: str) -> None:
        """Let a session fall silent as at the maximum duration of a paid one: billing ends, socket
        and avatar stay. Safe to repeat.

        Raises:
            Refusal: it is unknown, or does not run.
        """
        self._service.freeze(session_id)

    def drop_sockets(self) -> int:
        """Cut every media socket at once (1006); returns how many there were."""
        return self._service.drop_sockets()

    def heard(self, session_id: str) -> AudioRecording:
        """What was heard of a session up to now, or to its end; see ``record_heard_s``.

        Raises:
            Refusal: it is unknown, was never started, is not recorded, or no longer kept.
        """
        return self._service.heard(session_id)

    def ledger(self) -> BillingLedger:
        """The same as ``GET /simulator/ledger``."""
        return self._service.ledger()
