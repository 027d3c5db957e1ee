"""The media WebSocket against a real server on loopback, driven by the server role."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import pytest
from pydantic import SecretStr
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from liveavatar_lite import (
    AgentInterrupt,
    AgentSpeak,
    AgentSpeakEnd,
    AgentStartListening,
    AgentStopListening,
    AudioBufferAppended,
    AudioBufferCommitted,
    BadAudio,
    ConnectionClosed,
    ConnectionDead,
    ConnectionLost,
    ConnectionRefused,
    Event,
    EventsUnread,
    LiteConnection,
    NeverConnected,
    SessionKeepAlive,
    SessionPhase,
    SessionStateUpdated,
    UtteranceEnded,
    UtteranceStarted,
    WarningReported,
)
from tests.support.speech.lite_server import (
    CHUNK,
    SECRET,
    Media,
    deaf_server,
    media_server,
    obedient,
    self_signed,
)


async def until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.005)


async def read(connection: LiteConnection, last: type[Event]) -> list[Event]:
    """Events up to the first of that type."""
    events = list[Event]()
    async with asyncio.timeout(5):
        async for event in connection.events():
            events.append(event)
            if isinstance(event, last):
                return events
    raise AssertionError(f"the connection ended without {last.__name__}: {events}")


# --- opening --------------------------------------------------------------------------------


async def test_open_returns_when_the_session_is_connected() -> None:
    may_connect = asyncio.Event()

    async def slow(media: Media) -> None:
        await media.emit(media.protocol.enter(SessionPhase.NEW))
        await may_connect.wait()
        await obedient(media)

    async with media_server(slow) as ws_url:
        opening = asyncio.create_task(LiteConnection.open(ws_url))
        done, _ = await asyncio.wait({opening}, timeout=0.2)
        assert not done

        may_connect.set()
        async with await asyncio.wait_for(opening, 5) as connection:
            assert connection.phase is SessionPhase.CONNECTED


async def test_a_session_that_is_already_connected_is_not_missed() -> None:
    """A reader that attaches late misses `connected` and waits forever, as one client did; it then
    stopped waiting for `connected`, and lost the first words of each session."""
    async with media_server(obedient) as ws_url:
        for _ in range(10):
            async with await LiteConnection.open(ws_url, connected_timeout_s=2):
                pass


async def test_open_times_out_and_closes_the_socket_of_a_session_that_never_connects() -> None:
    closed = asyncio.Event()

    async def never(media: Media) -> None:
        await media.emit(media.protocol.enter(SessionPhase.NEW))
        await media.socket.wait_closed()
        closed.set()

    async with media_server(never) as ws_url:
        with pytest.raises(NeverConnected, match=r"is NEW after 0\.2 s") as failure:
            await LiteConnection.open(ws_url, connected_timeout_s=0.2)
        await asyncio.wait_for(closed.wait(), 5)

    assert failure.value.retryable


async def test_a_socket_that_closes_before_connected_raises_never_connected() -> None:
    async def leave(media: Media) -> None:
        await media.socket.close(1011, "no avatar")

    async with media_server(leave) as ws_url:
        with pytest.raises(NeverConnected, match="close code 1011"):
            await LiteConnection.open(ws_url)


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        (HTTPStatus.FORBIDDEN, False),
        (HTTPStatus.NOT_FOUND, False),
        (HTTPStatus.TOO_MANY_REQUESTS, True),
        (HTTPStatus.SERVICE_UNAVAILABLE, True),
    ],
)
async def test_a_refused_handshake_has_its_status(status: HTTPStatus, retryable: bool) -> None:
    def refuse(socket: ServerConnection, request: Request) -> Response:
        return socket.respond(status, "no\n")

    async with media_server(obedient, refuse) as ws_url:
        with pytest.raises(ConnectionRefused) as failure:
            await LiteConnection.open(ws_url)

    assert failure.value.status == status
    assert failure.value.retryable is retryable


async def test_open_times_out_at_a_server_that_never_answers_the_handshake() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(NeverConnected, match=r"within 0\.2 s"):
            await LiteConnection.open(SecretStr(f"ws://127.0.0.1:{port}/x"), open_timeout_s=0.2)


@pytest.mark.parametrize(
    ("url", "retryable"),
    [
        ("https://media.example/{secret}", False),
        ("{secret}", False),
        ("ws://127.0.0.1:{port}/{secret}", True),
    ],
)
async def test_no_failure_to_open_shows_the_url(
    url: str, retryable: bool, unused_tcp_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    ws_url = SecretStr(url.format(secret=SECRET, port=unused_tcp_port))

    with pytest.raises(NeverConnected) as failure:
        await LiteConnection.open(ws_url)

    shown = "".join(traceback.format_exception(failure.value)) + repr(failure.value.__context__)
    assert SECRET not in shown + caplog.text
    assert failure.value.retryable is retryable


async def test_even_at_debug_level_no_log_shows_the_url_or_the_audio(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", logger="liveavatar_lite")
    logging.getLogger("liveavatar_lite.connection.wire").setLevel("DEBUG")

    async with (
        media_server(obedient) as ws_url,
        await LiteConnection.open(ws_url) as connection,
    ):
        await connection.speak(CHUNK, "u-1")
        assert SECRET not in repr(connection)

    mine = [record for record in caplog.records if record.name.startswith("liveavatar_lite")]
    assert not [record for record in mine if SECRET in record.getMessage()]
    assert not [record for record in mine if "agent.speak" in record.getMessage()]


async def test_a_certificate_is_checked_against_the_given_context(tmp_path: Path) -> None:
    server_tls, client_tls = self_signed(tmp_path)

    async with media_server(obedient, security=server_tls) as ws_url:
        with pytest.raises(NeverConnected, match="certificate"):
            await LiteConnection.open(ws_url)

        async with await LiteConnection.open(ws_url, ssl=client_tls) as connection:
            await connection.speak(CHUNK, "u-1")


# --- commands and events ------------------------------------------------------------------------


async def test_an_utterance_is_sent_and_its_playback_reported() -> None:
    sides = list[Media]()

    async def keep(media: Media) -> None:
        sides.append(media)
        await obedient(media)

    async with media_server(keep) as ws_url, await LiteConnection.open(ws_url) as connection:
        await connection.speak(CHUNK, "u-1")
        await connection.speak(CHUNK, "u-1")
        await connection.speak_end("u-1")
        events = await read(connection, UtteranceEnded)

    assert sides[0].commands == [
        AgentSpeak(CHUNK, "u-1"),
        AgentSpeak(CHUNK, "u-1"),
        AgentSpeakEnd("u-1"),
    ]
    assert UtteranceStarted("u-1") in events
    assert events[-1] == UtteranceEnded("u-1", interrupted=False)
    acks = (AudioBufferAppended, AudioBufferCommitted)
    assert not [event for event in events if isinstance(event, acks)]


async def test_every_command_reaches_the_service() -> None:
    sides = list[Media]()

    async def keep(media: Media) -> None:
        sides.append(media)
        await obedient(media)

    async with media_server(keep) as ws_url, await LiteConnection.open(ws_url) as connection:
        await connection.start_listening()
        await connection.stop_listening()
        await connection.keep_alive()
        cut = await connection.interrupt()
        await until(lambda: len(sides[0].commands) == 4)

    kinds = [type(command) for command in sides[0].commands]
    assert kinds == [AgentStartListening, AgentStopListening, SessionKeepAlive, AgentInterrupt]
    assert sides[0].commands[-1] == AgentInterrupt(cut)


async def test_an_interrupt_reports_the_end_of_its_utterance() -> None:
    async with media_server(obedient) as ws_url, await LiteConnection.open(ws_url) as connection:
        await connection.speak(CHUNK, "u-1")
        await connection.interrupt("cut-1")

        events = await read(connection, UtteranceEnded)

    assert events[-1] == UtteranceEnded("u-1", interrupted=True)


async def test_commands_of_many_tasks_are_sent_whole_and_in_order() -> None:
    sides = list[Media]()

    async def keep(media: Media) -> None:
        sides.append(media)
        await obedient(media)

    async with media_server(keep) as ws_url, await LiteConnection.open(ws_url) as connection:
        chunks = [number.to_bytes(2, "little") * 40_000 for number in range(20)]
        async with asyncio.TaskGroup() as group:
            for chunk in chunks:
                group.create_task(connection.speak(chunk, "u-1"))
        await until(lambda: len(sides[0].commands) == len(chunks))

    assert [each.audio for each in sides[0].commands if isinstance(each, AgentSpeak)] == chunks


async def test_bad_audio_is_refused_and_the_connection_stays_usable() -> None:
    async with media_server(obedient) as ws_url, await LiteConnection.open(ws_url) as connection:
        with pytest.raises(BadAudio):
            await connection.speak(b"\0", "u-1")

        await connection.speak(CHUNK, "u-1")


async def test_last_heard_s_is_set_by_every_frame() -> None:
    async with media_server(obedient) as ws_url, await LiteConnection.open(ws_url) as connection:
        before_s = connection.last_heard_s
        assert before_s <= time.monotonic()

        await connection.speak(CHUNK, "u-1")

        await until(lambda: connection.last_heard_s > before_s)


# --- closing --------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1011, "overload")])
async def test_events_end_when_the_service_closes_and_the_close_code_is_kept(
    code: int, reason: str
) -> None:
    async def leave(media: Media) -> None:
        await media.connect()
        await media.emit(media.protocol.enter(SessionPhase.CLOSED))
        await media.socket.close(code, reason)

    async with media_server(leave) as ws_url, await LiteConnection.open(ws_url) as connection:
        async with asyncio.timeout(5):
            events = [event async for event in connection.events()]

        assert events[-1] == SessionStateUpdated("disconnected")
        assert (connection.close_code, connection.close_reason) == (code, reason)
        with pytest.raises(ConnectionLost) as failure:
            await connection.keep_alive()
        assert (failure.value.code, failure.value.reason) == (code, reason)


async def test_a_socket_that_outlives_its_session_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("liveavatar_lite.connection.CLOSED_GRACE_S", 0.1)

    async def linger(media: Media) -> None:
        await media.connect()
        await media.emit(media.protocol.enter(SessionPhase.CLOSED))
        await media.socket.wait_closed()

    async with media_server(linger) as ws_url, await LiteConnection.open(ws_url) as connection:
        events = await asyncio.wait_for(read_all(connection), 5)

        assert events[-1] == SessionStateUpdated("disconnected")
        assert connection.close_code == 1000


async def test_a_session_that_ends_right_after_connected_is_reported_as_ended() -> None:
    """`connected` and the close came in one read: `open` raised NeverConnected, and a session that
    the service had ended orderly (1000) was retried."""

    async def brief(media: Media) -> None:
        await media.connect()
        await media.socket.close(1000)

    async with media_server(brief) as ws_url, await LiteConnection.open(ws_url) as connection:
        assert await asyncio.wait_for(read_all(connection), 5)

        assert connection.close_code == 1000


async def test_a_connection_cut_without_a_close_has_code_1006() -> None:
    async def vanish(media: Media) -> None:
        await media.connect()
        media.socket.transport.abort()

    async with media_server(vanish) as ws_url, await LiteConnection.open(ws_url) as connection:
        async with asyncio.timeout(5):
            async for _ in connection.events():
                pass

        assert connection.close_code == 1006
        with pytest.raises(ConnectionLost, match="1006"):
            await connection.speak(CHUNK, "u-1")


async def test_close_ends_the_events_without_an_error_and_may_be_repeated() -> None:
    async with media_server(obedient) as ws_url:
        connection = await LiteConnection.open(ws_url)
        reading = asyncio.create_task(read_all(connection), name="reading")

        await connection.close()
        await connection.close()

        await asyncio.wait_for(reading, 5)
        assert connection.close_code == 1000
        with pytest.raises(ConnectionClosed):
            await connection.speak(CHUNK, "u-1")


async def read_all(connection: LiteConnection) -> list[Event]:
    return [event async for event in connection.events()]


async def test_close_is_bounded_when_the_other_side_never_answers() -> None:
    async with deaf_server() as ws_url:
        before = asyncio.all_tasks()
        connection = await LiteConnection.open(ws_url)
        began_s = time.monotonic()

        await connection.close(timeout_s=0.2)

        assert time.monotonic() - began_s < 2
        leftover = {task.get_name() for task in asyncio.all_tasks() - before}
        assert not leftover & {"lite-reader", "lite-watchdog"}


async def test_a_socket_without_acks_is_detected_as_dead() -> None:
    """TCP stays up, and pings may be answered late or never: only missing acks show it."""

    async def swallow(media: Media) -> None:
        await media.connect()
        await media.serve(answer=False)

    async with (
        media_server(swallow) as ws_url,
        await LiteConnection.open(ws_url, dead_after_s=0.3) as connection,
    ):
        await connection.speak(CHUNK, "u-1")

        with pytest.raises(ConnectionDead) as failure:
            await asyncio.wait_for(read_all(connection), 5)

        assert failure.value.silent_s >= 0.3
        assert connection.close_code == 1006
        with pytest.raises(ConnectionDead):
            await connection.speak(CHUNK, "u-1")


async def test_a_sender_that_waits_for_a_stalled_network_fails_by_the_watchdog() -> None:
    async def speak_forever(connection: LiteConnection) -> None:
        while True:
            await connection.speak(bytes(600_000), "u-1")

    async with (
        deaf_server() as ws_url,
        await LiteConnection.open(ws_url, dead_after_s=0.4) as connection,
    ):
        with pytest.raises(ConnectionDead):
            await asyncio.wait_for(speak_forever(connection), 8)


async def test_silence_without_speech_is_not_dead() -> None:
    async with (
        media_server(obedient) as ws_url,
        await LiteConnection.open(ws_url, dead_after_s=0.1) as connection,
    ):
        await connection.speak(CHUNK, "u-1")
        await connection.speak_end("u-1")
        await read(connection, UtteranceEnded)

        done, _ = await asyncio.wait(
            {reading := asyncio.create_task(read_all(connection))}, timeout=0.5
        )
        assert not done
        await connection.close()
        await reading


async def test_unread_events_fail_the_connection_rather_than_grow() -> None:
    async def chatter(media: Media) -> None:
        await media.connect()
        while True:
            await media.emit(media.protocol.emit(WarningReported("chatter", "again")))
            await asyncio.sleep(0)

    async with (
        media_server(chatter) as ws_url,
        await LiteConnection.open(ws_url, max_unread_events=10) as connection,
    ):
        await until(lambda: connection.close_code is not None)

        with pytest.raises(EventsUnread, match="10 events wait"):
            await read_all(connection)
        with pytest.raises(EventsUnread):
            await connection.keep_alive()


async def test_acks_do_not_fill_the_queue_of_unread_events() -> None:
    async with (
        media_server(obedient) as ws_url,
        await LiteConnection.open(ws_url, max_unread_events=10) as connection,
    ):
        for _ in range(100):
            await connection.speak(CHUNK, "u-1")

        await until(lambda: connection._protocol.chunks_acked == 100)
        await connection.keep_alive()


async def test_a_cancelled_opening_leaves_no_task_behind() -> None:
    async def never(media: Media) -> None:
        await media.socket.wait_closed()

    before = asyncio.all_tasks()

    def names_of_new_tasks() -> set[str]:
        return {task.get_name() for task in asyncio.all_tasks() - before}

    async with media_server(never) as ws_url:
        opening = asyncio.create_task(LiteConnection.open(ws_url))
        await until(lambda: "lite-reader" in names_of_new_tasks())

        opening.cancel()
        await asyncio.wait({opening}, timeout=5)

        assert opening.cancelled()
        leftover = names_of_new_tasks()
        assert not leftover & {"lite-reader", "lite-watchdog"}
