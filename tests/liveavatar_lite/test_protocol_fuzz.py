"""In any order of events, the client role never raises and reports each fact once."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest

from liveavatar_lite import (
    AgentStateUpdated,
    AudioBufferAppended,
    AudioBufferCleared,
    AudioBufferCommitted,
    ClientProtocol,
    Event,
    PoseChanged,
    ProtocolViolation,
    SessionStateUpdated,
    SpeakEnded,
    SpeakInterrupted,
    SpeakStarted,
    UtteranceEnded,
    UtteranceStarted,
    encode_event,
)

SPEECH = (
    AudioBufferAppended,
    AudioBufferCommitted,
    AudioBufferCleared,
    SpeakStarted,
    SpeakEnded,
    SpeakInterrupted,
)


def command(client: ClientProtocol, rng: np.random.Generator, utterance_id: str) -> None:
    with suppress(ProtocolViolation):  # refused before it is sent
        match int(rng.integers(5)):
            case 0 | 1:
                client.speak(bytes(2 * int(rng.integers(1, 48_000))), utterance_id)
            case 2:
                client.speak_end(utterance_id)
            case 3:
                client.interrupt(f"cut-{utterance_id}")
            case _:
                client.start_listening()


def random_event(rng: np.random.Generator, ids: list[str | None]) -> str:
    def pick() -> str | None:
        return ids[int(rng.integers(len(ids)))]

    if rng.random() < 0.3:
        poses = ["idle", "listening", "talking", "dancing"]
        return encode_event(AgentStateUpdated(None, poses[int(rng.integers(4))]))
    return encode_event(SPEECH[int(rng.integers(len(SPEECH)))](pick(), pick(), pick()))


def positions(
    events: list[Event], kind: type[UtteranceStarted | UtteranceEnded], name: str
) -> list[int]:
    """The positions of that fact about that utterance."""
    return [
        position
        for position, event in enumerate(events)
        if isinstance(event, kind) and event.utterance_id == name
    ]


@pytest.mark.parametrize("seed", range(50))
def test_the_client_never_raises_and_reports_each_fact_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    client = ClientProtocol()
    client.receive(encode_event(SessionStateUpdated("connected")), 0.0)
    names = [f"u-{number}" for number in range(8)]
    ids: list[str | None] = [None, "t-1", "t-2", *names, *(f"cut-{name}" for name in names)]
    meant = list[Event]()

    for step in range(400):
        if rng.random() < 0.4:
            command(client, rng, names[int(rng.integers(len(names)))])
        else:
            meant += client.receive(random_event(rng, ids), step * 0.1)[1:]

    for name in names:
        started = positions(meant, UtteranceStarted, name)
        over = positions(meant, UtteranceEnded, name)
        assert len(started) <= 1
        assert len(over) <= 1
        assert not (started and over) or started < over
    poses = [fact.state for fact in meant if isinstance(fact, PoseChanged)]
    assert all(earlier != later for earlier, later in pairwise(poses))
