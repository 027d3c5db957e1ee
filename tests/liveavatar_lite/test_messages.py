"""The message table: the JSON on the wire, byte for byte where it matters."""

from __future__ import annotations

import base64
import json

import pytest

from liveavatar_lite import (
    AgentInterrupt,
    AgentSpeak,
    AgentSpeakEnd,
    AgentStart,
    AgentStartListening,
    AgentStateUpdated,
    AgentStopListening,
    AudioBufferAppended,
    BadAudio,
    Command,
    ErrorReported,
    ProtocolViolation,
    ServerEvent,
    SessionKeepAlive,
    SessionStateUpdated,
    SpeakEnded,
    UnknownEvent,
    WarningReported,
    decode_command,
    decode_event,
    encode_command,
    encode_event,
)
from liveavatar_lite.messages import EVENTS, encode_speak, speak_frame_bytes

COMMANDS: list[Command] = [
    AgentSpeak(b"\x01\x02\x03\x04", "utterance-1"),
    AgentSpeak(b"\x01\x02", None),
    AgentSpeakEnd("utterance-1"),
    AgentSpeakEnd("utterance-1", b"\x05\x06"),
    AgentInterrupt("cut-1"),
    AgentInterrupt(),
    AgentStartListening("a"),
    AgentStopListening("b"),
    SessionKeepAlive("c"),
    AgentStart("pcm_s16le", 24000, 1),
]


@pytest.mark.parametrize("command", COMMANDS, ids=repr)
def test_a_command_survives_encoding_and_decoding(command: Command) -> None:
    assert decode_command(encode_command(command)) == command


@pytest.mark.parametrize("kind", sorted(EVENTS))
def test_every_event_survives_encoding_and_decoding(kind: str) -> None:
    event = decode_event(json.dumps({"type": kind, "event_id": "e", "task": {"id": "t"}}))

    assert not isinstance(event, UnknownEvent)
    assert json.loads(encode_event(event))["type"] == kind
    assert decode_event(encode_event(event)) == event


def test_a_chunk_on_the_wire_is_plain_json_with_base64_audio() -> None:
    frame = encode_speak(bytes(range(7)), 'odd "id" \n é')

    assert json.loads(frame) == {
        "type": "agent.speak",
        "event_id": 'odd "id" \n é',
        "audio": base64.b64encode(bytes(range(7))).decode(),
    }


@pytest.mark.parametrize("pcm_bytes", [0, 1, 2, 3, 4, 19_200, 48_000])
def test_the_size_of_a_chunks_frame_is_known_without_encoding_it(pcm_bytes: int) -> None:
    assert speak_frame_bytes(pcm_bytes, "é-1") == len(encode_speak(bytes(pcm_bytes), "é-1"))


def test_reprs_do_not_show_audio() -> None:
    assert repr(AgentSpeak(b"\x01\x02" * 24_000, "u")) == "AgentSpeak(event_id='u')"


def test_the_task_of_a_speech_event_is_read_from_its_object() -> None:
    frame = '{"type":"agent.speak_ended","event_id":"s-1","source_event_id":null,"task":{"id":"t"}}'

    assert decode_event(frame) == SpeakEnded(event_id="s-1", task_id="t")


def test_fields_may_be_in_a_payload_object() -> None:
    frame = (
        '{"type":"agent.audio_buffer_appended","event_id":"top",'
        '"payload":{"source_event_id":"u-1","event_id":"below","task":{"id":"t-1"}}}'
    )

    assert decode_event(frame) == AudioBufferAppended("top", "u-1", "t-1")


def test_an_error_names_the_offending_command_inside_its_object() -> None:
    reported = ErrorReported("invalid_request_error", "no", source_event_id="u-1", event_id="s-9")

    assert json.loads(encode_event(reported)) == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "no", "event_id": "u-1"},
        "event_id": "s-9",
    }


def test_missing_ids_are_null_and_an_absent_task_is_absent() -> None:
    assert json.loads(encode_event(AgentStateUpdated("idle", "talking"))) == {
        "type": "agent.state_updated",
        "previous_state": "idle",
        "new_state": "talking",
        "event_id": None,
        "source_event_id": None,
    }
    assert "task" not in json.loads(encode_event(SpeakEnded("e")))


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ("not json", UnknownEvent("", {"frame": "not json"})),
        (b"\xff\xfe\x00", UnknownEvent("", {"frame": "\ufffd\ufffd\x00"})),
        ("[1]", UnknownEvent("", {"frame": "[1]"})),
        ('{"type":7}', UnknownEvent("", {})),
        ('{"type":"session.started","a":1}', UnknownEvent("session.started", {"a": 1})),
        ('{"type":"session.state_updated"}', SessionStateUpdated("")),
        ('{"type":"session.state_updated","state":"warming"}', SessionStateUpdated("warming")),
        ('{"type":"warning","warning":"flat"}', WarningReported("", "")),
        ('{"type":"agent.speak_ended","task":"flat","event_id":5}', SpeakEnded("5")),
        ("[" * 100_000, UnknownEvent("", {"frame": "[" * 200})),
    ],
)
def test_no_frame_of_the_service_raises(frame: str | bytes, expected: ServerEvent) -> None:
    assert decode_event(frame) == expected


@pytest.mark.parametrize(
    ("frame", "error", "text"),
    [
        ("not json", ProtocolViolation, "not valid JSON"),
        (b"\xff", ProtocolViolation, "not valid JSON"),
        ("[]", ProtocolViolation, "not a JSON object"),
        ('{"type":"agent.sing"}', ProtocolViolation, "unknown message type: 'agent.sing'"),
        ("{}", ProtocolViolation, "unknown message type: None"),
        ('{"type":"agent.speak"}', BadAudio, "invalid base64 audio data"),
        ('{"type":"agent.speak","audio":7}', BadAudio, "invalid base64 audio data"),
        ('{"type":"agent.speak","audio":"@@@@"}', BadAudio, "invalid base64 audio data"),
        ('{"type":"agent.speak","audio":"AAA"}', BadAudio, "invalid base64 audio data"),
        ('{"type":"agent.speak","audio":"AéAA"}', BadAudio, "invalid base64 audio data"),
        ('{"type":"agent.speak_end","audio":"@"}', BadAudio, "invalid base64 audio data"),
    ],
)
def test_an_invalid_command_is_refused_with_the_reason(
    frame: str | bytes, error: type[ProtocolViolation], text: str
) -> None:
    with pytest.raises(error, match=text):
        decode_command(frame)


def test_the_refusal_of_a_command_has_its_id() -> None:
    with pytest.raises(BadAudio) as refusal:
        decode_command('{"type":"agent.speak","audio":"@","event_id":"u-7"}')

    assert refusal.value.event_id == "u-7"
