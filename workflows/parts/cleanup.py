"""Cleans up what a session leaves behind: billed LiveAvatar sessions, and its LiveKit room.

Retried for half an hour. A cleanup that fails for more than a moment raises an alert, which stays
until the cleanup succeeds. Knows nothing of commands and owners.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Final, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel

    from avatar_sessions.contract import names
    from avatar_sessions.contract.activities import (
        CleanedRoom,
        CleanRoom,
        StoppedSession,
        StopSession,
    )
    from avatar_sessions.contract.messages import OwnRoom
    from avatar_sessions.contract.reports import CleanupReport, GenerationReport

from workflows.parts import alerts, options
from workflows.parts.alerts import LeftBehind
from workflows.parts.execute_activity import execute
from workflows.parts.failures import failure_of, retry_delay
from workflows.parts.session_state import Generation, SessionRecord

Result = TypeVar("Result", bound=BaseModel)

USER_CLOSED: Final = "USER_CLOSED"
"""LiveAvatar's reason for a stop that no limit caused."""
MIN_STRETCH: Final = timedelta(seconds=1)


class Cleanup:
    """The cleanup of one session, and its report."""

    def __init__(self, record: SessionRecord) -> None:
        self._record = record
        self._problems: dict[str, str] = {}
        self._room_clean = True
        self._lost_start_stops: list[asyncio.Task[None]] = []

    # ------------------------------------------------------------- sessions

    async def stop_all(self, reason: str) -> None:
        """Stop every generation that may be billed, concurrently."""
        for task in self._lost_start_stops:
            task.cancel()
        billed = [
            one
            for one in self._record.generations
            if one.started_at is not None and not one.confirmed_ended
        ]
        stops = [
            asyncio.create_task(self.stop(one, reason), name=f"stop {one.number}") for one in billed
        ]
        if stops:
            await workflow.wait(stops)
        for stop in stops:
            stop.result()

    async def stop(self, generation: Generation, reason: str = USER_CLOSED) -> None:
        """Stop one generation, and record what it cost.

        Raises:
            ActivityError: cancelled; the session's end stops every generation itself.
        """
        stopped = await self._until_done(
            names.ACTIVITY_STOP_SESSION,
            StopSession(provider_session_id=generation.provider_session_id, reason=reason),
            StoppedSession,
            alerts.session_left(generation.provider_session_id, generation.started_at),
            summary=f"stop session (generation {generation.number})",
        )
        now = workflow.now() if stopped is None else stopped.stopped_at
        generation.confirmed_ended = stopped is not None and stopped.ended_at is not None
        generation.report = generation_report(generation, stopped, now)

    def stop_lost_start_later(self, generation: Generation) -> None:
        """Stop a generation again later: its start had no known outcome and may still arrive."""
        if not generation.confirmed_ended:
            self._lost_start_stops.append(
                asyncio.create_task(
                    self._stop_lost_start(generation), name=f"stop lost start {generation.number}"
                )
            )

    async def _stop_lost_start(self, generation: Generation) -> None:
        for pause in options.LOST_START_PAUSES:
            await workflow.sleep(pause, summary="pause before stopping a lost start again")
            try:
                await self.stop(generation)
            except ActivityError:
                return  # cancelled by the session's end
            if generation.confirmed_ended:
                return

    # ----------------------------------------------------------------- room

    async def clean_room(self, name: str, identities: list[str], room: OwnRoom) -> None:
        """Delete the session's room, or remove its avatars from it.

        Args:
            name: the room's name.
            identities: the avatars of all generations, in order.
            room: the room as requested.
        """
        identity, delete = identities[-1], room.delete_at_end
        cleaned = await self._until_done(
            names.ACTIVITY_CLEAN_ROOM,
            CleanRoom(
                room=name, avatar_identity=identity, earlier=identities[-3:-1], delete=delete
            ),
            CleanedRoom,
            alerts.room_left(name, identity, delete=delete),
            summary=f"clean room {name}",
        )
        self._room_clean = cleaned is not None

    # --------------------------------------------------------------- report

    def report(self) -> CleanupReport:
        """What is left behind; nothing after a complete cleanup."""
        unconfirmed = any(
            one.report is not None and one.report.stop == "unconfirmed"
            for one in self._record.generations
        )
        return CleanupReport(
            provider_stopped=not unconfirmed,
            room_clean=self._room_clean,
            problems=list(self._problems.values()),
            alert=self._record.alert,
        )

    # -------------------------------------------------------------- retries

    async def _until_done(
        self,
        activity: str,
        payload: BaseModel,
        result_type: type[Result],
        left: LeftBehind,
        *,
        summary: str,
    ) -> Result | None:
        """Run a cleanup activity until it succeeds, in stretches; each failed one shows an alert.

        Returns:
            None if it failed for half an hour, or cannot succeed.

        Raises:
            ActivityError: cancelled.
        """
        since = workflow.now()
        give_up_at = since + options.CLEANUP_TIMEOUT
        stretch = options.CLEANUP_ALERT_AFTER
        while True:
            try:
                result = await execute(
                    activity,
                    payload,
                    result_type,
                    options.CLEANUP,
                    summary=summary,
                    # Without a worker the last stretch may begin late; it runs all the same.
                    schedule_to_close_timeout=max(
                        MIN_STRETCH, min(stretch, give_up_at - workflow.now())
                    ),
                )
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise
                failure, pause = failure_of(error), pause_after(error)
                retry_at = next_stretch_at(workflow.now(), pause, give_up_at)
                self._record.raise_alert(
                    left.name,
                    alerts.cleanup_alert(
                        left,
                        failure,
                        since=since,
                        next_step=next_step(retry_at, give_up_at, pause),
                    ),
                )
                if retry_at is None:
                    self._problems[left.name] = f"{left.problem}: {failure.message}"
                    return None
                if pause:
                    await workflow.sleep(pause, summary="pause requested by the service")
            else:
                self._record.clear_alert(left.name)
                self._problems.pop(left.name, None)
                return result
            stretch = min(3 * stretch, options.CLEANUP_STRETCH)


