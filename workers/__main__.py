"""``python -m workers --role all|sessions|streams|janitor``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from typing import NoReturn

from workers.process import CannotStart, run
from workers.settings import InvalidSettings, read_settings
from workers.wiring import Role

QUIET_LOGGERS = ("httpx", "httpcore")
"""They log addresses at INFO, and a clip's address may be signed."""


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop, where there is one: half the CPU for a frame of speech (docs/audio.md)."""
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


def main() -> int:
    """Run a worker; the exit status is 0 after a signal, 1 when it could not work, 2 for usage."""
    parser = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    parser.add_argument("--role", type=Role, choices=list(Role), default=Role.ALL)
    role: Role = parser.parse_args().role
    try:
        settings = read_settings()
    except InvalidSettings as error:
        print(f"the worker cannot start:\n{error}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with asyncio.Runner(loop_factory=_new_event_loop) as runner:
            runner.run(run(role, settings))
    except CannotStart as error:
        print(f"the worker cannot start: {error}", file=sys.stderr)
        return 1
    return 0


def leave(status: int) -> NoReturn:
    """End this process without the interpreter's own tidying up.

    That waits for the SDK's native threads: without end for a connection that was given up while
    the server said nothing (measured).
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    leave(main())
