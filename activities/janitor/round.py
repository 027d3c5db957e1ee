"""What the parts of a janitor's round share: its rules, its time, and calls with bounds."""

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
"""After this nothing new is begun. What is under way ends within about 25 s."""
CALL_TIME_S: Final = 8.0
"""One request to LiveAvatar; it usually takes less than one second."""
TRIES: Final = 3
PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 3.0
AT_ONCE: Final = 8
"""Sessions that are looked at and stopped at the same time."""
NO_TIME_LEFT: Final = "the round's time was up: the next one looks again"

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class JanitorRules:
    """What a round may do."""

    dry_run: bool
    owns_key: bool
    """Sessions that no workflow has opened are nobody else's either."""
    grace_s: float
    """How old such a session must be: its workflow may not be visible yet."""

    def with_care(self, asked: JanitorRound) -> JanitorRules:
        """These rules, or more careful ones: a message never loosens what the operator set."""
        return JanitorRules(
            dry_run=self.dry_run or asked.dry_run,
            owns_key=self.owns_key and not asked.spare_strangers,
            grace_s=max(self.grace_s, asked.grace_s or 0.0),
        )


@dataclass
class JanitorSweep:
    """One round under way."""

    client: Client
    rules: JanitorRules
    problems: list[str] = field(default_factory=list)
    _ends_at: float = field(default_factory=lambda: time.monotonic() + ROUND_TIME_S)

    @property
    def time_is_up(self) -> bool:
        """Whether what was not begun is left to the next round."""
        return time.monotonic() > self._ends_at

    def tell(self, problem: str) -> None:
        """Note what could not be found out, once."""
        if problem not in self.problems:
            self.problems.append(problem)


async def patiently(ask: Callable[[], Awaitable[Result]]) -> Result:
    """A request to LiveAvatar that is safe to repeat, repeated where that can help.

    Raises:
        Unanswered: it was refused, or did not succeed in time.
    """
    problem = ""
    for number in range(1, TRIES + 1):
        pause_s = PAUSE_S * 2 ** (number - 1)
        try:
            async with asyncio.timeout(CALL_TIME_S):
                return await ask()
        except TimeoutError:
            problem = f"LiveAvatar did not answer within {CALL_TIME_S:g} s"
        except LiteError as error:
            problem = str(error)
            if not error.retryable:
                break
            if isinstance(error, ApiError) and error.retry_after_s:
                pause_s = error.retry_after_s
        if number < TRIES:
            await asyncio.sleep(min(pause_s, LONGEST_PAUSE_S))
    raise StatusUnknown(problem)


async def for_each(
    items: Iterable[Item], work: Callable[[Item], Awaitable[Result]]
) -> Sequence[Result]:
    """Do the same for all, a few at a time; results in the order of the items."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(item: Item) -> Result:
        async with slots:
            return await work(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item), name=f"reap {item}"[:80]) for item in items]
    return [task.result() for task in tasks]
