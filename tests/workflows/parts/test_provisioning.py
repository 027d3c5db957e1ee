"""How a generation is opened: limits become waits, and a lost reply another generation."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel
from temporalio.exceptions import ActivityError, TimeoutType

from avatar_sessions.contract.activities import (
    CreatedRoom,
    CreateRoom,
    ErrorType,
    MintedSession,
    SessionStarted,
    StartSession,
)
from avatar_sessions.contract.messages import OwnRoom, SessionRequest
from avatar_sessions.contract.states import EndReason, SessionState
from tests.support.activity_errors import refused, timed_out
from tests.support.workflow_stub import ScriptedActivities, WorkflowStub
from workflows.parts import options, provisioning
from workflows.parts.audio_streams import Streams
from workflows.parts.cleanup import USER_CLOSED, Cleanup
from workflows.parts.provisioning import Provisioning
from workflows.parts.session_state import EndCause, Generation, SessionRecord

RATE_LIMITED = refused("RateLimited", retryable=True, retry_delay=timedelta(seconds=2))
NO_FREE_SESSION = refused("ConcurrencyLimit", retryable=True, retry_delay=timedelta(seconds=1.5))
REPLY_LOST = refused(ErrorType.START_OUTCOME_UNKNOWN)


class RecordedCleanup(Cleanup):
    """A cleanup that records what it is asked to stop."""

    def __init__(self, record: SessionRecord) -> None:
        super().__init__(record)
        self.stopped: list[str] = []
        self.lost: list[str] = []

    async def stop(self, generation: Generation, reason: str = USER_CLOSED) -> None:
        self.stopped.append(generation.provider_session_id)

    def stop_lost_start_later(self, generation: Generation) -> None:
        self.lost.append(generation.provider_session_id)


class Opening:
    """The provisioning of a session, with scripted activities."""

    def __init__(
        self, stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch, *answers: BaseModel | Exception
    ) -> None:
        self.activities = ScriptedActivities(*answers)
        monkeypatch.setattr(provisioning, "execute", self.activities)
        self.record = SessionRecord("key", None, requested_at=stub.now)
        self.cleanup = RecordedCleanup(self.record)
        self.provisioning = Provisioning(self.record, Streams(), self.cleanup)

    @property
    def starts(self) -> list[StartSession]:
        return [one for one in self.activities.calls if isinstance(one, StartSession)]


def request(**fields: Any) -> SessionRequest:
    return SessionRequest(avatar_id=UUID(int=1), **fields)


def minted(number: int = 1) -> MintedSession:
    return MintedSession(provider_session_id=f"session-{number}", session_token="gAAAA-token")


def started(stub: WorkflowStub, number: int = 1) -> SessionStarted:
    return SessionStarted(
        provider_session_id=f"session-{number}", started_at=stub.now, ws_url="gAAAA-address"
    )


async def test_a_session_is_minted_and_started(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = Opening(stub, monkeypatch, minted(), started(stub))
    stream = await opening.provisioning.open(request())
    assert stream.generation is opening.record.generations[0]
    assert stream.generation.confirmed_started
    assert opening.record.state is SessionState.STARTING
    assert stub.pauses == []


@pytest.mark.parametrize("off", [timedelta(hours=-1), timedelta(hours=1)])
async def test_a_start_lies_within_the_workflow_s_time(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch, off: timedelta
) -> None:
    """A worker's wall clock had jumped back by an hour: the session counted as an hour old when it
    was live, and ended at once with ``max_duration``."""
    answer = started(stub).model_copy(update={"started_at": stub.now + off})
    opening = Opening(stub, monkeypatch, minted(), answer)
    stream = await opening.provisioning.open(request())
    assert stream.generation.started_at == stub.now
    assert stream.started.started_at == stub.now


async def test_a_rate_limited_mint_waits_and_is_repeated(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = Opening(stub, monkeypatch, RATE_LIMITED, RATE_LIMITED, minted(), started(stub))
    await opening.provisioning.open(request())
    assert stub.pauses == [2, 2]
    assert opening.record.pending_wait is None


async def test_a_start_without_a_free_session_waits_inside_the_activity(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There each attempt adds no event to the history."""
    opening = Opening(stub, monkeypatch, minted(), NO_FREE_SESSION, NO_FREE_SESSION, started(stub))
    await opening.provisioning.open(request())
    assert [one.patience_s for one in opening.starts] == [0, 10, 10]
    assert [one.after_s for one in opening.starts] == [0, 1.5, 1.5]
    assert stub.pauses == []
    assert opening.cleanup.stopped == []


