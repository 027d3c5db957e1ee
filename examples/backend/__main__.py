"""``python -m examples.backend``: the backend, on loopback."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

import uvicorn
from pydantic import ValidationError

from examples.backend.app import create_app
from examples.backend.settings import BackendSettings

STOP_TIMEOUT_S = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m examples.backend", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="8000; 0 takes a free one")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="127.0.0.1; before you choose another, add a login (see examples/README.md)",
    )
    parsed = parser.parse_args(arguments)
    try:
        settings = BackendSettings()
    except ValidationError as error:
        for problem in error.errors(include_input=False):
            name = str(problem["loc"][0]).upper()
            sys.stderr.write(f"{name} is not usable as it is set: {problem['msg']}\n")
        return 2
    logging.basicConfig(format="%(levelname)s: %(name)s: %(message)s", level=logging.WARNING)
    uvicorn.run(
        create_app(settings, host=parsed.host),
        host=parsed.host,
        port=parsed.port,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
