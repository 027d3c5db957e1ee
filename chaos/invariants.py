"""The invariants that hold after every fault, checked in the simulator's ledger, in the reports, in
the recordings, and in the kernel's account of the processes.

Injects nothing; `settle` waits, within a bound, until no LiveAvatar session is billed.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from temporalio.service import RPCError

from avatar_sessions.contract import names
from avatar_sessions.contract.reports import GenerationReport
from avatar_sessions.contract.states import UtteranceOutcome
from chaos.environment.environment import Environment, EnvironmentKind
from chaos.environment.processes import ResourceSnapshot, WorkerProcess
from chaos.errors import ConditionTimeout, NotAvailable
from chaos.position_code import RecordedSpeech, Recording
from chaos.run import CodedSpeech, FaultRun, SessionUnderTest
from liveavatar_simulator import SessionLine

BILL_TOLERANCE_S: Final = 1.0
"""How far a report's billed seconds may differ from the ledger's, beyond the start's duration."""
EXTRA_FILES: Final = 6
"""For connections that are kept for the next call."""
EXTRA_THREADS: Final = 4
"""For thread pools that grow on demand."""
EXTRA_TASKS: Final = 4
"""For polls that run during one count and not during the other."""
SETTLED_WITHIN_S: Final = 15.0
"""How long closed connections may take to disappear from a process."""
POLL_S: Final = 0.1


@dataclass
class Figures:
    """The figures that a run adds to its row."""

    leaked: int = 0
    sessions: int = 0
    """LiveAvatar sessions that were billed."""
    billed_for_nothing_s: float = 0.0
    billed_for_nothing_worst_s: float = 0.0
    """The most that one LiveAvatar session adds to it."""
    speech_lost_ms: float = 0.0
    speech_repeated_ms: float = 0.0
    keys_of: dict[str, str] = field(default_factory=dict)
    """Session key by LiveAvatar session."""


async def check_speech(run: FaultRun) -> None:
    """Look for each utterance of the run in the recordings of its LiveAvatar sessions.

    Raises:
        NotAvailable: the simulator keeps no recordings.
    """
    for subject in run.subjects.values():
        await _find_provider_ids(run, subject)
    started = [one.session_id for one in await run.new_lines() if one.started_at]
    for subject in run.subjects.values():
        ids = [one for one in started if one in subject.provider_ids]  # oldest first
        if not ids or not subject.speeches:
            continue
        recordings = [await run.environment.simulator.recording(one) for one in ids]
        await asyncio.to_thread(_analyze_subject, subject, ids, recordings)


def _analyze_subject(
    subject: SessionUnderTest, ids: list[str], recordings: list[Recording]
) -> None:
    """Several LiveAvatar sessions, one after the other, may have played an utterance."""
    recorded = RecordedSpeech(recordings)
    for speech in subject.speeches:
        speech.played = recorded.analyze(speech.code)
        speech.played_by = {ids[at] for at in recorded.recordings_with(speech.code)}


async def settle(run: FaultRun, within_s: float) -> None:
    """Wait until no LiveAvatar session of the run is billed, or until the bound."""

    async def nothing_open() -> bool:
        return all(one.ended_at is not None for one in await run.new_lines() if one.started_at)

    try:
        await run.until(nothing_open, within_s, "nothing is billed any more")
    except ConditionTimeout:
        return  # `check` reports each session that is still open


async def check(run: FaultRun) -> Figures:
    """Check all invariants, after `check_speech`; records problems in the run, returns figures."""
    figures = Figures()
    lines = [one for one in await run.new_lines() if one.started_at is not None]
    figures.sessions = len(lines)
    figures.keys_of = {
        provider_id: key for key, one in run.subjects.items() for provider_id in one.provider_ids
    }
    await _nothing_is_left_open(run, lines, figures)
    one_session_is_billed(run, lines, figures)
    one_owner_speaks(run, lines, figures)
    reports_match_the_bill(run, lines)
    completed_means_heard(run)
    _count_speech(run, figures)
    for_nothing_s = billed_for_nothing(run, lines, figures)
    figures.billed_for_nothing_s = sum(for_nothing_s)
    figures.billed_for_nothing_worst_s = max(for_nothing_s, default=0.0)
    return figures


