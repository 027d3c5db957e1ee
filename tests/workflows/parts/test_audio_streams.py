"""Which stream is current, which stands by, and which epochs their owners can have."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from avatar_sessions.contract.activities import OwnerReady, SessionStarted
from workflows.parts.audio_streams import Stream, StreamNumbers, Streams
from workflows.parts.session_state import Generation

STARTED = datetime(2026, 1, 1, 12, tzinfo=UTC)


def stream(session: str, *, limit_s: float | None = 60, number: int = 0) -> Stream:
    started = SessionStarted(
        provider_session_id=session,
        started_at=STARTED,
        ws_url="gAAAA-address",
        max_duration_s=limit_s,
    )
    one = Stream("key", StreamNumbers(), Generation(1, session), started)
    one._number = number
    return one


def ready(session: str, number: int) -> OwnerReady:
    return OwnerReady(
        queue="avatar-owner:0123456789ab", epoch=(number, 1), provider_session_id=session
    )


def test_only_issued_epochs_belong_to_the_session() -> None:
    numbers = StreamNumbers()
    assert not numbers.issued((1, 1))
    assert [numbers.next(), numbers.next()] == [1, 2]
    assert numbers.issued((1, 7))
    assert numbers.issued((2, 1))
    assert not numbers.issued((3, 1))
    assert not numbers.issued((0, 1))


def test_a_stream_ends_at_liveavatar_s_limit() -> None:
    assert stream("session-1").ends_at == STARTED + timedelta(seconds=60)
    assert stream("session-1", limit_s=None).ends_at is None


def test_a_signal_counts_only_from_the_present_activity_of_the_current_stream() -> None:
    streams = Streams()
    assert not streams.is_current(ready("session-1", 1))
    streams.current = stream("session-1", number=2)
    assert streams.is_current(ready("session-1", 2))
    assert not streams.is_current(ready("session-1", 1))
    assert not streams.is_current(ready("session-2", 2))
    assert streams.is_current_session("session-1")
    assert not streams.is_current_session("session-2")


def test_the_standby_stream_keeps_its_owner_s_signal() -> None:
    streams = Streams()
    assert not streams.accept_standby(ready("session-2", 3))
    streams.standby = stream("session-2", number=3)
    assert not streams.accept_standby(ready("session-2", 2))
    assert streams.standby.ready is None
    assert streams.accept_standby(ready("session-2", 3))
    assert streams.standby.ready == ready("session-2", 3)


def test_without_a_current_stream_there_is_no_owner_to_replace() -> None:
    Streams().replace_owner()
