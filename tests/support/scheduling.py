"""Which tests of a distributed run share a process, one after the other.

A group's tests use what takes much of the machine (a browser, whole stacks), or a fixture that
takes seconds to set up. Every other test is given to the next free process by itself.
"""

from __future__ import annotations

from typing import Final

from xdist.scheduler import LoadScopeScheduling

GROUPS: Final = (
    ("tests/chaos/test_real_faults.py", "stacks"),
    ("tests/demo/", "stacks"),
    ("tests/viewer/", "browser"),
    ("tests/examples/test_spoken_into_the_page.py", "alone"),
    ("tests/examples/test_echo_agent.py", "alone"),
    ("tests/examples/test_backend_page.py", "browser"),
    ("tests/examples/", "examples"),
    ("tests/avatar_sessions/", "client"),
    ("tests/docs/", "client"),
    ("tests/test_house.py", "house"),
)
"""The beginning of a test's id, and its group; the first that fits counts."""
ALONE: Final = "alone"
"""The group that runs last, while the other processes have nothing left to do: it compares sound
that went through WebRTC, which stretches what comes late from a busy machine."""


def group_of(test_id: str) -> str | None:
    """The group of a test, or None."""
    return next((group for start, group in GROUPS if test_id.startswith(start)), None)


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types
    """Gives a group to one process, and tests of no group one by one, in the order they come."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid) or nodeid
