"""The session's record: its state, owner, generations and alerts, and how the Temporal UI shows it.

One state with legal transitions, mirrored into search attributes and current details. Takes no
decisions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from temporalio import workflow
from temporalio.common import SearchAttributeKey, SearchAttributeUpdate

with workflow.unsafe.imports_passed_through():
    from avatar_sessions.contract import names
    from avatar_sessions.contract.activities import OwnerReady
    from avatar_sessions.contract.reports import Failure, GenerationReport, UtteranceReport
    from avatar_sessions.contract.states import (
        BEFORE_LIVE,
        AlertKind,
        EndReason,
        SessionState,
        checked_transition,
    )

from workflows.parts.alerts import OperatorAlert

STATE: Final = SearchAttributeKey.for_keyword(names.SEARCH_ATTRIBUTE_STATE)
PROVIDER_SESSION_ID: Final = SearchAttributeKey.for_keyword(
    names.SEARCH_ATTRIBUTE_PROVIDER_SESSION_ID
)
PROVIDER_SESSIONS: Final = SearchAttributeKey.for_keyword_list(
    names.SEARCH_ATTRIBUTE_PROVIDER_SESSIONS
)
ALERT: Final = SearchAttributeKey.for_keyword(names.SEARCH_ATTRIBUTE_ALERT)
TENANT: Final = SearchAttributeKey.for_keyword(names.SEARCH_ATTRIBUTE_TENANT)
MAX_SHOWN_GENERATIONS: Final = 20
"""The newest ones: a search attribute has a limited size, and earlier generations have ended."""


@dataclass(frozen=True)
class EndCause:
    """Why the session ends."""

    reason: EndReason
    failure: Failure | None = None


@dataclass
class Generation:
    """One of the session's LiveAvatar sessions."""

    number: int
    provider_session_id: str
    started_at: datetime | None = None
    """When the request that begins billing was, or may have been, sent."""
    confirmed_started: bool = False
    """LiveAvatar has confirmed the start."""
    confirmed_ended: bool = False
    """LiveAvatar's billing shows the end: there is nothing left to stop."""
    report: GenerationReport | None = None


@dataclass(frozen=True)
class PendingWait:
    """What a start waits for, although nothing has failed."""

    what: str
    since: datetime

    def __str__(self) -> str:
        return f"{self.what}, since {self.since:%H:%M:%S} UTC"


