"""Searches the logs of a run, and the histories on its server, for secrets.

Called once, at the end of a run of the tests or of chaos. Tokens and media addresses are recognised
by their shape; other secrets are registered with :func:`remember` by the code that makes them.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

from temporalio.api.workflowservice.v1 import ListNamespacesRequest
from temporalio.client import Client

from deploy.local.temporal import TemporalServer

SHAPES: Final = {
    "a JWT (session or LiveKit token)": re.compile(
        rb"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}"
    ),
    "a media WebSocket's address": re.compile(rb"wss?://[^\s\"']*/interactive-avatar/session/"),
}

_remembered: dict[bytes, str] = {}


def remember(secret: str, kind: str) -> None:
    """Register a secret that must not appear in any log or history."""
    _remembered[secret.encode()] = kind


def remembered() -> dict[str, str]:
    """The secrets that were added, and their kinds: for the process that scans."""
    return {secret.decode(): kind for secret, kind in _remembered.items()}


def kinds_in(content: bytes) -> Iterator[str]:
    """The kinds of secret that these bytes contain."""
    for kind, shape in SHAPES.items():
        if shape.search(content):
            yield kind
    for secret, kind in _remembered.items():
        if secret in content:
            yield kind


def find_secrets(folder: Path) -> list[str]:
    """One line for each secret found in the folder's files: the file, the line number, the kind."""
    found: list[str] = []
    if not folder.is_dir():
        return found
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                found.extend(f"{path.name}:{number}: {kind}" for kind in kinds_in(line))
    return found


async def leaks_in_histories(server: TemporalServer) -> AsyncIterator[str]:
    """One line for each secret in any history; payloads are not encoded there."""
    client = await server.client()
    namespaces = await client.workflow_service.list_namespaces(ListNamespacesRequest(page_size=200))
    for described in namespaces.namespaces:
        name = described.namespace_info.name
        if name == "temporal-system":
            continue
        there = await Client.connect(server.address, namespace=name)
        async for execution in there.list_workflows():
            handle = there.get_workflow_handle(execution.id, run_id=execution.run_id)
            async for event in handle.fetch_history_events():
                for kind in kinds_in(event.SerializeToString()):
                    yield f"{name}: {execution.id} event {event.event_id}: {kind}"
