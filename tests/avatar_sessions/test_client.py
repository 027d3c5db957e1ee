"""The client against a real Temporal server and the real session workflow."""

from __future__ import annotations

import asyncio
import base64
import json
from functools import partial
from uuid import UUID

import pytest
from temporalio.client import Client

from avatar_sessions import (
    AvatarNotAccepted,
    AvatarSessions,
    Clip,
    CommandExpired,
    CommandOutcome,
    ConcurrencyLimit,
    DurationOverPlan,
    EndReason,
    Failure,
    InvalidRequest,
    KeepAlive,
    NoCredits,
    OwnRoom,
    Seal,
    SealKeysUnusable,
    SealMismatch,
    ServiceUnreachable,
    SessionFailed,
    SessionNotFound,
    SessionOver,
    SessionRequest,
    SessionState,
    SessionTerminated,
    Speak,
    StartTimedOut,
    Unauthorized,
    UtteranceOutcome,
    UtteranceReport,
)
from avatar_sessions.errors import session_failed
from deploy.local.livekit import LiveKitServer
from liveavatar_lite import WAYNE_AVATAR_ID
from liveavatar_simulator import LiveAvatarSimulator
from tests.support.platforms.sandbox import SHORT_MS, wanted

SHORT = Clip(file="short.wav")
LONG = Clip(file="long.wav")


def claims(token: str) -> dict[str, object]:
    """The claims of a LiveKit token, unverified."""
    middle = token.split(".")[1]
    said: dict[str, object] = json.loads(
        base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4))
    )
    return said


async def wait_until_speaking(sessions: AvatarSessions, key: str, within_s: float = 10.0) -> None:
    """Wait until the session speaks."""
    async with asyncio.timeout(within_s):
        while (await sessions.get(key).status()).speaking is None:
            await asyncio.sleep(0.02)


