"""Live speech of one owned session: utterances that speakers bring, and what became of them.

The ingress calls in, the mouth says. A speaker may go and come back: its utterance waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from avatar_sessions.contract.live_dialect import LiveBegin
from avatar_sessions.contract.messages import Failure, UtteranceReport
from avatar_sessions.contract.states import UtteranceOutcome
from owner.playout import Playout
from owner.utterance import Utterance

logger = logging.getLogger(__name__)

MAX_OPEN: Final = 32
"""Utterances of one session that are not over: spoken, or waiting for their turn."""
REMEMBERED: Final = 32
"""Lines kept for a speaker that comes back and asks."""
MAX_NAMES: Final = 1000
"""Names of utterances that a session remembers: none is used twice, in any layer."""


class TooManyUtterances(Exception):
    """A speaker has begun more utterances than are kept at once."""


class UtteranceNameUsed(Exception):
    """An utterance of that name was said long ago."""


class LiveQueue:
    """The live utterances of one session."""

    def __init__(
        self,
        playout: Playout,
        *,
        max_lead_s: float,
        line_of: Callable[[Utterance], UtteranceReport],
        on_over: Callable[[UtteranceReport], None],
        rest: Callable[[], Awaitable[None]],
    ) -> None:
        self._playout = playout
        self._max_lead_s = max_lead_s
        self._line_of = line_of
        self._on_over = on_over
        self._rest = rest
        self._open: dict[str, Utterance] = {}
        self._lines: OrderedDict[str, UtteranceReport] = OrderedDict()
        self._names: set[str] = set()
        self._earlier_is_cut = False
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, begin: LiveBegin) -> Utterance | UtteranceReport:
        """Open an utterance, or find the one that is open; its line, if it is over.

        Raises:
            TooManyUtterances: let some be spoken first.
            NameUsed: it was said long ago; its line is not kept here any more.
        """
        known = self._open.get(begin.utterance_id)
        if known is not None:
            known.reattach_writer(time.monotonic())
            return known
        line = self._lines.get(begin.utterance_id)
        if line is not None:
            return line
        if begin.utterance_id in self._names:
            raise UtteranceNameUsed(
                f"utterance {begin.utterance_id!r} was said before: name another one"
            )
        if len(self._open) >= MAX_OPEN:
            raise TooManyUtterances(
                f"{len(self._open)} utterances wait already: let some be spoken first"
            )
        utterance = Utterance(
            begin.utterance_id,
            max_lead_s=self._max_lead_s,
            source="live",
            text=begin.text,
            offset_bytes=begin.offset_bytes,
            inherited=not begin.fresh,
            unplayed_s=begin.unplayed_ms / 1000,
            silent_ms=begin.silent_ms,
        )
        if self._earlier_is_cut and utterance.has_earlier_owner:
            utterance.end(UtteranceOutcome.INTERRUPTED, time.monotonic())
        self._open[utterance.id] = utterance
        if len(self._names) < MAX_NAMES:
            self._names.add(utterance.id)
        self._playout.queue(utterance)
        task = asyncio.create_task(self._say(utterance), name=f"say {utterance.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return utterance

    def interrupt_inherited(self) -> None:
        """There was an interrupt: what owners before this one had begun is over.

        Its speaker may not be back yet, and would go on with it.
        """
        self._earlier_is_cut = True

    def is_new(self, utterance_id: str) -> bool:
        """Whether that name is certain to be a new one."""
        return utterance_id not in self._names and len(self._names) < MAX_NAMES

    @property
    def unsent_bytes(self) -> int:
        """What came in and has not gone on to LiveAvatar, of all utterances."""
        return sum(utterance.unsent_bytes for utterance in self._open.values())

    async def close(self) -> None:
        """Wait for what is being said to settle; the mouth is closed already. Bounded."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=2)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=2)

    async def _say(self, utterance: Utterance) -> None:
        try:
            await self._playout.play(utterance)
        except Exception:  # one utterance's bug must not be lost, nor end the session
            logger.exception("utterance %s failed", utterance.id)
            utterance.failure = Failure(type="InternalError", message="internal error, see the log")
        finally:
            utterance.end(UtteranceOutcome.LOST, time.monotonic())  # unless it is over
            del self._open[utterance.id]
            line = self._line_of(utterance)
            self._lines[line.id] = line
            while len(self._lines) > REMEMBERED:
                self._lines.popitem(last=False)
            self._on_over(line)
        await self._rest()
