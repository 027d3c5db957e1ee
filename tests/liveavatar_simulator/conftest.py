"""Fixtures of the simulator's tests; their helpers are in `tests.support.simulator`."""

from tests.support.simulator import caller, simulate  # noqa: F401 (fixtures)