async def _find_provider_ids(run: FaultRun, subject: SessionUnderTest) -> None:
    """Take them from the report, or, without one, from the workflow's search attribute."""
    if subject.report is not None:
        subject.provider_ids |= {one.provider_session_id for one in subject.report.generations}
        return
    handle = run.environment.client.get_workflow_handle(subject.session.workflow_id)
    try:
        described = await handle.describe()
    except RPCError:
        return
    ids = described.search_attributes.get(names.SEARCH_ATTRIBUTE_PROVIDER_SESSION_ID, [])
    subject.provider_ids |= {str(one) for one in ids}


async def _nothing_is_left_open(run: FaultRun, lines: list[SessionLine], figures: Figures) -> None:
    for line in lines:
        key = figures.keys_of.get(line.session_id)
        subject = run.subjects.get(key) if key else None
        session = subject.session if subject else None
        if line.ended_at is None:
            figures.leaked += 1
            run.problem(
                "nothing is left open",
                f"LiveAvatar session {line.session_id} is still billed",
                session,
            )
            await run.environment.simulator.stop(line.session_id)
        elif line.sockets_open:
            run.problem("nothing is left open", f"{line.sockets_open} sockets are open", session)
        if key is None:
            run.problem("nothing is left open", f"no workflow knows session {line.session_id}")


def one_session_is_billed(run: FaultRun, lines: list[SessionLine], figures: Figures) -> None:
    """One LiveAvatar session of a key is billed, except while a start's outcome is unknown."""
    now_s = time.time()
    for key, subject in run.subjects.items():
        spans = sorted(
            (_start_s(line), _end_s(line, now_s))
            for line in lines
            if figures.keys_of.get(line.session_id) == key
        )
        for (_, end_s), (next_start_s, next_end_s) in pairwise(spans):
            both_s = min(end_s, next_end_s) - next_start_s
            if both_s > run.double_billing_s:
                run.problem(
                    "one session is billed",
                    f"two were, for {both_s:.1f} s (at most {run.double_billing_s:g} s)",
                    subject.session,
                )


def one_owner_speaks(run: FaultRun, lines: list[SessionLine], figures: Figures) -> None:
    """After a later socket has sent speech, no earlier one sends any."""
    for line in lines:
        sockets = [
            command.socket
            for command in line.commands
            if command.type in ("agent.speak", "agent.speak_end")
        ]
        key = figures.keys_of.get(line.session_id)
        session = run.subjects[key].session if key else None
        if any(later < earlier for earlier, later in pairwise(sockets)):
            run.problem("one owner speaks", f"sockets took turns: {_turns(sockets)}", session)


def _turns(sockets: list[int]) -> str:
    turns = [one for at, one in enumerate(sockets) if at == 0 or sockets[at - 1] != one]
    return ", ".join(map(str, turns[:12]))


def reports_match_the_bill(run: FaultRun, lines: list[SessionLine]) -> None:
    """Each started LiveAvatar session is in exactly one report, with what was billed."""
    reported: dict[str, list[GenerationReport]] = {}
    for subject in run.subjects.values():
        if subject.report is None:
            if subject.must_report:
                run.problem("every session is reported", "there is no report", subject.session)
            continue
        for generation in subject.report.generations:
            reported.setdefault(generation.provider_session_id, []).append(generation)
    unreported = {
        provider_id
        for subject in run.subjects.values()
        if not subject.must_report or subject.report is None
        for provider_id in subject.provider_ids
    }
    for line in lines:
        if line.session_id in unreported:
            continue
        found = reported.get(line.session_id, [])
        if len(found) != 1:
            run.problem(
                "every session is reported",
                f"{line.session_id} is in {len(found)} reports",
            )
            continue
        if line.ended_at is None:
            continue  # already reported as open
        ledger_s = _end_s(line, 0.0) - _start_s(line)
        # A report counts from the start request, LiveAvatar from its own start.
        starting_s = _start_s(line) - line.minted_at.timestamp()
        if not -BILL_TOLERANCE_S <= found[0].billed_s - ledger_s <= BILL_TOLERANCE_S + starting_s:
            run.problem(
                "reports match the bill",
                f"{line.session_id}: {found[0].billed_s:.1f} s in the report, {ledger_s:.1f} s"
                f" in the ledger ({found[0].stop}, {line.end_reason})",
            )


