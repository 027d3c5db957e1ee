"""LiveAvatar sessions that are billed: found from the provider's side, judged, and stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

from activities.janitor.round import NO_TIME_LEFT, JanitorSweep, for_each, patiently
from activities.janitor.workflow_status import (
    RunStatus,
    StatusUnknown,
    WorkflowRun,
    fate_of,
    runs_of,
    searchable,
)
from avatar_sessions.contract.janitor import Decision, SessionFinding
from liveavatar_lite import LiveAvatar, SessionEntry, StopOutcome

BATCH: Final = 50
"""Sessions that one search for workflows asks for."""
MAX_PAGES: Final = 100
"""Of 100 sessions each."""
CLOCK_SKEW_S: Final = 120.0
"""How far LiveAvatar's clock, by which a session's age is told, may be behind ours."""


class SessionSweep:
    """Stops what is billed for nobody. Remembers nothing but since when it sees a stranger."""

    def __init__(self, liveavatar: LiveAvatar) -> None:
        self._liveavatar = liveavatar
        self._strangers_since: dict[str, float] = {}

    async def reap(self, round_: JanitorSweep) -> list[SessionFinding]:
        """Judge every session that is billed to the API key, and stop what nobody lives in."""
        entries, complete = await self._billed(round_)
        findings: list[SessionFinding] = []
        for begin in range(0, len(entries), BATCH):
            batch = entries[begin : begin + BATCH]
            findings += await self._settle(round_, batch)
        strangers = {
            one.provider_session_id
            for one in findings
            if one.decision in (Decision.TOO_YOUNG, Decision.STRANGER, Decision.IN_DOUBT)
        }
        self._strangers_since = {
            one: since
            for one, since in self._strangers_since.items()
            if one in strangers or not complete
        }
        return findings

    async def _billed(self, round_: JanitorSweep) -> tuple[list[SessionEntry], bool]:
        """All active sessions, and whether these are all."""
        entries: dict[str, SessionEntry] = {}
        for page in range(1, MAX_PAGES + 1):
            try:
                if round_.time_is_up:
                    raise StatusUnknown(NO_TIME_LEFT)
                listed = await patiently(
                    partial(self._liveavatar.list_sessions, "active", page=page)
                )
            except StatusUnknown as error:
                seen = f"only the first {len(entries)} were seen" if entries else "none was seen"
                round_.tell(f"LiveAvatar's sessions could not be listed ({seen}): {error}")
                return list(entries.values()), False
            entries |= {one.id: one for one in listed.results if not one.ended}
            if listed.next is None or not listed.results:
                return list(entries.values()), True
        round_.tell(
            f"LiveAvatar has more than {MAX_PAGES} pages of sessions: the rest was not seen"
        )
        return list(entries.values()), False

    async def _settle(
        self, round_: JanitorSweep, batch: Sequence[SessionEntry]
    ) -> Sequence[SessionFinding]:
        """Find the workflows of some sessions with one search, then judge each."""
        doubt: str | None = None
        runs: dict[str, list[WorkflowRun]] = {}
        try:
            if round_.time_is_up:
                raise StatusUnknown(NO_TIME_LEFT)
            asked_for = [one.id for one in batch if searchable(one.id)]
            runs = await runs_of(round_.client, asked_for) if asked_for else {}
        except StatusUnknown as error:
            doubt = str(error)
            round_.tell(f"whose LiveAvatar sessions are could not be asked: {doubt}")

        async def settle(entry: SessionEntry) -> SessionFinding:
            if doubt is not None:
                return _left(entry, Decision.IN_DOUBT, doubt)
            return await self._settle_one(round_, entry, runs.get(entry.id, []))

        return await for_each(batch, settle)

    async def _settle_one(
        self, round_: JanitorSweep, entry: SessionEntry, runs: Sequence[WorkflowRun]
    ) -> SessionFinding:
        if not searchable(entry.id):
            return _left(entry, Decision.IN_DOUBT, "its id has characters that no search takes")
        if not runs:
            return await self._stranger(round_, entry)
        self._strangers_since.pop(entry.id, None)
        known = None
        for run in runs:
            if round_.time_is_up:
                round_.tell(NO_TIME_LEFT)
                return _left(entry, Decision.IN_DOUBT, NO_TIME_LEFT, run)
            known = await fate_of(round_.client, run)
            if known.fate is RunStatus.LIVES:
                return _left(entry, Decision.RUNNING, known.why, run)
            if known.fate is RunStatus.UNKNOWN:
                round_.tell(known.why)
                return _left(entry, Decision.IN_DOUBT, known.why, run)
        assert known is not None
        return await self._stop(round_, entry, known.why, runs[-1])

    async def _stranger(self, round_: JanitorSweep, entry: SessionEntry) -> SessionFinding:
        """A session that no workflow of this namespace has opened, as far as can be seen."""
        now = time.monotonic()
        since = self._strangers_since.setdefault(entry.id, now)
        if not round_.rules.owns_key:
            return _left(entry, Decision.STRANGER, "no workflow of this namespace has opened it")
        told_s = (datetime.now(UTC) - entry.created_at).total_seconds()
        # Two clocks can disagree: believed are our own, and LiveAvatar's with much allowance.
        age_s = max(now - since, told_s - CLOCK_SKEW_S)
        grace_s = round_.rules.grace_s
        if age_s < grace_s:
            return _left(
                entry,
                Decision.TOO_YOUNG,
                f"no workflow has opened it, and it is surely {max(age_s, 0):.0f} s old:"
                f" stopped at {grace_s:g} s",
            )
        return await self._stop(
            round_, entry, "no workflow has opened it, and the API key is ours alone", None
        )

    async def _stop(
        self, round_: JanitorSweep, entry: SessionEntry, why: str, run: WorkflowRun | None
    ) -> SessionFinding:
        if round_.rules.dry_run:
            return _left(entry, Decision.WOULD_STOP, why, run)
        try:
            outcome = await patiently(lambda: self._liveavatar.stop_session(entry.id))
        except StatusUnknown as error:
            return _left(entry, Decision.FAILED, f"{why}; it was not stopped: {error}", run)
        decision = Decision.STOPPED if outcome is StopOutcome.STOPPED else Decision.ALREADY_GONE
        return _left(entry, decision, why, run)


def _left(
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
