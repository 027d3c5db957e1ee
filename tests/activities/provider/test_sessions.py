"""What LiveAvatar's billing entry says of a session."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from activities.provider.sessions import BilledSession
from liveavatar_lite import SessionEntry

CREATED = datetime(2026, 1, 1, 12, tzinfo=UTC)


def entry(ran_s: float | None, **fields: Any) -> SessionEntry:
    end_at = None if ran_s is None else CREATED + timedelta(seconds=ran_s)
    return SessionEntry.model_validate(
        {"id": "session-1", "created_at": CREATED, "end_at": end_at} | fields
    )


def test_a_session_without_an_entry_never_ran() -> None:
    billed = BilledSession.of(None)
    assert not billed.running
    assert billed.ran_s == 0


def test_an_unread_entry_says_nothing() -> None:
    assert BilledSession() == BilledSession(running=False, ended_at=None, ran_s=None)


def test_an_open_entry_is_a_running_session() -> None:
    billed = BilledSession.of(entry(None))
    assert billed.running
    assert billed.ran_s is None


@pytest.mark.parametrize(
    ("span_s", "duration", "ran_s"),
    [(30.4, 30, 30.4), (30.4, 0, 30.4), (42.0, 30, 30)],
    ids=["finer than whole seconds", "sandbox", "waited before its start"],
)
def test_the_running_time_is_the_finer_of_two_that_agree(
    span_s: float, duration: int, ran_s: float
) -> None:
    billed = BilledSession.of(entry(span_s, duration=duration))
    assert not billed.running
    assert billed.ran_s == pytest.approx(ran_s)
