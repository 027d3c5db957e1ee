"""Where a session stands, and how the Temporal UI shows it.

One state with legal transitions, mirrored into search attributes and current details.
No decisions are taken here.
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
    from avatar_sessions.contract.messages import Failure, GenerationReport, UtteranceReport
    from avatar_sessions.contract.states import EndReason, SessionState, checked_transition
    from avatar_sessions.contract.steps import OwnerReady

STATE: Final = SearchAttributeKey.for_keyword(names.SEARCH_ATTRIBUTE_STATE)
PROVIDER_SESSION_ID: Final = SearchAttributeKey.for_keyword(
    names.SEARCH_ATTRIBUTE_PROVIDER_SESSION_ID
)
PROVIDER_SESSIONS: Final = SearchAttributeKey.for_keyword_list(
    names.SEARCH_ATTRIBUTE_PROVIDER_SESSIONS
)
ALERT: Final = SearchAttributeKey.for_keyword(names.SEARCH_ATTRIBUTE_ALERT)
TENANT: Final = SearchAttributeKey.for_keyword(names.SEARCH_ATTRIBUTE_TENANT)


@dataclass(frozen=True)
class Verdict:
    """Why the session ends."""

    reason: EndReason
    failure: Failure | None = None


@dataclass
class Generation:
    """One LiveAvatar session of ours."""

    number: int
    provider_session_id: str
    started_at: datetime | None = None
    report: GenerationReport | None = None


@dataclass
class Life:
    """A session's state, owner and history so far."""

    session_key: str
    tenant: str | None
    requested_at: datetime
    state: SessionState = SessionState.REQUESTED
    verdict: Verdict | None = None
    owner: OwnerReady | None = None
    live_at: datetime | None = None
    ends_at: datetime | None = None
    takeovers: int = 0
    reconnects: int = 0
    gaps: timedelta = timedelta(0)
    generations: list[Generation] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """The last utterances, in words for the page."""
    _recovering_since: datetime | None = None

    def to(self, wanted: SessionState) -> None:
        """Take one step; show it.

        Raises:
            IllegalSessionTransition: the table has no such arrow.
        """
        now = workflow.now()
        self.state = checked_transition(self.state, wanted)
        if self._recovering_since is not None:
            # Loss and return can reach the workflow at once: then only the owner knows the gap.
            told = timedelta(milliseconds=self.owner.gap_ms if self.owner else 0)
            self.gaps += max(now - self._recovering_since, told)
            self._recovering_since = None
        if wanted is SessionState.RECOVERING:
            self._recovering_since = now
        if wanted is SessionState.LIVE and self.live_at is None:
            self.live_at = now
        self._show()

    def show_said(self, utterances: Iterable[UtteranceReport]) -> None:
        """Show the last utterances on the workflow's page."""
        self.said = [
            f"- {one.source} `{one.id}`: **{one.outcome}**, {one.heard_ms / 1000:.1f} of"
            f" {one.duration_ms / 1000:.1f} s heard" + (f", “{one.text[:60]}”" if one.text else "")
            for one in utterances
        ]
        workflow.set_current_details(self._details())

    def end(self, verdict: Verdict) -> None:
        """Say why the session ends; the first reason stays."""
        if self.verdict is None:
            self.verdict = verdict

    def mint(self, provider_session_id: str) -> Generation:
        """Record a LiveAvatar session before billing can begin."""
        generation = Generation(len(self.generations) + 1, provider_session_id)
        self.generations.append(generation)
        return generation

    def owned_by(self, ready: OwnerReady) -> bool:
        """Take over the owner a signal names; a stale epoch is refused."""
        if self.owner is not None and tuple(ready.epoch) < tuple(self.owner.epoch):
            return False
        if self.owner is not None and tuple(ready.epoch) > tuple(self.owner.epoch):
            self.takeovers += 1
        elif self.owner is not None and ready.gap_ms:
            self.reconnects += 1
        self.owner = ready
        return True

    @property
    def current_generation(self) -> Generation | None:
        """The generation opened last."""
        return self.generations[-1] if self.generations else None

    def _show(self) -> None:
        attributes: list[SearchAttributeUpdate[Any]] = [STATE.value_set(self.state.value)]
        generation = self.current_generation
        if self.state is SessionState.MINTING and self.tenant is not None:
            attributes.append(TENANT.value_set(self.tenant))
        if self.state is SessionState.STARTING and generation is not None:
            attributes.append(PROVIDER_SESSION_ID.value_set(generation.provider_session_id))
            ids = [one.provider_session_id for one in self.generations]
            attributes.append(PROVIDER_SESSIONS.value_set(ids))
        workflow.upsert_search_attributes(attributes)
        workflow.set_current_details(self._details())

    def _details(self) -> str:
        lines = [f"**{self.state}** since {workflow.now():%H:%M:%S} UTC"]
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
        if self.verdict is not None:
            lines.append(f"end reason: **{self.verdict.reason}**")
            if self.verdict.failure is not None:
                lines.append(
                    f"failure: `{self.verdict.failure.type}` {self.verdict.failure.message}"
                )
        if self.said:
            lines.append("\n".join(["last utterances:", "", *self.said]))
        return "\n\n".join(lines)
