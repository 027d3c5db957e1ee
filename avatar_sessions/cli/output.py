"""The command line's output: text for people, JSON for programs.

This module only formats messages. Tokens are shown only on request.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel

from avatar_sessions.access import Access, ParticipantAccess
from avatar_sessions.contract.reports import (
    CommandResult,
    Failure,
    GenerationReport,
    SessionReport,
    SessionStatus,
    UtteranceReport,
)
from avatar_sessions.contract.states import FINAL, UtteranceOutcome
from avatar_sessions.session import Session

HIDDEN = "hidden (--show-tokens, or --json)"
REPORTED_UTTERANCES = 20
"""How many utterances the text of a report lists; --json has them all."""

Lines = Iterable[str]


class CliOutput:
    """Standard output and standard error, as text or as JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def show(self, text: Lines, document: object) -> None:
        """Show one answer: its text, or its document as one line of JSON."""
        lines = [json.dumps(_plain(document))] if self.as_json else text
        sys.stdout.writelines(f"{line}\n" for line in lines)
        sys.stdout.flush()

    def error(self, error: str, message: str, exit_code: int) -> None:
        """Show an error on standard error."""
        document = {"error": error, "message": message, "exit_code": exit_code}
        line = json.dumps(document) if self.as_json else f"avatar-sessions: {message}"
        sys.stderr.write(f"{line}\n")

    def warn(self, message: str) -> None:
        """Show a warning on standard error."""
        line = json.dumps({"warning": message}) if self.as_json else f"avatar-sessions: {message}"
        sys.stderr.write(f"{line}\n")


def _plain(document: object) -> object:
    if isinstance(document, BaseModel):
        return document.model_dump(mode="json")
    if isinstance(document, list):
        return [_plain(one) for one in document]
    return document


# ---------------------------------------------------------------- documents


def access_document(access: Access) -> dict[str, object]:
    """Access with its tokens, for programs."""

    def participant(one: ParticipantAccess | None) -> dict[str, object] | None:
        if one is None:
            return None
        return {"livekit_url": one.livekit_url, "token": one.token, "identity": one.identity}

    return {
        "session_key": access.session_key,
        "state": access.state.value,
        "room": access.room,
        "viewer": participant(access.viewer),
        "agent": participant(access.agent),
    }


def listing_document(session: Session) -> dict[str, object]:
    """One session of the session list."""
    listing = session.listing
    assert listing is not None
    return {
        "session_key": session.key,
        "state": listing.state,
        "tenant": listing.tenant,
        "provider_session_id": listing.provider_session_id,
        "started_at": listing.started_at.isoformat(),
        "ended_at": None if listing.ended_at is None else listing.ended_at.isoformat(),
    }


def started_document(session: Session) -> dict[str, object]:
    """A session that was started or found."""
    return {
        "session_key": session.key,
        "workflow_id": session.workflow_id,
        "run_id": session.run_id,
    }


# --------------------------------------------------------------------- text


def started_text(session: Session) -> Lines:
    return _fields(
        ("session", session.key),
        ("workflow", session.workflow_id),
        ("next", f"avatar-sessions attach {session.key}   waits until the avatar is live"),
    )


def access_text(access: Access, *, show_tokens: bool) -> Lines:
    yield from _fields(("session", f"{access.session_key}  {access.state}"), ("room", access.room))
    for role, one in (("viewer", access.viewer), ("agent", access.agent)):
        if one is not None:
            token = one.token if show_tokens else HIDDEN
            yield from _fields(
                (role, one.identity or "the room's own identity"),
                ("  LiveKit", one.livekit_url),
                ("  token", token),
            )


def command_text(result: CommandResult) -> Lines:
    words = {
        "sent": "sent",
        "deferred": "accepted: sent when the avatar has stopped speaking",
        "accepted": "accepted",
    }
    yield words.get(str(result.outcome), str(result.outcome))


def utterance_text(utterance: UtteranceReport) -> Lines:
    heard = f"{_seconds(utterance.heard_ms)} of {_seconds(utterance.duration_ms)} heard"
    yield f"{utterance.outcome}: {heard}" if utterance.duration_ms else f"{utterance.outcome}"
    if utterance.failure is not None:
        yield f"  {_failure(utterance.failure)}"


