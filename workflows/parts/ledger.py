"""The commands and utterances of one session: queues, known ids, expiry, and reports.

Pure bookkeeping with time as an argument: no Temporal, no I/O.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from avatar_sessions.contract.activities import ClipCursor
from avatar_sessions.contract.messages import CommandBase, End, Interrupt, KeepAlive, SetPose, Speak
from avatar_sessions.contract.reports import (
    CommandResult,
    Failure,
    IgnoredMessage,
    UtteranceReport,
    UtteranceTotals,
)
from avatar_sessions.contract.states import CommandOutcome, UtteranceOutcome

MAX_KNOWN_COMMANDS: Final = 1000
MAX_WAITING_COMMANDS: Final = 200
MAX_REPORTED_UTTERANCES: Final = 500
MAX_REPORTED_IGNORED: Final = 50
LATEST_SHOWN: Final = 5
BYTES_PER_MS: Final = 48
"""PCM, 16-bit mono at 24 kHz."""

AnyCommand = Speak | Interrupt | SetPose | KeepAlive | End


@dataclass(eq=False)
class LedgerEntry:
    """An accepted command, and its result once there is one."""

    command: AnyCommand
    id: str
    expires_at: datetime
    accepted_at: datetime
    sequence: int = 0
    """Position among the utterances, from 1; 0 for a command that is not speech."""
    interrupts_up_to: int = 0
    """Sequence number of the last utterance accepted before: an interrupt cuts up to here."""
    left_at: ClipCursor | None = None
    """How far the clip had come when its owner was lost."""
    result: CommandResult | None = None

    @property
    def kind(self) -> str:
        return self.command.kind


@dataclass
class CommandLedger:
    """Every command of a session, each under one id, in the order of acceptance."""

    default_ttl: timedelta
    waiting: deque[LedgerEntry] = field(default_factory=deque)
    """Accepted and not dispatched yet; in order."""
    speech_queue: deque[LedgerEntry] = field(default_factory=deque)
    """Utterances that are not spoken yet, and ends that wait for them; in order."""
    speaking: LedgerEntry | None = None
    last_sequence: int = 0
    interrupted_up_to: int = 0
    """Utterances up to this sequence number are interrupted, also one that is being spoken."""
    utterances: list[UtteranceReport] = field(default_factory=list)
    ignored: list[IgnoredMessage] = field(default_factory=list)
    ignored_count: int = 0
    latest: deque[UtteranceReport] = field(default_factory=lambda: deque(maxlen=LATEST_SHOWN))
    """The last few reports, for the status query and the workflow's page."""
    _known: OrderedDict[str, LedgerEntry] = field(default_factory=OrderedDict)
    _known_live: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _unfinished: dict[str, UtteranceReport] = field(default_factory=dict)
    _by_outcome: dict[UtteranceOutcome, int] = field(default_factory=dict)
    _count: int = 0
    _sent_ms: int = 0
    _heard_ms: int = 0

    def known(self, command: CommandBase) -> LedgerEntry | None:
        """The entry of an earlier command with the same id."""
        return None if command.command_id is None else self._known.get(command.command_id)

    def conflicts(self, command: AnyCommand) -> bool:
        """Whether an earlier command with the same id has another content."""
        known = self.known(command)
        return known is not None and known.command.model_copy(
            update={"ttl_s": None}
        ) != command.model_copy(update={"ttl_s": None})

    def cancel_speaking(self, now: datetime) -> None:
        """Finish the current utterance without a result from its owner."""
        entry, self.speaking = self.speaking, None
        if entry is not None and entry.result is None:
            self.cancel(entry, now)

    def accept(self, command: AnyCommand, command_id: str, now: datetime) -> LedgerEntry:
        """Append a command to the queue; the caller checks that its id is new."""
        ttl = self.default_ttl if command.ttl_s is None else timedelta(seconds=command.ttl_s)
        entry = LedgerEntry(
            command, command_id, now + ttl, now, interrupts_up_to=self.last_sequence
        )
        if isinstance(command, Speak):
            self.last_sequence += 1
            entry.sequence = self.last_sequence
        self._known[command_id] = entry
        if len(self._known) > MAX_KNOWN_COMMANDS:
            self._forget_one_finished()
        self.waiting.append(entry)
        return entry

    def _forget_one_finished(self) -> None:
        for command_id, entry in self._known.items():
            if entry.result is not None:
                del self._known[command_id]
                return

    @property
    def full(self) -> bool:
        """Whether the queues accept no further command."""
        return len(self.waiting) + len(self.speech_queue) >= MAX_WAITING_COMMANDS

    def next_expiry(self) -> datetime | None:
        """When the first waiting command expires."""
        return min((entry.expires_at for entry in self._unspoken()), default=None)

    def expire(self, now: datetime) -> bool:
        """Finish commands that have waited too long for the avatar.

        Returns:
            Whether an end was among them: it does not expire, but takes effect.
        """
        has_end = False
        for entry in [entry for entry in self._unspoken() if entry.expires_at <= now]:
            if isinstance(entry.command, End):
                has_end = True
                self.drop(entry, UtteranceOutcome.EXPIRED, CommandOutcome.ACCEPTED, now)
            else:
                self.drop(entry, UtteranceOutcome.EXPIRED, CommandOutcome.EXPIRED, now)
        return has_end

    def requeue(self, entry: LedgerEntry, now: datetime) -> None:
        """Put a clip at the head of the queue again, for the next owner."""
        ttl_s = entry.command.ttl_s
        ttl = self.default_ttl if ttl_s is None else timedelta(seconds=ttl_s)
        entry.expires_at = max(entry.expires_at, now + ttl)
        self.speech_queue.appendleft(entry)

    def extend_expiry(self, now: datetime) -> None:
        """Restart the time to live of queued speech: the owner has just been lost."""
        for entry in self.speech_queue:
            ttl_s = entry.command.ttl_s
            ttl = self.default_ttl if ttl_s is None else timedelta(seconds=ttl_s)
            entry.expires_at = max(entry.expires_at, now + ttl)

    def drop_speech(self, up_to: int, outcome: UtteranceOutcome, now: datetime) -> None:
        """Finish utterances that are not spoken yet, up to a sequence number."""
        self.interrupted_up_to = max(self.interrupted_up_to, up_to)
        for entry in list(self._unspoken()):
            if 0 < entry.sequence <= up_to:
                self.drop(entry, outcome, CommandOutcome.CANCELLED, now)

    def drop_accepted_before(self, moment: datetime, now: datetime) -> None:
        """Finish utterances accepted before an interrupt that a speaker sent in band."""
        for entry in list(self._unspoken()):
            if entry.sequence and entry.accepted_at < moment:
                self.drop(entry, UtteranceOutcome.INTERRUPTED, CommandOutcome.CANCELLED, now)

    def drop_everything(self, now: datetime) -> None:
        """Finish every waiting command, because the session ends."""
        for entry in list(self._unspoken()):
            self.cancel(entry, now)

    def cancel(self, entry: LedgerEntry, now: datetime) -> None:
        """Finish one entry because the session ends."""
        self.drop(entry, UtteranceOutcome.CANCELLED, CommandOutcome.CANCELLED, now)

    def drop(
        self, entry: LedgerEntry, utterance: UtteranceOutcome, other: CommandOutcome, now: datetime
    ) -> None:
        """Finish one entry that never reached the avatar."""
        for queue in (self.waiting, self.speech_queue):
            if entry in queue:
                queue.remove(entry)
        if entry.sequence:
            self.finish_utterance(entry, _ownerless_report(entry, utterance), now)
        else:
            self.finish(entry, other)

    def finish(self, entry: LedgerEntry, outcome: CommandOutcome) -> None:
        """Answer a command that is not speech."""
        entry.result = CommandResult(command_id=entry.id, kind=entry.kind, outcome=outcome)

    def finish_utterance(self, entry: LedgerEntry, report: UtteranceReport, now: datetime) -> None:
        """Answer a speak command, and add its report."""
        if report.ended_at is None:
            report = report.model_copy(update={"ended_at": now})
        entry.result = CommandResult(
            command_id=entry.id, kind=entry.kind, outcome=report.outcome, utterance=report
        )
        self._add_report(report)

    def add_live_reports(self, reports: Iterable[UtteranceReport]) -> None:
        """Add the reports of live utterances that have ended.

        A known one is not counted twice: an owner repeats reports whose delivery is uncertain.
        """
        for report in reports:
            self._unfinished.pop(report.id, None)
            if report.id in self._known_live:
                continue
            self._known_live[report.id] = None
            if len(self._known_live) > MAX_KNOWN_COMMANDS:
                self._known_live.popitem(last=False)
            self._add_report(report)

    def keep_unfinished(self, reports: Iterable[UtteranceReport]) -> None:
        """Keep the reports of live utterances that the next owner may continue."""
        for one in reports:
            if one.id not in self._known_live and len(self._unfinished) < MAX_WAITING_COMMANDS:
                self._unfinished[one.id] = one

    def report_unfinished(self) -> None:
        """Add the reports of live utterances that no owner continued."""
        unfinished, self._unfinished = self._unfinished, {}
        self.add_live_reports(unfinished.values())

    def _add_report(self, report: UtteranceReport) -> None:
        self._count += 1
        self._by_outcome[report.outcome] = self._by_outcome.get(report.outcome, 0) + 1
        self._sent_ms += report.sent_ms
        self._heard_ms += report.heard_ms
        self.latest.append(report)
        if len(self.utterances) < MAX_REPORTED_UTTERANCES:
            self.utterances.append(report)

    def mark_lost(self, entry: LedgerEntry, failure: Failure, now: datetime) -> None:
        """Answer a speak command whose owner was lost without a result."""
        report = _ownerless_report(entry, UtteranceOutcome.LOST, failure)
        self.finish_utterance(entry, report, now)

    def ignore(self, name: str, problem: str, now: datetime) -> None:
        """Record a message that is invalid or refused."""
        self.ignored_count += 1
        if len(self.ignored) < MAX_REPORTED_IGNORED:
            self.ignored.append(IgnoredMessage(name=name[:100], problem=problem[:500], at=now))

    def totals(self) -> UtteranceTotals:
        """The sums over all utterances."""
        return UtteranceTotals(
            count=self._count,
            by_outcome=dict(self._by_outcome),
            sent_ms=self._sent_ms,
            heard_ms=self._heard_ms,
        )

    def _unspoken(self) -> Iterator[LedgerEntry]:
        yield from self.speech_queue
        yield from self.waiting


def _ownerless_report(
    entry: LedgerEntry, outcome: UtteranceOutcome, failure: Failure | None = None
) -> UtteranceReport:
    """The report of an utterance for which no owner reports."""
    left_at = entry.left_at
    sent_ms = 0 if left_at is None else left_at.sent_bytes // BYTES_PER_MS
    return UtteranceReport(
        id=entry.id,
        outcome=outcome,
        received_ms=sent_ms,
        sent_ms=sent_ms,
        heard_ms=0 if left_at is None else left_at.heard_bytes // BYTES_PER_MS,
        generation=0 if left_at is None else left_at.generation,
        failure=failure,
    )
