"""Clips of one owned session: each is said once, however often it is asked for.

An activity asks, and may ask again when the server lost sight of it: it finds the clip that is
being said, or what became of it. Another owner's clip is gone on with from where that one had come.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from avatar_sessions.contract.activities import ClipCursor, ClipSpoken
from avatar_sessions.contract.messages import Failure, UtteranceReport
from avatar_sessions.contract.states import UtteranceOutcome
from owner.clips.errors import ClipError
from owner.playout import Playout
from owner.utterance import USUAL_START_LATENCY_S, Utterance

CLIP_AHEAD_BYTES: Final = 96_000
"""How much of a clip is decoded ahead of what was sent: two seconds."""
CHUNK_S: Final = 1.0
"""The longest piece that is sent at once."""
REMEMBERED: Final = 32
"""Clips whose end is kept for an activity that asks again."""


class ClipStream(Protocol):
    """A clip that is being decoded."""

    @property
    def duration_s(self) -> float | None:
        """Its length; None while that is not known."""

    async def read(self) -> bytes:
        """The next PCM, about a second; nothing at the end."""


OpenClip = Callable[[], AbstractAsyncContextManager[ClipStream]]
Progress = Callable[[ClipCursor], None]


@dataclass(frozen=True)
class ClipJob:
    """A clip that is to be said."""

    utterance_id: str
    sequence: int
    """Position among the session's clips, from 1."""
    open: OpenClip
    offset_bytes: int = 0
    """What an owner before this one has said of it; even."""
    played_out_at: datetime | None = None
    """With an offset: when the avatar has played all of that. None: another LiveAvatar session had
    it, and this one knows nothing of it."""


