"""One LiveAvatar session's stream: ``stream_audio``, once for each owner that is lost.

Knows who may call itself its owner. When a session is opened, moved or ended is decided elsewhere.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from avatar_sessions.contract import names
    from avatar_sessions.contract.activities import (
        Epoch,
        OwnerReady,
        SessionStarted,
        StreamAudio,
        StreamResult,
    )

from workflows.parts import options
from workflows.parts.execute import execute
from workflows.parts.record import Generation


@dataclass
class StreamNumbers:
    """The numbers of a session's stream activities: the first half of an epoch. Only grows."""

    last: int = 0

    def next(self) -> int:
        """One that nobody had."""
        self.last += 1
        return self.last

    def had(self, epoch: Epoch) -> bool:
        """Whether an owner of this session has had that epoch, or may."""
        return 1 <= epoch[0] <= self.last


class Stream:
    """Whoever holds one generation.

    Attributes:
        generation: the LiveAvatar session.
        started: what LiveAvatar answered to its start.
        ready: its owner, once there is one; for a generation that waits to take over.
    """

    def __init__(
        self,
        session_key: str,
        numbers: StreamNumbers,
        generation: Generation,
        started: SessionStarted,
    ) -> None:
        self.generation = generation
        self.started = started
        self.ready: OwnerReady | None = None
        self._session_key = session_key
        self._numbers = numbers
        self._number = 0
        self._attempt: asyncio.Task[StreamResult] | None = None

    @property
    def limit(self) -> timedelta | None:
        """How long LiveAvatar lets it run; None where it does not tell."""
        seconds = self.started.max_duration_s
        return None if seconds is None else timedelta(seconds=seconds)

    @property
    def ends_at(self) -> datetime | None:
        """When LiveAvatar ends it."""
        return None if self.limit is None else self.started.started_at + self.limit

    def is_owned_by(self, ready: OwnerReady) -> bool:
        """Whether a signal speaks of the activity that runs now, and not of an earlier one."""
        return (
            ready.epoch[0] == self._number
            and ready.provider_session_id == self.started.provider_session_id
        )

    async def run(self) -> StreamResult:
        """Have owners hold the session until it ends.

        Raises:
            ActivityError: no owner could be had, or the socket could not be got back.
        """
        while True:
            self._number = self._numbers.next()
            attempt = asyncio.create_task(self._attempted(), name=f"stream {self._number}")
            self._attempt = attempt
            try:
                return await attempt
            except (ActivityError, asyncio.CancelledError) as error:
                if self._attempt is attempt or not is_cancelled_exception(error):
                    attempt.cancel()
                    raise

    def replace(self) -> None:
        """Let another owner take over: the present one does not answer."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.cancel()

    async def _attempted(self) -> StreamResult:
        limit = self.limit or options.DURATION_WITHOUT_A_LIMIT
        return await execute(
            names.ACTIVITY_STREAM_AUDIO,
            StreamAudio(
                session_key=self._session_key,
                provider_session_id=self.started.provider_session_id,
                generation=self.generation.number,
                stream=self._number,
                ws_url=self.started.ws_url,
            ),
            StreamResult,
            options.STREAM,
            summary=f"stream audio: own the session (generation {self.generation.number})",
            start_to_close_timeout=limit + options.STREAM_MARGIN,
        )
