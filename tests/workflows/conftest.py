"""Workflow code outside of a workflow."""

from __future__ import annotations

import logging
from uuid import UUID

import pytest
from temporalio import workflow

from tests.support.workflow_stub import WorkflowInfo, WorkflowStub


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> WorkflowStub:
    """Replaces the SDK's functions that workflow code calls without waiting."""
    stub = WorkflowStub()
    monkeypatch.setattr(workflow, "now", lambda: stub.now)
    monkeypatch.setattr(workflow, "info", WorkflowInfo)
    monkeypatch.setattr(workflow, "upsert_search_attributes", stub.upsert_search_attributes)
    monkeypatch.setattr(workflow, "set_current_details", stub.set_current_details)
    monkeypatch.setattr(workflow, "sleep", stub.sleep)
    monkeypatch.setattr(workflow, "logger", logging.getLogger("workflow"))
    monkeypatch.setattr(workflow, "uuid4", lambda: UUID(int=4))
    return stub
