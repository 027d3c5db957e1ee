"""Stops billed LiveAvatar sessions whose workflow has closed, found by LiveAvatar's own list."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

from activities.janitor.round import NO_TIME_LEFT, JanitorSweep, for_each, with_retries
from activities.janitor.workflow_status import (
    RunStatus,
    StatusUnknown,
    WorkflowRun,
    find_runs,
    searchable,
    status_of,
)
from avatar_sessions.contract.janitor import Decision, SessionFinding
from liveavatar_lite import LiveAvatar, SessionEntry, StopOutcome

BATCH_SIZE: Final = 50
"""Sessions per visibility query."""
MAX_PAGES: Final = 100
"""Of 100 sessions each."""
CLOCK_SKEW_S: Final = 120.0
"""How far LiveAvatar's clock, which a session's age is computed from, may be behind this one."""


class SessionSweep:
    """Stops billed sessions whose workflow has closed.

    Its only state between rounds: when it first saw each session that has no workflow.
    """

    def __init__(self, liveavatar: LiveAvatar) -> None:
        self._liveavatar = liveavatar
        self._strangers_first_seen: dict[str, float] = {}

    async def run(self, sweep: JanitorSweep) -> list[SessionFinding]:
        """Decide on every session billed to the API key; stop those whose workflow has closed."""
        entries, complete = await self._billed(sweep)
        findings: list[SessionFinding] = []
        for begin in range(0, len(entries), BATCH_SIZE):
            batch = entries[begin : begin + BATCH_SIZE]
            findings += await self._decide_batch(sweep, batch)
        strangers = {
            one.provider_session_id
            for one in findings
            if one.decision in (Decision.TOO_YOUNG, Decision.STRANGER, Decision.IN_DOUBT)
        }
        self._strangers_first_seen = {
            one: since
            for one, since in self._strangers_first_seen.items()
            if one in strangers or not complete
        }
        return findings

    async def _billed(self, sweep: JanitorSweep) -> tuple[list[SessionEntry], bool]:
        """The active sessions, and whether the list is complete."""
        entries: dict[str, SessionEntry] = {}
        for page in range(1, MAX_PAGES + 1):
            try:
                if sweep.time_is_up:
                    raise StatusUnknown(NO_TIME_LEFT)
                listed = await with_retries(
                    partial(self._liveavatar.list_sessions, "active", page=page)
                )
            except StatusUnknown as error:
                seen = f"only the first {len(entries)} were seen" if entries else "none was seen"
                sweep.add_problem(f"LiveAvatar's sessions could not be listed ({seen}): {error}")
                return list(entries.values()), False
            entries |= {one.id: one for one in listed.results if not one.ended}
            if listed.next is None or not listed.results:
                return list(entries.values()), True
        sweep.add_problem(
            f"LiveAvatar lists more than {MAX_PAGES} pages of sessions: the rest was not seen"
        )
        return list(entries.values()), False

    async def _decide_batch(
        self, sweep: JanitorSweep, batch: Sequence[SessionEntry]
    ) -> Sequence[SessionFinding]:
        """Find the workflows of a batch with one query, then decide on each session."""
        problem: str | None = None
        runs: dict[str, list[WorkflowRun]] = {}
        try:
            if sweep.time_is_up:
                raise StatusUnknown(NO_TIME_LEFT)
            ids = [one.id for one in batch if searchable(one.id)]
            runs = await find_runs(sweep.client, ids) if ids else {}
        except StatusUnknown as error:
            problem = str(error)
            sweep.add_problem(
                f"the workflows of LiveAvatar sessions could not be looked up: {problem}"
            )

        async def decide(entry: SessionEntry) -> SessionFinding:
            if problem is not None:
                return _finding(entry, Decision.IN_DOUBT, problem)
            return await self._decide(sweep, entry, runs.get(entry.id, []))

        return await for_each(batch, decide)

    async def _decide(
        self, sweep: JanitorSweep, entry: SessionEntry, runs: Sequence[WorkflowRun]
    ) -> SessionFinding:
        if not searchable(entry.id):
            return _finding(
                entry,
                Decision.IN_DOUBT,
                "its id has characters that a visibility query does not accept",
            )
        if not runs:
            return await self._stranger(sweep, entry)
        self._strangers_first_seen.pop(entry.id, None)
        answer = None
        for run in runs:
            if sweep.time_is_up:
                sweep.add_problem(NO_TIME_LEFT)
                return _finding(entry, Decision.IN_DOUBT, NO_TIME_LEFT, run)
            answer = await status_of(sweep.client, run)
            if answer.status is RunStatus.OPEN:
                return _finding(entry, Decision.RUNNING, answer.why, run)
            if answer.status is RunStatus.UNKNOWN:
                sweep.add_problem(answer.why)
                return _finding(entry, Decision.IN_DOUBT, answer.why, run)
        assert answer is not None
        return await self._stop(sweep, entry, answer.why, runs[-1])

    async def _stranger(self, sweep: JanitorSweep, entry: SessionEntry) -> SessionFinding:
        """Decide on a session without a visible workflow in this namespace."""
        now = time.monotonic()
        first_seen = self._strangers_first_seen.setdefault(entry.id, now)
        if not sweep.rules.owns_key:
            return _finding(entry, Decision.STRANGER, "no workflow of this namespace has opened it")
        provider_age_s = (datetime.now(UTC) - entry.created_at).total_seconds()
        # The clocks can disagree: the age by LiveAvatar's clock counts only beyond the skew.
        age_s = max(now - first_seen, provider_age_s - CLOCK_SKEW_S)
        grace_s = sweep.rules.grace_s
        if age_s < grace_s:
            return _finding(
                entry,
                Decision.TOO_YOUNG,
                f"no workflow has opened it, and it is at least {max(age_s, 0):.0f} s old:"
                f" it is stopped at {grace_s:g} s",
            )
        return await self._stop(
            sweep, entry, "no workflow has opened it, and no other program uses the API key", None
        )

    async def _stop(
        self, sweep: JanitorSweep, entry: SessionEntry, why: str, run: WorkflowRun | None
    ) -> SessionFinding:
        if sweep.rules.dry_run:
            return _finding(entry, Decision.WOULD_STOP, why, run)
        try:
            outcome = await with_retries(lambda: self._liveavatar.stop_session(entry.id))
        except StatusUnknown as error:
            return _finding(entry, Decision.FAILED, f"{why}; the stop failed: {error}", run)
        decision = Decision.STOPPED if outcome is StopOutcome.STOPPED else Decision.ALREADY_GONE
        return _finding(entry, decision, why, run)


def _finding(
    entry: SessionEntry, decision: Decision, why: str, run: WorkflowRun | None = None
) -> SessionFinding:
    return SessionFinding(
        provider_session_id=entry.id,
        created_at=entry.created_at,
        workflow_id=None if run is None else run.workflow_id,
        run_id=None if run is None else run.run_id,
        decision=decision,
        why=why,
    )