class ClipQueue:
    """The clips of one session."""

    def __init__(
        self,
        playout: Playout,
        *,
        max_lead_s: float,
        generation: int,
        line_of: Callable[[Utterance], UtteranceReport],
        rest: Callable[[], Awaitable[None]],
        moving: Callable[[], bool],
    ) -> None:
        self._playout = playout
        self._max_lead_s = max_lead_s
        self._generation = generation
        self._line_of = line_of
        self._rest = rest
        self._moving = moving
        self._saying: dict[str, asyncio.Task[ClipSpoken]] = {}
        self._said: OrderedDict[str, ClipSpoken] = OrderedDict()
        self._watchers: dict[str, Progress] = {}
        self._cut_up_to = 0
        self._cut_outcome = UtteranceOutcome.INTERRUPTED

    def knows(self, utterance_id: str) -> bool:
        """Whether it is being said here, or was."""
        return utterance_id in self._saying or utterance_id in self._said

    async def play(self, clip: ClipJob, progress: Progress | None = None) -> ClipSpoken:
        """Say a clip, or join in where it is being said; lasts until it is over.

        Args:
            clip: what to say.
            progress: told how far it has come, whenever speech goes on to LiveAvatar.
        """
        name = clip.utterance_id
        if name in self._said:
            return self._said[name]
        task = self._saying.get(name)
        if task is None:
            task = asyncio.create_task(self._say(clip), name=f"say {name}")
            self._saying[name] = task
            task.add_done_callback(lambda done: self._keep(name, done))
        if progress is not None:
            self._watchers[name] = progress
        try:
            # Who asks may go; the clip is said to its end.
            await asyncio.wait({task})
        finally:
            if self._watchers.get(name) is progress:
                self._watchers.pop(name, None)
        return task.result()

    def cut(self, up_to_sequence: int, outcome: UtteranceOutcome) -> None:
        """What comes late and was asked for before an interrupt is not begun."""
        self._cut_up_to = max(self._cut_up_to, up_to_sequence)
        self._cut_outcome = outcome

    def on_progress(self, utterance: Utterance) -> None:
        """Something of a clip went on to LiveAvatar."""
        progress = self._watchers.get(utterance.id)
        if progress is not None:
            progress(self._cursor(utterance))

    async def close(self) -> None:
        """Wait for what is being said to settle; the mouth is closed already. Bounded."""
        if self._saying:
            _, late = await asyncio.wait(self._saying.values(), timeout=2)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=2)

    def _keep(self, name: str, done: asyncio.Task[ClipSpoken]) -> None:
        self._saying.pop(name, None)
        if done.cancelled() or done.exception() is not None:
            return  # who waits for it is told
        self._said[name] = done.result()
        while len(self._said) > REMEMBERED:
            self._said.popitem(last=False)

    def _cursor(self, utterance: Utterance, unplayed_s: float | None = None) -> ClipCursor:
        now_s = time.monotonic()
        unplayed_s = utterance.unplayed_s(now_s) if unplayed_s is None else unplayed_s
        return ClipCursor(
            generation=self._generation,
            sent_bytes=utterance.sent_bytes,
            heard_bytes=utterance.played_bytes(now_s),
            dry_at=datetime.now(UTC) + timedelta(seconds=unplayed_s),
        )

    async def _say(self, clip: ClipJob) -> ClipSpoken:
        left_s = 0.0  # what of an earlier owner's part is still to be played; below 0: silence
        if clip.played_out_at is not None:
            left_s = (clip.played_out_at - datetime.now(UTC)).total_seconds()
            # By another machine's clock: no owner sends further ahead than this.
            left_s = min(left_s, max(self._max_lead_s, CHUNK_S) + USUAL_START_LATENCY_S)
        utterance = Utterance(
            clip.utterance_id,
            sequence=clip.sequence,
            max_lead_s=self._max_lead_s,
            offset_bytes=clip.offset_bytes,
            inherited=clip.played_out_at is not None,
            unplayed_s=max(0.0, left_s),
            silent_ms=round(max(0.0, -left_s) * 1000),
        )
        if clip.sequence <= self._cut_up_to:
            utterance.end(self._cut_outcome, time.monotonic())
            return ClipSpoken(report=self._line_of(utterance))
        self._playout.queue(utterance)
        came = asyncio.Event()
        pumping = asyncio.create_task(
            _pump(clip, utterance, came), name=f"read {clip.utterance_id}"
        )
        coming = asyncio.create_task(came.wait(), name="something came")
        left_at: ClipCursor | None = None
        try:
            # The mouth is not kept waiting for a clip that has not come.
            first: set[asyncio.Future[Any]] = {coming, utterance.outcome}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            await self._playout.play(utterance)
        finally:
            for task in (pumping, coming):
                task.cancel()
            await asyncio.wait({pumping, coming})
        if not pumping.cancelled():
            pumping.result()  # a bug of ours must not be lost
        await self._rest()
        line = self._line_of(utterance)
        if line.outcome is UtteranceOutcome.LOST and line.failure is None and self._moving():
            left_at = self._cursor(utterance, utterance.left_unplayed_s)
        return ClipSpoken(report=line, cut_in_band_at=utterance.cut_in_band_at, left_at=left_at)


async def _pump(clip: ClipJob, utterance: Utterance, came: asyncio.Event) -> None:
    """Bring a clip's speech, no further ahead than need be."""
    skip_bytes = clip.offset_bytes
    try:
        async with clip.open() as opened:
            utterance.full_duration_s = opened.duration_s
            while not utterance.over and (pcm := await opened.read()):
                pcm, skip_bytes = pcm[skip_bytes:], max(0, skip_bytes - len(pcm))
                if not pcm:
                    continue
                utterance.write(pcm, time.monotonic())
                came.set()
                await utterance.wait_for_room(CLIP_AHEAD_BYTES)
            utterance.finish()
    except ClipError as error:
        said = utterance.received_bytes > 0
        outcome = UtteranceOutcome.LOST if said else UtteranceOutcome.REJECTED
        failure = Failure(type=error.type, message=str(error))
        utterance.end(outcome, time.monotonic(), failure)
    finally:
        came.set()
