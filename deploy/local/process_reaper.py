"""Ends the children of a supervisor that was killed: after `kill -9`, or a crash of Python.

A program of its own, started by `Supervisor` in its own session with a pipe as standard input.
The supervisor writes "+<process group>" for every child it starts and "-<process group>" for every
child it has seen end. When the pipe closes, for whatever reason, the groups still listed are ended:
SIGTERM, then SIGKILL. Unlike Linux's PR_SET_PDEATHSIG this needs no code between fork and exec,
reaches grandchildren, does not depend on which thread forked, and works on macOS.

Standard library only: it runs with `python -I -S`, in about 15 ms.
"""

import contextlib
import os
import signal
import sys
import time

TERM_S = 5.0
_POLL_S = 0.05


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the number was reused by a process of another user
        return False
    return True


def main() -> None:
    """Read the list until the pipe closes, then end the groups that are left."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    groups: list[int] = []
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.append(group)
        elif group in groups:
            groups.remove(group)
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for group in reversed(groups):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, sign)
        give_up_at = time.monotonic() + TERM_S
        while any(map(_alive, groups)) and time.monotonic() < give_up_at:
            time.sleep(_POLL_S)


if __name__ == "__main__":
    main()
