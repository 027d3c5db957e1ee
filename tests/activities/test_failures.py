"""activities/failures.py: which error of a call is repeated, and which is told to the workflow."""

from __future__ import annotations

import pytest
from temporalio.exceptions import ApplicationError

from activities import failures
from avatar_sessions.seal import Seal


def test_seal_keys_that_differ_between_workers_are_not_retryable() -> None:
    """The stream was tried without end, and the report said only that the time was over."""
    with pytest.raises(ApplicationError) as caught:
        failures.opened(Seal([Seal.new_key()]), Seal([Seal.new_key()]).seal("fake"))
    assert caught.value.type == "SealMismatch"
    assert caught.value.non_retryable