def pause_after(error: ActivityError) -> timedelta | None:
    """Pause before the next stretch, as requested and bounded; None: a retry cannot succeed."""
    if not isinstance(error.cause, ApplicationError):
        return timedelta(0)  # a timeout: the worker died, or the service did not answer
    pause = retry_delay(error)
    return None if pause is None else min(pause, options.CLEANUP_PAUSE_MAX)


def next_stretch_at(
    now: datetime, pause: timedelta | None, give_up_at: datetime
) -> datetime | None:
    """When the next stretch begins; None: there is no other one."""
    if pause is None or now + pause + MIN_STRETCH > give_up_at:
        return None
    return now + pause


def next_step(retry_at: datetime | None, give_up_at: datetime, pause: timedelta | None) -> str:
    """What happens next, for the alert's text."""
    if retry_at is None:
        return "no further attempt" + ("" if pause is not None else ": a retry cannot succeed")
    until = f"until {give_up_at:%H:%M:%S} UTC; then the session's report says what is left behind"
    if pause:
        return f"next attempt at {retry_at:%H:%M:%S} UTC, {until}"
    return f"an attempt every few seconds, {until}"


def generation_report(
    generation: Generation, stopped: StoppedSession | None, now: datetime
) -> GenerationReport:
    """What a generation cost: by LiveAvatar's billing, or by the workers' clock without it.

    Args:
        generation: the generation, with the report of an earlier stop if there was one.
        stopped: the result of the stop; None if the stop is not confirmed.
        now: when the stop was confirmed, or given up.
    """
    earlier, started_at = generation.report, generation.started_at
    stopped_at = now
    if stopped is not None and stopped.ended_at is not None and stopped.ended_at < now:
        stopped_at = stopped.ended_at if started_at is None else max(started_at, stopped.ended_at)
    ran_s = stopped.ran_s if stopped is not None else None
    if generation.confirmed_started and not ran_s:
        ran_s = None  # the session ran, but LiveAvatar's billing does not know it
    if stopped is not None and ran_s is None and earlier is not None and earlier.stop == "stopped":
        return earlier
    if ran_s is None:
        ran_s = max(0.0, (stopped_at - started_at).total_seconds()) if started_at else 0.0
    stop = "unconfirmed" if stopped is None else stopped.stop
    if stop == "already_gone" and earlier is not None and earlier.stop == "stopped":
        stop = "stopped"
    return GenerationReport(
        number=generation.number,
        provider_session_id=generation.provider_session_id,
        started_at=started_at,
        stopped_at=None if stopped is None else stopped_at,
        billed_s=round(ran_s, 3),
        stop=stop,
        provider_end_reason=stopped.provider_end_reason if stopped else None,
        credits_consumed=stopped.credits_consumed if stopped else None,
    )
