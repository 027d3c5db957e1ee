"""The outbox against a model of the owner: whatever breaks whenever, speech stays whole."""

from __future__ import annotations

import random

import pytest

from avatar_sessions.contract.live_dialect import LiveBegin, LiveInterrupted, LiveProgress
from avatar_sessions.contract.reports import UtteranceReport
from avatar_sessions.contract.states import UtteranceOutcome
from avatar_sessions.live.outbox import Outbox
from avatar_sessions.live.outgoing_utterance import OutgoingState, OutgoingUtterance
from avatar_sessions.live.protocol import PcmChunk, SpeakerMessage
from liveavatar_lite.messages import AgentInterrupt, AgentSpeakEnd

WINDOW = 4_000
WEIGHTS = (6, 8, 8, 4)


class ModelOwner:
    """Takes messages and gives answers, both when the test asks. Nothing is lost in between."""

    def __init__(self, number: int, generation: int = 1) -> None:
        self.epoch = (1, number)
        self.generation = generation
        self.played: dict[str, int] = {}
        self.pcm: dict[str, bytearray] = {}
        self.offsets: dict[str, int] = {}
        self.sent: dict[str, int] = {}
        self.finished: set[str] = set()
        self.reports: dict[str, UtteranceReport] = {}
        self.answers: list[LiveProgress | UtteranceReport | LiveInterrupted] = []
        self.current = ""

    def take(self, message: SpeakerMessage) -> None:
        match message:
            case PcmChunk(utterance_id=name, pcm=pcm):
                assert name == self.current, "speech of another utterance than was begun last"
                assert name not in self.finished, "speech after its end"
                self.pcm[self.current] += pcm
            case LiveBegin(utterance_id=name):
                self.current = name
                if name not in self.pcm:
                    self.pcm[name] = bytearray()
                    self.offsets[name] = self.sent[name] = message.offset_bytes
                self.answers.append(self.reports.get(name) or self.progress(name))
            case AgentSpeakEnd(event_id=str(name)):
                self.finished.add(name)
            case AgentInterrupt(event_id=name):
                for each in self.pcm:
                    self.over(each, UtteranceOutcome.INTERRUPTED)
                self.answers.append(LiveInterrupted(event_id=name))

    def received(self, name: str) -> int:
        return self.offsets[name] + len(self.pcm[name])

    def progress(self, name: str) -> LiveProgress:
        return LiveProgress(
            utterance_id=name,
            received_bytes=self.received(name),
            sent_bytes=self.sent[name],
            played_bytes=self.played.get(name, 0),
        )

    def work(self, chance: random.Random) -> None:
        """Send some of it on; end what is done."""
        for name in self.pcm:
            if name in self.reports:
                continue
            ready = self.received(name) - self.sent[name]
            self.sent[name] += chance.randrange(0, ready + 1) & ~1
            played = max(self.played.get(name, 0), self.offsets[name])
            self.played[name] = chance.randrange(played, max(played, self.sent[name]) + 1)
            self.answers.append(self.progress(name))
            if name in self.finished and self.sent[name] == self.received(name):
                self.over(name, UtteranceOutcome.COMPLETED)

    def over(self, name: str, outcome: UtteranceOutcome) -> None:
        if name not in self.reports:
            self.reports[name] = UtteranceReport(id=name, outcome=outcome, source="live")
            self.answers.append(self.reports[name])


