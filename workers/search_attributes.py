"""Registers the search attributes that sessions are found by: the one place that does.

Workers do it when they start, the development stack and the tests for their namespaces.
"""

from __future__ import annotations

from typing import Final

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import (
    AddSearchAttributesRequest,
    ListSearchAttributesRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from avatar_sessions.contract.names import SEARCH_ATTRIBUTES
from workers.errors import SearchAttributesMissing

_INDEXED_TYPES: Final = {
    "Keyword": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    "KeywordList": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD_LIST,
}


async def ensure_search_attributes(client: Client) -> None:
    """Register the search attributes that the client's namespace lacks.

    Without them every session would hang at its first step.

    Raises:
        SearchAttributesMissing: they may not be added from here.
    """
    try:
        known = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
        missing = [name for name in SEARCH_ATTRIBUTES if name not in known.custom_attributes]
        if not missing:
            return
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(
                namespace=client.namespace,
                search_attributes={
                    name: _INDEXED_TYPES[SEARCH_ATTRIBUTES[name]] for name in missing
                },
            )
        )
    except RPCError as error:
        if error.status is RPCStatusCode.ALREADY_EXISTS:
            return
        commands = "; ".join(
            f"temporal operator search-attribute create --name {name} --type {kind}"
            for name, kind in SEARCH_ATTRIBUTES.items()
        )
        raise SearchAttributesMissing(
            f"namespace {client.namespace} lacks search attributes, and they cannot be added from"
            f" here ({error.status.name}): {commands}"
        ) from error
