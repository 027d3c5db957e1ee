"""Starts the servers, runs the faults, collects the results, and ends every process it started.

A failed check is printed with its session and the folders of the logs and saved histories.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from temporalio.service import RPCError

from avatar_sessions import AvatarSessionsError
from avatar_sessions.seal import Seal
from chaos import invariants
from chaos.cpu_gate import CpuGate
from chaos.environment.environment import (
    API_KEY,
    Environment,
    EnvironmentKind,
    Layout,
    SharedServers,
)
from chaos.environment.temporal import RestartableTemporal
from chaos.errors import ConditionTimeout, NotAvailable
from chaos.fault import Fault
from chaos.run import CodedSpeech, FaultRun, Violation
from chaos.schedule import (
    COST,
    EnvironmentKey,
    Job,
    Phase,
    PhaseGate,
    Queues,
    jobs_of,
    phases_of,
    width_for,
)
from chaos.table import FaultRow, Tally
from deploy.local.binaries import Binary, find_livekit, find_temporal
from deploy.local.errors import LocalError, ServerUnavailable
from deploy.local.livekit import start_livekit
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.processes import Supervisor
from deploy.local.secret_scan import find_secrets, leaks_in_histories, remember
from deploy.local.settings import ROOT, LocalSettings

logger = logging.getLogger(__name__)

RUN_WITHIN_S: Final = 420.0
"""The longest a run may take; after that it is cancelled and counts as a problem."""
CANCEL_WITHIN_S: Final = 5.0
ENVIRONMENT_LIMIT: Final = 64
"""Limit for one command: an environment that breaks is replaced by a new one."""
LAG_CHECK_S: Final = 0.05
LATE_S: Final = 0.2
MAX_FAILURES_PRINTED: Final = 3
"""Failed runs of a row that are printed immediately; all are in the report."""


def run_folder() -> Path:
    """Where this process keeps the logs of its runs, and the histories of failed ones."""
    return ROOT / ".run" / f"chaos-{os.getpid()}"


class ChaosResult:
    """All runs of the chosen faults, and the rows of the table; rows are available at any time."""

    def __init__(
        self,
        faults: Sequence[Fault],
        layouts: Sequence[Layout],
        rounds: int,
        seed: int,
        folder: Path,
    ) -> None:
        by_name = {fault.name: fault for fault in faults}
        rows = jobs_of(faults, layouts, rounds)
        self._jobs = [job for jobs in rows.values() for job in jobs]
        self._tallies = {(name, layout): Tally(by_name[name], layout) for name, layout in rows}
        self._runner = Runner(folder, seed, self._tallies)
        missing = {fault.name: fault.missing() for fault in faults}
        self.skipped = [f"{name} is skipped: {why}" for name, why in missing.items() if why]
        """Faults that this machine cannot make, and how to get what is missing."""

    async def run(self) -> list[FaultRow]:
        """Run them all.

        Raises:
            LocalError: a server cannot be found or started.
        """
        await self._runner.run(self._jobs)
        return self.rows()

    def rows(self) -> list[FaultRow]:
        """The results so far; a last row has the problems of no single fault, if there are any."""
        rows = [tally.row() for tally in self._tallies.values()]
        problems = self._runner.problems
        return [*rows, _after_all(problems)] if problems else rows


def _after_all(problems: list[Violation]) -> FaultRow:
    return FaultRow(
        fault="after all",
        layout="",
        runs=1,
        samples=0,
        what="secrets, processes and ports left behind",
        bound_ms=None,
        p50_ms=None,
        p99_ms=None,
        worst_ms=None,
        leaked=0,
        sessions=0,
        billed_for_nothing_s=0,
        billed_for_nothing_worst_s=0,
        speech_lost_ms=0,
        speech_repeated_ms=0,
        ok=False,
        problems=[str(one) for one in problems],
    )


class Runner:
    """Runs jobs in phases, each job in an environment of the kind it needs."""

    def __init__(self, folder: Path, seed: int, tallies: dict[tuple[str, Layout], Tally]) -> None:
        self._folder = folder
        self._seed = seed
        self._tallies = tallies
        self._opened = 0
        self._ports: set[int] = set()
        self.problems: list[Violation] = []
        """Problems that belong to no single run."""
        self._shared_servers: SharedServers | None = None
        self._shared_temporal: RestartableTemporal | None = None

    async def run(self, jobs: Sequence[Job]) -> None:
        """Run all jobs."""
        if not jobs:
            return
        phases = phases_of(jobs, width_for(free_memory_bytes()))
        supervisor = Supervisor(self._folder / "logs")
        async with supervisor:
            await self._prepare(supervisor, {job.fault.environment_kind for job in jobs})
            for phase in phases:
                await self._phase(phase)
            assert self._shared_temporal is not None
            await self._check_histories(self._shared_temporal)
        self._check_leftovers(supervisor)

    async def _phase(self, phase: Phase) -> None:
        began_s = time.monotonic()
        queues, gate = Queues(phase.jobs), PhaseGate(phase.width)
        cpu_gate = CpuGate() if phase.waits_for_cpu else None
        watch = asyncio.create_task(_watch_loop_lag(), name="watch loop lag")
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(min(phase.width, len(phase.jobs))):
                    lane = self._lane(queues, gate, cpu_gate)
                    group.create_task(lane, name=f"lane {number}")
        finally:
            watch.cancel()
        took_s = time.monotonic() - began_s
        logger.info("%d jobs, width %d: %.0f s", len(phase.jobs), phase.width, took_s)

    async def _prepare(
        self,
        supervisor: Supervisor,
        kinds: set[EnvironmentKind],
    ) -> None:
        settings = LocalSettings(temporal_address=None, livekit_url=None, livekit_port=free_port())
        source = find_temporal(settings, sys.stderr)
        if not isinstance(source, Binary):
            raise ServerUnavailable(
                "the faults need a Temporal that can be killed: install `temporal`, or Go"
            )
        clips = self._folder / "clips"
        clips.mkdir(parents=True)
        seal_key = Seal.new_key()
        remember(seal_key.get_secret_value(), "a seal key")
        remember(API_KEY.get_secret_value(), "the API key")
        livekit = None
        if EnvironmentKind.ROOMS in kinds:
            found = find_livekit(settings, sys.stderr)
            livekit = await start_livekit(supervisor, found, settings)
            remember(livekit.api_secret, "LiveKit's API secret")
            self._ports.add(settings.livekit_port)
        self._shared_servers = SharedServers(
            supervisor, source, self._folder, seal_key, clips, livekit
        )
        shared = self._folder / "shared"
        shared.mkdir()
        names = [f"w{number}" for number in range(ENVIRONMENT_LIMIT)]
        self._shared_temporal = RestartableTemporal(supervisor, source, shared, names)
        self._ports.add(self._shared_temporal.port)
        await self._shared_temporal.start()

    # --------------------------------------------------------- environments

    async def _lane(self, queues: Queues, gate: PhaseGate, cpu_gate: CpuGate | None) -> None:
        while True:
            with queues.lane() as key:
                if key is None:
                    return
                await self._serve(key, queues, gate, cpu_gate)

    async def _serve(
        self, key: EnvironmentKey, queues: Queues, gate: PhaseGate, cpu_gate: CpuGate | None
    ) -> None:
        """Run jobs with this key until none is left, in one environment unless it breaks."""
        environment: Environment | None = None
        try:
            while job := queues.next_of(key):
                async with gate.inside(COST[job.fault.load]):
                    if cpu_gate is not None:
                        await cpu_gate.wait_for_idle()
                    tally = self._tallies[job.fault.name, job.layout]
                    try:
                        environment = environment or await self._open(job)
                        await environment.prepare()
                        await self._run_job(job, tally, environment)
                    except (LocalError, RPCError, RuntimeError) as error:
                        logger.exception("an environment broke in %s", job.fault.name)
                        self._report(
                            job, tally, [Violation("the environment survives", str(error))]
                        )
                        if environment is not None:
                            await environment.close()
                        environment = None
            if environment is not None and environment.kind is EnvironmentKind.OWN_TEMPORAL:
                await self._check_histories(environment.temporal)
        finally:
            if environment is not None:
                await environment.close()

    async def _open(self, job: Job) -> Environment:
        assert self._shared_servers is not None
        layout, environment_kind = job.environment_key
        own = environment_kind is EnvironmentKind.OWN_TEMPORAL
        if self._opened >= ENVIRONMENT_LIMIT:
            raise ServerUnavailable(
                f"{ENVIRONMENT_LIMIT} environments broke: see {self._folder}/logs"
            )
        environment = Environment(
            self._shared_servers, f"w{self._opened}", layout, environment_kind
        )
        self._opened += 1
        try:
            await environment.open(None if own else self._shared_temporal)
        except BaseException:
            await environment.close()
            raise
        self._ports |= {environment.simulator.media_port, environment.temporal.port}
        return environment

    # ----------------------------------------------------------------- runs

    async def _run_job(self, job: Job, tally: Tally, environment: Environment) -> None:
        began_s = time.monotonic()
        run = FaultRun(environment, job.fault.name, self._seed * 1000 + job.number, job.times)
        run.known_before = {one.session_id for one in await environment.simulator.ledger()}
        lost = await self._inject(run, job)
        figures = await self._check_run(run, job.fault)
        tally.runs += max(1, run.injected)
        tally.measured_ms += run.measured_ms
        tally.figures.append(figures)
        if run.problems:
            await self._save_histories(run)
            self._report(job, tally, run.problems)
        logger.info(
            "%s %s run %d: %.1f s, measured %s ms, %d problems",
            job.fault.name,
            job.layout,
            job.number,
            time.monotonic() - began_s,
            [round(one) for one in run.measured_ms],
            len(run.problems),
        )
        if lost is not None:
            raise lost

    async def _inject(self, run: FaultRun, job: Job) -> LocalError | None:
        """Inject the fault; an error of the run becomes a problem of its row."""
        try:
            async with asyncio.timeout(RUN_WITHIN_S):
                await job.fault.inject(run)
        except NotAvailable as error:
            run.problem("the fault can be made", str(error))
        except (ConditionTimeout, AvatarSessionsError, RPCError, TimeoutError) as error:
            run.problem("expected events happen", f"{type(error).__name__}: {error}")
        except LocalError as error:
            return error
        except Exception as error:
            logger.exception("%s broke", job.fault.name)
            run.problem("the fault can be measured", f"{type(error).__name__}: {error}")
        return None

    async def _check_run(self, run: FaultRun, fault: Fault) -> invariants.Figures:
        """End the run's sessions, check the invariants, and take the measurements."""
        await run.environment.simulator.set_faults()
        speaking = [one.speaking for each in run.subjects.values() for one in each.speeches]
        await run.end_all(
            one.session for one in run.subjects.values() if one.report is None and one.must_report
        )
        for task in speaking:
            task.cancel()
        if speaking:
            await asyncio.wait(speaking, timeout=CANCEL_WITHIN_S)
        await invariants.settle(run, fault.settle_s)
        await invariants.try_check_speech(run)
        figures = await invariants.check(run)
        for subject in run.subjects.values():
            for speech in subject.speeches:
                if speech.played is not None:
                    _log_speech(speech)
                    if speech.measured:
                        run.measure(speech.played.longest_silence_ms)
        for sequence in run.sequences:
            _measure_borders(run, sequence)
        await invariants.no_room_is_left(run, fault.settle_s)
        await invariants.no_resource_leaks(run)
        return figures

    # -------------------------------------------------------------- failures

    async def _save_histories(self, run: FaultRun) -> None:
        folder = self._folder / "histories"
        folder.mkdir(exist_ok=True)
        for key, subject in run.subjects.items():
            handle = run.environment.client.get_workflow_handle(subject.session.workflow_id)
            with contextlib.suppress(RPCError):
                history = await handle.fetch_history()
                (folder / f"{key}.json").write_text(history.to_json() + "\n")

    def _report(self, job: Job, tally: Tally, problems: Sequence[Violation]) -> None:
        tally.failed_runs += 1
        tally.problems += problems
        if tally.failed_runs > MAX_FAILURES_PRINTED:
            return
        about = f"{job.fault.name} ({job.layout}) run {job.number}"
        for problem, count in Counter(problems).items():
            times = f" ({count} times)" if count > 1 else ""
            print(f"FAILED {about}: {problem}{times}", file=sys.stderr)
        print(f"  logs: {self._folder}/logs, histories: {self._folder}/histories", file=sys.stderr)

    async def _check_histories(self, temporal: RestartableTemporal) -> None:
        async for leak in leaks_in_histories(temporal.server("w0")):
            self.problems.append(Violation("no secret leaks", leak))

    def _check_leftovers(self, supervisor: Supervisor) -> None:
        for child in supervisor.children:
            if Path(f"/proc/{child.pid}").exists():
                text = f"{child.spec.name} (pid {child.pid}) still runs"
                self.problems.append(Violation("nothing is left behind", text))
        for port in sorted(self._ports):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((LOOPBACK, port))
                except OSError:
                    text = f"port {port} is still in use"
                    self.problems.append(Violation("nothing is left behind", text))
        for leak in find_secrets(self._folder / "logs"):
            self.problems.append(Violation("no secret leaks", leak))