class TestLifecycle:
    async def test_a_session_from_start_to_report(
        self, sessions: AvatarSessions, livekit: LiveKitServer, key: str
    ) -> None:
        session = await sessions.start(
            key, SessionRequest(avatar_id=UUID(WAYNE_AVATAR_ID), sandbox=True)
        )
        access = await session.attach()
        utterance = await session.speak(SHORT)
        interrupted = await session.interrupt()
        posed = await session.set_pose("listening")
        kept = await session.keep_alive()
        status = await session.status()
        keys = [one.key async for one in sessions.list()]
        report = await session.end()

        assert access.viewer.livekit_url == livekit.url
        assert access.agent is not None
        assert access.viewer.token not in ("", access.agent.token)
        assert access.viewer.token not in repr(access)
        assert (utterance.outcome, utterance.heard_ms) == (UtteranceOutcome.COMPLETED, SHORT_MS)
        assert {one.outcome for one in (interrupted, posed, kept)} == {CommandOutcome.SENT}
        assert status.state is SessionState.LIVE
        assert key in keys
        assert (report.state, report.end_reason) == (SessionState.ENDED, EndReason.REQUESTED)
        assert report.totals.count == 1

    async def test_starting_twice_under_one_key_gives_the_same_session(
        self, sessions: AvatarSessions, key: str, request_: SessionRequest
    ) -> None:
        first, second = await asyncio.gather(
            sessions.start(key, request_), sessions.start(key, request_)
        )

        assert first.run_id == second.run_id

    async def test_open_starts_or_finds_a_session_and_attaches_to_it(
        self, sessions: AvatarSessions, key: str, request_: SessionRequest
    ) -> None:
        session, access = await sessions.open(key, request_)
        again, access_again = await sessions.open(key, request_)

        assert access.viewer.token == access_again.viewer.token
        assert session.run_id == again.run_id is not None

    async def test_a_command_sent_with_the_start_is_carried_out(
        self, sessions: AvatarSessions, key: str, request_: SessionRequest
    ) -> None:
        session = await sessions.start(key, request_, first=Speak(clip=SHORT))
        report = await session.end(finish_speaking=True)

        assert [one.outcome for one in report.utterances] == [UtteranceOutcome.COMPLETED]

    async def test_a_key_can_be_used_again_and_the_first_session_keeps_its_run(
        self, sessions: AvatarSessions, key: str, request_: SessionRequest
    ) -> None:
        """A handler that held on to an old session would have ended its successor."""
        old = await sessions.start(key, request_)
        await old.end()
        new = await sessions.start(key, request_)
        await new.attach()

        old_report = await old.end()

        assert old_report.run_id == old.run_id != new.run_id
        assert (await sessions.get(key).status()).state is SessionState.LIVE

    async def test_watch_yields_every_change_until_the_end(
        self, sessions: AvatarSessions, key: str, request_: SessionRequest
    ) -> None:
        session, _ = await sessions.open(key, request_)
        seen = []
        async for status in session.watch(every_s=0.05):
            seen.append(status.state)
            if status.state is SessionState.LIVE:
                await session.cancel()

        assert (seen[0], seen[-1]) == (SessionState.LIVE, SessionState.ENDED)
        assert (await session.report()).end_reason is EndReason.CANCELLED

    async def test_ending_twice_gives_the_same_report(
        self, sessions: AvatarSessions, key: str, request_: SessionRequest
    ) -> None:
        session = await sessions.start(key, request_)

        assert await session.end() == await session.end() == await sessions.get(key).end()

    async def test_list_finds_sessions_by_tenant_and_by_state_even_ended_ones(
        self, sessions: AvatarSessions, key: str
    ) -> None:
        tenant = f"o'neill-{key}"
        session, _ = await sessions.open(key, wanted(tenant=tenant))

        async with asyncio.timeout(10):  # visibility lags behind
            while not [one async for one in sessions.list(tenant=tenant, state=SessionState.LIVE)]:
                await asyncio.sleep(0.05)
        await session.end()
        async with asyncio.timeout(10):
            while not (
                ended := [
                    one async for one in sessions.list(tenant=tenant, state=SessionState.ENDED)
                ]
            ):
                await asyncio.sleep(0.05)

        assert [one.key for one in ended] == [key]
        assert ended[0].listing is not None
        assert (ended[0].listing.state, ended[0].listing.tenant) == (SessionState.ENDED, tenant)

    async def test_an_own_room_gives_each_viewer_a_token(
        self, sessions: AvatarSessions, key: str
    ) -> None:
        room = f"lobby-{key}"
        session, ada = await sessions.open(key, wanted(room=OwnRoom(name=room)), "ada")
        bob = await session.attach("bob")

        assert ada.room == bob.room == room
        assert [claims(one.viewer.token)["sub"] for one in (ada, bob)] == ["ada", "bob"]


async def test_workers_and_client_meet_on_another_task_queue(
    staging: Client, seal: Seal, key: str, request_: SessionRequest
) -> None:
    """AVATAR_SESSIONS_TASK_QUEUE was for clients only: workers polled the default one, and the
    workflow's activities were scheduled there, whichever queue the workflow was on."""
    sessions = AvatarSessions(staging, seal, task_queue="avatars-staging")

    session, access = await sessions.open(key, request_)
    report = await session.end()

    assert access.viewer.token
    assert (report.state, report.end_reason) == (SessionState.ENDED, EndReason.REQUESTED)


