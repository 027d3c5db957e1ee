"""Connects an owned session with its workflow: its reports become signals of the contract.

Implements `owner.observer.SessionSupervisor`. Holds no lease: `activities.streaming.ownership`
does, and decides whether the session may reconnect.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from activities.streaming.workflow_signals import SignalQueue
from avatar_sessions.contract import names
from avatar_sessions.contract.activities import (
    Epoch,
    GrantedSpeaker,
    OwnerReady,
    OwnerRecovering,
    StreamAudio,
)
from avatar_sessions.contract.reports import UtteranceReport
from avatar_sessions.contract.states import Pose
from avatar_sessions.seal import Seal
from liveavatar_lite import LiteError, LiveAvatar
from owner.ingress.tickets import Tickets
from owner.observer import ProviderEnd

logger = logging.getLogger(__name__)


class ReconnectPermit(Protocol):
    """Knows whether this process is still the session's owner."""

    async def may_reconnect(self) -> bool:
        """Whether a lost socket may be opened again."""


class SpeakerGrants:
    """Grants speakers access to this process's ingress."""

    def __init__(self, tickets: Tickets, seal: Seal, ingress_url: Callable[[], str | None]) -> None:
        self._tickets = tickets
        self._seal = seal
        self._ingress_url = ingress_url

    def grant(self, session_key: str, epoch: Epoch) -> GrantedSpeaker | None:
        """A ticket for one session in one epoch, sealed; None if this process has no ingress."""
        url = self._ingress_url()
        if url is None:
            return None
        ticket, expires_at = self._tickets.issue(session_key, epoch)
        return GrantedSpeaker(
            ingress_url=url, ticket=self._seal.seal(ticket), expires_at=expires_at
        )


class StreamSupervisor:
    """Receives the reports of the session that one ``stream_audio`` serves.

    Attributes:
        signals: to the workflow.
        permit: asked before a socket is opened again; set before the session runs.
    """

    permit: ReconnectPermit

    def __init__(
        self,
        step: StreamAudio,
        *,
        queue: str,
        signals: SignalQueue,
        grants: SpeakerGrants,
        liveavatar: LiveAvatar,
        text_seal: Seal | None,
    ) -> None:
        """Supervise a session.

        Args:
            step: what the workflow asked for.
            queue: the task queue of this process.
            signals: to the workflow.
            grants: of access to this process's ingress.
            liveavatar: asked whether the session has ended.
            text_seal: seals the words of utterances for the history; None: they stay readable.
        """
        self._step = step
        self._queue = queue
        self.signals = signals
        self._grants = grants
        self._liveavatar = liveavatar
        self._text_seal = text_seal

    def on_ready(self, gap_ms: int) -> None:
        """Signal that the session has a socket, with a speaker's grant to this ingress."""
        epoch = self.signals.epoch
        speaker = self._grants.grant(self._step.session_key, epoch)
        self.signals.send(
            names.SIGNAL_OWNER_READY,
            OwnerReady(
                queue=self._queue,
                epoch=epoch,
                provider_session_id=self._step.provider_session_id,
                gap_ms=gap_ms,
                speakers=speaker is not None,
                speaker=speaker,
            ),
        )

    def on_disconnected(self) -> None:
        """Signal that the session has no socket now."""
        self.signals.send(names.SIGNAL_OWNER_RECOVERING, OwnerRecovering(epoch=self.signals.epoch))

    def on_drain(self) -> None:
        """Signal that this process hands the session over."""
        self.signals.send(
            names.SIGNAL_OWNER_RECOVERING,
            OwnerRecovering(epoch=self.signals.epoch, leaving=True),
        )

    def on_report(self, report: UtteranceReport, *, may_continue: bool) -> None:
        """Signal the report of a live utterance, its words sealed if history may not have them."""
        if report.text is not None and self._text_seal is not None:
            sealed_text = self._text_seal.seal(report.text)
            report = report.model_copy(update={"text": None, "sealed_text": sealed_text})
        self.signals.send_report(report, may_continue=may_continue)

    def on_pose_requested(self, pose: Pose) -> None:
        """Signal a pose that a speaker requested in band."""
        self.signals.send_pose(pose)

    async def provider_end(self) -> ProviderEnd | None:
        """Ask LiveAvatar whether the session has ended; None also if it cannot be known now."""
        try:
            entry = await self._liveavatar.get_session(self._step.provider_session_id)
        except LiteError as error:
            logger.info("the session's state cannot be read: %s", error)
            return None
        if entry is None:
            return ProviderEnd(None)
        if entry.end_at is None and entry.end_reason is None:
            return None
        return ProviderEnd(None if entry.end_reason is None else str(entry.end_reason))

    async def may_reconnect(self) -> bool:
        """Whether a lost socket may be opened again; see `Ownership.may_reconnect`."""
        return await self.permit.may_reconnect()
