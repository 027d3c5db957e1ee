"""The output of ``avatar-sessions janitor``: a line for each finding, then the totals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from avatar_sessions.contract.janitor import (
    ACTED,
    WOULD_ACT,
    Decision,
    JanitorFinding,
)


def finding_text(finding: JanitorFinding) -> Iterable[str]:
    """Format a finding: a table, its totals, and what could not be checked."""
    rows = [("WHAT", "ID", "DECISION", "WORKFLOW", "WHY")]
    rows += [
        ("session", one.provider_session_id, one.decision, one.workflow_id or "-", one.why)
        for one in finding.sessions
    ]
    rows += [("room", one.room, one.decision, one.workflow_id, one.why) for one in finding.rooms]
    if len(rows) > 1:
        yield from _table(rows)
    totals = finding.totals
    hidden = totals.sessions + totals.rooms - len(finding.sessions) - len(finding.rooms)
    if hidden > 0:
        yield f"and {hidden} more"
    ended = totals.count(*(WOULD_ACT if finding.dry_run else ACTED))
    yield (
        f"{'dry run: ' if finding.dry_run else ''}{totals.sessions} sessions billed"
        f"{f', {totals.rooms} rooms' if finding.checks_rooms else ''}:"
        f" {ended} {'would be ended' if finding.dry_run else 'ended'},"
        f" {totals.count(Decision.FAILED)} failed, {totals.count(Decision.RUNNING)} running,"
        f" {totals.count(Decision.STRANGER, Decision.TOO_YOUNG)} strangers,"
        f" {totals.count(Decision.IN_DOUBT)} in doubt"
    )
    for problem in finding.problems:
        yield f"problem: {problem}"


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
