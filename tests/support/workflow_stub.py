"""The Temporal SDK's functions for workflow code, without a workflow."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel


@dataclass
class WorkflowInfo:
    """What the code under test reads of ``workflow.info()``."""

    workflow_id: str = "avatar-session:test"
    run_id: str = "run-1"


@dataclass
class WorkflowStub:
    """A clock that the test moves, and what the Temporal UI would show."""

    now: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC)
    attributes: dict[str, Any] = field(default_factory=dict)
    details: str = ""
    pauses: list[float] = field(default_factory=list)
    """Timers in seconds, which the clock skips."""

    def advance(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    async def sleep(self, pause: timedelta, *, summary: str) -> None:
        assert summary
        self.pauses.append(pause.total_seconds())
        self.now += pause

    def upsert_search_attributes(self, updates: list[Any]) -> None:
        for update in updates:
            self.attributes[update.key.name] = update.value

    def set_current_details(self, details: str) -> None:
        self.details = details


class ScriptedActivities:
    """Answers activities in turn: a result is returned, an exception is raised.

    Stands in for `workflows.parts.execute_activity.execute`; `calls` has each payload.
    """

    def __init__(self, *answers: BaseModel | Exception) -> None:
        self.calls: list[Any] = []
        self._answers = list(answers)

    async def __call__(
        self, activity: str, payload: BaseModel, *_args: object, **_kwargs: object
    ) -> Any:
        self.calls.append(payload)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer
