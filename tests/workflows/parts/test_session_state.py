"""The session's record: legal transitions, owners, alerts, and what the Temporal UI shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from avatar_sessions.contract import names
from avatar_sessions.contract.activities import OwnerReady
from avatar_sessions.contract.reports import Failure, UtteranceReport
from avatar_sessions.contract.states import (
    AlertKind,
    EndReason,
    IllegalSessionTransition,
    SessionState,
    UtteranceOutcome,
)
from tests.support.workflow_stub import WorkflowStub
from workflows.parts.alerts import OperatorAlert
from workflows.parts.session_state import MAX_SHOWN_GENERATIONS, EndCause, SessionRecord

REQUESTED_AT = datetime(2026, 1, 1, 12, tzinfo=UTC)
QUEUE = "avatar-owner:0123456789ab"


def record(**fields: Any) -> SessionRecord:
    return SessionRecord("key", "tenant-1", requested_at=REQUESTED_AT, **fields)


def ready(epoch: tuple[int, int], session: str = "session-1", gap_ms: int = 0) -> OwnerReady:
    return OwnerReady(queue=QUEUE, epoch=epoch, provider_session_id=session, gap_ms=gap_ms)


def live(stub: WorkflowStub) -> SessionRecord:
    one = record()
    one.transition_to(SessionState.MINTING)
    one.active_generation = one.add_generation("session-1")
    one.transition_to(SessionState.STARTING)
    one.transition_to(SessionState.CONNECTING)
    one.accept_owner(ready((1, 1)))
    stub.advance(2)
    one.transition_to(SessionState.LIVE)
    return one


# --------------------------------------------------------------------------- state


def test_a_state_is_mirrored_into_search_attributes_and_details(stub: WorkflowStub) -> None:
    live(stub)
    assert stub.attributes[names.SEARCH_ATTRIBUTE_STATE] == "LIVE"
    assert stub.attributes[names.SEARCH_ATTRIBUTE_TENANT] == "tenant-1"
    assert stub.attributes[names.SEARCH_ATTRIBUTE_PROVIDER_SESSION_ID] == "session-1"
    assert "**LIVE** since 12:00:02 UTC" in stub.details
    assert "LiveAvatar session `session-1` (generation 1)" in stub.details
    assert f"owner `{QUEUE}`, epoch 1.1" in stub.details


def test_an_illegal_transition_raises_and_changes_nothing(stub: WorkflowStub) -> None:
    one = record()
    with pytest.raises(IllegalSessionTransition, match="REQUESTED to LIVE"):
        one.transition_to(SessionState.LIVE)
    assert one.state is SessionState.REQUESTED


def test_the_first_end_cause_stays(stub: WorkflowStub) -> None:
    one = live(stub)
    one.end(EndCause(EndReason.CONNECTION_FAILED, Failure(type="OwnerLost", message="no owner")))
    one.end(EndCause(EndReason.CANCELLED))
    one.transition_to(SessionState.ENDING)
    assert one.end_cause is not None
    assert one.end_cause.reason is EndReason.CONNECTION_FAILED
    assert "failure: `OwnerLost` no owner" in stub.details


def test_a_gap_lasts_from_the_loss_to_the_return(stub: WorkflowStub) -> None:
    one = live(stub)
    one.transition_to(SessionState.RECOVERING)
    stub.advance(3)
    one.transition_to(SessionState.LIVE)
    assert one.gaps == timedelta(seconds=3)


def test_a_gap_that_the_workflow_did_not_see_is_the_owner_s(stub: WorkflowStub) -> None:
    """Loss and return reached the workflow in one task: by its own clock there was no gap."""
    one = live(stub)
    one.transition_to(SessionState.RECOVERING)
    one.accept_owner(ready((1, 1), gap_ms=800))
    one.transition_to(SessionState.LIVE)
    assert one.gaps == timedelta(milliseconds=800)


def test_live_at_is_the_first_time(stub: WorkflowStub) -> None:
    one = live(stub)
    first = one.live_at
    one.transition_to(SessionState.RECOVERING)
    stub.advance(5)
    one.transition_to(SessionState.LIVE)
    assert one.live_at == first


def test_a_pending_wait_is_shown_until_it_is_over(stub: WorkflowStub) -> None:
    one = record()
    one.set_pending_wait("a free session")
    since = stub.now
    stub.advance(5)
    one.set_pending_wait("a free session")
    assert one.pending_wait is not None
    assert one.pending_wait.since == since
    assert "waiting for a free session, since 12:00:00 UTC" in stub.details
    one.set_pending_wait(None)
    assert "waiting for" not in stub.details


def test_an_ending_session_waits_for_nothing(stub: WorkflowStub) -> None:
    one = record()
    one.end(EndCause(EndReason.REQUESTED))
    one.set_pending_wait("a free session")
    assert one.pending_wait is None


# -------------------------------------------------------------- generations, owners


def test_a_later_epoch_is_a_takeover_and_an_earlier_one_is_refused() -> None:
    one = record()
    assert one.accept_owner(ready((1, 1)))
    assert one.accept_owner(ready((2, 1)))
    assert one.takeovers == 1
    assert not one.accept_owner(ready((1, 9)))
    assert one.owner is not None
    assert one.owner.epoch == (2, 1)


def test_the_same_epoch_with_a_gap_is_a_reconnect() -> None:
    one = record()
    one.accept_owner(ready((1, 1)))
    one.accept_owner(ready((1, 1)))
    one.accept_owner(ready((1, 1), gap_ms=300))
    assert (one.takeovers, one.reconnects) == (0, 1)


def test_epochs_of_two_generations_are_not_compared() -> None:
    """The next generation's owner stood by since epoch 2; the present one was replaced since."""
    one = record()
    one.accept_owner(ready((3, 1), "session-1"))
    assert one.accept_owner(ready((2, 1), "session-2"))
    assert one.takeovers == 0


