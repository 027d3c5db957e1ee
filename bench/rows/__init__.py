"""The measurements, one module each.

A module has `NAME`, as in ``--only``, and `measure`, which returns its rows. To add a measurement,
write its module and add it to `_ALL`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from bench.lab import Lab
from bench.rows import encode, history, interrupt, owner, start
from bench.table import FigureRow


class Measurement(Protocol):
    """The interface of a module of this package."""

    NAME: str

    async def measure(self, lab: Lab) -> list[FigureRow]:
        """Measure and return the rows; errors propagate."""


_ALL: Final[tuple[Measurement, ...]] = (encode, owner, start, interrupt, history)
MEASUREMENTS: Final[Mapping[str, Measurement]] = {each.NAME: each for each in _ALL}
"""By name, in the order of the table."""
