"""No secret in the simulator's logs at level DEBUG, nor in the ledger."""

from __future__ import annotations

import logging

import pytest

from tests.support.simulator import API_KEY, SimulatorCaller, connected


async def test_neither_logs_nor_ledger_hold_a_credential(
    caller: SimulatorCaller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="liveavatar_simulator")
    minted = await caller.mint()
    started = (await caller.start(minted)).json()["data"]
    async with await connected(started) as connection:
        await connection.keep_alive()
        await caller.stop(started["session_id"])
    ledger = caller.simulator.ledger().model_dump_json()

    secrets = {
        "API key": API_KEY,
        "session token": minted.json()["data"]["session_token"],
        "media key": started["ws_url"].partition("?key=")[2],
        "viewer's token": started["livekit_client_token"],
        "agent's token": started["livekit_agent_token"],
        "LiveKit secret": caller.simulator.settings.livekit_api_secret.get_secret_value(),
    }
    own = [record for record in caplog.records if record.name.startswith("liveavatar_simulator")]
    logged = "\n".join([*(record.getMessage() for record in own), ledger])
    assert own, "it logs something"
    for name, secret in secrets.items():
        assert secret not in logged, name
