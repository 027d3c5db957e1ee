"""A simulated LiveAvatar and one owned session on it, for the tests of this room."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from liveavatar_simulator import LiveAvatarSimulator
from tests.support.owner_under_test import OwnerUnderTest, owner_of, simulator_settings


@pytest_asyncio.fixture
async def simulator() -> AsyncIterator[LiveAvatarSimulator]:
    async with LiveAvatarSimulator(simulator_settings()) as simulator:
        yield simulator


@pytest_asyncio.fixture
async def owner(simulator: LiveAvatarSimulator) -> AsyncIterator[OwnerUnderTest]:
    """A session started at the simulator, owned and connected."""
    async with owner_of(simulator) as owner:
        yield owner