def completed_means_heard(run: FaultRun) -> None:
    """Utterances end as required; completed ones were heard in full and in order."""
    for subject in run.subjects.values():
        for speech in subject.speeches:
            played, report = speech.played, speech.report
            if speech.expected is not None:
                _ended_as_required(run, speech)
            if played is None or report is None:
                continue
            if report.outcome is UtteranceOutcome.COMPLETED and played.lost_ms > 0:
                run.problem(
                    "completed means heard",
                    f"{played.lost_ms:.1f} ms of a completed {speech.source} utterance were"
                    " never heard",
                    subject.session,
                )
            if played.out_of_order_ms > 0:
                run.problem(
                    "speech keeps its order",
                    f"{played.out_of_order_ms:.1f} ms were heard after later speech",
                    subject.session,
                )


def _ended_as_required(run: FaultRun, speech: CodedSpeech) -> None:
    outcome = speech.report.outcome if speech.report else speech.error or "no report"
    if outcome != speech.expected:
        run.problem(
            "speech goes on",
            f"a {speech.source} utterance should be {speech.expected}, not {outcome}",
            speech.session,
        )


def _count_speech(run: FaultRun, figures: Figures) -> None:
    for subject in run.subjects.values():
        for speech in subject.speeches:
            if speech.played is None:
                continue
            figures.speech_repeated_ms += speech.played.repeated_ms
            if speech.expected is UtteranceOutcome.COMPLETED:
                figures.speech_lost_ms += speech.played.lost_ms


def billed_for_nothing(run: FaultRun, lines: list[SessionLine], figures: Figures) -> list[float]:
    """Seconds billed to each LiveAvatar session after it was released.

    All seconds count if it never had a socket, or if no session of the run has it.
    """
    now_s = time.time()
    seconds: list[float] = []
    for line in lines:
        key = figures.keys_of.get(line.session_id)
        begin_s, end_s = _start_s(line), _end_s(line, now_s)
        released_at_s = run.subjects[key].released_at_s if key else begin_s
        if line.sockets_total == 0:
            released_at_s = begin_s
        if released_at_s is None:
            seconds.append(0.0)
        else:
            seconds.append(max(0.0, end_s - max(begin_s, released_at_s)))
    return seconds


def _start_s(line: SessionLine) -> float:
    assert line.started_at is not None
    return line.started_at.timestamp()


def _end_s(line: SessionLine, now_s: float) -> float:
    return now_s if line.ended_at is None else line.ended_at.timestamp()


async def no_resource_leaks(run: FaultRun) -> None:
    """Workers that go on have no more files, threads and tasks open than after their first run."""
    environment = run.environment
    give_up_s = time.monotonic() + SETTLED_WITHIN_S
    while grown := _grown(environment, now := await environment.resources()):
        if time.monotonic() > give_up_s:
            for text in grown:
                run.problem("nothing is left behind", text)
            break
        await asyncio.sleep(POLL_S)
    for worker, snapshot in now.items():
        environment.baseline.setdefault(worker, snapshot)


def _grown(environment: Environment, resources: dict[WorkerProcess, ResourceSnapshot]) -> list[str]:
    grown: list[str] = []
    for worker, now in resources.items():
        if now.tasks is None:
            grown.append(f"{worker!r} does not report its tasks on SIGUSR1")
        then = environment.baseline.get(worker)
        if then is None:
            continue
        for what, more, before, at_most in (
            ("open files", now.files, then.files, EXTRA_FILES),
            ("threads", now.threads, then.threads, EXTRA_THREADS),
            ("tasks", now.tasks or 0, then.tasks or 0, EXTRA_TASKS),
        ):
            if more > before + at_most:
                grown.append(f"{worker!r} has {more} {what}, {before} before")
    return grown


async def no_room_is_left(run: FaultRun, within_s: float) -> None:
    """LiveKit has no room that a session of this environment created."""
    if run.environment.kind is not EnvironmentKind.ROOMS:
        return

    async def none() -> bool:
        return not await run.rooms()

    try:
        await run.until(none, within_s, "no room is left")
    except ConditionTimeout:
        for room in await run.rooms():
            run.problem("nothing is left behind", f"LiveKit still has the room {room}")


async def try_check_speech(run: FaultRun) -> None:
    """As `check_speech`; a simulator without recordings is one problem of the run."""
    try:
        await check_speech(run)
    except NotAvailable as error:
        run.problem("speech", str(error))
