"""What an owner tells its workflow: signals in order, and the ledger's lines in batches."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from datetime import timedelta
from typing import Any, Final

from pydantic import BaseModel
from temporalio.client import WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from avatar_sessions.contract import names
from avatar_sessions.contract.activities import Epoch, UtteranceLines
from avatar_sessions.contract.messages import UtteranceReport
from avatar_sessions.contract.states import Pose

logger = logging.getLogger(__name__)

SIGNAL_TIMEOUT_S: Final = 5.0
LINES_EVERY_S: Final = 5.0
"""At most one signal with the ledger's lines in so long: a signal costs four events of history."""
LINES_IN_A_SIGNAL: Final = 100
MAX_LINES: Final = 1000
"""Lines that could not be told yet; then the oldest goes."""


class SignalQueue:
    """What an owner tells its workflow, in order, without ever waiting for it itself."""

    def __init__(self, session_key: str, epoch: Epoch, workflow: WorkflowHandle[Any, Any]) -> None:
        self.epoch = epoch
        """Who tells: the attempt that serves the session now."""
        self._session_key = session_key
        self._workflow = workflow
        self._pending: asyncio.Queue[tuple[str, BaseModel]] = asyncio.Queue(maxsize=100)
        self._lines: deque[tuple[UtteranceReport, bool]] = deque(maxlen=MAX_LINES)
        self._lines_told_s = -LINES_EVERY_S
        self._lines_came = asyncio.Event()
        self._hurry = asyncio.Event()
        self._pose: Pose | None = None
        self._telling = 0  # signals taken out of the queue and not sent yet

    def put(self, signal: str, message: BaseModel) -> None:
        """Queue a signal. A hundred that could not be told are a dead server: the oldest goes."""
        if self._pending.full():
            self._pending.get_nowait()
        self._pending.put_nowait((signal, message))

    def put_line(self, line: UtteranceReport, may_go_on: bool = False) -> None:
        """Queue a line of the ledger, perhaps of one that the next owner may go on with."""
        self._lines.append((line, may_go_on))
        self._lines_came.set()

    def put_pose(self, pose: Pose) -> None:
        """Note what a speaker asked for in band: told with the next lines."""
        self._pose = pose

    async def flush(self, timeout_s: float) -> None:
        """Send what is queued now, lines too, as far as that goes in the time."""
        self._hurry.set()
        give_up_s = time.monotonic() + timeout_s
        while self._lines or self._telling or not self._pending.empty():
            if time.monotonic() > give_up_s:
                logger.warning("not all news of %s could be told", self._session_key)
                return
            await asyncio.sleep(0.005)

    async def batch(self) -> None:
        """Make signals of the ledger's lines, at most one every few seconds."""
        while True:
            await self._lines_came.wait()
            pause_s = self._lines_told_s + LINES_EVERY_S - time.monotonic()
            if pause_s > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), pause_s)
            while self._lines:
                count = min(len(self._lines), LINES_IN_A_SIGNAL)
                lines = [self._lines.popleft() for _ in range(count)]
                message = UtteranceLines(
                    epoch=self.epoch,
                    utterances=[line for line, may_go_on in lines if not may_go_on],
                    unfinished=[line for line, may_go_on in lines if may_go_on],
                    pose=self._pose,
                )
                self.put(names.SIGNAL_UTTERANCES, message)
            self._pose = None
            self._lines_told_s = time.monotonic()
            self._lines_came.clear()

    async def tell(self) -> None:
        """Send what is queued, each until the server has it: an outage may take minutes."""
        while True:
            news = await self._pending.get()
            self._telling += 1
            try:
                await self._send(*news)
            finally:
                self._telling -= 1

    async def _send(self, signal: str, message: BaseModel) -> None:
        tries = 0
        while True:
            try:
                # The client retries inside: the timeout of one RPC does not bound the whole.
                async with asyncio.timeout(SIGNAL_TIMEOUT_S * 2):
                    await self._workflow.signal(
                        signal, message, rpc_timeout=timedelta(seconds=SIGNAL_TIMEOUT_S)
                    )
            except (RPCError, TimeoutError) as error:
                if isinstance(error, RPCError) and error.status is RPCStatusCode.NOT_FOUND:
                    return  # the workflow is closed: the next heartbeat tells
                logger.warning(
                    "signal %s of %s failed, try %d: %s",
                    signal,
                    self._session_key,
                    tries + 1,
                    type(error).__name__,
                )
                await asyncio.sleep(min(2.0, 0.2 * 2**tries))
                tries = min(tries + 1, 10)
            else:
                return
