"""A speaker's connection to a real ingress: what the protocol core decides, carried out."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from avatar_sessions.contract.live_dialect import SUBPROTOCOL, LiveBegin
from owner.ingress.server import IngressServer, IngressSettings
from owner.ingress.tickets import Tickets
from owner.live_queue import MAX_OPEN
from owner.registry import SessionRegistry
from tests.support.owner_under_test import OwnerUnderTest

PCM = bytes(4_800)


@contextlib.asynccontextmanager
async def speaker_of(owner: OwnerUnderTest) -> AsyncIterator[ClientConnection]:
    """A connection that speaks the live dialect."""
    owned, tickets = SessionRegistry(), Tickets(60.0)
    owned.add(owner.session)
    ingress = IngressServer(IngressSettings(), owned, tickets)
    ticket = tickets.issue("test", (1, 1))[0].get_secret_value()
    async with ingress.listening():
        assert ingress.url is not None
        async with connect(
            ingress.url,
            additional_headers={"Authorization": f"Bearer {ticket}"},
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
        ) as connection:
            yield connection


async def message(connection: ClientConnection, kind: str) -> dict[str, Any]:
    """Read until a message of that type comes."""
    async with asyncio.timeout(10):
        while True:
            read: dict[str, Any] = json.loads(await connection.recv())
            if read["type"] == kind:
                return read


async def test_a_begin_with_a_long_text_before_its_type_is_taken(owner: OwnerUnderTest) -> None:
    """It was refused as of an unknown type: "live.begin" was not in its first 400 characters."""
    async with speaker_of(owner) as connection:
        begin = {"text": "word " * 700, "utterance_id": "u", "type": "live.begin"}
        await connection.send(json.dumps(begin))
        assert (await message(connection, "live.progress"))["utterance_id"] == "u"


async def test_an_interrupt_that_is_named_live_begin_interrupts(owner: OwnerUnderTest) -> None:
    """It was taken for a begin and refused: the avatar talked on."""
    async with speaker_of(owner) as connection:
        await connection.send(LiveBegin(utterance_id="u").model_dump_json())
        await connection.send(PCM)
        await connection.send(json.dumps({"type": "agent.interrupt", "event_id": "live.begin"}))
        assert (await message(connection, "live.interrupted"))["event_id"] == "live.begin"
        assert (await message(connection, "live.over"))["utterance"]["outcome"] == "interrupted"


async def test_an_interrupt_with_an_id_that_is_no_text_leaves_the_connection_open(
    owner: OwnerUnderTest,
) -> None:
    """Its answer could not be made, which ended the connection with an internal error."""
    async with speaker_of(owner) as connection:
        await connection.send(r'{"type":"agent.interrupt","event_id":"\ud83d"}')
        assert "Unicode" in (await message(connection, "error"))["error"]["message"]
        await connection.send('{"type":"agent.interrupt","event_id":"i"}')
        assert (await message(connection, "live.interrupted"))["event_id"] == "i"


async def test_speech_of_a_refused_utterance_is_not_added_to_the_one_before(
    owner: OwnerUnderTest,
) -> None:
    """One utterance too many was refused, and its speech was played as part of the last one."""
    async with speaker_of(owner) as connection:
        for number in range(MAX_OPEN):
            await connection.send(LiveBegin(utterance_id=f"u-{number}").model_dump_json())
        await connection.send(LiveBegin(utterance_id="one-too-many").model_dump_json())
        await connection.send(PCM)
        assert "are open already" in (await message(connection, "error"))["error"]["message"]
        await connection.send('{"type":"agent.speak_end"}')
        ended = await message(connection, "agent.audio_buffer_committed")
        assert "one-too-many" not in str(ended), "an end named an utterance that does not exist"
        await connection.send(LiveBegin(utterance_id=f"u-{MAX_OPEN - 1}").model_dump_json())
        assert (await message(connection, "live.progress"))["received_bytes"] == 0
