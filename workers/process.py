"""Runs a worker process: connect, work, drain on a signal, exit within the drain timeout."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, NoReturn

from opentelemetry.metrics import Meter
from temporalio.client import Client, Interceptor
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.envconfig import ClientConfig
from temporalio.service import RPCError

from workers.errors import CannotStart
from workers.janitor_schedule import maintained_schedule
from workers.search_attributes import ensure_search_attributes
from workers.settings import WorkerSettings
from workers.telemetry import metering, tracing
from workers.wiring import Role, WorkerSet, liveavatar_for, worker_set_for

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 30.0
EXIT_PAUSE_S: Final = 0.5
"""The pause between the last worker's shutdown and the interpreter's exit. Without it, 3 of 12
processes crashed in the SDK's native threads after all work was done (measured)."""

EXIT_MARGIN_S: Final = 0.3
"""Added to the drain timeout, so that a drain which hangs ends the process itself."""


async def run(role: Role, settings: WorkerSettings) -> None:
    """Work until SIGTERM or SIGINT. A second signal exits immediately; sessions are taken over.

    After the first signal the process exits within the drain timeout, whatever hangs: also while
    it connects, or when a collector of traces does not answer.

    Raises:
        CannotStart: Temporal cannot be reached, or lacks what sessions need.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.is_set():
            _exit_hard("second signal: exiting now, other workers take the sessions over")
        stop.set()
        _exit_hard_after(settings.drain_timeout_s)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    loop.add_signal_handler(signal.SIGUSR1, _log_tasks)
    endpoint = settings.otlp_endpoint
    with tracing(endpoint) as interceptors, metering(endpoint) as meter:
        client = await _connected(interceptors, stop)
        if client is not None:
            await _work(role, client, settings, meter, stop)


async def _connected(interceptors: Sequence[Interceptor], stop: asyncio.Event) -> Client | None:
    """Connect, and prepare the namespace. None: the process was stopped before that.

    Raises:
        CannotStart: Temporal cannot be reached, or lacks what sessions need.
    """
    connecting = asyncio.create_task(_connect_and_prepare(interceptors), name="connect")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    both: set[asyncio.Future[Any]] = {connecting, stopping}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        return connecting.result() if connecting.done() else None
    finally:
        for task in both:
            task.cancel()
        await asyncio.wait(both)


async def _connect_and_prepare(interceptors: Sequence[Interceptor]) -> Client:
    client = await connect(interceptors)
    await ensure_search_attributes(client)
    return client


def _log_tasks() -> None:
    """Log how many tasks of each name this process runs."""
    counts = Counter(task.get_name().rstrip("-0123456789") for task in asyncio.all_tasks())
    text = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    logger.info("tasks %d: %s", counts.total(), text)


async def _work(
    role: Role, client: Client, settings: WorkerSettings, meter: Meter, stop: asyncio.Event
) -> None:
    schedule = (
        maintained_schedule(client, settings.janitor_interval_s)
        if role.sweeps
        else contextlib.nullcontext()
    )
    async with (
        liveavatar_for(settings) as liveavatar,
        running_worker_set(
            worker_set_for(role, client, settings, liveavatar, meter), settings.drain_timeout_s
        ) as failed,
        schedule,
    ):
        logger.info("ready: role %s, pid %d", role, os.getpid())
        print(f"worker ready: role {role}", flush=True)
        stopping = asyncio.create_task(stop.wait(), name="stop")
        first: set[asyncio.Future[Any]] = {stopping, failed}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if failed.done():
            failed.result()
        logger.info("draining: sessions are handed over to other workers")


@contextlib.asynccontextmanager
async def running_worker_set(
    worker_set: WorkerSet, drain_timeout_s: float
) -> AsyncIterator[asyncio.Future[None]]:
    """Run the workers of a process; yields a future that fails when one of its workers does.

    The worker of streams is shut down first, so that its sessions are handed over while workflows
    still answer.

    Raises:
        CannotStart: the ingress cannot listen.
    """
    async with contextlib.AsyncExitStack() as stack:
        if worker_set.ingress is not None:
            try:
                await stack.enter_async_context(worker_set.ingress.listening())
            except OSError as error:
                raise CannotStart(
                    f"the ingress cannot listen for live speech ({error.strerror or error}): check"
                    " AVATAR_SESSIONS_INGRESS_HOST, _PORT, _URL, _CERTIFICATE and _PRIVATE_KEY"
                ) from error
        yield await stack.enter_async_context(_started(worker_set, drain_timeout_s))


@contextlib.asynccontextmanager
async def _started(
    worker_set: WorkerSet, drain_timeout_s: float
) -> AsyncIterator[asyncio.Future[None]]:
    running = [
        asyncio.create_task(worker.run(), name=f"worker {worker.task_queue}")
        for worker in worker_set.workers
    ]
    failed = asyncio.ensure_future(_first_failure(running))
    try:
        yield failed
    finally:
        failed.cancel()
        await _drain(worker_set, running, drain_timeout_s)


async def _drain(
    worker_set: WorkerSet, running: list[asyncio.Task[None]], drain_timeout_s: float
) -> None:
    """Hand the sessions over and stop the workers; exit the process if something hangs.

    A worker's own shutdown waits for its activities without a limit.
    """
    for worker, task in zip(worker_set.workers, running, strict=True):
        if not worker.is_running:
            task.cancel()  # still starting: a shutdown would not reach it
    try:
        async with asyncio.timeout(max(1.0, drain_timeout_s - EXIT_PAUSE_S)):
            streams, others = worker_set.workers[:1], worker_set.workers[1:]
            for group in (streams, others):
                # Streams first: their sessions are handed over while workflows still answer.
                await asyncio.gather(*(one.shutdown() for one in group if one.is_running))
            if worker_set.streaming is not None:
                await worker_set.streaming.close()
            if running:
                await asyncio.wait(running)
    except TimeoutError:
        _exit_hard(f"the workers do not stop within {drain_timeout_s:g} s: exiting")
    if running:
        await asyncio.sleep(EXIT_PAUSE_S)


async def _first_failure(running: list[asyncio.Task[None]]) -> None:
    if not running:
        await asyncio.Event().wait()
    done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def _exit_hard_after(drain_timeout_s: float) -> None:
    """Exit this process after the drain timeout, even if its event loop hangs."""
    within_s = max(drain_timeout_s, 1.0 + EXIT_PAUSE_S) + EXIT_MARGIN_S
    why = f"still running {within_s:g} s after the signal: exiting"
    timer = threading.Timer(within_s, _exit_hard, (why,))
    timer.daemon = True
    timer.start()


def _exit_hard(why: str) -> NoReturn:
    logger.error(why)
    logging.shutdown()
    sys.stdout.flush()
    os._exit(1)


async def connect(interceptors: Sequence[Interceptor] = ()) -> Client:
    """Connect as temporalio's standard environment configuration says.

    Raises:
        CannotStart: the server does not answer.
    """
    config = ClientConfig.load_client_connect_config()
    address = config.get("target_host") or "localhost:7233"
    config["target_host"] = address
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return await Client.connect(
                **config, data_converter=pydantic_data_converter, interceptors=interceptors
            )
    except (RuntimeError, TimeoutError, RPCError) as error:
        reason = str(error).split("\n", 1)[0][:200] or type(error).__name__
        raise CannotStart(
            f"Temporal at {address} cannot be reached ({reason}): start it, or set"
            " TEMPORAL_ADDRESS; `make demo` starts one"
        ) from error
