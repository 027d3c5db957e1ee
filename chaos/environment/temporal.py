"""A Temporal development server with a database file, so that it can be killed and restarted.

One server serves many environments, each in its own namespace. An environment whose fault is the
server's death has a server to itself.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Final

from deploy.local.binaries import Binary
from deploy.local.errors import ProcessDied
from deploy.local.ports import free_port
from deploy.local.processes import Child, Supervisor
from deploy.local.settings import LocalSettings
from deploy.local.temporal import TemporalServer, start_temporal_binary

TRIES: Final = 3


class RestartableTemporal:
    """One Temporal server process and its database."""

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
            temporal_port=free_port(),
            temporal_ui_port=free_port(),
        )
        self._name = folder.name
        self._starts = 0
        self._child: Child | None = None

    @property
    def port(self) -> int:
        """Its port; the same after every restart."""
        return self._settings.temporal_port

    def server(self, namespace: str) -> TemporalServer:
        """Address and UI of one of its namespaces."""
        return TemporalServer(
            address=f"127.0.0.1:{self._settings.temporal_port}",
            namespace=namespace,
            ui_url=f"http://127.0.0.1:{self._settings.temporal_ui_port}",
        )

    async def start(self) -> None:
        """Start it with its existing database, and wait until every namespace answers.

        Raises:
            LocalError: it did not come up.
        """
        self._starts += 1
        for tries_left in reversed(range(TRIES)):
            try:
                self._child = await start_temporal_binary(
                    self._supervisor,
                    self._source,
                    self._settings,
                    name=f"{self._name} temporal {self._starts}",
                    more_namespaces=self._namespaces[1:],
                    database=self._database,
                    needed=False,
                )
            except ProcessDied:
                if not tries_left:
                    raise  # otherwise a port that it had chosen itself was taken meanwhile
            else:
                return

    async def kill(self) -> None:
        """SIGKILL; the database stays."""
        assert self._child is not None, "it was never started"
        self._child.signal_group(signal.SIGKILL)
        await self._child.process.wait()

    async def end(self) -> None:
        """End it for good."""
        if self._child is not None:
            self.resume()
            await self._supervisor.end(self._child)

    def suspend(self) -> None:
        """SIGSTOP: connections stay open, no reply comes."""
        assert self._child is not None, "it was never started"
        self._child.signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: the server answers again."""
        assert self._child is not None, "it was never started"
        self._child.signal_group(signal.SIGCONT)


def via_port(server: TemporalServer, port: int) -> TemporalServer:
    """The same server through another port, such as a proxy's."""
    return replace(server, address=f"127.0.0.1:{port}")
