"""A generation's stream: runs ``stream_audio``, one activity for each owner in turn.

`Stream` is the stream of one LiveAvatar session; `Streams` knows which one is current and which one
stands by. When a generation is opened, rotated or ended is decided in `generations`.
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
from workflows.parts.execute_activity import execute
from workflows.parts.session_state import Generation


@dataclass
class StreamNumbers:
    """Numbers of a session's stream activities: the first half of an epoch. Strictly increasing."""

    last: int = 0

    def next(self) -> int:
        """A number that no stream activity had before."""
        self.last += 1
        return self.last

    def issued(self, epoch: Epoch) -> bool:
        """Whether an owner of this session can have had this epoch."""
        return 1 <= epoch[0] <= self.last


class Stream:
    """The stream of one generation.

    Attributes:
        generation: the LiveAvatar session.
        started: LiveAvatar's answer to its start.
        ready: the owner's signal, kept while the generation stands by.
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
        self._activity: asyncio.Task[StreamResult] | None = None

    @property
    def max_duration(self) -> timedelta | None:
        """LiveAvatar's own limit for this session; None if LiveAvatar named none."""
        seconds = self.started.max_duration_s
        return None if seconds is None else timedelta(seconds=seconds)

    @property
    def ends_at(self) -> datetime | None:
        """When LiveAvatar ends the session."""
        limit = self.max_duration
        return None if limit is None else self.started.started_at + limit

    def is_owned_by(self, ready: OwnerReady) -> bool:
        """Whether a signal comes from the present stream activity, and not from an earlier one."""
        return (
            ready.epoch[0] == self._number
            and ready.provider_session_id == self.started.provider_session_id
        )

    async def run(self) -> StreamResult:
        """Run the stream until the session ends: one activity, and another after each `replace`.

        Raises:
            ActivityError: no worker became owner, or the owner could not reconnect.
        """
        while True:
            self._number = self._numbers.next()
            activity = asyncio.create_task(self._stream_audio(), name=f"stream {self._number}")
            self._activity = activity
            try:
                return await activity
            except (ActivityError, asyncio.CancelledError) as error:
                if self._activity is activity or not is_cancelled_exception(error):
                    activity.cancel()
                    raise

    def replace(self) -> None:
        """Cancel the present activity, so that `run` starts the next one at another owner."""
        activity, self._activity = self._activity, None
        if activity is not None:
            activity.cancel()

    async def _stream_audio(self) -> StreamResult:
        limit = self.max_duration or options.DEFAULT_MAX_DURATION
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
            summary=f"stream audio as owner (generation {self.generation.number})",
            start_to_close_timeout=limit + options.STREAM_MARGIN,
        )


class Streams:
    """The streams of one session: which is current, and which stands by to take over."""

    def __init__(self) -> None:
        self.numbers = StreamNumbers()
        self.current: Stream | None = None
        """Of the generation that speaks; None before the first one and between two."""
        self.standby: Stream | None = None
        """Of the next generation, which is open and waits to take over."""

    def is_current(self, ready: OwnerReady) -> bool:
        """Whether a signal comes from the owner of the current stream."""
        return self.current is not None and self.current.is_owned_by(ready)

    def is_current_session(self, provider_session_id: str) -> bool:
        """Whether the current stream is that of this LiveAvatar session."""
        current = self.current
        return current is not None and current.started.provider_session_id == provider_session_id

    def accept_standby(self, ready: OwnerReady) -> bool:
        """Keep a signal of the standby stream's owner; False if it comes from another owner."""
        if self.standby is None or not self.standby.is_owned_by(ready):
            return False
        self.standby.ready = ready
        return True

    def issued(self, epoch: Epoch) -> bool:
        """Whether an owner of this session can have had this epoch."""
        return self.numbers.issued(epoch)

    def replace_owner(self) -> None:
        """Start the current stream's next activity, so that another owner takes over."""
        if self.current is not None:
            self.current.replace()
