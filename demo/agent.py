"""The demo's voice agent: `examples/echo_agent.py` as one more process beside the stack."""

from __future__ import annotations

import sys
from typing import Final

from deploy.local.processes import Child, ChildSpec, Supervisor
from deploy.local.settings import ROOT
from deploy.local.stack import LocalStack

NAME: Final = "Echo agent"
READY: Final = b"echo agent listening"
READY_WITHIN_S: Final = 30.0


async def echo_agent(supervisor: Supervisor, stack: LocalStack, session_key: str) -> None:
    """Start an agent for a live session, and wait until it hears the room.

    The stack does not need it: a session is the demo's, an agent is a guest in its room. When it
    fails, the session can still be watched, commanded, and given another agent; ending it would
    take away what somebody is looking at, and the log that tells why. So its death is told (by the
    supervisor's `on_loss`), and nothing else.

    Raises:
        ProcessDied, StartTimeout: it did not start.
    """
    log = supervisor.log_of(NAME)

    async def ready(_: Child) -> bool:
        return READY in log.read_bytes()

    await supervisor.start(
        ChildSpec(
            name=NAME,
            argv=[sys.executable, "-m", "examples.echo_agent", session_key],
            env={
                **stack.temporal.environment,
                "AVATAR_SESSIONS_SEAL_KEYS": stack.seal_keys.get_secret_value(),
            },
            cwd=ROOT,
            ready=ready,
            ready_within_s=READY_WITHIN_S,
            needed=False,
        )
    )
