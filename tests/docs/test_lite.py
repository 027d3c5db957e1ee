"""The example of docs/reference/lite.md runs as printed, against a small LiveAvatar."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import wave
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

from deploy.local.settings import ROOT
from liveavatar_lite import (
    AgentSpeak,
    AgentSpeakEnd,
    AudioBufferAppended,
    ServerProtocol,
    SessionPhase,
    SpeakEnded,
    SpeakStarted,
)
from tests.support.markdown import blocks_run_as


def test_a_converter_example_converts() -> None:
    [program] = blocks_run_as("converter")
    scope: dict[str, Any] = {}
    exec(compile(program, "docs/reference/lite.md", "exec"), scope)  # noqa: S102
    assert len(scope["pcm"]) == 4_800  # 100 ms


async def test_the_example_plays_a_file_and_stops_the_session(tmp_path: Path) -> None:
    calls, spoken = list[str](), bytearray()

    async def media(socket: ServerConnection) -> None:
        server = ServerProtocol()
        await socket.send(server.enter(SessionPhase.CONNECTED))
        async for frame in socket:
            for command in server.receive(frame):
                if isinstance(command, AgentSpeak):
                    spoken.extend(command.audio)
                    await socket.send(server.emit(AudioBufferAppended("s", command.event_id)))
                elif isinstance(command, AgentSpeakEnd):
                    await socket.send(server.emit(SpeakStarted("s", command.event_id)))
                    await socket.send(server.emit(SpeakEnded("s", command.event_id)))

    async def rest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if length := re.search(r"content-length: (\d+)", head, re.IGNORECASE):
            await reader.readexactly(int(length.group(1)))
        calls.append(head.split()[1])
        data = {"session_id": "s-1", "session_token": "fake", "ws_url": ws_url}
        body = json.dumps({"code": 1000, "data": data, "message": "ok"}).encode()
        lines = f"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(lines.encode() + body)
        await writer.drain()
        writer.close()

    example = tmp_path / "example.py"
    [program] = blocks_run_as("lite")
    example.write_text(program, encoding="utf-8")
    pcm = bytes(range(256)) * 150
    with wave.open(str(tmp_path / "hello.wav"), "wb") as audio:
        audio.setparams((1, 2, 24_000, 0, "NONE", ""))
        audio.writeframes(pcm)

    async with (
        serve(media, "127.0.0.1", 0) as sockets,
        await asyncio.start_server(rest, "127.0.0.1", 0) as server,
    ):
        ws_url = f"ws://127.0.0.1:{next(iter(sockets.sockets)).getsockname()[1]}/fake"
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(example),
            env={
                "AUDIO": str(tmp_path / "hello.wav"),
                "LIVEAVATAR_API_KEY": "fake-key-0123456789",
                "LIVEAVATAR_API_URL": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
                "PYTHONPATH": str(ROOT),
            },
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await asyncio.wait_for(process.communicate(), 30)

    assert process.returncode == 0, errors.decode()
    assert bytes(spoken) == pcm
    assert calls == [f"/v1/sessions/{each}" for each in ("token", "start", "stop")]
