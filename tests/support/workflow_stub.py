"""The Temporal SDK's functions for workflow code, without a workflow."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any


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

    def advance(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    def upsert_search_attributes(self, updates: list[Any]) -> None:
        for update in updates:
            self.attributes[update.key.name] = update.value

    def set_current_details(self, details: str) -> None:
        self.details = details
