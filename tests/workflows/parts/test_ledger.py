"""Commands wait in order, expire, are known by their ids, and every utterance gets its report."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from avatar_sessions.contract.messages import Clip, Interrupt, SetPose, Speak
from avatar_sessions.contract.reports import UtteranceReport
from avatar_sessions.contract.states import CommandOutcome, Pose, UtteranceOutcome
from workflows.parts.ledger import (
    MAX_KNOWN_COMMANDS,
    MAX_REPORTED_UTTERANCES,
    CommandLedger,
    LedgerEntry,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CLIP = Clip(file="hello.flac")


def ledger() -> CommandLedger:
    return CommandLedger(default_ttl=timedelta(seconds=30))


def outcome_of(entry: LedgerEntry) -> str | None:
    return None if entry.result is None else entry.result.outcome


def test_a_repeated_id_is_the_same_command() -> None:
    commands = ledger()
    first = commands.accept(Speak(clip=CLIP, command_id="a"), "a", NOW)
    assert commands.known(Speak(clip=CLIP, command_id="a")) is first
    assert commands.known(Speak(clip=CLIP, command_id="b")) is None
    assert commands.known(Speak(clip=CLIP)) is None


def test_a_command_expires_after_its_time_to_live() -> None:
    commands = ledger()
    short = commands.accept(Speak(clip=CLIP, ttl_s=5), "short", NOW)
    default = commands.accept(SetPose(pose=Pose.LISTENING), "default", NOW)
    assert commands.next_expiry() == NOW + timedelta(seconds=5)
    commands.expire(NOW + timedelta(seconds=6))
    assert outcome_of(short) == UtteranceOutcome.EXPIRED
    assert outcome_of(default) is None
    assert list(commands.waiting) == [default]


def test_an_interrupt_cuts_utterances_accepted_before_it_only() -> None:
    commands = ledger()
    before = commands.accept(Speak(clip=CLIP), "before", NOW)
    cut = commands.accept(Interrupt(), "cut", NOW)
    after = commands.accept(Speak(clip=CLIP), "after", NOW)
    commands.drop_speech(cut.interrupts_up_to, UtteranceOutcome.INTERRUPTED, NOW)
    assert outcome_of(before) == UtteranceOutcome.INTERRUPTED
    assert outcome_of(after) is None


def test_the_end_answers_every_waiting_command() -> None:
    commands = ledger()
    speak = commands.accept(Speak(clip=CLIP), "speak", NOW)
    pose = commands.accept(SetPose(pose=Pose.IDLE), "pose", NOW)
    commands.drop_everything(NOW)
    assert outcome_of(speak) == UtteranceOutcome.CANCELLED
    assert outcome_of(pose) == CommandOutcome.CANCELLED
    assert not commands.waiting


def test_losing_the_owner_extends_the_expiry_of_queued_speech() -> None:
    """An utterance queued behind long speech expired the moment the owner was lost."""
    commands = ledger()
    entry = commands.accept(Speak(clip=CLIP), "speak", NOW)
    commands.speech_queue.append(commands.waiting.popleft())
    later = NOW + timedelta(minutes=5)
    commands.extend_expiry(later)
    commands.expire(later + timedelta(seconds=29))
    assert outcome_of(entry) is None
    commands.expire(later + timedelta(seconds=31))
    assert outcome_of(entry) == UtteranceOutcome.EXPIRED


def test_an_undispatched_command_expires_although_owners_come_and_go() -> None:
    """An owner that came and went each second kept a command alive for ever."""
    commands = ledger()
    entry = commands.accept(SetPose(pose=Pose.IDLE), "pose", NOW)
    for second in range(40):
        commands.extend_expiry(NOW + timedelta(seconds=second))
        commands.expire(NOW + timedelta(seconds=second))
    assert outcome_of(entry) == CommandOutcome.EXPIRED


def test_totals_count_utterances_that_the_list_leaves_out() -> None:
    commands = ledger()
    for number in range(MAX_REPORTED_UTTERANCES + 7):
        entry = commands.accept(Speak(clip=CLIP), f"u{number}", NOW)
        commands.waiting.popleft()
        report = UtteranceReport(
            id=entry.id, outcome=UtteranceOutcome.COMPLETED, sent_ms=100, heard_ms=90
        )
        commands.finish_utterance(entry, report, NOW)
    totals = commands.totals()
    assert len(commands.utterances) == MAX_REPORTED_UTTERANCES
    assert totals.count == MAX_REPORTED_UTTERANCES + 7
    assert totals.heard_ms == 90 * totals.count
    assert totals.by_outcome == {UtteranceOutcome.COMPLETED: totals.count}


def test_memory_is_bounded_but_keeps_every_unanswered_command() -> None:
    commands = ledger()
    waiting = commands.accept(Speak(clip=CLIP, command_id="waiting"), "waiting", NOW)
    for number in range(MAX_KNOWN_COMMANDS + 10):
        entry = commands.accept(SetPose(pose=Pose.IDLE, command_id=f"p{number}"), f"p{number}", NOW)
        commands.waiting.remove(entry)
        commands.finish(entry, CommandOutcome.SENT)
    assert commands.known(Speak(clip=CLIP, command_id="waiting")) is waiting
    assert commands.known(SetPose(pose=Pose.IDLE, command_id="p0")) is None


def test_only_the_first_ignored_messages_are_kept_in_full() -> None:
    commands = ledger()
    for _ in range(80):
        commands.ignore("speak", "x" * 2000, NOW)
    assert commands.ignored_count == 80
    assert len(commands.ignored) == 50
    assert len(commands.ignored[0].problem) == 500
