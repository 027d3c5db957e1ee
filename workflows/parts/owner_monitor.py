"""Failure detector for the session's owner: suspects it, probes it, replaces it, and gives up.

The owner is the worker process that has the session's WebSocket to LiveAvatar. It takes commands on
its private task queue, named in its ``owner_ready`` signal. Decides who must be owner, not what the
owner does: commands are in `owner_commands`, streams (the activity that makes a process the owner)
in `streams`.

Theory of operation
-------------------

Temporal notices a dead owner by its missing heartbeats, after 13 seconds. Listeners hear silence
for that long, so the workflow detects failures itself, as SWIM does: an unanswered message makes
the owner suspect, a direct probe decides.

::

    PRESENT ──────► SUSPECTED ──────► PROBED ──────► REPLACED ──────► SUCCESSOR AWAITED
       ▲            suspect()         probe()        _replace()       _call_another()
       │            mark_unreachable()   │           on_drain()           │       │
       │                                 │                                │       │
       └──────── answer: LIVE ◄──────────┘                                │       ▼
       └──────── owner_ready with a later epoch: LIVE ◄───────────────────┘   RECOVERY_TIMEOUT:
                                                                              connection_failed

* PRESENT: the session is LIVE. The workflow sends no periodic probes; that would cost events.
* SUSPECTED: there are two degrees. `suspect` follows a hint that may be wrong (a speaker's
  connection broke, a query timed out): the session stays LIVE, but new speakers wait for the
  probe. `mark_unreachable` follows a command that got no answer, or the owner's own signal that it
  lost LiveAvatar's socket: the session is RECOVERING and delivers no command.
* PROBED: ``keep_alive`` on the owner's queue. An answer ends the suspicion, and makes a RECOVERING
  session LIVE. An answer that says "not the owner" changes nothing: the next probe, or the
  successor's signal, decides. A timeout replaces the owner. A false alarm loses nothing: the
  successor takes the socket over, and the clip continues where it was.
* REPLACED: the stream's activity is cancelled and a new one is scheduled. Each owner is replaced
  once: its epoch is remembered. An owner that drains (``on_drain``) is replaced without a probe.
* SUCCESSOR AWAITED: the successor connects and signals ``owner_ready`` with a later epoch. A
  stopped process (SIGSTOP) still has open polls and may be handed the new task, so another
  successor is called after ``SUCCESSOR_TIMEOUT`` (1 s if the owner took the probe, which suggests
  a stopped process; otherwise 3 s). The time doubles, so that a slow successor can finish.

A process that dies while the avatar speaks, in seconds::

    0.0  the process dies                              PRESENT
    0.3  a speaker's connection breaks: owner_lost     SUSPECTED
    0.3  probe on the private queue                    PROBED
    0.8  nothing polls that queue: not taken           REPLACED, RECOVERING
    0.8  stream_audio scheduled again                  SUCCESSOR AWAITED
    1.2  owner_ready from another process, epoch 2.1   PRESENT, LIVE

While the session is RECOVERING, `recover` looks again after 1, 2, 4 and then every 5 seconds: it
probes an owner that was not replaced, and calls another successor if the last one is overdue. After
180 seconds the session ends with ``connection_failed``.
"""

from __future__ import annotations

from datetime import datetime

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception
from temporalio.workflow import ActivityConfig

with workflow.unsafe.imports_passed_through():
    from avatar_sessions.contract import names
    from avatar_sessions.contract.activities import (
        CommandDelivered,
        DeliverCommand,
        Epoch,
        OwnerReady,
    )
    from avatar_sessions.contract.reports import Failure
    from avatar_sessions.contract.states import EndReason, SessionState

from workflows.parts import options
from workflows.parts.audio_streams import Streams
from workflows.parts.execute_activity import execute
from workflows.parts.failures import is_not_taken, timed_out
from workflows.parts.ledger import CommandLedger
from workflows.parts.session_state import EndCause, SessionRecord


