"""The fixtures that every integration test stands on: real servers that answer."""

from __future__ import annotations

import httpx
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest

from avatar_sessions.contract.names import SEARCH_ATTRIBUTES
from deploy.local.livekit import LiveKitServer
from deploy.local.temporal import TemporalServer


async def test_temporal_answers_with_the_search_attributes_registered(
    temporal: TemporalServer,
) -> None:
    client = await temporal.client()

    known = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=temporal.namespace)
    )

    assert set(SEARCH_ATTRIBUTES) <= set(known.custom_attributes)


async def test_temporals_web_ui_answers(temporal: TemporalServer) -> None:
    async with httpx.AsyncClient() as http:
        reply = await http.get(temporal.ui_url)

    assert reply.is_success


async def test_livekit_answers(livekit: LiveKitServer) -> None:
    async with httpx.AsyncClient() as http:
        reply = await http.get(livekit.http_url)

    assert reply.text == "OK"