class Story:
    """One random sequence of what can happen to an outbox."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.outbox = Outbox()
        self.owner = ModelOwner(1)
        self.now_s = 0.0
        self.written: dict[str, bytes] = {}
        self.sent_before: dict[str, bytes] = {}  # sent on by earlier owners
        self.utterances: list[OutgoingUtterance] = []
        self.connect()

    def connect(self) -> None:
        self.outbox.connected(self.owner.epoch, WINDOW, self.owner.generation)

    def speak(self) -> None:
        one = self.outbox.open_utterance
        if one is None:
            one = self.outbox.open(f"u-{len(self.utterances)}", None)
            self.utterances.append(one)
            self.written[one.id] = b""
        pcm = self.chance.randbytes(self.chance.randrange(0, 3_000) & ~1)[: self.outbox.room_bytes]
        self.outbox.write(one, memoryview(pcm))
        self.written[one.id] += pcm
        if self.chance.random() < 0.2:
            self.outbox.finish(one)

    def send(self) -> None:
        self.now_s += 0.02
        message = self.outbox.next_message(self.now_s)
        if message is not None:
            self.owner.take(message)

    def answer(self) -> None:
        if self.owner.answers:
            answer = self.owner.answers.pop(0)
            if isinstance(answer, LiveProgress):
                self.outbox.progress(answer, self.now_s)
            elif isinstance(answer, UtteranceReport):
                self.outbox.over(answer, self.now_s)
            else:
                self.outbox.interrupted(answer)

    def break_off(self) -> None:
        """Answers of the owner that have not arrived are lost with the connection."""
        self.owner.answers.clear()
        self.owner.current = ""
        self.outbox.disconnected()
        self.connect()

    def move(self) -> None:
        """Another owner, without state: what was sent on and not reported is said twice."""
        for one in self.utterances:
            if one.report is None and one.id in self.owner.pcm:
                begun_at = self.owner.offsets[one.id]
                said = self.sent_before.get(one.id, b"")[:begun_at]
                self.sent_before[one.id] = said + bytes(
                    self.owner.pcm[one.id][: one.sent_bytes - begun_at]
                )
        self.owner = ModelOwner(self.owner.epoch[1] + 1, self.owner.generation)
        self.break_off()

    def rotate(self) -> None:
        """Another LiveAvatar session: speech not reported as played is said again."""
        for one in self.utterances:
            if one.report is None and one.id in self.owner.pcm:
                begun_at = self.owner.offsets[one.id]
                said = self.sent_before.get(one.id, b"")[:begun_at] + bytes(self.owner.pcm[one.id])
                self.sent_before[one.id] = said[: one.kept_from]
        self.owner = ModelOwner(self.owner.epoch[1] + 1, self.owner.generation + 1)
        self.break_off()

    def work(self) -> None:
        self.owner.work(self.chance)

    def check(self) -> None:
        on_the_wire = sum(
            one.framed_bytes - one.sent_bytes for one in self.utterances if one.report is None
        )
        assert on_the_wire <= WINDOW
        # A rotation takes back what was not played, which is more than the window then.
        assert self.outbox.unconfirmed_bytes <= WINDOW or self.owner.generation > 1
        for name, pcm in self.owner.pcm.items():
            whole = self.written[name]
            offset = self.owner.offsets[name]
            assert whole[offset : offset + len(pcm)] == pcm, "lost, doubled or misplaced"

    def settle(self) -> None:
        """No more trouble from here on: every utterance ends."""
        if (one := self.outbox.open_utterance) is not None:
            self.outbox.finish(one)
        for _ in range(3_000):
            if all(one.report is not None for one in self.utterances):
                return
            self.send()
            self.work()
            while self.owner.answers:
                self.answer()
        raise AssertionError("something hangs")


@pytest.mark.parametrize("seed", range(60))
def test_speech_stays_whole_through_breaks_and_moves(seed: int) -> None:
    story = Story(seed)
    steps = [story.speak, story.send, story.answer, story.work]
    troubles = [story.break_off, story.move, story.rotate]

    for _ in range(400):
        story.chance.choices(steps, WEIGHTS)[0]()
        if story.chance.random() < 0.03:
            story.chance.choice(troubles)()
        story.check()
    story.settle()

    for one in story.utterances:
        assert one.report is not None
        assert one.report.outcome is UtteranceOutcome.COMPLETED
        if one.id in story.owner.pcm:
            begun_at = story.owner.offsets[one.id]
            sent = story.sent_before.get(one.id, b"")[:begun_at] + bytes(story.owner.pcm[one.id])
            assert sent == story.written[one.id]


@pytest.mark.parametrize("seed", range(60))
def test_interrupts_among_breaks_and_moves_end_exactly_what_they_cut(seed: int) -> None:
    story = Story(seed)
    steps = [story.speak, story.send, story.answer, story.work]
    cut: set[str] = set()
    asked = []

    for number in range(400):
        story.chance.choices(steps, WEIGHTS)[0]()
        trouble = story.chance.random()
        if trouble < 0.02:
            story.chance.choice([story.break_off, story.move, story.rotate])()
        elif trouble < 0.04:
            cut |= {one.id for one in story.utterances if one.report is None}
            asked.append(story.outbox.interrupt(f"i-{number}"))
            assert story.outbox.open_utterance is None
        story.check()
    story.settle()
    story.outbox.disconnected()

    for one in story.utterances:
        assert one.state is OutgoingState.OVER
        assert one.report is not None
        if one.report.outcome is not UtteranceOutcome.COMPLETED:
            assert one.id in cut, "cut by an interrupt that came before it"
    assert all(one.answer is not None or not one.is_sent for one in asked)


def test_an_owner_that_lacks_confirmed_speech_loses_the_utterance() -> None:
    """Speech that was confirmed is not kept: it cannot be sent again."""
    outbox = Outbox()
    outbox.connected((1, 1), WINDOW)
    one = outbox.open("u", None)
    outbox.write(one, memoryview(bytes(2_000)))
    assert outbox.next_message(0.0) == LiveBegin(utterance_id="u")
    assert outbox.next_message(0.0) == PcmChunk("u", bytes(2_000))
    progress = LiveProgress(
        utterance_id="u", received_bytes=2_000, sent_bytes=1_000, played_bytes=0
    )
    outbox.progress(progress, 0.0)
    outbox.disconnected()
    outbox.connected((1, 2), WINDOW)
    outbox.next_message(0.0)

    outbox.progress(progress.model_copy(update={"received_bytes": 500}), 0.0)

    assert one.report is not None
    assert one.report.outcome is UtteranceOutcome.LOST
    assert outbox.next_message(0.0) == AgentSpeakEnd("u")
