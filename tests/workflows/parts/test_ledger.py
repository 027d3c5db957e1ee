"""Commands wait in order, expire, are known by their ids, and every utterance gets its line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from avatar_sessions.contract.messages import (
    Clip,
    Interrupt,
    SetPose,
    Speak,
    UtteranceReport,
)
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
    book = ledger()
    first = book.accept(Speak(clip=CLIP, command_id="a"), "a", NOW)
    assert book.known(Speak(clip=CLIP, command_id="a")) is first
    assert book.known(Speak(clip=CLIP, command_id="b")) is None
    assert book.known(Speak(clip=CLIP)) is None


def test_what_waits_too_long_expires_and_the_rest_stays() -> None:
    book = ledger()
    hasty = book.accept(Speak(clip=CLIP, ttl_s=5), "hasty", NOW)
    patient = book.accept(SetPose(pose=Pose.LISTENING), "patient", NOW)
    assert book.next_expiry() == NOW + timedelta(seconds=5)
    book.expire(NOW + timedelta(seconds=6))
    assert outcome_of(hasty) == UtteranceOutcome.EXPIRED
    assert outcome_of(patient) is None
    assert list(book.waiting) == [patient]


def test_an_interrupt_cuts_what_was_asked_before_it_and_nothing_after() -> None:
    book = ledger()
    before = book.accept(Speak(clip=CLIP), "before", NOW)
    cut = book.accept(Interrupt(), "cut", NOW)
    after = book.accept(Speak(clip=CLIP), "after", NOW)
    book.drop_speech(cut.interrupts_up_to, UtteranceOutcome.INTERRUPTED, NOW)
    assert outcome_of(before) == UtteranceOutcome.INTERRUPTED
    assert outcome_of(after) is None


def test_the_end_answers_everybody() -> None:
    book = ledger()
    speak = book.accept(Speak(clip=CLIP), "speak", NOW)
    pose = book.accept(SetPose(pose=Pose.IDLE), "pose", NOW)
    book.drop_everything(NOW)
    assert outcome_of(speak) == UtteranceOutcome.CANCELLED
    assert outcome_of(pose) == CommandOutcome.CANCELLED
    assert not book.waiting


def test_losing_the_avatar_renews_what_waits() -> None:
    """What waited its turn behind long speech must not expire the moment the owner goes."""
    book = ledger()
    entry = book.accept(Speak(clip=CLIP), "speak", NOW)
    book.speech_queue.append(book.waiting.popleft())
    later = NOW + timedelta(minutes=5)
    book.extend_expiry(later)
    book.expire(later + timedelta(seconds=29))
    assert outcome_of(entry) is None
    book.expire(later + timedelta(seconds=31))
    assert outcome_of(entry) == UtteranceOutcome.EXPIRED


def test_what_was_never_handed_on_expires_however_often_the_avatar_goes() -> None:
    """An owner that came and went each second kept a command alive for ever."""
    book = ledger()
    entry = book.accept(SetPose(pose=Pose.IDLE), "pose", NOW)
    for second in range(40):
        book.extend_expiry(NOW + timedelta(seconds=second))
        book.expire(NOW + timedelta(seconds=second))
    assert outcome_of(entry) == CommandOutcome.EXPIRED


def test_totals_count_what_the_list_leaves_out() -> None:
    book = ledger()
    for number in range(MAX_REPORTED_UTTERANCES + 7):
        entry = book.accept(Speak(clip=CLIP), f"u{number}", NOW)
        book.waiting.popleft()
        report = UtteranceReport(
            id=entry.id, outcome=UtteranceOutcome.COMPLETED, sent_ms=100, heard_ms=90
        )
        book.finish_utterance(entry, report, NOW)
    totals = book.totals()
    assert len(book.utterances) == MAX_REPORTED_UTTERANCES
    assert totals.count == MAX_REPORTED_UTTERANCES + 7
    assert totals.heard_ms == 90 * totals.count
    assert totals.by_outcome == {UtteranceOutcome.COMPLETED: totals.count}


def test_memory_is_bounded_and_an_unanswered_command_is_never_forgotten() -> None:
    book = ledger()
    waiting = book.accept(Speak(clip=CLIP, command_id="waiting"), "waiting", NOW)
    for number in range(MAX_KNOWN_COMMANDS + 10):
        entry = book.accept(SetPose(pose=Pose.IDLE, command_id=f"p{number}"), f"p{number}", NOW)
        book.waiting.remove(entry)
        book.finish(entry, CommandOutcome.SENT)
    assert book.known(Speak(clip=CLIP, command_id="waiting")) is waiting
    assert book.known(SetPose(pose=Pose.IDLE, command_id="p0")) is None


def test_only_the_first_ignored_messages_are_kept_in_full() -> None:
    book = ledger()
    for _ in range(80):
        book.ignore("speak", "x" * 2000, NOW)
    assert book.ignored_count == 80
    assert len(book.ignored) == 50
    assert len(book.ignored[0].problem) == 500
