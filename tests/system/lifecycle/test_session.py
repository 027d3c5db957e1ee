"""A session from start to end: commands, speech, each way to end, and nothing left behind."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import pytest
from livekit import api
from temporalio.client import WorkflowExecutionStatus

from avatar_sessions import (
    EndReason,
    OwnRoom,
    Session,
    SessionFailed,
    SessionOver,
    SessionReport,
    SessionState,
    SetPose,
    Speak,
)
from avatar_sessions.contract import names
from avatar_sessions.contract.states import CommandOutcome, Pose, UtteranceOutcome
from deploy.local.livekit import LiveKitServer
from liveavatar_lite import LiveAvatar, SessionEndReason
from tests.support.platforms.in_process import LONG, MIDDLE, SHORT, Platform, new_key, wayne
from tests.support.waiting import until


def in_ledger(platform: Platform, report: SessionReport) -> list[dict[str, object]]:
    """The simulator's lines for a session's generations."""
    ids = {generation.provider_session_id for generation in report.generations}
    ledger = platform.simulator.ledger().model_dump(mode="json")
    return [line for line in ledger["sessions"] if line["session_id"] in ids]


def assert_nothing_open(platform: Platform, report: SessionReport) -> None:
    for line in in_ledger(platform, report):
        assert line["started_at"] is None or line["ended_at"] is not None, line
    assert report.cleanup.provider_stopped
    assert report.cleanup.room_clean


async def test_a_session_is_started_managed_and_ended(platform: Platform) -> None:
    session = await platform.start()
    access = await session.attach()
    assert access.viewer.livekit_url.startswith("ws")
    assert access.viewer.token
    assert access.agent is not None
    assert access.agent.token != access.viewer.token

    utterance = await session.speak(SHORT)
    assert utterance.outcome is UtteranceOutcome.COMPLETED
    assert utterance.heard_ms == utterance.sent_ms == utterance.duration_ms == 600
    assert utterance.first_audio_ms is not None

    assert (await session.set_pose("listening")).outcome is CommandOutcome.SENT
    assert (await session.keep_alive()).outcome is CommandOutcome.SENT
    status = await session.status()
    assert status.state is SessionState.LIVE
    assert status.utterances == 1
    assert status.pose is Pose.LISTENING

    report = await session.end()
    assert report.state is SessionState.ENDED
    assert report.end_reason is EndReason.REQUESTED
    assert [line.outcome for line in report.utterances] == [UtteranceOutcome.COMPLETED]
    assert len(report.generations) == 1
    assert report.generations[0].stop == "stopped"
    assert report.generations[0].billed_s > 0
    assert_nothing_open(platform, report)
    (line,) = in_ledger(platform, report)
    assert line["sockets_open"] == 0
    assert line["end_reason"] == "USER_CLOSED"


async def test_an_interrupt_cuts_speech_and_reports_how_much_was_heard(
    platform: Platform,
) -> None:
    session = await platform.start()
    await session.attach()
    speaking = asyncio.create_task(session.speak(LONG))
    await _talking(session)
    await session.send(Speak(clip=MIDDLE, command_id="queued"))
    queued = asyncio.create_task(session.speak(MIDDLE, command_id="queued"))
    await asyncio.sleep(1.0)
    await session.interrupt()
    cut, dropped = await speaking, await queued
    assert cut.outcome is UtteranceOutcome.INTERRUPTED
    assert 0 < cut.heard_ms <= cut.sent_ms < cut.duration_ms == 12_000
    assert cut.sent_ms - cut.heard_ms <= 3_100, "more than the lead was lost"
    assert dropped.outcome is UtteranceOutcome.INTERRUPTED
    assert dropped.sent_ms == 0
    after = await session.speak(SHORT)
    assert after.outcome is UtteranceOutcome.COMPLETED
    report = await session.end()
    (line,) = in_ledger(platform, report)
    reported, played = cut.heard_ms, _played_ms(line)[0]
    assert abs(reported - played) < 500, (reported, played)


def _played_ms(line: dict[str, object]) -> list[int]:
    utterances = line["utterances"]
    assert isinstance(utterances, list)
    return [utterance["played_ms"] for utterance in utterances]


async def _talking(session: Session) -> None:
    give_up = time.monotonic() + 20
    while (await session.status()).speaking is None:
        assert time.monotonic() < give_up, "nothing is being said"
        await asyncio.sleep(0.05)


async def test_commands_before_the_avatar_wait_for_it_in_order(platform: Platform) -> None:
    """Signal-with-start of a speak command is enough for a greeting."""
    platform.simulator.faults.slow_start_s = 1.0
    try:
        session = await platform.sessions.start(
            new_key(), wayne(), first=Speak(clip=SHORT, command_id="greeting")
        )
        await session.send(SetPose(pose=Pose.LISTENING, command_id="pose"))
        await session.send(Speak(clip=SHORT, command_id="second"))
        greeting = await session.speak(SHORT, command_id="greeting")
    finally:
        platform.simulator.faults.slow_start_s = 0.0
    assert greeting.outcome is UtteranceOutcome.COMPLETED
    assert (await session.speak(SHORT, command_id="second")).outcome is UtteranceOutcome.COMPLETED
    report = await session.end()
    assert [line.id for line in report.utterances] == ["greeting", "second"]


async def test_a_command_that_waits_too_long_expires(platform: Platform) -> None:
    platform.simulator.faults.slow_start_s = 1.5
    try:
        session = await platform.sessions.start(
            new_key(), wayne(command_ttl_s=0.3), first=Speak(clip=SHORT, command_id="late")
        )
        await session.attach()
    finally:
        platform.simulator.faults.slow_start_s = 0.0
    report = await session.end()
    assert [line.outcome for line in report.utterances] == [UtteranceOutcome.EXPIRED]
    (line,) = in_ledger(platform, report)
    assert line["utterances"] == []


async def test_starting_twice_under_one_key_is_one_session(platform: Platform) -> None:
    key = new_key()
    one, other = await asyncio.gather(
        platform.sessions.start(key, wayne()), platform.sessions.start(key, wayne())
    )
    await asyncio.gather(one.attach(), other.attach())
    assert (await one.status()).provider_session_id == (await other.status()).provider_session_id
    report = await one.end()
    assert len(report.generations) == 1


async def test_a_repeated_command_is_done_once(platform: Platform) -> None:
    session = await platform.start()
    await session.attach()
    await asyncio.gather(*(session.speak(SHORT, command_id="same") for _ in range(3)))
    report = await session.end()
    assert report.totals.count == 1


async def test_an_end_may_let_the_avatar_finish(platform: Platform) -> None:
    session = await platform.start()
    await session.attach()
    await session.send(Speak(clip=MIDDLE))
    report = await session.end(finish_speaking=True)
    assert [line.outcome for line in report.utterances] == [UtteranceOutcome.COMPLETED]


async def test_an_immediate_end_cuts_speech_and_reports_what_was_heard(platform: Platform) -> None:
    session = await platform.start()
    await session.attach()
    speaking = asyncio.create_task(session.speak(LONG))
    await _talking(session)
    await asyncio.sleep(1.0)
    report = await session.end()
    cut = await speaking
    assert cut.outcome is UtteranceOutcome.CANCELLED
    assert 0 < cut.heard_ms < 12_000
    assert report.utterances[0].heard_ms == cut.heard_ms
    assert_nothing_open(platform, report)


async def test_an_end_before_the_avatar_is_live_stops_what_was_begun(platform: Platform) -> None:
    """A stop before CONNECTED must not be lost: the session would connect later and be billed."""
    platform.simulator.faults.slow_start_s = 1.5
    try:
        session = await platform.start()
        await asyncio.sleep(0.5)
        report = await session.end()
    finally:
        platform.simulator.faults.slow_start_s = 0.0
    assert report.end_reason is EndReason.REQUESTED
    assert report.generations[0].stop == "stopped"
    assert_nothing_open(platform, report)
    with pytest.raises(SessionOver):
        await session.attach()


async def test_the_sessions_limit_ends_it(platform: Platform) -> None:
    session = await platform.start(sandbox=False, max_duration_s=10)
    await session.attach()
    report = await session.report(timeout_s=40)
    assert report.end_reason is EndReason.MAX_DURATION
    assert report.state is SessionState.ENDED
    assert 9.0 <= report.generations[0].billed_s < 20
    assert_nothing_open(platform, report)


async def test_an_unused_session_ends(platform: Platform) -> None:
    session = await platform.start(idle_timeout_s=1)
    report = await session.report(timeout_s=40)
    assert report.end_reason is EndReason.IDLE_TIMEOUT
    assert_nothing_open(platform, report)


async def test_speech_is_not_idleness(platform: Platform) -> None:
    session = await platform.start(idle_timeout_s=1)
    await session.attach()
    assert (await session.speak(MIDDLE)).outcome is UtteranceOutcome.COMPLETED
    report = await session.report(timeout_s=40)
    assert report.end_reason is EndReason.IDLE_TIMEOUT


async def test_an_avatar_that_never_connects_is_given_up_in_time(platform: Platform) -> None:
    platform.simulator.faults.never_connected = 100
    try:
        session = await platform.start(start_timeout_s=2)
        with pytest.raises(SessionFailed) as caught:
            await session.attach()
    finally:
        platform.simulator.faults.never_connected = 0
    report = caught.value.report or await session.report(timeout_s=40)
    assert report.end_reason is EndReason.START_TIMEOUT
    assert report.state is SessionState.FAILED
    assert_nothing_open(platform, report)


async def test_a_cancelled_workflow_cleans_up(platform: Platform) -> None:
    session = await platform.start()
    await session.attach()
    await session.cancel()
    report = await session.report(timeout_s=40)
    assert report.end_reason is EndReason.CANCELLED
    assert_nothing_open(platform, report)


async def test_a_terminated_workflow_is_cleaned_up_by_its_owner(platform: Platform) -> None:
    session = await platform.start()
    await session.attach()
    provider_id = (await session.status()).provider_session_id
    await platform.client.get_workflow_handle(session.workflow_id).terminate("test")

    def stopped() -> bool:
        lines = platform.simulator.ledger().model_dump(mode="json")["sessions"]
        return any(line["session_id"] == provider_id and line["ended_at"] for line in lines)

    await until(stopped, within_s=30)


async def test_a_session_that_liveavatar_ends_says_so(platform: Platform) -> None:
    session = await platform.start()
    await session.attach()
    provider_id = (await session.status()).provider_session_id
    assert provider_id is not None
    async with LiveAvatar(
        platform.settings.liveavatar_api_key, base_url=platform.settings.liveavatar_api_url
    ) as operator:
        await operator.stop_session(provider_id, SessionEndReason.NO_CREDITS)
    report = await session.report(timeout_s=40)
    assert report.end_reason is EndReason.PROVIDER_ENDED
    assert report.failure is not None
    assert "NO_CREDITS" in report.failure.message
    assert_nothing_open(platform, report)


async def test_a_dropped_socket_is_reopened_and_speech_goes_on(
    platform: Platform,
) -> None:
    session = await platform.start()
    await session.attach()
    platform.simulator.faults.dropped_sockets = 1
    spoken = await session.speak(LONG)
    assert (spoken.outcome, spoken.heard_ms) == (UtteranceOutcome.COMPLETED, 12_000)
    assert (await session.speak(SHORT)).outcome is UtteranceOutcome.COMPLETED
    report = await session.end()
    assert report.reconnects == 1
    assert report.gaps_ms > 0
    assert_nothing_open(platform, report)


async def test_a_lost_reply_to_start_never_leaves_two_avatars(platform: Platform) -> None:
    platform.simulator.faults.lost_start_replies = 1
    session = await platform.start()
    await session.attach()
    report = await session.end()
    assert len(report.generations) == 2
    assert all(generation.stop == "stopped" for generation in report.generations)
    first, second = sorted(in_ledger(platform, report), key=lambda line: str(line["started_at"]))
    assert str(first["ended_at"]) <= str(second["started_at"])
    assert_nothing_open(platform, report)


async def test_a_stop_that_fails_is_repeated_until_it_works(platform: Platform) -> None:
    session = await platform.start()
    await session.attach()
    platform.simulator.faults.stop_failures = 3
    report = await session.end()
    assert_nothing_open(platform, report)


async def test_without_speech_events_utterances_still_end(platform: Platform) -> None:
    """LiveAvatar stopped sending agent.speak_* to some sessions in September 2026."""
    platform.simulator.faults.no_speech_events = True
    try:
        session = await platform.start()
        await session.attach()
        assert (await session.speak(SHORT)).outcome is UtteranceOutcome.COMPLETED
    finally:
        platform.simulator.faults.no_speech_events = False
    await session.end()


async def test_an_own_room_is_created_joined_and_deleted(
    platform: Platform, livekit: LiveKitServer
) -> None:
    key = new_key()
    session = await platform.sessions.start(
        key, wayne(room=OwnRoom(name=f"room-{key}").model_dump())
    )
    access = await session.attach(viewer_identity="alice")
    assert access.room == f"room-{key}"
    claims = api.TokenVerifier(livekit.api_key, livekit.api_secret).verify(access.viewer.token)
    assert claims.identity == "alice"
    async with api.LiveKitAPI(livekit.url, livekit.api_key, livekit.api_secret) as rooms:
        give_up = time.monotonic() + 20
        while True:
            inside = await rooms.room.list_participants(
                api.ListParticipantsRequest(room=f"room-{key}")
            )
            if [one.identity for one in inside.participants] == ["avatar"]:
                break
            assert time.monotonic() < give_up, inside
            await asyncio.sleep(0.1)
        report = await session.end()
        left = await rooms.room.list_rooms(api.ListRoomsRequest(names=[f"room-{key}"]))
    assert not left.rooms
    assert_nothing_open(platform, report)


async def test_sessions_are_listed_by_state_and_tenant(platform: Platform) -> None:
    session = await platform.start(tenant="acme")
    await session.attach()
    give_up = time.monotonic() + 20  # visibility is eventually consistent
    while session.key not in [
        one.key async for one in platform.sessions.list(state=SessionState.LIVE, tenant="acme")
    ]:
        assert time.monotonic() < give_up
        await asyncio.sleep(0.1)
    assert platform.sessions.get(session.key).workflow_id == session.workflow_id
    await session.end()


async def test_opening_is_one_call(platform: Platform) -> None:
    session, access = await platform.sessions.open(new_key(), wayne())
    assert access.viewer.token
    await session.end()


async def test_plain_json_from_any_sdk_is_enough(platform: Platform) -> None:
    """The caller uses no model of this package: names and JSON as in docs/reference/contract.md.

    The tenant's search attribute was once set by the Python client only.
    """
    key = new_key()
    handle = await platform.client.start_workflow(
        "AvatarSession",
        {
            "avatar_id": "dd73ea75-1218-4ef3-92ce-606d5f7fbc0a",
            "sandbox": True,
            "tenant": "from-elsewhere",
        },
        id=f"avatar-session:{key}",
        task_queue="avatar-sessions",
        task_timeout=timedelta(seconds=2),
        start_signal="speak",
        start_signal_args=[{"clip": {"file": "short.wav"}, "command_id": "hello"}],
    )
    spoken = await handle.execute_update(
        "perform", {"kind": "speak", "clip": {"file": "short.wav"}, "command_id": "hello"}
    )
    assert spoken["utterance"]["outcome"] == "completed"
    await handle.signal("end", {})
    report = await handle.result()
    assert report["state"] == "ENDED"
    described = await handle.describe()
    assert described.status is WorkflowExecutionStatus.COMPLETED
    found = {pair.key.name: pair.value for pair in described.typed_search_attributes}
    assert found[names.SEARCH_ATTRIBUTE_STATE] == "ENDED"
    assert found[names.SEARCH_ATTRIBUTE_TENANT] == "from-elsewhere"