class TestCommands:
    async def test_speech_with_one_id_is_played_once(
        self, sessions: AvatarSessions, key: str, request_: SessionRequest
    ) -> None:
        session = await sessions.start(key, request_)

        reports = await asyncio.gather(
            *(session.speak(SHORT, command_id="hello") for _ in range(3))
        )

        assert {one.id for one in reports} == {"hello"}
        assert (await session.end()).totals.count == 1

    async def test_more_speech_than_may_be_awaited_is_played_to_its_end(
        self, sessions: AvatarSessions, key: str, request_: SessionRequest
    ) -> None:
        session = await sessions.start(key, request_)

        reports = await asyncio.gather(*(session.speak(SHORT) for _ in range(12)))

        assert {one.outcome for one in reports} == {UtteranceOutcome.COMPLETED}
        assert len({one.id for one in reports}) == 12

    async def test_two_clients_share_the_limit_of_awaited_speech(
        self, sessions: AvatarSessions, key: str, request_: SessionRequest
    ) -> None:
        await sessions.start(key, request_)
        one, other = sessions.get(key), sessions.get(key)
        long = [asyncio.create_task(one.speak(LONG), name=f"long {n}") for n in range(4)]
        await wait_until_speaking(sessions, key)
        late = [asyncio.create_task(other.speak(SHORT), name=f"late {n}") for n in range(4)]
        await asyncio.sleep(0.3)  # time to be turned away; none of the eight can be over yet

        async with asyncio.timeout(30):
            while not all(task.done() for task in (*long, *late)):
                await other.interrupt()
                await asyncio.sleep(0.05)

        assert {task.result().outcome for task in (*long, *late)} <= {
            UtteranceOutcome.INTERRUPTED,
            UtteranceOutcome.COMPLETED,
        }

    async def test_speech_without_waiting_returns_its_id(
        self, sessions: AvatarSessions, key: str, request_: SessionRequest
    ) -> None:
        session = await sessions.start(key, request_)

        sent = [await session.speak(SHORT, wait=False) for _ in range(12)]
        report = await session.end(finish_speaking=True)

        assert [one.id for one in report.utterances] == sent

    async def test_an_interrupt_ends_the_wait_for_speech(
        self, sessions: AvatarSessions, key: str, request_: SessionRequest
    ) -> None:
        session = await sessions.start(key, request_)
        speech = asyncio.create_task(session.speak(LONG), name="speech")
        await wait_until_speaking(sessions, key)

        await session.interrupt()

        assert (await speech).outcome is UtteranceOutcome.INTERRUPTED

    async def test_a_command_expires_if_the_avatar_is_not_live_in_time(
        self, sessions: AvatarSessions, simulator: LiveAvatarSimulator, key: str
    ) -> None:
        simulator.faults.slow_start_s = 5.0
        session = await sessions.start(key, wanted(command_ttl_s=0.2))

        pose, speech = await asyncio.gather(
            session.set_pose("listening"), session.speak(SHORT), return_exceptions=True
        )

        assert isinstance(pose, CommandExpired)
        assert isinstance(speech, UtteranceReport)
        assert speech.outcome is UtteranceOutcome.EXPIRED

    async def test_a_cancelled_wait_raises_cancelled_error(
        self, sessions: AvatarSessions, simulator: LiveAvatarSimulator, key: str
    ) -> None:
        """The SDK turns a cancel during an update into an error of its own: Ctrl-C was lost."""
        simulator.faults.slow_start_s = 2.0
        session = await sessions.start(key, wanted())
        waiting = asyncio.create_task(session.attach(), name="attach")
        await asyncio.sleep(0.2)

        waiting.cancel()

        with pytest.raises(asyncio.CancelledError):
            await waiting


