"""CPU time to encode and send one second of speech, a chunk of 48,000 bytes.

Three ways in one run, in turns: the floor (prepared frames, `sendall` into a raw socket),
`LiteConnection.speak`, and the usual way (`json.dumps` of a dictionary with `base64`, `websockets`
with its defaults, which compress). The receiver is another process.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final
from uuid import uuid4

import soundfile
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.frames import Frame, Opcode

from bench.discard import discarding_server
from bench.lab import Lab
from bench.table import FigureRow, percentile, single, spread
from deploy.local.ports import LOOPBACK
from deploy.local.settings import ROOT
from liveavatar_lite import LiteConnection
from liveavatar_lite.audio import BYTES_PER_S
from liveavatar_lite.messages import encode_speak

NAME: Final = "encode"
MOST_OF_FLOOR: Final = 2.0
LEAST_OF_USUAL: Final = 10.0
ROUNDS: Final = 60
CHUNKS: Final = 20
"""Chunks sent in each turn."""
USUAL_CHUNKS: Final = 5
"""The usual way takes milliseconds a chunk: fewer chunks are precise enough."""
GAP_S: Final = 0.002
"""Pause between turns, so that the receiver can drain its socket."""
SAMPLE: Final = ROOT / "demo" / "samples" / "story.flac"
HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
NEVER_S: Final = 1e6
"""The receiver never answers, so the connection must never count it as dead."""

Turn = Callable[[int], Awaitable[None]]
"""Sends a number of chunks."""


async def measure(lab: Lab) -> list[FigureRow]:
    """Send the same speech in three ways, in turns."""
    speech = _speech()
    rounds = ROUNDS // 4 if lab.quick else ROUNDS
    async with (
        discarding_server() as port,
        _floor(port, speech) as floor,
        _lite(port, speech) as lite,
        _usual(port, speech) as usual,
    ):
        turns = ((floor, CHUNKS), (lite, CHUNKS), (usual, USUAL_CHUNKS))
        for turn, chunks in turns:  # warm up socket buffers and caches
            await _cpu_us(turn, chunks)
        figures = [[await _cpu_us(turn, chunks) for turn, chunks in turns] for _ in range(rounds)]
    return _rows(figures)


def _rows(figures: Sequence[Sequence[float]]) -> list[FigureRow]:
    floor_us, lite_us, usual_us = (list(column) for column in zip(*figures, strict=True))
    times_floor = percentile(lite_us, 50) / percentile(floor_us, 50)
    of_usual = percentile(usual_us, 50) / percentile(lite_us, 50)
    count = len(figures)
    return [
        spread(NAME, "CPU a second of speech, the floor", floor_us, "us"),
        spread(NAME, "CPU a second of speech, LiteConnection.speak", lite_us, "us"),
        spread(NAME, "CPU a second of speech, the usual way", usual_us, "us"),
        single(
            NAME,
            "LiteConnection.speak, times the floor",
            times_floor,
            "x",
            n=count,
            at_most=MOST_OF_FLOOR,
        ),
        single(
            NAME,
            "the usual way, times LiteConnection.speak",
            of_usual,
            "x",
            n=count,
            at_least=LEAST_OF_USUAL,
        ),
    ]


async def _cpu_us(turn: Turn, chunks: int) -> float:
    """Microseconds of this process's CPU time, user and system, for each chunk of a turn."""
    await asyncio.sleep(GAP_S)
    began_s = time.process_time()
    await turn(chunks)
    return (time.process_time() - began_s) / chunks * 1e6


def _speech() -> list[bytes]:
    """Chunks of one second of real speech: compression cost depends on the content."""
    samples, _ = soundfile.read(SAMPLE, dtype="int16")
    pcm = samples.tobytes()
    whole = len(pcm) - len(pcm) % BYTES_PER_S
    return [pcm[begin : begin + BYTES_PER_S] for begin in range(0, whole, BYTES_PER_S)]


def _url(port: int) -> str:
    return f"ws://{LOOPBACK}:{port}/"


@asynccontextmanager
async def _floor(port: int, speech: Sequence[bytes]) -> AsyncIterator[Turn]:
    """Frames prepared and masked in advance: only the kernel's work is measured."""
    utterance_id = str(uuid4())
    frames = [
        Frame(Opcode.TEXT, encode_speak(pcm, utterance_id)).serialize(mask=True) for pcm in speech
    ]
    chunks = itertools.cycle(frames)
    with socket.create_connection((LOOPBACK, port)) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.sendall(HANDSHAKE)
        raw.recv(4096)

        async def send(count: int) -> None:
            for frame in itertools.islice(chunks, count):
                raw.sendall(frame)

        yield send


@asynccontextmanager
async def _lite(port: int, speech: Sequence[bytes]) -> AsyncIterator[Turn]:
    utterance_id = str(uuid4())
    chunks = itertools.cycle(speech)
    connection = await LiteConnection.open(SecretStr(_url(port)), dead_after_s=NEVER_S)

    async def send(count: int) -> None:
        for pcm in itertools.islice(chunks, count):
            await connection.speak(pcm, utterance_id)

    try:
        yield send
    finally:
        await connection.close(timeout_s=0.1)  # the receiver sends no close frame


@asynccontextmanager
async def _usual(port: int, speech: Sequence[bytes]) -> AsyncIterator[Turn]:
    utterance_id = str(uuid4())
    chunks = itertools.cycle(speech)
    socket = await connect(_url(port), close_timeout=0.1)

    async def send(count: int) -> None:
        for pcm in itertools.islice(chunks, count):
            audio = base64.b64encode(pcm).decode()
            message = {"type": "agent.speak", "event_id": utterance_id, "audio": audio}
            await socket.send(json.dumps(message))

    try:
        yield send
    finally:
        await socket.close()
