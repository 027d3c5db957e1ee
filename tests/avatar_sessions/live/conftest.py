"""Owners for live speech: fakes of their ingress on real WebSockets."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.speech.fake_ingress import FakeIngress


@pytest.fixture
async def ingress() -> AsyncIterator[FakeIngress]:
    """The session's owner."""
    async with FakeIngress() as ingress:
        yield ingress


@pytest.fixture
async def successor() -> AsyncIterator[FakeIngress]:
    """The owner after it."""
    async with FakeIngress(epoch=(1, 2)) as successor:
        yield successor
