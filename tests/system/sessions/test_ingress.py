"""Live speech straight to a session's owner: by LITE as anybody speaks it, and by our dialect."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from avatar_sessions import AvatarSessions, Clip, EndReason, LiveSpeechUnreachable, Session
from avatar_sessions.contract.live_dialect import SUBPROTOCOL, LiveBegin
from avatar_sessions.contract.messages import SealedAccess, SpeakerAccess
from avatar_sessions.contract.states import UtteranceOutcome
from avatar_sessions.seal import Seal
from deploy.local.stack import TemporalServer
from liveavatar_lite import (
    AudioBufferCleared,
    Event,
    LiteConnection,
    PoseChanged,
    UtteranceEnded,
    UtteranceStarted,
)
from liveavatar_simulator import SessionLine
from tests.support.secret_scan import remember
from tests.support.waiting import until
from tests.system.sessions.conftest import Platform, own_namespace, running_workers

SECOND = 48_000


def tone(seconds: float) -> bytes:
    t = np.arange(int(24_000 * seconds)) / 24_000
    return (0.3 * 32767 * np.sin(2 * np.pi * 220 * t)).astype("<i2").tobytes()


async def speaker_access(platform: Platform, session: Session) -> SpeakerAccess:
    """What `attach` gives a speaker, by plain JSON."""
    handle = platform.client.get_workflow_handle(session.workflow_id)
    answer = await handle.execute_update("attach", {"speaker": True})
    access = SealedAccess.model_validate(answer)
    assert access.speaker is not None
    return access.speaker


def ticket_of(platform: Platform, access: SpeakerAccess) -> str:
    ticket = Seal(platform.settings.seal_keys).open(access.sealed_ticket).get_secret_value()
    remember(ticket, "a ticket to the ingress")
    return ticket


@asynccontextmanager
async def connected(
    platform: Platform, session: Session, *, extended: bool = True, ticket: str | None = None
) -> AsyncIterator[ClientConnection]:
    access = await speaker_access(platform, session)
    async with connect(
        access.ingress_url,
        additional_headers={"Authorization": f"Bearer {ticket or ticket_of(platform, access)}"},
        subprotocols=[SUBPROTOCOL] if extended else None,  # type: ignore[list-item]
        compression=None,
    ) as connection:
        yield connection


async def told(connection: ClientConnection, kind: str, **fields: object) -> dict[str, Any]:
    """Read until a message of that type with those fields comes."""
    async with asyncio.timeout(20):
        while True:
            message: dict[str, Any] = json.loads(await connection.recv())
            if message["type"] == kind and fields.items() <= message.items():
                return message


async def close_code(connection: ClientConnection) -> int | None:
    """Read to the end: how it ended."""
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.recv()
    return connection.close_code


async def said(connection: ClientConnection, utterance_id: str) -> dict[str, Any]:
    """The ledger's line of an utterance."""
    while True:
        line: dict[str, Any] = (await told(connection, "live.over"))["utterance"]
        if line["id"] == utterance_id:
            return line


def provider_line(platform: Platform, provider_session_id: str | None) -> SessionLine:
    lines = platform.simulator.ledger().sessions
    return next(one for one in lines if str(one.session_id) == provider_session_id)


