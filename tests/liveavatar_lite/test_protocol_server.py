"""The server role: valid and invalid commands, session phases."""

from __future__ import annotations

import json

import pytest

from liveavatar_lite import (
    AgentSpeak,
    AgentStart,
    AudioBufferAppended,
    IllegalTransition,
    ServerProtocol,
    SessionKeepAlive,
    SessionPhase,
    SessionStateUpdated,
    StateDialect,
    encode_command,
)

NEWER = StateDialect.NEW_CONNECTED_DISCONNECTED
OLDER = StateDialect.CONNECTING_CONNECTED_CLOSING_CLOSED
CHUNK = encode_command(AgentSpeak(b"\0\0", "u-1"))


def connected(*, reject_odd_audio: bool = False) -> ServerProtocol:
    server = ServerProtocol(reject_odd_audio=reject_odd_audio, new_id=lambda: "s-1")
    server.enter(SessionPhase.CONNECTED)
    return server


def test_commands_before_connected_are_dropped_silently() -> None:
    server = ServerProtocol()

    assert server.receive(CHUNK) == []
    server.enter(SessionPhase.CONNECTING)
    assert server.receive("not even json") == []

    assert server.dropped_commands == 2
    assert server.replies_to_send() == []


@pytest.mark.parametrize("frame", [CHUNK, CHUNK.decode()], ids=["bytes", "str"])
def test_a_command_is_decoded(frame: str | bytes) -> None:
    assert connected().receive(frame) == [AgentSpeak(b"\0\0", "u-1")]


def test_the_undocumented_start_is_accepted() -> None:
    server = connected()

    commands = server.receive(
        '{"type":"start","encoding":"pcm_s16le","sample_rate":24000,"channels":1}'
    )

    assert commands == [AgentStart("pcm_s16le", 24000, 1)]
    assert server.replies_to_send() == []


@pytest.mark.parametrize(
    ("frame", "message", "event_id"),
    [
        ("nonsense", "message is not valid JSON", None),
        ('{"type":"agent.sing","event_id":"x"}', "unknown message type: 'agent.sing'", "x"),
        ('{"type":"agent.speak","event_id":"x"}', "invalid base64 audio data", "x"),
        (
            '{"type":"agent.speak","event_id":"x","audio":"@@"}',
            "invalid base64 audio data",
            "x",
        ),
    ],
)
def test_an_invalid_command_is_answered_with_an_error_that_names_it(
    frame: str, message: str, event_id: str | None
) -> None:
    server = connected()

    assert server.receive(frame) == []

    (reply,) = server.replies_to_send()
    error = {"type": "invalid_request_error", "message": message}
    if event_id:
        error["event_id"] = event_id
    assert json.loads(reply) == {"type": "error", "error": error, "event_id": "s-1"}
    assert server.replies_to_send() == []
    assert server.close_code is None
    assert server.receive(CHUNK), "later commands are accepted"


def test_a_split_sample_is_refused_only_if_configured() -> None:
    odd = encode_command(AgentSpeak(b"\0\0\0", "u"))

    assert connected().receive(odd) == [AgentSpeak(b"\0\0\0", "u")]
    strict = connected(reject_odd_audio=True)
    assert strict.receive(odd) == []
    assert "cut in half" in strict.replies_to_send()[0]
    assert strict.receive(encode_command(SessionKeepAlive("k"))) == [SessionKeepAlive("k")]


def test_a_frame_over_a_megabyte_is_answered_and_closes_the_connection() -> None:
    server = connected()

    assert server.receive("x" * 1_000_001) == []

    assert server.close_code == 1009
    assert "1,000,001 bytes" in server.replies_to_send()[0]


@pytest.mark.parametrize(
    ("dialect", "names"),
    [
        (NEWER, ["new", "new", "connected", "disconnected", "disconnected"]),
        (OLDER, ["connecting", "connecting", "connected", "closing", "closed"]),
    ],
)
def test_the_phases_have_the_dialects_names(dialect: StateDialect, names: list[str]) -> None:
    server = ServerProtocol(dialect=dialect)

    frames = [server.enter(phase) for phase in SessionPhase]

    assert [json.loads(frame)["state"] for frame in frames] == names


def test_a_session_state_is_translated_into_the_connections_dialect() -> None:
    server = ServerProtocol(dialect=OLDER)

    frame = server.emit(SessionStateUpdated("disconnected"))

    assert json.loads(frame)["state"] == "closed"
    assert server.phase is SessionPhase.CLOSED


@pytest.mark.parametrize("earlier", list(SessionPhase))
@pytest.mark.parametrize("later", list(SessionPhase))
def test_a_session_never_goes_backwards(earlier: SessionPhase, later: SessionPhase) -> None:
    server = ServerProtocol()
    server.enter(earlier)

    if later >= earlier:
        server.enter(later)
        assert server.phase is later
    else:
        with pytest.raises(IllegalTransition, match=f"from {earlier.name} to {later.name}"):
            server.enter(later)


def test_an_unknown_state_is_not_emitted() -> None:
    with pytest.raises(IllegalTransition, match="from NEW to 'warming'"):
        ServerProtocol().emit(SessionStateUpdated("warming"))


def test_commands_after_the_end_are_dropped() -> None:
    server = connected()
    server.enter(SessionPhase.CLOSED)

    assert server.receive(CHUNK) == []
    assert server.dropped_commands == 1


def test_events_are_emitted_in_every_phase() -> None:
    frame = ServerProtocol().emit(AudioBufferAppended("s", "u", "t"))

    assert json.loads(frame) == {
        "type": "agent.audio_buffer_appended",
        "event_id": "s",
        "source_event_id": "u",
        "task": {"id": "t"},
    }
