"""The ingress: a WebSocket server where speakers reach the sessions that this process owns.

One port for all sessions. It admits speakers by ticket, enforces limits, and hands each connection
to an `IngressConnection`. It reads no frames. Speech never passes through Temporal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl as tls
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from avatar_sessions.contract.live_dialect import MAX_FRAME_BYTES, PATH, SUBPROTOCOL
from owner.ingress.addresses import reachable_host
from owner.ingress.connection import IngressConnection
from owner.ingress.tickets import TicketRefused, Tickets
from owner.registry import SessionRegistry
from owner.session import OwnedSession

logger = logging.getLogger(__name__)
# The library logs request paths, and a path may hold a ticket.
_library_logger = logging.getLogger(f"{__name__}.websockets")
_library_logger.setLevel(logging.CRITICAL)

MAX_SPEAKERS: Final = 8
"""Connections to one session at the same time."""
OPEN_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 2.0
SHUTDOWN_S: Final = 5.0
"""How long all connections may take to close when the process stops."""
PING_S: Final = 20.0
READ_LIMIT_BYTES: Final = 2 * MAX_FRAME_BYTES
"""Above the protocol's own limit, so that a frame over that limit can be answered."""
BEARER: Final = "Bearer "


class OwnerUnsupervised(Exception):
    """Temporal has not answered for a while: connected speakers go on, new ones are refused."""


@dataclass(frozen=True)
class IngressSettings:
    """Where the ingress listens, and which clients it admits."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: any free port."""
    url: str | None = None
    """The address sent to speakers; None: the one it listens on."""
    certificate: Path | None = None
    """Certificate chain, PEM; None: no TLS."""
    private_key: Path | None = None
    origins: tuple[str, ...] = ()
    """Web origins that may connect. Without one, requests from web pages are refused."""
    path_tickets: bool = False
    """Also accept the ticket as the last part of the path, for clients that only accept a URL."""


class IngressServer:
    """Listens for the speakers of all sessions of a process."""

    def __init__(self, settings: IngressSettings, owned: SessionRegistry, tickets: Tickets) -> None:
        self._settings = settings
        self._owned = owned
        self._tickets = tickets
        self._server: Server | None = None
        self._url: str | None = None

    @property
    def url(self) -> str | None:
        """The address for speakers; None while it does not listen."""
        return self._url

    def _own_host(self) -> str | None:
        """The host that speakers are sent, as it stands in a URL; None if there is no route."""
        try:
            host = reachable_host(self._settings.host)
        except OSError as error:
            logger.error(
                "the ingress listens on all interfaces, and this host has no route to another"
                " network (%s), so speakers are sent no address: set AVATAR_SESSIONS_INGRESS_URL",
                error.strerror,
            )
            return None
        return f"[{host}]" if ":" in host else host

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Serve until the end of the block.

        Raises:
            OSError: the address cannot be bound, or the certificate cannot be read.
        """
        settings = self._settings
        own_host = None if settings.url else self._own_host()
        self._server = await serve(
            self._serve,
            settings.host,
            settings.port,
            ssl=_tls_context(settings),
            process_request=self._admit,
            select_subprotocol=_live_dialect,
            compression=None,  # PCM does not compress, at 20 times the CPU
            max_size=READ_LIMIT_BYTES,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            ping_interval=PING_S,
            ping_timeout=PING_S,
            server_header=None,
            logger=_library_logger,
        )
        port = next(iter(self._server.sockets)).getsockname()[1]
        scheme = "ws" if settings.certificate is None else "wss"
        address = settings.url or (own_host and f"{scheme}://{own_host}:{port}")
        if address:
            self._url = f"{address}{PATH}"
            logger.info("the ingress listens at %s", self._url)
        try:
            yield
        finally:
            self._url = None
            self._server.close()
            try:
                await asyncio.wait_for(self._server.wait_closed(), SHUTDOWN_S)
            except TimeoutError:
                logger.error("some speakers' connections did not close in time")

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Admit a client with a ticket to a session that this process owns in the same epoch."""
        origin = request.headers.get("Origin")
        if origin is not None and origin not in self._settings.origins:
            return connection.respond(
                HTTPStatus.FORBIDDEN, "requests from this origin are refused\n"
            )
        try:
            session = self._session_of(request)
        except TicketRefused as refusal:
            return connection.respond(HTTPStatus.UNAUTHORIZED, f"{refusal}\n")
        except OwnerUnsupervised:
            return connection.respond(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "this process cannot confirm now that it owns the session: try again\n",
            )
        except LookupError as refusal:
            return connection.respond(HTTPStatus.GONE, f"{refusal.args[0]}\n")
        except ValueError:
            return connection.respond(HTTPStatus.NOT_FOUND, "no such path\n")
        if session.observer_count >= MAX_SPEAKERS:
            text = f"{MAX_SPEAKERS} speakers are connected already\n"
            return connection.respond(HTTPStatus.TOO_MANY_REQUESTS, text)
        connection.session = session  # type: ignore[attr-defined]
        return None

    def _session_of(self, request: Request) -> OwnedSession:
        ticket = self._tickets.check(self._ticket_in(request))
        session = self._owned.get(ticket.session_key, ticket.epoch)
        if session is None:
            raise LookupError("this process does not own the session any more: attach again")
        if not session.supervised:
            raise OwnerUnsupervised
        return session

    def _ticket_in(self, request: Request) -> str:
        path, _, _query = request.path.partition("?")
        if path == PATH:
            authorization = request.headers.get("Authorization", "")
            if not authorization.startswith(BEARER):
                raise TicketRefused("a ticket is required: Authorization: Bearer <ticket>")
            return authorization.removeprefix(BEARER)
        folder, _, ticket = path.rpartition("/")
        if folder != PATH:
            raise ValueError(path)
        if not self._settings.path_tickets:
            raise TicketRefused(
                "tickets in paths are disabled (AVATAR_SESSIONS_INGRESS_PATH_TICKETS)"
            )
        return ticket

    async def _serve(self, connection: ServerConnection) -> None:
        session: OwnedSession = connection.session  # type: ignore[attr-defined]
        try:
            await IngressConnection(
                connection, session, extended=connection.subprotocol is not None
            ).run()
        except ConnectionClosed:
            pass
        except asyncio.CancelledError:
            raise
        except Exception:  # must not end other connections
            logger.exception("the connection of a speaker of session %s failed", session.key)
            connection.transport.abort()


def _live_dialect(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in offered else None


def _tls_context(settings: IngressSettings) -> tls.SSLContext | None:
    if settings.certificate is None:
        return None
    context = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings.certificate, settings.private_key)
    return context
