"""Live speech for threads: the same calls, which block where the asynchronous ones are awaited.

The work is done on the event loop that opened the live speech; these calls are made in any other
thread. No decision is made here.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, wait
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self, TypeVar

from avatar_sessions.contract.reports import UtteranceReport
from avatar_sessions.contract.states import Pose
from avatar_sessions.errors import LiveSpeechClosed, LiveSpeechMisused
from avatar_sessions.live.events import SpeechInterrupted
from avatar_sessions.live.utterance import LiveUtterance
from liveavatar_lite.pcm import PcmInput

LOOP_CHECK_EVERY_S: Final = 1.0
"""How often a waiting thread checks that the event loop still exists."""

T = TypeVar("T")


class AsyncSpeech(Protocol):
    """The asynchronous live speech behind the blocking one: `LiveSpeech`."""

    def utterance(
        self,
        text: str | None = None,
        *,
        utterance_id: str | None = None,
        sample_rate_hz: int | None = None,
        channels: int | None = None,
    ) -> LiveUtterance:
        """See `LiveSpeech.utterance`."""
        ...

    async def interrupt(self, *, timeout_s: float) -> SpeechInterrupted:
        """See `LiveSpeech.interrupt`."""
        ...

    async def set_pose(
        self, pose: Pose | Literal["listening", "idle"], *, timeout_s: float
    ) -> None:
        """See `LiveSpeech.set_pose`."""
        ...

    async def keep_alive(self, *, timeout_s: float) -> None:
        """See `LiveSpeech.keep_alive`."""
        ...


class BlockingLiveSpeech:
    """Live speech from threads. Made by `LiveSpeech.blocking`; ends with its block.

    Calls raise what the asynchronous ones raise, and `LiveSpeechMisused` in the event loop's own
    thread, where they would wait for themselves.
    """

    def __init__(self, live: AsyncSpeech, loop: asyncio.AbstractEventLoop) -> None:
        """Not for use: see `LiveSpeech.blocking`."""
        self._live = live
        self._loop = loop

    def utterance(
        self,
        text: str | None = None,
        *,
        utterance_id: str | None = None,
        sample_rate_hz: int | None = None,
        channels: int | None = None,
    ) -> BlockingUtterance:
        """An utterance; see `LiveSpeech.utterance`."""

        async def make() -> LiveUtterance:
            return self._live.utterance(
                text,
                utterance_id=utterance_id,
                sample_rate_hz=sample_rate_hz,
                channels=channels,
            )

        return BlockingUtterance(self, self._call(make))

    def interrupt(self, *, timeout_s: float = 10.0) -> SpeechInterrupted:
        """Cut all speech; see `LiveSpeech.interrupt`."""
        return self._call(lambda: self._live.interrupt(timeout_s=timeout_s))

    def set_pose(
        self, pose: Pose | Literal["listening", "idle"], *, timeout_s: float = 10.0
    ) -> None:
        """Set the pose; see `LiveSpeech.set_pose`."""
        self._call(lambda: self._live.set_pose(pose, timeout_s=timeout_s))

    def keep_alive(self, *, timeout_s: float = 10.0) -> None:
        """Restart the idle clocks; see `LiveSpeech.keep_alive`."""
        self._call(lambda: self._live.keep_alive(timeout_s=timeout_s))

    def _call(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is self._loop:
            raise LiveSpeechMisused(
                "a blocking call in the event loop's own thread would wait for itself: await"
                " the live speech's own methods there"
            )
        asked = ask()
        try:
            future = asyncio.run_coroutine_threadsafe(asked, self._loop)
        except RuntimeError:  # the loop is closed
            asked.close()
            raise LiveSpeechClosed("the event loop that opened live speech is closed") from None
        try:
            while True:
                done, _ = wait({future}, timeout=LOOP_CHECK_EVERY_S)
                if done:
                    return future.result()
                # asyncio neither runs nor cancels a call that arrives while the loop closes.
                if self._loop.is_closed():
                    if inspect.getcoroutinestate(asked) == inspect.CORO_CREATED:
                        asked.close()
                    raise LiveSpeechClosed("the event loop that opened live speech is closed")
        except CancelledError:
            raise LiveSpeechClosed("the event loop that opened live speech ends") from None
        finally:
            future.cancel()  # after a KeyboardInterrupt here; otherwise it is done


class BlockingUtterance:
    """One utterance from a thread: a context manager; see `LiveUtterance`."""

    def __init__(self, live: BlockingLiveSpeech, utterance: LiveUtterance) -> None:
        """Not for use: see `BlockingLiveSpeech.utterance`."""
        self._live = live
        self._utterance = utterance

    @property
    def id(self) -> str:
        """Its id, also in the session's report."""
        return self._utterance.id

    def __enter__(self) -> Self:
        thread = threading.current_thread()
        self._live._call(lambda: self._utterance._enter(thread))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return self._live._call(lambda: self._utterance.__aexit__(kind, error, traceback))

    def write(self, pcm: PcmInput) -> None:
        """Say this next; see `LiveUtterance.write`."""
        self._live._call(lambda: self._utterance.write(pcm))

    def result(self) -> UtteranceReport:
        """Wait until it is over; see `LiveUtterance.result`."""
        thread = threading.current_thread()
        return self._live._call(lambda: self._utterance._result(thread))