class TestFailures:
    @pytest.mark.parametrize(
        ("request_fields", "error"),
        [
            ({"avatar_id": "99999999-9999-4999-8999-999999999999"}, AvatarNotAccepted),
            ({"sandbox": False, "max_duration_s": 86_400, "rotate": False}, DurationOverPlan),
        ],
    )
    async def test_attach_raises_the_error_for_liveavatars_refusal(
        self,
        sessions: AvatarSessions,
        key: str,
        request_fields: dict[str, object],
        error: type[SessionFailed],
    ) -> None:
        with pytest.raises(SessionFailed) as early:
            await sessions.open(key, wanted(**request_fields))
        report = await sessions.get(key).report()
        with pytest.raises(SessionFailed) as late:
            await sessions.get(key).attach()

        assert type(early.value) is type(late.value) is error
        assert early.value.failure == late.value.failure == report.failure
        assert (report.state, report.end_reason) == (SessionState.FAILED, EndReason.START_FAILED)
        assert late.value.report == report

    @pytest.mark.parametrize(
        ("failure_type", "error"),
        [
            ("BadRequest", AvatarNotAccepted),
            ("NotFound", AvatarNotAccepted),
            ("SandboxAvatar", AvatarNotAccepted),
            ("DurationOverPlan", DurationOverPlan),
            ("InvalidRequest", InvalidRequest),
            ("Unauthorized", Unauthorized),
            ("NoCredits", NoCredits),
            ("ConcurrencyLimit", ConcurrencyLimit),
            ("ServiceUnreachable", ServiceUnreachable),
            ("StartTimeout", StartTimedOut),
            ("Terminated", SessionTerminated),
            ("SomethingNew", SessionFailed),
        ],
    )
    def test_each_failure_has_its_error(
        self, failure_type: str, error: type[SessionFailed]
    ) -> None:
        failure = Failure(type=failure_type, message="refused by LiveAvatar")

        raised = session_failed("k", failure, EndReason.START_FAILED)

        assert type(raised) is error
        assert "refused by LiveAvatar" in str(raised)

    async def test_a_session_that_is_not_live_in_time_raises_start_timed_out(
        self, sessions: AvatarSessions, simulator: LiveAvatarSimulator, key: str
    ) -> None:
        simulator.faults.slow_start_s = 2.0

        with pytest.raises(StartTimedOut):
            await sessions.open(key, wanted(start_timeout_s=0.5))

    async def test_a_call_to_an_ended_session_raises_an_error_with_its_report(
        self, sessions: AvatarSessions, key: str, request_: SessionRequest
    ) -> None:
        session = await sessions.start(key, request_)
        report = await session.end()

        for ask in (
            session.attach,
            partial(session.speak, SHORT),
            partial(session.send, KeepAlive()),
            session.interrupt,
        ):
            with pytest.raises(SessionOver) as over:
                await ask()
            assert over.value.report == report
        assert (await session.status()).state is SessionState.ENDED

    async def test_a_session_that_was_not_started_is_not_found(
        self, sessions: AvatarSessions, key: str
    ) -> None:
        session = sessions.get(key)

        for ask in (
            session.attach,
            partial(session.speak, SHORT),
            partial(session.send, KeepAlive()),
            session.interrupt,
            session.status,
            session.cancel,
            session.report,
            session.end,
        ):
            with pytest.raises(SessionNotFound, match=key):
                await ask()

    async def test_a_terminated_session_raises_an_error_with_what_temporal_knows(
        self, sessions: AvatarSessions, client: Client, key: str, request_: SessionRequest
    ) -> None:
        session, _ = await sessions.open(key, request_)
        await client.get_workflow_handle(session.workflow_id).terminate(
            reason="an operator's mistake"
        )

        for ask in (session.status, session.report, session.end, session.interrupt):
            with pytest.raises(SessionTerminated, match="an operator's mistake") as killed:
                await ask()
            assert killed.value.report is not None
            assert not killed.value.report.cleanup.provider_stopped

    async def test_a_client_without_seal_keys_does_everything_but_attach(
        self, client: Client, key: str, request_: SessionRequest
    ) -> None:
        keyless = AvatarSessions(client)

        with pytest.raises(SealKeysUnusable, match="AVATAR_SESSIONS_SEAL_KEYS"):
            await keyless.open(key, request_)
        with pytest.raises(SessionNotFound):  # nothing was started that could not be used
            await keyless.get(key).status()
        session = await keyless.start(key, request_)
        assert (await session.speak(SHORT)).outcome is UtteranceOutcome.COMPLETED
        await session.end()

    async def test_a_seal_key_that_the_workers_lack_raises_seal_mismatch(
        self, client: Client, sessions: AvatarSessions, key: str, request_: SessionRequest
    ) -> None:
        await sessions.start(key, request_)

        with pytest.raises(SealMismatch):
            await AvatarSessions(client, Seal([Seal.new_key()])).get(key).attach()

    async def test_temporals_default_data_converter_works(
        self, client: Client, seal: Seal, key: str, request_: SessionRequest
    ) -> None:
        config = client.service_client.config
        plain = await Client.connect(config.target_host, namespace=client.namespace)

        session, access = await AvatarSessions(plain, seal).open(key, request_)
        utterance = await session.speak(SHORT)
        report = await session.end()

        assert access.viewer.token
        assert utterance.outcome is UtteranceOutcome.COMPLETED
        assert report.state is SessionState.ENDED