async def test_a_client_written_for_liveavatar_speaks_to_the_ingress_unchanged(
    platform: Platform,
) -> None:
    """The same class that talks to LiveAvatar, with nothing but a URL."""
    session = await platform.start()
    access = await speaker_access(platform, session)
    url = SecretStr(f"{access.ingress_url}/{ticket_of(platform, access)}")
    events: list[Event] = []
    async with await LiteConnection.open(url) as lite:

        async def listen() -> None:
            async for event in lite.events():
                events.append(event)  # noqa: PERF401 - one by one, for who looks meanwhile

        listening = asyncio.create_task(listen())
        for at in range(0, 2 * SECOND, SECOND // 2):
            await lite.speak(tone(2)[at : at + SECOND // 2], "mine")
        await lite.speak_end("mine")
        await until(lambda: any(isinstance(one, UtteranceEnded) for one in events), 15)
        await lite.speak(tone(6), "second")
        await until(lambda: sum(isinstance(one, UtteranceStarted) for one in events) == 2, 15)
        await lite.interrupt("cut")
        await until(lambda: any(isinstance(one, AudioBufferCleared) for one in events), 15)
        listening.cancel()
    starts = [one.utterance_id for one in events if isinstance(one, UtteranceStarted)]
    ends = [one for one in events if isinstance(one, UtteranceEnded)]
    assert starts == ["mine", "second"]
    assert [(one.utterance_id, one.interrupted) for one in ends] == [
        ("mine", False),
        ("second", True),
    ]
    assert [one.state for one in events if isinstance(one, PoseChanged)][:2] == ["talking", "idle"]
    report = await session.end()
    assert [(one.id, one.outcome, one.source) for one in report.utterances] == [
        ("mine", UtteranceOutcome.COMPLETED, "live"),
        ("second", UtteranceOutcome.INTERRUPTED, "live"),
    ]
    assert report.utterances[0].heard_ms == 2000
    assert report.utterances[0].owner is not None
    assert report.utterances[0].generation == 1


async def test_binary_frames_are_spoken_and_accounted_for(platform: Platform) -> None:
    session = await platform.start()
    async with connected(platform, session) as connection:
        ready = await told(connection, "live.ready")
        assert (ready["session_key"], ready["epoch"], ready["generation"]) == (
            session.key,
            [1, 1],
            1,
        )
        await connection.send(LiveBegin(utterance_id="u1", text="one and a half").model_dump_json())
        pcm = tone(1.5)
        for at in range(0, len(pcm), 4801):  # odd pieces: samples cut in half are joined
            await connection.send(pcm[at : at + 4801])
        await connection.send(json.dumps({"type": "agent.speak_end", "event_id": "u1"}))
        line = await said(connection, "u1")
    assert (line["outcome"], line["received_ms"], line["sent_ms"], line["heard_ms"]) == (
        "completed",
        1500,
        1500,
        1500,
    )
    assert line["played_ms"] == pytest.approx(1500, abs=400)
    assert line["gaps"] == []
    status = await session.status()
    assert status.provider_session_id is not None
    played = provider_line(platform, status.provider_session_id).utterances
    assert [(one.event_id, one.sent_ms, one.outcome) for one in played] == [("u1", 1500, "played")]
    await until_counted(session, 1)
    status = await session.status()
    assert status.latest_utterances[-1].text == "one and a half"
    assert status.totals.heard_ms == 1500
    assert (await session.end()).end_reason is EndReason.REQUESTED


async def until_counted(session: Session, utterances: int) -> None:
    async with asyncio.timeout(20):
        while (await session.status()).utterances < utterances:
            await asyncio.sleep(0.1)


async def test_a_cut_connection_goes_on_at_the_right_sample(platform: Platform) -> None:
    """The connection breaks in mid-utterance; nothing is said twice, and nothing is missing."""
    session = await platform.start()
    pcm = tone(4)
    async with connected(platform, session) as connection:
        await connection.send(LiveBegin(utterance_id="u1").model_dump_json())
        await connection.send(pcm[: SECOND + 1000])
        await told(connection, "live.progress", received_bytes=SECOND + 1000)
        connection.transport.abort()
    async with connected(platform, session) as connection:
        await connection.send(LiveBegin(utterance_id="u1", offset_bytes=0).model_dump_json())
        progress = await told(connection, "live.progress", utterance_id="u1")
        assert progress["received_bytes"] == SECOND + 1000
        await connection.send(pcm[progress["received_bytes"] :])
        await connection.send(json.dumps({"type": "agent.speak_end", "event_id": "u1"}))
        line = await said(connection, "u1")
    assert (line["outcome"], line["heard_ms"], line["gaps"]) == ("completed", 4000, [])
    status = await session.status()
    (played,) = provider_line(platform, status.provider_session_id).utterances
    assert (played.sent_ms, played.outcome) == (4000, "played")
    await session.end()


async def test_a_producer_that_stalls_gives_the_avatar_its_pose_and_goes_on(
    platform: Platform,
) -> None:
    session = await platform.start()
    async with connected(platform, session) as connection:
        await connection.send(LiveBegin(utterance_id="u1").model_dump_json())
        await connection.send(tone(0.5))
        await told(connection, "agent.state_updated", new_state="talking")
        await told(connection, "agent.state_updated", new_state="idle")
        await connection.send(tone(0.5))
        await told(connection, "agent.state_updated", new_state="talking")
        await connection.send(json.dumps({"type": "agent.speak_end", "event_id": "u1"}))
        line = await said(connection, "u1")
    assert (line["outcome"], line["heard_ms"]) == ("completed", 1000)
    (gap,) = line["gaps"]
    assert gap["at_ms"] == 500
    assert gap["duration_ms"] >= 300
    errors = [
        one.outcome
        for one in provider_line(platform, (await session.status()).provider_session_id).utterances
    ]
    assert errors == ["played", "played"], "no starvation"
    await session.end()


async def test_interrupts_of_every_kind_have_the_right_outcome(platform: Platform) -> None:
    """Before the first sample, in the middle, twice, and with nothing to cut."""
    session = await platform.start()
    async with connected(platform, session) as connection:

        async def interrupt(name: str) -> dict[str, Any]:
            await connection.send(json.dumps({"type": "agent.interrupt", "event_id": name}))
            return await told(connection, "live.interrupted", event_id=name)

        assert "utterance_id" not in await interrupt("nothing")
        await connection.send(LiveBegin(utterance_id="silent").model_dump_json())
        await interrupt("early")
        assert (await connection_line(connection, "silent"))["sent_ms"] == 0
        await connection.send(LiveBegin(utterance_id="long").model_dump_json())
        await connection.send(tone(2))
        await told(connection, "agent.speak_started", source_event_id="long")
        await asyncio.sleep(0.5)
        cut = await interrupt("middle")
        assert cut["utterance_id"] == "long"
        assert 300 <= cut["heard_ms"] <= 1900
        assert "utterance_id" not in await interrupt("again")
        line = await connection_line(connection, "long")
        assert line["outcome"] == "interrupted"
        assert cut["heard_ms"] <= line["heard_ms"] <= 2000
        await connection.send(tone(0.2))  # what was on its way is not a new utterance
        await connection.send(LiveBegin(utterance_id="after").model_dump_json())
        await connection.send(tone(0.6))
        await connection.send(json.dumps({"type": "agent.speak_end", "event_id": "after"}))
        assert (await said(connection, "after"))["outcome"] == "completed"
    report = await session.end()
    assert [(one.id, one.outcome) for one in report.utterances] == [
        ("silent", UtteranceOutcome.INTERRUPTED),
        ("long", UtteranceOutcome.INTERRUPTED),
        ("after", UtteranceOutcome.COMPLETED),
    ]


async def connection_line(connection: ClientConnection, utterance_id: str) -> dict[str, Any]:
    """The line of an utterance that is over; asked for again, for it may have been told before."""
    await connection.send(LiveBegin(utterance_id=utterance_id).model_dump_json())
    return await said(connection, utterance_id)


async def refused(platform: Platform, session: Session, **headers: str) -> int:
    access = await speaker_access(platform, session)
    with pytest.raises(InvalidStatus) as refusal:
        async with connect(access.ingress_url, additional_headers=headers, compression=None):
            pass
    return refusal.value.response.status_code


async def test_nobody_gets_in_without_the_right_ticket(platform: Platform) -> None:
    session, other = await platform.start(), await platform.start()
    good = ticket_of(platform, await speaker_access(platform, session))
    assert await refused(platform, session) == 401
    assert await refused(platform, session, Authorization="Bearer nonsense") == 401
    changed = good[:-2] + ("AA" if good[-2:] != "AA" else "BB")
    assert await refused(platform, session, Authorization=f"Bearer {changed}") == 401
    origin = {"Authorization": f"Bearer {good}", "Origin": "https://example.org"}
    assert await refused(platform, session, **origin) == 403
    await session.end()
    assert await refused(platform, other, Authorization=f"Bearer {good}") == 410
    await other.end()


async def test_garbage_is_answered_and_disturbs_nobody(platform: Platform) -> None:
    session, other = await platform.start(), await platform.start()
    async with connected(platform, session) as bad, connected(platform, other) as good:
        await good.send(LiveBegin(utterance_id="u1").model_dump_json())
        await good.send(tone(1))
        for frame in (
            "no json",
            "[]",
            '{"type": "agent.dance"}',
            '{"type": "agent.speak", "audio": "%%%"}',
            '{"type": "live.begin"}',
            '{"type": "live.begin", "utterance_id": "x", "offset_bytes": 3}',
        ):
            await bad.send(frame)
            error = await told(bad, "error")
            assert error["error"]["type"] == "invalid_request_error"
        await bad.send(b"\0" * 1_200_000 + b"\0")  # no utterance is open: nobody's
        await bad.send('{"type": "agent.speak", "audio": "' + "A" * 1_100_000 + '"}')
        assert await close_code(bad) == 1009
        await good.send(json.dumps({"type": "agent.speak_end", "event_id": "u1"}))
        assert (await said(good, "u1"))["outcome"] == "completed"
    await asyncio.gather(session.end(), other.end())


async def test_a_flood_is_held_back_and_an_interrupt_still_gets_through(
    platform: Platform,
) -> None:
    """A plain client sends twenty minutes at once: thirty seconds are kept, TCP holds the rest."""
    session, other = await platform.start(), await platform.start()
    async with (
        connected(platform, session, extended=False) as flood,
        connected(platform, session) as second,
        connected(platform, other) as calm,
    ):

        async def pour() -> None:
            for _ in range(1200):
                await flood.send(bytes(SECOND))

        pouring = asyncio.create_task(pour())
        await told(second, "agent.speak_started")
        await calm.send(LiveBegin(utterance_id="u1").model_dump_json())
        await calm.send(tone(1))
        await calm.send(json.dumps({"type": "agent.speak_end", "event_id": "u1"}))
        assert (await said(calm, "u1"))["outcome"] == "completed"
        assert not pouring.done(), "nothing held it back"
        await second.send(json.dumps({"type": "agent.interrupt", "event_id": "stop"}))
        await told(second, "live.interrupted", event_id="stop")
        pouring.cancel()
        await asyncio.wait({pouring})
        flood.transport.abort()
    await asyncio.gather(session.end(), other.end())


async def test_a_client_that_never_reads_is_cut_off_and_nobody_else(platform: Platform) -> None:
    session = await platform.start()
    access = await speaker_access(platform, session)
    headers = f"Authorization: Bearer {ticket_of(platform, access)}"
    host, port = access.ingress_url.removeprefix("ws://").split("/")[0].split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    writer.transport.set_write_buffer_limits(high=0)
    writer.write(
        f"GET /live HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"{headers}\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    junk = json.dumps({"type": "agent.speak_end", "event_id": "x" * 100}).encode()
    frame = b"\x81\xfe" + len(junk).to_bytes(2) + b"\0\0\0\0" + junk

    async def talk() -> None:
        async with asyncio.timeout(40):
            while True:
                writer.write(frame * 100)
                await writer.drain()
                await asyncio.sleep(0)

    with pytest.raises(ConnectionError):
        await talk()
    writer.transport.abort()
    async with connected(platform, session) as connection:
        await connection.send(LiveBegin(utterance_id="u1").model_dump_json())
        await connection.send(tone(0.5))
        await connection.send(json.dumps({"type": "agent.speak_end", "event_id": "u1"}))
        assert (await said(connection, "u1"))["outcome"] == "completed"
    await session.end()


async def test_an_in_band_interrupt_also_drops_the_clips_that_wait(platform: Platform) -> None:
    """The person talks: what was asked for before is not wanted any more, wherever it waits."""
    session = await platform.start()
    long, short = Clip(file="long.wav"), Clip(file="short.wav")
    async with connected(platform, session) as connection:
        await session.speak(long, wait=False, command_id="first")
        await session.speak(short, wait=False, command_id="second")
        await told(connection, "agent.speak_started", source_event_id="first")
        await connection.send(json.dumps({"type": "agent.interrupt", "event_id": "stop"}))
        await told(connection, "live.interrupted", event_id="stop", utterance_id="first")
        after = await session.speak(short, command_id="third")
    report = await session.end()
    assert after.outcome is UtteranceOutcome.COMPLETED
    assert {one.id: one.outcome for one in report.utterances} == {
        "first": UtteranceOutcome.INTERRUPTED,
        "second": UtteranceOutcome.INTERRUPTED,
        "third": UtteranceOutcome.COMPLETED,
    }


async def test_words_can_be_sealed_before_they_stand_in_history(
    platform: Platform, temporal: TemporalServer
) -> None:
    client = await own_namespace(temporal)
    settings = platform.settings.model_copy(update={"seal_texts": True})
    seal = Seal(settings.seal_keys)
    elsewhere = replace(platform, client=client, sessions=AvatarSessions(client, seal))
    async with running_workers(client, settings):
        session = await elsewhere.start()
        async with connected(elsewhere, session) as connection:
            text = "my secret number is 42"
            await connection.send(LiveBegin(utterance_id="u1", text=text).model_dump_json())
            await connection.send(tone(0.3))
            await connection.send(json.dumps({"type": "agent.speak_end", "event_id": "u1"}))
            await said(connection, "u1")
        (line,) = (await session.end()).utterances
    assert line.text is None
    assert line.sealed_text is not None
    assert seal.open(line.sealed_text).get_secret_value() == text


async def test_the_end_of_a_session_says_goodbye_to_its_speakers(platform: Platform) -> None:
    session = await platform.start()
    async with connected(platform, session) as connection:
        await connection.send(LiveBegin(utterance_id="u1").model_dump_json())
        await connection.send(tone(3))
        await told(connection, "agent.speak_started")
        report = await session.end()
        await told(connection, "session.state_updated", state="disconnected")
        assert await close_code(connection) == 1000
    (line,) = report.utterances
    assert (line.id, line.outcome) == ("u1", UtteranceOutcome.CANCELLED)
    assert 0 < line.heard_ms <= line.sent_ms <= 3000


async def test_live_speech_keeps_a_session_from_its_idle_timeout(platform: Platform) -> None:
    """It goes past the workflow, which would think that nobody is there."""
    session = await platform.start(idle_timeout_s=2)
    async with connected(platform, session) as connection:
        for number in range(4):
            await connection.send(LiveBegin(utterance_id=f"u{number}").model_dump_json())
            await connection.send(tone(1.2))
            await connection.send(json.dumps({"type": "agent.speak_end", "event_id": f"u{number}"}))
            await said(connection, f"u{number}")
        assert (await session.status()).end_reason is None
        report = await session.report(timeout_s=20)
    assert report.end_reason is EndReason.IDLE_TIMEOUT
    assert report.totals.by_outcome == {UtteranceOutcome.COMPLETED: 4}


async def test_a_live_utterance_costs_few_events_of_history(platform: Platform) -> None:
    session = await platform.start()
    handle = platform.client.get_workflow_handle(session.workflow_id)
    async with connected(platform, session) as connection:
        before = len((await handle.fetch_history()).events)
        for number in range(5):
            await connection.send(LiveBegin(utterance_id=f"u{number}").model_dump_json())
            await connection.send(tone(0.3))
            await connection.send(json.dumps({"type": "agent.speak_end", "event_id": f"u{number}"}))
        await said(connection, "u4")
        await until_counted(session, 5)
        after = len((await handle.fetch_history()).events)
    assert after - before <= 5 * 5
    await session.end()


async def test_live_speech_over_tls_with_certificate_files(
    platform: Platform, temporal: TemporalServer, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    await asyncio.to_thread(
        subprocess.run,
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    client = await own_namespace(temporal)
    files = {"ingress_certificate": certificate, "ingress_private_key": key}
    settings = platform.settings.model_copy(update=files)
    sessions = AvatarSessions(client, Seal(settings.seal_keys))
    trust = ssl.create_default_context(cafile=certificate)
    async with running_workers(client, settings):
        session = await replace(platform, client=client, sessions=sessions).start()
        access = await session.attach(speaker=True)
        assert access.speaker is not None
        assert access.speaker.ingress_url.startswith("wss://127.0.0.1:")
        async with session.live(ssl=trust) as live:
            async with live.utterance() as speech:
                await speech.write(tone(0.5))
            heard = await speech.result()
        with pytest.raises(LiveSpeechUnreachable, match="certificate"):
            await session.live(open_timeout_s=2).__aenter__()
        await session.end()
    assert (heard.outcome, heard.heard_ms) == (UtteranceOutcome.COMPLETED, 500)
