"""Events of live speech, and the queues that readers take them from.

A reader that falls behind loses the oldest events and counts them; it never slows speech down.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final, Literal, Self, TypeAlias
from weakref import WeakSet

from avatar_sessions.contract.reports import UtteranceReport

MAX_UNREAD_EVENTS: Final = 256

SpeechState: TypeAlias = Literal["live", "recovering"]
"""``live``: speech reaches LiveAvatar. ``recovering``: it is held until it can again."""


@dataclass(frozen=True, slots=True)
class SpeechStateChanged:
    """Speech reaches LiveAvatar again, or does not for now."""

    state: SpeechState


@dataclass(frozen=True, slots=True)
class SessionMoved:
    """Another owner, or another LiveAvatar session, serves from now on."""

    epoch: tuple[int, int]
    generation: int


@dataclass(frozen=True, slots=True)
class AvatarTalking:
    """The avatar began to talk."""

    utterance_id: str | None
    """This speaker's earliest utterance that is not over; None: other speech, such as a clip."""


@dataclass(frozen=True, slots=True)
class AvatarListening:
    """The avatar took the attentive pose."""


@dataclass(frozen=True, slots=True)
class AvatarIdle:
    """The avatar fell silent, or left the attentive pose."""


@dataclass(frozen=True, slots=True)
class SpeechInterrupted:
    """An interrupt, this speaker's or another's, is on the wire to LiveAvatar."""

    utterance_id: str | None
    """The utterance that was playing; None if none was."""
    heard_ms: int
    """How much of it had been heard by then."""


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """One of this speaker's utterances is over, however it ended."""

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
        self._changed = asyncio.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LiveEvent:
        while not self._unread:
            if self._is_closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._unread.popleft()

    def put(self, event: LiveEvent) -> None:
        """Add an event, in place of the oldest where the queue is full."""
        if len(self._unread) >= MAX_UNREAD_EVENTS:
            self._unread.popleft()
            self.dropped += 1
        self._unread.append(event)
        self._changed.set()

    def close(self) -> None:
        """There will be no more."""
        self._is_closed = True
        self._changed.set()


class EventFeed:
    """All readers of one live speech. A reader without references is forgotten."""

    def __init__(self) -> None:
        self._readers: WeakSet[LiveEvents] = WeakSet()
        self._is_closed = False

    def reader(self) -> LiveEvents:
        """A new reader of all events from now on."""
        reader = LiveEvents()
        if self._is_closed:
            reader.close()
        self._readers.add(reader)
        return reader

    def publish(self, event: LiveEvent) -> None:
        """Give an event to every reader."""
        for reader in tuple(self._readers):
            reader.put(event)

    def close(self) -> None:
        """End every reader, after the events it has not read yet."""
        self._is_closed = True
        for reader in tuple(self._readers):
            reader.close()