@dataclass
class SessionRecord:
    """A session's state, owner and history so far."""

    session_key: str
    tenant: str | None
    requested_at: datetime
    state: SessionState = SessionState.REQUESTED
    end_cause: EndCause | None = None
    """Why the session ends; None while it may go on."""
    owner: OwnerReady | None = None
    live_at: datetime | None = None
    ends_at: datetime | None = None
    active_generation: Generation | None = None
    """The generation that speaks; None before the first one."""
    switching: bool = False
    """Between two generations: the workflow delivers no command."""
    takeovers: int = 0
    reconnects: int = 0
    gaps: timedelta = timedelta(0)
    """Total time without an owner after the first one."""
    generations: list[Generation] = field(default_factory=list)
    utterance_lines: list[str] = field(default_factory=list)
    """The latest utterances, as Markdown for the workflow's page."""
    pending_wait: PendingWait | None = None
    alerts: dict[str, OperatorAlert] = field(default_factory=dict)
    """By what is left behind: a LiveAvatar session's id, or a room's name."""
    _recovering_since: datetime | None = None
    _generations_shown: int = 0
    _state_since: datetime = field(init=False)

    def __post_init__(self) -> None:
        self._state_since = self.requested_at

    # ---------------------------------------------------------------- state

    def transition_to(self, wanted: SessionState) -> None:
        """Change the state and show it.

        Raises:
            IllegalSessionTransition: the table has no such transition.
        """
        now = workflow.now()
        self.state = checked_transition(self.state, wanted)
        self._state_since = now
        if self._recovering_since is not None:
            # Loss and return can reach the workflow in one task: then only the owner knows the gap.
            owner_gap = timedelta(milliseconds=self.owner.gap_ms if self.owner else 0)
            self.gaps += max(now - self._recovering_since, owner_gap)
            self._recovering_since = None
        if wanted is SessionState.RECOVERING:
            self._recovering_since = now
        if wanted is SessionState.LIVE and self.live_at is None:
            self.live_at = now
        if wanted is SessionState.ENDING:
            self.pending_wait = None
        self._show()

    def begin_step(self, wanted: SessionState) -> None:
        """Show a step of a generation's start; only the first generation changes the state."""
        if self.state in BEFORE_LIVE:
            self.transition_to(wanted)
        else:
            self._show()

    def end(self, end_cause: EndCause) -> None:
        """Record why the session ends; the first cause stays."""
        if self.end_cause is None:
            self.end_cause = end_cause

    def set_pending_wait(self, what: str | None) -> None:
        """Show what the start waits for; None when the wait is over."""
        if what is None:
            if self.pending_wait is None:
                return
            self.pending_wait = None
        elif self.end_cause is not None:
            return
        elif self.pending_wait is None or self.pending_wait.what != what:
            self.pending_wait = PendingWait(what, workflow.now())
        workflow.set_current_details(self._details())

    # -------------------------------------------------- generations, owners

    def add_generation(self, provider_session_id: str) -> Generation:
        """Record a minted LiveAvatar session, before its billing can begin."""
        generation = Generation(len(self.generations) + 1, provider_session_id)
        self.generations.append(generation)
        return generation

    @property
    def current_generation(self) -> Generation | None:
        """The generation that speaks, or the one being opened."""
        return self.active_generation or (self.generations[-1] if self.generations else None)

    def accept_owner(self, ready: OwnerReady) -> bool:
        """Record the owner that a signal names; False if its epoch is stale.

        Epochs are compared within one generation only: an owner that stood by may have an earlier
        epoch than a replaced owner of the generation before.
        """
        before = self.owner
        if before is not None and ready.provider_session_id == before.provider_session_id:
            if tuple(ready.epoch) < tuple(before.epoch):
                return False
            if tuple(ready.epoch) > tuple(before.epoch):
                self.takeovers += 1
            elif ready.gap_ms:
                self.reconnects += 1
        self.owner = ready
        return True

    def switch_to(self, generation: Generation, ready: OwnerReady | None) -> None:
        """Make a generation the active one; without an owner the session is RECOVERING."""
        self.active_generation = generation
        if ready is not None:
            self.accept_owner(ready)
        if ready is None and self.state is SessionState.LIVE:
            self.transition_to(SessionState.RECOVERING)
        elif ready is not None and self.state is SessionState.RECOVERING:
            self.transition_to(SessionState.LIVE)
        else:
            workflow.set_current_details(self._details())

    # --------------------------------------------------------------- alerts

    def raise_alert(self, left: str, alert: OperatorAlert) -> None:
        """Show an alert; an alert for the same thing is replaced by the newer text."""
        before = self.alert
        self.alerts[left] = alert
        self._show_alert(before)

    def clear_alert(self, left: str) -> None:
        """Remove the alert: its cleanup has succeeded."""
        before = self.alert
        if self.alerts.pop(left, None) is not None:
            self._show_alert(before)

    @property
    def alert(self) -> str | None:
        """The most severe active alert, or None."""
        kinds = {one.kind for one in self.alerts.values()}
        return next((kind.value for kind in AlertKind if kind in kinds), None)

    def _show_alert(self, before: str | None) -> None:
        if self.alert != before:
            update = ALERT.value_unset() if self.alert is None else ALERT.value_set(self.alert)
            workflow.upsert_search_attributes([update])
        workflow.set_current_details(self._details())

    # -------------------------------------------------------- Temporal's UI

    def show_utterances(self, utterances: Iterable[UtteranceReport]) -> None:
        """Show the latest utterances on the workflow's page."""
        self.utterance_lines = [
            f"- {one.source} `{one.id}`: **{one.outcome}**, {one.heard_ms / 1000:.1f} of"
            f" {one.duration_ms / 1000:.1f} s heard" + (f", “{one.text[:60]}”" if one.text else "")
            for one in utterances
        ]
        workflow.set_current_details(self._details())

    def _show(self) -> None:
        attributes: list[SearchAttributeUpdate[Any]] = [STATE.value_set(self.state.value)]
        if self.state is SessionState.MINTING and self.tenant is not None:
            attributes.append(TENANT.value_set(self.tenant))
        if len(self.generations) > self._generations_shown:
            # The newest id is always among them: the janitor finds a billed session by its id.
            self._generations_shown = len(self.generations)
            ids = [one.provider_session_id for one in self.generations]
            attributes.append(PROVIDER_SESSION_ID.value_set(ids[-1]))
            attributes.append(PROVIDER_SESSIONS.value_set(ids[-MAX_SHOWN_GENERATIONS:]))
        workflow.upsert_search_attributes(attributes)
        workflow.set_current_details(self._details())

    def _details(self) -> str:
        lines = [one.text for one in self.alerts.values()]
        lines.append(f"**{self.state}** since {self._state_since:%H:%M:%S} UTC")
        if self.pending_wait is not None:
            lines.append(f"waiting for {self.pending_wait}")
        generation = self.current_generation
        if generation is not None:
            lines.append(
                f"LiveAvatar session `{generation.provider_session_id}`"
                f" (generation {generation.number})"
            )
        if self.owner is not None:
            lines.append(
                f"owner `{self.owner.queue}`, epoch {self.owner.epoch[0]}.{self.owner.epoch[1]}"
            )
        if self.end_cause is not None:
            lines.append(f"end reason: **{self.end_cause.reason}**")
            if self.end_cause.failure is not None:
                lines.append(
                    f"failure: `{self.end_cause.failure.type}` {self.end_cause.failure.message}"
                )
        if self.utterance_lines:
            lines.append("\n".join(["latest utterances:", "", *self.utterance_lines]))
        return "\n\n".join(lines)
