"""The states of a session: one start, and every end passes through the cleanup."""

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


def test_every_state_before_the_end_can_become_ending() -> None:
    for state in SessionState:
        if state not in FINAL and state is not SessionState.ENDING:
            assert SessionState.ENDING in TRANSITIONS[state], state


def test_final_states_follow_ending_only() -> None:
    for state, following in TRANSITIONS.items():
        if state is not SessionState.ENDING:
            assert not following & FINAL, state


def test_final_states_have_no_transitions() -> None:
    for state in FINAL:
        assert not TRANSITIONS[state]


def test_an_illegal_transition_names_both_states() -> None:
    with pytest.raises(IllegalSessionTransition, match="from ENDED to LIVE"):
        checked_transition(SessionState.ENDED, SessionState.LIVE)


def test_every_end_reason_has_a_final_state() -> None:
    assert {reason.final_state for reason in EndReason} == FINAL
