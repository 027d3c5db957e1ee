"""Dialects: which event a playback event becomes, and how it names its command."""

from __future__ import annotations

import pytest

from liveavatar_lite.messages import (
    AgentState,
    AgentStateUpdated,
    AudioBufferAppended,
    AudioBufferCleared,
    AudioBufferCommitted,
    ErrorReported,
    SpeakStarted,
    SpeechEvent,
)
from liveavatar_simulator import Correlation, SpeechSignals
from liveavatar_simulator.dialects import EventDialect
from liveavatar_simulator.playback import (
    Cleared,
    PoseTaken,
    SpeechBegun,
    SpokenUtterance,
    Starved,
)

TALKING = PoseTaken(AgentState.IDLE, AgentState.TALKING)


def ids_of(event: object, utterance: SpokenUtterance) -> tuple[bool, str | None, bool]:
    """Whether ``event_id`` is the command's, ``source_event_id``, whether the task is named."""
    assert isinstance(event, SpeechEvent)
    return event.event_id == "u", event.source_event_id, event.task_id == utterance.task_id


@pytest.mark.parametrize(
    ("correlation", "ids"),
    [
        (Correlation.SOURCE, (False, "u", True)),
        (Correlation.SAME, (True, None, True)),
        (Correlation.TASK, (False, None, True)),
    ],
)
def test_each_correlation_names_the_command_in_its_own_field(
    correlation: Correlation, ids: tuple[bool, str | None, bool]
) -> None:
    dialect = EventDialect(SpeechSignals.BOTH, correlation)
    utterance = SpokenUtterance("u")

    appended = dialect.appended("u", utterance)
    begun = dialect.event_for(SpeechBegun(utterance))

    assert isinstance(appended, AudioBufferAppended)
    assert isinstance(begun, SpeakStarted)
    assert ids_of(appended, utterance) == ids_of(begun, utterance) == ids


@pytest.mark.parametrize(
    ("signals", "has_pose", "has_speech"),
    [
        (SpeechSignals.BOTH, True, True),
        (SpeechSignals.POSES, True, False),
        (SpeechSignals.SPEECH, False, True),
    ],
)
def test_each_setting_of_speech_signals_selects_its_events(
    signals: SpeechSignals, has_pose: bool, has_speech: bool
) -> None:
    dialect = EventDialect(signals, Correlation.SOURCE)

    pose = dialect.event_for(TALKING)
    speech = dialect.event_for(SpeechBegun(SpokenUtterance("u")))

    assert isinstance(pose, AgentStateUpdated) == has_pose
    assert isinstance(speech, SpeakStarted) == has_speech


def test_the_fault_no_speech_events_leaves_poses() -> None:
    dialect = EventDialect(SpeechSignals.BOTH, Correlation.SOURCE)

    assert dialect.event_for(SpeechBegun(SpokenUtterance("u")), no_speech_events=True) is None
    assert isinstance(dialect.event_for(TALKING, no_speech_events=True), AgentStateUpdated)


def test_an_interrupt_is_acknowledged_with_its_own_id() -> None:
    dialect = EventDialect(SpeechSignals.BOTH, Correlation.SOURCE)
    utterance = SpokenUtterance("u")

    cleared = dialect.event_for(Cleared("cut", utterance))
    nothing_cleared = dialect.event_for(Cleared("cut", None))

    assert isinstance(cleared, AudioBufferCleared)
    assert (cleared.source_event_id, cleared.task_id) == ("cut", utterance.task_id)
    assert isinstance(nothing_cleared, AudioBufferCleared)
    assert (nothing_cleared.source_event_id, nothing_cleared.task_id) == ("cut", None)


def test_an_end_without_an_open_utterance_is_acknowledged_without_a_task() -> None:
    committed = EventDialect(SpeechSignals.BOTH, Correlation.SOURCE).committed("u", None)

    assert isinstance(committed, AudioBufferCommitted)
    assert (committed.source_event_id, committed.task_id) == ("u", None)


def test_starvation_is_an_error_that_names_the_utterance() -> None:
    dialect = EventDialect(SpeechSignals.POSES, Correlation.TASK)

    error = dialect.event_for(Starved(SpokenUtterance("u")))

    assert isinstance(error, ErrorReported)
    assert (error.type, error.source_event_id) == ("video_starvation", "u")
