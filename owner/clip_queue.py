"""Clips of one owned session: each is played once, however often it is requested.

An activity requests a clip, and may request it again when the server lost sight of the activity:
it finds the clip that is playing, or its report. A clip that an earlier owner had begun goes on
from that owner's position.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from avatar_sessions.contract.activities import ClipCursor, ClipSpoken
from avatar_sessions.contract.reports import Failure
from avatar_sessions.contract.states import UtteranceOutcome
from liveavatar_lite import CHUNK_S
from owner.clips.errors import ClipError
from owner.observer import SpeechSession
from owner.playback_position import USUAL_START_LATENCY_S, EarlierPart
from owner.playout_queue import Playout
from owner.utterance_chunks import Utterance

CLIP_AHEAD_BYTES: Final = 96_000
"""How much of a clip is decoded ahead of what was sent: two seconds."""
MAX_FINISHED: Final = 32
"""Finished clips whose result is kept for an activity that asks again."""


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
    """A clip to play."""

    utterance_id: str
    sequence: int
    """Position among the session's clips, from 1."""
    open: OpenClip
    offset_bytes: int = 0
    """What an earlier owner has sent of it; even."""
    played_out_at: datetime | None = None
    """With an offset: when the avatar has played all of that. None: another LiveAvatar session had
    it, and this one knows nothing of it."""


class ClipQueue:
    """The clips of one session."""

    def __init__(self, playout: Playout, session: SpeechSession, *, max_lead_s: float) -> None:
        self._playout = playout
        self._session = session
        self._max_lead_s = max_lead_s
        self._running: dict[str, asyncio.Task[ClipSpoken]] = {}
        self._finished: OrderedDict[str, ClipSpoken] = OrderedDict()
        self._watchers: dict[str, Progress] = {}
        self._discard_up_to = 0
        self._discard_outcome = UtteranceOutcome.INTERRUPTED

    def knows(self, utterance_id: str) -> bool:
        """Whether the clip is playing here, or was played."""
        return utterance_id in self._running or utterance_id in self._finished

    async def play(self, clip: ClipJob, progress: Progress | None = None) -> ClipSpoken:
        """Play a clip, or join one that is playing; returns when it is over.

        Args:
            clip: what to play.
            progress: called with the position whenever a chunk was sent to LiveAvatar.
        """
        name = clip.utterance_id
        if name in self._finished:
            return self._finished[name]
        task = self._running.get(name)
        if task is None:
            task = asyncio.create_task(self._play(clip), name=f"play {name}")
            self._running[name] = task
            task.add_done_callback(lambda done: self._keep(name, done))
        if progress is not None:
            self._watchers[name] = progress
        try:
            # The caller may be cancelled; the clip is played to its end.
            await asyncio.wait({task})
        finally:
            if self._watchers.get(name) is progress:
                self._watchers.pop(name, None)
        return task.result()

    def discard(self, up_to_sequence: int, outcome: UtteranceOutcome) -> None:
        """Do not begin clips up to that number, which may arrive after their interrupt."""
        self._discard_up_to = max(self._discard_up_to, up_to_sequence)
        self._discard_outcome = outcome

    def on_progress(self, utterance: Utterance) -> None:
        """A chunk of a clip was sent to LiveAvatar."""
        progress = self._watchers.get(utterance.id)
        if progress is not None:
            now_s = time.monotonic()
            progress(self._cursor(utterance, now_s, utterance.unplayed_s(now_s)))

    async def close(self) -> None:
        """Wait for the results of what was playing; the playout is closed already. Bounded."""
        if self._running:
            _, late = await asyncio.wait(self._running.values(), timeout=2)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=2)

    def _keep(self, name: str, done: asyncio.Task[ClipSpoken]) -> None:
        self._running.pop(name, None)
        if done.cancelled() or done.exception() is not None:
            return  # `play` raises it
        self._finished[name] = done.result()
        while len(self._finished) > MAX_FINISHED:
            self._finished.popitem(last=False)

    def _cursor(self, utterance: Utterance, now_s: float, unplayed_s: float) -> ClipCursor:
        return ClipCursor(
            generation=self._session.generation,
            sent_bytes=utterance.sent_bytes,
            heard_bytes=utterance.played_bytes(now_s),
            dry_at=datetime.now(UTC) + timedelta(seconds=unplayed_s),
        )

    def _new(self, clip: ClipJob) -> Utterance:
        left_s = 0.0  # what of an earlier owner's part is still to be played; below 0: silence
        if clip.played_out_at is not None:
            left_s = (clip.played_out_at - datetime.now(UTC)).total_seconds()
            # By another machine's clock: no owner sends further ahead than this.
            left_s = min(left_s, max(self._max_lead_s, CHUNK_S) + USUAL_START_LATENCY_S)
        return Utterance(
            clip.utterance_id,
            now_s=time.monotonic(),
            sequence=clip.sequence,
            max_lead_s=self._max_lead_s,
            earlier=EarlierPart(
                sent_bytes=clip.offset_bytes,
                unplayed_s=max(0.0, left_s),
                silent_ms=round(max(0.0, -left_s) * 1000),
                same_provider_session=clip.played_out_at is not None,
            ),
        )

    async def _play(self, clip: ClipJob) -> ClipSpoken:
        utterance = self._new(clip)
        if clip.sequence <= self._discard_up_to:
            utterance.end(self._discard_outcome, time.monotonic())
            return ClipSpoken(report=self._session.report_of(utterance))
        self._playout.queue(utterance)
        has_audio = asyncio.Event()
        reading = asyncio.create_task(
            _read(clip, utterance, has_audio), name=f"read {clip.utterance_id}"
        )
        arriving = asyncio.create_task(has_audio.wait(), name="first audio")
        try:
            # A clip takes no turn before its first audio is there.
            first: set[asyncio.Future[Any]] = {arriving, utterance.outcome}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            await self._playout.play(utterance)
        finally:
            for task in (reading, arriving):
                task.cancel()
            await asyncio.wait({reading, arriving})
        if not reading.cancelled():
            reading.result()  # raises what is a bug
        await self._session.after_speech()
        report = self._session.report_of(utterance)
        lost = report.outcome is UtteranceOutcome.LOST and report.failure is None
        left_at = None
        if lost and self._session.handing_over:
            left_at = self._cursor(utterance, time.monotonic(), utterance.playback.left_unplayed_s)
        return ClipSpoken(report=report, cut_in_band_at=utterance.cut_in_band_at, left_at=left_at)


async def _read(clip: ClipJob, utterance: Utterance, has_audio: asyncio.Event) -> None:
    """Write a clip's speech to its utterance, at most `CLIP_AHEAD_BYTES` ahead of sending."""
    skip_bytes = clip.offset_bytes
    try:
        async with clip.open() as opened:
            utterance.full_duration_s = opened.duration_s
            while not utterance.over and (pcm := await opened.read()):
                pcm, skip_bytes = pcm[skip_bytes:], max(0, skip_bytes - len(pcm))
                if not pcm:
                    continue
                utterance.write(pcm, time.monotonic())
                has_audio.set()
                await utterance.wait_for_room(CLIP_AHEAD_BYTES)
            utterance.finish()
    except ClipError as error:
        began = utterance.received_bytes > 0
        outcome = UtteranceOutcome.LOST if began else UtteranceOutcome.REJECTED
        failure = Failure(type=error.type, message=str(error))
        utterance.end(outcome, time.monotonic(), failure)
    finally:
        has_audio.set()
