"""Bad input gets a clear error, and the session goes on."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio.client import WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from avatar_sessions import (
    AvatarNotAccepted,
    AvatarSessions,
    Clip,
    CommandRejected,
    DurationOverPlan,
    End,
    EndReason,
    NoCredits,
    ServiceUnreachable,
    SessionFailed,
    SessionState,
    SetPose,
    Speak,
    Unauthorized,
)
from avatar_sessions.contract import names
from avatar_sessions.contract.states import Pose, UtteranceOutcome
from avatar_sessions.seal import Seal
from deploy.local.livekit import LiveKitServer
from deploy.local.ports import free_port
from deploy.local.temporal import TemporalServer
from liveavatar_simulator import LiveAvatarSimulator
from tests.support.platforms.in_process import (
    SHORT,
    Platform,
    new_key,
    running_workers,
    simulator_settings,
    wayne,
)
from workers.settings import WorkerSettings

UNKNOWN_AVATAR = "99999999-9999-4999-8999-999999999999"
NOT_WAYNE = "11111111-1111-4111-8111-111111111111"


async def failed(sessions: AvatarSessions, error: type[SessionFailed], **request: Any) -> str:
    """Start, and expect attach to raise; the message."""
    began = time.monotonic()
    session = await sessions.start(new_key(), wayne(**request))
    with pytest.raises(error) as caught:
        await session.attach()
    report = await session.report(timeout_s=30)
    assert time.monotonic() - began < 30, "an answer within seconds, even on a busy machine"
    assert report.state is SessionState.FAILED
    assert report.end_reason is EndReason.START_FAILED
    assert report.failure is not None
    assert report.cleanup.provider_stopped
    assert report.failure.message in str(caught.value) or caught.value.failure == report.failure
    return report.failure.message


async def test_an_unknown_avatar(platform: Platform) -> None:
    await failed(platform.sessions, AvatarNotAccepted, avatar_id=UNKNOWN_AVATAR, sandbox=False)


async def test_an_avatar_that_the_sandbox_does_not_have(platform: Platform) -> None:
    words = await failed(platform.sessions, AvatarNotAccepted, avatar_id=NOT_WAYNE)
    assert "sandbox" in words.lower()


async def test_a_duration_over_the_plan_names_the_maximum(platform: Platform) -> None:
    words = await failed(
        platform.sessions, DurationOverPlan, sandbox=False, max_duration_s=86_400, rotate=False
    )
    assert "86400" in words
    assert "maximum" in words


async def test_a_request_that_can_never_work_is_told_field_by_field(platform: Platform) -> None:
    handle = await platform.client.start_workflow(
        "AvatarSession",
        {"avatar_id": "no-uuid", "max_durations_s": 5},
        id=f"avatar-session:{new_key()}",
        task_queue="avatar-sessions",
    )
    report = await handle.result()
    assert report["end_reason"] == "invalid_request"
    assert "avatar_id" in report["failure"]["message"]
    assert "max_durations_s" in report["failure"]["message"]


class Elsewhere:
    """A namespace with its own workers, for settings that break every session."""

    def __init__(self, temporal: TemporalServer, settings: WorkerSettings) -> None:
        self._temporal = temporal
        self._settings = settings

    async def fails(
        self, error: type[SessionFailed], changes: dict[str, Any], **request: Any
    ) -> str:
        settings = self._settings.model_copy(update=changes)
        client = await self._temporal.new_namespace()
        sessions = AvatarSessions(client, Seal(settings.seal_keys))
        async with running_workers(client, settings):
            return await failed(sessions, error, **request)


@pytest.fixture
def elsewhere(temporal: TemporalServer, worker_settings: WorkerSettings) -> Elsewhere:
    return Elsewhere(temporal, worker_settings)


async def test_a_bad_key(elsewhere: Elsewhere) -> None:
    words = await elsewhere.fails(
        Unauthorized, {"liveavatar_api_key": SecretStr("obviously-wrong-key")}
    )
    assert "obviously-wrong-key" not in words


async def test_a_service_that_is_down(elsewhere: Elsewhere) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    await elsewhere.fails(ServiceUnreachable, {"liveavatar_api_url": url})


async def test_no_credits(elsewhere: Elsewhere, livekit: LiveKitServer) -> None:
    async with LiveAvatarSimulator(simulator_settings(livekit, credits=0)) as simulator:
        await elsewhere.fails(NoCredits, {"liveavatar_api_url": simulator.url}, sandbox=False)


async def test_a_422_with_its_detail(elsewhere: Elsewhere, livekit: LiveKitServer) -> None:
    """The server refuses the request's shape: its message, field by field, reaches the report."""
    async with LiveAvatarSimulator(simulator_settings(livekit)) as simulator:
        simulator.faults.token_failures = 1
        simulator.faults.token_failure_status = 422
        words = await elsewhere.fails(SessionFailed, {"liveavatar_api_url": simulator.url})
    assert "422" in words


