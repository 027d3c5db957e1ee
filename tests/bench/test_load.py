"""The parent's side of an owner process under measurement."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bench.load import MeasurementFailed, OwnerProcess


@asynccontextmanager
async def process_that_prints(*lines: str) -> AsyncIterator[OwnerProcess]:
    program = "import sys; [print(line) for line in sys.argv[1:]]"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, *lines), stdout=asyncio.subprocess.PIPE
    )
    try:
        yield OwnerProcess(process)
    finally:
        await process.wait()


async def test_other_output_is_not_taken_for_figures(capsys: pytest.CaptureFixture[str]) -> None:
    """On an overloaded machine a row broke with a JSONDecodeError, which named no cause."""
    async with process_that_prints("WARN a library's log", '{"ready": true}') as owner:
        assert await owner.read() == {"ready": True}
    assert "a library's log" in capsys.readouterr().err


async def test_the_end_of_the_process_is_named() -> None:
    async with process_that_prints() as owner:
        with pytest.raises(MeasurementFailed, match="the owner process ended"):
            await owner.read()
