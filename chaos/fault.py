"""What a fault is: a name, what is done, in which layouts, and the bound that must be kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from chaos.environment.environment import EnvironmentKind, Layout
from chaos.run import FaultRun

Inject = Callable[[FaultRun], Awaitable[None]]


class MachineLoad(StrEnum):
    """How much of this machine a run takes, and so what may happen at the same time."""

    ALONE = "alone"
    """Nothing."""
    TIGHT = "tight"
    """Two others whose bound is about a second, too."""
    WORKS = "works"
    """Starts and speaks all the time: takes the room of two that wait."""
    WAITS = "waits"
    """Mostly waits for timeouts."""


def nothing_missing() -> str | None:
    """Most faults need nothing but this repository."""
    return None


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
    environment_kind: EnvironmentKind = EnvironmentKind.SHARED
    load: MachineLoad = MachineLoad.WORKS
    takes_s: float = 15.0
    """About how long a run is: the long ones go first."""
    chain: int = 1
    """So many of it meet the same sessions, one after the other. Each counts as a run: it is
    injected, measured and told apart; sessions and their ends are looked at after the last."""
    settle_s: float = 5.0
    """How long after the run something may still be billed."""
    missing: Callable[[], str | None] = nothing_missing
    """What it needs that is not on this machine, and how to get it; None: it can be made."""

    def bound_in(self, layout: Layout) -> float | None:
        """The bound in a layout."""
        if isinstance(self.bound_ms, Mapping):
            return self.bound_ms[layout]
        return self.bound_ms


BOTH = (Layout.ALL, Layout.SPLIT)
