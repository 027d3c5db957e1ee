"""A workflow of another release under the same workflow name; the request's tenant says its answer.

It replaces workers newer or older than the client, which cannot run here.
"""

from __future__ import annotations

from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from avatar_sessions.contract import names


@workflow.defn(name=names.WORKFLOW_TYPE)
class OtherRelease:
    """Answers ``attach`` and ``perform`` with what the tenant names, and runs until it is ended."""

    @workflow.init
    def __init__(self, request: dict[str, Any]) -> None:
        self._answer: str = request["tenant"]
        self._ended = False

    @workflow.run
    async def run(self, request: dict[str, Any]) -> dict[str, Any]:
        await workflow.wait_condition(lambda: self._ended)
        return {"report": "of an unknown shape"}

    @workflow.signal(name=names.SIGNAL_END)
    def on_end(self, end: dict[str, Any]) -> None:
        self._ended = True

    @workflow.update(name=names.UPDATE_ATTACH)
    async def attach(self, attach: dict[str, Any]) -> dict[str, Any]:
        return await self._answered()

    @workflow.update(name=names.UPDATE_PERFORM)
    async def perform(self, command: dict[str, Any]) -> dict[str, Any]:
        return await self._answered()

    @workflow.query(name=names.QUERY_STATUS)
    def status(self) -> dict[str, Any]:
        """LIVE, and with a field more than this release knows."""
        return {
            "session_key": names.session_key_of(workflow.info().workflow_id),
            "state": "LIVE",
            "requested_at": "2030-01-01T00:00:00Z",
            "mood": "cheerful",
        }

    async def _answered(self) -> dict[str, Any]:
        if self._answer == "nothing":
            await workflow.wait_condition(lambda: self._ended)
        if self._answer == "gibberish":
            return {"shape": "unknown"}
        if self._answer.startswith("gAAAA"):  # a sealed token: access as before live speech
            viewer = {"livekit_url": "wss://anywhere", "sealed_token": self._answer}
            return {"session_key": "k", "state": "LIVE", "viewer": viewer}
        raise ApplicationError("as the test wants it", type=self._answer)
