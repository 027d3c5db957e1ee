"""One round of the janitor: its rules, its time limit, its problems, and calls with retries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from temporalio.client import Client

from activities.janitor.workflow_status import StatusUnknown
from avatar_sessions.contract.janitor import JanitorRound
from liveavatar_lite import ApiError, LiteError

ROUND_TIME_S: Final = 40.0
"""After this time the round starts no further call. Calls in progress end within about 25 s."""
CALL_TIMEOUT_S: Final = 8.0
"""Timeout of one request to LiveAvatar, which usually takes less than one second."""
MAX_ATTEMPTS: Final = 3
PAUSE_S: Final = 0.5
MAX_PAUSE_S: Final = 3.0
MAX_CONCURRENT: Final = 8
"""Sessions that are looked up and stopped concurrently."""
NO_TIME_LEFT: Final = "the round ran out of time: the next round looks again"

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class JanitorRules:
    """What a round is allowed to do."""

    dry_run: bool
    owns_key: bool
    """No other program uses the API key: a session without a workflow may be stopped."""
    grace_s: float
    """Minimum age of a session without a workflow: its workflow may not be visible yet."""

    def restricted_by(self, asked: JanitorRound) -> JanitorRules:
        """These rules, made stricter by a message; a message never loosens the operator's rules."""
        return JanitorRules(
            dry_run=self.dry_run or asked.dry_run,
            owns_key=self.owns_key and not asked.spare_strangers,
            grace_s=max(self.grace_s, asked.grace_s or 0.0),
        )


@dataclass
class JanitorSweep:
    """A round in progress."""

    client: Client
    rules: JanitorRules
    problems: list[str] = field(default_factory=list)
    _ends_at: float = field(default_factory=lambda: time.monotonic() + ROUND_TIME_S)

    @property
    def time_is_up(self) -> bool:
        """Whether the round must leave the rest to the next one."""
        return time.monotonic() > self._ends_at

    def add_problem(self, problem: str) -> None:
        """Record why something could not be looked up; each problem once."""
        if problem not in self.problems:
            self.problems.append(problem)


async def with_retries(
    request: Callable[[], Awaitable[Result]],
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Result:
    """Make an idempotent request to LiveAvatar, with retries where a retry can help.

    Raises:
        StatusUnknown: LiveAvatar refused the request, or every attempt failed.
    """
    problem = ""
    for number in range(1, MAX_ATTEMPTS + 1):
        pause_s = PAUSE_S * 2 ** (number - 1)
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await request()
        except TimeoutError:
            problem = f"LiveAvatar did not answer within {CALL_TIMEOUT_S:g} s"
        except LiteError as error:
            problem = str(error)
            if not error.retryable:
                break
            if isinstance(error, ApiError) and error.retry_after_s:
                pause_s = error.retry_after_s
        if number < MAX_ATTEMPTS:
            await sleep(min(pause_s, MAX_PAUSE_S))
    raise StatusUnknown(problem)


async def for_each(
    items: Iterable[Item], work: Callable[[Item], Awaitable[Result]]
) -> Sequence[Result]:
    """Process all items, a few concurrently; the results have the order of the items."""
    slots = asyncio.Semaphore(MAX_CONCURRENT)

    async def one(item: Item) -> Result:
        async with slots:
            return await work(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item), name=f"sweep {item}"[:80]) for item in items]
    return [task.result() for task in tasks]
