"""The client role: the same facts in every dialect of the service."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from liveavatar_lite import (
    AgentStateUpdated,
    AudioBufferAppended,
    AudioBufferCleared,
    AudioBufferCommitted,
    BadAudio,
    ClientProtocol,
    ConnectionLost,
    ErrorReported,
    Event,
    FrameTooLarge,
    IllegalTransition,
    NotConnectedYet,
    PoseChanged,
    ProtocolViolation,
    ServerEvent,
    SessionPhase,
    SessionStateUpdated,
    SpeakEnded,
    SpeakInterrupted,
    SpeakStarted,
    UtteranceEnded,
    UtteranceStarted,
    encode_event,
)

SECOND = bytes(48_000)
TALKING = AgentStateUpdated("idle", "talking")
IDLE = AgentStateUpdated("talking", "idle")
LISTENING = AgentStateUpdated("talking", "listening")


def connected() -> ClientProtocol:
    client = ClientProtocol()
    receive(client, SessionStateUpdated("connected"))
    return client


def receive(client: ClientProtocol, *events: ServerEvent, now_s: float = 0.0) -> list[Event]:
    """The facts derived from the events, without the events themselves."""
    meant: list[Event] = []
    for event in events:
        meant += client.receive(encode_event(event), now_s)[1:]
    return meant


def say(client: ClientProtocol, utterance_id: str, seconds: int = 1) -> None:
    for _ in range(seconds):
        client.speak(SECOND, utterance_id)
    client.speak_end(utterance_id)


# --- the session's phase --------------------------------------------------------------------


@pytest.mark.parametrize(
    "states",
    [
        ["new", "connected", "disconnected"],
        ["connecting", "connected", "closing", "closed"],
        ["new", "connecting", "warming-up", "connected", "closed"],
    ],
)
def test_the_session_passes_its_phases_in_either_dialect(states: list[str]) -> None:
    client = ClientProtocol()
    phases = []

    for state in states:
        receive(client, SessionStateUpdated(state))
        phases.append(client.phase)

    assert SessionPhase.CONNECTED in phases
    assert phases == sorted(phases)
    assert phases[-1] is SessionPhase.CLOSED


@pytest.mark.parametrize("state", [None, "new", "connecting"])
def test_commands_are_refused_before_connected(state: str | None) -> None:
    client = ClientProtocol()
    if state:
        receive(client, SessionStateUpdated(state))

    commands: list[Callable[[], bytes]] = [
        lambda: client.speak(SECOND, "u"),
        lambda: client.speak_end("u"),
        client.interrupt,
        client.start_listening,
        client.stop_listening,
        client.keep_alive,
    ]
    for command in commands:
        with pytest.raises(NotConnectedYet, match=client.phase.name):
            command()


@pytest.mark.parametrize("state", ["closing", "closed", "disconnected"])
def test_commands_are_refused_once_the_session_ends(state: str) -> None:
    client = connected()
    receive(client, SessionStateUpdated(state))

    with pytest.raises(ConnectionLost):
        client.keep_alive()


def test_a_late_connecting_does_not_end_a_working_session() -> None:
    client = connected()

    receive(client, SessionStateUpdated("connecting"), SessionStateUpdated("connected"))

    assert client.phase is SessionPhase.CONNECTED
    assert client.backward_states == 1
    client.keep_alive()


def test_only_the_first_close_counts() -> None:
    client = connected()

    client.closed(1011, "overload")
    client.closed(1000)

    assert (client.close_code, client.close_reason) == (1011, "overload")
    with pytest.raises(ConnectionLost, match="1011: overload"):
        client.keep_alive()


# --- commands -------------------------------------------------------------------------------


def test_an_utterance_has_one_id_from_its_first_chunk_to_its_end() -> None:
    client = connected()

    frames = [client.speak(b"\0\0", "u-1"), client.speak(b"\0\0", "u-1"), client.speak_end("u-1")]

    assert [json.loads(frame)["event_id"] for frame in frames] == ["u-1"] * 3


@pytest.mark.parametrize("pcm", [b"", b"\0", bytes(47_999)])
def test_audio_that_is_not_whole_samples_is_refused(pcm: bytes) -> None:
    with pytest.raises(BadAudio):
        connected().speak(pcm, "u")


def test_a_frame_of_a_megabyte_is_refused() -> None:
    client = connected()

    assert len(client.speak(bytes(749_900), "u")) < 1_000_000
    with pytest.raises(FrameTooLarge) as refusal:
        client.speak(bytes(750_000), "u")

    assert refusal.value.frame_bytes >= refusal.value.limit_bytes == 1_000_000
    assert client.chunks_sent == 1


def test_a_chunk_after_the_end_or_an_interrupt_is_refused() -> None:
    client = connected()
    say(client, "ended")
    client.speak(SECOND, "cut")
    client.interrupt("i")

    for utterance_id in ("ended", "cut"):
        with pytest.raises(IllegalTransition, match="from ended to open"):
            client.speak(SECOND, utterance_id)


def test_a_second_open_utterance_is_refused() -> None:
    client = connected()
    client.speak(SECOND, "a")
    assert client.open_utterance == "a"

    with pytest.raises(ProtocolViolation, match="'a' is still open"):
        client.speak(SECOND, "b")

    client.speak_end("a")
    assert client.open_utterance is None
    client.speak(SECOND, "b")


@pytest.mark.parametrize(("opened", "state"), [(False, "unopened"), (True, "ended")])
def test_only_an_open_utterance_can_be_ended(opened: bool, state: str) -> None:
    client = connected()
    if opened:
        say(client, "u")

    with pytest.raises(IllegalTransition, match=f"from {state} to ended"):
        client.speak_end("u")


# --- the same facts in every dialect -------------------------------------------------------------

BOTH: list[ServerEvent] = [
    AudioBufferAppended("s-1", "u", "t-1"),
    TALKING,
    SpeakStarted("s-2", "u", "t-1"),
    AudioBufferCommitted("s-3", "u", "t-1"),
    SpeakEnded("s-4", "u", "t-1"),
    IDLE,
]
DIALECTS: dict[str, list[ServerEvent]] = {
    "both": BOTH,
    "both, duplicated": [event for event in BOTH for _ in range(2)],
    "both, states after": [BOTH[0], BOTH[2], BOTH[1], BOTH[3], BOTH[4], BOTH[5]],
    "both, rest before end": [*BOTH[:4], BOTH[5], BOTH[4]],
    "states only": [BOTH[0], TALKING, BOTH[3], IDLE],
    "speak events only": [BOTH[0], BOTH[2], BOTH[3], BOTH[4]],
    "speak events with our event_id": [SpeakStarted("u"), SpeakEnded("u")],
    "task ids only": [
        AudioBufferAppended("s-1", None, "t-1"),
        SpeakStarted("s-2", None, "t-1"),
        SpeakEnded("s-3", None, "t-1"),
    ],
    "no ids at all": [SpeakStarted("s-1"), SpeakEnded("s-2")],
    "no acks, states only": [TALKING, IDLE],
}


@pytest.mark.parametrize("events", DIALECTS.values(), ids=DIALECTS.keys())
def test_each_fact_is_reported_exactly_once_in_every_dialect(events: list[ServerEvent]) -> None:
    client = connected()
    say(client, "u")

    meant = receive(client, *events)

    assert sorted(meant, key=repr) == [
        PoseChanged("idle"),
        PoseChanged("talking"),
        UtteranceEnded("u", interrupted=False),
        UtteranceStarted("u"),
    ]
    assert meant.index(UtteranceStarted("u")) < meant.index(UtteranceEnded("u", False))


def test_events_have_the_id_of_their_utterance() -> None:
    client = connected()
    say(client, "u")

    events = [client.receive(encode_event(event), 0.0)[0] for event in DIALECTS["task ids only"]]

    assert [getattr(event, "utterance_id", None) for event in events] == ["u"] * 3


@pytest.mark.parametrize("dialect", ["source", "task", "task of the session", "none"])
def test_consecutive_utterances_are_distinguished(dialect: str) -> None:
    client = connected()
    say(client, "a")
    say(client, "b")
    dialects: dict[str, dict[str, tuple[str | None, str | None]]] = {
        "source": {"a": ("a", None), "b": ("b", None)},
        "task": {"a": (None, "t-a"), "b": (None, "t-b")},
        "task of the session": {"a": (None, "t"), "b": (None, "t")},
        "none": {"a": (None, None), "b": (None, None)},
    }
    ids = dialects[dialect]

    meant = receive(
        client,
        *(AudioBufferAppended("s", *ids[each]) for each in "ab"),
        *(AudioBufferCommitted("s", *ids[each]) for each in "ab"),
        SpeakStarted("s", *ids["a"]),
        SpeakEnded("s", *ids["a"]),
        SpeakStarted("s", *ids["b"]),
        SpeakEnded("s", *ids["b"]),
    )

    assert [event for event in meant if not isinstance(event, PoseChanged)] == [
        UtteranceStarted("a"),
        UtteranceEnded("a", interrupted=False),
        UtteranceStarted("b"),
        UtteranceEnded("b", interrupted=False),
    ]


def test_one_talking_phase_over_two_utterances_ends_both_without_speak_events() -> None:
    client = connected()
    say(client, "a", seconds=1)
    say(client, "b", seconds=2)

    meant = [*receive(client, TALKING, now_s=10.0), *receive(client, IDLE, now_s=13.1)]

    assert meant == [
        PoseChanged("talking"),
        UtteranceStarted("a"),
        PoseChanged("idle"),
        UtteranceEnded("a", interrupted=False),
        UtteranceStarted("b"),
        UtteranceEnded("b", interrupted=False),
    ]


def test_a_pause_between_two_utterances_ends_only_the_first() -> None:
    client = connected()
    say(client, "a", seconds=1)
    say(client, "b", seconds=2)

    receive(client, TALKING, now_s=10.0)
    meant = receive(client, IDLE, now_s=11.1)

    assert meant == [PoseChanged("idle"), UtteranceEnded("a", interrupted=False)]
    assert UtteranceStarted("b") in receive(client, TALKING, now_s=11.3)


def test_the_next_start_ends_an_utterance_whose_end_was_not_reported() -> None:
    client = connected()
    say(client, "a")
    say(client, "b")

    meant = receive(client, SpeakStarted("s", "a"), SpeakStarted("s", "b"), SpeakEnded("s", "a"))

    assert [event for event in meant if not isinstance(event, PoseChanged)] == [
        UtteranceStarted("a"),
        UtteranceEnded("a", interrupted=False),
        UtteranceStarted("b"),
    ]


def test_a_pause_without_audio_does_not_end_an_open_utterance() -> None:
    client = connected()
    client.speak(SECOND, "u")

    meant = receive(client, TALKING, IDLE)
    client.speak(SECOND, "u")
    meant += receive(client, TALKING)
    client.speak_end("u")
    assert UtteranceEnded("u", interrupted=False) not in meant
    meant += receive(client, AudioBufferCommitted("s", "u"), IDLE)

    assert [event for event in meant if not isinstance(event, PoseChanged)] == [
        UtteranceStarted("u"),
        UtteranceEnded("u", interrupted=False),
    ]


def test_an_utterance_that_ran_dry_is_over_when_its_end_is_acknowledged() -> None:
    """Once the avatar rests no state changes, so the ack is the last event."""
    client = connected()
    client.speak(SECOND, "u")
    receive(client, TALKING, IDLE)
    client.speak_end("u")

    assert receive(client, AudioBufferCommitted("s", "u")) == [
        UtteranceEnded("u", interrupted=False)
    ]


# --- interrupts -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        [AudioBufferCleared("s", "cut"), SpeakInterrupted("s", "u"), IDLE],
        [SpeakInterrupted("s", "u"), AudioBufferCleared("s", "cut"), IDLE],
        [IDLE, AudioBufferCleared("s", "cut")],
        [AudioBufferCleared("s")],
        [SpeakInterrupted("s")],
        [AudioBufferCleared("s", "cut"), SpeakEnded("s", "u"), SpeakEnded("late")],
    ],
)
def test_an_interrupted_utterance_ends_once_in_every_dialect(
    answers: list[ServerEvent],
) -> None:
    client = connected()
    client.speak(SECOND, "u")
    receive(client, SpeakStarted("s", "u"), TALKING)
    client.interrupt("cut")

    meant = receive(client, *answers)

    assert [event for event in meant if isinstance(event, UtteranceEnded)] == [
        UtteranceEnded("u", interrupted=True)
    ]


def test_an_interrupt_also_ends_utterances_that_had_not_begun() -> None:
    client = connected()
    say(client, "a")
    say(client, "b")
    receive(client, SpeakStarted("s", "a"))
    client.interrupt("cut")

    meant = receive(client, AudioBufferCleared("s", "cut"))

    assert meant == [UtteranceEnded("a", interrupted=True), UtteranceEnded("b", interrupted=True)]


def test_a_late_end_of_an_interrupted_utterance_does_not_end_the_next() -> None:
    client = connected()
    client.speak(SECOND, "a")
    receive(client, SpeakStarted("s", "a"), TALKING)
    client.interrupt("cut")
    say(client, "b")

    meant = receive(client, AudioBufferCleared("s", "cut"), IDLE, SpeakEnded("s", "a"))
    meant += receive(client, TALKING, SpeakStarted("s", "b"), SpeakEnded("s", "a"))

    assert [event for event in meant if not isinstance(event, PoseChanged)] == [
        UtteranceEnded("a", interrupted=True),
        UtteranceStarted("b"),
    ]


def test_an_interrupt_while_nothing_plays_reports_nothing() -> None:
    client = connected()
    client.interrupt("cut")

    assert receive(client, AudioBufferCleared("s", "cut")) == []


# --- poses and errors -----------------------------------------------------------------------


def test_the_pose_after_speech_is_listening_without_pose_events() -> None:
    client = connected()
    client.start_listening()
    say(client, "u")

    meant = receive(client, SpeakStarted("s", "u"), SpeakEnded("s", "u"))

    assert PoseChanged("listening") in meant
    assert client.pose == "listening"


def test_reported_poses_replace_derived_ones() -> None:
    client = connected()
    say(client, "u")

    meant = receive(client, TALKING, SpeakStarted("s", "u"), SpeakEnded("s", "u"), LISTENING)

    assert [event for event in meant if isinstance(event, PoseChanged)] == [
        PoseChanged("talking"),
        PoseChanged("listening"),
    ]


def test_an_error_has_the_id_of_its_utterance() -> None:
    client = connected()
    client.speak(SECOND, "u")

    error = ErrorReported("video_starvation", "audio too slow", source_event_id="u")

    (event,) = client.receive(encode_event(error), 0.0)
    assert isinstance(event, ErrorReported)
    assert event.utterance_id == "u"


# --- the watchdog ---------------------------------------------------------------------------


def test_silence_counts_from_a_chunk_to_the_next_frame() -> None:
    client = connected()
    assert client.silent_s(100.0) == 0.0

    client.speak(SECOND, "u")
    assert client.silent_s(100.5) == 0.0
    assert client.silent_s(104.0) == 3.5

    receive(client, AudioBufferAppended("s", "u"), now_s=104.1)
    assert client.silent_s(200.0) == 0.0


def test_a_long_pause_is_not_silence() -> None:
    client = connected()
    say(client, "u")
    receive(client, *BOTH, now_s=1.0)

    client.keep_alive()
    client.start_listening()

    assert client.silent_s(1_000.0) == client.silent_s(2_000.0) == 0.0


def test_a_service_without_acks_is_not_dead_while_it_talks() -> None:
    """The oldest documentation has no acks: ten seconds of speech have no event between start and
    end."""
    client = connected()
    client.speak(SECOND, "u")
    receive(client, SpeakStarted("u"))

    client.speak(SECOND, "u")

    assert client.silent_s(10.0) == client.silent_s(20.0) == 0.0


def test_memory_is_bounded_over_an_hour_of_speech() -> None:
    client = connected()

    for number in range(1_000):
        say(client, f"u-{number}")
        receive(
            client,
            AudioBufferAppended("s", f"u-{number}", f"t-{number}"),
            SpeakStarted("s", f"u-{number}"),
            SpeakEnded("s", f"u-{number}"),
        )

    book = client._book
    assert len(book._all) < 100
    assert len(book._tasks) < 100
    assert not book._unfinished


def test_time_without_audio_does_not_count_for_the_next_utterance() -> None:
    """A service without speak_* events left `talking` after a pause within an utterance; the next
    one, just sent, was taken as played in that pause, and was over before it was played."""
    protocol = connected()
    protocol.speak(bytes(12_000), "first")  # a quarter of a second
    acked = {"type": "agent.audio_buffer_appended", "event_id": "e"}
    protocol.receive(json.dumps({**acked, "source_event_id": "first"}), 0.0)
    pose = {"type": "agent.state_updated", "previous_state": "idle"}
    protocol.receive(json.dumps({**pose, "new_state": "talking"}), 0.2)
    protocol.speak_end("first")
    protocol.speak(bytes(12_000), "second")
    protocol.speak_end("second")
    protocol.receive(json.dumps({**acked, "source_event_id": "second"}), 0.9)
    rested = protocol.receive(json.dumps({**pose, "new_state": "idle"}), 0.95)
    assert UtteranceEnded("first", interrupted=False) in rested
    assert not any(
        isinstance(one, UtteranceEnded) and one.utterance_id == "second" for one in rested
    )


def test_an_adopted_utterance_takes_audio_and_its_end() -> None:
    protocol = connected()
    protocol.adopt("before")
    assert protocol.open_utterance == "before"
    protocol.speak(bytes(4_800), "before")
    protocol.speak_end("before")
    ended = {"type": "agent.speak_ended", "event_id": "e", "source_event_id": "before"}
    assert UtteranceEnded("before", interrupted=False) in protocol.receive(json.dumps(ended), 1.0)