def test_a_switch_without_an_owner_is_a_recovery(stub: WorkflowStub) -> None:
    one = live(stub)
    second = one.add_generation("session-2")
    one.switch_to(second, None)
    recovering = one.state
    one.switch_to(second, ready((2, 1), "session-2"))
    assert (recovering, one.state) == (SessionState.RECOVERING, SessionState.LIVE)
    assert one.current_generation is second


def test_a_start_of_a_later_generation_keeps_the_state(stub: WorkflowStub) -> None:
    one = live(stub)
    one.begin_step(SessionState.MINTING)
    assert one.state is SessionState.LIVE


def test_only_the_newest_generations_are_search_attributes(stub: WorkflowStub) -> None:
    one = record()
    for number in range(MAX_SHOWN_GENERATIONS + 2):
        one.add_generation(f"session-{number}")
    one.begin_step(SessionState.MINTING)
    shown = stub.attributes[names.SEARCH_ATTRIBUTE_PROVIDER_SESSIONS]
    assert len(shown) == MAX_SHOWN_GENERATIONS
    assert shown[-1] == stub.attributes[names.SEARCH_ATTRIBUTE_PROVIDER_SESSION_ID]


# -------------------------------------------------------------------------- alerts


def test_the_most_severe_active_alert_is_the_search_attribute(stub: WorkflowStub) -> None:
    one = record()
    room = OperatorAlert(AlertKind.ROOM_NOT_CLEAN, "the room's text")
    session = OperatorAlert(AlertKind.PROVIDER_NOT_STOPPED, "the session's text")
    one.raise_alert("room", room)
    assert stub.attributes[names.SEARCH_ATTRIBUTE_ALERT] == "room_not_clean"
    one.raise_alert("session", session)
    assert stub.attributes[names.SEARCH_ATTRIBUTE_ALERT] == "provider_not_stopped"
    assert "the room's text" in stub.details
    assert "the session's text" in stub.details
    one.clear_alert("session")
    assert one.alert == "room_not_clean"
    one.clear_alert("room")
    assert stub.attributes[names.SEARCH_ATTRIBUTE_ALERT] is None
    assert one.alert is None


def test_utterances_are_shown_with_what_was_heard(stub: WorkflowStub) -> None:
    one = record()
    one.show_utterances(
        [
            UtteranceReport(
                id="u1",
                outcome=UtteranceOutcome.INTERRUPTED,
                duration_ms=2000,
                sent_ms=1500,
                heard_ms=1200,
                text="Hello",
            )
        ]
    )
    assert "`u1`: **interrupted**, 1.2 of 2.0 s heard, “Hello”" in stub.details