async def test_a_long_pause_that_liveavatar_asks_for_is_a_timer(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = refused("RateLimited", retryable=True, retry_delay=timedelta(seconds=40))
    opening = Opening(stub, monkeypatch, minted(), busy, started(stub))
    await opening.provisioning.open(request())
    assert stub.pauses == [40]
    assert opening.starts[1].after_s == 0


@pytest.mark.parametrize("answers", [(RATE_LIMITED,), (minted(), NO_FREE_SESSION)])
async def test_a_rotation_does_not_wait_for_a_limit(
    answers: tuple[Any, ...], stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = Opening(stub, monkeypatch, *answers)
    with pytest.raises(ActivityError):
        await opening.provisioning.open(request(), wait_at_limit=False)
    assert stub.pauses == []


async def test_a_start_that_liveavatar_could_not_be_reached_for_is_tried_four_times(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = refused("ServiceUnreachable", retryable=True)
    opening = Opening(stub, monkeypatch, minted(), *[down] * options.START_TRIES)
    with pytest.raises(ActivityError):
        await opening.provisioning.open(request())
    assert stub.pauses == [0.5, 1, 2]
    assert opening.record.generations[0].started_at is None, "refused: not billed"


async def test_a_start_that_is_refused_is_not_repeated(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = Opening(stub, monkeypatch, minted(), refused("NoCredits"))
    with pytest.raises(ActivityError):
        await opening.provisioning.open(request())
    assert len(opening.starts) == 1
    assert opening.cleanup.stopped == []


async def test_a_start_whose_reply_is_lost_is_stopped_and_another_generation_opens(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = Opening(stub, monkeypatch, minted(1), REPLY_LOST, minted(2), started(stub, number=2))
    stream = await opening.provisioning.open(request())
    assert stream.generation.number == 2
    assert opening.cleanup.stopped == opening.cleanup.lost == ["session-1"]
    assert opening.record.generations[0].started_at is not None, "it may be billed"


async def test_not_every_lost_reply_opens_another_generation(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = timed_out(TimeoutType.HEARTBEAT)
    answers = [one for number in (1, 2, 3) for one in (minted(number), lost)]
    opening = Opening(stub, monkeypatch, *answers)
    with pytest.raises(ActivityError):
        await opening.provisioning.open(request())
    assert len(opening.cleanup.stopped) == options.MAX_START_GENERATIONS


async def test_an_ending_session_starts_nothing(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = Opening(stub, monkeypatch)
    opening.record.end(EndCause(EndReason.REQUESTED))
    with pytest.raises(asyncio.CancelledError):
        await opening.provisioning.open(request())
    assert opening.activities.calls == []


async def test_each_generation_enters_the_session_s_room_under_its_own_identity(
    stub: WorkflowStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def created(name: str) -> CreatedRoom:
        return CreatedRoom(room=name, livekit_url="wss://livekit.example", avatar_token="gAAAA-a")

    opening = Opening(
        stub,
        monkeypatch,
        created("room-1"),
        minted(1),
        started(stub),
        created("room-1"),
        minted(2),
        started(stub, number=2),
    )
    assert opening.provisioning.room_name is None
    wanted = request(room=OwnRoom(name="room-1", avatar_identity="wayne"))
    await opening.provisioning.open(wanted)
    await opening.provisioning.open(wanted)
    rooms = [one for one in opening.activities.calls if isinstance(one, CreateRoom)]
    assert [one.avatar_identity for one in rooms] == ["wayne", "wayne-generation-2"]
    assert opening.provisioning.room_name == "room-1"
