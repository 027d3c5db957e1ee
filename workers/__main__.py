"""``python -m workers --role all|sessions|streams|janitor``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from typing import NoReturn

from avatar_sessions.settings import unknown_variables
from workers.errors import CannotStart
from workers.process import run
from workers.settings import InvalidSettings, read_settings
from workers.wiring import Role

logger = logging.getLogger("workers")

MUTED_LOGGERS = ("httpx", "httpcore")
"""They log addresses at INFO, and the address of a clip may be signed."""


def _new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a uvloop event loop, where there is uvloop: it halves the CPU time of a frame."""
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


def main() -> int:
    """Run a worker.

    Returns:
        The exit status: 0 after a signal, 1 when the worker could not run, 2 for wrong usage.
    """
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
    for name in MUTED_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for sentence in unknown_variables(os.environ):
        logger.warning("%s", sentence)
    try:
        with asyncio.Runner(loop_factory=_new_event_loop) as runner:
            runner.run(run(role, settings))
    except CannotStart as error:
        print(f"the worker cannot start: {error}", file=sys.stderr)
        return 1
    return 0


def exit_now(status: int) -> NoReturn:
    """Exit without the interpreter's own shutdown.

    The interpreter waits for the SDK's native threads. For a connection attempt that was abandoned
    while the server did not answer, it waits forever (measured).
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    exit_now(main())
