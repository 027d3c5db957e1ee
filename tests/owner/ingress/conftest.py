"""An owned session that speakers reach."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from liveavatar_simulator import LiveAvatarSimulator
from tests.support.owner_under_test import OwnerUnderTest, owner_of, simulator_settings


@pytest_asyncio.fixture
async def owner() -> AsyncIterator[OwnerUnderTest]:
    """A session that one owner has connected."""
    async with LiveAvatarSimulator(simulator_settings()) as simulator, owner_of(simulator) as owner:
        yield owner
