"""The core of the live dialect against seeded garbage: it answers, and raises nothing unknown."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import pytest

from avatar_sessions.contract.live_dialect import OWNER_MESSAGES, SPEAKER_MESSAGES, LiveBegin
from avatar_sessions.live.protocol import (
    LEGAL_TRANSITIONS,
    LivePhase,
    PcmChunk,
    SpeakerMessage,
    SpeakerProtocol,
)
from liveavatar_lite.errors import LiteError
from liveavatar_lite.messages import COMMANDS, EVENTS, AgentInterrupt, AgentSpeakEnd
from tests.support.speech.live_messages import COMMANDS_SENT, OWNER_SENDS, PCM, owner, speaker

WORDS: tuple[Any, ...] = (
    *SPEAKER_MESSAGES, *OWNER_MESSAGES, *COMMANDS, *EVENTS,
    "type", "event_id", "utterance_id", "audio", "payload", "error", "task", "state", "epoch",
    "utterance", "live", "closed", "AAAA", "\ud800", "\0", "é", "", "u", "x" * 300,
    0, 1, -1, 2**70, 1.5, 1e400, True, None,
)  # fmt: skip


class Garbage:
    """Seeded frames: valid ones, damaged ones, random JSON, and noise."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.valid = [
            LiveBegin(utterance_id="u", text="w").model_dump_json(),
            *(str(SpeakerProtocol.send(speaker(), command)) for command in COMMANDS_SENT),
            *(owner().send(message)[0] for message in OWNER_SENDS),
            *(json.dumps({"type": kind, "payload": {}}) for kind in EVENTS),
        ]

    def frame(self) -> str | bytes:
        chance = self.chance
        match chance.randrange(6):
            case 0:
                return chance.choice(self.valid)
            case 1:
                return self.damaged(chance.choice(self.valid))
            case 2:
                return chance.randbytes(chance.randrange(50))
            case 3:
                return "".join(chr(chance.randrange(1, 0xD800)) for _ in range(20))
            case 4:
                return json.dumps(self.value(0))
            case _:
                fields = {str(chance.choice(WORDS)): self.value(1) for _ in range(4)}
                return json.dumps({**fields, "type": chance.choice(WORDS)})

    def damaged(self, frame: str) -> str:
        at = self.chance.randrange(len(frame))
        return self.chance.choice(
            [
                frame[:at],
                frame[:at] + self.chance.choice('"\\{}[]:,0\0') + frame[at + 1 :],
                frame[:at] + frame[self.chance.randrange(len(frame)) :],
                frame[:-1] + f',"{self.chance.choice(WORDS)}":{json.dumps(self.value(1))}}}',
            ]
        )

    def value(self, depth: int) -> Any:
        kind = self.chance.randrange(4) if depth < 4 else 3
        if kind == 0:
            return [self.value(depth + 1) for _ in range(self.chance.randrange(4))]
        if kind == 1:
            return {str(self.chance.choice(WORDS)): self.value(depth + 1) for _ in range(3)}
        return self.chance.choice(WORDS)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("extended", [True, False])
def test_an_owner_answers_garbage_with_errors_and_never_raises(seed: int, extended: bool) -> None:
    garbage, protocol = Garbage(seed), owner(extended=extended)
    for _ in range(500):
        if protocol.close_code is not None:
            protocol = owner(extended=extended)
        for message in protocol.receive(garbage.frame()):
            if isinstance(message, AgentSpeakEnd):
                protocol.finish(message.event_id)
            elif isinstance(message, LiveBegin):
                protocol.open(message.utterance_id, message.utterance_id)
            elif isinstance(message, AgentInterrupt):
                for reply in protocol.interrupted(message.event_id, "u", 0):
                    reply.encode()
        for reply in protocol.replies_to_send():
            assert json.loads(reply)["type"] == "error"
            reply.encode()


@pytest.mark.parametrize("seed", range(20))
def test_a_speaker_survives_garbage_and_raises_errors_of_the_tree_only(seed: int) -> None:
    garbage, here = Garbage(seed), SpeakerProtocol()
    messages: list[SpeakerMessage] = [
        LiveBegin(utterance_id="u"),
        PcmChunk("u", PCM),
        PcmChunk(None, b""),
        *COMMANDS_SENT,
    ]
    for _ in range(500):
        phase = here.phase
        for event in here.receive(garbage.frame()):
            repr(event)
        assert here.phase is phase or here.phase in LEGAL_TRANSITIONS[phase]
        with contextlib.suppress(LiteError):
            here.send(garbage.chance.choice(messages))
        if here.phase is not LivePhase.READY and garbage.chance.random() < 0.1:
            here = speaker()