class OwnerMonitor:
    """Decides whether the session's owner is alive, and replaces one that is not."""

    def __init__(self, record: SessionRecord, ledger: CommandLedger, streams: Streams) -> None:
        self._record = record
        self._ledger = ledger
        self._streams = streams
        self._suspicion_open = False
        """There is a suspicion that no probe has looked into yet."""
        self._probing = False
        """A probe is in progress."""
        self._last_answer_at: datetime | None = None
        """When an owner last answered a probe."""
        self._replaced_epoch: Epoch | None = None
        """Epoch of the last owner that was replaced: it is not probed again."""
        self._successor_due_at: datetime | None = None
        """When another successor is called."""
        self._successor_timeout = options.SUCCESSOR_TIMEOUT
        """How long the next successor may take."""

    @property
    def present(self) -> OwnerReady:
        """The owner on record; only LIVE and RECOVERING sessions are sure to have one."""
        owner = self._record.owner
        assert owner is not None, "LIVE and RECOVERING have an owner"
        return owner

    @property
    def suspected(self) -> bool:
        """Whether the owner is suspected to be lost, and has not answered a probe since."""
        return self._suspicion_open or self._probing

    def suspect(self) -> None:
        """Suspect the owner, unless it has just answered a probe."""
        answered_at = self._last_answer_at
        if answered_at is None or workflow.now() - answered_at >= options.PROBE_PAUSE:
            self._suspicion_open = True

    def mark_unreachable(self, owner: OwnerReady) -> None:
        """Recover from an owner that did not answer, unless another one has taken over."""
        if self._record.state is SessionState.LIVE and self._record.owner == owner:
            self._ledger.extend_expiry(workflow.now())
            self._record.transition_to(SessionState.RECOVERING)

    def on_drain(self, owner: OwnerReady) -> None:
        """Replace an owner that drains, without a probe.

        The workflow replaces it, because the server's own retry is a timer, and those fire a second
        late (measured, docs/internals/design.md).
        """
        self.mark_unreachable(owner)
        if self._streams.is_current_session(owner.provider_session_id):
            self._replaced_epoch = owner.epoch
            self._successor_timeout = options.SUCCESSOR_TIMEOUT
            self._replace()

    async def recover(self) -> None:
        """Probe a suspected or unreachable owner until it answers, is replaced, or time is up."""
        while True:
            await workflow.wait_condition(
                lambda: self._record.state is SessionState.RECOVERING or self._suspicion_open
            )
            give_up_at = workflow.now() + options.RECOVERY_TIMEOUT
            pause = options.PROBE_PAUSE
            await self.probe()
            while self._record.state is SessionState.RECOVERING:
                try:
                    await workflow.wait_condition(
                        lambda: self._record.state is not SessionState.RECOVERING,
                        timeout=pause,
                        timeout_summary="pause before next probe",
                    )
                except TimeoutError:
                    await self.probe()
                pause = min(2 * pause, options.PROBE_PAUSE_MAX)
                # The session may have become LIVE during the probe.
                is_lost = self._record.state is SessionState.RECOVERING
                if is_lost and workflow.now() >= give_up_at:
                    message = f"no owner for {options.RECOVERY_TIMEOUT.total_seconds():g} s"
                    failure = Failure(type="OwnerLost", message=message)
                    self._record.end(EndCause(EndReason.CONNECTION_FAILED, failure))
                    return

    async def probe(self) -> None:
        """Probe the owner; replace one that does not answer."""
        self._suspicion_open = False
        owner = self.present
        if not self._streams.is_current_session(owner.provider_session_id):
            return  # another generation is being opened
        if self._replaced_epoch == owner.epoch:
            self._call_another()
            return
        self._probing = True
        try:
            await deliver_to_owner(
                owner,
                DeliverCommand(
                    session_key=self._record.session_key,
                    epoch=owner.epoch,
                    command_id=str(workflow.uuid4()),
                    kind="keep_alive",
                    up_to_order=self._ledger.last_sequence,
                ),
                options.PROBE,
                summary="probe owner",
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            if timed_out(error) and self._record.owner == owner:
                self._replace_silent(owner, took_probe=not is_not_taken(error))
            return
        finally:
            self._probing = False
        self._last_answer_at = workflow.now()
        if self._record.state is SessionState.RECOVERING and self._record.owner == owner:
            self._record.transition_to(SessionState.LIVE)

    def _replace_silent(self, owner: OwnerReady, *, took_probe: bool) -> None:
        """Replace an owner that did not answer; once, where two probes ran concurrently."""
        self.mark_unreachable(owner)
        if self._replaced_epoch != owner.epoch:
            self._replaced_epoch = owner.epoch
            # A stopped process took the probe, and may be handed its successors' tasks, too.
            self._successor_timeout = (
                options.SUCCESSOR_TIMEOUT_IF_STOPPED if took_probe else options.SUCCESSOR_TIMEOUT
            )
            self._replace()

    def _call_another(self) -> None:
        """Call another successor if the last one is overdue."""
        if self._successor_due_at is not None and workflow.now() >= self._successor_due_at:
            self._replace()

    def _replace(self) -> None:
        self._successor_due_at = workflow.now() + self._successor_timeout
        self._successor_timeout *= 2
        self._streams.replace_owner()


async def deliver_to_owner(
    owner: OwnerReady,
    command: DeliverCommand,
    config: ActivityConfig = options.DELIVER,
    *,
    summary: str,
) -> CommandDelivered:
    """Deliver a command on an owner's private queue.

    Raises:
        ActivityError: the owner did not take or answer it in time, or is not the owner.
    """
    return await execute(
        names.ACTIVITY_DELIVER_COMMAND,
        command,
        CommandDelivered,
        config,
        summary=summary,
        task_queue=owner.queue,
    )
