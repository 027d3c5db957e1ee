"""The life of a session has one way in, and every way out leads through the cleanup."""

from __future__ import annotations

import pytest

from avatar_sessions.contract.states import (
    FINAL,
    TRANSITIONS,
    EndReason,
    IllegalSessionTransition,
    SessionState,
    checked_transition,
)


def test_every_state_that_is_not_over_can_end() -> None:
    for state in SessionState:
        if state not in FINAL and state is not SessionState.ENDING:
            assert SessionState.ENDING in TRANSITIONS[state], state


def test_nothing_is_over_without_ending_first() -> None:
    for state, following in TRANSITIONS.items():
        if state is not SessionState.ENDING:
            assert not following & FINAL, state


def test_what_is_over_stays_over() -> None:
    for state in FINAL:
        assert not TRANSITIONS[state]


def test_an_illegal_step_names_both_states() -> None:
    with pytest.raises(IllegalSessionTransition, match="from ENDED to LIVE"):
        checked_transition(SessionState.ENDED, SessionState.LIVE)


def test_every_end_reason_has_a_final_state() -> None:
    assert {reason.final_state for reason in EndReason} == FINAL
