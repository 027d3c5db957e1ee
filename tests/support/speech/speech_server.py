"""A text to speech server on loopback, with scripted responses over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

Answer = Callable[["SpeechServer", asyncio.StreamWriter], Coroutine[Any, Any, None]]


@dataclass
class SpeechServer:
    """The requests it received, and when it may continue. Made by `speech_server`."""

    answer: Answer
    url: str = ""
    asked: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    """Each request: its first line, headers with names in lower case, and its JSON."""
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the test: a waiting response continues."""
    client_closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client has closed its connection."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and notice when the client closes."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            lines = (line.split(": ", 1) for line in head[1:] if line)
            headers = {name.lower(): text for name, text in lines}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.asked.append((head[0], headers, json.loads(body)))
            answering = asyncio.create_task(self.answer(self, writer), name="answer")
            leaving = asyncio.create_task(reader.read(1), name="client closes")
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                self.client_closed.set()
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def _head(writer: asyncio.StreamWriter, status: str, *headers: str) -> None:
    writer.write("\r\n".join((f"HTTP/1.1 {status}", *headers, "", "")).encode())
    await writer.drain()


async def _chunk(writer: asyncio.StreamWriter, piece: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    await writer.drain()


def speaks(
    *pieces: bytes, waits: bool = False, ends: bool = True, kind: str = "audio/pcm"
) -> Answer:
    """Stream these pieces.

    Args:
        pieces: one chunk each.
        waits: wait after the first piece until `go_on` is set.
        ends: False: the connection is closed without the end of the response.
        kind: the content type.
    """

    async def answer(server: SpeechServer, writer: asyncio.StreamWriter) -> None:
        await _head(writer, "200 OK", f"content-type: {kind}", "transfer-encoding: chunked")
        for number, piece in enumerate(pieces):
            if waits and number == 1:
                await server.go_on.wait()
            await _chunk(writer, piece)
        if ends:
            writer.write(b"0\r\n\r\n")
            await writer.drain()

    return answer


def refuses(status: str, body: object, *headers: str) -> Answer:
    """Answer with this status and JSON."""
    text = json.dumps(body).encode()

    async def answer(_: SpeechServer, writer: asyncio.StreamWriter) -> None:
        await _head(
            writer,
            status,
            "content-type: application/json",
            f"content-length: {len(text)}",
            *headers,
        )
        writer.write(text)
        await writer.drain()

    return answer


async def stays_silent(server: SpeechServer, writer: asyncio.StreamWriter) -> None:
    """Accept the request and never answer."""
    await server.go_on.wait()


@contextlib.asynccontextmanager
async def speech_server(answer: Answer) -> AsyncIterator[SpeechServer]:
    """The server, while the context is open."""
    speech = SpeechServer(answer)
    server = await asyncio.start_server(speech.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    speech.url = f"http://127.0.0.1:{port}"
    try:
        yield speech
    finally:
        server.close()
        await server.wait_closed()
