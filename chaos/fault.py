"""What a fault is: a name, what is done, in which layouts, and the bound that must be kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from chaos.run import Run
from chaos.world import Layout, Place

Inject = Callable[[Run], Awaitable[None]]


class Load(StrEnum):
    """How much of this machine a run takes, and so how many may happen at once."""

    WAITS = "waits"
    """Mostly waits for timeouts."""
    WORKS = "works"
    """Starts processes and speaks, and its bound is tight."""
    TIGHT = "tight"
    """The same, with a bound of about a second."""
    ALONE = "alone"
    """Nothing else may happen at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One line of the table (two, where the layout matters)."""

    name: str
    what: str
    """What is measured, in words."""
    inject: Inject
    bound_ms: float | Mapping[Layout, float] | None
    """What p99 of the measured figures may be; None: only the invariants count."""
    layouts: tuple[Layout, ...] = (Layout.SPLIT,)
    place: Place = Place.SHARED
    load: Load = Load.WORKS
    takes_s: float = 15.0
    """About how long a run is: the long ones go first."""
    share: float = 1.0
    """Of the rounds that are asked for: less where a run has many samples and needs the machine."""
    settle_s: float = 5.0
    """How long after the run something may still be billed."""
    unavailable: str | None = None
    """Why it cannot be made here; None: it can."""

    def bound_in(self, layout: Layout) -> float | None:
        """The bound in a layout."""
        if isinstance(self.bound_ms, Mapping):
            return self.bound_ms[layout]
        return self.bound_ms


BOTH = (Layout.ALL, Layout.SPLIT)
