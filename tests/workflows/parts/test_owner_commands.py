"""Where the next owner continues a clip."""

from __future__ import annotations

from datetime import UTC, datetime

from avatar_sessions.contract.activities import ClipCursor
from workflows.parts.owner_commands import resume_point
from workflows.parts.record import Generation

DRY_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
CURSOR = ClipCursor(generation=1, sent_bytes=9600, heard_bytes=4800, dry_at=DRY_AT)


def test_a_clip_that_no_owner_began_starts_at_its_beginning() -> None:
    assert resume_point(None, Generation(1, "session-1")) == {}


def test_in_the_same_generation_a_clip_continues_after_what_was_sent() -> None:
    """LiveAvatar plays what it has been sent, also after the owner is lost."""
    point = resume_point(CURSOR, Generation(1, "session-1"))
    assert point == {"offset_bytes": 9600, "dry_at": DRY_AT}


def test_in_another_generation_a_clip_continues_after_what_was_heard() -> None:
    """What the earlier LiveAvatar session had not played is lost with it."""
    assert resume_point(CURSOR, Generation(2, "session-2")) == {"offset_bytes": 4800}
    assert resume_point(CURSOR, None) == {"offset_bytes": 4800}
