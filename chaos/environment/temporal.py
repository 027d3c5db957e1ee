"""A Temporal development server with a database of its own, so that it can die and come back.

One serves many worlds, each in a namespace of its own; a world whose fault is the server's death
has one to itself.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Final

from temporalio.service import RPCError

from chaos.environment.ports import own_port
from deploy.local.errors import ProcessDied
from deploy.local.processes import Child, ChildSpec, Supervisor
from deploy.local.servers import Binary
from deploy.local.settings import LocalSettings
from deploy.local.stack import (
    SERVER_STOP_WITHIN_S,
    TEMPORAL_READY_WITHIN_S,
    TemporalServer,
    temporal_argv,
)

TRIES: Final = 3


class RestartableTemporal:
    """One server, by its process."""

    def __init__(
        self, supervisor: Supervisor, source: Binary, folder: Path, namespaces: list[str]
    ) -> None:
        self._supervisor = supervisor
        self._source = source
        self._database = folder / "temporal.db"
        self._namespaces = namespaces
        self._settings = LocalSettings(
            temporal_address=None,
            temporal_namespace=namespaces[0],
            temporal_port=own_port(),
            temporal_ui_port=own_port(),
        )
        self._name = folder.name
        self._lives = 0
        self._child: Child | None = None

    @property
    def port(self) -> int:
        """The same in each life."""
        return self._settings.temporal_port

    def server(self, namespace: str) -> TemporalServer:
        """How one of its namespaces is reached."""
        return TemporalServer(
            address=f"127.0.0.1:{self._settings.temporal_port}",
            namespace=namespace,
            ui_url=f"http://127.0.0.1:{self._settings.temporal_ui_port}",
        )

    async def start(self) -> None:
        """Start it, with the data that there is, and wait until it answers for each namespace.

        Raises:
            LocalError: it did not come up.
        """
        self._lives += 1
        argv = temporal_argv(self._source, self._settings)
        for name in self._namespaces[1:]:
            argv += ["--namespace", name]
        argv += ["--db-filename", str(self._database)]
        spec = ChildSpec(
            name=f"{self._name} temporal {self._lives}",
            argv=argv,
            ready=self._answers,
            ready_within_s=TEMPORAL_READY_WITHIN_S,
            stop_within_s=SERVER_STOP_WITHIN_S,
            needed=False,
        )
        for tries_left in reversed(range(TRIES)):
            try:
                self._child = await self._supervisor.start(spec)
            except ProcessDied:
                if not tries_left:
                    raise  # else one of the ports that it chose itself was taken meanwhile
            else:
                return

    async def kill(self) -> None:
        """SIGKILL; its data stay."""
        assert self._child is not None, "it was never started"
        self._child.signal_group(signal.SIGKILL)
        await self._child.process.wait()

    async def end(self) -> None:
        """For good."""
        if self._child is not None:
            self.answer_again()
            await self._supervisor.end(self._child)

    def stop_answering(self) -> None:
        """SIGSTOP: connections stay, nothing comes."""
        assert self._child is not None, "it was never started"
        self._child.signal_group(signal.SIGSTOP)

    def answer_again(self) -> None:
        """SIGCONT."""
        assert self._child is not None, "it was never started"
        self._child.signal_group(signal.SIGCONT)

    async def _answers(self) -> bool:
        try:
            for name in self._namespaces:
                client = await self.server(name).client()
                await client.count_workflows()
        except (RPCError, RuntimeError):
            return False
        return True


def through(server: TemporalServer, port: int) -> TemporalServer:
    """The same server, reached by another port: a proxy's."""
    return replace(server, address=f"127.0.0.1:{port}")
