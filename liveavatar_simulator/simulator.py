"""The simulator as a whole: opens its parts in order, and closes them in reverse."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from liveavatar_lite.models import SessionEndReason

from .faults import Faults
from .ledger import BillingLedger
from .media.avatar import HostedRooms
from .media.picture import AvatarPicture
from .media.recording import AudioRecording
from .service.http_server import RestServer, bind, printable_host
from .service.media_socket import MediaServer
from .service.rest import create_app
from .service.sessions import LiveAvatarService
from .session import SimulatedSession
from .settings import SimulatorSettings


class LiveAvatarSimulator:
    """A simulated LiveAvatar in this process, on this event loop.

    ::

        async with LiveAvatarSimulator(SimulatorSettings(port=0, media_port=0)) as simulator:
            ...  # talk to simulator.url as to https://api.liveavatar.com
            assert simulator.ledger().open == 0

    Attributes:
        settings: its settings.
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
            AddressInUse: another program listens on one of the ports.
            OSError: the host is not an address of this machine.
            RoomUnreachable: LiveKit does not answer.
        """
        settings = self.settings
        async with contextlib.AsyncExitStack() as exits:
            await self._rooms.open()
            exits.push_async_callback(self._rooms.close)
            if settings.join_rooms:
                await self._rooms.check()
                await AvatarPicture(settings.max_video_height).prepare()
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
        """The faults to inject; may be replaced or changed at any time."""
        return self._service.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._service.faults = faults

    async def end_session(
        self, session_id: str, reason: SessionEndReason = SessionEndReason.SERVER_ERROR
    ) -> None:
        """End a session from the service's side. No effect on one that has ended.

        Raises:
            Refusal: the session is unknown, or was never started.
        """
        await self._service.started(session_id).end(reason)

    def freeze_session(self, session_id: str) -> None:
        """Freeze a session, as at the maximum duration of a paid one. Safe to repeat.

        Billing ends; socket and avatar stay.

        Raises:
            Refusal: the session is unknown, or not running.
        """
        self._service.freeze(session_id)

    def drop_sockets(self) -> int:
        """Cut every media socket without a closing handshake (1006); returns how many."""
        return self._service.drop_sockets()

    def heard(self, session_id: str) -> AudioRecording:
        """The recording of what a session has played; see ``record_heard_s``.

        Raises:
            Refusal: the session is unknown or was never started, or there is no recording.
        """
        return self._service.heard(session_id)

    def ledger(self) -> BillingLedger:
        """The same as ``GET /simulator/ledger``."""
        return self._service.ledger()
