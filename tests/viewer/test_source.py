"""The status as the page gets it."""

from __future__ import annotations

import re

from avatar_sessions.contract.states import EndReason, SessionState
from viewer import ViewerStatus
from viewer.source import REASONS


def test_every_end_reason_has_a_sentence() -> None:
    for reason in EndReason:
        sentence = ViewerStatus(SessionState.ENDED, end_reason=reason).public()["reason"]
        assert re.fullmatch(r"[A-Z].*\.", sentence)
    assert set(REASONS) == set(EndReason)