async def _watch_loop_lag() -> None:
    """Log when this process itself was late: its speakers were late as well."""
    while True:
        before_s = time.monotonic()
        await asyncio.sleep(LAG_CHECK_S)
        late_s = time.monotonic() - before_s - LAG_CHECK_S
        if late_s > LATE_S:
            logger.warning("the runner itself was late by %.0f ms", 1000 * late_s)


def _measure_borders(run: FaultRun, sequence: Sequence[CodedSpeech]) -> None:
    """Measure the pause between utterances that two LiveAvatar sessions played."""
    for before, after in pairwise(sequence):
        if before.played is None or after.played is None:
            continue
        ended_ms, began_ms = before.played.ended_ms, after.played.began_ms
        if ended_ms is None or began_ms is None:
            continue
        pause_ms = began_ms - ended_ms
        logger.info("%s: %.0f ms between two utterances", before.session.key, pause_ms)
        if not before.played_by & after.played_by:
            run.measure(max(0.0, pause_ms))


def free_memory_bytes() -> int:
    """Memory available to new processes without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (kib,) = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(kib)


def _log_speech(speech: CodedSpeech) -> None:
    played = speech.played
    assert played is not None
    outcome = speech.report.outcome if speech.report else speech.error
    logger.info(
        "%s: %s speech %s, heard from %s to %s ms, lost %.0f, repeated %.0f, silences %s",
        speech.session.key,
        speech.source,
        outcome,
        played.began_ms,
        played.ended_ms,
        played.lost_ms,
        played.repeated_ms,
        [(round(one.at_ms), round(one.duration_ms)) for one in played.silences[:20]],
    )
