"""Translates playback events into events of the LITE WebSocket, in the configured dialect.

Sources disagree on which events arrive and how they name their cause, so each variant is a setting.
"""

from __future__ import annotations

import uuid
from typing import Final, assert_never

from liveavatar_lite.messages import (
    AgentStateUpdated,
    AudioBufferAppended,
    AudioBufferCleared,
    AudioBufferCommitted,
    ErrorReported,
    ServerEvent,
    SpeakEnded,
    SpeakInterrupted,
    SpeakStarted,
    SpeechEvent,
)

from .playback import (
    Cleared,
    PlaybackEvent,
    PoseTaken,
    SpeechBegun,
    SpeechCut,
    SpeechFinished,
    SpokenUtterance,
    Starved,
)
from .settings import Correlation, SpeechSignals

_SPEECH: Final[dict[type[PlaybackEvent], type[SpeechEvent]]] = {
    SpeechBegun: SpeakStarted,
    SpeechFinished: SpeakEnded,
    SpeechCut: SpeakInterrupted,
}


class EventDialect:
    """Makes the events of one dialect."""

    def __init__(self, speech: SpeechSignals, correlation: Correlation) -> None:
        self._speech = speech
        self._correlation = correlation

    def appended(self, event_id: str | None, utterance: SpokenUtterance) -> ServerEvent:
        """Acknowledges one ``agent.speak``."""
        return self._about(AudioBufferAppended, event_id, utterance.task_id)

    def committed(self, event_id: str | None, utterance: SpokenUtterance | None) -> ServerEvent:
        """Acknowledges ``agent.speak_end``, also where no utterance was open."""
        return self._about(AudioBufferCommitted, event_id, utterance.task_id if utterance else None)

    def event_for(
        self, event: PlaybackEvent, *, no_speech_events: bool = False
    ) -> ServerEvent | None:
        """The event on the wire, or None where the dialect has none."""
        match event:
            case Cleared(event_id=event_id, utterance=cut):
                return self._about(AudioBufferCleared, event_id, cut.task_id if cut else None)
            case PoseTaken(previous=previous, new=new):
                if self._speech is SpeechSignals.SPEECH:
                    return None
                return AgentStateUpdated(previous, new, event_id=_fresh_id())
            case Starved(utterance=utterance):
                return ErrorReported(
                    "video_starvation",
                    "audio is arriving too slowly",
                    source_event_id=utterance.event_id,
                    event_id=_fresh_id(),
                )
            case SpeechBegun() | SpeechFinished() | SpeechCut():
                if no_speech_events or self._speech is SpeechSignals.POSES:
                    return None
                utterance = event.utterance
                return self._about(_SPEECH[type(event)], utterance.event_id, utterance.task_id)
            case _:
                assert_never(event)

    def _about(
        self, message: type[SpeechEvent], source_event_id: str | None, task_id: str | None
    ) -> SpeechEvent:
        match self._correlation:
            case Correlation.SOURCE:
                return message(_fresh_id(), source_event_id, task_id)
            case Correlation.SAME:
                return message(source_event_id, None, task_id)
            case Correlation.TASK:
                return message(_fresh_id(), None, task_id)
            case _:
                assert_never(self._correlation)


def _fresh_id() -> str:
    return str(uuid.uuid4())
