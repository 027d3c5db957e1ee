"""`agent.speak` is decoded without json where possible, with the same result."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from liveavatar_lite import AgentSpeak, BadAudio, ProtocolViolation
from liveavatar_lite.messages import decode_command, encode_speak

PIECES = (
    '"',
    "\\",
    "\\u0041",
    "\\/",
    "/",
    "+",
    "=",
    "==",
    "\n",
    " ",
    "é",
    "\x00",
    "}",
    '"}',
    "{",
    ",",
    ":",
    '"audio":"QUI="',
    '","audio":"QUI=',
    '","type":"start',
    '"event_id":null',
    "null",
    "agent.speak",
    '"type"',
    "A",
    "QUJD",
    "\ud83d",
    "-",
    "_",
)
IDS: tuple[Any, ...] = (
    "u-1",
    "",
    "a.b:c_d-e",
    "é",
    'q"uote',
    "back\\slash",
    None,
    7,
    [],
    "x" * 300,
)


def outcome(frame: str | bytes) -> object:
    """The command, or the refusal and its text."""
    try:
        return decode_command(frame)
    except ProtocolViolation as refusal:
        return type(refusal), str(refusal), refusal.event_id


def by_json_alone(frame: str | bytes) -> object:
    """The outcome with a member in front that keeps the fast path from matching.

    Unknown members are ignored. Where there is no object to add it to, the fast path does not
    apply.
    """
    mark: Any = "{" if isinstance(frame, str) else b"{"
    member: Any = '{"unknown":0,' if isinstance(frame, str) else b'{"unknown":0,'
    if not frame.startswith(mark):
        return outcome(frame)
    return outcome(member + frame[1:])


def random_frame(rng: np.random.Generator) -> str:
    """An agent.speak frame as some client might encode it."""
    pcm = rng.bytes(int(rng.integers(0, 40)))
    message: dict[str, Any] = {"type": "agent.speak"}
    if rng.random() < 0.8:
        message["event_id"] = IDS[int(rng.integers(len(IDS)))]
    message["audio"] = base64.b64encode(pcm).decode()
    if rng.random() < 0.1:
        message["more"] = 1
    if rng.random() < 0.1:
        message = dict(reversed(message.items()))
    compact = (",", ":") if rng.random() < 0.5 else None
    return json.dumps(message, separators=compact, ensure_ascii=rng.random() < 0.5)


def mutated(frame: str, rng: np.random.Generator) -> str:
    """The frame with a few pieces inserted, doubled or removed."""
    for _ in range(int(rng.integers(1, 4))):
        begin = int(rng.integers(len(frame) + 1))
        end = min(len(frame), begin + int(rng.integers(0, 6)))
        piece = PIECES[int(rng.integers(len(PIECES)))] if rng.random() < 0.8 else ""
        frame = frame[:begin] + piece + frame[begin if rng.random() < 0.5 else end :]
    return frame


@pytest.mark.parametrize("seed", range(20))
def test_the_fast_path_and_json_agree_on_valid_and_mutated_frames(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(1000):
        frame = random_frame(rng) if rng.random() < 0.2 else mutated(random_frame(rng), rng)

        assert outcome(frame) == by_json_alone(frame), frame
        octets = frame.encode(errors="surrogatepass")
        assert outcome(octets) == by_json_alone(octets), frame


def test_the_fast_path_takes_frames_of_this_client_and_of_json_dumps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the fuzz test compares json with itself."""
    pcm = bytes(range(250))
    audio = base64.b64encode(pcm).decode()
    usual = json.dumps({"type": "agent.speak", "event_id": "u-1", "audio": audio})
    anonymous = json.dumps({"type": "agent.speak", "audio": audio})
    monkeypatch.setattr("liveavatar_lite.messages.json", None)

    assert decode_command(encode_speak(pcm, "u-1")) == AgentSpeak(pcm, "u-1")
    assert decode_command(usual) == AgentSpeak(pcm, "u-1")
    assert decode_command(anonymous) == AgentSpeak(pcm, None)


def test_a_second_audio_member_replaces_the_first_as_in_json() -> None:
    frame = b'{"type":"agent.speak","event_id":"u","audio":"QUI=","audio":"Q0Q="}'

    assert decode_command(frame) == AgentSpeak(b"CD", "u")


def test_audio_that_is_not_base64_is_refused_with_its_id() -> None:
    with pytest.raises(BadAudio) as refusal:
        decode_command(b'{"type":"agent.speak","event_id":"u","audio":"QU I="}')

    assert refusal.value.event_id == "u"
