"""A round's rules, its problems, and its calls with retries."""

from __future__ import annotations

import asyncio

import pytest

from activities.janitor import round as janitor_round
from activities.janitor.round import JanitorRules, for_each, with_retries
from activities.janitor.workflow_status import StatusUnknown, searchable
from avatar_sessions.contract.janitor import JanitorRound
from liveavatar_lite import ApiError, LiteError, RateLimited, ServerError

RULES = JanitorRules(dry_run=False, owns_key=True, grace_s=600)


class Answers:
    """A request that fails with each error in turn, and then succeeds."""

    def __init__(self, *errors: LiteError) -> None:
        self._errors = list(errors)
        self.attempts = 0

    async def __call__(self) -> str:
        self.attempts += 1
        if self._errors:
            raise self._errors.pop(0)
        return "answer"


class Pauses:
    """Pauses between attempts, which take no time here."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


# --------------------------------------------------------------------------- rules


def test_a_message_makes_the_operator_s_rules_stricter_only() -> None:
    strict = RULES.restricted_by(JanitorRound(dry_run=True, spare_strangers=True, grace_s=900))
    assert strict == JanitorRules(dry_run=True, owns_key=False, grace_s=900)
    assert RULES.restricted_by(JanitorRound(dry_run=False, grace_s=1)) == RULES
    careful = JanitorRules(dry_run=True, owns_key=False, grace_s=600)
    assert careful.restricted_by(JanitorRound()) == careful


# ------------------------------------------------------------------------- retries


async def test_a_failed_request_is_retried_with_longer_pauses() -> None:
    request, pauses = Answers(ServerError(503), ServerError(503)), Pauses()
    assert await with_retries(request, sleep=pauses) == "answer"
    assert pauses.taken == [0.5, 1.0]


async def test_a_requested_pause_is_kept_within_bounds() -> None:
    request = Answers(RateLimited(429, retry_after_s=2), RateLimited(429, retry_after_s=60))
    pauses = Pauses()
    await with_retries(request, sleep=pauses)
    assert pauses.taken == [2, janitor_round.MAX_PAUSE_S]


async def test_a_request_that_keeps_failing_is_given_up() -> None:
    request = Answers(*[ServerError(503)] * 5)
    with pytest.raises(StatusUnknown, match="503"):
        await with_retries(request, sleep=Pauses())
    assert request.attempts == janitor_round.MAX_ATTEMPTS


async def test_a_refusal_is_not_retried() -> None:
    request = Answers(ApiError(401))
    with pytest.raises(StatusUnknown, match="401"):
        await with_retries(request, sleep=Pauses())
    assert request.attempts == 1


# --------------------------------------------------------------------- concurrency


async def test_items_are_processed_a_few_at_a_time_and_reported_in_order() -> None:
    running, most = 0, 0
    turn = asyncio.Event()

    async def work(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == janitor_round.MAX_CONCURRENT:
            turn.set()
        await turn.wait()
        running -= 1
        return item * 2

    assert await for_each(range(20), work) == [item * 2 for item in range(20)]
    assert most == janitor_round.MAX_CONCURRENT


@pytest.mark.parametrize(
    ("id_", "expected"),
    [("a1b2-c3_d4", True), ("", False), ("it's", False), ("x" * 101, False)],
)
def test_only_plain_ids_are_put_into_a_query(id_: str, expected: bool) -> None:
    assert searchable(id_) is expected
