"""A speech server on loopback that does what the test says: real sockets, real HTTP, no model."""

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
    """What it was asked, and when it may go on. Made by `speech_server`."""

    answer: Answer
    url: str = ""
    asked: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    """Each request: its first line, headers with names in lower case, and its JSON."""
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the test: an answer that waits for it goes on."""
    left_alone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a client has closed its connection."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and see the client go."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            lines = (line.split(": ", 1) for line in head[1:] if line)
            headers = {name.lower(): text for name, text in lines}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.asked.append((head[0], headers, json.loads(body)))
            answering = asyncio.create_task(self.answer(self, writer), name="answer")
            leaving = asyncio.create_task(reader.read(1), name="see the client go")
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                self.left_alone.set()
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
    """Streams these pieces.

    Args:
        pieces: a chunk each.
        waits: after the first piece, until the test says `go_on`.
        ends: False: the connection breaks instead of ending the answer.
        kind: its content type.
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
    """Answers this status with this JSON."""
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
    """Takes the request and never answers."""
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
