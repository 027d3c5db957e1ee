"""The ingress: a WebSocket server where speakers reach the sessions that this process owns.

One port for all sessions. It lets in by ticket, keeps limits, and hands each connection to a
`IngressConnection`, which speaks LITE in the server's role. Speech never touches Temporal.
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
# The library's own lines show request paths, and a path may hold a ticket.
_library_logger = logging.getLogger(f"{__name__}.websockets")
_library_logger.setLevel(logging.CRITICAL)

MAX_SPEAKERS: Final = 8
"""Connections to one session at once."""
OPEN_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 2.0
GOODBYE_S: Final = 5.0
"""How long all connections may take to end when the process goes."""
PING_S: Final = 20.0
READ_LIMIT_BYTES: Final = 2 * MAX_FRAME_BYTES
"""Over the protocol's own limit, so that a frame beyond that one can be answered."""
BEARER: Final = "Bearer "


class OwnerUnsupervised(Exception):
    """Temporal has not answered for a while: whoever speaks goes on, nobody new is let in."""


@dataclass(frozen=True)
class IngressSettings:
    """Where the ingress listens, and whom it lets in."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: a free one."""
    url: str | None = None
    """The address that speakers are told; None: the one it listens on."""
    certificate: Path | None = None
    """Certificate chain, PEM; None: no TLS."""
    private_key: Path | None = None
    origins: tuple[str, ...] = ()
    """Web origins that may connect. Without one, requests from web pages are refused."""
    path_tickets: bool = False
    """Also take the ticket as the last part of the path, for clients that can only take a URL."""


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
        """What speakers connect to; None while it does not listen."""
        return self._url

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Serve until the end of the block.

        Raises:
            OSError: the address cannot be had, the certificate not be read, or a wildcard address
                not be told to speakers, since this host has no route.
        """
        settings = self._settings
        self._server = await serve(
            self._serve,
            settings.host,
            settings.port,
            ssl=_tls_context(settings),
            process_request=self._admit,
            select_subprotocol=_live_dialect,
            compression=None,  # PCM does not compress: it costs 20 times the CPU for nothing
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
        host = reachable_host(settings.host) if settings.url is None else settings.host
        host = f"[{host}]" if ":" in host else host
        self._url = f"{settings.url or f'{scheme}://{host}:{port}'}{PATH}"
        logger.info("live speech is taken at %s", self._url)
        try:
            yield
        finally:
            self._url = None
            self._server.close()
            try:
                await asyncio.wait_for(self._server.wait_closed(), GOODBYE_S)
            except TimeoutError:
                logger.error("some speakers' connections do not end: left behind")

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Let in whoever has a ticket to a session that is owned here, in that very epoch."""
        origin = request.headers.get("Origin")
        if origin is not None and origin not in self._settings.origins:
            return connection.respond(HTTPStatus.FORBIDDEN, "this origin is not let in\n")
        try:
            session = self._session_of(request)
        except TicketRefused as refusal:
            return connection.respond(HTTPStatus.UNAUTHORIZED, f"{refusal}\n")
        except OwnerUnsupervised:
            return connection.respond(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "whether this process still owns the session is not known now: try again\n",
            )
        except LookupError as refusal:
            return connection.respond(HTTPStatus.GONE, f"{refusal.args[0]}\n")
        except ValueError:
            return connection.respond(HTTPStatus.NOT_FOUND, "there is nothing here\n")
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
                raise TicketRefused("a ticket is needed: Authorization: Bearer <ticket>")
            return authorization.removeprefix(BEARER)
        folder, _, ticket = path.rpartition("/")
        if folder != PATH:
            raise ValueError(path)
        if not self._settings.path_tickets:
            raise TicketRefused(
                "tickets in paths are not taken here (AVATAR_SESSIONS_INGRESS_PATH_TICKETS)"
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
        except Exception:  # one speaker's trouble is nobody else's
            logger.exception("a speaker of %s failed", session.key)
            connection.transport.abort()


def _live_dialect(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in offered else None


def _tls_context(settings: IngressSettings) -> tls.SSLContext | None:
    if settings.certificate is None:
        return None
    context = tls.SSLContext(tls.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings.certificate, settings.private_key)
    return context
