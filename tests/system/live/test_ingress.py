"""Live speech to a session's owner, by plain LITE and by the live dialect."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from avatar_sessions import AvatarSessions, Clip, EndReason, LiveSpeechUnreachable, Session
from avatar_sessions.contract.live_dialect import LiveBegin
from avatar_sessions.contract.states import UtteranceOutcome
from avatar_sessions.seal import Seal
from deploy.local.temporal import TemporalServer
from liveavatar_lite import (
    AudioBufferCleared,
    Event,
    LiteConnection,
    PoseChanged,
    UtteranceEnded,
    UtteranceStarted,
)
from liveavatar_simulator import SessionLine
from tests.support.platforms.in_process import Platform, running_workers
from tests.support.speech.ingress_client import (
    close_code,
    connected,
    receive_message,
    speaker_access,
    ticket_of,
    until_counted,
    utterance_line,
)
from tests.support.speech.pcm import tone
from tests.support.waiting import until

SECOND = 48_000


def provider_line(platform: Platform, provider_session_id: str | None) -> SessionLine:
    lines = platform.simulator.ledger().sessions
    return next(one for one in lines if str(one.session_id) == provider_session_id)


async def test_a_client_written_for_liveavatar_speaks_to_the_ingress_unchanged(
    platform: Platform,
) -> None:
    """The class that connects to LiveAvatar, given the ingress URL."""
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
        ready = await receive_message(connection, "live.ready")
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
        line = await utterance_line(connection, "u1")
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


async def test_a_cut_connection_goes_on_at_the_right_sample(platform: Platform) -> None:
    """The connection breaks in mid-utterance; no sample is spoken twice, and none is missing."""
    session = await platform.start()
    pcm = tone(4)
    async with connected(platform, session) as connection:
        await connection.send(LiveBegin(utterance_id="u1").model_dump_json())
        await connection.send(pcm[: SECOND + 1000])
        await receive_message(connection, "live.progress", received_bytes=SECOND + 1000)
        connection.transport.abort()
    async with connected(platform, session) as connection:
        await connection.send(LiveBegin(utterance_id="u1", offset_bytes=0).model_dump_json())
        progress = await receive_message(connection, "live.progress", utterance_id="u1")
        assert progress["received_bytes"] == SECOND + 1000
        await connection.send(pcm[progress["received_bytes"] :])
        await connection.send(json.dumps({"type": "agent.speak_end", "event_id": "u1"}))
        line = await utterance_line(connection, "u1")
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
        await receive_message(connection, "agent.state_updated", new_state="talking")
        await receive_message(connection, "agent.state_updated", new_state="idle")
        await connection.send(tone(0.5))
        await receive_message(connection, "agent.state_updated", new_state="talking")
        await connection.send(json.dumps({"type": "agent.speak_end", "event_id": "u1"}))
        line = await utterance_line(connection, "u1")
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
            return await receive_message(connection, "live.interrupted", event_id=name)

        assert "utterance_id" not in await interrupt("nothing")
        await connection.send(LiveBegin(utterance_id="silent").model_dump_json())
        await interrupt("early")
        assert (await connection_line(connection, "silent"))["sent_ms"] == 0
        await connection.send(LiveBegin(utterance_id="long").model_dump_json())
        await connection.send(tone(2))
        await receive_message(connection, "agent.speak_started", source_event_id="long")
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
        assert (await utterance_line(connection, "after"))["outcome"] == "completed"
    report = await session.end()
    assert [(one.id, one.outcome) for one in report.utterances] == [
        ("silent", UtteranceOutcome.INTERRUPTED),
        ("long", UtteranceOutcome.INTERRUPTED),
        ("after", UtteranceOutcome.COMPLETED),
    ]


async def connection_line(connection: ClientConnection, utterance_id: str) -> dict[str, Any]:
    """The report of an ended utterance; asked for again, since it may have been sent before."""
    await connection.send(LiveBegin(utterance_id=utterance_id).model_dump_json())
    return await utterance_line(connection, utterance_id)


async def refused(platform: Platform, session: Session, **headers: str) -> int:
    access = await speaker_access(platform, session)
    with pytest.raises(InvalidStatus) as refusal:
        async with connect(access.ingress_url, additional_headers=headers, compression=None):
            pass
    return refusal.value.response.status_code


async def test_a_connection_without_a_valid_ticket_is_refused(platform: Platform) -> None:
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


async def test_garbage_is_answered_and_disturbs_no_other_connection(platform: Platform) -> None:
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
            error = await receive_message(bad, "error")
            assert error["error"]["type"] == "invalid_request_error"
        await bad.send(bytes(999_999))  # no utterance is open: dropped
        await bad.send('{"type": "agent.speak", "audio": "' + "A" * 1_100_000 + '"}')
        assert await close_code(bad) == 1009
        await good.send(json.dumps({"type": "agent.speak_end", "event_id": "u1"}))
        assert (await utterance_line(good, "u1"))["outcome"] == "completed"
    await asyncio.gather(session.end(), other.end())


async def test_a_flood_is_held_back_and_an_interrupt_still_gets_through(
    platform: Platform,
) -> None:
    """A plain client sends twenty minutes without a pause: the ingress keeps thirty seconds, and
    TCP the rest."""
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
        await receive_message(second, "agent.speak_started")
        await calm.send(LiveBegin(utterance_id="u1").model_dump_json())
        await calm.send(tone(1))
        await calm.send(json.dumps({"type": "agent.speak_end", "event_id": "u1"}))
        assert (await utterance_line(calm, "u1"))["outcome"] == "completed"
        assert not pouring.done(), "nothing held it back"
        await second.send(json.dumps({"type": "agent.interrupt", "event_id": "stop"}))
        await receive_message(second, "live.interrupted", event_id="stop")
        pouring.cancel()
        await asyncio.wait({pouring})
        flood.transport.abort()
    await asyncio.gather(session.end(), other.end())


async def test_only_a_client_that_never_reads_is_disconnected(platform: Platform) -> None:
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
        assert (await utterance_line(connection, "u1"))["outcome"] == "completed"
    await session.end()


async def test_an_in_band_interrupt_also_drops_the_clips_that_wait(platform: Platform) -> None:
    """A person speaks: what was requested before is dropped, wherever it waits."""
    session = await platform.start()
    long, short = Clip(file="long.wav"), Clip(file="short.wav")
    async with connected(platform, session) as connection:
        await session.speak(long, wait=False, command_id="first")
        await session.speak(short, wait=False, command_id="second")
        await receive_message(connection, "agent.speak_started", source_event_id="first")
        await connection.send(json.dumps({"type": "agent.interrupt", "event_id": "stop"}))
        await receive_message(connection, "live.interrupted", event_id="stop", utterance_id="first")
        after = await session.speak(short, command_id="third")
    report = await session.end()
    assert after.outcome is UtteranceOutcome.COMPLETED
    assert {one.id: one.outcome for one in report.utterances} == {
        "first": UtteranceOutcome.INTERRUPTED,
        "second": UtteranceOutcome.INTERRUPTED,
        "third": UtteranceOutcome.COMPLETED,
    }


async def test_text_can_be_sealed_before_it_is_in_history(
    platform: Platform, temporal: TemporalServer
) -> None:
    client = await temporal.new_namespace()
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
            await utterance_line(connection, "u1")
        (line,) = (await session.end()).utterances
    assert line.text is None
    assert line.sealed_text is not None
    assert seal.open(line.sealed_text).get_secret_value() == text


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
    client = await temporal.new_namespace()
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
