"""Sends commands and utterances to the session's owner, on its private task queue.

What a missing answer means for the owner is decided in `owner_monitor`; when to send, by the
workflow.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception
from temporalio.workflow import ActivityConfig

with workflow.unsafe.imports_passed_through():
    from avatar_sessions.contract import names
    from avatar_sessions.contract.activities import (
        ClipCursor,
        ClipSpoken,
        CommandDelivered,
        DeliverCommand,
        OwnerReady,
        SpeakClip,
    )
    from avatar_sessions.contract.messages import End, SetPose, Speak
    from avatar_sessions.contract.reports import Failure
    from avatar_sessions.contract.states import CommandOutcome, SessionState, UtteranceOutcome

from workflows.parts import options
from workflows.parts.execute_activity import execute
from workflows.parts.failures import (
    failure_of,
    is_heartbeat_timeout,
    last_heartbeat,
    may_be_repeated,
    never_reached_owner,
)
from workflows.parts.ledger import CommandLedger, LedgerEntry
from workflows.parts.owner_monitor import OwnerMonitor, deliver_to_owner
from workflows.parts.session_state import Generation, SessionRecord


class OwnerCommands:
    """The workflow's side of the owner's inbox."""

    def __init__(
        self,
        record: SessionRecord,
        ledger: CommandLedger,
        monitor: OwnerMonitor,
        *,
        resumes: bool = True,
    ) -> None:
        """``resumes``: whether the next owner continues a clip that a lost owner left."""
        self._record = record
        self._ledger = ledger
        self._monitor = monitor
        self._resumes = resumes

    # ------------------------------------------------------------- commands

    async def deliver(self, entry: LedgerEntry) -> CommandOutcome | None:
        """Deliver a command; None when the owner did not answer."""
        command = entry.command
        assert not isinstance(command, Speak | End)
        owner = self._monitor.present
        payload = DeliverCommand(
            session_key=self._record.session_key,
            epoch=owner.epoch,
            command_id=entry.id,
            kind=command.kind,
            pose=command.pose if isinstance(command, SetPose) else None,
            up_to_order=entry.interrupts_up_to,
            delayed_s=(workflow.now() - entry.accepted_at).total_seconds(),
        )
        summary = f"{command.kind} {command.pose}" if isinstance(command, SetPose) else command.kind
        try:
            return (await deliver_to_owner(owner, payload, summary=summary)).outcome
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            if not may_be_repeated(error):
                # A bug: a retry would fail again, for ever.
                workflow.logger.error("%s failed: %s", summary, failure_of(error).message)
                return CommandOutcome.CANCELLED
            self._monitor.mark_unreachable(owner)
            return None

    async def query_last_activity(self, known: datetime) -> datetime | None:
        """When a speaker was last active; None if the owner cannot say now.

        Args:
            known: what the workflow itself knows; the answer for an owner without live speech.
        """
        owner = self._record.owner
        if owner is None or not owner.speakers:
            return known
        if self._record.state is not SessionState.LIVE:
            return None
        try:
            answer = await self._send("tell_idle", options.PROBE, summary="query idle time")
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            self._monitor.suspect()
            return None
        return workflow.now() - timedelta(seconds=answer.idle_s)

    async def stop_feeding(self) -> None:
        """Make the owner send no more audio."""
        try:
            await self._send("stop_feeding", summary="stop feeding")
        except ActivityError as error:
            workflow.logger.warning("the owner did not answer: %s", failure_of(error).message)

    async def retire(self, within: timedelta) -> None:
        """Let the owner finish the current utterance, and begin no other one."""
        config = options.DELIVER.copy()
        config["start_to_close_timeout"] = within + options.RETIRE_MARGIN
        try:
            await self._send(
                "retire", config, summary="finish current utterance", within=within.total_seconds()
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.warning("the owner did not retire: %s", failure_of(error).message)

    async def hand_over(self) -> None:
        """Make the owner release the session; the next owner continues its speech."""
        try:
            await self._send("hand_over", summary="hand over to next generation")
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.warning("the owner did not hand over: %s", failure_of(error).message)

    async def _send(
        self,
        kind: Literal["stop_feeding", "tell_idle", "retire", "hand_over"],
        config: ActivityConfig = options.DELIVER,
        *,
        summary: str,
        within: float = 0.0,
    ) -> CommandDelivered:
        owner = self._monitor.present
        payload = DeliverCommand(
            session_key=self._record.session_key,
            epoch=owner.epoch,
            command_id=str(workflow.uuid4()),
            kind=kind,
            up_to_order=self._ledger.last_sequence,
            patience_s=within,
        )
        return await deliver_to_owner(owner, payload, config, summary=summary)

    # ----------------------------------------------------------- utterances

    async def speak(self, entry: LedgerEntry) -> None:
        """Have an utterance spoken: lasts as long as the avatar speaks."""
        assert isinstance(entry.command, Speak)
        owner, clip = self._monitor.present, entry.command.clip
        payload = SpeakClip(
            session_key=self._record.session_key,
            epoch=owner.epoch,
            utterance_id=entry.id,
            order=entry.sequence,
            clip=clip,
            **resume_point(entry.left_at, self._record.current_generation),
        )
        summary = f"utterance {entry.sequence}: {clip.file or clip.url or 'sealed address'}"
        if payload.offset_bytes:
            summary = f"resume {summary}"
        try:
            spoken = await execute(
                names.ACTIVITY_SPEAK,
                payload,
                ClipSpoken,
                options.UTTERANCE,
                summary=summary,
                task_queue=owner.queue,
            )
        except ActivityError as error:
            await self._on_speak_failed(entry, owner, error)
        else:
            self._on_spoken(entry, owner, spoken)

    def _on_spoken(self, entry: LedgerEntry, owner: OwnerReady, spoken: ClipSpoken) -> None:
        if spoken.left_at is not None:
            entry.left_at = spoken.left_at
            self._leave_to_next_owner(entry, None)
            self._monitor.mark_unreachable(owner)
            return
        self._ledger.finish_utterance(entry, spoken.report, workflow.now())
        if spoken.cut_in_band_at is not None:
            self._ledger.drop_accepted_before(spoken.cut_in_band_at, workflow.now())
        self._record.show_utterances(self._ledger.latest)

    async def _on_speak_failed(
        self, entry: LedgerEntry, owner: OwnerReady, error: ActivityError
    ) -> None:
        if is_cancelled_exception(error):
            raise error
        if never_reached_owner(error):
            self._ledger.requeue(entry, workflow.now())
            self._monitor.mark_unreachable(owner)
            return
        entry.left_at = last_heartbeat(error, ClipCursor) or entry.left_at
        if is_heartbeat_timeout(error):
            # If the owner is alive after all, it recognises this clip as the one it speaks.
            self._leave_to_next_owner(entry, failure_of(error))
            await self._monitor.probe()
        else:
            self._ledger.mark_lost(entry, failure_of(error), workflow.now())

    def _leave_to_next_owner(self, entry: LedgerEntry, failure: Failure | None) -> None:
        """Decide on a clip whose owner is lost in the middle of it, or seems to be."""
        now = workflow.now()
        if entry.sequence <= self._ledger.interrupted_up_to:
            self._ledger.drop(entry, UtteranceOutcome.INTERRUPTED, CommandOutcome.CANCELLED, now)
        elif self._resumes:
            self._ledger.requeue(entry, now)
        else:
            lost = failure or Failure(type="OwnerLost", message="its owner is gone")
            self._ledger.mark_lost(entry, lost, now)


def resume_point(left_at: ClipCursor | None, generation: Generation | None) -> dict[str, Any]:
    """Where the next owner continues a clip: at the first sample that LiveAvatar does not play.

    Args:
        left_at: how far the last owner came; None for a clip that no owner began.
        generation: the generation that speaks now.
    """
    if left_at is None:
        return {}
    if generation is not None and left_at.generation == generation.number:
        return {"offset_bytes": left_at.sent_bytes, "dry_at": left_at.dry_at}
    # What an earlier LiveAvatar session was sent and did not play is lost with it.
    return {"offset_bytes": left_at.heard_bytes}
