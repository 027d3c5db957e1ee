"""What the session workflow asks of the session's owner, and what it does when nobody answers.

Commands go to the owner's private queue. One that is silent is asked again, replaced, and in the
end given up. When to ask is decided elsewhere.
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
        Epoch,
        OwnerReady,
        SpeakClip,
    )
    from avatar_sessions.contract.messages import End, Failure, SetPose, Speak
    from avatar_sessions.contract.states import (
        CommandOutcome,
        EndReason,
        SessionState,
        UtteranceOutcome,
    )

from workflows.parts import options
from workflows.parts.execute import execute
from workflows.parts.failures import (
    failure_of,
    is_heartbeat_timeout,
    is_not_taken,
    last_heartbeat,
    may_be_repeated,
    never_reached_owner,
    timed_out,
)
from workflows.parts.ledger import CommandLedger, LedgerEntry
from workflows.parts.provisioning import Provisioning
from workflows.parts.record import EndCause, SessionRecord


class OwnerMonitor:
    """The session's owner, whichever process that is."""

    def __init__(
        self,
        record: SessionRecord,
        ledger: CommandLedger,
        provider: Provisioning,
        *,
        resumes: bool = True,
    ) -> None:
        """Take what it works on, and whether a clip that an owner left is gone on with."""
        self._resumes = resumes
        self._record = record
        self._ledger = ledger
        self._provider = provider
        self._suspicion_open = False  # somebody says that it is lost
        self._probing = False  # it is asked whether it is there
        self._last_probe_answer_at: datetime | None = None  # when it last answered a probe
        self._replaced_epoch: Epoch | None = None  # the last one that was found to be silent
        self._successor_due_at: datetime | None = None  # then yet another one is called
        self._successor_timeout = options.SUCCESSOR_TIMEOUT

    @property
    def suspected(self) -> bool:
        """Whether somebody says that it is lost, and it was not asked, or has not answered, yet."""
        return self._suspicion_open or self._probing

    def suspect(self) -> None:
        """Somebody says that the owner is lost. One that has just answered is not asked again."""
        answered_at = self._last_probe_answer_at
        if answered_at is None or workflow.now() - answered_at >= options.PROBE_PAUSE:
            self._suspicion_open = True

    async def deliver(self, entry: LedgerEntry) -> CommandOutcome | None:
        """Put a command into the owner's inbox; None when the owner did not answer."""
        command = entry.command
        assert not isinstance(command, Speak | End)
        owner = self._present
        task = DeliverCommand(
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
            return (await self._call(owner, task, summary)).outcome
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            if not may_be_repeated(error):
                # Trying again would not help: a bug of ours must not be repeated for ever.
                workflow.logger.error("%s failed: %s", summary, failure_of(error).message)
                return CommandOutcome.CANCELLED
            self.mark_unreachable(owner)
            return None

    def _task(
        self,
        owner: OwnerReady,
        kind: Literal["keep_alive", "stop_feeding", "tell_idle", "retire", "hand_over"],
    ) -> DeliverCommand:
        return DeliverCommand(
            session_key=self._record.session_key,
            epoch=owner.epoch,
            command_id=str(workflow.uuid4()),
            kind=kind,
            up_to_order=self._ledger.last_sequence,
        )

    async def _call(
        self,
        owner: OwnerReady,
        task: DeliverCommand,
        summary: str,
        config: ActivityConfig = options.DELIVER,
    ) -> CommandDelivered:
        return await execute(
            names.ACTIVITY_DELIVER_COMMAND,
            task,
            CommandDelivered,
            config,
            summary=summary,
            task_queue=owner.queue,
        )

    async def speak(self, entry: LedgerEntry) -> None:
        """Have an utterance said: lasts as long as the avatar speaks."""
        assert isinstance(entry.command, Speak)
        owner = self._present
        task = SpeakClip(
            session_key=self._record.session_key,
            epoch=owner.epoch,
            utterance_id=entry.id,
            order=entry.sequence,
            clip=entry.command.clip,
            **self._where_it_was_left(entry.left_at),
        )
        clip = entry.command.clip
        summary = f"utterance {entry.sequence}: {clip.file or clip.url or 'sealed address'}"
        if task.offset_bytes:
            summary = f"going on with {summary}"
        try:
            said = await execute(
                names.ACTIVITY_SPEAK,
                task,
                ClipSpoken,
                options.UTTERANCE,
                summary=summary,
                task_queue=owner.queue,
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            if never_reached_owner(error):
                self._ledger.requeue(entry, workflow.now())
                self.mark_unreachable(owner)
                return
            entry.left_at = last_heartbeat(error, ClipCursor) or entry.left_at
            if is_heartbeat_timeout(error):
                # It may be there after all: then it is found saying this very clip.
                self._leave_off(entry, failure_of(error))
                await self._probe()
            else:
                self._ledger.mark_lost(entry, failure_of(error), workflow.now())
        else:
            if said.left_at is not None:
                entry.left_at = said.left_at
                self._leave_off(entry, None)
                self.mark_unreachable(owner)
                return
            self._ledger.finish_utterance(entry, said.report, workflow.now())
            if said.cut_in_band_at is not None:
                self._ledger.drop_accepted_before(said.cut_in_band_at, workflow.now())
            self._record.show_utterances(self._ledger.latest)

    def _leave_off(self, entry: LedgerEntry, failure: Failure | None) -> None:
        """An owner is gone in the middle of a clip, or seems to be."""
        now = workflow.now()
        if entry.sequence <= self._ledger.interrupted_up_to:
            self._ledger.drop(entry, UtteranceOutcome.INTERRUPTED, CommandOutcome.CANCELLED, now)
        elif self._resumes:
            self._ledger.requeue(entry, now)
        else:
            self._ledger.mark_lost(
                entry, failure or Failure(type="OwnerLost", message="its owner is gone"), now
            )

    def _where_it_was_left(self, left_at: ClipCursor | None) -> dict[str, Any]:
        """From where the next owner says a clip: the first sample that is not played by itself."""
        generation = self._record.current_generation
        if left_at is None:
            return {}
        if generation is not None and left_at.generation == generation.number:
            return {"offset_bytes": left_at.sent_bytes, "dry_at": left_at.dry_at}
        # What that LiveAvatar session had and did not play is gone with it.
        return {"offset_bytes": left_at.heard_bytes}

    async def query_last_activity(self, known: datetime) -> datetime | None:
        """When somebody last spoke past the workflow; None if that is not to be known now.

        Args:
            known: what the workflow itself knows: right where the owner takes no live speech.
        """
        owner = self._record.owner
        if owner is None or not owner.speakers:
            return known
        if self._record.state is not SessionState.LIVE:
            return None
        task = self._task(owner, "tell_idle")
        try:
            told = await self._call(owner, task, "has anybody spoken?", options.PROBE)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            self.suspect()  # it may be gone
            return None
        return workflow.now() - timedelta(seconds=told.idle_s)

    async def stop_feeding(self) -> None:
        """Let it say nothing more."""
        owner = self._present
        task = self._task(owner, "stop_feeding")
        try:
            await self._call(owner, task, "stop feeding")
        except ActivityError as error:
            workflow.logger.warning("the owner did not answer: %s", failure_of(error).message)

    async def retire(self, patience: timedelta) -> None:
        """Let it finish what is being said, and begin nothing more."""
        owner = self._present
        task = self._task(owner, "retire").model_copy(
            update={"patience_s": patience.total_seconds()}
        )
        config = options.DELIVER.copy()
        config["start_to_close_timeout"] = patience + options.RETIRE_MARGIN
        try:
            await self._call(owner, task, "finish what is being said", config)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.warning("the owner did not retire: %s", failure_of(error).message)

    async def hand_over(self) -> None:
        """Let it go: what it has not said is said by another."""
        owner = self._present
        task = self._task(owner, "hand_over")
        try:
            await self._call(owner, task, "hand over to the next generation")
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            workflow.logger.warning("the owner did not hand over: %s", failure_of(error).message)

    async def recover(self) -> None:
        """Where an owner is lost, or said to be: ask it, replace it, and in the end give up."""
        while True:
            await workflow.wait_condition(
                lambda: self._record.state is SessionState.RECOVERING or self._suspicion_open
            )
            give_up_at = workflow.now() + options.RECOVERY_TIMEOUT
            pause = options.PROBE_PAUSE
            await self._probe()
            while self._record.state is SessionState.RECOVERING:
                try:
                    await workflow.wait_condition(
                        lambda: self._record.state is not SessionState.RECOVERING,
                        timeout=pause,
                        timeout_summary="before asking the owner again",
                    )
                except TimeoutError:
                    await self._probe()
                pause = min(2 * pause, options.PROBE_PAUSE_MAX)
                # It may have come back meanwhile.
                is_lost = self._record.state is SessionState.RECOVERING
                if is_lost and workflow.now() >= give_up_at:
                    message = f"no owner for {options.RECOVERY_TIMEOUT.total_seconds():g} s"
                    failure = Failure(type="OwnerLost", message=message)
                    self._record.end(EndCause(EndReason.CONNECTION_FAILED, failure))
                    return

    async def _probe(self) -> None:
        """Ask the owner whether it is there. One that is silent is replaced."""
        self._suspicion_open = False
        owner = self._present
        if not self._provider.streams_session(owner.provider_session_id):
            return  # another generation is on its way
        if self._replaced_epoch == owner.epoch:
            self._call_another()
            return
        task = self._task(owner, "keep_alive")
        self._probing = True
        try:
            await self._call(owner, task, "is the owner there?", options.PROBE)
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            # One that took the question and does not answer is stopped, or overwhelmed.
            if not timed_out(error) or self._record.owner != owner:
                return
            self.mark_unreachable(owner)
            if self._replaced_epoch != owner.epoch:  # by whoever asked at the same time
                self._replaced_epoch = owner.epoch
                # One that is stopped, and not dead, is given its successors' tasks, too.
                self._successor_timeout = (
                    options.SUCCESSOR_TIMEOUT
                    if is_not_taken(error)
                    else options.SUCCESSOR_TIMEOUT_IF_STOPPED
                )
                self._replace()
            return
        finally:
            self._probing = False
        self._last_probe_answer_at = workflow.now()
        if self._record.state is SessionState.RECOVERING and self._record.owner == owner:
            self._record.transition_to(SessionState.LIVE)

    def on_drain(self, owner: OwnerReady) -> None:
        """It hands the session over: another one is called, and this one is not asked again.

        Called by the workflow, for the server's own retry is a timer, and those are a second late
        (measured, docs/internals/design.md).
        """
        self.mark_unreachable(owner)
        if self._provider.streams_session(owner.provider_session_id):
            self._replaced_epoch = owner.epoch
            self._successor_timeout = options.SUCCESSOR_TIMEOUT
            self._replace()

    def _call_another(self) -> None:
        """A successor was called and has not come: a process that is stopped may have been given
        the task, for its connection still asks for some."""
        if self._successor_due_at is not None and workflow.now() >= self._successor_due_at:
            self._replace()

    def _replace(self) -> None:
        self._successor_due_at = workflow.now() + self._successor_timeout
        self._successor_timeout *= 2  # or it is slow: it must not be hindered for ever
        self._provider.replace_owner()

    def mark_unreachable(self, owner: OwnerReady) -> None:
        """The owner did not answer: recover, unless another has taken over meanwhile."""
        if self._record.state is SessionState.LIVE and self._record.owner == owner:
            self._ledger.extend_expiry(workflow.now())
            self._record.transition_to(SessionState.RECOVERING)

    @property
    def _present(self) -> OwnerReady:
        owner = self._record.owner
        assert owner is not None, "LIVE and RECOVERING have an owner"
        return owner
