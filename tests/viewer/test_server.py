"""The server's port, and its bounded end."""

from __future__ import annotations

import time

import httpx
import pytest

from tests.support.scripted_session import ScriptedSession
from viewer import ViewerPortInUse, ViewerServer


async def test_a_port_in_use_is_reported_with_the_setting_that_changes_it(
    viewer: ViewerServer, session: ScriptedSession
) -> None:
    port = int(viewer.url.rpartition(":")[2])

    with pytest.raises(ViewerPortInUse, match=rf"port {port}.*VIEWER_PORT"):
        await ViewerServer(session, port=port).__aenter__()


async def test_the_server_closes_without_delay_while_a_page_polls(
    session: ScriptedSession,
) -> None:
    async with httpx.AsyncClient(timeout=10) as client:
        async with ViewerServer(session, port=0) as viewer:
            client.base_url = httpx.URL(viewer.url)
            page, _, code = viewer.invite("support-42").partition("#")
            assert (await client.post(f"{page}/access", json={"code": code})).status_code == 200
            assert (await client.get(f"{page}/status")).status_code == 200
            began_at = time.monotonic()  # the connection stays open for the next poll
        closed_in_s = time.monotonic() - began_at

    assert closed_in_s < 2
