"""What the client promises, against a real Temporal server and the real session workflow."""

from __future__ import annotations

import asyncio
from functools import partial
from uuid import UUID

import pytest
from temporalio.client import Client

from avatar_sessions import (
    AccessFailed,
    AvatarNotAccepted,
    AvatarSessions,
    Clip,
    CommandExpired,
    CommandOutcome,
    ConcurrencyLimit,
    DurationOverPlan,
    EndReason,
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
)
from tests.client.conftest import WAYNE
from tests.client.owner import (
    AGENT_TOKEN,
    LIVEKIT_URL,
    LONG_CLIP,
    NEVER_LIVE,
    NO_ACCESS,
    VIEWER_TOKEN,
    Owner,
)

SHORT = Clip(file="short.wav")
LONG = Clip(file=LONG_CLIP)


async def until_speaking(sessions: AvatarSessions, key: str, within_s: float = 10.0) -> None:
    """Wait until the session speaks."""
    async with asyncio.timeout(within_s):
        while (await sessions.get(key).status()).speaking is None:
            await asyncio.sleep(0.02)


def wanted(**fields: object) -> SessionRequest:
    return SessionRequest.model_validate({"avatar_id": WAYNE, "sandbox": True, **fields})


class TestTheWholeLife:
    async def test_the_readmes_example_holds(self, sessions: AvatarSessions, key: str) -> None:
        session = await sessions.start(key, SessionRequest(avatar_id=UUID(WAYNE), sandbox=True))
        access = await session.attach()
        utterance = await session.speak(Clip(url="https://example.org/hello.wav"))
        interrupted = await session.interrupt()
        posed = await session.set_pose("listening")
        kept = await session.keep_alive()
        status = await session.status()
        keys = [one.key async for one in sessions.list()]
        report = await session.end()

        assert (access.viewer.livekit_url, access.viewer.token) == (LIVEKIT_URL, VIEWER_TOKEN)
        assert access.agent is not None
        assert access.agent.token == AGENT_TOKEN
        assert (utterance.outcome, utterance.heard_ms) == (UtteranceOutcome.SPOKEN, 800)
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

    async def test_open_starts_and_attaches_in_one_go_and_finds_what_runs(
        self, sessions: AvatarSessions, key: str, request_: SessionRequest
    ) -> None:
        session, access = await sessions.open(key, request_)
        again, access_again = await sessions.open(key, request_)

        assert access.viewer.token == access_again.viewer.token == VIEWER_TOKEN
        assert session.run_id == again.run_id is not None

    async def test_a_first_command_is_a_whole_greeting(
        self, sessions: AvatarSessions, owner: Owner, key: str, request_: SessionRequest
    ) -> None:
        session = await sessions.start(key, request_, first=Speak(clip=SHORT))
        report = await session.end(finish_speaking=True)

        assert owner.said.count(f"{key} short.wav") == 1
        assert [one.outcome for one in report.utterances] == [UtteranceOutcome.SPOKEN]

    async def test_a_key_can_be_used_again_and_the_old_session_stays_itself(
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

    async def test_watch_tells_every_change_until_the_end(
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

    async def test_sessions_are_found_by_tenant_and_by_state_also_ended_ones(
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

    async def test_a_room_of_our_own_gives_each_viewer_a_token(
        self, sessions: AvatarSessions, key: str
    ) -> None:
        session, access = await sessions.open(key, wanted(room=OwnRoom(name="lobby")), "ada")

        assert (access.room, access.viewer.token) == ("lobby", "token-of-ada")
        assert (await session.attach("bob")).viewer.token == "token-of-bob"


class TestCommands:
    async def test_speech_under_one_id_is_said_once(
        self, sessions: AvatarSessions, owner: Owner, key: str, request_: SessionRequest
    ) -> None:
        session = await sessions.start(key, request_)

        reports = await asyncio.gather(
            *(session.speak(SHORT, command_id="hello") for _ in range(3))
        )

        assert owner.said.count(f"{key} short.wav") == 1
        assert {one.id for one in reports} == {"hello"}

    async def test_more_speech_than_may_be_awaited_is_all_said_in_order(
        self, sessions: AvatarSessions, owner: Owner, key: str, request_: SessionRequest
    ) -> None:
        session = await sessions.start(key, request_)
        clips = [Clip(file=f"{number:02}.wav") for number in range(12)]

        reports = await asyncio.gather(*(session.speak(clip) for clip in clips))

        assert {one.outcome for one in reports} == {UtteranceOutcome.SPOKEN}
        said = [line for line in owner.said if line.startswith(f"{key} ")]
        assert sorted(said) == [f"{key} {clip.file}" for clip in clips]

    async def test_two_clients_share_the_room_for_awaited_speech(
        self, sessions: AvatarSessions, key: str, request_: SessionRequest
    ) -> None:
        await sessions.start(key, request_)
        one, other = sessions.get(key), sessions.get(key)
        long = [asyncio.create_task(one.speak(LONG), name=f"long {n}") for n in range(4)]
        await until_speaking(sessions, key)
        late = [asyncio.create_task(other.speak(SHORT), name=f"late {n}") for n in range(4)]
        await asyncio.sleep(0.3)  # time to be turned away; none of the eight can be over yet

        async with asyncio.timeout(30):
            while not all(task.done() for task in (*long, *late)):
                await other.interrupt()
                await asyncio.sleep(0.05)

        assert {task.result().outcome for task in (*long, *late)} <= {
            UtteranceOutcome.INTERRUPTED,
            UtteranceOutcome.SPOKEN,
        }

    async def test_speech_that_needs_no_answer_returns_its_id_at_once(
        self, sessions: AvatarSessions, key: str, request_: SessionRequest
    ) -> None:
        session = await sessions.start(key, request_)

        sent = [await session.speak(SHORT, wait=False) for _ in range(20)]
        report = await session.end(finish_speaking=True)

        assert [one.id for one in report.utterances] == sent

    async def test_an_interrupt_ends_the_wait_of_who_speaks(
        self, sessions: AvatarSessions, key: str, request_: SessionRequest
    ) -> None:
        session = await sessions.start(key, request_)
        speech = asyncio.create_task(session.speak(LONG), name="speech")
        await until_speaking(sessions, key)

        await session.interrupt()

        assert (await speech).outcome is UtteranceOutcome.INTERRUPTED

    async def test_a_command_for_an_avatar_that_never_comes_expires(
        self, sessions: AvatarSessions, key: str
    ) -> None:
        session = await sessions.start(key, wanted(tenant=NEVER_LIVE, command_ttl_s=0.2))

        with pytest.raises(CommandExpired):
            await session.set_pose("listening")
        assert (await session.speak(SHORT)).outcome is UtteranceOutcome.EXPIRED

    async def test_a_cancelled_wait_stays_a_cancel(
        self, sessions: AvatarSessions, key: str
    ) -> None:
        """The SDK turns a cancel during an update into an error of its own: Ctrl-C was lost."""
        session = await sessions.start(key, wanted(tenant=NEVER_LIVE))
        waiting = asyncio.create_task(session.attach(), name="attach")
        await asyncio.sleep(0.2)

        waiting.cancel()

        with pytest.raises(asyncio.CancelledError):
            await waiting


class TestHowItFails:
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
            ("SomethingNew", SessionFailed),
        ],
    )
    async def test_attach_raises_what_liveavatar_refused_typed(
        self, sessions: AvatarSessions, key: str, failure_type: str, error: type[SessionFailed]
    ) -> None:
        with pytest.raises(SessionFailed, match="no, said LiveAvatar") as early:
            await sessions.open(key, wanted(tenant=f"refuse:{failure_type}"))
        report = await sessions.get(key).report()
        with pytest.raises(SessionFailed) as late:
            await sessions.get(key).attach()

        assert type(early.value) is type(late.value) is error
        assert early.value.failure.type == failure_type
        assert (report.state, report.end_reason) == (SessionState.FAILED, EndReason.START_FAILED)
        assert late.value.report == report

    async def test_a_session_that_is_not_live_in_time_is_told_apart(
        self, sessions: AvatarSessions, key: str
    ) -> None:
        with pytest.raises(StartTimedOut):
            await sessions.open(key, wanted(tenant=NEVER_LIVE, start_timeout_s=0.5))

    async def test_access_that_cannot_be_granted_is_not_a_failed_session(
        self, sessions: AvatarSessions, key: str
    ) -> None:
        session = await sessions.start(key, wanted(room=OwnRoom(name=NO_ACCESS)))

        with pytest.raises(AccessFailed, match="LiveKit is away"):
            await session.attach()
        assert (await session.status()).state is SessionState.LIVE

    async def test_who_asks_something_of_an_ended_session_gets_its_report(
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

    async def test_a_session_that_nobody_started_is_not_found(
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

    async def test_a_terminated_session_says_so_and_holds_what_temporal_knows(
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

    async def test_a_client_without_keys_does_all_but_open_access(
        self, client: Client, owner: Owner, key: str, request_: SessionRequest
    ) -> None:
        keyless = AvatarSessions(client)

        with pytest.raises(SealKeysUnusable, match="AVATAR_SESSIONS_SEAL_KEYS"):
            await keyless.open(key, request_)
        with pytest.raises(SessionNotFound):  # nothing was started that could not be used
            await keyless.get(key).status()
        session = await keyless.start(key, request_)
        assert (await session.speak(SHORT)).outcome is UtteranceOutcome.SPOKEN
        await session.end()

    async def test_another_key_than_the_workers_is_a_clear_error(
        self, client: Client, sessions: AvatarSessions, key: str, request_: SessionRequest
    ) -> None:
        await sessions.start(key, request_)

        with pytest.raises(SealMismatch):
            await AvatarSessions(client, Seal([Seal.new_key()])).get(key).attach()

    async def test_temporals_own_default_data_converter_will_do(
        self, client: Client, seal: Seal, owner: Owner, key: str, request_: SessionRequest
    ) -> None:
        config = client.service_client.config
        plain = await Client.connect(config.target_host, namespace=client.namespace)

        session, access = await AvatarSessions(plain, seal).open(key, request_)
        utterance = await session.speak(SHORT)
        report = await session.end()

        assert access.viewer.token == VIEWER_TOKEN
        assert utterance.outcome is UtteranceOutcome.SPOKEN
        assert report.state is SessionState.ENDED
