"""The measurements, one module each.

A module has `NAME`, what ``--only`` calls it, and `measure`, which returns its rows. To add one,
write it and name it in `MEASUREMENTS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from bench.lab import Lab
from bench.rows import encode, history, interrupt, owner, start
from bench.table import FigureRow


class Measurement(Protocol):
    """What a module of this package is to the bench."""

    NAME: str

    async def measure(self, lab: Lab) -> list[FigureRow]:
        """Measure; what breaks is raised."""


_ALL: Final[tuple[Measurement, ...]] = (encode, owner, start, interrupt, history)
MEASUREMENTS: Final[Mapping[str, Measurement]] = {each.NAME: each for each in _ALL}
"""By name, in the order of the table."""
