"""The Temporal and LiveKit servers of one run of the tests.

One process of the run starts the servers in a thread with an event loop of its own: under
pytest-xdist the controller, before it starts the processes that run tests, otherwise pytest
itself. The other processes get `Addresses`. When the run is over, its histories are scanned.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from deploy.local.binaries import LiveKitSource, TemporalSource
from deploy.local.livekit import LiveKitServer, start_livekit
from deploy.local.ports import free_port
from deploy.local.processes import Supervisor
from deploy.local.settings import LocalSettings
from deploy.local.temporal import TemporalServer, start_temporal
from tests.support.secret_scan import leaks_in_histories

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Addresses:
    """The servers that run, and how to reach them."""

    temporal: TemporalServer | None = None
    livekit: LiveKitServer | None = None

    def to_words(self) -> dict[str, Any]:
        """Plain values, as pytest-xdist sends them to its processes."""
        return asdict(self)

    @classmethod
    def from_words(cls, words: dict[str, Any]) -> Self:
        """The opposite of `to_words`."""
        temporal, livekit = words["temporal"], words["livekit"]
        return cls(
            TemporalServer(**temporal) if temporal else None,
            LiveKitServer(**livekit) if livekit else None,
        )


class ServerThread:
    """Starts servers, and ends them with `close`."""

    def __init__(self, logs: Path) -> None:
        self.addresses = Addresses()
        self._logs = logs
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="shared servers", daemon=True
        )
        self._running = contextlib.AsyncExitStack()

    def start(self, temporal: TemporalSource | None, livekit: LiveKitSource | None) -> Addresses:
        """Start the servers that have a source; return when they answer.

        Raises:
            LocalError: a server did not start.
        """
        self._thread.start()
        self.addresses = self._run(self._start(temporal, livekit))
        return self.addresses

    async def _start(
        self, temporal: TemporalSource | None, livekit: LiveKitSource | None
    ) -> Addresses:
        supervisor = await self._running.enter_async_context(Supervisor(self._logs))
        settings = LocalSettings(
            temporal_port=free_port(), temporal_ui_port=free_port(), livekit_port=free_port()
        )
        return Addresses(
            await start_temporal(supervisor, temporal, settings) if temporal else None,
            await start_livekit(supervisor, livekit, settings) if livekit else None,
        )

    def leaks(self) -> list[str]:
        """One line for each secret in any history on the Temporal server."""
        if self.addresses.temporal is None:
            return []
        return self._run(_leaks(self.addresses.temporal))

    def close(self) -> None:
        """End the servers."""
        if not self._thread.is_alive():
            return
        self._run(self._running.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _leaks(server: TemporalServer) -> list[str]:
    return [line async for line in leaks_in_histories(server)]
