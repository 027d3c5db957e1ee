"""Signals from an owner to its workflow: in order, retried, with utterance reports in batches."""

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
from avatar_sessions.contract.reports import UtteranceReport
from avatar_sessions.contract.states import Pose

logger = logging.getLogger(__name__)

SIGNAL_TIMEOUT_S: Final = 5.0
REPORTS_EVERY_S: Final = 5.0
"""At most one signal with reports in so long: a signal costs four events of history."""
REPORTS_IN_A_SIGNAL: Final = 100
MAX_REPORTS: Final = 1000
"""Reports that could not be sent yet; then the oldest is dropped."""
MAX_SIGNALS: Final = 100
"""Signals that could not be sent yet: the server is away. Then the oldest is dropped."""


class SignalQueue:
    """An owner's signals to its workflow, sent in order; no caller waits for the server."""

    def __init__(self, session_key: str, epoch: Epoch, workflow: WorkflowHandle[Any, Any]) -> None:
        self.epoch = epoch
        """The sender: the attempt that serves the session now."""
        self._session_key = session_key
        self._workflow = workflow
        self._pending: asyncio.Queue[tuple[str, BaseModel]] = asyncio.Queue(maxsize=MAX_SIGNALS)
        self._reports: deque[tuple[UtteranceReport, bool]] = deque(maxlen=MAX_REPORTS)
        self._reports_sent_s = -REPORTS_EVERY_S
        self._has_reports = asyncio.Event()
        self._flushing = asyncio.Event()
        self._pose: Pose | None = None
        self._in_flight = 0  # signals taken out of the queue and not sent yet

    def send(self, signal: str, message: BaseModel) -> None:
        """Queue a signal."""
        if self._pending.full():
            self._pending.get_nowait()
        self._pending.put_nowait((signal, message))

    def send_report(self, report: UtteranceReport, *, may_continue: bool = False) -> None:
        """Queue an utterance's report, perhaps of one that continues at the next owner."""
        self._reports.append((report, may_continue))
        self._has_reports.set()

    def send_pose(self, pose: Pose) -> None:
        """Note a pose that a speaker requested in band: it is sent with the next reports."""
        self._pose = pose

    async def flush(self, timeout_s: float) -> None:
        """Send what is queued now, reports too, as far as that goes in the time."""
        self._flushing.set()
        give_up_s = time.monotonic() + timeout_s
        while self._reports or self._in_flight or not self._pending.empty():
            if time.monotonic() > give_up_s:
                logger.warning("not all signals of %s could be sent", self._session_key)
                return
            await asyncio.sleep(0.005)

    async def batch_reports(self) -> None:
        """Make signals of the queued reports, at most one every few seconds; never returns."""
        while True:
            await self._has_reports.wait()
            pause_s = self._reports_sent_s + REPORTS_EVERY_S - time.monotonic()
            if pause_s > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._flushing.wait(), pause_s)
            while self._reports:
                count = min(len(self._reports), REPORTS_IN_A_SIGNAL)
                batch = [self._reports.popleft() for _ in range(count)]
                message = UtteranceLines(
                    epoch=self.epoch,
                    utterances=[report for report, may_continue in batch if not may_continue],
                    unfinished=[report for report, may_continue in batch if may_continue],
                    pose=self._pose,
                )
                self.send(names.SIGNAL_UTTERANCES, message)
            self._pose = None
            self._reports_sent_s = time.monotonic()
            self._has_reports.clear()

    async def deliver(self) -> None:
        """Send what is queued, each until the server has it: an outage may take minutes. Never
        returns."""
        while True:
            signal, message = await self._pending.get()
            self._in_flight += 1
            try:
                await self._deliver(signal, message)
            finally:
                self._in_flight -= 1

    async def _deliver(self, signal: str, message: BaseModel) -> None:
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
                    return  # the workflow is closed: the next heartbeat's answer says so
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