def status_text(status: SessionStatus, now: datetime) -> Lines:
    end_reason = "" if status.end_reason is None else f"  {status.end_reason}"
    live = None if status.live_at is None else f"for {_span(now - status.live_at)}"
    over = status.state in FINAL
    yield from _fields(
        ("session", f"{status.session_key}  {status.state}{end_reason}"),
        ("requested", f"{_span(now - status.requested_at)} ago"),
        ("live", None if over else live),
        ("ends", None if status.ends_at is None else f"in {_span(status.ends_at - now)} at most"),
        ("speaking", status.speaking),
        ("pose", None if over or status.live_at is None else str(status.pose)),
        ("waiting", f"{status.waiting_commands} commands" if status.waiting_commands else None),
        ("utterances", str(status.utterances) if status.utterances else None),
        ("ignored", f"{status.ignored_messages} messages" if status.ignored_messages else None),
        ("LiveAvatar", status.provider_session_id),
        ("failure", _failure(status.failure)),
        ("start waits", None if status.waiting_for is None else f"for {status.waiting_for}"),
        ("ALERT", _alert(status.alert)),
    )


def change_text(status: SessionStatus, now: datetime) -> Lines:
    """A status as one line of ``watch``."""
    parts = [f"{now:%H:%M:%S}", f"{status.state:<10}"]
    if status.speaking is not None:
        parts.append(f"speaking {status.speaking}")
    if status.waiting_commands:
        parts.append(f"{status.waiting_commands} waiting")
    if status.waiting_for is not None:
        parts.append(f"waits for {status.waiting_for}")
    if status.alert is not None:
        parts.append(f"ALERT {status.alert}")
    if status.end_reason is not None:
        parts.append(str(status.end_reason))
    if status.failure is not None:
        parts.append(f"{_failure(status.failure)}")
    yield "  ".join(parts).rstrip()


def list_text(sessions: Sequence[Session], now: datetime) -> Lines:
    if not sessions:
        yield "no sessions"
        return
    rows = [("KEY", "STATE", "STARTED", "TENANT", "LIVEAVATAR")]
    for session in sessions:
        listing = session.listing
        assert listing is not None
        rows.append(
            (
                session.key,
                listing.state or "-",
                f"{_span(now - listing.started_at)} ago",
                listing.tenant or "-",
                listing.provider_session_id or "-",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def report_text(report: SessionReport) -> Lines:
    live = "never live" if report.live_at is None else f"live for {_seconds(report.live_ms)}"
    after = "" if report.start_ms is None else f", {report.start_ms} ms after the request"
    yield from _fields(
        ("session", f"{report.session_key}  {report.state}  {report.end_reason}"),
        ("failure", _failure(report.failure)),
        ("requested", f"{report.requested_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"),
        ("live", f"{live}{after}"),
        *(("billed", _generation(one)) for one in report.generations),
        ("speech", _totals(report)),
    )
    shown = report.utterances[:REPORTED_UTTERANCES]
    for one in shown:
        heard = f"{_seconds(one.heard_ms)} of {_seconds(one.duration_ms)}"
        yield f"  {one.outcome:<12}{heard:>20}  {one.id}"
    if report.totals.count > len(shown):
        yield f"  and {report.totals.count - len(shown)} more"
    yield from _fields(
        ("recovery", _recovery(report)),
        ("ignored", f"{report.ignored_count} messages" if report.ignored_count else None),
        ("cleanup", _cleanup(report)),
        ("ALERT", _alert(report.cleanup.alert)),
    )


def _generation(generation: GenerationReport) -> str:
    words = f"{generation.billed_s:.1f} s at most, {generation.stop.replace('_', ' ')}"
    if generation.credits_consumed is not None:
        words += f", {generation.credits_consumed:g} credits"
    return f"{words}  {generation.provider_session_id}"


def _totals(report: SessionReport) -> str:
    totals = report.totals
    if not totals.count:
        return "none"
    outcomes = [
        f"{totals.by_outcome[one]} {one}" for one in UtteranceOutcome if totals.by_outcome.get(one)
    ]
    return f"{', '.join(outcomes)}; {_seconds(totals.heard_ms)} heard"


def _recovery(report: SessionReport) -> str | None:
    if not (report.takeovers or report.reconnects or report.gaps_ms):
        return None
    return (
        f"{report.takeovers} takeovers, {report.reconnects} reconnects,"
        f" {_seconds(report.gaps_ms)} without an owner"
    )


def _cleanup(report: SessionReport) -> str:
    if report.cleanup.problems:
        return "; ".join(report.cleanup.problems)
    if report.cleanup.provider_stopped and report.cleanup.room_clean:
        return "nothing left behind"
    return "not confirmed"


def _alert(alert: str | None) -> str | None:
    """The alert, and where an operator reads what to do."""
    if alert is None:
        return None
    return f"{alert}: the session's page in the Temporal UI says what to do"


def _failure(failure: Failure | None) -> str | None:
    return None if failure is None else f"{failure.message} ({failure.type})"


def _fields(*fields: tuple[str, str | None]) -> Lines:
    return [f"{name:<12}{text}" for name, text in fields if text]


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.1f} s"


def _span(span: timedelta) -> str:
    seconds = max(0, round(span.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s" if seconds else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
