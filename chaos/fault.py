"""What a fault is: a name, a function that injects it, its layouts, and the bound to keep."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from chaos.environment.environment import EnvironmentKind, Layout
from chaos.run import FaultRun

Inject = Callable[[FaultRun], Awaitable[None]]


class MachineLoad(StrEnum):
    """How much of this machine a run takes, and so what may run at the same time."""

    ALONE = "alone"
    """Nothing else may run."""
    TIGHT = "tight"
    """Two others whose bound is about a second may run too."""
    WORKS = "works"
    """Starts sessions and speaks all the time: costs as much as two that wait."""
    WAITS = "waits"
    """Mostly waits for timeouts."""


def nothing_missing() -> str | None:
    """Nothing is missing: most faults need only this repository."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One line of the table (two, where the layout matters)."""

    name: str
    what: str
    """What is measured, as the table's last column says it."""
    inject: Inject
    bound_ms: float | Mapping[Layout, float] | None
    """The limit for p99 of the measured figures; None: only the invariants count."""
    layouts: tuple[Layout, ...] = (Layout.SPLIT,)
    environment_kind: EnvironmentKind = EnvironmentKind.SHARED
    load: MachineLoad = MachineLoad.WORKS
    takes_s: float = 15.0
    """About how long a run takes; long runs are scheduled first."""
    chain: int = 1
    """How many runs share the same sessions, one after the other. Each is injected and measured
    separately; sessions and their ends are checked after the last."""
    settle_s: float = 5.0
    """How long after the run LiveAvatar sessions may still be billed."""
    missing: Callable[[], str | None] = nothing_missing
    """What this machine lacks and how to get it; None: the fault can be made."""

    def bound_in(self, layout: Layout) -> float | None:
        """The bound in a layout."""
        if isinstance(self.bound_ms, Mapping):
            return self.bound_ms[layout]
        return self.bound_ms


BOTH = (Layout.ALL, Layout.SPLIT)
