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
    """Start an agent for a live session, and wait until it listens to the room.

    The session does not depend on its agent: without one it can still be watched and commanded, and
    another agent can join. So when the agent fails, the demo shows it (the supervisor's `on_loss`)
    and the session goes on.

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
