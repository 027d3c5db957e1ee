"""What a session must not leave behind: LiveAvatar sessions and rooms of our own.

Tried for half an hour; what fails for longer than a moment is shown as an alert, which stays until
it has worked. Knows nothing of how a session lived.
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
    from avatar_sessions.contract.messages import CleanupReport, GenerationReport, SessionRequest

from workflows.parts import alerts, options
from workflows.parts.alerts import LeftBehind
from workflows.parts.execute import execute
from workflows.parts.failures import failure_of, retry_delay
from workflows.parts.record import Generation, SessionRecord

Result = TypeVar("Result", bound=BaseModel)


class Cleanup:
    """The cleanup of one session, and its account."""

    def __init__(self, record: SessionRecord) -> None:
        self._record = record
        self._problems: dict[str, str] = {}
        self._room_clean = True
        self._doubts: list[asyncio.Task[None]] = []

    # ------------------------------------------------------------- sessions

    async def stop_all(self, reason: str) -> None:
        """Stop every generation that may be billed, all at once: one must not wait for another."""
        for doubt in self._doubts:
            doubt.cancel()
        open_ones = [
            one
            for one in self._record.generations
            if one.started_at is not None and not one.confirmed_ended
        ]
        stops = [
            asyncio.create_task(self.stop(one, reason), name=f"stop {one.number}")
            for one in open_ones
        ]
        if stops:
            await workflow.wait(stops)
        for stop in stops:
            stop.result()

    async def stop(self, generation: Generation, reason: str) -> None:
        """Stop one generation, and remember what it cost.

        Raises:
            ActivityError: cancelled; the session's end stops all generations itself.
        """
        stopped = await self._until_done(
            names.ACTIVITY_STOP_SESSION,
            StopSession(provider_session_id=generation.provider_session_id, reason=reason),
            StoppedSession,
            alerts.session_left(generation.provider_session_id, generation.started_at),
            summary=f"stop session (generation {generation.number})",
        )
        generation.confirmed_ended = stopped is not None and stopped.ended_at is not None
        generation.report = _generation_report(generation, stopped)

    def doubt(self, generation: Generation) -> None:
        """Stop a generation again later: its start had no known outcome, and may land yet."""
        if not generation.confirmed_ended:
            self._doubts.append(
                asyncio.create_task(self._stop_again(generation), name=f"doubt {generation.number}")
            )

    async def _stop_again(self, generation: Generation) -> None:
        for pause in options.LOST_START_PAUSES:
            await workflow.sleep(pause, summary="before a lost start is looked after again")
            try:
                await self.stop(generation, "USER_CLOSED")
            except ActivityError:
                return  # cancelled: the end came
            if generation.confirmed_ended:
                return

    # ----------------------------------------------------------------- room

    async def clean_room(self, room: str, identities: list[str], request: SessionRequest) -> None:
        """Leave no room of our own behind; a hosted one goes with its session.

        Args:
            room: its name.
            identities: the avatars that were sent there.
            request: whose room it is.
        """
        assert request.room is not None
        identity, delete = identities[-1], request.room.delete_at_end
        cleaned = await self._until_done(
            names.ACTIVITY_CLEAN_ROOM,
            CleanRoom(
                room=room, avatar_identity=identity, earlier=identities[-3:-1], delete=delete
            ),
            CleanedRoom,
            alerts.room_left(room, identity, delete=delete),
            summary=f"clean room {room}",
        )
        self._room_clean = cleaned is not None

    # --------------------------------------------------------------- report

    def report(self) -> CleanupReport:
        """What is left behind: nothing, if all went well."""
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

    # --------------------------------------------------------------- inside

    async def _until_done(
        self,
        activity: str,
        step: BaseModel,
        result_type: type[Result],
        left: LeftBehind,
        *,
        summary: str,
    ) -> Result | None:
        """Run a cleanup until it works, in stretches; after the first one there is an alert.

        Returns:
            None when it did not work in half an hour, or never can.

        Raises:
            ActivityError: cancelled.
        """
        since = workflow.now()
        give_up = since + options.CLEANUP_TIMEOUT
        stretch = options.CLEANUP_ALERT_AFTER
        while True:
            try:
                result = await execute(
                    activity,
                    step,
                    result_type,
                    options.CLEANUP,
                    summary=summary,
                    # The last try may come late, with the workers: it is made all the same.
                    schedule_to_close_timeout=max(
                        _SHORTEST_STRETCH, min(stretch, give_up - workflow.now())
                    ),
                )
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise
                failure, pause = failure_of(error), _pause_after(error)
                again_at = None if pause is None else workflow.now() + pause
                if again_at is not None and again_at + _SHORTEST_STRETCH > give_up:
                    again_at = None
                then = _what_happens(again_at, give_up, pause)
                self._record.raise_alert(
                    left.name, alerts.alert(left, failure, since=since, then=then)
                )
                if again_at is None:
                    self._problems[left.name] = f"{left.problem}: {failure.message}"
                    return None
                if pause:
                    await workflow.sleep(pause, summary="it was asked for this pause")
            else:
                self._record.clear_alert(left.name)
                self._problems.pop(left.name, None)
                return result
            stretch = min(3 * stretch, options.CLEANUP_STRETCH)


_SHORTEST_STRETCH: Final = timedelta(seconds=1)


def _pause_after(error: ActivityError) -> timedelta | None:
    """Before the next stretch: what was asked for, within reason; None: it can never work."""
    if not isinstance(error.cause, ApplicationError):
        return timedelta(0)  # a time ran out: the worker died, or nobody answered
    pause = retry_delay(error)
    return None if pause is None else min(pause, options.CLEANUP_PAUSE_MAX)


def _what_happens(again_at: datetime | None, give_up: datetime, pause: timedelta | None) -> str:
    if again_at is None:
        return "nothing: it is not tried again" + ("" if pause is not None else ", it cannot work")
    until = f"until {give_up:%H:%M:%S} UTC; then the session's report says what is left"
    return (
        f"tried again at {again_at:%H:%M:%S} UTC, {until}"
        if pause
        else f"tried again every few seconds, {until}"
    )


def _generation_report(generation: Generation, stopped: StoppedSession | None) -> GenerationReport:
    """What a generation cost: by LiveAvatar's books, or by our clock where they do not tell."""
    earlier, started_at = generation.report, generation.started_at
    at = stopped.stopped_at if stopped is not None else workflow.now()
    if stopped is not None and stopped.ended_at is not None and stopped.ended_at < at:
        at = stopped.ended_at if started_at is None else max(started_at, stopped.ended_at)
    ran_s = stopped.ran_s if stopped is not None else None
    if generation.confirmed_started and not ran_s:
        ran_s = None  # the books do not know a session that we have seen run
    if stopped is not None and ran_s is None and earlier is not None and earlier.stop == "stopped":
        return earlier
    if ran_s is None:
        ran_s = max(0.0, (at - started_at).total_seconds()) if started_at else 0.0
    stop = "unconfirmed" if stopped is None else stopped.stop
    if stop == "already_gone" and earlier is not None and earlier.stop == "stopped":
        stop = "stopped"
    return GenerationReport(
        number=generation.number,
        provider_session_id=generation.provider_session_id,
        started_at=started_at,
        stopped_at=None if stopped is None else at,
        billed_s=round(ran_s, 3),
        stop=stop,
        provider_end_reason=stopped.provider_end_reason if stopped else None,
        credits_consumed=stopped.credits_consumed if stopped else None,
    )
