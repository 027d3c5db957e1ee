"""Live speech for threads: the same calls, waiting where the asynchronous ones are awaited.

The work is done on the event loop that opened the live speech; these calls are made in any other
thread. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, wait
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

from avatar_sessions.contract.messages import UtteranceReport
from avatar_sessions.contract.states import Pose
from avatar_sessions.errors import LiveSpeechClosed, LiveSpeechMisused
from avatar_sessions.live.events import SpeechInterrupted

if TYPE_CHECKING:
    from avatar_sessions.live.speech import LiveSpeech, LiveUtterance
    from liveavatar_lite.pcm import PcmInput

LOOK_AGAIN_S: Final = 1.0
"""How often a waiting thread makes sure that there still is an event loop."""

T = TypeVar("T")


class BlockingLiveSpeech:
    """Live speech from threads. Made by `LiveSpeech.blocking`; ends with its block.

    Calls raise what the asynchronous ones raise, and `LiveSpeechMisused` where they are made in the
    event loop's own thread, for there they could only wait for themselves.
    """

    def __init__(self, live: LiveSpeech, loop: asyncio.AbstractEventLoop) -> None:
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
        """Fall silent now; see `LiveSpeech.interrupt`."""
        return self._call(lambda: self._live.interrupt(timeout_s=timeout_s))

    def set_pose(
        self, pose: Pose | Literal["listening", "idle"], *, timeout_s: float = 10.0
    ) -> None:
        """Look attentive, or idle; see `LiveSpeech.set_pose`."""
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
                done, _ = wait({future}, timeout=LOOK_AGAIN_S)
                if done:
                    return future.result()
                # A call that arrives while the loop closes is neither done nor cancelled by it.
                if self._loop.is_closed():
                    if inspect.getcoroutinestate(asked) == inspect.CORO_CREATED:
                        asked.close()
                    raise LiveSpeechClosed("the event loop that opened live speech is closed")
        except CancelledError:
            raise LiveSpeechClosed("the event loop that opened live speech ends") from None
        finally:
            future.cancel()  # after a KeyboardInterrupt here; else it is done


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
