"""The simulator in a process of its own: its ledger, its faults and its recordings, over HTTP.

The only module that asks what was billed, sent and heard.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Final

import httpx
import numpy as np
from pydantic import SecretStr
from pydantic_core import from_json

from chaos.errors import NotAvailable, SimulatorLost
from chaos.position_code import RATE_HZ, Recording
from chaos.start_lock import StartLock
from deploy.local.processes import Supervisor
from deploy.local.simulator import simulator_settings, start_simulator
from liveavatar_simulator import SessionLine

CALL_TIMEOUT_S: Final = 15.0
KEPT_S: Final = 2.0
"""How long a connection may be idle: less than the 5 s after which the simulator closes it."""
RECORD_S: Final = 300
"""How much of each session's audio is recorded."""
MAX_CONCURRENT: Final = 1000
FAKE_LIVEKIT_KEY: Final = "an-obviously-fake-livekit-secret-of-32-bytes"


class SimulatorProcess:
    """A client of one simulator process."""

    def __init__(
        self, url: str, api_key: SecretStr, media_port: int, end: Callable[[], Awaitable[None]]
    ) -> None:
        self._end = end
        self.url = url
        self.api_key = api_key
        self.media_port = media_port
        self._http = httpx.AsyncClient(
            base_url=url,
            timeout=CALL_TIMEOUT_S,
            trust_env=False,
            limits=httpx.Limits(keepalive_expiry=KEPT_S),
        )

    async def close(self) -> None:
        """End its process."""
        await self._http.aclose()
        await self._end()

    async def ledger(self, leave_out: Collection[str] = ()) -> list[SessionLine]:
        """Every session of the simulator, oldest first, without those left out."""
        return await self._lines(lambda session_id: session_id not in leave_out)

    async def lines(self, ids: Collection[str]) -> list[SessionLine]:
        """The sessions with these ids, oldest first."""
        return await self._lines(lambda session_id: session_id in ids)

    async def _lines(self, wanted: Callable[[str], bool]) -> list[SessionLine]:
        # The ledger grows with each run and is polled often: only wanted lines become models.
        reply = await self._ask("GET", "/simulator/ledger")
        ledger: dict[str, Any] = from_json(reply.raise_for_status().content)
        return [
            SessionLine.model_validate(line)
            for line in ledger["sessions"]
            if wanted(line["session_id"])
        ]

    async def set_faults(self, **faults: Any) -> None:
        """Replace the simulator's faults; without arguments, clear them.

        Raises:
            NotAvailable: this simulator does not know the fault.
        """
        reply = await self._ask("POST", "/simulator/faults", json=faults)
        if reply.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
            raise NotAvailable(f"the simulator does not know the faults {', '.join(faults)}")
        reply.raise_for_status()

    async def faults(self) -> dict[str, Any]:
        """The faults that have not happened yet."""
        reply = await self._ask("GET", "/simulator/faults")
        faults: dict[str, Any] = reply.raise_for_status().json()
        return faults

    async def recording(self, session_id: str) -> Recording:
        """The audio that was heard in a session from its start, silence included.

        Raises:
            NotAvailable: this simulator does not record.
        """
        reply = await self._ask("GET", f"/simulator/sessions/{session_id}/heard.wav")
        if reply.status_code == httpx.codes.NOT_FOUND:
            raise NotAvailable("the simulator keeps no recording of what was heard")
        with wave.open(io.BytesIO(reply.raise_for_status().content)) as sound:
            assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (
                RATE_HZ,
                1,
                2,
            )
            samples = np.frombuffer(sound.readframes(sound.getnframes()), dtype="<i2")
        began_at = datetime.fromisoformat(reply.headers["X-Heard-From"])
        return Recording(began_at.timestamp(), samples)

    async def end(self, session_id: str, **how: Any) -> None:
        """Make LiveAvatar end a session by itself."""
        await self._do(f"/simulator/sessions/{session_id}/end", **how)

    async def freeze(self, session_id: str) -> None:
        """Make LiveAvatar stop rendering without any message."""
        await self._do(f"/simulator/sessions/{session_id}/freeze")

    async def drop_sockets(self) -> None:
        """Cut every socket without a close frame."""
        await self._do("/simulator/sockets/drop")

    async def stop(self, session_id: str) -> None:
        """Stop a session that the product left open, so that the next run starts clean."""
        await self._ask(
            "POST",
            "/v1/sessions/stop",
            headers={"X-API-KEY": self.api_key.get_secret_value()},
            json={"session_id": session_id, "reason": "USER_CLOSED"},
        )

    async def _do(self, path: str, **body: Any) -> None:
        reply = await self._ask("POST", path, json=body or None)
        if reply.status_code in (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED):
            raise NotAvailable(f"the simulator has no POST {path.rpartition('/')[2]}")
        reply.raise_for_status()

    async def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            return await self._http.request(method, path, **more)
        except httpx.TransportError as error:
            reason = f"{type(error).__name__}: {error}"
            raise SimulatorLost(
                f"the simulator at {self.url} does not answer ({reason})"
            ) from error


async def start_simulator_process(
    supervisor: Supervisor,
    start_lock: StartLock,
    name: str,
    api_key: SecretStr,
    ports: tuple[int, int],
    *,
    public_host: str,
    settings: Mapping[str, object],
) -> SimulatorProcess:
    """Start a simulator with LiveAvatar's measured delays; by default no avatar joins a room.

    Args:
        supervisor: ends the process.
        start_lock: admits the start.
        name: of the process and its log.
        api_key: the only one it accepts.
        ports: for REST and for the media WebSockets.
        public_host: the host in the ``ws_url`` of its sessions.
        settings: further settings by their field names.
    """
    chosen = simulator_settings(
        **{
            "port": ports[0],
            "media_port": ports[1],
            "api_keys": [api_key],
            "join_rooms": False,
            "public_host": public_host,
            "credits": 1_000_000,
            "concurrency_limit": MAX_CONCURRENT,
            "tape_length": 10_000,
            "record_heard_s": RECORD_S,
            "livekit_api_secret": FAKE_LIVEKIT_KEY,
            **settings,
        }
    )
    async with start_lock.start():
        simulator = await start_simulator(supervisor, chosen, name=name, verbose=True)
    assert simulator.simulator is not None
    end = partial(supervisor.end, simulator.simulator)
    return SimulatorProcess(simulator.url, api_key, ports[1], end)
