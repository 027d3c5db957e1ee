"""The faults: one function each, a module a family. `FAULTS` is all, in the order of the table."""

from __future__ import annotations

from typing import Final

from chaos.fault import Fault
from chaos.faults import endings, machines, network, owners, provider, rooms, starts

FAULTS: Final[dict[str, Fault]] = {
    fault.name: fault
    for fault in (
        *endings.FAULTS,
        *owners.FAULTS,
        *starts.FAULTS,
        *provider.FAULTS,
        *rooms.FAULTS,
        *network.FAULTS,
        *machines.FAULTS,
    )
}
