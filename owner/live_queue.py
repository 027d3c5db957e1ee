"""Live speech of one owned session: utterances that speakers bring, and their reports.

The ingress opens utterances here and writes to them; `owner.playout_queue` plays them. An utterance
outlives its speaker's connection: it waits for the speaker to come back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from typing import Final

from avatar_sessions.contract.live_dialect import LiveBegin
from avatar_sessions.contract.reports import Failure, UtteranceReport
from avatar_sessions.contract.states import UtteranceOutcome
from owner.observer import SpeechSession
from owner.playback_position import EarlierPart
from owner.playout_queue import Playout
from owner.utterance_chunks import Utterance

logger = logging.getLogger(__name__)

MAX_OPEN: Final = 32
"""Utterances of one session that are not over: playing, or waiting for their turn."""
MAX_REPORTS: Final = 32
"""Reports kept for a speaker that comes back and asks."""
MAX_NAMES: Final = 1000
"""Utterance names that a session remembers, so that none is used twice, in any layer."""


class TooManyUtterances(Exception):
    """A speaker has opened more utterances than the session keeps."""


class UtteranceNameUsed(Exception):
    """An utterance of that name is over, and its report is not kept any more."""


class LiveQueue:
    """The live utterances of one session."""

    def __init__(self, playout: Playout, session: SpeechSession, *, max_lead_s: float) -> None:
        self._playout = playout
        self._session = session
        self._max_lead_s = max_lead_s
        self._open: dict[str, Utterance] = {}
        self._reports: OrderedDict[str, UtteranceReport] = OrderedDict()
        self._names: set[str] = set()
        self._inherited_is_interrupted = False
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, begin: LiveBegin) -> Utterance | UtteranceReport:
        """Open an utterance, or find the one that is open; its report, if it is over.

        Raises:
            TooManyUtterances: some of the open ones must be played first.
            UtteranceNameUsed: an utterance of that name is over, and its report is not kept.
        """
        known = self._open.get(begin.utterance_id)
        if known is not None:
            known.reattach_writer(time.monotonic())
            return known
        report = self._reports.get(begin.utterance_id)
        if report is not None:
            return report
        if begin.utterance_id in self._names:
            raise UtteranceNameUsed(
                f"the utterance name {begin.utterance_id!r} is used already: choose another"
            )
        if len(self._open) >= MAX_OPEN:
            raise TooManyUtterances(
                f"{len(self._open)} utterances are open already: wait until some are over"
            )
        utterance = self._new(begin)
        self._open[utterance.id] = utterance
        if len(self._names) < MAX_NAMES:
            self._names.add(utterance.id)
        self._playout.queue(utterance)
        task = asyncio.create_task(self._play(utterance), name=f"play {utterance.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return utterance

    def interrupt_inherited(self) -> None:
        """An interrupt also means utterances that earlier owners had begun.

        Their speakers may not be back yet, and would go on with them.
        """
        self._inherited_is_interrupted = True

    def is_new(self, utterance_id: str) -> bool:
        """Whether that name is certain to be unused."""
        return utterance_id not in self._names and len(self._names) < MAX_NAMES

    @property
    def unsent_bytes(self) -> int:
        """Speech received and not sent to LiveAvatar, of all utterances."""
        return sum(utterance.unsent_bytes for utterance in self._open.values())

    async def close(self) -> None:
        """Wait for the reports of what was playing; the playout is closed already. Bounded."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=2)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=2)

    def _new(self, begin: LiveBegin) -> Utterance:
        now_s = time.monotonic()
        utterance = Utterance(
            begin.utterance_id,
            now_s=now_s,
            max_lead_s=self._max_lead_s,
            source="live",
            text=begin.text,
            earlier=EarlierPart(
                sent_bytes=begin.offset_bytes,
                unplayed_s=begin.unplayed_ms / 1000,
                silent_ms=begin.silent_ms,
                same_provider_session=not begin.fresh,
            ),
        )
        if self._inherited_is_interrupted and utterance.has_earlier_owner:
            utterance.end(UtteranceOutcome.INTERRUPTED, now_s)
        return utterance

    async def _play(self, utterance: Utterance) -> None:
        try:
            await self._playout.play(utterance)
        except Exception:  # a bug with one utterance must be logged, and not end the session
            logger.exception("utterance %s failed", utterance.id)
            utterance.failure = Failure(type="InternalError", message="internal error, see the log")
        finally:
            utterance.end(UtteranceOutcome.LOST, time.monotonic())  # unless it is over
            del self._open[utterance.id]
            report = self._session.report_of(utterance)
            self._reports[report.id] = report
            while len(self._reports) > MAX_REPORTS:
                self._reports.popitem(last=False)
            self._session.on_live_over(report)
        await self._session.after_speech()