async def test_an_own_room_without_a_livekit_server(elsewhere: Elsewhere) -> None:
    words = await elsewhere.fails(
        SessionFailed,
        {"livekit_url": None, "livekit_api_key": None, "livekit_api_secret": None},
        room={},
    )
    assert "LIVEKIT_URL" in words


@pytest.mark.parametrize(
    ("clip", "failure"),
    [
        (Clip(file="nothing.wav"), "ClipMissing"),
        (Clip(file="words.wav"), "ClipNotAudio"),
        (Clip(file="../outside.wav"), "ClipForbidden"),
        (Clip(url="http://127.0.0.1:9/a.wav"), "ClipForbidden"),
        (Clip(url="http://169.254.169.254/latest/meta-data"), "ClipForbidden"),
        (Clip(url="https://no-such-host.invalid/a.wav"), "ClipUnreachable"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_a_clip_that_cannot_be_spoken_is_rejected_and_the_session_lives_on(
    live: Any, clip: Clip, failure: str
) -> None:
    utterance = await live.speak(clip)
    assert utterance.outcome is UtteranceOutcome.REJECTED
    assert utterance.failure is not None
    assert utterance.failure.type == failure
    assert (await live.status()).state is SessionState.LIVE


async def test_malformed_messages_are_recorded_and_never_wedge_the_session(
    platform: Platform,
) -> None:
    session = await platform.start()
    await session.attach()
    handle = platform.client.get_workflow_handle(session.workflow_id)
    await handle.signal("speak", {"clip": {}})
    await handle.signal("speak", "not an object")
    await handle.signal("speak", args=[])
    await handle.signal("interrupt", args=[{}, {}])
    await handle.signal("set_pose", {"pose": "dancing"})
    await handle.signal("owner_ready", {"queue": 1})
    await handle.signal("no_such_signal", {"a": 1})
    for bad in ({"kind": "fly"}, {"kind": "speak"}, "text", None):
        with pytest.raises(WorkflowUpdateFailedError):
            await handle.execute_update("perform", bad)
    with pytest.raises(WorkflowUpdateFailedError):
        await handle.execute_update("attach", {"viewer_identity": ""})
    assert (await session.speak(Clip(file="short.wav"))).outcome is UtteranceOutcome.COMPLETED
    report = await session.end()
    assert report.ignored_count == 7
    assert {line.name for line in report.ignored} >= {"speak", "set_pose", "no_such_signal"}
    assert report.end_reason is EndReason.REQUESTED


async def test_a_flood_of_commands_does_not_stop_an_end(platform: Platform) -> None:
    session = await platform.start()
    await session.attach()
    await asyncio.gather(*(session.speak(Clip(file="long.wav"), wait=False) for _ in range(300)))
    report = await session.end()
    assert report.end_reason is EndReason.REQUESTED
    assert report.totals.count + report.ignored_count == 300


@pytest.mark.parametrize(
    "change",
    [
        {"queue": "x" * 1500},
        {"queue": "/_sys/x"},
        {"queue": "avatar-owner:000000000000", "epoch": [7, 1]},
        {"queue": "avatar-owner:000000000000", "provider_session_id": "another"},
    ],
    ids=["long queue", "reserved queue", "other stream", "other session"],
)
async def test_a_forged_owner_ready_signal_changes_nothing(
    platform: Platform, change: dict[str, Any]
) -> None:
    """A bogus queue failed every workflow task from then on, while the session was billed."""
    session = await platform.start()
    await session.attach()
    provider_id = (await session.status()).provider_session_id
    bogus = {
        "queue": "avatar-owner:000000000000",
        "epoch": [1, 2],
        "provider_session_id": provider_id,
        **change,
    }
    await platform.client.get_workflow_handle(session.workflow_id).signal("owner_ready", bogus)
    assert (await session.speak(SHORT)).outcome is UtteranceOutcome.COMPLETED
    report = await session.end()
    assert report.ignored_count == 1
    assert report.takeovers == 0


async def test_a_rejection_stays_small_whatever_was_wrong(platform: Platform) -> None:
    """60,000 unknown fields made a rejection of 3.7 MB, which the server refused again and again:
    the session did not answer any more, and was billed."""
    session = await platform.start()
    await session.attach()
    handle = platform.client.get_workflow_handle(session.workflow_id)
    bad = {"kind": "interrupt"} | {f"field{number}": 1 for number in range(60_000)}
    with pytest.raises(WorkflowUpdateFailedError) as caught:
        await handle.execute_update("perform", bad)
    assert isinstance(caught.value.cause, ApplicationError)
    assert len(caught.value.cause.message) < 2000
    assert "and 59990 more" in caught.value.cause.message
    assert (await session.end()).end_reason is EndReason.REQUESTED


async def test_one_id_is_one_command(platform: Platform) -> None:
    """`perform` answered a speak with the result of the pose that had the same id."""
    session = await platform.start()
    await session.attach()
    await session.perform(SetPose(pose=Pose.LISTENING, command_id="x"))
    with pytest.raises(CommandRejected, match="another command"):
        await session.speak(SHORT, command_id="x")
    await session.send(Speak(clip=SHORT, command_id="x"))
    await session.send(End(command_id="x"))
    report = await session.report(timeout_s=40)
    assert report.end_reason is EndReason.REQUESTED
    assert report.ignored_count == 1


async def test_a_viewer_cannot_take_the_avatars_place(platform: Platform) -> None:
    session = await platform.sessions.start(new_key(), wayne(room={}))
    with pytest.raises(CommandRejected, match="viewer_identity"):
        await session.attach(viewer_identity="avatar")
    await session.end()


async def test_a_signal_with_an_absurd_gap_is_ignored(platform: Platform) -> None:
    """A client that knew the owner could wedge the workflow for good, and the session went on
    being billed: the number did not fit into a timedelta."""
    session = await platform.start()
    await session.attach()
    handle = platform.client.get_workflow_handle(session.workflow_id)
    ready: dict[str, Any] = {}
    for event in (await handle.fetch_history()).events:
        signal = event.workflow_execution_signaled_event_attributes
        if signal.signal_name == names.SIGNAL_OWNER_READY:
            ready = json.loads(signal.input.payloads[0].data)
    await handle.signal(names.SIGNAL_OWNER_READY, {**ready, "gap_ms": 10**18})
    line = {"id": "x", "outcome": "completed", "source": "live", "heard_ms": 10**400}
    await handle.signal(names.SIGNAL_UTTERANCES, {"epoch": [1, 1], "utterances": [line]})
    await handle.signal(names.SIGNAL_OWNER_RECOVERING, {"epoch": ready["epoch"]})
    report = await session.end(timeout_s=20)
    assert report.end_reason is EndReason.REQUESTED
    assert report.ignored_count == 2
