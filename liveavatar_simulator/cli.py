"""The command ``liveavatar-simulator``: runs one simulator until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

from pydantic import ValidationError

from .settings import DEFAULT_API_KEY, SimulatorSettings

EXIT_OK: Final = 0
EXIT_USAGE: Final = 2
EXIT_PORT: Final = 3
EXIT_LIVEKIT: Final = 4
CLOSE_TIMEOUT_S: Final = 10.0

_OVERRIDES: Final = ("host", "port", "media_port", "livekit_url", "max_video_height", "credits")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the simulator; returns the exit status.

    0 after SIGINT or SIGTERM, 2 for a bad setting or a missing extra, 3 for a port in use, 4
    without LiveKit.
    """
    arguments = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    given = {name: getattr(arguments, name) for name in _OVERRIDES}
    overrides = {name: value for name, value in given.items() if value is not None}
    if arguments.no_livekit:
        overrides["join_rooms"] = False
    try:
        settings = SimulatorSettings(**overrides)
    except ValidationError as error:
        return _fail(_explain(error), EXIT_USAGE)
    try:
        import_module(".simulator", __package__)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(str(__package__)):
            raise
        return _fail(
            f"{error.name} is not installed, which the simulator needs: "
            "pip install 'liveavatar-sessions[simulator]'",
            EXIT_USAGE,
        )
    return asyncio.run(_serve(settings))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="liveavatar-simulator",
        description="A simulated LiveAvatar (LITE mode): REST, WebSocket, avatar, ledger.",
        epilog="Every setting is also an environment variable: SIMULATOR_ and its name in capitals,"
        " LIVEKIT_API_KEY and LIVEKIT_API_SECRET; see docs/internals/simulator.md."
        " Exit status: 0 ended by a signal, 2 bad setting or missing extra, 3 port in use,"
        " 4 no LiveKit.",
    )
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="port of the REST API (8090; 0: a free one)")
    parser.add_argument("--media-port", type=int, help="port of the WebSocket (8091; 0: free)")
    parser.add_argument(
        "--livekit-url", help="LiveKit server for hosted rooms (ws://127.0.0.1:7880)"
    )
    parser.add_argument(
        "--no-livekit", action="store_true", help="no LiveKit: sessions have no room"
    )
    parser.add_argument("--max-video-height", type=int, help="maximum height in pixels (720)")
    parser.add_argument("--credits", type=float, help="initial balance (1000)")
    parser.add_argument("-v", "--verbose", action="store_true", help="log each session")
    return parser


async def _serve(settings: SimulatorSettings) -> int:
    # Not at the top: these need the extra `simulator`.
    from .media.avatar import RoomUnreachable
    from .service.http_server import AddressInUse
    from .simulator import LiveAvatarSimulator

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    simulator = LiveAvatarSimulator(settings)
    try:
        await simulator.__aenter__()
    except AddressInUse as error:
        return _fail(
            f"port {error.port} on {error.host} is in use: end that program, or choose "
            "another port with --port or --media-port.",
            EXIT_PORT,
        )
    except RoomUnreachable as error:
        return _fail(
            f"LiveKit at {settings.livekit_url} cannot be used ({error}): start it with "
            "`livekit-server --dev`, name another with --livekit-url, check LIVEKIT_API_KEY and "
            "LIVEKIT_API_SECRET, or go without with --no-livekit.",
            EXIT_LIVEKIT,
        )
    except OSError as error:
        return _fail(f"cannot listen on {settings.host}: {error.strerror}.", EXIT_USAGE)
    try:
        default_key = [key.get_secret_value() for key in settings.api_keys] == [DEFAULT_API_KEY]
        hint = f" (API key: {DEFAULT_API_KEY})" if default_key else ""
        print(f"LiveAvatar simulator ready at {simulator.url}{hint}", flush=True)
        await stopped.wait()
    finally:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await simulator.__aexit__(None, None, None)
    return EXIT_OK


def _explain(error: ValidationError) -> str:
    problems = []
    for each in error.errors(include_input=False, include_url=False):
        name = str(each["loc"][0]) if each["loc"] else "settings"
        variable = name if name.startswith("LIVEKIT_") else f"SIMULATOR_{name.upper()}"
        problems.append(f"{variable}: {each['msg']}")
    return "bad settings: " + "; ".join(problems) + "."


def _fail(sentence: str, status: int) -> int:
    print(f"liveavatar-simulator: {sentence}", file=sys.stderr)
    return status
