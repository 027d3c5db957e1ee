"""The core of the live dialect: every message in both roles, every phase, and bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from typing import Any

import pytest

from avatar_sessions.contract.live_dialect import (
    MAX_FRAME_BYTES,
    OWNER_MESSAGES,
    SPEAKER_MESSAGES,
    CloseCode,
    LiveBegin,
    LiveInterrupted,
    LiveProgress,
    LiveState,
    OwnerMessage,
)
from avatar_sessions.contract.reports import UtteranceReport
from avatar_sessions.contract.states import UtteranceOutcome
from avatar_sessions.live import protocol as core
from avatar_sessions.live.protocol import (
    LEGAL_TRANSITIONS,
    MAX_REFUSALS,
    DisconnectReason,
    LivePhase,
    NotUnderstood,
    PcmChunk,
    SpeakerMessage,
    SpeakerProtocol,
)
from liveavatar_lite.errors import (
    ConnectionLost,
    IllegalTransition,
    NotConnectedYet,
    ProtocolViolation,
)
from liveavatar_lite.messages import (
    COMMANDS,
    EVENTS,
    AgentInterrupt,
    AgentSpeak,
    AgentSpeakEnd,
    AgentStateUpdated,
    Command,
    ErrorReported,
    ServerEvent,
    SessionStateUpdated,
    SpeakEnded,
    SpeakInterrupted,
    SpeakStarted,
    encode_event,
    encode_speak,
)
from tests.support.speech.live_messages import (
    COMMANDS_SENT,
    OWNER_SENDS,
    PCM,
    READY,
    owner,
    speaker,
)


def report(utterance_id: str, outcome: UtteranceOutcome) -> UtteranceReport:
    return UtteranceReport(id=utterance_id, outcome=outcome, source="live")


def kinds(frames: list[str]) -> list[str]:
    return [json.loads(frame)["type"] for frame in frames]


# ---------------------------------------------------------------- the table of messages


def test_the_table_names_every_message_by_its_type_on_the_wire() -> None:
    for kind, model in {**SPEAKER_MESSAGES, **OWNER_MESSAGES}.items():
        assert model.model_fields["type"].default == kind
    assert {type(message) for message in OWNER_SENDS} == set(OWNER_MESSAGES.values())
    assert {type(command) for command in COMMANDS_SENT} == set(COMMANDS.values())


@pytest.mark.parametrize("command", COMMANDS_SENT, ids=lambda command: type(command).__name__)
def test_every_command_of_lite_arrives_as_it_was_sent(command: Command) -> None:
    assert owner().receive(speaker().send(command)) == [command]


@pytest.mark.parametrize(
    "begin",
    [
        LiveBegin(utterance_id="u"),
        LiveBegin(
            utterance_id="A.b_c:d@e/f+g=h-1",
            text='"quoted" \\ and ünïcode',
            offset_bytes=2**40,
            silent_ms=3,
            unplayed_ms=60_000,
            fresh=True,
        ),
    ],
)
def test_begin_and_pcm_arrive_as_they_were_sent(begin: LiveBegin) -> None:
    there, here = owner(), speaker()
    chunk = PcmChunk(begin.utterance_id, PCM)

    assert there.receive(here.send(begin)) == [begin]
    assert there.receive(here.send(chunk)) == [chunk]


@pytest.mark.parametrize("message", OWNER_SENDS, ids=lambda message: type(message).__name__)
def test_every_message_of_the_owner_arrives_as_it_was_sent(message: OwnerMessage) -> None:
    (frame,) = owner().send(message)
    assert speaker().receive(frame) == [message]


@pytest.mark.parametrize("kind", EVENTS)
def test_every_event_of_lite_reaches_the_speaker(kind: str) -> None:
    (event,) = speaker().receive(json.dumps({"type": kind}))
    assert type(event) is EVENTS[kind]


@pytest.mark.parametrize("message", [*OWNER_SENDS, AgentStateUpdated(None, "idle")])
def test_a_plain_lite_client_is_sent_no_message_of_the_dialect(
    message: OwnerMessage | ServerEvent,
) -> None:
    frames = owner(extended=False).send(message)
    assert kinds(frames) == ([] if type(message) in OWNER_MESSAGES.values() else kinds(frames))
    assert not any("live." in kind for kind in kinds(frames))


# ---------------------------------------------------------------- phases


def test_phases_only_move_forward() -> None:
    for phase, later in product(LivePhase, LivePhase):
        assert (later in LEGAL_TRANSITIONS[phase]) == (later > phase)


def test_the_greeting_is_lites_states_then_ready_then_the_state_of_speech() -> None:
    protocol = owner(greeted=False)
    frames = protocol.greet(READY, "recovering")
    here = SpeakerProtocol()
    assert [event for frame in frames for event in here.receive(frame)] == [
        SessionStateUpdated("new"),
        SessionStateUpdated("connected"),
        READY,
        LiveState(state="recovering"),
    ]
    assert here.phase is protocol.phase is LivePhase.READY
    with pytest.raises(IllegalTransition, match="READY to READY"):
        protocol.greet(READY, "live")


def test_a_plain_lite_client_is_greeted_with_lites_states_alone() -> None:
    assert kinds(owner(extended=False, greeted=False).greet(READY, "live")) == [
        "session.state_updated",
        "session.state_updated",
    ]


@pytest.mark.parametrize(
    "message", [LiveBegin(utterance_id="u"), PcmChunk("u", PCM), *COMMANDS_SENT]
)
def test_a_speaker_sends_nothing_before_ready_and_nothing_after_the_end(
    message: SpeakerMessage,
) -> None:
    with pytest.raises(NotConnectedYet, match=r"live\.ready"):
        speaker(ready=False).send(message)
    leaving = speaker()
    leaving.receive(encode_event(SessionStateUpdated("disconnected")))
    with pytest.raises(ConnectionLost, match="LEAVING"):
        leaving.send(message)
    closed = speaker()
    closed.closed(1001)
    with pytest.raises(ConnectionLost, match="1001"):
        closed.send(message)


@pytest.mark.parametrize("frame", ['{"type":"agent.interrupt"}', b"\0\0", "}{"])
def test_an_owner_drops_what_comes_before_its_greeting_or_after_its_leave(
    frame: str | bytes,
) -> None:
    left = owner()
    left.leave(session_over=False)
    for protocol in (owner(greeted=False), left):
        assert protocol.receive(frame) == []
        assert protocol.replies_to_send() == []


@pytest.mark.parametrize("state", ["closing", "closed", "disconnected"])
def test_a_session_that_was_announced_as_closed_is_over_whatever_the_close_code(
    state: str,
) -> None:
    for code in (None, 1000, 1006, CloseCode.MOVED):
        here = speaker()
        here.receive(encode_event(SessionStateUpdated(state)))
        assert here.phase is LivePhase.LEAVING
        here.receive(READY.model_dump_json())
        assert here.phase is LivePhase.LEAVING
        assert here.closed(code) is DisconnectReason.SESSION_OVER


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (None, DisconnectReason.BROKEN),
        (1000, DisconnectReason.BROKEN),
        (1006, DisconnectReason.BROKEN),
        (1011, DisconnectReason.BROKEN),
        (CloseCode.UNREAD, DisconnectReason.BROKEN),
        (CloseCode.BAD_MESSAGE, DisconnectReason.BROKEN),
        (CloseCode.MOVED, DisconnectReason.NOT_OWNER),
    ],
)
def test_a_close_without_an_announcement_is_a_break_or_a_move(
    code: int | None, reason: DisconnectReason
) -> None:
    for here in (speaker(), speaker(ready=False)):
        assert here.closed(code) is reason
        assert here.phase is LivePhase.CLOSED


def test_an_owner_that_leaves_says_why_once() -> None:
    over, moved = owner(), owner()
    assert kinds(over.leave(session_over=True)) == ["session.state_updated"]
    assert moved.leave(session_over=False) == []
    assert (over.close_code, moved.close_code) == (CloseCode.SESSION_OVER, CloseCode.MOVED)
    assert over.leave(session_over=True) == moved.leave(session_over=True) == []
    assert moved.close_code == CloseCode.MOVED


# ---------------------------------------------------------------- begin


def test_a_begin_with_a_long_text_before_its_type_is_a_begin() -> None:
    """The ingress looked for "live.begin" in the first 400 characters of a frame.

    A client whose JSON library sorts keys writes the text before the type: its utterances were
    refused as of an unknown type as soon as their text was long.
    """
    text = "word " * 700
    frame = json.dumps({"text": text, "utterance_id": "u", "type": "live.begin"})
    assert owner().receive(frame) == [LiveBegin(utterance_id="u", text=text)]


@pytest.mark.parametrize("name", ["live.begin", '"live.begin"', 'x"live.begin'])
def test_an_interrupt_that_mentions_live_begin_is_an_interrupt(name: str) -> None:
    """An interrupt whose event_id was "live.begin" was taken for a begin, refused, and lost.

    The avatar went on talking over the person who had interrupted it.
    """
    protocol = owner()
    assert protocol.receive(json.dumps({"type": "agent.interrupt", "event_id": name})) == [
        AgentInterrupt(name)
    ]
    assert protocol.refusals == 0


def test_a_type_written_with_escapes_is_that_type() -> None:
    frame = r'{"type":"live\u002ebegin","utterance_id":"u"}'
    assert owner().receive(frame) == [LiveBegin(utterance_id="u")]


def test_a_plain_lite_client_cannot_begin() -> None:
    protocol = owner(extended=False)
    assert protocol.receive(LiveBegin(utterance_id="u").model_dump_json()) == []
    (reply,) = protocol.replies_to_send()
    assert "live.begin" in reply


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"utterance_id": ""},
        {"utterance_id": "no spaces"},
        {"utterance_id": "u" * 129},
        {"utterance_id": "u", "offset_bytes": 3},
        {"utterance_id": "u", "offset_bytes": -2},
        {"utterance_id": "u", "unplayed_ms": 60_001},
        {"utterance_id": "u", "silent_ms": "soon"},
        {"utterance_id": "u", "text": "x" * 4001},
        {"utterance_id": "u", "text": "\ud800"},
    ],
)
def test_a_begin_that_is_wrong_is_refused_with_the_reason(fields: dict[str, Any]) -> None:
    protocol = owner()
    assert protocol.receive(json.dumps({"type": "live.begin", **fields})) == []
    (reply,) = protocol.replies_to_send()
    error = json.loads(reply)["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert protocol.utterance_id is None


# ---------------------------------------------------------------- PCM and its utterance


def test_a_speaker_sends_pcm_of_the_utterance_begun_last_only() -> None:
    here = speaker()
    with pytest.raises(ProtocolViolation, match="begin it first"):
        here.send(PcmChunk("u", PCM))
    here.send(LiveBegin(utterance_id="u"))
    here.send(LiveBegin(utterance_id="v"))
    assert here.send(PcmChunk("v", PCM)) == PCM
    with pytest.raises(ProtocolViolation, match="'u'"):
        here.send(PcmChunk("u", PCM))
    here.send(AgentInterrupt("i"))
    for utterance_id in ("v", None):
        with pytest.raises(ProtocolViolation):
            here.send(PcmChunk(utterance_id, PCM))


def test_pcm_under_way_when_its_utterance_was_cut_is_dropped() -> None:
    protocol = owner()
    protocol.receive(LiveBegin(utterance_id="u").model_dump_json())
    protocol.receive('{"type":"agent.interrupt"}')
    assert protocol.receive(PCM) == []
    protocol.receive(LiveBegin(utterance_id="v").model_dump_json())
    assert protocol.receive(PCM) == [PcmChunk("v", PCM)]
    assert protocol.refusals == 0


def test_pcm_after_a_begin_that_the_session_refused_belongs_to_no_other_utterance() -> None:
    """A thirty-third utterance was refused, and its speech was appended to the one before it."""
    protocol = owner()
    protocol.receive(LiveBegin(utterance_id="u").model_dump_json())
    protocol.open("u", "u")
    protocol.receive(LiveBegin(utterance_id="one-too-many").model_dump_json())
    protocol.refuse("too many utterances")
    assert protocol.receive(PCM) == [PcmChunk("one-too-many", PCM)]


def test_a_plain_lite_client_may_send_pcm_without_a_begin() -> None:
    protocol = owner(extended=False)
    assert protocol.receive(PCM) == [PcmChunk(None, PCM)]
    protocol.open("u", None)
    assert protocol.receive(PCM) == [PcmChunk("u", PCM)]


def test_an_end_finishes_the_utterance_it_names_else_the_current_one() -> None:
    protocol = owner()
    for utterance_id in ("u", "v"):
        protocol.receive(LiveBegin(utterance_id=utterance_id).model_dump_json())
        protocol.open(utterance_id, utterance_id)
    assert protocol.finish("u") == "u"
    assert protocol.receive(PCM) == [PcmChunk("v", PCM)]
    assert protocol.finish("unknown") == "v"
    assert protocol.receive(PCM) == []
    assert protocol.finish(None) is None


def test_a_plain_lite_clients_end_finishes_the_current_utterance_whatever_it_names() -> None:
    protocol = owner(extended=False)
    protocol.open("u", "mine")
    assert protocol.finish("other") == "u"


def test_an_end_with_audio_is_speech_and_then_an_end() -> None:
    frame = '{"type":"agent.speak_end","event_id":"u","audio":"AQIDBA=="}'
    assert owner().receive(frame) == [AgentSpeak(b"\1\2\3\4", "u"), AgentSpeakEnd("u")]


# ---------------------------------------------------------------- what the owner reports


def test_an_utterance_is_reported_under_the_name_that_its_client_gave_it() -> None:
    protocol = owner(extended=False)
    protocol.open("generated", "no spaces allowed")
    frames = protocol.started("generated")
    frames += protocol.over(report("generated", UtteranceOutcome.COMPLETED))
    frames += protocol.started("a-clip")
    frames += protocol.over(report("a-clip", UtteranceOutcome.INTERRUPTED))
    assert [event for frame in frames for event in speaker().receive(frame)] == [
        SpeakStarted("id", "no spaces allowed", "generated"),
        SpeakEnded("id", "no spaces allowed", "generated"),
        SpeakStarted("id", "a-clip", "a-clip"),
        SpeakInterrupted("id", "a-clip", "a-clip"),
    ]


def test_an_utterance_that_never_played_has_no_end_in_lite_and_one_in_the_dialect() -> None:
    line = report("u", UtteranceOutcome.LOST)
    assert owner(extended=False).over(line) == []
    assert kinds(owner().over(line)) == ["live.over"]


def test_progress_goes_to_the_connection_that_brings_the_utterance_only() -> None:
    protocol = owner()
    progress = LiveProgress(utterance_id="u", received_bytes=0, sent_bytes=0, played_bytes=0)
    assert protocol.progress(progress) == []
    protocol.open("u", "u")
    assert kinds(protocol.progress(progress)) == ["live.progress"]
    protocol.over(report("u", UtteranceOutcome.COMPLETED))
    assert protocol.progress(progress) == []


def test_an_interrupt_is_answered_with_its_own_id() -> None:
    (frame,) = owner().interrupted("i", "u", 40)
    assert speaker().receive(frame) == [
        LiveInterrupted(event_id="i", utterance_id="u", heard_ms=40)
    ]


# ---------------------------------------------------------------- bad input


def begin_of(size: int) -> str:
    frame = json.dumps({"utterance_id": "u", "type": "live.begin", "padding": ""})
    return frame[:-2] + "x" * (size - len(frame)) + '"}'


@pytest.mark.parametrize("make", [bytes, begin_of], ids=["PCM", "live.begin"])
def test_a_frame_over_the_limit_is_refused_and_ends_the_connection(make: Any) -> None:
    protocol = owner()
    protocol.receive(LiveBegin(utterance_id="u").model_dump_json())
    assert len(protocol.receive(make(MAX_FRAME_BYTES))) == 1
    assert protocol.close_code is None
    assert protocol.receive(make(MAX_FRAME_BYTES + 1)) == []
    assert protocol.close_code == CloseCode.TOO_LARGE
    assert kinds(protocol.replies_to_send()) == ["error"]


def test_too_many_refusals_end_the_connection() -> None:
    protocol = owner()
    for number in range(MAX_REFUSALS + 1):
        assert protocol.close_code is None
        protocol.receive("}{" if number % 2 else '{"type":"live.begin"}')
    assert protocol.close_code == CloseCode.BAD_MESSAGE
    assert len(protocol.replies_to_send()) == MAX_REFUSALS + 1


@pytest.mark.parametrize("kind", [kind for kind in COMMANDS if kind != "start"])
def test_half_of_a_surrogate_pair_in_an_event_id_is_refused(kind: str) -> None:
    """JSON's escapes can name half of a character, which no answer can repeat.

    An interrupt with such an id failed inside, and its speaker's connection was cut.
    """
    protocol = owner()
    frame = rf'{{"type":"{kind}","event_id":"\ud83d","audio":"AAAA"}}'
    assert protocol.receive(frame) == []
    (reply,) = protocol.replies_to_send()
    assert "Unicode" in reply


@pytest.mark.parametrize(
    "frame",
    ["", "}{", "[1]", "7", "null", '{"type": 7}', "{}", '{"type":"live.new"}', "[" * 100_000]
    + [f'{{"type":"{kind}"}}' for kind in OWNER_MESSAGES if kind != "live.interrupted"],
)
def test_a_speaker_skips_a_frame_that_it_does_not_understand(frame: str) -> None:
    (event,) = speaker().receive(frame)
    assert isinstance(event, NotUnderstood)
    assert event.problem


def test_unknown_fields_are_ignored() -> None:
    (frame,) = owner().send(OWNER_SENDS[2])
    assert speaker().receive(frame[:-1] + ',"more":[1]}') == [OWNER_SENDS[2]]


def test_binary_frames_mean_nothing_to_a_speaker() -> None:
    assert speaker().receive(b"\0" * 100) == []


# ---------------------------------------------------------------- the hot path


def test_pcm_and_agent_speak_are_never_parsed_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = owner()
    protocol.receive(LiveBegin(utterance_id="u").model_dump_json())
    spoken = encode_speak(PCM * 100, "u").decode()
    monkeypatch.setattr(json, "loads", lambda *_: pytest.fail("a frame with audio was parsed"))
    assert protocol.receive(PCM) == [PcmChunk("u", PCM)]
    assert protocol.receive(spoken) == [AgentSpeak(PCM * 100, "u")]
    assert speaker_of(LiveBegin(utterance_id="u")).send(PcmChunk("u", PCM)) is PCM


def speaker_of(begin: LiveBegin) -> SpeakerProtocol:
    here = SpeakerProtocol()
    here.phase = LivePhase.READY
    here.send(begin)
    return here


def test_the_core_is_imported_without_the_client_and_without_temporal() -> None:
    """The process that owns sessions imports the core: it must not pay for the client."""
    program = (
        "import sys, avatar_sessions.live.protocol;"
        "heavy = {'temporalio', 'avatar_sessions.client', 'avatar_sessions.session',"
        " 'avatar_sessions.errors', 'avatar_sessions.live.connection'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_owners_error_reply_is_one_that_a_speaker_reads() -> None:
    protocol = owner()
    protocol.refuse("x" * 1000, "e")
    (reply,) = protocol.replies_to_send()
    (event,) = speaker().receive(reply)
    assert event == ErrorReported("invalid_request_error", "x" * 400, "e", "id")


def test_the_theory_of_operation_names_every_message() -> None:
    theory = core.__doc__ or ""
    for kind in {**SPEAKER_MESSAGES, **OWNER_MESSAGES}:
        assert kind in theory, kind
