"""What a speaker hears of its session: small events, and the queues that readers take them from.

A reader that falls behind loses the oldest and can tell how many: it never slows speech down.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final, Literal, Self, TypeAlias
from weakref import WeakSet

from avatar_sessions.contract.messages import UtteranceReport

MAX_UNREAD_EVENTS: Final = 256

SpeechState: TypeAlias = Literal["live", "recovering"]
"""``live``: speech goes on to LiveAvatar. ``recovering``: it is held until it can again."""


@dataclass(frozen=True, slots=True)
class SpeechStateChanged:
    """Speech reaches LiveAvatar again, or does not for now."""

    state: SpeechState


@dataclass(frozen=True, slots=True)
class SessionMoved:
    """Another owner, or another LiveAvatar session, serves from here on."""

    epoch: tuple[int, int]
    generation: int


@dataclass(frozen=True, slots=True)
class AvatarTalking:
    """The avatar began to talk."""

    utterance_id: str | None
    """The earliest of ours that is not over; None: somebody else's speech."""


@dataclass(frozen=True, slots=True)
class AvatarListening:
    """The avatar took the attentive pose."""


@dataclass(frozen=True, slots=True)
class AvatarIdle:
    """The avatar fell silent, or left the attentive pose."""


@dataclass(frozen=True, slots=True)
class SpeechInterrupted:
    """An interrupt, ours or another's, is on the wire to LiveAvatar."""

    utterance_id: str | None
    """What was being said, if anything was."""
    heard_ms: int
    """How much of it had been heard by then."""


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """One of our utterances is over, however it ended."""

    utterance: UtteranceReport


LiveEvent: TypeAlias = (
    SpeechStateChanged
    | SessionMoved
    | AvatarTalking
    | AvatarListening
    | AvatarIdle
    | SpeechInterrupted
    | SpeechEnded
)


class LiveEvents:
    """One reader's queue: ``async for event in live.events()``. Ends with the live speech.

    Attributes:
        dropped: events that this reader lost by falling behind.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._unread: deque[LiveEvent] = deque()
        self._is_closed = False
        self._news = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LiveEvent:
        while not self._unread:
            if self._is_closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._unread.popleft()

    def put(self, event: LiveEvent) -> None:
        """Add an event, in place of the oldest where the queue is full."""
        if len(self._unread) >= MAX_UNREAD_EVENTS:
            self._unread.popleft()
            self.dropped += 1
        self._unread.append(event)
        self._news.set()

    def close(self) -> None:
        """There will be no more."""
        self._is_closed = True
        self._news.set()


class EventFeed:
    """All readers of one live speech. A reader that nobody holds any more is forgotten."""

    def __init__(self) -> None:
        self._readers: WeakSet[LiveEvents] = WeakSet()
        self._is_closed = False

    def reader(self) -> LiveEvents:
        """A new reader: it hears everything from now on."""
        reader = LiveEvents()
        if self._is_closed:
            reader.close()
        self._readers.add(reader)
        return reader

    def tell(self, event: LiveEvent) -> None:
        """Give an event to every reader."""
        for reader in tuple(self._readers):
            reader.put(event)

    def close(self) -> None:
        """End every reader, after what it has not read yet."""
        self._is_closed = True
        for reader in tuple(self._readers):
            reader.close()
