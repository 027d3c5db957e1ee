"""A bare WebSocket client of the ingress: plain JSON, without the Python client."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from avatar_sessions import Session
from avatar_sessions.contract.live_dialect import SUBPROTOCOL
from avatar_sessions.contract.reports import SealedAccess, SpeakerAccess
from avatar_sessions.seal import Seal
from tests.support.platforms.in_process import Platform
from tests.support.secret_scan import remember


async def speaker_access(platform: Platform, session: Session) -> SpeakerAccess:
    """The access that `attach` grants a speaker, by plain JSON."""
    handle = platform.client.get_workflow_handle(session.workflow_id)
    answer = await handle.execute_update("attach", {"speaker": True})
    access = SealedAccess.model_validate(answer)
    assert access.speaker is not None
    return access.speaker


def ticket_of(platform: Platform, access: SpeakerAccess) -> str:
    ticket = Seal(platform.settings.seal_keys).open(access.sealed_ticket).get_secret_value()
    remember(ticket, "a ticket to the ingress")
    return ticket


@asynccontextmanager
async def connected(
    platform: Platform, session: Session, *, extended: bool = True, ticket: str | None = None
) -> AsyncIterator[ClientConnection]:
    access = await speaker_access(platform, session)
    async with connect(
        access.ingress_url,
        additional_headers={"Authorization": f"Bearer {ticket or ticket_of(platform, access)}"},
        subprotocols=[SUBPROTOCOL] if extended else None,  # type: ignore[list-item]
        compression=None,
    ) as connection:
        yield connection


async def receive_message(
    connection: ClientConnection, kind: str, **fields: object
) -> dict[str, Any]:
    """Read until a message of that type with those fields comes."""
    async with asyncio.timeout(20):
        while True:
            message: dict[str, Any] = json.loads(await connection.recv())
            if message["type"] == kind and fields.items() <= message.items():
                return message


async def close_code(connection: ClientConnection) -> int | None:
    """Read until the connection is closed; the close code."""
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.recv()
    return connection.close_code


async def utterance_line(connection: ClientConnection, utterance_id: str) -> dict[str, Any]:
    """Wait for the report of an utterance."""
    while True:
        line: dict[str, Any] = (await receive_message(connection, "live.over"))["utterance"]
        if line["id"] == utterance_id:
            return line


async def until_counted(session: Session, utterances: int) -> None:
    async with asyncio.timeout(20):
        while (await session.status()).utterances < utterances:
            await asyncio.sleep(0.1)
